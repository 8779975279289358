package rollout

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
)

// Verdict is what an [Analysis] makes of a version's traffic.
type Verdict int

const (
	// Inconclusive: too little traffic to say, or nothing to compare with.
	Inconclusive Verdict = iota
	// Pass: the evidence is that the new version is good enough.
	Pass
	// Fail: the evidence is that the new version is not.
	Fail
)

var verdictNames = []string{"inconclusive", "pass", "fail"}

// String returns "inconclusive", "pass" or "fail".
func (v Verdict) String() string { return nameOf(verdictNames, int(v), "Verdict") }

// MarshalText returns what String does, or an error for no known verdict.
func (v Verdict) MarshalText() ([]byte, error) { return textOf(verdictNames, int(v), "verdict") }

// UnmarshalText understands what MarshalText makes.
func (v *Verdict) UnmarshalText(text []byte) error {
	return fromText(verdictNames, text, "verdict", (*int)(v))
}

// Rule is what happens after a verdict. The zero Rule is the default of the
// field that has it.
type Rule int

const (
	// ThenContinue goes on with the next step.
	ThenContinue Rule = iota + 1
	// ThenPause waits for a person.
	ThenPause
	// ThenRollBack gives all traffic back to the old version.
	ThenRollBack
)

var ruleNames = []string{"default", "continue", "pause", "roll back"}

// String returns "default", "continue", "pause" or "roll back".
func (r Rule) String() string { return nameOf(ruleNames, int(r), "Rule") }

// MarshalText returns what String does, or an error for no known rule.
func (r Rule) MarshalText() ([]byte, error) { return textOf(ruleNames, int(r), "rule") }

// UnmarshalText understands what MarshalText makes.
func (r *Rule) UnmarshalText(text []byte) error {
	return fromText(ruleNames, text, "rule", (*int)(r))
}

// Analysis says when a new version is good enough, and when it is not. The zero
// value is good for use: it compares the share of failures of the new version
// with that of the old one, and no more than three restarts are forgiven.
type Analysis struct {
	// Tolerance is by how much the share of failures of the new version may
	// exceed that of the old one: 0.005 forgives five more failures in a
	// thousand requests. It passes once it is shown to exceed by less, and fails
	// once it is shown to be worse and what was seen exceeds by more. A quarter
	// of it takes more than four times the requests to pass. Zero means 0.005.
	Tolerance float64 `json:"tolerance,omitempty"`

	// SlowTolerance is the same for slow requests, those that take longer than
	// 99 of 100 of the old version's: with 0.02 up to 3 in 100 may. Zero means
	// that latency is not compared: a new version often starts with cold caches.
	SlowTolerance float64 `json:"slowTolerance,omitempty"`

	// FalseAlarm is the chance that a version is failed that is no worse than
	// the old one and keeps within the limits below, however long the traffic
	// is watched and however often it is judged. Zero means 0.01.
	FalseAlarm float64 `json:"falseAlarm,omitempty"`

	// FalsePass is the chance that a version passes that exceeds a tolerance,
	// however often it is judged in one window. Zero means 0.05.
	FalsePass float64 `json:"falsePass,omitempty"`

	// MinRequests is how many requests a version must have had to pass. Zero
	// means 100.
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
	// no traffic at the same time: after a switch of all traffic at once.
	// MinSuccess or MaxP99 must be set then.
	LimitsOnly bool `json:"limitsOnly,omitempty"`

	// OnFail is what happens on Fail. Zero means ThenRollBack.
	OnFail Rule `json:"onFail,omitempty"`

	// OnInconclusive is what happens when the time for the analysis is over and
	// it is still inconclusive. Zero means ThenPause.
	OnInconclusive Rule `json:"onInconclusive,omitempty"`
}

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
		if !(f.share >= 0 && f.share <= 0.5) {
			bad(f.name, f.share, "it is a chance, from 0 (the default) to 0.5")
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

// Window is the traffic of both versions over the same stretch of time, in which
// the weights did not change.
type Window struct {
	Old Traffic `json:"old"`
	New Traffic `json:"new"`
}

// Judgement is a verdict and what it rests on. Figures that compare are those of
// the window judged, but for Evidence, which sums up all windows.
type Judgement struct {
	Verdict Verdict `json:"verdict"`

	// Reason says in one line, with figures, why, or what is missing.
	Reason string `json:"reason"`

	// OldRequests and NewRequests are how many requests there were.
	OldRequests uint64 `json:"oldRequests"`
	NewRequests uint64 `json:"newRequests"`

	// OldFailing and NewFailing are the shares of them that failed.
	OldFailing float64 `json:"oldFailing"`
	NewFailing float64 `json:"newFailing"`

	// Excess is NewFailing - OldFailing, and AtMost the bound below which the
	// true one is, but for the chance FalsePass. AtMost is 1 where there is
	// nothing to compare.
	Excess float64 `json:"excess"`
	AtMost float64 `json:"atMost"`

	// Evidence says how much more likely the failures are if the new version is
	// worse than if it is not (an e-value). 1 says nothing; at Needed it fails.
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

func nameOf(names []string, i int, typ string) string {
	if i < 0 || i >= len(names) {
		return fmt.Sprintf("%s(%d)", typ, i)
	}
	return names[i]
}

func textOf(names []string, i int, what string) ([]byte, error) {
	if i < 0 || i >= len(names) {
		return nil, fmt.Errorf("no %s has the number %d", what, i)
	}
	return []byte(names[i]), nil
}

func fromText(names []string, text []byte, what string, to *int) error {
	for i, name := range names {
		if name == string(text) {
			*to = i
			return nil
		}
	}
	return fmt.Errorf("no %s is called %q: use one of %s", what, text, strings.Join(names, ", "))
}

// Judge says what the traffic of the new version is worth beside the old one's.
func (a Analysis) Judge(old, new Traffic, earlier ...Window) Judgement {
	a = a.withDefaults()
	return Judgement{}
}
