package rollout

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Analysis says when a new version is good enough, and when it is not. The zero
// value is good for use: it compares the share of failures of the new version
// with that of the old one, and no more than three restarts are forgiven.
type Analysis struct {
	// Tolerance is by how much the share of failures of the new version may
	// exceed that of the old one: 0.005 forgives five more failures in a
	// thousand requests. It passes once it is shown to exceed by less, and fails
	// once it is shown to exceed by more. What is near to it takes long, either
	// way. A quarter of it takes more than four times the requests to pass, and
	// finds a version that is a little bad sooner; VERDICTS.md has figures. Zero
	// means 0.005.
	Tolerance float64 `json:"tolerance,omitempty"`

	// SlowTolerance is the same for slow requests, those that take longer than
	// 99 of 100 of the old version's: with 0.02 up to 3 in 100 may. Zero means
	// that latency is not compared: a new version often starts with cold caches.
	// Nothing fails for it in a window in which fewer than 1,000 requests of the
	// old version were timed; as a Runner's windows last five minutes, that is so
	// always if it has fewer than 3.3 a second.
	SlowTolerance float64 `json:"slowTolerance,omitempty"`

	// FalseAlarm is the chance that a version is failed that exceeds the old one
	// by no more than the tolerances and keeps within the limits below, however
	// long the traffic is watched and however often it is judged. From 1e-9 to
	// 0.5; zero means 0.01.
	FalseAlarm float64 `json:"falseAlarm,omitempty"`

	// FalsePass is the chance that a version passes that exceeds a tolerance,
	// however often it is judged in one window. From 1e-9 to 0.5; zero means 0.05.
	FalsePass float64 `json:"falsePass,omitempty"`

	// MinRequests is how many requests the new version must have had in the last
	// window to pass, of those that are compared if it is. Zero means 100.
	MinRequests uint64 `json:"minRequests,omitempty"`

	// Burst is how many failures may have one cause: the tries of a client that
	// tries again, the requests that wait for one lock. Evidence then counts
	// failures divided by Burst. Zero means 1: each has its own.
	Burst float64 `json:"burst,omitempty"`

	// MinSuccess is the least share of the new version's requests that must not
	// fail, whatever the old version's: 0.99. To pass, what was seen must be as
	// good; to fail, it must be shown to be worse. Zero means no limit.
	MinSuccess float64 `json:"minSuccess,omitempty"`

	// MaxP99 is the longest time that 99 of 100 requests of the new version may
	// take at most. To pass, what was seen must be as good, up to the error of
	// the [Histogram]; to fail, it must be shown to be worse. Zero means no limit.
	MaxP99 time.Duration `json:"maxP99,omitempty"`

	// MaxRestarts is how many restarts of the new version are forgiven. Zero
	// means 3; with a negative number none is.
	MaxRestarts int `json:"maxRestarts,omitempty"`

	// LimitsOnly leaves the comparison with the old version out, where that has
	// no traffic at the same time, after a switch of all traffic at once, or not
	// the same traffic, as in waves over locations whose traffic is not counted by
	// place. MinSuccess or MaxP99 must be set then, and SlowTolerance must not.
	LimitsOnly bool `json:"limitsOnly,omitempty"`

	// OnFail is what happens on Fail. Zero means ThenRollBack.
	OnFail Rule `json:"onFail,omitempty"`

	// OnInconclusive is what happens when the time for the analysis is over and
	// it is still inconclusive. Zero means ThenPause.
	OnInconclusive Rule `json:"onInconclusive,omitempty"`
}

const (
	leastChance  = 1e-9 // of FalseAlarm and FalsePass
	mostEvidence = 1e12 // that is told; more than is ever needed
)

