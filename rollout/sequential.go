package rollout

import (
	"math"
	"slices"
)

// The tests here may be looked at as often as one likes, after each request for
// ever, and stopped whenever one likes (they are anytime-valid; Ramdas, Grünwald,
// Vovk, Shafer, "Game-theoretic statistics and safe anytime-valid inference",
// 2023). All are functions of counts: nothing has to be kept between looks.
//
// Is the new version worse? Where both versions get traffic at the same time, the
// question is asked of failures: whose was it? If the new version has the share w
// of the requests and is no worse, a failure is its own with a chance of at most
// w, and that is so whatever the failure rate is at the time: an outage that hits
// both brings many failures, but still a share of w. If it fails rho times as
// often as the old one the chance is w·rho / (w·rho + 1 - w). This way to see it
// is that of Przyborowski and Wilenski (1940) for two Poisson counts, of vaccine
// surveillance (Kulldorff et al., "A maximized sequential probability ratio
// test", 2011), and, for canaries, of Lindon and Malek ("Anytime-valid inference
// for multinomial count data", 2022). The likelihood ratio after F failures, f of
// them the new version's, is
//
//	rho^f / (1 + w·(rho-1))^F
//
// Is it worse by more than a tolerance tau? The same ratio can be read as a bet.
// Let X be 1/w for a failure of the new version, -1/(1-w) for one of the old
// one's, and 0 for a request that succeeded. If they fail at rates p and q the mean
// of X is p-q, whatever q is. With the stake
//
//	s = w·(1-w)·(rho-1) / (1 + w·(rho-1))
//
// 1 + s·X is just what a request contributes to the ratio. If p <= q + tau its
// mean is at most 1 + s·tau, so the ratio after n requests is divided by
//
//	(1 + s·tau)^n
//
// A product of factors with means of at most 1, whatever came before, is a test
// supermartingale: if the new version exceeds the old one by no more than tau, at
// any of the times, it ever exceeds 1/alpha with a chance of at most alpha
// (Ville's inequality). So is a mean of several, with fixed weights; rho being
// unknown, that is what is taken (Robbins, "Statistical methods related to the
// law of the iterated logarithm", 1970). Twelve values of rho cost a factor of at
// most twelve against knowing it: one or two failures' worth.
//
// Betting on a mean is the way of Waudby-Smith and Ramdas ("Estimating means of
// bounded random variables by betting", 2023).
//
// The failures of several windows, each with its own w, multiply for the same
// rho. And since a version may turn bad late, a mean is taken over the windows at
// which the counting starts, too (a mixture over the time of the change, as in
// Shin, Ramdas, Rinaldo, "E-detectors", 2023).

// ratios are the values of rho: how many times as often as the old version the
// new one might fail. Likelihoods change slowly in rho, so those between two of
// them are not missed.
var ratios = [...]float64{1.1, 1.2, 1.4, 1.8, 2.5, 4, 7, 12, 25, 50, 100, 1000}

// tally is how many requests there were in one window, and how many of them
// were bad: had failed, or were slow.
type tally struct {
	oldAll, oldBad uint64
	newAll, newBad uint64

	peak float64 // see Window.Peak
}

// newShare returns w, the new version's share of the requests. The share that
// was wanted may not be what came (sessions that stick, several listeners), so
// it is the one that was seen, with one request more for the new version: that
// keeps the first few requests, whose share is known least, from saying much.
//
// With the share that was seen the factors are not independent any more, but on
// the safe side. Given who had which request, the mean of the ratio is at most the
// n-th power of 1 + s·(p-q), as the logarithm is concave: so with p <= q + tau the
// evidence has a mean of at most 1 at any one time. And where with the wanted share
// it is about a sum of Y·(A-w), with Y 1 for a request that failed, at the rate q,
// and A 1 for one that the new version had, it is now about one of (Y-q)·(A-w),
// which is a martingale as well and has the smaller variance. TestExactFalseAlarms
// has the exact error.
func (t tally) newShare() float64 {
	return (float64(t.newAll) + 1) / (float64(t.newAll) + float64(t.oldAll) + 1)
}

