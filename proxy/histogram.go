package proxy

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// A Histogram is how often latencies occurred, in buckets a quarter of a power
// of two wide, so a quantile is at most 25 % too high, or 8 µs if that is more. Of
// those above 4 min 28 s it says only that they are.
type Histogram struct {
	Counts [buckets]uint64 // of latencies below Bound, and not below that of the one before
}

const (
	bucketUnit = 32 * time.Microsecond // the first four buckets are a quarter of that wide
	octaves    = 24                    // up to 4 min 28 s; the last bucket has what is above, too
	buckets    = 4 * octaves
)

// bucket returns where a latency is counted.
func bucket(d time.Duration) int {
	n := uint64(max(d, 0)) / uint64(bucketUnit/4)
	if n < 4 {
		return int(n)
	}
	octave := bits.Len64(n) - 3
	return min(4*octave+int(n>>octave), buckets-1)
}

// Bound returns the upper bound of a bucket.
func (h Histogram) Bound(bucket int) time.Duration {
	if bucket < 4 {
		return time.Duration(bucket+1) * bucketUnit / 4
	}
	octave := bucket/4 - 1
	return time.Duration(bucket%4+5) << octave * bucketUnit / 4
}

// Count returns how many latencies there are.
func (h Histogram) Count() uint64 {
	var n uint64
	for _, c := range h.Counts {
		n += c
	}
	return n
}

// Quantile returns an upper bound of the latency that a share q of all do not
// exceed. It is 0 if there are none.
func (h Histogram) Quantile(q float64) time.Duration {
	n := h.Count()
	if n == 0 {
		return 0
	}
	rank := uint64(math.Ceil(max(q*float64(n)-1, 0))) // of the one looked for, from 0
	for i, c := range h.Counts {
		if rank < c {
			return h.Bound(i)
		}
		rank -= c
	}
	last := buckets - 1
	for h.Counts[last] == 0 {
		last--
	}
	return h.Bound(last)
}

// add adds what another histogram has.
func (h *Histogram) add(other *Histogram) {
	for i, c := range other.Counts {
		h.Counts[i] += c
	}
}

// A recorder is a histogram that is being filled.
type recorder [buckets]atomic.Uint64

func (r *recorder) observe(d time.Duration) { r[bucket(d)].Add(1) }

func (r *recorder) snapshot() (h Histogram) {
	for i := range r {
		h.Counts[i] = r[i].Load()
	}
	return h
}
