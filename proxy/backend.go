package proxy

import (
	"context"
	"math"
	"net/http"
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
	streams  atomic.Int64 // those of them that go on for as long as they like
	waiting  atomic.Int64 // those whose response has not begun
	latency  average
	prompt   promptness
	refusals atomic.Int64 // 502, 503 and 504 in a row

	// Requests that began after its last answer. Two that have none are a sign
	// that it is stopped. One is for a moment, and then may be such as takes long,
	// as may be those that began before.
	begun    atomic.Int64
	since    atomic.Int64 // instant of the first of them
	answered atomic.Int64 // instant of its last answer, or of since if it owed nothing then
	heal     atomic.Int64 // instant from which one request may find out

	failures atomic.Int64 // in a row, of which each began after the one before
	failed   atomic.Int64 // instant of the last of those
	garbled  atomic.Int64 // responses in a row that were malformed
	avoid    atomic.Int64 // instant until which it is avoided, if there are failures
	probes   atomic.Int64 // requests that find out, and have not ended
	probe    atomic.Int64 // instant of the last of them, and 1; 0 if it has ended

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
		until := b.avoid.Load()
		wait := probeTime << min(b.probes.Load(), maxProbeDoublings)
		if int64(now) < until || !b.avoid.CompareAndSwap(until, int64(now+wait)) {
			return false
		}
		b.probes.Add(1)
		b.probe.Store(int64(now) + 1)
	}
	if b.silent(now) {
		// Whoever waits for an answer may have asked for what takes long.
		heal := b.heal.Load()
		if int64(now) < heal || !b.heal.CompareAndSwap(heal, int64(now)+(int64(now)-b.since.Load())) {
			b.probed(now, now)
			return false
		}
	}
	return b.reserve(now)
}

// probed notes that a request that began then finds out nothing more. If it is
// the last one that was to, the next one may.
func (b *backend) probed(began, now instant) {
	if p := b.probe.Load(); p == int64(began)+1 && b.probe.CompareAndSwap(p, 0) {
		b.probes.Store(0)
		b.avoid.Store(int64(now))
	}
}

// reserve is acquire for a backend that nobody avoids, or that is taken for
// want of a better one.
func (b *backend) reserve(now instant) bool {
	b.inFlight.Add(1)
	if b.gone.Load() {
		b.left()
		return false
	}
	rested := b.waiting.Add(1) == 1
	if b.begun.Load() == 0 { // before others can see that there is one
		b.ask(now, rested)
	}
	if b.begun.Add(1) == 1 {
		b.ask(now, rested)
	}
	return true
}

// ask notes that the backend is asked for the first time since it has answered,
// and whether it owed nothing.
func (b *backend) ask(now instant, rested bool) {
	b.since.Store(int64(now))
	b.heal.Store(int64(now + healTime))
	if rested {
		b.answered.Store(int64(now))
	}
}

// unreserve undoes reserve, and acquire.
func (b *backend) unreserve(began instant) {
	b.waiting.Add(-1)
	b.probed(began, began)
	b.release(false)
}

// answer notes the head of a response to what began then.
func (b *backend) answer(began, now instant, status int) {
	took := time.Duration(now - began)
	switch {
	case status < 500:
		b.latency.observe(now, took)
	case b.latency.known():
		b.latency.observeLeast(now, took)
	default: // it is taken for one as fast as others, if that can be said
		if typical := b.pool.typical(now); typical > 0 {
			b.latency.observe(now, max(took, typical))
		}
	}
	b.recorder.observe(took)
	b.heard(began, now)
	switch status {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		if b.refusals.Add(1) >= maxRefusals {
			b.avoidFor(began, now)
		}
	default:
		b.well()
	}
	if b.garbled.Load() != 0 {
		b.garbled.Store(0)
	}
}

// connected notes that a stream has begun. How soon says nothing about how busy
// the backend is: the kernel connects, and one that is slow may be quick to
// upgrade.
func (b *backend) connected(began, now instant) {
	b.recorder.observe(time.Duration(now - began))
	b.heard(began, now)
	if b.refusals.Load() == 0 { // else it must show more than that it accepts
		b.well()
	}
}

// refused notes that the backend has accepted a connection, which began then, and
// reset it without a word.
func (b *backend) refused(began, now instant) {
	b.refusals.Add(1)
	b.avoidFor(began, now)
}

func (b *backend) heard(began, now instant) {
	b.waiting.Add(-1)
	b.answered.Store(int64(now))
	b.begun.Store(0)
	b.probed(began, now)
}

// well notes that a response was good.
func (b *backend) well() {
	if b.failures.Load() != 0 {
		b.failures.Store(0)
	}
	if b.refusals.Load() != 0 {
		b.refusals.Store(0)
	}
}

// unanswered notes that there was no response to what began then.
func (b *backend) unanswered(began, now instant, kind ErrorKind) {
	b.waiting.Add(-1)
	b.probed(began, now)
	b.errors[kind].Add(1)
}

// fail notes that what began then had no response.
func (b *backend) fail(began, now instant) {
	b.avoidFor(began, now)
	b.conns.closeAll() // they lead to what has just failed
}

