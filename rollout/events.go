package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// An Event is something that happened in a rollout, and was recorded: what a
// reader has seen of events, a restart does not undo. Each says where the
// rollout stood then, so that the newest is enough for who needs no history.
type Event struct {
	Seq     uint64    `json:"seq"` // 1, 2, 3 ...
	Time    time.Time `json:"time"`
	Kind    EventKind `json:"kind"`
	Version string    `json:"version,omitempty"` // that it is about
	Phase   Phase     `json:"phase"`
	Step    int       `json:"step"` // counted from 1; 0 if there is none
	Steps   int       `json:"steps"`
	Reason  string    `json:"reason,omitempty"`
}

// An EventKind says what an [Event] is about.
type EventKind string

// The kinds of events.
const (
	Submitted      EventKind = "submitted"
	Superseded     EventKind = "superseded"
	PhaseChanged   EventKind = "phase" // Phase, Reason
	StepBegun      EventKind = "step"  // Step; Reason says which
	WeightsApplied EventKind = "weights applied"
	BecameReady    EventKind = "ready"
	BecameUnready  EventKind = "not ready"
	VerdictGiven   EventKind = "verdict"
	BecameStable   EventKind = "stable" // the version is the one that runs from now on
	Stopped        EventKind = "stopped"
	TakenOver      EventKind = "taken over" // by a new Runner
	Problem        EventKind = "problem"    // something failed, and will be tried again
)

// String describes the event in one line, without its number and time.
func (e Event) String() string {
	var b strings.Builder
	if e.Version != "" {
		b.WriteString(e.Version + ": ")
	}
	switch e.Kind {
	case PhaseChanged:
		b.WriteString(string(e.Phase))
	case StepBegun:
		fmt.Fprintf(&b, "step %d of %d", e.Step, e.Steps)
	default:
		b.WriteString(string(e.Kind))
	}
	if e.Reason != "" {
		first, _, _ := strings.Cut(e.Reason, "\n")
		b.WriteString(": " + first)
	}
	return b.String()
}

const (
	storedEvents = 64      // kept in the State
	storedPhases = 32      // and so many changes of phase before those
	maxReason    = 2 << 10 // bytes
)

// short bounds what others have written: all of it is stored with every change.
func short(reason string) string {
	if len(reason) <= maxReason {
		return reason
	}
	return strings.ToValidUTF8(reason[:maxReason], "") + " ..."
}

// event records one. It does not share the array of the state that came before.
func (m *machine) event(kind EventKind, version, reason string) {
	s := &m.s
	s.EventSeq++
	e := Event{Seq: s.EventSeq, Time: m.now, Kind: kind, Version: version, Phase: s.Phase, Reason: short(reason)}
	if _, ok := s.step(); ok {
		e.Step, e.Steps = s.Step+1, len(s.Plan.Steps)
	}
	s.Events = append(s.Events, e)
	if n := len(s.Events) - storedEvents; n > 0 {
		// Of those before the newest, changes of phase are kept. The one that has
		// just ceased to be among the newest is the only one that may not be.
		if s.Events[n-1].Kind != PhaseChanged {
			s.Events = slices.Delete(s.Events, n-1, n)
		} else if n > storedPhases {
			s.Events = slices.Delete(s.Events, 0, 1)
		}
	}
	m.changed()
}
