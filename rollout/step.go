package rollout

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// Config holds the times of the decisions. The zero value is good for use.
type Config struct {
	// Interval is the time between two looks: how often Ready and Stats are
	// called, and half of the longest time between two looks that counts.
	// Zero means 1 s.
	Interval time.Duration

	// StopWithin is how long, beyond its drain, a version may take to stop
	// before the rollout ends without it. It is tried further. Zero means 2
	// minutes.
	StopWithin time.Duration

	// MaxBackoff bounds the wait after an action has failed, which begins with
	// Interval and doubles. Zero means 30 s.
	MaxBackoff time.Duration

	// Resync is how often weights that are applied are sent again, unchanged.
	// Zero means a minute, a negative value never.
	Resync time.Duration
}

func (c Config) withDefaults() (Config, error) {
	c.Interval = cmp.Or(c.Interval, time.Second)
	c.StopWithin = cmp.Or(c.StopWithin, 2*time.Minute)
	c.MaxBackoff = cmp.Or(c.MaxBackoff, 30*time.Second)
	c.Resync = cmp.Or(c.Resync, time.Minute)
	if c.Resync < 0 {
		c.Resync = math.MaxInt64
	}
	var errs []error
	for _, f := range []struct {
		name string
		d    time.Duration
	}{{"Interval", c.Interval}, {"StopWithin", c.StopWithin}, {"MaxBackoff", c.MaxBackoff}} {
		if f.d <= 0 {
			errs = append(errs, fmt.Errorf("field Config.%s is %v: it must be positive", f.name, f.d))
		}
	}
	return c, errors.Join(errs...)
}

const (
	maxMisses  = 3  // calls to Ready that fail in a row make a version unready
	maxWindows = 24 // kept; older evidence is forgotten

	// How long a window is at most, so that a version that turns bad late is
	// found as soon as one that was bad from the beginning.
	windowLength = 5 * time.Minute
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

// Wake returns how long after the step that made s the next one is due.
func (c Config) Wake(s State) time.Duration {
	c, _ = c.withDefaults()
	wait := c.Interval
	soonest := func(d time.Duration) {
		wait = min(wait, max(d, time.Millisecond))
	}
	for _, r := range s.live.retry {
		if r.at > s.live.clock {
			soonest(r.at - s.live.clock)
		}
	}
	for _, at := range s.live.next {
		if at > s.live.clock {
			soonest(at - s.live.clock)
		}
	}
	if step, ok := s.step(); ok && s.live.counting {
		soonest(step.For - s.Held)
	}
	return wait
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
	case gap < 0 || gap > 2*m.Interval:
		gap = 0
		l.jumps++
	}
	l.seen = now
	l.clock += gap
	switch {
	case l.counting:
		m.s.Held += gap
		m.s.Stalled = 0
	case m.s.Phase == Advancing && !m.s.Final && m.s.stableUp():
		m.s.Stalled += gap
	}
	if l.ripening {
		for i := range m.s.Retired {
			r := &m.s.Retired[i]
			r.Waited += gap
			if !r.GivenUp && r.Waited > r.Version.Drain+m.StopWithin {
				r.GivenUp = true
				m.event(Problem, r.Version.ID, fmt.Sprintf("it has not stopped within %v; it is tried further, but not waited for", r.Waited))
			}
		}
	}
}

// changed notes a change that must be recorded.
func (m *machine) changed() { m.s.Seq++ }

