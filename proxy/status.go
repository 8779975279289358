package proxy

import (
	"maps"
	"slices"
	"strings"
)

// A Status is what a proxy does, and has done since it was made.
type Status struct {
	Pools []PoolStatus // by name
	Split []Share

	Mirror Share // as SetMirror has it; zero if nothing is mirrored

	Clients int // connections that are open, of Serve, ServeTLS and ServeTCP

	NoBackend   uint64 // requests that found no backend for as long as they may wait
	Refused     uint64 // requests that were malformed or ambiguous, had a larger body than they may, or were of CONNECT
	Mirrored    uint64 // copies of requests that were sent
	MirrorFails uint64 // those that failed
	MirrorDrops uint64 // those that were too many at once, or too large
	LogDrops    uint64 // messages that Options.ErrorLog was not told

	Closed Counts // of pools that were closed
}

// A PoolStatus is the status of a pool.
type PoolStatus struct {
	Name     string
	Backends []BackendStatus // by address; those that are being drained are at the end
	Counts                   // of all backends, those that are gone included
}

// A BackendStatus is the status of a backend.
type BackendStatus struct {
	Addr     string
	Weight   int
	Healthy  bool // as SetHealthy has it
	Avoided  bool // since it is not healthy, or has just failed
	Draining bool
	InFlight int // requests; upgraded connections are among them
	Conns    int // of the fast path
	Counts
}

// FailingOpen reports whether all backends of the pool are avoided, so that
// requests go to them all the same.
func (s PoolStatus) FailingOpen() bool {
	n := 0
	for _, b := range s.Backends {
		if !b.Draining {
			n++
			if !b.Avoided {
				return false
			}
		}
	}
	return n > 0
}

// Status returns the present status. Counts of one backend are not taken at the
// very same moment.
func (p *Proxy) Status() Status {
	s := Status{
		Clients:     int(p.clients.Load()),
		NoBackend:   p.noPick.Load(),
		Refused:     p.refused.Load(),
		Mirrored:    p.mirrors.sent.Load(),
		MirrorFails: p.mirrors.failed.Load(),
		MirrorDrops: p.mirrors.dropped.Load(),
		LogDrops:    p.warnings.dropped.Load() + p.notices.dropped.Load(),
	}
	p.mu.Lock()
	s.Split = slices.Clone(p.shares)
	if m := p.mirror.Load(); m != nil {
		s.Mirror = Share{m.pool.name, int(m.share)}
	}
	s.Closed = p.gone
	for _, pool := range p.closing {
		s.Closed.add(pool.Status().Counts)
	}
	pools := slices.Collect(maps.Values(*p.pools.Load()))
	p.mu.Unlock()
	for _, pool := range pools {
		s.Pools = append(s.Pools, pool.Status())
	}
	slices.SortFunc(s.Pools, func(a, b PoolStatus) int { return strings.Compare(a.Name, b.Name) })
	return s
}

// Status returns the present status of the pool.
func (p *Pool) Status() PoolStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := PoolStatus{Name: p.name, Counts: p.total}
	now := p.proxy.now()
	for i, b := range slices.Concat(p.current, p.draining) {
		st := BackendStatus{
			Addr:     b.addr,
			Weight:   int(b.weight.Load()),
			Healthy:  b.healthy.Load(),
			Avoided:  b.avoided(now),
			Draining: i >= len(p.current),
			InFlight: int(b.inFlight.Load()),
			Conns:    int(b.conns.open.Load()),
			Counts:   b.counts(),
		}
		s.Counts.add(st.Counts)
		s.Backends = append(s.Backends, st)
	}
	return s
}
