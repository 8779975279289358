package rollout

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// A machine is one step under way.
type machine struct {
	Config
	s     State
	now   time.Time // without its monotonic part: it is stored
	fresh bool      // there is new traffic to judge
}

// Step reports the state after the observation, and every call that is wanted
// then. It does no I/O, and depends on nothing but its arguments.
//
// A call that is wanted is wanted until its outcome is observed: the caller
// starts those that are not under way, and cancels those that are not wanted
// any more. If Seq has changed, the state must be recorded before a call is
// made that is not marked Back.
//
// Step must be called at least every Interval, and when [Config.Wake] says so.
func (c Config) Step(s State, obs Observation, now time.Time) (State, []Action) {
	c, _ = c.withDefaults()
	m := &machine{Config: c, s: s.clone(), now: now.Round(0)}
	m.tick(now)
	for _, a := range obs.Begun {
		m.begun(a)
	}
	for _, o := range obs.Outcomes {
		m.observe(o)
	}
	m.watch()
	m.progress()
	m.direct()
	for m.advance() {
		m.direct()
	}
	m.settle()
	return m.s, m.actions()
}

// tick lets time pass. All waits go by the sum of the times between two looks,
// not by the clock on the wall: what passes while nobody looks does not count,
// and neither does a look that comes too late, or before the last one. So a
// clock that is set, a machine that slept and a runner that was away can make a
// step longer, but never shorter.
func (m *machine) tick(now time.Time) {
	l := &m.s.live
	gap := now.Sub(l.seen)
	switch {
	case l.seen.IsZero():
		gap = 0
	case gap < 0 || gap > max(2*m.Interval, time.Second):
		gap = 0
		l.jumps++
	}
	l.seen = now
	l.clock += gap
	switch {
	case l.counting:
		m.s.Held += gap
		m.s.Stalled = 0
	case m.s.Phase == Advancing && !m.s.Final && m.s.onItsFeet():
		m.s.Stalled += gap
	}
	if l.ripening {
		for i := range m.s.Retired {
			r := &m.s.Retired[i]
			if r.Stopped || m.s.Weights.Most(r.Version.ID) > 0 {
				continue
			}
			r.Waited += gap
			if !r.GivenUp && r.Waited > later(r.Version.Drain, m.StopWithin) {
				r.GivenUp = true
				m.event(Problem, r.Version.ID, fmt.Sprintf("it has not stopped within %v; it is tried further, but not waited for", r.Waited))
			}
		}
	}
}

// changed notes a change that must be recorded.
func (m *machine) changed() { m.s.Seq++ }

// progress enforces the progress deadline.
func (m *machine) progress() {
	s := &m.s
	if s.newVersion() == nil || s.Phase != Advancing || s.Stalled <= s.Plan.progressDeadline() {
		return
	}
	m.rollBack(fmt.Sprintf("no progress for %v in %s: %s", s.Stalled, s.stepName(), s.obstacle()))
}

// desired returns the weights that the state calls for: each version that is
// ready claims what the plan gives it, and the stable one takes the rest.
func (m *machine) desired() Weights {
	s := &m.s
	var w Weights
	var claims []Claim
	if v := s.newVersion(); v != nil {
		w.Sticky = s.Plan.Sticky
		if s.live.versions[v.ID].ready.Ready {
			claims = append(claims, Claim{*v, s.Plan.weights(s.Step)})
			if s.Plan.Preview != "" {
				w.Preview, w.PreviewVersion = s.Plan.Preview, v.ID
			}
		}
	}
	if s.Stable != nil {
		claims = append(claims, Claim{Version: *s.Stable})
	}
	w.Splits = Cascade(claims)
	return w
}

// direct makes new weights if those that are wanted have changed.
func (m *machine) direct() {
	s, l := &m.s, &m.s.live
	if s.Phase == Idle || !s.onItsFeet() {
		// After a restart nothing is sent to a version that is not up yet, on the
		// way back neither: what a bad one serves is better than nothing. So one
		// that is to be stopped may have a weight until then.
		return
	}
	w := m.desired()
	if s.Weights.Revision == 0 && s.Phase == Advancing && len(w.Splits) == 0 && !s.Promoted {
		return // nobody has any traffic yet; a version without listeners never will
	}
	if s.Weights.Revision != 0 && !s.stale() && w.equal(s.Weights) && !(l.reassert && s.isApplied()) {
		return // or the call that is under way is waited for, and then they are sent again
	}
	m.closeWindow()
	w.Revision = max(s.Weights.Revision, s.Epoch<<32) + 1
	if s.Plan != nil {
		was, is := s.Weights.Most(s.Plan.Version), w.Most(s.Plan.Version)
		l.back = s.Phase == RollingBack || was > 0 && is == 0
	}
	if s.isApplied() {
		l.reassert = false
	}
	s.Weights, s.Applied = w, 0
	delete(l.next, "resync")
	m.changed()
}