// Validate returns an error that names each field that is out of its range.
func (a Analysis) Validate() error {
	var errs []error
	bad := func(field string, value any, remedy string) {
		errs = append(errs, fmt.Errorf("field Analysis.%s is %v: %s", field, value, remedy))
	}
	for _, f := range []struct {
		name  string
		share float64
	}{{"Tolerance", a.Tolerance}, {"SlowTolerance", a.SlowTolerance}, {"MinSuccess", a.MinSuccess}} {
		if !(f.share >= 0 && f.share < 1) {
			bad(f.name, f.share, "it is a share, from 0 to less than 1")
		}
	}
	for _, f := range []struct {
		name  string
		share float64
	}{{"FalseAlarm", a.FalseAlarm}, {"FalsePass", a.FalsePass}} {
		if f.share != 0 && !(f.share >= leastChance && f.share <= 0.5) {
			bad(f.name, f.share, fmt.Sprintf("it is a chance, from %v to 0.5, or 0 for the default", leastChance))
		}
	}
	if a.Burst != 0 && !(a.Burst >= 1 && !math.IsInf(a.Burst, 0)) {
		bad("Burst", a.Burst, "it must be at least 1")
	}
	if a.MaxP99 < 0 {
		bad("MaxP99", a.MaxP99, "it must not be negative")
	}
	if a.LimitsOnly && a.MinSuccess == 0 && a.MaxP99 == 0 {
		bad("LimitsOnly", true, "set MinSuccess or MaxP99, or any version passes")
	}
	if a.LimitsOnly && a.SlowTolerance != 0 {
		bad("SlowTolerance", a.SlowTolerance, "it compares with the old version, which LimitsOnly forbids")
	}
	for _, f := range []struct {
		name string
		rule Rule
	}{{"OnFail", a.OnFail}, {"OnInconclusive", a.OnInconclusive}} {
		if f.rule < 0 || int(f.rule) >= len(ruleNames) {
			bad(f.name, int(f.rule), "use ThenContinue, ThenPause or ThenRollBack")
		}
	}
	return errors.Join(errs...)
}

func (a Analysis) withDefaults() Analysis {
	a.Tolerance = cmp.Or(a.Tolerance, 0.005)
	a.FalseAlarm = cmp.Or(a.FalseAlarm, 0.01)
	a.FalsePass = cmp.Or(a.FalsePass, 0.05)
	a.MinRequests = cmp.Or(a.MinRequests, 100)
	a.Burst = cmp.Or(a.Burst, 1)
	a.MaxRestarts = max(0, cmp.Or(a.MaxRestarts, 3))
	a.OnFail = cmp.Or(a.OnFail, ThenRollBack)
	a.OnInconclusive = cmp.Or(a.OnInconclusive, ThenPause)
	return a
}

// Rule returns what happens after v: ThenContinue after Pass, else what OnFail
// or OnInconclusive say.
func (a Analysis) Rule(v Verdict) Rule {
	a = a.withDefaults()
	switch v {
	case Pass:
		return ThenContinue
	case Fail:
		return a.OnFail
	default:
		return a.OnInconclusive
	}
}

// Judgement is a verdict and what it rests on. Its figures are those of the traffic
// judged and of the earlier windows next to it that had the same split, but
// Evidence and Restarts sum up all windows.
type Judgement struct {
	Verdict Verdict `json:"verdict"`

	// Reason says in one line, with figures, why, or what is missing. The figures
	// of a failure are those of the windows that decided.
	Reason string `json:"reason"`

	// OldRequests are those that the new version's are compared with, and NewRequests
	// all of the new version's.
	OldRequests uint64 `json:"oldRequests"`
	NewRequests uint64 `json:"newRequests"`

	// OldFailing and NewFailing are the shares of them that failed.
	OldFailing float64 `json:"oldFailing"`
	NewFailing float64 `json:"newFailing"`

	// Excess is by how much the share that failed exceeds the old version's, where
	// both are compared, and AtMost the bound below which the true one is, but for
	// the chance FalsePass. AtMost is 1 where there is nothing to compare.
	Excess float64 `json:"excess"`
	AtMost float64 `json:"atMost"`

	// Evidence says how much more likely it is that failures hit the new version
	// as they did if it exceeds the old one by more than Tolerance than if it does
	// not (an e-value). 1 says nothing, less speaks for the new version, and
	// from Needed on it is shown. It stops at 10^12.
	Evidence float64 `json:"evidence"`
	Needed   float64 `json:"needed"`

	// P99 and OldP99 are latencies, 0 if nothing was timed.
	P99    time.Duration `json:"p99"`
	OldP99 time.Duration `json:"oldP99"`

	// Restarts is how often the new version was restarted.
	Restarts uint64 `json:"restarts"`
}

// String returns the verdict and the reason.
func (j Judgement) String() string { return j.Verdict.String() + ": " + j.Reason }

