package proxy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A Backend is a server that requests can go to.
type Backend struct {
	Addr string // host:port; or unix:PATH

	// Weight is its share of the traffic, relative to that of the others of
	// its pool, at most 1,000,000. Zero means 1, and to Add one that is there, the weight that it
	// has. To take a backend out of the traffic, drain it.
	Weight int
}

// maxWeight keeps sums of weights far from overflow.
const maxWeight = 1_000_000

func (b Backend) check() error {
	if b.Weight < 0 || b.Weight > maxWeight {
		return fmt.Errorf("backend %s has weight %d: it must be between 1 and %d, or 0 for 1", b.Addr, b.Weight, maxWeight)
	}
	if path, ok := strings.CutPrefix(b.Addr, "unix:"); ok {
		if path == "" {
			return fmt.Errorf("backend %q has no path", b.Addr)
		}
		return nil
	}
	host, port, err := net.SplitHostPort(b.Addr)
	if err != nil {
		return fmt.Errorf("backend %q: %w; it must be host:port", b.Addr, err)
	}
	if host == "" || port == "" || strings.ContainsAny(b.Addr, " \r\n\t/") {
		return fmt.Errorf("backend %q must be host:port", b.Addr)
	}
	if n, err := strconv.Atoi(port); err == nil && (n < 0 || n > math.MaxUint16) {
		return fmt.Errorf("backend %q has port %s: it must be at most %d", b.Addr, port, math.MaxUint16)
	}
	return nil
}

// A Pool is backends that stand in for each other: typically the replicas of one
// version of an application. All methods may be called concurrently, also while
// there are requests. They take effect before they return.
type Pool struct {
	name  string
	proxy *Proxy

	set  atomic.Pointer[backendSet]
	turn atomic.Uint64 // round robin
	open atomic.Bool   // all backends were avoided at the last pick

	mu       sync.Mutex // guards the following
	closed   bool
	current  []*backend // sorted by address
	draining []*backend
	total    Counts // of backends that are gone
}

// ErrPoolClosed is wrapped by the errors of Set and Add of a [Pool] that has been
// closed. Its other methods find no backends then, and change nothing.
var ErrPoolClosed = errors.New("the pool is closed")

// Name returns the name of the pool.
func (p *Pool) Name() string { return p.name }

// SetBackends makes the addresses the backends of the pool, each of weight 1 or
// the one that it had. Backends that are not among them get no new request once
// it has returned; those in flight may go on for Options.DrainTimeout. It ignores
// addresses that are none, and says so in Options.ErrorLog: [Pool.Set] returns
// an error.
func (p *Pool) SetBackends(addresses []string) {
	backends := make([]Backend, 0, len(addresses))
	for _, a := range slices.Compact(slices.Sorted(slices.Values(addresses))) {
		b := Backend{Addr: a}
		if err := b.check(); err != nil {
			p.proxy.problem("ignored a backend", "pool", p.name, "error", err)
			continue
		}
		backends = append(backends, b)
	}
	_ = p.change(p.replace(backends, true), false) // it is closed: nothing to do
}

// Set is [Pool.SetBackends] with weights. If it returns an error nothing has
// changed.
func (p *Pool) Set(backends []Backend) error {
	sorted := slices.Clone(backends)
	slices.SortFunc(sorted, func(a, b Backend) int { return strings.Compare(a.Addr, b.Addr) })
	for i, b := range sorted {
		if err := b.check(); err != nil {
			return fmt.Errorf("set backends of pool %s: %w", p.name, err)
		}
		if i > 0 && sorted[i-1].Addr == b.Addr {
			return fmt.Errorf("set backends of pool %s: backend %s is there twice", p.name, b.Addr)
		}
	}
	return p.change(p.replace(sorted, false), false)
}

// replace returns a change to the backends given.
func (p *Pool) replace(sorted []Backend, keepWeights bool) func([]*backend) []*backend {
	return func(old []*backend) []*backend {
		next := make([]*backend, 0, len(sorted))
		for _, b := range sorted {
			i, ok := find(old, b.Addr)
			switch {
			case !ok:
				next = append(next, newBackend(p, b.withDefaults()))
			default:
				if !keepWeights {
					old[i].weight.Store(int64(b.withDefaults().Weight))
				}
				next = append(next, old[i])
			}
		}
		return next
	}
}

func (b Backend) withDefaults() Backend {
	if b.Weight == 0 {
		b.Weight = 1
	}
	return b
}

// Add adds a backend, or changes the weight of one that is there, unless b.Weight
// is zero.
func (p *Pool) Add(b Backend) error {
	if err := b.check(); err != nil {
		return fmt.Errorf("add a backend to pool %s: %w", p.name, err)
	}
	return p.change(func(old []*backend) []*backend {
		i, ok := find(old, b.Addr)
		if !ok {
			return slices.Insert(slices.Clone(old), i, newBackend(p, b.withDefaults()))
		}
		if b.Weight != 0 {
			old[i].weight.Store(int64(b.Weight))
		}
		return old
	}, false)
}

