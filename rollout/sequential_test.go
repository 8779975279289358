package rollout

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// logOf returns the logarithm of the evidence of all windows.
func logOf(windows []tally, tolerance, burst float64) float64 {
	log, _ := logEvidence(tallied(windows, func(t tally) []tally { return []tally{t} }), 0, tolerance, burst)
	return log
}

// slowEvidence is the definition: for each window at which counting may start
// and each ratio, the product over single requests of what a bet on each has
// gained, in numbers that do not round.
func slowEvidence(windows []tally, tolerance float64) float64 {
	exact := func(x float64) *big.Float { return new(big.Float).SetPrec(300).SetFloat64(x) }
	total := exact(0)
	for start := range windows {
		for _, rho := range ratios {
			product := exact(1)
			for _, t := range windows[start:] {
				if t.oldAll == 0 || t.newAll == 0 {
					continue
				}
				w := max(float64(t.newAll+1)/float64(t.newAll+t.oldAll+1), t.peak)
				ifWorse := w * rho / (w*rho + 1 - w)
				stake := ifWorse - w
				times := func(gain float64, n uint64) {
					factor := exact(gain)
					factor.Quo(factor, exact(1+stake*tolerance))
					for ; n > 0; n >>= 1 {
						if n&1 == 1 {
							product.Mul(product, factor)
						}
						factor.Mul(factor, factor)
					}
				}
				times(1+stake/w, t.newBad)
				times(1-stake/(1-w), t.oldBad)
				times(1, t.newAll-t.newBad+t.oldAll-t.oldBad)
			}
			weight := 1 / float64((start+1)*(start+2)) / float64(len(ratios))
			total.Add(total, product.Mul(product, exact(weight)))
		}
	}
	log, exponent := new(big.Float), total.MantExp(nil)
	mantissa, _ := log.SetMantExp(total, -exponent).Float64()
	return math.Log(mantissa) + float64(exponent)*math.Ln2
}

func TestEvidenceIsWhatItsDefinitionSays(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	upTo := func(n uint64) uint64 { return rng.Uint64N(n + 1) }
	for range 400 {
		windows := make([]tally, 1+rng.IntN(4))
		for i := range windows {
			w := tally{oldAll: upTo(5000), newAll: upTo(1000)}
			w.oldBad, w.newBad = upTo(min(w.oldAll, 60)), upTo(min(w.newAll, 60))
			if rng.IntN(2) == 0 {
				w.peak = rng.Float64()
			}
			windows[i] = w
		}
		tolerance := max(0, rng.Float64()-0.5) / 10
		want := slowEvidence(windows, tolerance)
		require.InDelta(t, want, logOf(windows, tolerance, 1), 1e-9*max(1, math.Abs(want)), "%+v", windows)
	}
}

// The share of the requests rises while both versions have an outage: with the
// peak, and only with it, the chance of a false alarm is what it is.
func TestPeakOfTheShare(t *testing.T) {
	const runs = 200
	alarms := map[bool]int{}
	for seed := range uint64(runs) {
		rng := rand.New(rand.NewPCG(seed, 14))
		var seen tally
		share := 0.05
		for second := range 300 {
			share += (0.5 - share) / 300
			rate := 0.001
			if second > 200 {
				rate = 0.1
			}
			for range 100 {
				bad := uint64(0)
				if rng.Float64() < rate {
					bad = 1
				}
				if rng.Float64() < share {
					seen.newAll, seen.newBad = seen.newAll+1, seen.newBad+bad
				} else {
					seen.oldAll, seen.oldBad = seen.oldAll+1, seen.oldBad+bad
				}
			}
		}
		for _, told := range []bool{true, false} {
			seen.peak = 0
			if told {
				seen.peak = share
			}
			if logOf([]tally{seen}, 0, 1) >= math.Log(100) {
				alarms[told]++
			}
		}
	}
	t.Logf("%v of %d", alarms, runs)
	assert.LessOrEqual(t, alarms[true], runs/100)
	assert.Greater(t, alarms[false], runs/2, "it is for something")
	assert.Equal(t, logOf([]tally{{oldAll: 900, oldBad: 1, newAll: 100, newBad: 9}}, 0, 1),
		logOf([]tally{{oldAll: 900, oldBad: 1, newAll: 100, newBad: 9, peak: 0.05}}, 0, 1), "a peak below the share says nothing")
}