// Judge compares the traffic of the new version with that of the old one over
// the same time, since the weights were last changed, at the places where both have
// some if it is told by place. It depends on nothing else, so it may be called at any
// time and as often as one likes: the chances that the fields of [Analysis] speak of
// are for all calls together. It expects that Validate returned nil.
//
// Pass and Fail are final where one acts on them. Where one does not, a version
// that passed may fail later, and one that failed may pass.
//
// Earlier windows, oldest first, add to the evidence that a version is bad, and
// those next to the last one with the same split, within a tenth and what may be
// chance, also to the evidence that it is good. A window has to end when the
// weights change: if it spans a change of weights, a change of the failure rate
// of both versions looks like one of the new version's alone. So does one in which
// the new version's share of the requests moves while the weights stay, as where
// sessions stick: end it, too, when the share has moved, or set its Peak. A window
// may end at other times, but not for failures that were counted: one that ends
// every few minutes lets a version be found sooner that turns bad late. Of too many
// windows leave out the oldest, and keep the Index of the others: the evidence that
// begins with the window of an index has a share of FalseAlarm that becomes smaller
// with the index, and must not grow because windows are forgotten. Only that of the
// first of them is looked at.
func (a Analysis) Judge(old, new Traffic, earlier ...Window) Judgement {
	last := Window{Old: old.total(), New: new.total()}
	if len(old.Places) > 0 && len(new.Places) > 0 {
		var both []Place
		for _, p := range old.Places {
			if new.find(p.Place) >= 0 {
				both = append(both, p.Place)
			}
		}
		slices.SortFunc(both, comparePlaces)
		last = windowAt(old, new, both)
	}
	last.New.Restarts = new.Restarts
	return a.judge(last, earlier)
}

func (a Analysis) judge(last Window, earlier []Window) Judgement {
	a = a.withDefaults()
	windows := make([]Window, 0, len(earlier)+1)
	windows = append(append(windows, earlier...), last)

	b := bench{Analysis: a, windows: windows}
	b.first = max(0, windows[0].Index)
	b.alpha = a.FalseAlarm / float64(b.tests())
	b.pools = []Window{last}
	for i := len(windows) - 2; i >= 0 && alike(windows[i], last); i-- {
		b.pools = append(b.pools, b.pools[len(b.pools)-1].plus(windows[i]))
	}
	pool := b.pool()

	failed, all := failures(pool), pool.all()
	j := Judgement{
		OldRequests: pool.Old.Requests,
		NewRequests: all.Requests,
		OldFailing:  share(failed.oldBad, failed.oldAll),
		NewFailing:  share(all.Failures, all.Requests),
		Excess:      failed.excess(),
		AtMost:      1,
		Evidence:    1,
		Needed:      1 / b.alpha,
		P99:         all.Latency.Quantile(0.99),
		OldP99:      pool.Old.Latency.Quantile(0.99),
	}
	for _, w := range windows {
		j.Restarts = saturating(j.Restarts, w.New.Restarts)
	}

	b.restarts(j.Restarts)
	if !a.LimitsOnly {
		j.Evidence, j.AtMost = b.compare("failed", Window.failures, failures, a.Tolerance)
		if a.SlowTolerance > 0 {
			b.compare("were slow", func(w Window) []tally { return []tally{slow(w)} }, slow, a.SlowTolerance)
		}
	}
	b.minSuccess()
	b.maxP99()
	n := last.New.Requests
	if a.LimitsOnly {
		n = last.all().Requests
	}
	if n < a.MinRequests {
		b.lacks("the new version had %d requests of late, of the %d it needs", n, a.MinRequests)
	}

	switch {
	case len(b.against) > 0:
		j.Verdict, j.Reason = Fail, strings.Join(b.against, "; ")
	case len(b.missing) > 0:
		j.Verdict, j.Reason = Inconclusive, strings.Join(b.missing, "; ")
	default:
		j.Verdict, j.Reason = Pass, strings.Join(b.inFavour, "; ")
	}
	return j
}

// bench is a case being heard.
type bench struct {
	Analysis
	windows []Window
	first   int      // the index of the first window
	pools   []Window // the last window, the last two added up, and so on, while the split is the same
	alpha   float64  // the part of FalseAlarm that each test has

	against, missing, inFavour []string
}

// pool returns the traffic of all windows that have the split of the last one.
func (b *bench) pool() Window { return b.pools[len(b.pools)-1] }

// tests counts those that share FalseAlarm.
func (b *bench) tests() int {
	n := 0
	for _, on := range []bool{!b.LimitsOnly, b.SlowTolerance > 0, b.MinSuccess > 0, b.MaxP99 > 0} {
		if on {
			n++
		}
	}
	return max(n, 1)
}

func (b *bench) fails(format string, args ...any) {
	b.against = append(b.against, fmt.Sprintf(format, args...))
}

func (b *bench) lacks(format string, args ...any) {
	b.missing = append(b.missing, fmt.Sprintf(format, args...))
}

func (b *bench) good(format string, args ...any) {
	b.inFavour = append(b.inFavour, fmt.Sprintf(format, args...))
}

func (b *bench) restarts(n uint64) {
	if n > uint64(b.MaxRestarts) {
		b.fails("the new version was restarted %d times, at most %d are forgiven", n, b.MaxRestarts)
	}
}

