package health

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// A slowModel knows every observation there ever was, and looks at all of them
// each time.
type slowModel struct {
	p     Policy
	state State
	seen  []observation // those that count
	eject instant
}

// row counts how many of the newest observations satisfy f.
func (m *slowModel) row(f func(verdict) bool) int {
	n := 0
	for _, o := range slices.Backward(m.seen) {
		if !f(o.verdict) {
			break
		}
		n++
	}
	return n
}

func (m *slowModel) observe(o observation, now instant) {
	switch o.verdict {
	case doubtful:
		return
	case outlier:
		if m.state == Ready && o.hold == "" {
			m.state, m.eject = NotReady, o.until
		}
		return
	}
	if o.void { // it counts for nothing, but ends a row of passes
		if m.state == Unknown {
			m.state = Starting
		}
		if n := len(m.seen); n > 0 && m.seen[n-1].verdict == passed {
			m.seen = append(m.seen, observation{verdict: doubtful})
		}
		return
	}
	m.seen = append(m.seen, o)
	answers := slices.ContainsFunc(m.seen, func(o observation) bool { return o.verdict == unready }) ||
		m.state != Unknown && m.state != Starting
	passes := m.row(func(v verdict) bool { return v == passed })
	misses := m.row(func(v verdict) bool { return v == failed })
	bad := m.row(func(v verdict) bool { return v == failed || v == unready })
	to := m.state
	switch {
	case passes > 0 && m.state == Unknown:
		to = Starting
	case misses > 0 && !answers:
		to = Starting
	}
	if passes >= m.p.SuccessThreshold && (now >= m.eject || m.state == Dead) {
		to = Ready
	}
	if bad >= m.p.FailureThreshold && m.state == Ready {
		to = NotReady
	}
	if o.verdict == unready && m.state != Ready {
		to = NotReady
	}
	switch {
	case misses == 0:
	case answers && m.p.LivenessThreshold > 0 && misses >= m.p.LivenessThreshold:
		to = Dead
	case !answers && m.p.StartupThreshold > 0 && misses >= m.p.StartupThreshold:
		to = Dead
	}
	worse := to == Dead && m.state != Dead || m.state == Ready && to == NotReady
	if worse && o.hold != "" {
		return
	}
	if to == Ready || to == Dead {
		m.eject = 0
	}
	m.state = to
}

func FuzzNext(f *testing.F) {
	f.Add(uint64(1), []byte{0, 0, 2, 2, 2, 2, 2, 0, 1, 1, 4, 0})
	f.Add(uint64(7), []byte("\x02\x02\x02\x02\x02\x02\x02\x02\x00\x00\x03\x12\x12\x12\x02"))
	f.Fuzz(func(t *testing.T, seed uint64, script []byte) { playScript(t, seed, script) })
}

func playScript(t *testing.T, seed uint64, script []byte) {
	rng := rand.New(rand.NewPCG(seed, 0))
	p := Policy{
		Period: time.Second, Timeout: time.Second,
		SuccessThreshold: 1 + rng.IntN(4), FailureThreshold: 1 + rng.IntN(4),
		LivenessThreshold: rng.IntN(6), StartupThreshold: rng.IntN(6),
	}
	m := slowModel{p: p}
	var s standing
	now := instant(0)
	for i, b := range script {
		now += instant(b>>5) * time.Second
		o := observation{verdict: verdict(b % 5), reason: fmt.Sprint("reason", i)}
		if o.verdict == passed {
			o.reason = ""
		}
		if b&16 != 0 && o.verdict != passed {
			o.hold = "on hold"
			o.void = o.verdict == failed && b&32 != 0
		}
		if o.verdict == outlier {
			o.until = now + 5*time.Second
		}
		before := s
		s = p.next(s, o, now)
		m.observe(o, now)
		if s.state != m.state {
			t.Fatalf("%+v, script %v, step %d: %v, but the model says %v", p, script[:i+1], i, s.state, m.state)
		}
		if s.state != before.state && (s.since != now || s.previous != before.state) {
			t.Fatalf("step %d: since %v at %v, previous %v after %v", i, s.since, now, s.previous, before.state)
		}
		if s.held != "" && (s.state == Dead || o.hold == "" && s.held != before.held) {
			t.Fatalf("step %d: %v is held: %q", i, s.state, s.held)
		}
		if s.out && s.state != NotReady && s.state != Dead || s.byTraffic && s.state != NotReady {
			t.Fatalf("step %d: out %v, by traffic %v while %v", i, s.out, s.byTraffic, s.state)
		}
		why := p.why(s)
		if why == "" || s.state != Ready && s.errors > 0 && !strings.Contains(why, "reason") {
			t.Fatalf("step %d: %v is explained by %q", i, s.state, why)
		}
	}
}

func TestNextAgainstModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		script := make([]byte, rng.IntN(60))
		for i := range script {
			script[i] = byte(rng.Uint32())
			if i > 0 && rng.IntN(3) > 0 {
				script[i] = script[i-1]
			}
		}
		playScript(t, rng.Uint64(), script)
	}
}

// A target that was ejected, died, and was restarted in place is not kept out by what
// became of its predecessor's requests; and a check that fails meanwhile does not pass
// for the reason of the ejection.
func TestEjectedAndRestarted(t *testing.T) {
	p := Policy{SuccessThreshold: 1, FailureThreshold: 1, LivenessThreshold: 2}
	var s standing
	see := func(v verdict, reason string) {
		t.Helper()
		s = p.next(s, observation{verdict: v, reason: reason, until: 300 * time.Second}, s.checked+time.Second)
	}
	see(passed, "")
	see(outlier, "5 errors in a row")
	see(failed, "refused")
	if why := p.why(s); s.state != NotReady || why != "ejected because of its traffic: 5 errors in a row" {
		t.Errorf("it is %v: %s", s.state, why)
	}
	see(passed, "")
	see(failed, "refused")
	see(failed, "refused")
	if why := p.why(s); s.state != Dead || why != "2 checks failed in a row: refused" {
		t.Errorf("it is %v: %s", s.state, why)
	}
	see(unready, "warming up")
	see(passed, "")
	if s.state != Ready {
		t.Errorf("it is %v: %s", s.state, p.why(s))
	}
}

// What fails in panic mode counts neither then nor when an answer "not ready" follows.
func TestUnreadyAfterPanic(t *testing.T) {
	p := Policy{SuccessThreshold: 1, FailureThreshold: 3, LivenessThreshold: 6}
	s := p.next(standing{}, observation{verdict: passed}, 1)
	for i := range 30 {
		s = p.next(s, observation{verdict: failed, reason: "silence", hold: "cannot tell", void: true}, instant(2+i))
	}
	if why := p.why(s); s.state != Ready || s.held == "" || why != "its checks fail: silence; cannot tell" {
		t.Errorf("it is %v: %s", s.state, why)
	}
	s = p.next(s, observation{verdict: unready, reason: "warming up"}, 40)
	if why := p.why(s); s.state != Ready || s.held != "" || why != "1 check failed in a row, of 3 that it takes: warming up" {
		t.Errorf("it is %v: %s", s.state, why)
	}
}

// A check that tells nothing does not end an ejection, nor its reason.
func TestDoubtAfterEjection(t *testing.T) {
	p := Policy{SuccessThreshold: 2, FailureThreshold: 1}
	s := p.next(standing{}, observation{verdict: passed}, 1)
	s = p.next(s, observation{verdict: passed}, 2)
	s = p.next(s, observation{verdict: outlier, reason: "5 errors in a row", until: 10}, 3)
	s = p.next(s, observation{verdict: doubtful, reason: "cannot tell"}, 11)
	if why := p.why(s); why != "ejected because of its traffic: 5 errors in a row" {
		t.Errorf("it is %v: %s", s.state, why)
	}
}

