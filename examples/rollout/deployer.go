package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/protos"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/rollout"
)

// A deployer is the rollout.Deployer of this machine: a version is an
// envelopekit.Deployment that bears its name, and a pool of that name in the
// proxy of each of its listeners.
type deployer struct {
	load    func(version string) (*envelopekit.App, error)
	proxies *proxies
	log     func(version string, e *protos.LogEntry)
	problem func(string)

	applying sync.Mutex // one SetWeights at a time
	revision uint64     // the highest of them

	mu      sync.Mutex // guards the following
	running map[string]*version
}

var _ rollout.Deployer = (*deployer)(nil)

// Start implements rollout.Deployer.
func (d *deployer) Start(_ context.Context, name string) error {
	if d.find(name) != nil {
		return nil
	}
	app, err := d.load(name)
	if err != nil {
		return fmt.Errorf("%w: %w", rollout.ErrPermanent, err)
	}
	deployment, err := d.deployment(name, app)
	if err != nil {
		return fmt.Errorf("%w: %w", rollout.ErrPermanent, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.running[name] == nil {
		v := newVersion(deployment)
		v.again = func() (*envelopekit.Deployment, error) { return d.deployment(name, app) }
		v.problem = func(text string) { d.problem("version " + name + " " + text) }
		d.running[name] = v
		go v.run() // Stop and close wait for it
	}
	return nil
}

func (d *deployer) deployment(name string, app *envelopekit.App) (*envelopekit.Deployment, error) {
	return envelopekit.New(app, envelopekit.Options{
		ID:       name,
		Prestart: true,
		Log:      func(e *protos.LogEntry) { d.log(name, e) },
		Export: func(_ context.Context, listener string) (envelopekit.Frontend, error) {
			p, err := d.proxies.open(app, listener)
			if err != nil {
				return nil, err
			}
			return pool{p.Proxy().Pool(name), p.Addr()}, nil
		},
	})
}

// Ready implements rollout.Deployer. A version is ready once all of it serves,
// and remains so while something of each group does.
func (d *deployer) Ready(_ context.Context, name string) (rollout.Readiness, error) {
	v := d.find(name)
	if v == nil {
		return rollout.Readiness{Reason: "it does not run"}, nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.failed != nil {
		return rollout.Readiness{Failed: true, Reason: v.failed.Error()}, nil
	}
	st := v.deployment.Status()
	active := map[string]bool{}
	for _, g := range st.Groups {
		for _, c := range g.Components {
			active[c.Name] = c.Active
		}
		if need := g.Started || g.Main; need && (g.Serving() == 0 || !v.wasReady && g.Serving() < g.Wanted) {
			why, _ := v.deployment.Why(g.Name) // its error is about the name
			return rollout.Readiness{Reason: strings.TrimSpace(why)}, nil
		}
	}
	for _, l := range st.Listeners {
		if active[l.Component] && len(l.Backends) == 0 {
			return rollout.Readiness{Reason: fmt.Sprintf("nobody serves listener %s", l.Name)}, nil
		}
	}
	v.wasReady = true
	return rollout.Readiness{Ready: true}, nil
}

// SetWeights implements rollout.Deployer.
func (d *deployer) SetWeights(_ context.Context, w rollout.Weights) error {
	d.applying.Lock()
	defer d.applying.Unlock()
	if w.Revision < d.revision {
		return nil // it was held up, and newer ones were faster
	}
	d.revision = w.Revision
	return d.proxies.split(w)
}

// Stop implements rollout.Deployer.
func (d *deployer) Stop(ctx context.Context, name string, drain time.Duration) error {
	v := d.find(name)
	if v == nil {
		return nil
	}
	if err := d.proxies.drain(ctx, name, drain); err != nil {
		return err // the Runner has ended, and all else is about to
	}
	v.stop(ctx)
	d.proxies.forget(name)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.running[name] == v {
		delete(d.running, name)
	}
	return nil
}

// Stats implements rollout.Deployer.
func (d *deployer) Stats(context.Context) (map[string]rollout.Traffic, error) {
	all := map[string]rollout.Traffic{}
	for at, counted := range d.proxies.counts() {
		t := all[at.version]
		t.Places = append(t.Places, rollout.PlaceTraffic{Place: rollout.Place{Listener: at.listener}, Traffic: counted})
		all[at.version] = t
	}
	for _, name := range d.names() {
		if v := d.find(name); v != nil {
			t := all[name]
			v.mu.Lock()
			t.Restarts = v.restarts
			v.mu.Unlock()
			all[name] = t
		}
	}
	return all, nil
}

// close stops all versions, at once when ctx ends. The Runner has stopped.
func (d *deployer) close(ctx context.Context) {
	var stopping sync.WaitGroup
	defer stopping.Wait()
	for _, name := range d.names() {
		if v := d.find(name); v != nil {
			stopping.Go(func() { v.stop(ctx) })
		}
	}
}

func (d *deployer) find(name string) *version {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.running[name]
}

func (d *deployer) names() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.running))
}

// replicas returns how many replicas of the version serve, and how many should.
func (d *deployer) replicas(name string) (serving, wanted int) {
	v := d.find(name)
	if v == nil {
		return 0, 0
	}
	for _, g := range v.current().Status().Groups {
		if g.Started {
			serving += g.Serving()
			wanted += g.Wanted
		}
	}
	return serving, wanted
}
