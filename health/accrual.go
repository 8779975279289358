package health

import (
	"math"
	"time"
)

// An accrual is the φ accrual failure detector of Hayashibara, Défago, Yared
// and Katayama (SRDS 2004): from the intervals between past heartbeats, taken
// as normally distributed, it says how unlikely the present silence is. φ = 1
// means that one in ten such silences is a false alarm, φ = 8 that one in a
// hundred million is, as far as the future is like the past.
type accrual struct {
	intervals  []float64 // in seconds, a ring of the newest
	next       int
	sum, sumSq float64
}

// accrualWindow is how many intervals are remembered.
const accrualWindow = 200

func (a *accrual) add(interval time.Duration) {
	x := interval.Seconds()
	if len(a.intervals) < accrualWindow {
		a.intervals = append(a.intervals, x)
	} else {
		old := a.intervals[a.next]
		a.intervals[a.next] = x
		a.sum -= old
		a.sumSq -= old * old
	}
	a.sum += x
	a.sumSq += x * x
	if a.next = (a.next + 1) % accrualWindow; a.next == 0 {
		a.sum, a.sumSq = 0, 0 // rounding errors must not add up
		for _, x := range a.intervals {
			a.sum += x
			a.sumSq += x * x
		}
	}
}

// phi returns φ after a silence, and false while there are too few heartbeats
// to tell. pause is how much longer than usual a silence may be for free, and the
// intervals are taken to vary by least even if they vary less.
func (a *accrual) phi(silence, pause, least time.Duration) (float64, bool) {
	n := float64(len(a.intervals))
	if n < 3 {
		return 0, false
	}
	mean := a.sum / n
	// However regular the beats are, their jitter is not taken for less than a
	// tenth of the interval, either.
	dev := max(math.Sqrt(max(0, a.sumSq/n-mean*mean)), mean/10, least.Seconds(), 1e-9)
	return -logTail((silence.Seconds() - mean - pause.Seconds()) / dev), true
}

// logTail returns the decimal logarithm of the probability that a standard
// normal variable exceeds y.
func logTail(y float64) float64 {
	z := y / math.Sqrt2
	if z < 20 {
		return math.Log10(math.Erfc(z) / 2)
	}
	// Erfc underflows soon; this is its asymptote.
	return -(z*z + math.Log(z*math.Sqrt(math.Pi)*2)) / math.Ln10
}
