package rollout

import (
	"cmp"
	"fmt"
)

// watch judges what the plan watches all the time.
func (m *machine) watch() {
	s := &m.s
	v := s.newVersion()
	if !m.fresh || v == nil || !s.watched() {
		return
	}
	j := m.verdict(s.Plan.Watch)
	s.Judgement, s.JudgedBy = &j, "watch"
	if j.Verdict == Fail {
		m.apply(s.Plan.Watch.Rule(Fail), j, PausedByWatch)
	}
}

// verdict judges what was seen so far. While the new version has lost the weight that
// the plan gives it, as it is not ready, the last window counts as the present one.
func (m *machine) verdict(a *Analysis) Judgement {
	s := &m.s
	w, earlier := s.Window, s.Windows
	if n := len(earlier); n > 0 && s.Weights.Most(s.Plan.Version) == 0 && hasWeight(s.Plan.weights(s.Step)) {
		w, earlier = earlier[n-1], earlier[:n-1]
	}
	w.New.Restarts = saturating(w.New.Restarts, s.Restarts)
	return a.judge(w, earlier)
}

// apply does what the rule says, and reports whether it says to go on. A pause
// is by whoever judged: a step that has its verdict is done when somebody
// resumes, and one that was only watched is not.
func (m *machine) apply(rule Rule, j Judgement, by PauseCause) bool {
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
		m.pause(by, j.String())
	default:
		return true
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
		j = m.verdict(a)
		s.JudgedBy = string(step.Kind)
	}
	s.Judgement = &j
	switch {
	case j.Verdict == Pass:
		m.event(VerdictGiven, s.Plan.Version, j.String())
		return true
	case j.Verdict == Fail:
		return m.apply(onFail, j, PausedByVerdict)
	case overdue:
		j.Reason = fmt.Sprintf("%s, after %v", j.Reason, step.For)
		m.event(VerdictGiven, s.Plan.Version, fmt.Sprintf("%s; then: %s", j, onInconclusive))
		return m.apply(onInconclusive, j, PausedByVerdict)
	}
	return false
}