// compare judges whether the share of the new version's requests that are bad
// exceeds the old one's by more than the tolerance, and returns the evidence that
// it does, and by how much it exceeds at most. A window counts for the first as each,
// by place, and for the second as count.
func (b *bench) compare(what string, each func(Window) []tally, count func(Window) tally, tolerance float64) (evidence, atMost float64) {
	tallies := tallied(b.windows, each)
	pool := count(b.pool())
	log, from := logEvidence(tallies, b.first, tolerance, b.Burst)
	evidence = math.Exp(min(log, math.Log(mostEvidence)))
	shown := log >= -math.Log(b.alpha)
	if !pool.comparable() && !shown {
		b.lacks("nothing to compare: of the old version %d requests count, of the new one %d", pool.oldAll, pool.newAll)
		return evidence, 1
	}
	// An incident of both versions makes the traffic around it say little: what
	// came after it may show alone that the new version is good. A quarter of
	// FalsePass is for that.
	atMost = pool.atMost(b.FalsePass*0.75, b.Burst)
	for i, p := range b.pools[:len(b.pools)-1] {
		chance := b.FalsePass * 0.25 * startWeight(len(b.pools)-2-i)
		atMost = min(atMost, count(p).atMost(chance, b.Burst))
	}
	seen := func(old, new float64) string {
		return fmt.Sprintf("%s of the new version's requests %s, %s of the old one's", percentOf(new), what, percentOf(old))
	}
	inPool := seen(share(pool.oldBad, pool.oldAll), share(pool.newBad, pool.newAll))
	odd, uneven := b.pool().odd()
	switch {
	case shown:
		b.fails("%s%s: worse by more than %s, evidence %.3g of %.3g",
			seen(rates(tallies[from:])), b.since(from), percentOf(tolerance), evidence, 1/b.alpha)
	case uneven:
		b.lacks("%s: it had %d of %d requests%s, but %s of all: they cannot be added up",
			inPool, odd.New.Requests, saturating(odd.New.Requests, odd.Old.Requests), odd.Place, percentOf(share(pool.newAll, saturating(pool.newAll, pool.oldAll))))
		atMost = 1
	case atMost <= tolerance:
		b.good("%s: at most %s worse, %s are forgiven", inPool, percentOf(max(0, atMost)), percentOf(tolerance))
	default:
		b.lacks("%s: may still be worse by %s, %s are forgiven", inPool, percentOf(atMost), percentOf(tolerance))
	}
	return evidence, atMost
}

// since says of which windows figures are that begin with that one.
func (b *bench) since(from int) string {
	if n := len(b.windows) - from; n > 1 {
		return fmt.Sprintf(" (in the last %d windows)", n)
	}
	return ""
}

func tallied[W, T any](windows []W, count func(W) T) []T {
	tallies := make([]T, len(windows))
	for i, w := range windows {
		tallies[i] = count(w)
	}
	return tallies
}

func (b *bench) minSuccess() {
	if b.MinSuccess == 0 {
		return
	}
	failed := func(t Traffic) tally { return tally{newAll: t.Requests, newBad: min(t.Failures, t.Requests)} }
	b.limit(1-b.MinSuccess, failed, func(t Traffic) string {
		return fmt.Sprintf("%s of the new version's requests succeeded, the least is %s",
			percentOf(t.SuccessRate()), percentOf(b.MinSuccess))
	})
}

func (b *bench) maxP99() {
	if b.MaxP99 == 0 {
		return
	}
	late := func(t Traffic) tally { return tally{newAll: t.Latency.Count(), newBad: t.Latency.Above(b.MaxP99)} }
	if late(b.pool().all()).newAll == 0 {
		b.lacks("none of the new version's requests was timed")
		return
	}
	b.limit(0.01, late, func(t Traffic) string {
		return fmt.Sprintf("the new version's p99 is %v, the most is %v", t.Latency.Quantile(0.99), b.MaxP99)
	})
}

// limit judges whether more than a share of the new version's requests are bad.
func (b *bench) limit(most float64, count func(Traffic) tally, seen func(Traffic) string) {
	from := exceeds(tallied(b.windows, func(w Window) tally { return count(w.all()) }), b.first, most, b.alpha, b.Burst)
	all := b.pool().all()
	pool := count(all)
	switch {
	case from >= 0:
		var decided Traffic
		for _, w := range b.windows[from:] {
			decided = decided.Add(w.all())
		}
		b.fails("%s%s", seen(decided), b.since(from))
	case share(pool.newBad, pool.newAll) > most:
		b.lacks("%s: that may be chance", seen(all))
	default:
		b.good("%s", seen(all))
	}
}

// percentOf writes a share with three digits.
func percentOf(share float64) string { return fmt.Sprintf("%.3g %%", 100*share) }