func TestStates(t *testing.T) {
	for s, want := range map[State]string{Unknown: "unknown", NotReady: "not ready", Dead: "dead", 9: "State(9)"} {
		if s.String() != want {
			t.Errorf("%d is %q, want %q", uint8(s), s, want)
		}
	}
}

func TestHeapAgainstModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	var h heap
	model := map[*target]instant{}
	var all []*target
	for range 5000 {
		all = append(all, &target{pos: -1})
	}
	for i := range 100_000 {
		n := all[rng.IntN(len(all))]
		if i > 50_000 {
			n = all[rng.IntN(50)]
		}
		if rng.IntN(3) == 0 {
			h.remove(n)
			delete(model, n)
		} else {
			due := instant(rng.IntN(1000))
			h.set(n, due)
			model[n] = due
		}
		if i == 50_000 {
			for _, n := range all {
				h.remove(n)
			}
			clear(model)
		}
		due, ok := h.first()
		if ok != (len(model) > 0) || len(h.entries) != len(model) {
			t.Fatalf("step %d: %d entries, want %d", i, len(h.entries), len(model))
		}
		if i%100 == 0 {
			least := instant(1000)
			for n, due := range model {
				least = min(least, due)
				if h.entries[n.pos].t != n || h.entries[n.pos].due != due {
					t.Fatalf("step %d: a target is not where it should be", i)
				}
			}
			if ok && due != least {
				t.Fatalf("step %d: first is %v, want %v", i, due, least)
			}
		}
	}
}

func TestQueue(t *testing.T) {
	var q queue
	var model []*target
	rng := rand.New(rand.NewPCG(5, 6))
	for range 100_000 {
		if rng.IntN(2) == 0 {
			n := &target{}
			q.push(n)
			model = append(model, n)
			continue
		}
		if len(model) > 0 && rng.IntN(10) == 0 {
			model[rng.IntN(len(model))].removed = true
		}
		model = slices.DeleteFunc(model, func(t *target) bool { return t.removed })
		var want *target
		if len(model) > 0 {
			want, model = model[0], model[1:]
		}
		got := q.head()
		if got != want {
			t.Fatal("not in the order in which they came")
		}
		if got != nil {
			q.pop()
		}
	}
}

func TestAccrual(t *testing.T) {
	var a accrual
	rng := rand.New(rand.NewPCG(7, 8))
	if _, ok := a.phi(time.Hour, 0, 0); ok {
		t.Error("it can tell without heartbeats")
	}
	for range 1000 {
		a.add(time.Second + time.Duration(rng.NormFloat64()*0.2*float64(time.Second)))
	}
	// At the mean plus k standard deviations φ is -log10 of the tail of the
	// normal distribution.
	for _, c := range []struct{ seconds, phi float64 }{
		{1, 0.30}, {1.2, 0.80}, {1.4, 1.64}, {1.6, 2.87}, {2, 6.54}, {3, 23.1}, {7, 197.3}, {100, 53200},
	} {
		phi, ok := a.phi(time.Duration(c.seconds*1e9), 0, 0)
		if !ok || phi < c.phi*0.8 || phi > c.phi*1.25 {
			t.Errorf("φ(%vs) = %.3f, want about %v", c.seconds, phi, c.phi)
		}
	}
	last := -1.0
	for s := 0.0; s < 10; s += 0.01 {
		phi, _ := a.phi(time.Duration(s*1e9), 0, 0)
		if phi < last {
			t.Fatalf("φ falls at %vs: %v after %v", s, phi, last)
		}
		last = phi
	}
	long, _ := a.phi(4*time.Second, 3*time.Second, 0)
	short, _ := a.phi(time.Second, 0, 0)
	if long != short {
		t.Errorf("φ with a pause is %v, want %v", long, short)
	}
}