// avoidFor has the backend avoided, for what became of a request that began then:
// for twice as long as the last time, unless that was the same failure, of
// requests that were in flight together.
func (b *backend) avoidFor(began, now instant) {
	last := b.failed.Load()
	if int64(began) >= last && b.failed.CompareAndSwap(last, int64(now)) {
		b.failures.Add(1)
	} else {
		b.failures.CompareAndSwap(0, 1)
	}
	n := max(b.failures.Load(), 1)
	b.avoid.Store(int64(now + instant(min(avoidTime<<min(n-1, 16), maxAvoidTime))))
}

// garble notes that the response was malformed. Which request it is may be what
// matters, so only many in a row are a failure of the backend, or one that is to
// find out whether it works again.
func (b *backend) garble(began, now instant) {
	if b.garbled.Add(1) >= maxGarbled || b.failures.Load() > 0 {
		b.fail(began, now)
	}
}

const maxGarbled = 5

// upgraded notes that the request goes on for as long as it likes.
func (b *backend) upgraded() { b.streams.Add(1) }

// release ends a request.
func (b *backend) release(upgraded bool) {
	if upgraded {
		b.streams.Add(-1)
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

	// probeTime is how long one request may take to find out before there is
	// another, which then has twice as long.
	probeTime         = instant(5 * time.Second)
	maxProbeDoublings = 4

	// healTime is how long a backend may be silent before one request finds
	// out, and the next one when it has been for twice as long.
	healTime   = instant(10 * time.Second)
	minSilence = time.Second            // less does not have it avoided
	moment     = 250 * time.Millisecond // for which one request says something

	// maxRefusals is how many answers in a row that say that the backend cannot
	// serve, such as 503, are a failure. One may be about the request; and what
	// answers without work must not win by being fast.
	maxRefusals = 5
)

// A standing is how good a backend is to a request.
type standing int

const (
	sound    standing = iota
	doubtful          // it has failed, and is to be tried again
	avoided           // a request should rather go elsewhere
)

func (b *backend) standing(now instant) standing {
	failed := b.failures.Load() > 0
	switch {
	case !b.healthy.Load(), failed && int64(now) < b.avoid.Load(), b.silent(now) && int64(now) < b.heal.Load():
		return avoided
	case failed:
		return doubtful
	}
	return sound
}

// avoided reports whether a request should rather go elsewhere.
func (b *backend) avoided(now instant) bool { return b.standing(now) == avoided }

// silence returns for how long the backend has not answered, as a multiple of the
// latency that is usual, if it is asked again since. If that is one request it is
// forgiven after a moment, for it may take long; if there are several it says twice
// as much.
func (b *backend) silence(now instant, usual float64) float64 {
	d := float64(int64(now) - b.answered.Load())
	switch n := min(b.begun.Load(), b.waiting.Load()); {
	case n < 1, n == 1 && d > float64(moment), usual == 0:
		return 0
	case n == 1:
		return d / usual
	}
	return 2 * d / usual
}

// silent reports whether the backend is taken for stopped: requests have waited for
// long, and none that began when they did has an answer.
func (b *backend) silent(now instant) bool {
	if min(b.begun.Load(), b.waiting.Load()) < 2 {
		return false
	}
	d := time.Duration(int64(now) - b.since.Load())
	return d > minSilence && float64(d) > 10*b.latency.at(now)
}

// busy returns how many requests it works on.
func (b *backend) busy() float64 { return float64(max(b.inFlight.Load()-b.streams.Load(), 0)) }

// load is what PeakEWMA compares: about how long a request would take, if it is
// done after as many others.
func (b *backend) load(now instant, busy float64) float64 {
	cost := b.latency.at(now)
	if cost == 0 && busy > 0 {
		return busy * float64(time.Minute) // unknown: one request shall find out
	}
	if silence := b.silence(now, cost); silence > 1 {
		if b.silent(now) && int64(now) >= b.heal.Load() {
			return 0 // one request shall find out
		}
		// The longer it is silent than it usually takes, the less likely its
		// answers are to come.
		cost *= silence * silence
	}
	return cost * (1 + busy)
}

// crowd is what PeakEWMA compares for streams, which are as much work as there
// are of them: how many there would be, for its weight.
func (b *backend) crowd() float64 {
	return float64(1+b.inFlight.Load()) / float64(b.weight.Load())
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

// observeLeast is observe for what may have been fast for want of work: it does
// not let the average fall.
func (a *average) observeLeast(now instant, took time.Duration) {
	a.observe(now, max(took, time.Duration(math.Float64frombits(a.bits.Load()))))
}

func (a *average) known() bool { return a.bits.Load() != 0 }

// at returns the average, which falls by itself while there are no samples.
func (a *average) at(now instant) float64 {
	cost := math.Float64frombits(a.bits.Load())
	if passed := float64(int64(now) - a.when.Load()); passed > float64(decay)/16 {
		cost *= math.Exp(-passed / float64(decay))
	}
	return cost
}
