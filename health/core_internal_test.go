package health

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// Whatever happens in whatever order, the core keeps its books: no check runs
// twice, slots are bounded and not lost, what is counted step by step is what a
// slow count of everything finds, and nothing that is due is forgotten.
func FuzzCore(f *testing.F) {
	f.Add(uint64(1), uint16(500))
	f.Fuzz(func(t *testing.T, seed uint64, steps uint16) { playCore(t, seed, int(steps)%2000) })
}

func TestCoreAgainstModel(t *testing.T) {
	for seed := range uint64(60) {
		playCore(t, seed, 1500)
	}
}

func playCore(t *testing.T, seed uint64, steps int) {
	rng := rand.New(rand.NewPCG(seed, 1))
	opts, err := Options{
		Concurrency: 1 + rng.IntN(6), MaxHung: 1 + rng.IntN(4), PanicMinimum: 1 + rng.IntN(10),
		Outlier: Outlier{Interval: time.Second, BaseEjectionTime: time.Second, MaxEjectionPercent: 1 + rng.IntN(100)},
	}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	c := newCore(opts, seed)
	now, planned := instant(0), instant(0)
	inFlight := map[*target]bool{}
	check := func(context.Context) (Result, error) { return Result{}, nil }
	for step := range steps {
		id := fmt.Sprint(rng.IntN(30))
		switch rng.IntN(8) {
		case 0:
			p := Policy{Period: time.Duration(1+rng.IntN(3000)) * time.Millisecond, SuccessThreshold: 1 + rng.IntN(2), FailureThreshold: 1 + rng.IntN(3),
				LivenessThreshold: rng.IntN(5), StartupThreshold: rng.IntN(5)}
			p.Timeout = max(1, time.Duration(rng.Float64()*float64(p.Period)))
			_, there := c.targets[id]
			if err := c.add(Target{ID: id, Group: fmt.Sprint(rng.IntN(3)), Check: check, Policy: p}, now); (err != nil) != there {
				t.Fatalf("step %d: add %s: %v", step, id, err)
			}
		case 1:
			if rng.IntN(3) == 0 {
				c.remove(id, now)
			}
		case 2:
			c.observe(id, Outcome(rng.IntN(3)), time.Duration(rng.IntN(1e9)), func() instant { return now })
		case 3, 4:
			for k := range inFlight {
				v := []verdict{passed, passed, unready, failed, failed}[rng.IntN(5)]
				c.finish(k, v, "said so", now)
				delete(inFlight, k)
				break
			}
		default:
			now += time.Duration(rng.ExpFloat64() * 2e8)
			if rng.IntN(40) == 0 {
				now += time.Duration(rng.IntN(1e10)) // a long pause
			}
			for now >= planned || c.early() {
				c.wake(now)
				planned = math.MaxInt64
				if wait, ok := c.plan(now); ok {
					planned = now + wait
				}
				for k := c.start(now); k != nil; k = c.start(now) {
					if inFlight[k] || k.removed {
						t.Fatalf("step %d: %s was started again, removed: %v", step, k.id, k.removed)
					}
					inFlight[k] = true
				}
				if c.startable() != 0 {
					t.Fatalf("step %d: %d could start, and do not", step, c.startable())
				}
			}
		}
		audit(t, c, step, inFlight)
	}
}

// A target that is removed while a snapshot is taken, and added again, may come twice.
func TestNewestOfTwo(t *testing.T) {
	var views []view
	for n, id := range []string{"b", "a", "c", "b", "a"} {
		views = append(views, view{t: &target{id: id}, n: n})
	}
	got := ""
	for _, v := range newest(views) {
		got += fmt.Sprint(v.t.id, v.n, " ")
	}
	if got != "a4 b3 c2 " {
		t.Errorf("got %s", got)
	}
}

// audit counts everything anew.
func audit(t *testing.T, c *core, step int, inFlight map[*target]bool) {
	t.Helper()
	if c.active+c.parked != len(inFlight) || c.active > c.opts.Concurrency || c.parked > c.opts.MaxHung || c.stuck > c.active || c.stuck < 0 {
		t.Fatalf("step %d: active %d of %d, parked %d of %d, stuck %d, in flight %d", step,
			c.active, c.opts.Concurrency, c.parked, c.opts.MaxHung, c.stuck, len(inFlight))
	}
	var all tally
	groups := map[*group]*tally{}
	refs, fresh, queued, listed := map[*group]int{}, 0, 0, 0
	suspects := 0
	for k := range inFlight {
		if k.suspect {
			suspects++
		}
	}
	for id, k := range c.targets {
		if k.id != id || k.removed {
			t.Fatalf("step %d: %s is listed as %s, removed: %v", step, k.id, id, k.removed)
		}
		all.add(&k.standing, 1)
		if groups[k.group] == nil {
			groups[k.group] = &tally{}
		}
		groups[k.group].add(&k.standing, 1)
		refs[k.group]++
		if !k.again {
			fresh++
		}
		if k.phase == waiting {
			queued++
		}
		if (k.pos >= 0) != (k.phase != waiting) || k.pos >= 0 && c.heap.entries[k.pos].t != k {
			t.Fatalf("step %d: %s is in phase %d and at %d of the heap", step, k.id, k.phase, k.pos)
		}
		if inFlight[k] != (k.phase >= running) {
			t.Fatalf("step %d: %s is in phase %d, in flight: %v", step, k.id, k.phase, inFlight[k])
		}
		if k.traffic != nil && k.group.observed[k.traffic.pos] != k {
			t.Fatalf("step %d: the traffic of %s is lost", step, k.id)
		}
	}
	if suspects != c.suspects || suspects > c.mostSuspects() {
		t.Fatalf("step %d: %d suspects have slots, in fact %d of %d", step, c.suspects, suspects, c.mostSuspects())
	}
	if all != c.tally || fresh != c.fresh || queued > c.waiting() || len(refs) != len(c.groups) {
		t.Fatalf("step %d: counted %+v, %d fresh, %d groups; in fact %+v, %d, %d", step, c.tally, c.fresh, len(c.groups), all, fresh, len(refs))
	}
	for g, want := range groups {
		if g.tally != *want || g.refs != refs[g] || c.groups[g.name] != g {
			t.Fatalf("step %d: group %s counted %+v, in fact %+v", step, g.name, g.tally, *want)
		}
	}
	for p := c.changes.newer; p != &c.changes; p = p.newer {
		if listed++; p.newer.older != p || c.targets[p.id] != p {
			t.Fatalf("step %d: the list of changes is broken", step)
		}
	}
	if listed != len(c.targets) || c.inPanic != c.opts.panicking(&c.tally, c.failing) {
		t.Fatalf("step %d: %d of %d are listed, panic: %v", step, listed, len(c.targets), c.inPanic)
	}
}