// observe takes note of how a call has ended.
func (m *machine) observe(o Outcome) {
	s, l, a := &m.s, &m.s.live, o.Action
	key := a.key()
	if !o.Late {
		if o.Err == "" {
			delete(l.retry, key)
		} else {
			m.failed(key, a, o.Err)
		}
	}
	v := l.versions[a.Version]
	switch a.Kind {
	case ActStart:
		switch {
		case !s.wants(a.Version):
			if !o.Hung {
				m.retire(m.versionOf(a.Version)) // it may run
			}
			return
		case o.Err == "" && s.retired(a.Version) != nil:
			m.retire(m.versionOf(a.Version)) // an earlier attempt is being stopped
			return
		case o.Err == "":
			v.started = true
		case o.Permanent && m.isNew(a.Version):
			m.rollBack("it cannot be started: " + o.Err)
			return
		}
	case ActReady:
		l.next[key] = l.clock + m.Interval
		if o.Late || !s.wants(a.Version) {
			return
		}
		m.observeReady(a.Version, o)
		return
	case ActSetWeights:
		switch {
		case o.Late:
			l.reassert = true // it may have undone what came after it
		case a.Weights.Revision != s.Weights.Revision:
		case o.Err != "":
			s.Applied = 0
		default:
			l.next["resync"] = l.clock + min(m.Resync, math.MaxInt64-l.clock)
			if !s.isApplied() {
				s.Applied = s.Weights.Revision
				l.last, l.back = nil, false
				m.event(WeightsApplied, "", describe(s.Weights.Splits))
			}
		}
	case ActStop:
		switch {
		case o.Hung:
			v.stopping++
		case o.Late && v.stopping > 0:
			v.stopping--
		}
		if r := s.retired(a.Version); r != nil && o.Err == "" {
			if r.Again {
				r.Again = false
			} else {
				id := a.Version
				s.Retired = slices.DeleteFunc(s.Retired, func(r Retirement) bool { return r.Version.ID == id })
				m.event(Stopped, id, "")
			}
			m.changed()
		}
		if v.stopping == 0 && !s.wants(a.Version) && s.retired(a.Version) == nil {
			delete(l.versions, a.Version)
			return
		}
	case ActStats:
		l.next[key] = l.clock + m.Interval
		if !o.Late && o.Err == "" && a.Revision == s.Weights.Revision && s.isApplied() {
			m.observeTraffic(o.Traffic)
		}
		return
	case ActGate:
		l.next[a.identity()] = l.clock + m.Interval
		if o.Late || a.Step != s.Step {
			return
		}
		j := o.Judgement
		if o.Err != "" {
			j = Judgement{Verdict: Inconclusive, Reason: "no answer: " + o.Err}
		}
		l.gate, l.gateStep = &j, a.Step
		return
	}
	if a.Version != "" {
		l.versions[a.Version] = v
	}
}

func (m *machine) failed(key string, a Action, err string) {
	l := &m.s.live
	r := l.retry[key]
	r.failures++
	wait := m.MaxBackoff
	if r.failures < 30 {
		wait = min(wait, m.Interval<<(r.failures-1))
	}
	r.at, r.err = l.clock+wait, err
	l.retry[key] = r
	if r.failures&(r.failures-1) == 0 { // 1, 2, 4, 8 ...
		m.event(Problem, a.Version, fmt.Sprintf("%s failed, %d in a row: %s", a, r.failures, err))
	}
}

func (m *machine) observeReady(id string, o Outcome) {
	l := &m.s.live
	v := l.versions[id]
	was := v.ready
	if o.Err != "" {
		if v.misses++; v.misses < maxMisses && v.ready.Ready {
			l.versions[id] = v
			return // benefit of the doubt
		}
		v.ready = Readiness{Reason: "no answer: " + o.Err}
	} else {
		v.misses = 0
		v.ready = o.Readiness
	}
	v.was = v.was || v.ready.Ready
	l.versions[id] = v
	if v.ready.Ready != was.Ready {
		if v.ready.Ready {
			m.event(BecameReady, id, "")
		} else {
			m.event(BecameUnready, id, v.ready.Reason)
		}
	}
	if v.ready.Failed && m.isNew(id) {
		m.rollBack("it has failed: " + v.ready.Reason)
	}
}

// observeTraffic adds what was counted since the last time.
func (m *machine) observeTraffic(traffic map[string]Traffic) {
	s, l := &m.s, &m.s.live
	v := s.newVersion()
	if v == nil {
		return
	}
	last := l.last
	if last == nil || l.clock-l.windowAt > windowLength {
		m.closeWindow()
		l.windowAt = l.clock
	}
	l.last = traffic
	if last == nil {
		return // what was counted before the weights were applied
	}
	s.Window.New = s.Window.New.Add(traffic[v.ID].Since(last[v.ID]))
	if s.Stable != nil {
		s.Window.Old = s.Window.Old.Add(traffic[s.Stable.ID].Since(last[s.Stable.ID]))
	}
	m.fresh = true
}

// closeWindow ends the window of traffic under the weights that were.
func (m *machine) closeWindow() {
	s := &m.s
	if s.Window.New.Requests > 0 || s.Window.New.Restarts > 0 {
		s.Windows = append(s.Windows, s.Window)
		s.Windows = s.Windows[max(0, len(s.Windows)-maxWindows):]
	}
	s.Window = Window{}
	s.live.last = nil
}

// watch judges what the plan watches all the time.
func (m *machine) watch() {
	s := &m.s
	v := s.newVersion()
	if !m.fresh || v == nil || s.Plan.Watch == nil || s.Promoted || s.Weights.Most(v.ID) == 0 {
		return
	}
	j := s.Plan.Watch.Judge(s.Window.Old, s.Window.New, s.Windows...)
	s.Judgement, s.JudgedBy = &j, "watch"
	if j.Verdict == Fail {
		m.apply(s.Plan.Watch.Rule(Fail), j)
	}
}

