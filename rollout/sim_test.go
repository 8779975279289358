package rollout_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/rollout"
)

// seeds returns how many simulations to run: ROLLOUT_SEEDS, or some.
func seeds(t *testing.T) int {
	if s := os.Getenv("ROLLOUT_SEEDS"); s != "" {
		n, err := strconv.Atoi(s)
		require.NoError(t, err)
		return n
	}
	if testing.Short() {
		return 100
	}
	return 200
}

// TestSimulation runs a Runner against a world in which everything fails: the
// store, the deployer, the process, the clock, the versions, the people. What
// must hold all the same is checked by the world; see its methods. The full set
// is ROLLOUT_SEEDS=10000.
func TestSimulation(t *testing.T) {
	const workers = 2
	n := seeds(t)
	var mu sync.Mutex
	total := map[string]int{}
	t.Run("seeds", func(t *testing.T) {
		for worker := range workers {
			t.Run(fmt.Sprint(worker), func(t *testing.T) {
				t.Parallel()
				for seed := worker; seed < n && !t.Failed(); seed += workers {
					counts := simulateWorld(t, uint64(seed)).counts
					mu.Lock()
					for k, v := range counts {
						total[k] += v
						if strings.HasPrefix(k, "gate: ") {
							total["gate"] += v // there are few
						}
					}
					mu.Unlock()
				}
			})
		}
	})
	var lines []string
	for _, k := range slices.Sorted(maps.Keys(total)) {
		lines = append(lines, fmt.Sprintf("%-32s %d", k, total[k]))
	}
	t.Logf("%d seeds:\n%s", n, strings.Join(lines, "\n"))
	for _, must := range []string{"ended succeeded", "ended rolled back", "crash", "set weights: hang", "store: hang", "rival", "without listeners", "gate", "verdict fail"} {
		require.NotZero(t, total[must], "the simulation never had %q", must)
	}
}

// simulateWorld runs one simulation, and returns its world as it was in the end.
func simulateWorld(t *testing.T, seed uint64) (w *world) {
	synctest.Test(t, func(t *testing.T) {
		w = newWorld(seed)
		plans := []rollout.Plan{w.randomPlan("v1"), w.randomPlan("v2")}
		if w.rng.IntN(4) == 0 {
			plans = append(plans, w.randomPlan("v3"))
		}
		w.play(t, plans)
		if len(w.violations) > 0 {
			t.Errorf("seed %d:\n%s\n\nlast of %d lines:\n%s", seed, strings.Join(w.violations, "\n"), len(w.log),
				strings.Join(w.log[max(0, len(w.log)-400):], "\n"))
		}
	})
	return w
}

// TestSimulationRepeats: a seed has the same calls, faults and commands each time, to
// the nanosecond, but for the few in which two things fall on the same instant, so
// that a channel chooses between them, or another process begins.
func TestSimulationRepeats(t *testing.T) {
	const n = 20
	story := func(seed uint64) (lines []string) {
		for _, line := range simulateWorld(t, seed).log {
			if !strings.Contains(line, " event ") { // those of one instant have any order
				lines = append(lines, line)
			}
		}
		slices.Sort(lines)
		return lines
	}
	same := 0
	for seed := range uint64(n) {
		if slices.Equal(story(seed), story(seed)) {
			same++
		}
	}
	require.Greater(t, same, n*3/4)
}

// TestCrashEverywhere lets the process die once, at each place where it can be
// seen from outside: before and after each call to the deployer or the store.
// The rollout must end as it would have.
func TestCrashEverywhere(t *testing.T) {
	for _, test := range []struct {
		name string
		bad  bool
		dies bool
		want rollout.Phase
	}{
		{"good, versions survive", false, false, rollout.Succeeded},
		{"good, versions die too", false, true, rollout.Succeeded},
		{"bad, versions survive", true, false, rollout.RolledBack},
		{"bad, versions die too", true, true, rollout.RolledBack},
	} {
		t.Run(test.name, func(t *testing.T) {
			crashes := 0
			for at := 1; crashes == at-1; at++ { // until the process ends before it comes that far
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(1)
					w.faulty, w.crashy, w.busy, w.dies, w.calm, w.crashAt = 0, 0, 0, test.dies, w.began, at
					w.rivals, w.mute = false, false
					p := rollout.Canary(rollout.SetWeight(10), rollout.Bake(4*time.Second), rollout.SetWeight(50), rollout.Bake(2*time.Second))
					p.Watch = &rollout.Analysis{}
					p.Listeners = []string{"api"}
					one, two := p, p
					one.Version, two.Version = "v1", "v2"
					v := w.version("v2")
					v.badFrom, v.unready, v.startup = time.Time{}, [2]time.Time{}, time.Second
					if test.bad {
						v.badFrom = w.began
					}
					w.play(t, []rollout.Plan{one, two})
					require.Empty(t, w.violations, "crash at %d:\n%s", at, strings.Join(w.log, "\n"))
					require.Equal(t, test.want, w.r.Status().State.Phase, "crash at %d:\n%s", at, strings.Join(w.log, "\n"))
					crashes += w.counts["crash"]
				})
			}
			t.Logf("%d crashes", crashes)
			require.Greater(t, crashes, 50)
		})
	}
}

