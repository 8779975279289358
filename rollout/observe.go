package rollout

import (
	"fmt"
	"math"
	"slices"
	"time"
)

const (
	maxMisses  = 3  // calls to Ready that fail in a row make a version unready
	maxWindows = 24 // kept; older evidence is forgotten

	// How long a window is at most, so that a version that turns bad late is
	// found as soon as one that was bad from the beginning.
	windowLength = 5 * time.Minute

	// A window's Peak is that of its parts of this length.
	partLength = 10 * time.Second
)

// begun takes note of a call that has begun.
func (m *machine) begun(a Action) {
	v := m.s.live.versions[a.Version]
	switch a.Kind {
	case ActStart:
		if v.starts++; !m.s.wants(a.Version) {
			v.void++ // it was to be stopped before this was known
		}
	case ActStop:
		v.stops++
	default:
		return
	}
	m.s.live.versions[a.Version] = v
}

// observe takes note of how a call has ended.
func (m *machine) observe(o Outcome) {
	s, l, a := &m.s, &m.s.live, o.Action
	key := a.key()
	if a.Kind == ActStats && o.Err == "" {
		o.Err = m.misplaced(o.Traffic)
	}
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
		if !o.Hung && v.starts > 0 {
			if v.starts--; o.Err != "" {
				v.void = min(v.void, v.starts)
			}
			l.versions[a.Version] = v
		}
		switch r := s.retired(a.Version); {
		case !s.wants(a.Version):
			if !o.Hung {
				m.retire(m.versionOf(a.Version)) // it may run
			}
			return
		case o.Err == "" && r != nil && !r.Stopped:
			m.retire(m.versionOf(a.Version)) // an earlier attempt is being stopped
			return
		case o.Err == "" && v.void > 0:
			// Whichever of those under way it was: when more of them have succeeded
			// than do not count, one has that does.
			v.void--
		case o.Err == "":
			v.started = true
		case o.Permanent && !o.Late && !v.started && m.isNew(a.Version):
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
				delete(l.next, string(ActStats)) // from now on its answers count
				m.event(WeightsApplied, "", describe(s.Weights.Splits))
			}
		}
	case ActStop:
		if !o.Hung && v.stops > 0 {
			v.stops--
		}
		if r := s.retired(a.Version); r != nil && o.Err == "" {
			switch id := a.Version; {
			case r.Void > 0:
				r.Void-- // as with starts
			case r.Stopped:
			case v.starts > 0 && !s.wants(id):
				r.Stopped = true
				m.event(Stopped, id, "a call to start it has not returned: then it is stopped once more")
			default:
				s.Retired = slices.DeleteFunc(s.Retired, func(r Retirement) bool { return r.Version.ID == id })
				m.event(Stopped, id, "")
			}
			m.changed()
		}
		if v.stops == 0 && v.starts == 0 && !s.wants(a.Version) && s.retired(a.Version) == nil {
			m.forget(a.Version)
			return
		}
	case ActStats:
		if l.next[key] = l.clock + m.Interval; a.Revision != s.counted() && s.counted() != 0 {
			delete(l.next, key)
		}
		if o.Late || o.Err != "" {
			return
		}
		m.observeRestarts(o.Traffic)
		switch a.Revision {
		case 0: // it was asked before the weights were applied
		case s.counted():
			m.observeTraffic(o.Traffic)
		case l.closed.revision:
			if s.isApplied() {
				l.closed = closed{} // it took so long that much of it came under these weights
				return
			}
			m.observeRest(o.Traffic)
		}
		return
	case ActGate:
		l.next[a.identity()] = l.clock + m.Interval
		if o.Late || a.Step != s.Step {
			return
		}
		// Its figures are not kept: those of a stranger may not fit into JSON.
		j := Judgement{Verdict: o.Judgement.Verdict, Reason: short(o.Judgement.Reason)}
		switch {
		case o.Err != "":
			j = Judgement{Reason: short("no answer: " + o.Err)}
		case j.Verdict != Pass && j.Verdict != Fail:
			j.Verdict = Inconclusive
		}
		l.gate, l.gateStep = &j, a.Step
		return
	}
	if a.Version != "" {
		l.versions[a.Version] = v
	}
}

// forget drops what was known of a version that has ended.
func (m *machine) forget(version string) {
	l := &m.s.live
	delete(l.versions, version)
	for _, kind := range []ActionKind{ActStart, ActReady, ActStop} {
		key := (Action{Kind: kind, Version: version}).key()
		delete(l.retry, key)
		delete(l.next, key)
	}
}

