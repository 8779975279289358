package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/health"
	"github.com/weaverkit/weaverkit/proxy"
)

// frontends opens the proxies of listeners, and keeps requests from backends
// that answer worse than they should.
type frontends struct {
	listeners envelopekit.ListenerConfig
	problems  *slog.Logger
	prober    *health.Prober
	failed    chan error // has room for one: why a proxy has ended by itself
	open      sync.Map   // name of the listener: *frontend
	watching  sync.WaitGroup
}

// A frontend is the proxy of a listener, whose backends are targets of the
// prober by the name of "listener address".
type frontend struct {
	*proxy.Frontend
	name     string
	all      *frontends
	backends []string
}

// export opens a proxy at the address that the configuration gives the listener,
// or at a free port of the loopback interface.
func (f *frontends) export(_ context.Context, name string) (envelopekit.Frontend, error) {
	address := f.listeners[name].Address
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("address %s is in use: stop what uses it, or change listeners.%s in section [%s]", address, name, deployerName)
	} else if err != nil {
		return nil, fmt.Errorf("%w: change listeners.%s in section [%s]", err, name, deployerName)
	}
	front, err := f.serve(name, l)
	if err != nil {
		l.Close()
		return nil, err
	}
	return front, nil
}

// serve starts the proxy of a listener.
func (f *frontends) serve(name string, l net.Listener) (*frontend, error) {
	opts := proxy.Options{
		HoldTimeout: 10 * time.Second, // a replica may take that long to be replaced
		ErrorLog:    f.problems.With("listener", name),
		Outcome: func(o proxy.Outcome) {
			if o.Err != proxy.Canceled {
				f.prober.Observe(name+" "+o.Backend, outcome(o), o.Latency)
			}
		},
	}
	p, err := proxy.Start(l, opts)
	if err != nil {
		l.Close()
		return nil, err
	}
	front := &frontend{Frontend: p, name: name, all: f}
	f.open.Store(name, front)
	f.watching.Go(func() { // the deployment closes all that it was given
		<-p.Done()
		if err := p.Err(); err != nil {
			select {
			case f.failed <- fmt.Errorf("listener %s accepts no connections any more: %w", name, err):
			default: // another was first
			}
		}
	})
	return front, nil
}

func outcome(o proxy.Outcome) health.Outcome {
	switch {
	case o.Err != proxy.NoError || o.Status >= 502 && o.Status <= 504:
		return health.GatewayFailure
	case o.Status >= 500:
		return health.ServerError
	}
	return health.Success
}

// SetBackends implements [envelopekit.Frontend].
func (f *frontend) SetBackends(addresses []string) {
	f.Frontend.SetBackends(addresses)
	for _, a := range f.backends {
		if !slices.Contains(addresses, a) {
			f.all.prober.Remove(f.name + " " + a)
		}
	}
	for _, a := range addresses {
		if slices.Contains(f.backends, a) {
			continue
		}
		if err := f.all.prober.Add(health.Target{ID: f.name + " " + a, Group: f.name, Check: health.TCP(a)}); err != nil {
			f.all.problems.Error("a backend is not watched", "listener", f.name, "error", err)
		}
	}
	f.backends = slices.Clone(addresses)
}

// watch tells the proxies which backends are well, until ctx ends, and shows
// which are not.
func (f *frontends) watch(ctx context.Context, show func(string)) {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() {
		if err := f.prober.Run(ctx); err != nil {
			show("health of backends: " + err.Error())
		}
	})
	running.Go(func() { watchDoubt(ctx, f.prober, "backends", show) })
	seen := newReports("backend", show)
	for c := range f.prober.Subscribe(ctx) {
		seen.tell(c)
		name, address, _ := strings.Cut(c.ID, " ")
		if front, ok := f.open.Load(name); ok {
			front.(*frontend).SetHealthy(address, c.State < health.NotReady)
		}
	}
}