// TestExactFalseAlarms computes, without sampling, the chance that a version within
// the tolerance is ever found to be outside, if one looks after each of the first
// requests: the chances of all counts are carried on from request to request, and
// those where the evidence suffices are taken out.
func TestExactFalseAlarms(t *testing.T) {
	const alpha = 0.01
	for _, c := range []struct {
		name                string
		requests            int
		share               float64
		old, new, tolerance float64
	}{
		{"rare failures, small share", 100, 0.1, 0.02, 0.02, 0},
		{"some failures, small share", 70, 0.1, 0.2, 0.2, 0},
		{"some failures, tiny share", 100, 0.02, 0.1, 0.1, 0},
		{"half fails", 40, 0.3, 0.5, 0.5, 0},
		{"equal shares", 40, 0.5, 0.3, 0.3, 0},
		{"the new version has most", 40, 0.8, 0.2, 0.2, 0},
		{"the new version is better", 40, 0.3, 0.2, 0.1, 0},
		{"just within the tolerance", 70, 0.2, 0.02, 0.12, 0.1},
		{"just within a large tolerance", 50, 0.2, 0.1, 0.5, 0.4},
		{"within the tolerance, equal shares", 50, 0.5, 0, 0.2, 0.2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			alarm := exactAlarms(c.requests, c.share, c.old, c.new, c.tolerance, alpha)
			t.Logf("%.4f %%", 100*alarm)
			assert.LessOrEqual(t, alarm, alpha)
		})
	}
	// The same computation finds a version that is worse, so it does not say
	// "no alarm" of everything.
	assert.Greater(t, exactAlarms(100, 0.2, 0.02, 0.5, 0, alpha), 0.9)
}

// TestExactFalseAlarmsOfManyRequests does the same where every so many-th request
// is the new version's, which leaves fewer counts to carry on: so it sees dozens
// of failures.
func TestExactFalseAlarmsOfManyRequests(t *testing.T) {
	const alpha = 0.01
	for _, c := range []struct {
		name                string
		requests, every     int
		old, new, tolerance float64
	}{
		{"rare failures, small share", 20_000, 10, 0.001, 0.001, 0},
		{"some failures, small share", 5000, 10, 0.01, 0.01, 0},
		{"many failures, small share", 1000, 10, 0.2, 0.2, 0},
		{"some failures, equal shares", 3000, 2, 0.01, 0.01, 0},
		{"many failures, equal shares", 600, 2, 0.2, 0.2, 0},
		{"rare failures, just within the tolerance", 10_000, 10, 0.001, 0.006, 0.005},
		{"some failures, just within the tolerance", 6000, 10, 0.01, 0.015, 0.005},
		{"within the tolerance, equal shares", 6000, 2, 0.001, 0.006, 0.005},
		{"just within a large tolerance", 2000, 10, 0.01, 0.11, 0.1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if testing.Short() {
				c.requests /= 4
			}
			alarm := exactAlarmsInTurn(c.requests, c.every, c.old, c.new, c.tolerance, alpha)
			t.Logf("%.4f %%", 100*alarm)
			assert.LessOrEqual(t, alarm, alpha)
		})
	}
	assert.Greater(t, exactAlarmsInTurn(3000, 10, 0.001, 0.05, 0.005, alpha), 0.9)
}

// exactAlarmsInTurn looks whenever the new version had a request.
func exactAlarmsInTurn(requests, every int, oldRate, newRate, tolerance, alpha float64) (alarm float64) {
	const negligible = 1e-10
	at := [][]float64{{1}} // chance of each number of bad requests, the old version's and the new one's
	for n := 1; n <= requests; n++ {
		isNew := n%every == 0
		rate := oldRate
		if isNew {
			rate = newRate
		}
		next := make([][]float64, len(at)+1)
		for o := range next {
			next[o] = make([]float64, len(at[0])+1)
		}
		for o := range at {
			for b, chance := range at[o] {
				if chance < negligible { // too rare to follow: take it for an alarm
					alarm += chance
					continue
				}
				next[o][b] += chance * (1 - rate)
				if isNew {
					next[o][b+1] += chance * rate
				} else {
					next[o+1][b] += chance * rate
				}
			}
		}
		olds, news := 0, 0 // the largest with a chance
		for o := range next {
			for b, chance := range next[o] {
				if chance == 0 {
					continue
				}
				window := []tally{{oldAll: uint64(n - n/every), oldBad: uint64(o), newAll: uint64(n / every), newBad: uint64(b)}}
				if isNew && logOf(window, tolerance, 1) >= -math.Log(alpha) {
					alarm += chance
					next[o][b] = 0
					continue
				}
				olds, news = max(olds, o), max(news, b)
			}
		}
		at = next[:olds+1]
		for o := range at {
			at[o] = at[o][:news+1]
		}
	}
	return alarm
}

