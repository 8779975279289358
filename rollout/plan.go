package rollout

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

// A Plan says how traffic moves to a version. It is data: it can be printed,
// stored as JSON, and compared. The constructors [Canary], [BlueGreen],
// [Linear], [AllAtOnce], [Waves] and [FromDuration] fill in the steps; the rest
// is set by the caller. A plan must not be changed after it was submitted.
type Plan struct {
	// Version names the version that is rolled out. It must differ from that of
	// every version that runs.
	Version string `json:"version"`

	// Listeners that the version exports. May be empty: nothing is weighted then.
	Listeners []string `json:"listeners,omitempty"`

	// Locations in which the version runs. Empty means a single one without a
	// name.
	Locations []string `json:"locations,omitempty"`

	// Drops names the listeners and locations that the version that runs has, and
	// this one is meant to lack. A plan that lacks others is refused: their
	// traffic would have nowhere to go once the old version has stopped.
	Drops []string `json:"drops,omitempty"`

	Steps []Step `json:"steps"`

	// Watch is judged at every look from the first weight on, until the version
	// is promoted, also while the rollout is paused. Only a failure has an
	// effect; Analyze steps wait for a verdict. While Stats does not succeed no
	// bake counts, and Why and Status.BlindSince say so. Nil watches nothing.
	//
	// Unless it is LimitsOnly the versions are compared. Then time must pass while
	// both have traffic: in AllAtOnce and BlueGreen there is nothing to compare. And
	// while time passes the version must have the same weight at all places, or, with
	// Options.ByPlace, at all those at which both versions have traffic.
	Watch *Analysis `json:"watch,omitempty"`

	// Sticky asks the proxies to keep a user's session on one version while the
	// weights allow it. The new version's share of the requests then rises only as
	// sessions end, and while it does a comparison finds a bad version later; if it
	// rises sooner at some listeners and locations than at others, that takes
	// Options.ByPlace, or what differs between these looks like a difference of the
	// versions. All failures of one user are of one version; Analysis.Burst is for that.
	Sticky bool `json:"sticky,omitempty"`

	// Preview says how the version can be reached before it has any weight: an
	// address, a header. It is handed to the Deployer with the weights and
	// shown by Why. An Analyze step that compares what comes to it with the old
	// version's traffic wants about the same share of that at each place.
	Preview string `json:"preview,omitempty"`

	// ProgressDeadline is how long a step may make no progress before the
	// rollout goes back. Time in which the rollout is paused, or bakes, does
	// not count. Zero means 10 minutes, a negative value means no limit.
	ProgressDeadline time.Duration `json:"progressDeadline,omitempty"`

	// Drain is how long requests in flight may take when this version is
	// stopped, because the rollout went back or because a later one replaced
	// it. Zero means 30 s, a negative value means that nothing is waited for.
	Drain time.Duration `json:"drain,omitempty"`
}

// Whole is the weight of all traffic: weights are in 1/10,000.
const Whole = 10_000

// A Step is one step of a [Plan]. Make one with [StartVersion], [WaitReady],
// [SetWeight], [Bake], [Pause], [Analyze], [Gate], [Promote] or [StopOld].
type Step struct {
	Kind Kind `json:"kind"`

	// Weight, in 1/10,000, that a SetWeight step gives the new version, at one
	// listener and location, or, if these are empty, at all of them.
	Weight   int    `json:"weight,omitempty"`
	Listener string `json:"listener,omitempty"`
	Location string `json:"location,omitempty"`

	// For is how long a Bake step takes, how long a StopOld step waits before
	// it begins, and how long Analyze and Gate steps wait for a verdict.
	For time.Duration `json:"for,omitempty"`

	// Analysis of an Analyze step; nil means that of the plan's Watch.
	Analysis *Analysis `json:"analysis,omitempty"`

	// Gate of a Gate step: a key of Options.Gates.
	Gate string `json:"gate,omitempty"`

	// OnFail and OnInconclusive of a Gate step say what follows from its
	// verdict. An Analyze step has them in its Analysis.
	OnFail         Rule `json:"onFail,omitempty"`
	OnInconclusive Rule `json:"onInconclusive,omitempty"`
}

// A Kind says what a [Step] does.
type Kind string

// The kinds of steps.
const (
	KindStart     Kind = "start"      // see StartVersion
	KindWaitReady Kind = "wait ready" // see WaitReady
	KindSetWeight Kind = "set weight" // see SetWeight
	KindBake      Kind = "bake"       // see Bake
	KindPause     Kind = "pause"      // see Pause
	KindAnalyze   Kind = "analyze"    // see Analyze
	KindGate      Kind = "gate"       // see Gate
	KindPromote   Kind = "promote"    // see Promote
	KindStopOld   Kind = "stop old"   // see StopOld
)

// StartVersion starts the new version beside the old one. It comes first.
func StartVersion() Step { return Step{Kind: KindStart} }

