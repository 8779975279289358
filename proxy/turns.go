package proxy

import (
	"runtime"
	"sync/atomic"
	"time"
)

// turns has a busy proxy offer its processors to others now and then.
//
// A thread that always has something to do is taken off its processor only when
// its slice is used up, some milliseconds, and then everybody waits for as long in
// turn: on a machine that is shared with the replicas, as a deployer's is, that is
// the tail of the latencies. A thread that offers it sooner, between two requests,
// is back at once if nobody wants it.
type turns struct {
	served atomic.Uint64
	last   atomic.Int64 // instant of the last offer, or of when one was due
	busy   atomic.Bool  // as it was then
}

const (
	// So many requests are served from one offer to the next.
	turnRequests = 32
	// Who serves them in less has no rests in between. Who has would only fall
	// behind by an offer.
	turnTime = 4 * time.Millisecond
)

// next is called after each request.
func (t *turns) next(now instant) {
	if t.served.Add(1)%turnRequests != 0 {
		return
	}
	last := t.last.Swap(int64(now))
	is := busy(now-instant(last), runtime.GOMAXPROCS(0))
	if is != t.busy.Load() {
		t.busy.Store(is)
	}
	if is {
		offerProcessor()
	}
}

// busy reports whether threads that together serve that many requests in such a
// time have something to do all the time.
func busy(took instant, threads int) bool { return took*instant(threads) < instant(turnTime) }
