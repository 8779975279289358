package rollout_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
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
					counts := simulateWorld(t, uint64(seed))
					mu.Lock()
					for k, v := range counts {
						total[k] += v
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
	for _, must := range []string{"ended succeeded", "ended rolled back", "crash", "set weights: hang", "store: hang"} {
		require.NotZero(t, total[must], "the simulation never had %q", must)
	}
}

// simulateWorld runs one simulation, and returns what happened in it.
func simulateWorld(t *testing.T, seed uint64) (counts map[string]int) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(seed)
		plans := []rollout.Plan{w.randomPlan("v1"), w.randomPlan("v2")}
		if w.rng.IntN(4) == 0 {
			plans = append(plans, w.randomPlan("v3"))
		}
		w.play(t, plans)
		counts = w.counts
		if len(w.violations) > 0 {
			t.Errorf("seed %d:\n%s\n\nlast of %d lines:\n%s", seed, strings.Join(w.violations, "\n"), len(w.log),
				strings.Join(w.log[max(0, len(w.log)-400):], "\n"))
		}
	})
	return counts
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

const simInterval = time.Second

// A world is what a Runner acts on: proxies, versions, a store, people. Its
// generation is the life of one process with a Runner.
type world struct {
	rng    *rand.Rand // guarded by mu once a process runs
	people *rand.Rand // of play
	began  time.Time
	calm   time.Time // no faults from then on
	faulty float64   // how often calls fail before that
	crashy float64   // how often the process dies at a call
	dies   bool      // versions and proxies end with the process
	busy   float64   // how often people do something, each second
	store  rollout.MemoryStore

	clock    sync.Mutex // guards the clock of the process
	clockRNG *rand.Rand
	offset   time.Duration
	jumps    int

	mu         sync.Mutex
	gen        int                // of the process
	alive      bool               // it is
	kill       context.CancelFunc // ends it
	versions   map[string]*simVersion
	weights    rollout.Weights // in the proxies
	integrated time.Time       // traffic was counted until then
	plan       map[string]rollout.Plan
	counts     map[string]int
	violations []string
	log        []string
	crashAt    int // the number of the point at which the process dies; 0 for chance
	points     int
	lastEvent  rollout.Event

	r     *rollout.Runner // of this generation; used by play only
	ended chan struct{}   // closed when its Run has returned
}

type simVersion struct {
	running  bool
	started  time.Time
	startup  time.Duration
	badFrom  time.Time // it fails requests from then on
	unready  [2]time.Time
	requests float64
	failures float64

	crashed    bool                     // it ended with the process
	again      bool                     // somebody wants another attempt
	stopCalled bool                     // in this attempt
	aborted    bool                     // an Abort was confirmed in this attempt
	promoted   bool                     // somebody called Promote
	held       map[string]time.Duration // time at each vector of weights, in this attempt
	answer     bool                     // the last one to Ready
	answered   time.Time
	answerGen  int
}

func newWorld(seed uint64) *world {
	w := &world{
		rng:      rand.New(rand.NewPCG(seed, 7)),
		people:   rand.New(rand.NewPCG(seed, 9)),
		clockRNG: rand.New(rand.NewPCG(seed, 8)),
		began:    time.Now(),
		versions: map[string]*simVersion{},
		plan:     map[string]rollout.Plan{},
		counts:   map[string]int{},
	}
	w.integrated = w.began
	w.calm = w.began.Add(time.Duration(w.rng.IntN(400)) * time.Second)
	w.faulty = []float64{0, 0.02, 0.1, 0.3}[w.rng.IntN(4)]
	w.crashy = []float64{0, 0.002, 0.01, 0.05}[w.rng.IntN(4)]
	w.dies = w.rng.IntN(2) == 0
	w.busy = 0.1 * float64(w.rng.IntN(2))
	return w
}

func (w *world) logf(format string, args ...any) {
	w.log = append(w.log, fmt.Sprintf("%9.3f g%d ", time.Since(w.began).Seconds(), w.gen)+fmt.Sprintf(format, args...))
}

func (w *world) violate(format string, args ...any) {
	w.logf("VIOLATION "+format, args...)
	w.violations = append(w.violations, fmt.Sprintf("%.3f: ", time.Since(w.began).Seconds())+fmt.Sprintf(format, args...))
}

func (w *world) version(id string) *simVersion {
	v := w.versions[id]
	if v == nil {
		v = &simVersion{startup: time.Duration(w.rng.IntN(5000)) * time.Millisecond, held: map[string]time.Duration{}}
		if w.rng.IntN(4) == 0 {
			v.badFrom = time.Now().Add(time.Duration(w.rng.IntN(200)) * time.Second)
		}
		if w.rng.IntN(4) == 0 {
			v.unready[0] = time.Now().Add(time.Duration(w.rng.IntN(100)) * time.Second)
			v.unready[1] = v.unready[0].Add(time.Duration(w.rng.IntN(60)) * time.Second)
		}
		w.versions[id] = v
	}
	return v
}

