package rollout

import (
	"cmp"
	"fmt"
	"strconv"
	"time"
)

// An Action is a call to the [Deployer] that is wanted.
type Action struct {
	Kind    ActionKind
	Version string        // of Start, Ready and Stop
	Drain   time.Duration // of Stop
	Weights Weights       // of SetWeights
	Gate    string        // of Gate
	Step    int           // of Gate: the index of its step

	// Revision of the weights that Stats is asked under, if they are applied and
	// the new version is ready; else 0: only its restarts count then.
	Revision uint64

	// Back: it takes traffic away from the new version. It does not wait until
	// the state is recorded.
	Back bool
}

// An ActionKind says what an [Action] calls.
type ActionKind string

// The kinds of actions.
const (
	ActStart      ActionKind = "start"
	ActReady      ActionKind = "ready"
	ActSetWeights ActionKind = "set weights"
	ActStop       ActionKind = "stop"
	ActStats      ActionKind = "stats"
	ActGate       ActionKind = "gate"
)

// key says what failures in a row are counted by.
func (a Action) key() string {
	switch name := cmp.Or(a.Version, a.Gate); {
	case name != "":
		return string(a.Kind) + " " + name
	case a.Back:
		return string(a.Kind) + " back"
	}
	return string(a.Kind)
}

// identity tells actions apart that are not the same call.
func (a Action) identity() string {
	switch a.Kind {
	case ActSetWeights:
		return string(a.Kind) + " " + strconv.FormatUint(a.Weights.Revision, 10)
	case ActGate:
		return a.key() + " " + strconv.Itoa(a.Step)
	}
	return a.key()
}

// needsOwner reports whether the action would do harm if another Runner had taken
// over: unlike weights, it has no revision that tells it from a later one.
func (a Action) needsOwner() bool { return a.Kind == ActStart || a.Kind == ActStop }

// String describes the action in a few words.
func (a Action) String() string {
	if a.Kind == ActSetWeights {
		return fmt.Sprintf("set weights, revision %s", revision(a.Weights.Revision))
	}
	return a.key()
}

// revision writes epoch and count.
func revision(r uint64) string { return fmt.Sprintf("%d.%d", r>>32, uint32(r)) }

// An Outcome is how a call has ended.
type Outcome struct {
	Action Action
	Err    string // empty means that it succeeded

	// Permanent: the error says that trying again is of no use.
	Permanent bool
	// Hung: the call did not return in time and was left behind. There is
	// another outcome when it returns, with Late set.
	Hung, Late bool

	Readiness Readiness          // of Ready
	Traffic   map[string]Traffic // of Stats
	Judgement Judgement          // of Gate
}

// An Observation is what happened since the last step.
type Observation struct {
	Begun    []Action // calls that were begun
	Outcomes []Outcome
}
