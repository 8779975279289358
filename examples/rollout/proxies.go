package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/proxy"
	"github.com/weaverkit/weaverkit/rollout"
)

// The names of what clients may send.
const (
	versionHeader = "Weaverkit-Version" // of a request for a version by name
	sessionCookie = "weaverkit-session" // of a plan with Sticky
)

// What takes a version too long is its failure, though the client gives up
// before the proxy does: a version that accepts requests and never answers must
// not look as if it had none. So a response must begin within responseTimeout,
// which is well under the time for which clients usually wait; and a request
// that its client gave up counts if it had waited for patience. Who gives up
// earlier has changed its mind, which says nothing about the version. Those whose
// upload breaks off count, too, but do so for both versions alike. An application
// with slower responses, or with long polling, needs longer times.
const (
	responseTimeout = 10 * time.Second
	patience        = 3 * time.Second
)

// proxies are the proxies of all listeners, and what they have counted. A proxy
// is opened for the first version that has the listener, and stays.
type proxies struct {
	address func(app *envelopekit.App, listener string) string // where to open it
	opened  func(listener, address string)
	failed  func(error) // one of them accepts no connections any more
	log     *slog.Logger

	opening  sync.Mutex     // one listener at a time
	draining sync.WaitGroup // versions, which close waits for
	watching sync.WaitGroup // whether proxies fail, the same

	mu      sync.Mutex // guards the following
	all     map[string]*proxy.Frontend
	traffic map[place]*rollout.Traffic
}

// A place is where requests are counted.
type place struct{ listener, version string }

// A pool is a version's share of a proxy, as envelopekit wants it.
type pool struct {
	*proxy.Pool
	addr string
}

func (p pool) Addr() string { return p.addr }

// Close leaves the pool to whoever splits the traffic, so that requests wait in
// it for the backends of a version that is started again.
func (p pool) Close(context.Context) error {
	p.SetBackends(nil)
	return nil
}

// open returns the proxy of a listener of the application, which it opens if need
// be.
func (p *proxies) open(app *envelopekit.App, listener string) (*proxy.Frontend, error) {
	p.opening.Lock()
	defer p.opening.Unlock()
	if f := p.frontends()[listener]; f != nil {
		return f, nil
	}
	address := p.address(app, listener)
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("address %s is in use: stop what uses it, or change listeners.%s in section [%s]", address, listener, deployerName)
	} else if err != nil {
		return nil, fmt.Errorf("%w: change listeners.%s in section [%s]", err, listener, deployerName)
	}
	f, err := p.serve(listener, l)
	if err != nil {
		l.Close()
		return nil, err
	}
	p.opened(listener, f.Addr())
	return f, nil
}

// serve starts the proxy of a listener.
func (p *proxies) serve(listener string, l net.Listener) (*proxy.Frontend, error) {
	f, err := proxy.Start(l, proxy.Options{
		HoldTimeout:     10 * time.Second, // as long as it may take to replace a replica
		ResponseTimeout: responseTimeout,
		DrainTimeout:    time.Hour, // drain and close know better
		Override:        proxy.ByHeader(versionHeader),
		Sticky:          proxy.ByIssuedCookie(sessionCookie),
		Outcome:         p.counter(listener),
		ErrorLog:        p.log.With("listener", listener),
	})
	if err != nil {
		return nil, err
	}
	f.Proxy().SetSticky(false) // until a plan says so
	p.watching.Go(func() {
		<-f.Done()
		if err := f.Err(); err != nil {
			p.failed(fmt.Errorf("listener %s accepts no connections any more: %w", listener, err))
		}
	})
	p.mu.Lock()
	p.all[listener] = f
	p.mu.Unlock()
	return f, nil
}

// free reports whether a listener could be opened at the address just now.
func free(address string) bool {
	l, err := net.Listen("tcp", address)
	if err == nil {
		l.Close()
	}
	return err == nil
}

// split divides the traffic of all listeners.
func (p *proxies) split(w rollout.Weights) error {
	all := p.frontends()
	shares := map[string][]proxy.Share{}
	for _, s := range w.Splits {
		if all[s.Listener] == nil {
			return fmt.Errorf("listener %q is not open", s.Listener)
		}
		for _, share := range s.Shares {
			shares[s.Listener] = append(shares[s.Listener], proxy.Share{Pool: share.Version, Weight: share.Weight})
		}
	}
	for listener, f := range all {
		if shares[listener] == nil { // no version has it any more
			shares[listener] = []proxy.Share{{Pool: proxy.DefaultPool, Weight: rollout.Whole}}
		}
		f.Proxy().SetSticky(w.Sticky)
		if err := f.Proxy().SetSplit(shares[listener]...); err != nil {
			return fmt.Errorf("listener %s: %w", listener, err)
		}
	}
	return nil
}

// drain removes the version, which has no share any more, and waits until its
// requests have ended. Those that take longer are ended. If ctx ends it does not
// wait: then close does.
func (p *proxies) drain(ctx context.Context, version string, longest time.Duration) error {
	closed := make(chan struct{})
	p.draining.Go(func() {
		defer close(closed)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), longest)
		defer cancel()
		var closing sync.WaitGroup
		defer closing.Wait()
		for listener, f := range p.frontends() {
			closing.Go(func() {
				if err := f.Proxy().Pool(version).Close(ctx); err != nil {
					p.log.Warn("requests were ended", "listener", listener, "version", version, "error", err)
				}
			})
		}
	})
	select {
	case <-closed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("drain version %s: %w", version, ctx.Err())
	}
}

// close closes all proxies, gracefully until ctx ends. Nobody drains or opens
// any more.
func (p *proxies) close(ctx context.Context) {
	defer p.watching.Wait()
	defer p.draining.Wait()
	var closing sync.WaitGroup
	defer closing.Wait()
	for _, f := range p.frontends() {
		closing.Go(func() { _ = f.Close(ctx) }) // its error is that it was not graceful
	}
}

func (p *proxies) frontends() map[string]*proxy.Frontend {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.all)
}

// addresses returns the open listeners, sorted, and where they are.
func (p *proxies) addresses() (listeners []string, address map[string]string) {
	address = map[string]string{}
	for listener, f := range p.frontends() {
		address[listener] = f.Addr()
	}
	return slices.Sorted(maps.Keys(address)), address
}

// counter returns what counts the requests to a listener.
func (p *proxies) counter(listener string) func(proxy.Outcome) {
	return func(o proxy.Outcome) {
		if o.Err == proxy.Canceled && o.Latency < patience {
			return
		}
		at := place{listener, o.Pool}
		p.mu.Lock()
		defer p.mu.Unlock()
		t := p.traffic[at]
		if t == nil {
			t = &rollout.Traffic{}
			p.traffic[at] = t
		}
		t.Requests++
		if o.Err != proxy.NoError || o.Status >= 500 {
			t.Failures++
		}
		t.Latency.Observe(o.Latency)
	}
}

// counts returns a copy of what was counted.
func (p *proxies) counts() map[place]rollout.Traffic {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make(map[place]rollout.Traffic, len(p.traffic))
	for at, t := range p.traffic {
		c := *t
		c.Latency = t.Latency.Clone()
		all[at] = c
	}
	return all
}

// forget drops the counts of a version that has ended.
func (p *proxies) forget(version string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.traffic, func(at place, _ *rollout.Traffic) bool { return at.version == version })
}
