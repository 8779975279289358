package rollout

import (
	"encoding/json"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"time"
)

const (
	// Values below sub microseconds have a bucket each; above, every doubling is
	// cut into sub buckets of equal width, as in HdrHistogram (Tene) and the
	// log-linear histograms of Circonus (Schlossnagle).
	subBits = 4
	sub     = 1 << subBits

	// Longer durations, above 19 hours, count as this long.
	maxMicros = 1<<36 - 1
)

// buckets is the number of buckets: bucketOf(maxMicros) + 1.
const buckets = (36-subBits-1)*sub + 2*sub

// Histogram counts durations in log-linear buckets: one for each microsecond
// below 16 µs, and 16 for each doubling above. A bucket is at most a sixteenth
// of its lower end wide, so a quantile is at most 6.25 %, or 1 µs, too high, and
// never too low. Negative durations count as 0, those above 19 hours as 19 hours.
//
// The zero value is empty and ready for use. A histogram has no lock: who
// observes from several goroutines brings one. A copy shares its counts with the
// original; what the methods return does not.
//
// As JSON a histogram is an array of numbers, of each bucket that is not empty
// how many buckets lie between it and the one before, and its count: [500,3,0,7]
// has 3 in bucket 500 and 7 in bucket 501. A usual one takes a few hundred bytes.
type Histogram struct {
	// counts[i] is how many were seen in bucket i. It is as long as the highest
	// bucket in use needs, and never ends with a 0.
	counts []uint64
}

// Observe counts d.
func (h *Histogram) Observe(d time.Duration) { h.add(bucketOf(d), 1) }

// ObserveN adds n durations that are about the same: a bucket of another
// histogram.
func (h *Histogram) ObserveN(d time.Duration, n uint64) { h.add(bucketOf(d), n) }

func (h *Histogram) add(bucket int, n uint64) {
	if n == 0 {
		return
	}
	if bucket >= len(h.counts) {
		h.counts = append(h.counts, make([]uint64, bucket+1-len(h.counts))...)
	}
	h.counts[bucket] = saturating(h.counts[bucket], n)
}

// Count returns how many durations were observed.
func (h Histogram) Count() uint64 {
	var n uint64
	for _, c := range h.counts {
		n = saturating(n, c)
	}
	return n
}

// Quantile returns a duration such that a share q of those observed are not
// longer: the upper end of the bucket in which the true one lies. It is 0 of an
// empty histogram. A q outside of 0 to 1 counts as the nearer of the two.
func (h Histogram) Quantile(q float64) time.Duration {
	n := h.Count()
	if n == 0 {
		return 0
	}
	rank := uint64(1)
	if want := math.Ceil(q * float64(n)); want >= float64(n) {
		rank = n
	} else if want > 1 {
		rank = uint64(want)
	}
	var seen uint64
	for i, c := range h.counts {
		if seen = saturating(seen, c); seen >= rank {
			return upperEnd(i)
		}
	}
	panic("unreachable: the buckets hold fewer than their sum")
}

// Above returns how many of the durations observed are surely longer than d.
// Those in d's own bucket, at most 6.25 % longer, are not counted.
func (h Histogram) Above(d time.Duration) uint64 {
	var n uint64
	for i := bucketOf(d) + 1; i < len(h.counts); i++ {
		n = saturating(n, h.counts[i])
	}
	return n
}

// Merge returns the histogram of what either observed.
func (h Histogram) Merge(other Histogram) Histogram {
	sum := h.Clone()
	for i, c := range other.counts {
		sum.add(i, c)
	}
	return sum
}

// Since returns the histogram of what was observed after earlier was taken from
// the same source. If a bucket has fallen since, which it never does of itself,
// ok is false, and the result is h.
func (h Histogram) Since(earlier Histogram) (diff Histogram, ok bool) {
	diff = h.Clone()
	if len(earlier.counts) > len(h.counts) {
		return diff, false
	}
	for i, c := range earlier.counts {
		if c > h.counts[i] {
			return h.Clone(), false
		}
		diff.counts[i] -= c
	}
	diff.trim()
	return diff, true
}

// Clone returns a copy that shares nothing with h.
func (h Histogram) Clone() Histogram { return Histogram{slices.Clone(h.counts)} }

// Equal reports whether both hold the same counts.
func (h Histogram) Equal(other Histogram) bool { return slices.Equal(h.counts, other.counts) }

// String returns the count and the usual quantiles.
func (h Histogram) String() string {
	return fmt.Sprintf("%d (p50 %v, p90 %v, p99 %v)", h.Count(), h.Quantile(0.5), h.Quantile(0.9), h.Quantile(0.99))
}

func (h *Histogram) trim() {
	for n := len(h.counts); n > 0 && h.counts[n-1] == 0; n-- {
		h.counts = h.counts[:n-1]
	}
	if len(h.counts) == 0 {
		h.counts = nil
	}
}

// MarshalJSON never fails.
func (h Histogram) MarshalJSON() ([]byte, error) {
	pairs := []uint64{}
	last := -1
	for i, c := range h.counts {
		if c > 0 {
			pairs = append(pairs, uint64(i-last-1), c)
			last = i
		}
	}
	return json.Marshal(pairs)
}

// UnmarshalJSON refuses what MarshalJSON does not make.
func (h *Histogram) UnmarshalJSON(data []byte) error {
	var pairs []uint64
	if err := json.Unmarshal(data, &pairs); err != nil {
		return fmt.Errorf("histogram: want an array of gaps and counts: %w", err)
	}
	if len(pairs)%2 != 0 {
		return fmt.Errorf("histogram: an array of %d numbers ends with a gap: want a count after each gap", len(pairs))
	}
	var read Histogram
	last := -1
	for i := 0; i < len(pairs); i += 2 {
		gap, n := pairs[i], pairs[i+1]
		if gap >= uint64(buckets-last-1) {
			return fmt.Errorf("histogram: number %d leads beyond the last of %d buckets", i, buckets)
		}
		if n == 0 {
			return fmt.Errorf("histogram: number %d is a count of 0: leave the bucket out", i+1)
		}
		last += int(gap) + 1
		read.add(last, n)
	}
	*h = read
	return nil
}

func bucketOf(d time.Duration) int {
	v := uint64(min(max(d, 0)/time.Microsecond, maxMicros))
	if v < sub {
		return int(v)
	}
	shift := bits.Len64(v) - subBits - 1
	return shift*sub + int(v>>shift)
}

// upperEnd returns the longest duration of a bucket, in whole microseconds but
// for the nanoseconds that bucketOf drops.
func upperEnd(bucket int) time.Duration {
	if bucket < sub {
		return time.Duration(bucket+1)*time.Microsecond - 1
	}
	shift := bucket/sub - 1
	v := uint64(bucket - shift*sub)
	return time.Duration((v+1)<<shift)*time.Microsecond - 1
}

// saturating adds; at the end of the range it stays there.
func saturating(a, b uint64) uint64 {
	if a > math.MaxUint64-b {
		return math.MaxUint64
	}
	return a + b
}