func (m *machine) failed(key string, a Action, err string) {
	l := &m.s.live
	r := l.retry[key]
	r.failures++
	r.at, r.err = l.clock+m.backoff(r.failures), err
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

// misplaced says what is wrong with the places of an answer of Stats, if anything is:
// traffic at a place that is not the version's would not count, and nobody notice.
func (m *machine) misplaced(traffic map[string]Traffic) string {
	s := &m.s
	if s.newVersion() == nil {
		return ""
	}
	step, _ := s.step()
	_, even := s.Weights.shared(s.Plan.Version)
	for _, v := range s.wanted() {
		t := traffic[v.ID]
		if !t.byPlace() {
			if what := s.Plan.compares(step); what != "" && !even {
				return fmt.Sprintf("the traffic of %s has no Places, which %s needs, as the weights differ by place", v.ID, what)
			}
			continue
		}
		places := v.places()
		for i, p := range t.Places {
			if !slices.Contains(places, p.Place) {
				return fmt.Sprintf("%s has traffic%s, which is not among the listeners and locations of its plan: leave it out, or let the plan name it", v.ID, p.Place)
			}
			if t.find(p.Place) != i {
				return fmt.Sprintf("the traffic of %s%s is told twice: add it up", v.ID, p.Place)
			}
		}
	}
	return ""
}

// observeRestarts counts restarts of the new version, whatever becomes of the
// weights meanwhile: one that ends again and again is seldom ready.
func (m *machine) observeRestarts(traffic map[string]Traffic) {
	s := &m.s
	if s.newVersion() == nil {
		return
	}
	v := s.live.versions[s.Plan.Version]
	t, ok := traffic[s.Plan.Version]
	if !v.started || !ok && v.counted {
		return
	}
	if v.counted {
		if n := t.Since(Traffic{Restarts: v.restarts}).Restarts; n > 0 {
			s.Restarts = saturating(s.Restarts, n)
			m.fresh = true
			m.changed()
		}
	}
	v.counted, v.restarts = true, t.Restarts
	s.live.versions[s.Plan.Version] = v
}

// observeRest adds what was counted between the last answer under the weights
// before and their end, when a call was under way.
func (m *machine) observeRest(traffic map[string]Traffic) {
	s, l := &m.s, &m.s.live
	was := l.closed
	l.closed = closed{}
	if s.newVersion() == nil {
		return
	}
	rest := m.between(was.last, traffic, was.weights)
	// Some of this may have come under the next weights, which are being applied.
	last := &s.Windows[len(s.Windows)-1]
	*last = last.plus(rest)
	last.raise(rest)
	m.fresh = true
}

// between returns the traffic of both versions between two answers of Stats, under
// those weights. Restarts are not in it; see observeRestarts.
func (m *machine) between(last, traffic map[string]Traffic, weights Weights) Window {
	s := &m.s
	since := func(id string) Traffic { return traffic[id].Since(last[id]) }
	fresh, stable := since(s.Plan.Version), Traffic{}
	if s.Stable != nil {
		stable = since(s.Stable.ID)
	}
	at, even := weights.shared(s.Plan.Version)
	if fresh.byPlace() && stable.byPlace() && len(fresh.Places)+len(stable.Places) > 0 {
		return windowAt(stable, fresh, at)
	}
	// As wholes they can be compared only if no place has a weight of its own. A
	// plan that compares does not stay where some have, but somebody may pause it on
	// its way from one step to the next, or a proxy may be slow.
	w := Window{New: fresh.total()}
	if even {
		w.Old = stable.total()
	}
	return w
}

// observeTraffic adds what was counted since the last time.
func (m *machine) observeTraffic(traffic map[string]Traffic) {
	s, l := &m.s, &m.s.live
	if s.newVersion() == nil {
		return
	}
	last := l.last
	if last == nil || l.clock-l.windowAt > windowLength {
		m.closeWindow()
		l.windowAt = l.clock
	}
	if l.last = traffic; traffic == nil {
		l.last = map[string]Traffic{}
	}
	if last == nil {
		return // what was counted before the weights were applied
	}
	since := m.between(last, traffic, s.Weights)
	if l.clock-l.partAt >= partLength {
		l.part, l.partAt = Window{}, l.clock
	}
	l.part = l.part.plus(since)
	s.Window = s.Window.plus(since)
	s.Window.raise(l.part)
	m.fresh = true
}

// closeWindow ends the window of traffic under the weights that were.
func (m *machine) closeWindow() {
	s := &m.s
	s.live.closed = closed{}
	if s.Window.New.Requests > 0 || s.Window.Apart.Requests > 0 {
		s.live.closed = closed{s.Weights.Revision, s.live.last, s.Weights}
		if n := len(s.Windows); n > 0 {
			s.Window.Index = s.Windows[n-1].Index + 1
		}
		s.Windows = append(s.Windows, s.Window)
		s.Windows = s.Windows[max(0, len(s.Windows)-maxWindows):]
	}
	s.Window = Window{}
	s.live.last, s.live.part = nil, Window{}
}