// advance goes on to the next step, or phase, if it can, and reports whether it
// did.
func (m *machine) advance() bool {
	s := &m.s
	switch s.Phase {
	case RollingBack:
		if r := s.retired(s.Plan.Version); s.isApplied() && s.stableUp() && (r == nil || !r.waitedFor()) {
			s.Counters.RolledBack++
			m.enter(RolledBack, s.Reason)
			return true
		}
	case Idle, RolledBack, Succeeded:
		if s.Next != nil {
			m.begin(s.Next)
			return true
		}
	case Advancing:
		if s.Step >= len(s.Plan.Steps) {
			s.Counters.Succeeded++
			m.enter(Succeeded, "all steps are done")
			return true
		}
		if s.onItsFeet() && m.carryOut(s.Plan.Steps[s.Step]) {
			m.nextStep()
			return true
		}
		// A step may have ended the phase.
		return s.Phase != Advancing && s.Phase != Paused
	}
	return false
}

// carryOut reports whether the step is done.
func (m *machine) carryOut(step Step) bool {
	s := &m.s
	v := s.live.versions[s.Plan.Version]
	first := s.Stable == nil // there is nothing to shift from
	effective := s.isApplied() && v.ready.Ready
	switch step.Kind {
	case KindStart:
		return v.started
	case KindWaitReady:
		return v.ready.Ready
	case KindSetWeight:
		return first || effective
	case KindBake:
		return first || effective && s.Held >= step.For
	case KindPause:
		if first {
			return true
		}
		m.pause(PausedByPlan, "the plan has a pause here")
	case KindAnalyze, KindGate:
		return first || effective && m.judge(step)
	case KindPromote:
		if !s.Promoted {
			s.Promoted = true
			m.changed()
		}
		return effective
	case KindStopOld:
		if !s.Final {
			if !effective || s.Held < step.For && !first {
				return false
			}
			m.finalize()
		}
		return !slices.ContainsFunc(s.Retired, Retirement.waitedFor)
	}
	return false
}

// finalize makes the new version the stable one. There is no way back.
func (m *machine) finalize() {
	s := &m.s
	v := s.Plan.version()
	if s.Stable != nil {
		m.retire(*s.Stable)
	}
	s.Stable, s.Final = &v, true
	m.event(BecameStable, v.ID, "")
	m.direct()
}

func (m *machine) begin(p *Plan) {
	s := &m.s
	s.Plan, s.Next = p, nil
	s.Number++
	s.Attempt = 1
	s.Counters.Begun++
	m.start(fmt.Sprintf("version %s was submitted", p.Version))
}

// start begins an attempt.
func (m *machine) start(reason string) {
	s := &m.s
	s.Step, s.Promoted, s.Final = 0, false, false
	clear(s.live.retry) // nothing that failed keeps it waiting
	// If a call to start it still hangs, that is what is wanted now.
	s.Retired = slices.DeleteFunc(s.Retired, func(r Retirement) bool { return r.Stopped && r.Version.ID == s.Plan.Version })
	m.closeWindow()
	s.Windows, s.Restarts, s.Judgement, s.JudgedBy = nil, 0, nil, ""
	s.live.closed = closed{}
	m.enter(Advancing, reason)
	m.enterStep()
}

func (m *machine) nextStep() {
	m.s.Step++
	m.enterStep()
}

func (m *machine) enterStep() {
	s := &m.s
	s.Entered, s.Held, s.Stalled = m.now, 0, 0
	s.live.counting = false
	s.live.gate, s.live.ignored = nil, false
	maps.DeleteFunc(s.live.next, func(id string, _ time.Duration) bool { return strings.HasPrefix(id, string(ActGate)) })
	if step, ok := s.step(); ok && !s.Final {
		m.event(StepBegun, s.Plan.Version, step.String())
	}
	m.changed()
}