// mostShare returns the largest share that the new version had at any time. If
// the true one is w' <= w at some time, 1 + s·X with the stake of w has a mean of
// 1 + s·(p-q)·w'/w - s·q·(1-w'/w)/(1-w) there, so with p <= q + tau still of at
// most 1 + s·tau: a share that is too large costs time, but makes no false alarm.
func (t tally) mostShare() float64 { return max(t.newShare(), min(t.peak, 1)) }

// leastShare returns what the new version's share of the requests was at least,
// but for what may be chance.
func (t tally) leastShare() float64 {
	if !t.comparable() {
		return 0
	}
	w := t.newShare()
	return max(0, w-2*math.Sqrt(w*(1-w)/(float64(t.newAll)+float64(t.oldAll))))
}

func (t tally) plus(u tally) tally {
	return tally{
		oldAll: saturating(t.oldAll, u.oldAll), oldBad: saturating(t.oldBad, u.oldBad),
		newAll: saturating(t.newAll, u.newAll), newBad: saturating(t.newBad, u.newBad),
	}
}

// excess is by how much the share of the new version's requests that were bad
// exceeds that of the old one's.
func (t tally) excess() float64 { return share(t.newBad, t.newAll) - share(t.oldBad, t.oldAll) }

// comparable reports whether both versions had requests.
func (t tally) comparable() bool { return t.oldAll > 0 && t.newAll > 0 }

// logEvidence returns the logarithm of the e-value against "the new version
// exceeds the old one by at most the tolerance in each of the windows", and at each
// place, of which each window has the same or others: each place has a w of its own,
// and their ratios multiply. The first window has that index: counts that started
// with an earlier one are given up.
// From is the window at which the count starts that says most. Bad requests come
// in bursts of up to burst with one cause: a ratio to the power of 1/burst gains no
// more from a whole burst than from one, and by Jensen's inequality is on average
// no more than 1 for a smaller one.
func logEvidence(windows [][]tally, first int, tolerance, burst float64) (log float64, from int) {
	var sum logSum
	most := math.Inf(-1)
	// The ratios of the windows from the one at hand to the last, for each rho.
	var suffix [len(ratios)]float64
	for i := len(windows) - 1; i >= 0; i-- {
		var mean logSum
		for k, rho := range ratios {
			for _, t := range windows[i] {
				if !t.comparable() {
					continue
				}
				w := t.mostShare()
				bad, all := float64(t.newBad)+float64(t.oldBad), float64(t.newAll)+float64(t.oldAll)
				stake := w * (1 - w) * (rho - 1) / (1 + w*(rho-1))
				suffix[k] += (float64(t.newBad)*math.Log(rho) - bad*math.Log1p(w*(rho-1)) - all*math.Log1p(stake*tolerance)) / burst
			}
			mean.add(suffix[k])
		}
		count := mean.log() - math.Log(float64(len(ratios))) + math.Log(startWeight(first+i))
		if count > most {
			most, from = count, i
		}
		sum.add(count)
	}
	return sum.log(), from
}

// rates returns the shares of the bad requests of both versions, each a mean over
// the windows, and places, with the same weights, which are those that the evidence gives them
// (Mantel and Haenszel, 1959): of windows with different splits a sum may show what
// is so in none of them.
func rates(windows [][]tally) (old, new float64) {
	var weights float64
	for _, t := range slices.Concat(windows...) {
		if t.comparable() {
			weight := 1 / (1/float64(t.oldAll) + 1/float64(t.newAll))
			weights += weight
			old += weight * share(t.oldBad, t.oldAll)
			new += weight * share(t.newBad, t.newAll)
		}
	}
	if weights == 0 {
		return 0, 0
	}
	return old / weights, new / weights
}

// startWeight is the weight of a count that starts at window i of all that there
// were; of any number of windows they add up to less than 1. It must not change
// while the count goes on.
func startWeight(i int) float64 { return 1 / (float64(i+1) * float64(i+2)) }