// WaitReady waits until the new version is ready.
func WaitReady() Step { return Step{Kind: KindWaitReady} }

// SetWeight gives the new version the percentage of the traffic, at all
// listeners and locations; see [Step.At] and [Step.In]. It is done once the
// deployer has confirmed the weights. A hundredth of a percent is the smallest
// unit; the rest is rounded.
func SetWeight(percent float64) Step {
	w := percent * Whole / 100
	if !(w >= -Whole && w <= 2*Whole) {
		w = -1 // for Validate to refuse
	}
	return Step{Kind: KindSetWeight, Weight: int(math.Round(w))}
}

// At returns the step for one listener only.
func (s Step) At(listener string) Step { s.Listener = listener; return s }

// In returns the step for one location only.
func (s Step) In(location string) Step { s.Location = location; return s }

// Bake waits. The time counts only while the weights are known to be applied,
// the new version is ready and, if the plan has a Watch, Stats succeeds.
func Bake(d time.Duration) Step { return Step{Kind: KindBake, For: d} }

// Pause waits until somebody calls [Runner.Resume].
func Pause() Step { return Step{Kind: KindPause} }

// Analyze waits for a verdict of the analysis, or, if that is nil, of the
// plan's Watch. Traffic since the new version first got any is what counts. If
// there is no verdict within the given time it is inconclusive. Unless it is
// LimitsOnly the old version must have traffic too: it cannot be at 100 %.
func Analyze(a *Analysis, within time.Duration) Step {
	return Step{Kind: KindAnalyze, Analysis: a, For: within}
}

// Gate waits for the verdict of the gate of that name; see Options.Gates. It is
// asked again while it is inconclusive, for the given time. A failure rolls
// back and no verdict pauses the rollout, unless the step is changed.
func Gate(name string, within time.Duration) Step {
	return Step{Kind: KindGate, Gate: name, For: within, OnFail: ThenRollBack, OnInconclusive: ThenPause}
}

// Promote gives the new version all traffic, whatever its weights were. From
// then on no verdict makes the rollout go back; a person can until StopOld has
// begun, and so do a new version that ceases to be ready and the progress
// deadline.
func Promote() Step { return Step{Kind: KindPromote} }

// StopOld waits, with all traffic on the new version, and then stops the old
// one, which has its Drain to finish what is in flight. Once that has begun
// there is no way back, other than to roll out the old version anew. It comes
// last.
func StopOld(after time.Duration) Step { return Step{Kind: KindStopOld, For: after} }

// String describes the step in a few words.
func (s Step) String() string {
	switch s.Kind {
	case KindSetWeight:
		where := ""
		if s.Listener != "" {
			where += " at " + s.Listener
		}
		if s.Location != "" {
			where += " in " + s.Location
		}
		return "set weight " + asPercent(s.Weight) + where
	case KindBake:
		return "bake " + s.For.String()
	case KindGate:
		return "gate " + s.Gate
	case KindStopOld:
		if s.For > 0 {
			return "stop old after " + s.For.String()
		}
	}
	return string(s.Kind)
}

func asPercent(weight int) string {
	return fmt.Sprintf("%g %%", float64(weight)/(Whole/100))
}

func (s Step) covers(p Place) bool {
	return s.Kind == KindSetWeight &&
		(s.Listener == "" || s.Listener == p.Listener) &&
		(s.Location == "" || s.Location == p.Location)
}

// places returns where the version is to get traffic.
func (p Plan) places() []Place {
	return Version{Listeners: p.Listeners, Locations: p.Locations}.places()
}

// weights returns what the plan gives the version while the step of that index
// is carried out, and after it. Places without weight are not in it.
func (p Plan) weights(step int) map[Place]int {
	weights := map[Place]int{}
	for _, s := range p.Steps[:min(step+1, len(p.Steps))] {
		p.weigh(s, weights)
	}
	return weights
}

// weigh makes the weights those that the step gives the version.
func (p Plan) weigh(s Step, weights map[Place]int) {
	if s.Kind != KindSetWeight && s.Kind != KindPromote {
		return
	}
	for _, place := range p.places() {
		if s.Kind == KindPromote {
			weights[place] = Whole
		} else if s.covers(place) {
			weights[place] = s.Weight
		}
	}
}

func (p Plan) version() Version {
	return Version{ID: p.Version, Listeners: p.Listeners, Locations: p.Locations, Drain: p.drain()}
}

func (p Plan) drain() time.Duration {
	return max(0, cmp.Or(p.Drain, 30*time.Second))
}

func (p Plan) progressDeadline() time.Duration {
	if p.ProgressDeadline < 0 {
		return math.MaxInt64
	}
	return cmp.Or(p.ProgressDeadline, 10*time.Minute)
}

// index returns the index of the first step of that kind, or -1.
func (p Plan) index(kind Kind) int {
	return slices.IndexFunc(p.Steps, func(s Step) bool { return s.Kind == kind })
}