func exactAlarms(requests int, share, oldRate, newRate, tolerance, alpha float64) (alarm float64) {
	type counts struct{ newAll, newBad, oldBad uint64 }
	at := map[counts]float64{{}: 1}
	for n := range requests {
		next := make(map[counts]float64, len(at)+len(at)/4)
		for c, chance := range at {
			if chance < 1e-12 { // too rare to follow: take it for an alarm
				alarm += chance
				continue
			}
			next[c] += chance * (1 - share) * (1 - oldRate)
			next[counts{c.newAll + 1, c.newBad, c.oldBad}] += chance * share * (1 - newRate)
			next[counts{c.newAll, c.newBad, c.oldBad + 1}] += chance * (1 - share) * oldRate
			next[counts{c.newAll + 1, c.newBad + 1, c.oldBad}] += chance * share * newRate
		}
		for c, chance := range next {
			window := []tally{{oldAll: uint64(n+1) - c.newAll, oldBad: c.oldBad, newAll: c.newAll, newBad: c.newBad}}
			if logOf(window, tolerance, 1) >= -math.Log(alpha) {
				alarm += chance
				delete(next, c)
			}
		}
		at = next
	}
	return alarm
}

// TestOutagesOfBothAreNoAlarm looks every second at a version that is as good as
// the old one while the rate at which both fail jumps between 0.1 % and 40 %.
func TestOutagesOfBothAreNoAlarm(t *testing.T) {
	runs := 1000
	if testing.Short() {
		runs = 200
	}
	alarms := map[float64]int{}
	for seed := range runs {
		rng := rand.New(rand.NewPCG(uint64(seed), 3))
		var window tally
		rate, most := 0.001, math.Inf(-1)
		for range 600 {
			if rng.IntN(60) == 0 {
				rate = 0.401 - rate
			}
			for range 50 {
				bad := uint64(0)
				if rng.Float64() < rate {
					bad = 1
				}
				if rng.Float64() < 0.1 {
					window.newAll, window.newBad = window.newAll+1, window.newBad+bad
				} else {
					window.oldAll, window.oldBad = window.oldAll+1, window.oldBad+bad
				}
			}
			most = max(most, logOf([]tally{window}, 0, 1))
		}
		for _, alpha := range []float64{0.01, 0.1, 0.5} {
			if most >= -math.Log(alpha) {
				alarms[alpha]++
			}
		}
	}
	t.Logf("%v of %d", alarms, runs)
	for alpha, n := range alarms {
		assert.LessOrEqual(t, float64(n), alpha*float64(runs), "alpha %v", alpha)
	}
}

func TestEvidenceGrowsWithFailuresOfTheNewVersionAndShrinksWithTheOldOnes(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 5))
	for range 1000 {
		w := tally{oldAll: 1 + rng.Uint64N(1e6), newAll: 1 + rng.Uint64N(1e6)}
		w.oldBad, w.newBad = rng.Uint64N(w.oldAll), rng.Uint64N(w.newAll)
		more, fewer := w, w
		more.newBad++
		fewer.oldBad++
		at := logOf([]tally{w}, 0, 1)
		require.Greater(t, logOf([]tally{more}, 0, 1), at, "%+v", w)
		require.Less(t, logOf([]tally{fewer}, 0, 1), at, "%+v", w)
	}
}

func TestABurstCountsAsOneFailure(t *testing.T) {
	single := []tally{{oldAll: 9000, oldBad: 3, newAll: 1000, newBad: 4}}
	burst := []tally{{oldAll: 9000, oldBad: 15, newAll: 1000, newBad: 20}}
	assert.InDelta(t, logOf(single, 0, 1), logOf(burst, 0, 5), 1e-9)
	assert.Greater(t, logOf(burst, 0, 1), logOf(burst, 0, 5))
}

func TestEvidenceOfNothing(t *testing.T) {
	for name, windows := range map[string][]tally{
		"no traffic":            {{}},
		"only the old version":  {{oldAll: 1000, oldBad: 900}},
		"only the new version":  {{newAll: 1000, newBad: 900}},
		"windows without both":  {{newAll: 1000, newBad: 900}, {oldAll: 1000, oldBad: 10}},
		"nothing failed at all": {{oldAll: 1e6, newAll: 1e6}},
	} {
		assert.LessOrEqual(t, logOf(windows, 0, 1), 0., name)
	}
}

func TestStartWeightsAddUpToLessThanOne(t *testing.T) {
	sum := 0.
	for i := range 10_000 {
		sum += startWeight(i)
	}
	assert.Less(t, sum, 1.)
	assert.Greater(t, sum, 0.999)
}