// play is a life: v1 is rolled out, then v2 and perhaps v3, by people who now
// and then do something else, until everything has ended.
func (w *world) play(t *testing.T, plans []rollout.Plan) {
	for _, p := range plans {
		require.NoError(t, p.Validate())
		w.plan[p.Version] = p
		w.version(p.Version)
	}
	w.versions["v1"].badFrom = time.Time{} // there is nothing before it to go back to
	w.versions["v1"].unready = [2]time.Time{}
	submitted := 0
	nextSubmit := time.Now()
	deadline := w.calm.Add(3 * time.Hour)

	w.boot()
	for {
		w.revive()
		time.Sleep(time.Second + shortly(w.people, time.Millisecond)) // not as the Runner does
		r := w.r
		w.follow(r)
		if time.Now().After(deadline) {
			why := r.Why()
			w.mu.Lock()
			w.violate("it does not end: %s", why)
			w.mu.Unlock()
			break
		}
		s := r.Status()
		if submitted < len(plans) && time.Now().After(nextSubmit) {
			err := w.command(r, "Submit", plans[submitted])
			if err == nil || errors.Is(err, rollout.ErrRefused) { // it had been submitted though that was unclear, and has gone back
				if submitted++; submitted == 1 {
					w.settleFirst()
				}
				nextSubmit = time.Now().Add(time.Duration(w.people.IntN(120)) * time.Second)
			}
			continue
		}
		calm := time.Now().After(w.calm)
		if s.State.Phase == rollout.Paused && (calm || w.people.IntN(20) == 0) {
			w.command(r, "Resume", rollout.Plan{})
		} else if !calm && w.people.Float64() < w.busy {
			w.command(r, []string{"Pause", "Resume", "Promote", "Abort", "Retry"}[w.people.IntN(5)], rollout.Plan{})
		}
		w.mu.Lock()
		alive := w.alive(w.gen)
		w.mu.Unlock()
		if alive && calm && submitted == len(plans) && s.State.Phase.Ended() && s.State.Next == nil && !s.Unrecorded &&
			len(s.State.Retired) == 0 && len(s.Calls) == 0 && s.State.Applied == s.State.Weights.Revision {
			break
		}
	}
	w.checkEnd(w.r)
	w.mu.Lock()
	for gen := range w.living {
		w.kill(gen)
	}
	w.mu.Unlock()
	for _, ended := range append(w.older, w.ended) {
		<-ended
	}
	time.Sleep(2 * time.Minute) // calls that hang
}

// revive boots again if the process has died, and now and then though it has not.
func (w *world) revive() {
	select {
	case <-w.ended:
		time.Sleep(shortly(w.people, 20*time.Second))
		w.boot()
	default:
		if w.rivals && time.Now().Before(w.calm) && w.people.IntN(30) == 0 {
			w.mu.Lock()
			w.counts["rival"]++
			w.mu.Unlock()
			w.boot()
		}
	}
}

// settleFirst waits until v1 runs: it has nothing to go back to.
func (w *world) settleFirst() {
	for range 3600 {
		w.revive()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		s, err := w.r.Wait(ctx)
		cancel()
		if err == nil && s.Phase == rollout.Succeeded {
			return
		}
		if err == nil && s.Phase == rollout.RolledBack {
			w.command(w.r, "Retry", rollout.Plan{})
		}
		time.Sleep(time.Second)
	}
}

