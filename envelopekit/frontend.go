package envelopekit

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// A frontend is an exported listener. Fields below f are guarded by
// Deployment.mu.
type frontend struct {
	name string
	addr string   // for clients; "" if listeners are not exported
	f    Frontend // nil if listeners are not exported

	wanted  uint64        // rises when backends change
	applied uint64        // the last of wanted that f was told
	change  chan struct{} // wakes the goroutine that tells f
	told    chan struct{} // closed when applied rises
	serving bool
}

// markLocked lets the frontend be told its backends again.
func (f *frontend) markLocked() {
	f.wanted++
	select {
	case f.change <- struct{}{}:
	default:
	}
}

// openFrontends opens a frontend for each listener of the binary.
func (d *Deployment) openFrontends(ctx context.Context) error {
	for _, name := range d.app.listenerNames() {
		f := &frontend{name: name, change: make(chan struct{}, 1), told: make(chan struct{})}
		if d.opts.Export != nil {
			var err error
			if f.f, err = d.opts.Export(ctx, name); err != nil {
				return fmt.Errorf("export listener %s: %w", name, err)
			}
			f.addr = f.f.Addr()
			d.events.add(Event{Kind: ListenerOpened, Listener: name, Address: f.addr})
		}
		d.mu.Lock()
		d.frontends[name] = f
		d.mu.Unlock()
		d.wg.Go(func() { d.serveFrontend(f) })
	}
	return nil
}

// closeFrontends closes all frontends gracefully, within ctx.
func (d *Deployment) closeFrontends(ctx context.Context) {
	d.mu.Lock()
	var open []*frontend
	for _, f := range d.frontends {
		if f.f != nil {
			open = append(open, f)
		}
	}
	d.mu.Unlock()
	var wg sync.WaitGroup
	for _, f := range open {
		wg.Go(func() {
			if err := f.f.Close(ctx); err != nil {
				d.events.add(Event{Kind: Problem, Listener: f.name, Reason: fmt.Sprintf("close the frontend: %v", err)})
			}
		})
	}
	wg.Wait()
}

// export notes that the replica serves the listener, and returns where clients
// reach it.
func (d *Deployment) export(r *replica, listener, address string) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, ok := d.frontends[listener]
	if !ok {
		return "", fmt.Errorf("the binary says nothing of a listener of this name")
	}
	if r.gone || d.over {
		return "", ErrEnded
	}
	if !r.left && r.listeners[listener] != address {
		r.listeners[listener] = address
		f.markLocked()
	}
	if f.f == nil {
		return address, nil
	}
	return f.addr, nil
}

// serveFrontend tells the frontend its newest backends, one call at a time.
func (d *Deployment) serveFrontend(f *frontend) {
	for {
		select {
		case <-f.change:
		case <-d.life.Done():
			return
		}
		d.mu.Lock()
		wanted := f.wanted
		backends := d.backendsLocked(f.name)
		if serving := len(backends) > 0; serving != f.serving {
			f.serving = serving
			e := Event{Kind: ListenerIdle, Listener: f.name}
			if serving {
				e.Kind = ListenerServing
			}
			e.Address = f.addr
			if f.f == nil && serving {
				e.Address = backends[0]
			}
			d.events.add(e)
		}
		d.mu.Unlock()

		if f.f != nil {
			f.f.SetBackends(backends)
		}
		d.mu.Lock()
		f.applied = wanted
		close(f.told)
		f.told = make(chan struct{})
		d.mu.Unlock()
	}
}

// backendsLocked returns where the listener is served, sorted.
func (d *Deployment) backendsLocked(listener string) []string {
	var backends []string
	for _, g := range d.groups {
		for _, s := range g.slots {
			if r := s.replica; r != nil && !r.left {
				if address, ok := r.listeners[listener]; ok {
					backends = append(backends, address)
				}
			}
		}
	}
	slices.Sort(backends)
	return slices.Compact(backends)
}

// awaitFrontends waits until no request is in flight to the replica, which has
// left, as far as the frontends can tell.
func (d *Deployment) awaitFrontends(ctx context.Context, r *replica) {
	d.mu.Lock()
	listeners := make(map[*frontend]string, len(r.listeners))
	for name, address := range r.listeners {
		listeners[d.frontends[name]] = address
	}
	d.mu.Unlock()
	for f, address := range listeners {
		if drainer, ok := f.f.(interface {
			Drained(ctx context.Context, address string) error
		}); ok && d.awaitTold(ctx, f) {
			_ = drainer.Drained(ctx, address) // its error is ctx's
		}
	}
}

// awaitTold waits until the frontend knows the backends as they are now.
func (d *Deployment) awaitTold(ctx context.Context, f *frontend) bool {
	d.mu.Lock()
	wanted := f.wanted
	for f.applied < wanted {
		told := f.told
		d.mu.Unlock()
		select {
		case <-told:
		case <-ctx.Done():
			return false
		}
		d.mu.Lock()
	}
	d.mu.Unlock()
	return true
}
