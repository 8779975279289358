package health

import (
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A simulation runs the core of a prober, or plain thresholds, against 100
// targets for some minutes of simulated time. It is the prober itself, except
// that a loop plays the clock, the network and the operating system, and so can
// stop each of them.
type simulation struct {
	policy Policy
	plain  bool // thresholds only: no self-doubt, no caps
	seed   uint64

	// answers reports whether a target answers what arrives at a time, and if
	// so, how long after.
	answers func(target int, at instant) (bool, time.Duration)
	stalled func(at instant) bool // of the prober
	length  instant
}

// A finding is what became of a simulation.
type finding struct {
	unready map[int]instant // the first time that a target was not ready, after its start
	dead    map[int]instant
	recover bool // all were ready again in the end
}

const simTargets = 100

func (s simulation) run(t *testing.T) finding {
	t.Helper()
	opts := Options{Concurrency: 1000}
	if s.plain {
		opts.PanicShare, opts.MaxUnready = 1, 1
	}
	opts, err := opts.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	c := newCore(opts, s.seed)
	for i := range simTargets {
		// The deadlines of the checks are in the hands of this loop.
		if err := c.add(Target{ID: fmt.Sprint(i), Check: func(context.Context) (Result, error) { return Result{}, nil }, Policy: s.policy}, 0); err != nil {
			t.Fatal(err)
		}
	}
	number := map[*target]int{}
	for i := range simTargets {
		number[c.targets[fmt.Sprint(i)]] = i
	}
	type call struct {
		t        *target
		end      instant // the answer arrives, or the context ends
		deadline instant
		v        verdict
	}
	f := finding{unready: map[int]instant{}, dead: map[int]instant{}}
	var calls []call
	plannedAt, seen := instant(0), uint64(0)
	const tick = 5 * time.Millisecond
	// As in Run: what is due, then how long to sleep, and then the checks, which
	// start in goroutines of their own.
	step := func(now instant) {
		c.wake(now)
		plannedAt = math.MaxInt64
		if wait, ok := c.plan(now); ok {
			plannedAt = now + max(wait, tick)
			c.lag.planned = plannedAt
		}
		for t := c.start(now); t != nil; t = c.start(now) {
			i := number[t]
			k := call{t, c.deadline(t), c.deadline(t), failed}
			if ok, after := s.answers(i, now); ok && now+after < k.end {
				k.end, k.v = now+after, passed
			}
			calls = append(calls, k)
		}
	}
	for now := tick; now < s.length; now += tick {
		if s.stalled != nil && s.stalled(now) {
			continue
		}
		if s.plain {
			c.lag = lagMeter{} // it does not measure itself
		}
		// After a pause Go looks at its timers first: contexts end before
		// answers that have arrived are read.
		calls = slices.DeleteFunc(calls, func(k call) bool {
			if k.end > now {
				return false
			}
			if now >= k.deadline {
				k.v = failed
			}
			c.finish(k.t, k.v, "no answer", now)
			return true
		})
		for now >= plannedAt || c.early() {
			step(now)
		}
		for p := c.changes.newer; seen != c.version && p != &c.changes; p = p.newer {
			i := number[p]
			if _, ok := f.unready[i]; p.state >= NotReady && !ok {
				f.unready[i] = now
			}
			if _, ok := f.dead[i]; p.state == Dead && !ok {
				f.dead[i] = now
			}
		}
		seen = c.version
		f.recover = c.known == simTargets && c.out == 0
	}
	return f
}

func during(at, from, length instant) bool { return at >= from && at < from+length }

// The table of BENCHMARKS.md: how often a prober that doubts itself, and one
// that goes by thresholds alone, take a living target for not ready, and how
// soon they find a dead one. Show it with
//
//	go test ./health -run TestDetectionTable -v
func TestDetectionTable(t *testing.T) {
	policy := Policy{Period: time.Second, Timeout: 500 * ms, SuccessThreshold: 1, FailureThreshold: 3, LivenessThreshold: 6}
	eager := policy
	eager.Timeout, eager.FailureThreshold, eager.LivenessThreshold = 300*ms, 1, 3
	const event = 30 * time.Second
	quick := func(target int, at instant) (bool, time.Duration) { return true, time.Duration(1+target%20) * ms }
	pause := func(length instant, who func(int) bool) func(int, instant) (bool, time.Duration) {
		return func(target int, at instant) (bool, time.Duration) {
			if who(target) && during(at, event, length) {
				// It answers when the pause is over.
				return true, event + length - at + 5*ms
			}
			return quick(target, at)
		}
	}
	lost := func(length instant, who func(int) bool) func(int, instant) (bool, time.Duration) {
		return func(target int, at instant) (bool, time.Duration) {
			if who(target) && during(at, event, length) {
				return false, 0
			}
			return quick(target, at)
		}
	}
	one := func(i int) bool { return i == 7 }
	half := func(i int) bool { return i%2 == 0 }
	most := func(i int) bool { return i%10 < 6 }
	stall := func(length instant) func(instant) bool {
		return func(at instant) bool { return during(at, event, length) }
	}
	stutter := func(at instant) bool { return at > event && at < 2*event && at%(400*ms) < 200*ms }
	starved := func(at instant) bool { return at > event && at < 2*event && at%(200*ms) < 150*ms }

	realSeeds := uint64(6) // of the scenes in which a target dies
	if s := os.Getenv("HEALTH_SEEDS"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("HEALTH_SEEDS: %v", err)
		}
		realSeeds = n
	}
	var table strings.Builder
	for _, c := range []struct {
		name    string
		answers func(int, instant) (bool, time.Duration)
		stalled func(instant) bool
		wrong   int  // not ready at most, by health at 3 failures
		real    bool // the target is really dead
	}{
		{"one target pauses 1 s", pause(1*time.Second, one), nil, 0, false},
		{"one target pauses 5 s", pause(5*time.Second, one), nil, 1, false},
		{"one target is slow, 290 ms", func(i int, at instant) (bool, time.Duration) {
			if one(i) {
				return true, 290 * ms
			}
			return quick(i, at)
		}, nil, 0, false},
		{"the prober pauses 1 s", quick, stall(time.Second), 0, false},
		{"the prober pauses 5 s", quick, stall(5 * time.Second), 0, false},
		{"the prober pauses 5 s, replies are lost", lost(5*time.Second, func(int) bool { return true }), stall(5 * time.Second), 0, false},
		{"the prober gets every other 200 ms", quick, stutter, 0, false},
		{"the prober gets 50 of each 200 ms", quick, starved, 0, false},
		{"half the network stalls 1 s", pause(time.Second, half), nil, 0, false},
		{"half the network stalls 5 s", pause(5*time.Second, half), nil, 33, false},
		{"60 % of the network stall 5 s", pause(5*time.Second, most), nil, 0, false},
		{"60 % of the network lose all for 30 s", lost(event, most), nil, 0, false},
		{"one target dies", lost(time.Hour, one), nil, 1, true},
		{"one dies while the prober stutters", lost(time.Hour, one), stutter, 1, true},
		{"one dies while it gets 50 of 200 ms", lost(time.Hour, one), starved, 1, true},
	} {
		for _, p := range []struct {
			name   string
			policy Policy
		}{{"500 ms, 3 failures", policy}, {"300 ms, 1 failure", eager}} {
			var wrong, dead [2]int
			var detected [2]instant
			seeds := uint64(2)
			if c.real {
				seeds = realSeeds
			}
			for seed := range seeds {
				for k, plain := range []bool{true, false} {
					f := simulation{policy: p.policy, plain: plain, seed: seed, answers: c.answers, stalled: c.stalled, length: 80 * time.Second}.run(t)
					wrong[k] = max(wrong[k], len(f.unready))
					dead[k] = max(dead[k], len(f.dead))
					if c.real {
						detected[k] = max(detected[k], f.unready[7]-event)
					}
					if !c.real && !f.recover {
						t.Errorf("%s, %s, plain %v: not all are ready again", c.name, p.name, plain)
					}
				}
			}
			figure := func(d instant) string {
				if !c.real {
					return "–"
				}
				return d.Round(10 * ms).String()
			}
			fmt.Fprintf(&table, "| %s | %s | %d | %d | %d | %d | %s | %s |\n", c.name, p.name,
				wrong[0], wrong[1], dead[0], dead[1], figure(detected[0]), figure(detected[1]))
			if p.name[0] == '5' && wrong[1] > c.wrong {
				t.Errorf("%s: %d called not ready, want at most %d", c.name, wrong[1], c.wrong)
			}
			if wrong[1] > wrong[0] {
				t.Errorf("%s, %s: more are called not ready than by plain thresholds, %d > %d", c.name, p.name, wrong[1], wrong[0])
			}
			if bound := p.policy.Timeout + time.Duration(p.policy.FailureThreshold)*p.policy.Period; c.real && c.stalled == nil && (detected[1] > bound || detected[1] == 0) {
				t.Errorf("%s, %s: found after %v, want at most %v", c.name, p.name, detected[1], bound)
			}
		}
	}
	t.Log("\n" + table.String())
	if realSeeds != 6 {
		return // the published table has those
	}
	published, err := os.ReadFile("BENCHMARKS.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(published), "|\n"+table.String()+"\n") {
		t.Error("the table in BENCHMARKS.md is another: if this one is as good, put it there")
	}
}
