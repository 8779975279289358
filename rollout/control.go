package rollout

import (
	"errors"
	"fmt"
	"reflect"
	"time"
)

// ErrRefused is wrapped by the error of a command that makes no sense in the
// present state. The error says why, and what would.
var ErrRefused = errors.New("refused")

// A Command is what a person, or a program, wants of a rollout.
type Command struct {
	Kind   CommandKind
	Plan   *Plan  // of Submit
	Reason string // of Pause and Abort; shown to others
	At     At     // where the rollout must stand; not of Submit
}

// An At says where a rollout stands. A command that has one is refused if the
// rollout has moved on since: two people at two screens, or a request that is sent
// twice, then do once what is meant once. Fields that are zero may have any value.
type At struct {
	// Version is the one that a command is about: the one that waits, if one does,
	// since Abort drops that, or else the one of the plan.
	Version string `json:"version,omitempty"`

	Number  int `json:"number,omitempty"`  // see State.Number
	Attempt int `json:"attempt,omitempty"` // see State.Attempt
	Step    int `json:"step,omitempty"`    // counted from 1
}

// At returns where the rollout stands, for a command that is about this state.
func (s State) At() At {
	switch {
	case s.Next != nil:
		return At{Version: s.Next.Version}
	case s.Plan == nil:
		return At{}
	}
	at := At{Version: s.Plan.Version, Number: s.Number, Attempt: s.Attempt}
	if _, ok := s.step(); ok {
		at.Step = s.Step + 1
	}
	return at
}

// String returns "version v2, attempt 2, step 3", or less. The number is left out.
func (a At) String() string {
	text := "version " + a.Version
	if a.Attempt > 1 {
		text += fmt.Sprintf(", attempt %d", a.Attempt)
	}
	if a.Step > 0 {
		text += fmt.Sprintf(", step %d", a.Step)
	}
	return text
}

// meets reports whether a rollout that stands at a is where a command wants it.
func (a At) meets(wanted At) bool {
	number := func(is, wanted int) bool { return wanted == 0 || is == wanted }
	return (wanted.Version == "" || a.Version == wanted.Version) &&
		number(a.Number, wanted.Number) && number(a.Attempt, wanted.Attempt) && number(a.Step, wanted.Step)
}

// A CommandKind says what a [Command] wants.
type CommandKind string

// The kinds of commands. See the methods of [Runner].
const (
	CommandSubmit  CommandKind = "submit"
	CommandPause   CommandKind = "pause"
	CommandResume  CommandKind = "resume"
	CommandPromote CommandKind = "promote"
	CommandAbort   CommandKind = "abort"
	CommandRetry   CommandKind = "retry"
)

// Control reports the state after the command. A command that has been carried
// out already changes nothing. An error leaves the state as it is.
func (c Config) Control(s State, command Command, now time.Time) (State, error) {
	c, _ = c.withDefaults()
	m := &machine{Config: c, s: s.clone(), now: now.Round(0)}
	err := m.control(command)
	if err != nil {
		return s, fmt.Errorf("%s: %w", command.Kind, err)
	}
	return m.s, nil
}

