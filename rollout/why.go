package rollout

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// obstacle says what the present step waits for, in a line.
func (s State) obstacle() string {
	step, ok := s.step()
	if !ok {
		return ""
	}
	id := s.Plan.Version
	v := s.live.versions[id]
	switch {
	case !s.onItsFeet():
		return s.stableProblem("or be replaced by Promote")
	case !v.started && s.retired(id) != nil && !s.retired(id).Stopped:
		return fmt.Sprintf("version %s must have stopped before it can start again%s", id, s.problem(Action{Kind: ActStop, Version: id}))
	case !v.started && v.stops > 0:
		return fmt.Sprintf("a call to stop version %s has not returned, and could stop it if it started now", id)
	case !v.started && !s.Final:
		return fmt.Sprintf("version %s must start%s", id, s.problem(Action{Kind: ActStart, Version: id}))
	case !v.ready.Ready && !s.Final:
		return fmt.Sprintf("version %s must be ready: %s%s", id, or(v.ready.Reason, "it has not answered yet"),
			s.problem(Action{Kind: ActReady, Version: id}))
	case !s.isApplied():
		return fmt.Sprintf("the weights must be applied (%s)%s", describe(s.Weights.Splits), s.weightsProblem())
	}
	left := max(0, step.For-s.Held).Round(time.Millisecond)
	switch step.Kind {
	case KindBake:
		if s.blind() {
			return fmt.Sprintf("Plan.Watch must see the traffic first; %v of %v have passed%s", s.Held.Round(time.Millisecond), step.For,
				s.problem(Action{Kind: ActStats}))
		}
		return fmt.Sprintf("%v of %v have passed, %v remain", s.Held.Round(time.Millisecond), step.For, left)
	case KindAnalyze, KindGate:
		verdict := "no verdict yet"
		if j := s.Judgement; j != nil {
			verdict = j.String()
		}
		return fmt.Sprintf("a verdict is needed within %v: %s%s%s", left, verdict,
			s.problem(Action{Kind: ActStats}), s.problem(Action{Kind: ActGate, Gate: cmp.Or(step.Gate, "-")}))
	case KindStopOld:
		if s.Final {
			return s.stops()
		}
		return fmt.Sprintf("the old version is kept for another %v", left)
	}
	return "the next look"
}

// stableProblem says what the stable version lacks after a restart.
func (s State) stableProblem(otherwise string) string {
	id := s.Stable.ID
	v := s.live.versions[id]
	if !v.started {
		return fmt.Sprintf("version %s, which is stable, must start again first (%s)%s", id, otherwise,
			s.problem(Action{Kind: ActStart, Version: id}))
	}
	return fmt.Sprintf("version %s, which is stable, must be ready again first (%s): %s%s", id, otherwise,
		or(v.ready.Reason, "it has not answered yet"), s.problem(Action{Kind: ActReady, Version: id}))
}

// problem says how often the call has failed, if it has, and why.
func (s State) problem(a Action) string {
	if r := s.live.retry[a.key()]; r.failures > 0 {
		return fmt.Sprintf("; %s failed %d times in a row, tried again in %v: %s", a, r.failures, max(0, r.at-s.live.clock), r.err)
	}
	return ""
}

func (s State) weightsProblem() string {
	for _, back := range []bool{s.live.back, !s.live.back} {
		if r := s.live.retry[(Action{Kind: ActSetWeights, Back: back}).key()]; r.failures > 0 {
			return fmt.Sprintf("; that failed %d times in a row, tried again in %v: %s", r.failures, max(0, r.at-s.live.clock), r.err)
		}
	}
	return ""
}