// bounds returns between which ends the chance lies of which bad out of all are
// the outcome. At all times together they are wrong with a chance of alpha: a
// confidence sequence by the method of mixtures (Robbins 1970; Howard, Ramdas,
// McAuliffe, Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence
// sequences", 2021). Of the likelihoods of all chances the mean is taken, half by
// a prior for rates of any size, Beta(1/2, 1/2), half by one for the small rates
// that requests have, Beta(1/2, 50); chances that are 1/alpha times less likely
// than that are out. Unlike the test above this holds for a chance that is
// constant, or changes slowly.
func bounds(bad, all, alpha float64) (low, high float64) {
	if all == 0 {
		return 0, 1
	}
	// A mean is at most the largest; beyond 10^15 requests rounding may say otherwise.
	mixture := logMixture(bad, all)
	switch bad {
	case 0:
		return 0, -math.Expm1((min(mixture, 0) + math.Log(alpha)) / all)
	case all:
		return math.Exp((min(mixture, 0) + math.Log(alpha)) / all), 1
	}
	// As a function of the log-odds x the log-likelihood is concave, so Newton's
	// method comes nearer to a bound from outside and never steps inside.
	likelihood := func(x float64) float64 { return bad*x - all*(max(x, 0)+math.Log1p(math.Exp(-math.Abs(x)))) }
	seen := math.Log(bad / (all - bad))
	best := likelihood(seen)
	target := min(mixture, best) + math.Log(alpha)
	side := func(direction float64) float64 {
		step := math.Sqrt(2 * (best - target) * all / (bad * (all - bad))) // right if it were a parabola
		x := seen + direction*step
		for range 60 {
			if likelihood(x) < target {
				break
			}
			step *= 2
			x = seen + direction*step
		}
		for range 60 {
			next := x + (target-likelihood(x))/(bad-all*logistic(x))
			if !(direction*(x-next) > 1e-13*max(1, math.Abs(x))) {
				break
			}
			x = next
		}
		return logistic(x)
	}
	return side(-1), side(1)
}

func logistic(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// logMixture returns the logarithm of the mean, over the priors, of the
// likelihood of one sequence of all outcomes of which bad are bad.
func logMixture(bad, all float64) float64 {
	var sum logSum
	for _, prior := range [...]struct{ a, b float64 }{{0.5, 0.5}, {0.5, 50}} {
		sum.add(math.Log(0.5) + logBeta(prior.a+bad, prior.b+(all-bad)) - logBeta(prior.a, prior.b))
	}
	return sum.log()
}

func logBeta(a, b float64) float64 {
	la, _ := math.Lgamma(a)
	lb, _ := math.Lgamma(b)
	lab, _ := math.Lgamma(a + b)
	return la + lb - lab
}

// atMost returns what the excess of the new version is at most, but for the
// chance alpha, whenever one looks. Most of alpha goes to the new version, which
// usually has less traffic.
func (t tally) atMost(alpha, burst float64) float64 {
	if !t.comparable() {
		return 1
	}
	_, high := bounds(float64(t.newBad)/burst, float64(t.newAll)/burst, alpha*0.8)
	low, _ := bounds(float64(t.oldBad)/burst, float64(t.oldAll)/burst, alpha*0.2)
	return high - low
}

// exceeds returns the last window from which on the chance of a bad request of the
// new version is shown to be above limit, or -1; wrongly, with a chance of at most
// alpha over all looks. The first window has that index.
func exceeds(windows []tally, first int, limit, alpha, burst float64) (from int) {
	var suffix tally
	for i := len(windows) - 1; i >= 0; i-- {
		suffix = suffix.plus(windows[i])
		low, _ := bounds(float64(suffix.newBad)/burst, float64(suffix.newAll)/burst, alpha*startWeight(first+i))
		if low > limit {
			return i
		}
	}
	return -1
}

// logSum adds up numbers of which it is told the logarithms.
type logSum struct {
	largest float64
	rest    float64 // the sum, divided by exp(largest); 0 if nothing was added
}

func (s *logSum) add(log float64) {
	switch {
	case s.rest == 0:
		s.largest, s.rest = log, 1
	case log <= s.largest:
		s.rest += math.Exp(log - s.largest)
	default:
		s.rest = s.rest*math.Exp(s.largest-log) + 1
		s.largest = log
	}
}

func (s *logSum) log() float64 { return s.largest + math.Log(s.rest) }
