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
	open      sync.Map // name of the listener: *frontend
}

// A frontend is the proxy of a listener, whose backends are targets of the
// prober by the name of "listener address".
type frontend struct {
	*proxy.Frontend
	name     string
	prober   *health.Prober
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
	front := &frontend{Frontend: p, name: name, prober: f.prober}
	f.open.Store(name, front)
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
			f.prober.Remove(f.name + " " + a)
		}
	}
	for _, a := range addresses {
		if !slices.Contains(f.backends, a) {
			// The error would be that it is there.
			_ = f.prober.Add(health.Target{ID: f.name + " " + a, Group: f.name, Check: health.TCP(a)})
		}
	}
	f.backends = slices.Clone(addresses)
}

// watch tells the proxies which backends are well, until ctx ends.
func (f *frontends) watch(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { _ = f.prober.Run(ctx) }) // its error names checks that hang, and these do not
	for c := range f.prober.Subscribe(ctx) {
		name, address, _ := strings.Cut(c.ID, " ")
		if front, ok := f.open.Load(name); ok {
			front.(*frontend).SetHealthy(address, c.State != health.NotReady && c.State != health.Dead)
		}
	}
}