// stops says what retired versions wait for.
func (s State) stops() string {
	if !s.isApplied() {
		return fmt.Sprintf("the weights must be applied first (%s)%s", describe(s.Weights.Splits), s.weightsProblem())
	}
	var lines []string
	for _, r := range s.Retired {
		if r.Stopped {
			lines = append(lines, fmt.Sprintf("version %s has stopped, but a call to start it has not returned", r.Version.ID))
			continue
		}
		line := fmt.Sprintf("version %s must stop, for which it has had %v", r.Version.ID, r.Waited.Round(time.Millisecond))
		if f := s.live.retry[(Action{Kind: ActStop, Version: r.Version.ID}).key()]; f.failures > 0 {
			line += fmt.Sprintf("; that failed %d times in a row: %s", f.failures, f.err)
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "; ")
}

// Why explains the state in words: what is waited for, since when, and what
// would make it go on.
func (s State) Why(now time.Time) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	since := func(t time.Time) time.Duration { return max(0, now.Sub(t)).Round(time.Millisecond) }
	if s.Plan == nil {
		if s.Next != nil {
			line("version %s was submitted, and is about to begin", s.Next.Version)
		} else {
			line("idle: nothing was submitted; Submit begins a rollout")
		}
		return b.String()
	}
	id := s.Plan.Version
	switch s.Phase {
	case Advancing:
		line("version %s is rolled out for %v: %s, for %v", id, since(s.Since), s.stepName(), since(s.Entered))
		line("it waits: %s", s.obstacle())
		if d := s.Plan.progressDeadline(); s.Stalled > 0 && d-s.Stalled < 24*time.Hour {
			line("if it does not get on within %v it goes back", max(0, d-s.Stalled).Round(time.Second))
		}
	case Paused:
		line("version %s is paused at %s by the %s for %v: %s", id, s.stepName(), s.PausedBy, since(s.Since), s.Reason)
		if s.Plan.Preview != "" && s.Weights.PreviewVersion == id {
			line("it can be tried: %s", s.Plan.Preview)
		}
		line("Resume goes on, Promote skips the rest, Abort goes back")
	case RollingBack:
		line("version %s goes back for %v: %s", id, since(s.Since), s.Reason)
		if !s.stableUp() {
			otherwise := "or be replaced: Submit another and Promote it"
			if s.Next != nil {
				otherwise = "or be replaced by Promote of version " + s.Next.Version
			}
			line("it waits: %s", s.stableProblem(otherwise))
			line("until then nobody could take the traffic, so the weights stay as they are")
		} else {
			line("it waits: %s", s.stops())
		}
	case RolledBack:
		line("version %s was rolled back %v ago: %s", id, since(s.Since), s.Reason)
		line("Retry tries it again, Submit begins another")
	case Succeeded:
		line("version %s was rolled out %v ago", id, since(s.Since))
	}
	if t := s.live.blind; !t.IsZero() {
		why := ""
		if step, _ := s.step(); s.Phase != Advancing || step.Kind != KindBake {
			why = s.problem(Action{Kind: ActStats}) // else it is said above
		}
		line("Plan.Watch is blind for %v: no failure of the new version makes it go back, and no bake counts%s", since(t), why)
	}
	if s.Phase.Ended() && s.Stable != nil && !s.isApplied() {
		v := s.live.versions[s.Stable.ID]
		switch {
		case !v.started:
			line("version %s is started again", s.Stable.ID)
		case !v.was:
			line("version %s must be ready: %s", s.Stable.ID, or(v.ready.Reason, "it has not answered yet"))
		default:
			line("the weights must be applied (%s)%s", describe(s.Weights.Splits), s.weightsProblem())
		}
	}
	if s.Phase.Ended() && len(s.Retired) > 0 {
		line("left over: %s", s.stops())
	}
	if s.Next != nil {
		line("version %s comes next", s.Next.Version)
	}
	return b.String()
}

// A Planned is a step that is still to be done, or under way.
type Planned struct {
	Step Step
	// Index of the step in the plan.
	Index int
	// Begin and End are when it begins and ends if nothing is in the way. What
	// depends on others, such as getting ready, a pause or a verdict, is taken
	// to need no time, or for an analysis or gate all of it; from the first of
	// those on Uncertain is set: it may be later, or for a verdict earlier. Stopping
	// the old version is taken to need no time either, and does not make it
	// uncertain: it comes on top, with up to that version's Drain.
	Begin, End time.Time
	Uncertain  bool
}

// Schedule projects the times of the steps that remain. It is empty if the
// rollout is not going forward.
func (s State) Schedule(now time.Time) []Planned {
	if _, ok := s.step(); !ok {
		return nil
	}
	var planned []Planned
	uncertain := s.Phase == Paused || !s.onItsFeet()
	at := now
	for i := s.Step; i < len(s.Plan.Steps); i++ {
		step := s.Plan.Steps[i]
		p := Planned{Step: step, Index: i, Begin: at}
		d := step.For
		if i == s.Step {
			p.Begin = s.Entered
			d = max(0, d-s.Held)
		}
		switch step.Kind {
		case KindStart, KindWaitReady:
			uncertain = uncertain || !s.live.versions[s.Plan.Version].ready.Ready
		case KindPause, KindAnalyze, KindGate:
			uncertain = true
		}
		at = at.Add(d)
		p.End, p.Uncertain = at, uncertain
		planned = append(planned, p)
	}
	return planned
}

// Remaining returns how long the rest of the rollout takes if nothing is in the
// way, without the time in which the old version drains and stops, and whether that
// is certain; see [Planned].
func (s State) Remaining(now time.Time) (d time.Duration, certain bool) {
	planned := s.Schedule(now)
	if len(planned) == 0 {
		return 0, true
	}
	last := planned[len(planned)-1]
	return last.End.Sub(now), !last.Uncertain
}

// Measured returns the share of the requests that went to the new version since
// the weights were last changed, and how many there were, of both versions. With
// Options.ByPlace, and weights that differ, they are those of the places at which
// the versions are compared.
func (s State) Measured() (share float64, requests uint64) {
	requests = s.Window.New.Requests + s.Window.Old.Requests
	if requests == 0 {
		return 0, 0
	}
	return float64(s.Window.New.Requests) / float64(requests), requests
}