func (m *machine) control(c Command) error {
	s := &m.s
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrRefused}, args...)...)
	}
	if c.Kind == CommandSubmit {
		return m.submit(c.Plan)
	}
	if s.Plan == nil {
		return refuse("nothing was submitted yet")
	}
	if is := s.At(); !is.meets(c.At) {
		return refuse("it was meant for %s, but now it would be about %s", c.At, is)
	}
	v := s.Plan.Version
	if next := s.Next; next != nil && c.Kind != CommandAbort && (s.Phase == RollingBack && !(c.Kind == CommandPromote && !s.stableUp()) || s.Final) {
		what := "has gone back"
		if s.Final {
			what = "has stopped what it replaces"
		}
		return refuse("version %s waits until %s %s, and begins by itself then; Abort drops it", next.Version, v, what)
	}
	ended := refuse("the rollout of %s has ended: %s, %s", v, s.Phase, s.Reason)
	back := refuse("the rollout of %s goes back: %s; retry it once it has", v, s.Reason)
	switch c.Kind {
	case CommandPause:
		switch {
		case s.Phase == Paused:
		case s.Phase.Ended():
			return ended
		case s.Phase == RollingBack:
			return back
		case s.Final:
			return refuse("all that is left is to stop the old version, which has begun")
		default:
			m.pause(PausedByUser, or(c.Reason, "somebody paused it"))
		}
	case CommandResume:
		switch {
		case s.Phase == Advancing:
		case s.Phase.Ended():
			return ended
		case s.Phase == RollingBack:
			return back
		default:
			m.resume()
		}
	case CommandPromote:
		promote := func() {
			s.Promoted = true
			s.Step = s.Plan.index(KindPromote)
			m.enter(Advancing, "somebody promoted it")
			m.enterStep()
		}
		switch {
		case s.Phase == RollingBack && s.Next != nil && !s.stableUp():
			m.begin(s.Next) // in the place of the stable version, which may be lost
			promote()
		case s.Promoted && s.Phase == Paused:
			m.resume()
		case s.Promoted || s.Phase == Succeeded:
		case s.Phase == RolledBack:
			return ended
		case s.Phase == RollingBack:
			return back
		default:
			promote()
		}
	case CommandAbort:
		switch {
		case s.Next != nil:
			m.event(Superseded, s.Next.Version, "it was aborted before it began")
			s.Next = nil
			m.changed()
			m.rollBack(or(c.Reason, "somebody aborted it"))
		case s.Phase == RollingBack || s.Phase == RolledBack:
		case s.Phase == Succeeded:
			return ended
		case s.Final:
			return refuse("the old version is being stopped: submit a rollout of it to go back")
		default:
			m.rollBack(or(c.Reason, "somebody aborted it"))
		}
	case CommandRetry:
		switch {
		case s.Phase == RolledBack:
			s.Attempt++
			s.Counters.Retried++
			m.start("somebody retried it")
		case s.Phase == RollingBack:
			return refuse("the rollout of %s goes back: wait until it has", v)
		case s.Phase == Succeeded:
			return ended
		case s.Attempt == 1:
			return refuse("the rollout of %s has not failed", v)
		}
	default:
		return refuse("no such command")
	}
	return nil
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// resume goes on after a pause. Who resumes after a verdict has decided
// otherwise: what was seen so far does not count again, and the step is done if
// the verdict was its own.
func (m *machine) resume() {
	s := &m.s
	by := s.PausedBy
	m.enter(Advancing, "somebody resumed it")
	s.Stalled = 0
	switch by {
	case PausedByPlan:
		m.nextStep()
	case PausedByVerdict, PausedByWatch:
		s.Window, s.Windows, s.Restarts = Window{}, nil, 0
		s.live.last, s.live.closed = nil, closed{}
		if by == PausedByVerdict {
			m.nextStep()
		}
	}
}

// submit begins a rollout, or lets one wait until the one that runs has ended.
func (m *machine) submit(p *Plan) error {
	s := &m.s
	if p == nil {
		return errors.New("there is no plan")
	}
	// A plan that is there already, or next, was submitted twice.
	if s.Next != nil && reflect.DeepEqual(*s.Next, *p) {
		return nil
	}
	if s.Next == nil && s.Plan != nil && reflect.DeepEqual(*s.Plan, *p) {
		if s.Phase == RolledBack || s.Phase == RollingBack {
			// Whoever submits at each start does not want what went back to begin anew.
			return fmt.Errorf("%w: the rollout of %s is %s: %s; Retry tries it again once it is rolled back", ErrRefused, p.Version, s.Phase, s.Reason)
		}
		return nil
	}
	if err := p.Validate(s.exist()...); err != nil {
		return err
	}
	if base := s.Stable; base != nil && (len(base.Locations) == 0) != (len(p.Locations) == 0) {
		return fmt.Errorf("plan of version %q: its locations are %q, but those of version %s, which runs, are %q: name locations in both or in none",
			p.Version, p.Locations, base.ID, base.Locations)
	}
	if err := p.lacks(s.Stable); err != nil {
		return err
	}
	if s.Next != nil {
		s.Counters.Superseded++
		m.event(Superseded, s.Next.Version, fmt.Sprintf("version %s was submitted before it began", p.Version))
	}
	s.Next = p
	m.event(Submitted, p.Version, "")
	m.changed()
	if s.Phase.Ended() {
		m.begin(p)
	}
	if s.newVersion() != nil && s.Next != nil {
		s.Counters.Superseded++
		m.event(Superseded, s.Plan.Version, fmt.Sprintf("version %s was submitted", p.Version))
		m.rollBack(fmt.Sprintf("version %s was submitted", p.Version))
	}
	return nil
}