// command has a person do something.
func (w *world) command(r *rollout.Runner, name string, p rollout.Plan) error {
	timeout := time.Duration(1+w.people.IntN(20)) * time.Second
	current := r.Status().State.Plan
	if current == nil && name != "Submit" {
		return nil // the state is not loaded yet
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	again := func(version string, is bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.version(version).again = is
	}
	var err error
	switch name {
	case "Submit":
		err = r.Submit(ctx, p)
	case "Pause":
		err = r.Pause(ctx, "")
	case "Resume":
		err = r.Resume(ctx)
	case "Promote":
		if current != nil {
			w.mu.Lock()
			w.version(current.Version).promoted = true
			if next := r.Status().State.Next; next != nil {
				w.version(next.Version).promoted = true
			}
			w.mu.Unlock()
		}
		err = r.Promote(ctx)
	case "Abort":
		err = r.Abort(ctx, "")
		if err == nil && current != nil {
			s := r.Status().State
			w.mu.Lock()
			if s.Plan.Version == current.Version && s.Attempt > 0 && s.Phase != rollout.Advancing {
				v := w.version(current.Version)
				v.aborted, v.before, v.again = true, v.forward, false
			}
			w.mu.Unlock()
		}
	case "Retry":
		if r.Status().State.Phase == rollout.RolledBack {
			again(current.Version, true)
		}
		if err = r.Retry(ctx); current != nil && errors.Is(err, rollout.ErrRefused) {
			again(current.Version, false)
		}
	}
	w.mu.Lock()
	outcome := "done"
	if errors.Is(err, rollout.ErrRefused) {
		outcome = "refused"
	} else if err != nil {
		outcome = "unclear"
	}
	w.counts[name+" "+outcome]++
	w.logf("%s: %v", name, err)
	w.mu.Unlock()
	return err
}

// follow reads the events that are there: their numbers rise, over restarts too.
func (w *world) follow(r *rollout.Runner) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	w.mu.Lock()
	last := w.lastEvent.Seq
	w.mu.Unlock()
	for e := range r.Events(ctx, last) {
		w.mu.Lock()
		if e.Seq <= w.lastEvent.Seq {
			w.violate("event %d after event %d", e.Seq, w.lastEvent.Seq)
		}
		w.lastEvent = e
		w.counts["events"]++
		w.logf("event %d: %s", e.Seq, e)
		if e.Kind == rollout.VerdictGiven {
			verdict, _, _ := strings.Cut(e.Reason, ":")
			w.counts["verdict "+verdict]++
			if verdict == "fail" && !w.version(e.Version).bad(time.Now()) {
				w.violate("%s is not worse, but: %s", e.Version, e)
			}
		}
		w.mu.Unlock()
	}
}

// checkEnd checks what is left when everything has ended: one version, which has
// everything.
func (w *world) checkEnd(r *rollout.Runner) {
	s := r.Status().State
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts["ended "+string(s.Phase)]++
	w.counts["simulations"]++
	w.counts["clock jump"] += len(w.jumps)
	if s.Stable == nil {
		w.violate("nothing runs: %s", s.Why(time.Now()))
		return
	}
	for id, v := range w.versions {
		if (id == s.Stable.ID) != v.running {
			w.violate("%s is stable, and %s runs: %v", s.Stable.ID, id, v.running)
		}
	}
	for _, split := range w.weights.Splits {
		if w.weights.Of(s.Stable.ID, split.Place) != rollout.Whole {
			w.violate("%s is stable, but the weights are %v", s.Stable.ID, w.weights)
		}
	}
	if w.mute {
		w.counts["without listeners"]++
	} else if len(w.weights.Splits) == 0 {
		w.violate("nobody has traffic")
	}
}

func (w *world) randomPlan(version string) rollout.Plan {
	d := func() time.Duration { return time.Duration(1+w.rng.IntN(40_000)) * time.Millisecond }
	var p rollout.Plan
	switch w.rng.IntN(8) {
	case 0:
		p = rollout.BlueGreen("preview", d(), d())
	case 1:
		p = rollout.Linear(float64(5+w.rng.IntN(60)), d())
	case 2:
		p = rollout.AllAtOnce()
	case 3:
		p = rollout.Canary(rollout.SetWeight(1), rollout.Bake(d()), rollout.Pause(), rollout.SetWeight(30), rollout.Bake(d()), rollout.Bake(d()))
	case 4:
		p = rollout.Canary(rollout.SetWeight(5), rollout.Analyze(&rollout.Analysis{}, d()), rollout.SetWeight(50), rollout.Bake(d()), rollout.SetWeight(100), rollout.Bake(d()))
	case 5:
		gate := rollout.Gate("person", d())
		gate.OnInconclusive = rollout.ThenRollBack
		p = rollout.Canary(rollout.SetWeight(20), rollout.Bake(d()), gate, rollout.SetWeight(60), rollout.Bake(d()))
	default:
		p = rollout.FromDuration(5*d(), "eu", "us", "asia")
	}
	p.Locations = []string{"asia", "eu", "us"}
	p.Version = version
	p.Listeners = []string{"api"}
	p.Sticky = w.rng.IntN(2) == 0
	if w.rng.IntN(2) == 0 {
		p.Watch = &rollout.Analysis{}
		if p.Validate() != nil || !w.byPlace && rollout.Uneven(p) {
			p.Watch = &rollout.Analysis{LimitsOnly: true, MinSuccess: 0.9}
		}
		if w.rng.IntN(3) == 0 {
			p.Watch.OnFail = rollout.ThenPause
		}
	}
	if w.mute {
		p.Listeners = nil
		if p.Validate() != nil { // there is no traffic to analyze
			p.Steps = rollout.AllAtOnce().Steps
		}
	}
	p.ProgressDeadline = time.Duration(30+w.rng.IntN(600)) * time.Second
	return p
}
