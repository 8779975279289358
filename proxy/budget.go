package proxy

import (
	"sync/atomic"
	"time"
)

// A budget bounds retries to a share of the requests of the last ten seconds,
// and a hundred. After Finagle's retry budgets.
//
// Time is cut into slices of a second each. A slice counts what it got, and is
// cleared by whoever first finds it too old.
type budget struct {
	share  float64
	slices [budgetSlices]budgetSlice
}

const (
	budgetSlices  = 10
	budgetReserve = 100
)

type budgetSlice struct {
	second            atomic.Int64
	requests, retries atomic.Int64
}

func (b *budget) slice(now instant) *budgetSlice {
	second := int64(now / instant(time.Second))
	s := &b.slices[second%budgetSlices]
	if old := s.second.Load(); old != second && s.second.CompareAndSwap(old, second) {
		s.requests.Store(0)
		s.retries.Store(0)
	}
	return s
}

// request notes a request.
func (b *budget) request(now instant) { b.slice(now).requests.Add(1) }

// retry reports whether a request may be retried, and notes it if so.
func (b *budget) retry(now instant) bool {
	if b.share < 0 {
		return false
	}
	current := b.slice(now)
	oldest := int64(now/instant(time.Second)) - budgetSlices
	var requests, retries int64
	for i := range b.slices {
		if s := &b.slices[i]; s.second.Load() > oldest {
			requests += s.requests.Load()
			retries += s.retries.Load()
		}
	}
	if float64(retries) >= budgetReserve+b.share*float64(requests) {
		return false
	}
	current.retries.Add(1)
	return true
}