var errSim = errors.New("simulated")

// call carries out a call of generation gen: it may fail before or after its
// effect, be slow, hang with or without regard for its context, or be the
// process's last.
func (w *world) call(ctx context.Context, gen int, name string, effect func() error) error {
	w.mu.Lock()
	kind := ""
	if time.Now().Before(w.calm) && w.rng.Float64() < w.faulty {
		kind = []string{"error", "error after", "slow", "hang", "hang, obeys", "hang, then error"}[w.rng.IntN(6)]
	}
	delay := time.Duration(w.rng.IntN(20)) * time.Millisecond
	switch kind {
	case "slow":
		delay = time.Duration(w.rng.IntN(3000)) * time.Millisecond
	case "hang", "hang, then error":
		delay = time.Duration(w.rng.IntN(90_000)) * time.Millisecond
	}
	if kind != "" {
		w.counts[name+": "+kind]++
		w.logf("%s: %s %v", name, kind, delay)
	}
	w.mu.Unlock()
	switch kind {
	case "hang", "hang, then error":
		time.Sleep(delay)
	case "hang, obeys":
		<-ctx.Done()
		return ctx.Err()
	default:
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.crashPoint(gen, name+" (before)")
	if !w.alive || w.gen != gen {
		return errSim // a dead process does nothing
	}
	if kind == "error" || kind == "hang, then error" {
		return errSim
	}
	err := effect()
	w.crashPoint(gen, name+" (after)")
	if !w.alive || w.gen != gen || kind == "error after" {
		return errSim
	}
	return err
}

// crashPoint is where the process may die.
func (w *world) crashPoint(gen int, name string) {
	if !w.alive || w.gen != gen {
		return
	}
	w.points++
	if w.points == w.crashAt || w.crashAt == 0 && time.Now().Before(w.calm) && w.rng.Float64() < w.crashy {
		w.counts["crash"]++
		w.logf("CRASH at %s", name)
		w.alive = false
		w.integrate()
		if w.dies {
			for _, v := range w.versions {
				v.crashed = v.crashed || v.running
				v.running = false
			}
			w.weights = rollout.Weights{}
		}
		w.kill()
	}
}

// integrate counts the traffic, and the time that weights were there.
func (w *world) integrate() {
	now := time.Now()
	d := now.Sub(w.integrated)
	w.integrated = now
	for id, v := range w.versions {
		share := float64(w.weights.Most(id)) / rollout.Whole
		n := 200 * share * d.Seconds()
		v.requests += n
		if !v.badFrom.IsZero() && now.After(v.badFrom) {
			v.failures += n * 0.3
		}
		v.held[vector(w.weights, id)] += d
	}
}

// vector writes what the version gets everywhere.
func vector(w rollout.Weights, id string) string {
	var b strings.Builder
	for _, s := range w.Splits {
		fmt.Fprintf(&b, "%s=%d ", s.Place, w.Of(id, s.Place))
	}
	return b.String()
}

// A process is a generation: the Deployer and the Store that its Runner sees.
type process struct {
	w   *world
	gen int
}

func (p process) Start(ctx context.Context, id string) error {
	p.w.mu.Lock()
	v := p.w.version(id)
	p.w.logf("Start %s", id)
	if v.stopCalled && p.w.alive && p.w.gen == p.gen {
		if !v.again {
			p.w.violate("Start of %s after it was stopped", id)
		}
		v.again, v.stopCalled, v.aborted = false, false, false
		v.held = map[string]time.Duration{}
	}
	p.w.mu.Unlock()
	return p.w.call(ctx, p.gen, "start", func() error {
		if !v.running {
			v.running, v.crashed, v.started = true, false, time.Now()
		}
		return nil
	})
}

func (p process) Ready(ctx context.Context, id string) (rollout.Readiness, error) {
	var r rollout.Readiness
	err := p.w.call(ctx, p.gen, "ready", func() error {
		v := p.w.version(id)
		now := time.Now()
		r.Ready = v.running && now.Sub(v.started) >= v.startup && !(now.After(v.unready[0]) && now.Before(v.unready[1]))
		r.Reason = "warming up"
		v.answer, v.answered, v.answerGen = r.Ready, now, p.gen
		return nil
	})
	return r, err
}

func (p process) SetWeights(ctx context.Context, weights rollout.Weights) error {
	w := p.w
	w.mu.Lock()
	w.logf("SetWeights %v", weights)
	if w.alive && w.gen == p.gen {
		for _, split := range weights.Splits {
			newest := split.Shares[0]
			v := w.version(newest.Version)
			if len(split.Shares) > 1 && newest.Weight > 0 && !v.answer && v.answerGen == p.gen && time.Since(v.answered) > 500*time.Millisecond {
				w.violate("weight for %s, which said that it is not ready", newest.Version)
			}
		}
	}
	for _, s := range weights.Splits {
		sum := 0
		for _, share := range s.Shares {
			sum += share.Weight
		}
		if sum != rollout.Whole {
			w.violate("weights sum up to %d: %v", sum, weights)
		}
	}
	w.mu.Unlock()
	return w.call(ctx, p.gen, "set weights", func() error {
		if weights.Revision < w.weights.Revision {
			w.counts["weights fenced"]++
			return nil
		}
		w.integrate()
		w.checkWeights(weights)
		w.weights = weights
		return nil
	})
}

// checkWeights checks weights as they take effect.
func (w *world) checkWeights(weights rollout.Weights) {
	for id, v := range w.versions {
		is, was := weights.Most(id), w.weights.Most(id)
		if is > 0 && (v.stopCalled || !v.running && !(v.crashed && is == rollout.Whole)) {
			w.violate("%s has weight %d, but runs: %v, is to be stopped: %v", id, is, v.running, v.stopCalled)
		}
		if is > was && v.aborted {
			w.violate("%s was aborted, and goes forward from %d to %d", id, was, is)
		}
		p, ok := w.plan[id]
		if !ok || v.promoted || id == "v1" {
			continue
		}
		// Each vector of weights that the plan has before this one must have been
		// there for its time.
		need := required(p)
		at := slices.IndexFunc(need, func(n requirement) bool { return n.vector == vector(weights, id) })
		for i := range max(0, at) {
			if held := v.held[need[i].vector]; held < need[i].d {
				w.violate("%s goes on to %s, but had only %v of %v at %s", id, vector(weights, id), held, need[i].d, need[i].vector)
			}
		}
	}
}

type requirement struct {
	vector string
	d      time.Duration
}

// required returns how long the plan holds each vector of weights, in order.
func required(p rollout.Plan) []requirement {
	locations := p.Locations
	if len(locations) == 0 {
		locations = []string{""}
	}
	listeners := slices.Sorted(slices.Values(p.Listeners))
	current := map[rollout.Place]int{}
	var need []requirement
	for _, s := range p.Steps {
		if s.Kind != rollout.KindSetWeight && s.Kind != rollout.KindPromote && s.Kind != rollout.KindBake {
			continue
		}
		var weights rollout.Weights
		for _, l := range listeners {
			for _, loc := range locations {
				place := rollout.Place{Listener: l, Location: loc}
				if s.Kind == rollout.KindPromote {
					current[place] = rollout.Whole
				}
				if s.Kind == rollout.KindSetWeight && (s.Location == "" || s.Location == loc) {
					current[place] = s.Weight
				}
				weights.Splits = append(weights.Splits, rollout.Split{Place: place, Shares: []rollout.Share{{Version: p.Version, Weight: current[place]}}})
			}
		}
		v := vector(weights, p.Version)
		if len(need) == 0 || need[len(need)-1].vector != v {
			need = append(need, requirement{vector: v})
		}
		if s.Kind == rollout.KindBake {
			need[len(need)-1].d += s.For
		}
	}
	return need
}

func (p process) Stop(ctx context.Context, id string, drain time.Duration) error {
	w := p.w
	w.mu.Lock()
	w.logf("Stop %s", id)
	v := w.version(id)
	if w.alive && w.gen == p.gen {
		if n := w.weights.Most(id); n > 0 {
			w.violate("%s is stopped, but has weight %d", id, n)
		}
		for other, o := range w.versions {
			if other > id && w.weights.Most(other) > 0 && o.answerGen == p.gen && !o.answer && time.Since(o.answered) > 500*time.Millisecond && !v.stopCalled {
				w.violate("%s is stopped, but %s, which has the traffic, is not ready", id, other)
			}
		}
		v.stopCalled = true
	}
	w.mu.Unlock()
	return w.call(ctx, p.gen, "stop", func() error {
		w.integrate()
		if v.stopCalled { // else another attempt has begun
			v.running = false
		} else {
			w.violate("a stop of %s that was left behind takes effect in the next attempt", id)
		}
		return nil
	})
}

func (p process) Stats(ctx context.Context) (map[string]rollout.Traffic, error) {
	traffic := map[string]rollout.Traffic{}
	err := p.w.call(ctx, p.gen, "stats", func() error {
		p.w.integrate()
		for id, v := range p.w.versions {
			traffic[id] = rollout.Traffic{Requests: uint64(v.requests), Failures: uint64(v.failures)}
		}
		return nil
	})
	return traffic, err
}

func (p process) Load(ctx context.Context, app string) (value []byte, version uint64, err error) {
	err = p.w.call(ctx, p.gen, "store", func() error {
		value, version, err = p.w.store.Load(ctx, app)
		return err
	})
	return value, version, err
}

func (p process) CompareAndSwap(ctx context.Context, app string, expected uint64, value []byte) (version uint64, err error) {
	err = p.w.call(ctx, p.gen, "store", func() error {
		version, err = p.w.store.CompareAndSwap(context.Background(), app, expected, value)
		return err
	})
	return version, err
}

// now is the clock of the process, which somebody sets now and then.
func (p process) now() time.Time {
	w := p.w
	w.clock.Lock()
	defer w.clock.Unlock()
	if time.Now().Before(w.calm) && w.clockRNG.IntN(500) == 0 {
		jump := time.Duration(2+w.clockRNG.IntN(5000))*simInterval + time.Millisecond
		if w.clockRNG.IntN(2) == 0 {
			jump = -jump
		}
		w.offset += jump
		w.jumps++
	}
	return time.Now().Add(w.offset).Round(0)
}

// boot begins a process.
func (w *world) boot() {
	ctx, cancel := context.WithCancel(context.Background())
	w.mu.Lock()
	w.gen++
	w.alive = true
	w.kill = cancel
	p := process{w, w.gen}
	w.logf("boot")
	w.mu.Unlock()
	r, err := rollout.New(p, rollout.Options{
		Store:       p,
		Config:      rollout.Config{Interval: simInterval, StopWithin: 20 * time.Second},
		CallTimeout: 5 * time.Second, AskTimeout: time.Second,
	})
	if err != nil {
		panic(err)
	}
	r.SetNow(p.now)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.Run(ctx)
	}()
	w.r, w.ended = r, ended
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
		time.Sleep(time.Second)
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
			if w.command(r, "Submit", plans[submitted]) == nil {
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
		if calm && submitted == len(plans) && s.State.Phase.Ended() && s.State.Next == nil && !s.Unrecorded &&
			len(s.State.Retired) == 0 && len(s.Calls) == 0 && s.State.Applied == s.State.Weights.Revision {
			break
		}
	}
	w.checkEnd(w.r)
	w.mu.Lock()
	w.kill()
	w.mu.Unlock()
	<-w.ended
	time.Sleep(2 * time.Minute) // calls that hang
}