// TestExactBounds computes, without sampling, the chance that the true rate is
// ever outside of the bounds.
func TestExactBounds(t *testing.T) {
	const alpha = 0.05
	for _, rate := range []float64{0.001, 0.01, 0.05, 0.3, 0.97} {
		requests := 250
		if rate < 0.01 {
			requests = 2000
		}
		wrong := 0.
		at := []float64{1} // chance of each number of bad ones
		for n := 1; n <= requests; n++ {
			next := make([]float64, len(at)+1)
			for bad, chance := range at {
				next[bad] += chance * (1 - rate)
				next[bad+1] += chance * rate
			}
			for bad, chance := range next {
				if chance < 1e-9 { // too rare to ask for: take it for wrong
					wrong += chance
					next[bad] = 0
					continue
				}
				if low, high := bounds(float64(bad), float64(n), alpha); rate < low || rate > high {
					wrong += chance
					next[bad] = 0
				}
			}
			for len(next) > 1 && next[len(next)-1] == 0 {
				next = next[:len(next)-1]
			}
			at = next
		}
		t.Logf("rate %v: %.3f %%", rate, 100*wrong)
		assert.LessOrEqual(t, wrong, alpha, "rate %v", rate)
	}
}

func TestBounds(t *testing.T) {
	low, high := bounds(0, 0, 0.01)
	assert.Equal(t, []float64{0, 1}, []float64{low, high}, "nothing is known of nothing")
	low, high = bounds(0, 1000, 0.05)
	assert.Zero(t, low)
	assert.InDelta(t, 0.0048, high, 0.0005)
	low, high = bounds(1000, 1000, 0.05)
	assert.Equal(t, 1., high)
	assert.Greater(t, low, 0.98)

	rng := rand.New(rand.NewPCG(6, 7))
	for range 200 {
		all := 1 + rng.Float64()*1e5
		bad := all * rng.Float64() * rng.Float64()
		low, high := bounds(bad, all, 0.05)
		require.LessOrEqual(t, 0., low)
		require.LessOrEqual(t, low, bad/all)
		require.LessOrEqual(t, bad/all, high)
		require.LessOrEqual(t, high, 1.)
		low2, high2 := bounds(bad, all, 0.01)
		require.LessOrEqual(t, low2, low, "more certainty is wider")
		require.GreaterOrEqual(t, high2, high, "more certainty is wider")
		low3, high3 := bounds(10*bad, 10*all, 0.05)
		require.GreaterOrEqual(t, low3, low, "more traffic is narrower")
		require.LessOrEqual(t, high3, high, "more traffic is narrower")
	}
}

// slowBounds is the definition of bounds, by bisection.
func slowBounds(bad, all, alpha float64) (low, high float64) {
	mixture := logMixture(bad, all)
	out := func(p float64) bool {
		log := 0.
		if bad > 0 {
			log += bad * math.Log(p)
		}
		if bad < all {
			log += (all - bad) * math.Log1p(-p)
		}
		return mixture-log >= -math.Log(alpha)
	}
	between := func(outside, inside float64) float64 {
		for range 100 {
			if middle := (outside + inside) / 2; out(middle) {
				outside = middle
			} else {
				inside = middle
			}
		}
		return outside
	}
	low, high = bad/all, bad/all
	if bad > 0 {
		low = between(0, bad/all)
	}
	if bad < all {
		high = between(1, bad/all)
	}
	return low, high
}

func TestBoundsAreWhatTheirDefinitionSays(t *testing.T) {
	rng := rand.New(rand.NewPCG(10, 11))
	for range 2000 {
		all := math.Exp(rng.Float64() * 16)
		bad := all * math.Pow(rng.Float64(), 1+9*rng.Float64())
		switch rng.IntN(10) {
		case 0:
			bad = 0
		case 1:
			bad = all
		case 2:
			bad = min(all, 1)
		}
		alpha := math.Exp(-10 * rng.Float64())
		low, high := bounds(bad, all, alpha)
		wantLow, wantHigh := slowBounds(bad, all, alpha)
		require.InDelta(t, wantLow, low, 1e-9, "%v of %v, alpha %v", bad, all, alpha)
		require.InDelta(t, wantHigh, high, 1e-9, "%v of %v, alpha %v", bad, all, alpha)
	}
}

// TestMixtureIsAMean compares the closed form with a sum over rates.
func TestMixtureIsAMean(t *testing.T) {
	for _, c := range []struct{ bad, all float64 }{{1, 10}, {3, 40}, {20, 60}, {2, 300}} {
		mean := 0.
		for _, b := range []float64{0.5, 50} {
			const steps = 50_000
			norm, sum := 0., 0.
			for i := range steps {
				// With p = u² the density u^-1 of Beta(1/2, b) becomes smooth.
				u := (float64(i) + 0.5) / steps
				p := u * u
				density := math.Pow(1-p, b-1)
				norm += density
				sum += density * math.Pow(p, c.bad) * math.Pow(1-p, c.all-c.bad)
			}
			if b < 1 { // the other end is not smooth: its integral is known to be pi/2
				norm = steps * math.Pi / 2
			}
			mean += sum / norm / 2
		}
		assert.InDelta(t, math.Log(mean), logMixture(c.bad, c.all), 1e-4, "%+v", c)
	}
}
