package proxy

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// An instant is a time, in nanoseconds since the proxy was made.
type instant int64

// A backend is one address in a pool, from when it is added until it has been
// removed and nothing is in flight there.
type backend struct {
	addr string
	pool *Pool

	weight  atomic.Int64
	healthy atomic.Bool // as the caller says
	gone    atomic.Bool // gets no new request

	inFlight atomic.Int64 // requests that have not ended
	busy     atomic.Int64 // those that have not been upgraded
	waiting  atomic.Int64 // those whose response has not begun
	answered atomic.Int64 // instant: when it last answered, or began to owe an answer
	latency  average

	failures atomic.Int64 // in a row, of which each began after the one before
	failed   atomic.Int64 // instant of the last of those
	avoid    atomic.Int64 // instant until which it is avoided, if there are failures

	counters
	conns idleConns              // of the fast path
	slow  [protocols]clientConns // of net/http

	ctx     context.Context // ends when its requests must
	kill    context.CancelFunc
	killed  *time.Timer // after gone
	empty   chan struct{}
	emptied sync.Once
}

func newBackend(p *Pool, b Backend) *backend {
	n := &backend{addr: b.Addr, pool: p, empty: make(chan struct{})}
	n.weight.Store(int64(b.Weight))
	n.healthy.Store(true)
	n.ctx, n.kill = context.WithCancel(context.Background())
	n.conns.max = p.proxy.opts.MaxIdleConns
	return n
}

// acquire reserves the backend for one request; release ends that. It fails if
// the backend is to get no more, or another request finds out already whether
// it works again.
func (b *backend) acquire(now instant) bool {
	if b.failures.Load() > 0 {
		if until := b.avoid.Load(); int64(now) < until || !b.avoid.CompareAndSwap(until, int64(now+probeTime)) {
			return false
		}
	}
	return b.reserve(now)
}

// reserve is acquire for a backend that nobody avoids, or that is taken for
// want of a better one.
func (b *backend) reserve(now instant) bool {
	b.inFlight.Add(1)
	if b.gone.Load() {
		b.left()
		return false
	}
	b.busy.Add(1)
	if b.waiting.Add(1) == 1 {
		b.answered.Store(int64(now))
	}
	return true
}

// unreserve undoes reserve.
func (b *backend) unreserve() {
	b.waiting.Add(-1)
	b.release(false)
}

// answer notes that the response has begun.
func (b *backend) answer(now instant, took time.Duration) {
	b.waiting.Add(-1)
	b.answered.Store(int64(now))
	b.latency.observe(now, took)
	b.recorder.observe(took)
	if b.failures.Load() != 0 {
		b.failures.Store(0)
	}
}

// unanswered notes that there was no response.
func (b *backend) unanswered(kind ErrorKind) {
	b.waiting.Add(-1)
	b.errors[kind].Add(1)
}

// fail has the backend avoided, since what began then had no response: for
// twice as long as the last time, unless that was the same failure, of requests
// that were in flight together.
func (b *backend) fail(began, now instant) {
	last := b.failed.Load()
	if int64(began) >= last && b.failed.CompareAndSwap(last, int64(now)) {
		b.failures.Add(1)
	} else {
		b.failures.CompareAndSwap(0, 1)
	}
	n := max(b.failures.Load(), 1)
	b.avoid.Store(int64(now + instant(min(avoidTime<<min(n-1, 16), maxAvoidTime))))
	b.conns.closeAll() // they lead to what has just failed
}

// upgraded notes that the request may go on for ever.
func (b *backend) upgraded() { b.busy.Add(-1) }

// release ends a request.
func (b *backend) release(upgraded bool) {
	if !upgraded {
		b.busy.Add(-1)
	}
	b.left()
}

func (b *backend) left() {
	if b.inFlight.Add(-1) == 0 && b.gone.Load() {
		b.finish()
	}
}

// retire lets the backend have no more requests, and ends those that it has
// when timeout has passed. It does not wait; leave is to be called after it.
func (b *backend) retire(timeout time.Duration) {
	b.killed = time.AfterFunc(timeout, b.end)
	b.gone.Store(true)
}

// leave lets go of what a retired backend does not need any more.
func (b *backend) leave() {
	b.conns.close()
	for via := range b.slow {
		b.slow[via].close()
	}
	if b.inFlight.Load() == 0 {
		b.finish()
	}
}

// end ends all requests.
func (b *backend) end() {
	b.kill()
	b.conns.abort()
}

func (b *backend) finish() {
	b.emptied.Do(func() {
		b.killed.Stop()
		b.kill()
		b.conns.abort()
		b.pool.forget(b)
		close(b.empty)
	})
}

const (
	avoidTime    = 100 * time.Millisecond
	maxAvoidTime = 10 * time.Second
	probeTime    = instant(time.Second) // for one request to find out
)

// avoided reports whether a request should rather go elsewhere.
func (b *backend) avoided(now instant) bool {
	return !b.healthy.Load() || b.failures.Load() > 0 && int64(now) < b.avoid.Load()
}

// load is what PeakEWMA compares: about how long a request would take, if a
// backend of the mean weight works off its requests one after the other.
func (b *backend) load(now instant, mean float64) float64 {
	busy := float64(b.busy.Load())
	cost := b.latency.at(now)
	if cost == 0 && busy > 0 {
		return busy * float64(time.Minute) // unknown: one request shall find out
	}
	if b.waiting.Load() > 0 {
		// It owes an answer, and has been silent for longer than it usually
		// takes: the less likely it is to come.
		if silent := float64(int64(now) - b.answered.Load()); silent > cost {
			cost = silent * (silent / cost)
		}
	}
	return cost * (1 + busy*mean/float64(b.weight.Load()))
}

// An average is a moving average of latencies that follows peaks at once, and
// falls by 1/e each decay.
type average struct {
	bits atomic.Uint64 // of a float64, in nanoseconds
	when atomic.Int64
}

const decay = 5 * time.Second

func (a *average) observe(now instant, took time.Duration) {
	old := math.Float64frombits(a.bits.Load())
	sample := max(float64(took), 1)
	if sample < old {
		passed := max(float64(int64(now)-a.when.Load()), 0)
		keep := math.Exp(-passed / float64(decay))
		sample = old*keep + sample*(1-keep)
	}
	// A sample that comes at the same time may be lost: there are more.
	a.bits.Store(math.Float64bits(sample))
	a.when.Store(int64(now))
}

// at returns the average, which falls by itself while there are no samples.
func (a *average) at(now instant) float64 {
	cost := math.Float64frombits(a.bits.Load())
	if passed := float64(int64(now) - a.when.Load()); passed > float64(decay)/16 {
		cost *= math.Exp(-passed / float64(decay))
	}
	return cost
}