// Remove lets a backend have no more requests. Those in flight may go on for
// Options.DrainTimeout. It reports whether there was such a backend.
func (p *Pool) Remove(address string) (removed bool) {
	_ = p.change(func(old []*backend) []*backend {
		var i int
		if i, removed = find(old, address); removed {
			return slices.Delete(slices.Clone(old), i, i+1)
		}
		return old
	}, false)
	return removed
}

// Drain is Remove, and waits until nothing is in flight there any more, or ctx
// ends, whose error it then returns; the backend is removed all the same.
func (p *Pool) Drain(ctx context.Context, address string) error {
	p.Remove(address)
	return p.Drained(ctx, address)
}

// Drained waits until nothing is in flight to a backend of that address that has
// been removed, or until ctx ends, whose error it then returns. It does not look at
// one that is there: if none has been removed, or it has been forgotten since, there
// is nothing to wait for. So Remove or SetBackends comes before.
func (p *Pool) Drained(ctx context.Context, address string) error {
	for {
		p.mu.Lock()
		i := slices.IndexFunc(p.draining, func(b *backend) bool { return b.addr == address })
		if i < 0 {
			p.mu.Unlock()
			return nil
		}
		b := p.draining[i]
		p.mu.Unlock()
		select {
		case <-b.empty:
		case <-ctx.Done():
			return fmt.Errorf("drain backend %s: %d requests are in flight: %w", address, b.inFlight.Load(), ctx.Err())
		}
	}
}

// SetHealthy says whether a backend is well, as an active prober has it. One
// that is not gets requests only if no other can take them. It reports whether
// there is such a backend. A new backend is well.
func (p *Pool) SetHealthy(address string, healthy bool) bool {
	p.mu.Lock()
	i, ok := find(p.current, address)
	if ok {
		p.current[i].healthy.Store(healthy)
	}
	p.mu.Unlock()
	if ok {
		p.proxy.changed.announce()
	}
	return ok
}

// Close removes all backends and then the pool, whose name can be used again. It
// waits until nothing is in flight, or ctx ends, whose error it then returns;
// after that what is in flight is ended. A pool that has a share of the traffic
// holds it as one that has no backends, so change the split before.
func (p *Pool) Close(ctx context.Context) error {
	_ = p.change(p.replace(nil, false), true) // it is closed already: then this waits, too
	p.proxy.dropPool(p)
	var err error
	for _, b := range p.leaving() {
		select {
		case <-b.empty:
		case <-ctx.Done():
			b.end()
			err = fmt.Errorf("close pool %s: %w", p.name, ctx.Err())
		}
	}
	return err
}

// leaving returns the backends that are being drained.
func (p *Pool) leaving() []*backend {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.draining)
}

// end ends what is in flight in a pool that has been closed.
func (p *Pool) end() {
	for _, b := range p.leaving() {
		b.end()
	}
}

// change replaces the backends by what f makes of them, in order of address. It
// is the last change if closing is true.
func (p *Pool) change(f func([]*backend) []*backend, closing bool) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return fmt.Errorf("pool %s: %w", p.name, ErrPoolClosed)
	}
	p.closed = closing // at once: nobody adds a backend that would stay
	old := p.current
	p.current = f(old)
	var gone []*backend
	for _, b := range old {
		if !slices.Contains(p.current, b) {
			// Now, and not after the lock: another change that finds it gone
			// promises that it gets nothing, too.
			b.retire(p.proxy.opts.DrainTimeout)
			gone = append(gone, b)
		}
	}
	p.draining = append(p.draining, gone...)
	p.set.Store(newBackendSet(p.current))
	p.mu.Unlock()
	for _, b := range gone {
		b.leave()
	}
	p.proxy.changed.announce()
	return nil
}

// some reports whether the pool has backends.
func (p *Pool) some() bool {
	s := p.set.Load()
	return s != nil && len(s.all) > 0
}

// typical returns the mean of the latencies of the backends of which one is
// known; 0 if there are none.
func (p *Pool) typical(now instant) time.Duration {
	s := p.set.Load()
	if s == nil {
		return 0
	}
	sum, n := 0.0, 0
	for _, b := range s.all {
		if b.latency.known() {
			sum += b.latency.at(now)
			n++
		}
	}
	return time.Duration(sum / float64(max(n, 1)))
}

// forget is called by a backend that has no requests any more.
func (p *Pool) forget(b *backend) {
	p.mu.Lock()
	p.draining = slices.DeleteFunc(p.draining, func(d *backend) bool { return d == b })
	p.total.add(b.counts())
	last := p.closed && len(p.draining) == 0
	p.mu.Unlock()
	if last {
		p.proxy.forgetPool(p)
	}
}

func find(sorted []*backend, address string) (int, bool) {
	return slices.BinarySearchFunc(sorted, address, func(b *backend, a string) int { return strings.Compare(b.addr, a) })
}