// apply does what the rule says, and reports whether it says to go on.
func (m *machine) apply(rule Rule, j Judgement) bool {
	s := &m.s
	if s.Phase == Paused && rule != ThenRollBack {
		return false
	}
	if j.Verdict == Fail && (rule != ThenContinue || !s.live.ignored) {
		s.Counters.Failed++
		m.event(VerdictGiven, s.Plan.Version, fmt.Sprintf("%s; then: %s", j, rule))
		s.live.ignored = rule == ThenContinue
	}
	switch rule {
	case ThenRollBack:
		m.rollBack(j.String())
	case ThenPause:
		m.pause(PausedByVerdict, j.String())
	default:
		return true
	}
	return false
}

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
	if s.Phase == Idle || s.Phase != RollingBack && !s.stableUp() {
		return // after a restart nothing is sent to a version that is not up yet
	}
	w := m.desired()
	if s.Weights.Revision == 0 && s.Phase == Advancing && len(w.Splits) == 0 {
		return // nobody has any traffic
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
		if r := s.retired(s.Plan.Version); s.isApplied() && (r == nil || r.GivenUp) {
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
		if s.stableUp() && m.carryOut(s.Plan.Steps[s.Step]) {
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
		return !slices.ContainsFunc(s.Retired, func(r Retirement) bool { return !r.GivenUp })
	}
	return false
}

// judge reports whether an Analyze or Gate step is done.
func (m *machine) judge(step Step) bool {
	s := &m.s
	var j Judgement
	var onFail, onInconclusive Rule
	overdue := s.Held >= step.For
	if step.Kind == KindGate {
		onFail, onInconclusive = cmp.Or(step.OnFail, ThenRollBack), cmp.Or(step.OnInconclusive, ThenPause)
		switch {
		case s.live.gate != nil && s.live.gateStep == s.Step:
			j = *s.live.gate
		case !overdue:
			return false
		default:
			j.Reason = "the gate has not answered"
		}
		s.JudgedBy = step.String()
	} else {
		a := step.Analysis
		if a == nil {
			a = s.Plan.Watch
		}
		if !m.fresh && !overdue {
			return false
		}
		onFail, onInconclusive = a.Rule(Fail), a.Rule(Inconclusive)
		j = a.Judge(s.Window.Old, s.Window.New, s.Windows...)
		s.JudgedBy = string(step.Kind)
	}
	s.Judgement = &j
	switch {
	case j.Verdict == Pass:
		m.event(VerdictGiven, s.Plan.Version, j.String())
		return true
	case j.Verdict == Fail:
		return m.apply(onFail, j)
	case overdue:
		j.Reason = fmt.Sprintf("%s, after %v", j.Reason, step.For)
		m.event(VerdictGiven, s.Plan.Version, fmt.Sprintf("%s; then: %s", j, onInconclusive))
		return m.apply(onInconclusive, j)
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
	m.closeWindow()
	s.Windows, s.Judgement, s.JudgedBy = nil, nil, ""
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
	if step, ok := s.step(); ok && !s.Final {
		m.event(StepBegun, s.Plan.Version, step.String())
	}
	m.changed()
}

func (m *machine) enter(p Phase, reason string) {
	s := &m.s
	s.Phase, s.Since, s.Reason = p, m.now, reason
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
	s.live.versions[v.ID] = liveVersion{stopping: s.live.versions[v.ID].stopping}
	if r := s.retired(v.ID); r != nil {
		r.Again = true
	} else {
		s.Retired = append(s.Retired, Retirement{Version: v})
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
	l.counting = false
	switch step.Kind {
	case KindBake, KindAnalyze, KindGate, KindStopOld:
		l.counting = s.Phase == Advancing && !s.Final && s.isApplied() && s.stableUp() &&
			l.versions[s.Plan.Version].ready.Ready
	}
	l.ripening = len(s.Retired) > 0 && s.isApplied()
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
	if !s.stale() && s.Weights.Revision != 0 && (!s.isApplied() || ok && resync <= l.clock) {
		add(Action{Kind: ActSetWeights, Weights: s.Weights, Back: l.back})
	}
	fresh := s.newVersion()
	for _, v := range s.wanted() {
		lv := l.versions[v.ID]
		switch {
		case !lv.started:
			if s.retired(v.ID) == nil && lv.stopping == 0 {
				add(Action{Kind: ActStart, Version: v.ID})
			}
		case !lv.was || fresh != nil && v.ID == fresh.ID:
			add(Action{Kind: ActReady, Version: v.ID})
		}
	}
	if s.isApplied() {
		for _, r := range s.Retired {
			add(Action{Kind: ActStop, Version: r.Version.ID, Drain: r.Version.Drain})
		}
		if fresh != nil && s.Stable != nil && l.versions[fresh.ID].ready.Ready {
			add(Action{Kind: ActStats, Revision: s.Weights.Revision})
		}
	}
	if step, _ := s.step(); step.Kind == KindGate && s.Phase == Advancing && l.counting {
		add(Action{Kind: ActGate, Gate: step.Gate, Step: s.Step})
	}
	return actions
}