func (m *machine) enter(p Phase, reason string) {
	s := &m.s
	s.Phase, s.Since, s.Reason = p, m.now, short(reason)
	s.PausedBy = ""
	s.live.counting = false
	version := ""
	if s.Plan != nil {
		version = s.Plan.Version
	}
	m.event(PhaseChanged, version, reason)
	m.changed()
}

func (m *machine) pause(by PauseCause, reason string) {
	m.enter(Paused, reason)
	m.s.PausedBy = by
}

// rollBack turns back, if that is possible still.
func (m *machine) rollBack(reason string) {
	s := &m.s
	if s.newVersion() == nil {
		return
	}
	m.retire(s.Plan.version())
	s.Promoted = false
	m.enter(RollingBack, reason)
}

// retire wants the version to be stopped, once more if that is under way. From
// now on it does not count as started, even if that is wanted again.
func (m *machine) retire(v Version) {
	s := &m.s
	was := s.live.versions[v.ID]
	s.live.versions[v.ID] = liveVersion{starts: was.starts, void: was.starts, stops: was.stops}
	if r := s.retired(v.ID); r != nil {
		r.Stopped, r.Void = false, was.stops
	} else {
		s.Retired = append(s.Retired, Retirement{Version: v, Void: was.stops})
	}
	m.changed()
}

// isNew reports whether it is the version that is rolled out.
func (m *machine) isNew(id string) bool {
	v := m.s.newVersion()
	return v != nil && v.ID == id
}

func (m *machine) versionOf(id string) Version {
	if m.s.Plan != nil && m.s.Plan.Version == id {
		return m.s.Plan.version()
	}
	return Version{ID: id}
}

// settle notes what the time until the next look will count for.
func (m *machine) settle() {
	s, l := &m.s, &m.s.live
	step, _ := s.step()
	switch blind := s.blind(); {
	case !blind:
		l.blind = time.Time{}
	case l.blind.IsZero():
		l.blind = m.now
	}
	l.counting = false
	switch step.Kind {
	case KindBake, KindAnalyze, KindGate, KindStopOld:
		l.counting = s.Phase == Advancing && !s.Final && s.isApplied() && s.onItsFeet() &&
			l.versions[s.Plan.Version].ready.Ready && (step.Kind != KindBake || l.blind.IsZero())
	}
	l.ripening = s.isApplied()
}

// actions returns the calls that are wanted.
func (m *machine) actions() []Action {
	s, l := &m.s, &m.s.live
	var actions []Action
	add := func(a Action) {
		if l.retry[a.key()].at <= l.clock && l.next[a.identity()] <= l.clock {
			actions = append(actions, a)
		}
	}
	resync, ok := l.next["resync"]
	// Weights that are not applied when what they are for is given up are not
	// sent any more, though others can be made only once the stable version is up.
	due := s.onItsFeet()
	if s.isApplied() {
		due = ok && resync <= l.clock
	}
	if due && !s.stale() && s.Weights.Revision != 0 {
		add(Action{Kind: ActSetWeights, Weights: s.Weights, Back: l.back})
	}
	fresh := s.newVersion()
	for _, v := range s.wanted() {
		lv := l.versions[v.ID]
		switch {
		case !lv.started:
			if r := s.retired(v.ID); (r == nil || r.Stopped) && lv.stops == 0 {
				add(Action{Kind: ActStart, Version: v.ID})
			}
		case !lv.was || fresh != nil && v.ID == fresh.ID:
			add(Action{Kind: ActReady, Version: v.ID})
		}
	}
	if s.isApplied() {
		for _, r := range s.Retired {
			if r.Stopped || s.Weights.Most(r.Version.ID) > 0 {
				continue
			}
			add(Action{Kind: ActStop, Version: r.Version.ID, Drain: r.Version.Drain})
		}
	}
	if fresh != nil && s.Stable != nil && l.versions[fresh.ID].started {
		add(Action{Kind: ActStats, Revision: s.counted()})
	}
	if step, _ := s.step(); step.Kind == KindGate && s.Phase == Advancing && l.counting {
		add(Action{Kind: ActGate, Gate: step.Gate, Step: s.Step})
	}
	return actions
}