// revive boots again if the process has died.
func (w *world) revive() {
	select {
	case <-w.ended:
		time.Sleep(time.Duration(w.people.IntN(20_000)) * time.Millisecond)
		w.boot()
	default:
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
		if s := r.Status().State; current != nil && current.Version == p.Version && s.Phase == rollout.RolledBack && s.Next == nil && len(s.Retired) == 0 {
			again(p.Version, true)
		}
		err = r.Submit(ctx, p)
	case "Pause":
		err = r.Pause(ctx, "")
	case "Resume":
		err = r.Resume(ctx)
	case "Promote":
		if current != nil {
			w.mu.Lock()
			w.version(current.Version).promoted = true
			w.mu.Unlock()
		}
		err = r.Promote(ctx)
	case "Abort":
		err = r.Abort(ctx, "")
		if err == nil && current != nil {
			s := r.Status().State
			w.mu.Lock()
			if s.Plan.Version == current.Version && s.Attempt > 0 && s.Phase != rollout.Advancing {
				w.version(current.Version).aborted = true
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
	w.counts["clock jump"] += w.jumps
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
	if len(w.weights.Splits) == 0 {
		w.violate("nobody has traffic")
	}
}

func (w *world) randomPlan(version string) rollout.Plan {
	d := func() time.Duration { return time.Duration(1+w.rng.IntN(40_000)) * time.Millisecond }
	var p rollout.Plan
	switch w.rng.IntN(6) {
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
	default:
		p = rollout.FromDuration(5*d(), "eu", "us", "asia")
	}
	p.Locations = []string{"asia", "eu", "us"}
	p.Version = version
	p.Listeners = []string{"api"}
	p.Sticky = w.rng.IntN(2) == 0
	if w.rng.IntN(2) == 0 {
		p.Watch = &rollout.Analysis{}
	}
	p.ProgressDeadline = time.Duration(30+w.rng.IntN(600)) * time.Second
	return p
}
