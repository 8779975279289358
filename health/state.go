package health

import (
	"fmt"
	"time"
)

// A State is what is believed of a target.
//
//	from       to
//	unknown    ready or not ready, by the first answer; starting, if there was none
//	           or it takes more of them; dead, if StartupThreshold is 1
//	starting   ready, not ready; dead
//	ready      not ready; dead, if LivenessThreshold is not above FailureThreshold,
//	           or it was held for as long
//	not ready  ready; dead
//	dead       ready, not ready
//
// Dead asks for a restart. It is not for ever: a target that answers again, as
// one does that somebody restarted in place, is ready or not ready again.
type State uint8

// The states of a target.
const (
	Unknown  State = iota // no check has ended yet
	Starting              // it has never answered yet
	Ready                 // it can take traffic
	NotReady              // it should not get traffic
	Dead                  // it should be restarted
)

// String returns the state as in "not ready".
func (s State) String() string {
	names := [...]string{"unknown", "starting", "ready", "not ready", "dead"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// An instant is a point in time, by the monotonic clock, since the prober was
// made.
type instant = time.Duration

// A verdict is what a check, or traffic, has to say about a target.
type verdict uint8

const (
	passed   verdict = iota // it answers, and is ready
	unready                 // it answers, and is not ready
	failed                  // it does not answer, or not sensibly
	doubtful                // no telling: it is the prober that was held up
	outlier                 // traffic to it fares worse than traffic to others
)

// An observation is the input of the state machine.
type observation struct {
	verdict verdict
	reason  string  // what the check said; empty if it passed
	hold    string  // why no change for the worse may be made now; empty if it may
	void    bool    // of a failure: it is no evidence, and does not count
	until   instant // of an outlier: the end of its ejection
}

// A standing is where a target stands: the whole memory of the state machine.
type standing struct {
	state     State
	previous  State // the state before this one
	last      verdict
	out       bool  // it was ready, and was taken out
	byTraffic bool  // it is not ready because of its traffic
	failing   bool  // the last check that told something failed, whether it counts or not
	settled   bool  // it has failed for so long that it is no news
	doubts    uint8 // since its last answer, at most maxDoubts

	successes int32 // in a row
	failures  int32 // in a row, of readiness
	errors    int32 // in a row, without a sign of life

	since   instant // the state was entered
	checked instant // the last observation by a check
	ejected instant // not ready until then, whatever the checks say

	reason string // of the newest observation that was not a pass, or of the ejection
	held   string // why the state is still what it is, when it ought to be worse
}

// next is the state machine: where a target stands after an observation. It
// depends on nothing but its arguments.
func (p *Policy) next(s standing, o observation, now instant) standing {
	if o.verdict == outlier {
		if s.state != Ready || o.hold != "" {
			return s
		}
		s.reason, s.ejected, s.byTraffic = o.reason, o.until, true
		return s.enter(NotReady, now)
	}
	s.last, s.checked = o.verdict, now
	if now >= s.ejected && (o.verdict == unready || o.verdict == failed) {
		s.byTraffic = false
	}
	if !s.byTraffic {
		s.reason = o.reason
	}
	switch o.verdict {
	case doubtful: // it counts for nothing
		if s.doubts < maxDoubts {
			s.doubts++
		}
		return s
	case passed:
		s.successes, s.failures, s.errors = count(s.successes), 0, 0
		s.failing, s.settled, s.doubts = false, false, 0
	case unready:
		s.successes, s.failures, s.errors = 0, count(s.failures), 0
		s.failing, s.settled, s.doubts = false, false, 0
	case failed:
		s.successes, s.failing = 0, true
		if o.void {
			if s.state != Dead {
				s.held = o.hold
			}
			if s.state == Unknown {
				return s.enter(Starting, now)
			}
			return s
		}
		s.failures, s.errors = count(s.failures), count(s.errors)
		s.settled = int(s.errors) >= p.FailureThreshold+max(p.FailureThreshold, 2)
	}
	s.held = ""
	to := p.aim(s, o.verdict, now)
	if to == s.state {
		return s
	}
	if worse := to == Dead || s.state == Ready; worse && o.hold != "" {
		s.held = o.hold
		return s
	}
	if to == Dead {
		s.reason = o.reason
	}
	return s.enter(to, now)
}

// aim returns the state that a check leads to, were there no doubt.
func (p *Policy) aim(s standing, v verdict, now instant) State {
	switch v {
	case passed:
		switch {
		case now < s.ejected:
			return s.state
		case int(s.successes) >= p.SuccessThreshold || s.state == Ready:
			return Ready
		case s.state == Unknown:
			return Starting
		}
	case unready:
		if s.state != Ready || int(s.failures) >= p.FailureThreshold {
			return NotReady
		}
	case failed:
		switch {
		case s.state == Dead:
			return Dead
		case s.state == Unknown || s.state == Starting:
			if p.StartupThreshold > 0 && int(s.errors) >= p.StartupThreshold {
				return Dead
			}
			return Starting
		case p.LivenessThreshold > 0 && int(s.errors) >= p.LivenessThreshold:
			return Dead
		case int(s.failures) >= p.FailureThreshold:
			return NotReady
		}
	}
	return s.state
}

// enter changes the state.
func (s standing) enter(to State, now instant) standing {
	s.out = (s.out || s.state == Ready) && to != Ready
	s.previous, s.state, s.since = s.state, to, now
	if to != NotReady {
		s.byTraffic = false
	}
	if to == Ready || to == Dead { // what is restarted begins anew
		s.ejected = 0
	}
	if to == Ready {
		s.reason = ""
	}
	return s
}

// count adds one to a count that has an end.
func count(n int32) int32 { return min(n+1, maxThreshold) }

// why explains the standing in words.
func (p *Policy) why(s standing) string {
	text := ""
	switch s.state {
	case Unknown:
		text = "not checked yet"
	case Starting:
		switch {
		case s.last == passed:
			text = fmt.Sprintf("%d of %s passed so far", s.successes, checks(p.SuccessThreshold))
		case p.StartupThreshold > 0:
			text = fmt.Sprintf("no answer yet: %d of %s failed", s.errors, checks(p.StartupThreshold))
		default:
			text = fmt.Sprintf("no answer yet: %s failed", checks(int(s.errors)))
		}
	case Ready:
		switch {
		case s.failures > 0:
			text = fmt.Sprintf("%s failed in a row, of %d that it takes", checks(int(s.failures)), p.FailureThreshold)
		case s.failing:
			text = "its checks fail"
		case s.last == doubtful:
			text = "its last check told nothing"
		default:
			text = "its checks pass"
		}
	case NotReady:
		switch {
		case s.byTraffic:
			text = "ejected because of its traffic"
		case s.successes > 0:
			text = fmt.Sprintf("%d of %s passed so far", s.successes, checks(p.SuccessThreshold))
		case s.failing && s.failures == 0:
			text = "its checks fail"
		case s.errors == 0:
			text = "it answers, but is not ready"
		default:
			text = fmt.Sprintf("%s failed in a row", checks(int(s.failures)))
		}
	case Dead:
		text = fmt.Sprintf("%s failed in a row", checks(int(s.errors)))
		if s.errors == 0 {
			text = fmt.Sprintf("%d of %s passed so far", s.successes, checks(p.SuccessThreshold))
		} else if s.previous == Starting || s.previous == Unknown {
			text = "it never answered: " + text
		}
	}
	if s.reason != "" {
		text += ": " + s.reason
	}
	if s.held != "" {
		text += "; " + s.held
	}
	return text
}

func checks(n int) string {
	if n == 1 {
		return "1 check"
	}
	return fmt.Sprintf("%d checks", n)
}
