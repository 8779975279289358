package rollout_test

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weaverkit/weaverkit/rollout"
)

const simInterval = time.Second

// A world is what a Runner acts on: proxies, versions, a store, people. A
// generation is the life of one process with a Runner; in some worlds the next
// begins while the last is still there.
type world struct {
	seed    uint64
	rng     *rand.Rand // of what is set before a process runs
	people  *rand.Rand // of play
	began   time.Time
	calm    time.Time // no faults from then on
	faulty  float64   // how often calls fail before that
	crashy  float64   // how often the process dies at a call
	dies    bool      // versions and proxies end with the process
	rivals  bool      // processes overlap, and calls do not hang
	mute    bool      // versions have no listeners
	byPlace bool      // traffic is counted by place
	busy    float64   // how often people do something, each second
	store   rollout.MemoryStore

	jumps []jump // of the clock of the process, in order

	mu         sync.Mutex
	dice       map[string]uint64          // how often they were drawn for calls of a name
	gen        int                        // of the newest process
	living     map[int]context.CancelFunc // ends those that are there, by generation
	owner      int                        // the generation that has stored last
	lost       map[int]time.Time          // when others took over from those before it
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
	older []chan struct{} // of earlier generations
}

type simVersion struct {
	running bool
	started time.Time
	startup time.Duration
	badFrom time.Time // it fails requests from then on
	unready [2]time.Time
	served  map[rollout.Place]*served

	crashed    bool                     // it ended with the process
	again      bool                     // somebody wants another attempt
	stopCalled bool                     // in this attempt
	aborted    bool                     // an Abort was confirmed in this attempt
	forward    uint64                   // the last revision that was sent and gave it weight
	before     uint64                   // that of when it was aborted
	promoted   bool                     // somebody called Promote
	passed     bool                     // the gate has let it pass in this attempt
	held       map[string]time.Duration // time at each vector of weights, in this attempt
	answer     bool                     // the last one to Ready
	answered   time.Time
	answerGen  int
}

// served is what a version has served at a place.
type served struct{ requests, failures float64 }

func (s served) traffic() rollout.Traffic {
	return rollout.Traffic{Requests: uint64(s.requests), Failures: uint64(s.failures)}
}

func newWorld(seed uint64) *world {
	w := &world{
		seed:     seed,
		rng:      rand.New(rand.NewPCG(seed, 7)),
		people:   rand.New(rand.NewPCG(seed, 9)),
		dice:     map[string]uint64{},
		began:    time.Now(),
		versions: map[string]*simVersion{},
		plan:     map[string]rollout.Plan{},
		counts:   map[string]int{},
		living:   map[int]context.CancelFunc{},
		lost:     map[int]time.Time{},
	}
	w.integrated = w.began
	w.byPlace = seed%3 != 0
	w.calm = w.began.Add(time.Duration(w.rng.IntN(400)) * time.Second)
	w.faulty = []float64{0, 0.02, 0.1, 0.3}[w.rng.IntN(4)]
	w.crashy = []float64{0, 0.002, 0.01, 0.05}[w.rng.IntN(4)]
	w.dies = w.rng.IntN(2) == 0
	w.busy = 0.1 * float64(w.rng.IntN(2))
	w.rivals = !w.dies && w.rng.IntN(3) == 0
	w.mute = w.rng.IntN(10) == 0
	clock := rand.New(rand.NewPCG(seed, 8))
	for at := w.began; ; {
		at = at.Add(time.Duration(137 * clock.ExpFloat64() * float64(time.Second)))
		if at.After(w.calm) {
			return w
		}
		by := time.Duration(2+clock.IntN(5000))*simInterval + time.Millisecond
		if clock.IntN(2) == 0 {
			by = -by
		}
		w.jumps = append(w.jumps, jump{at, by})
	}
}

// A jump is when somebody sets the clock.
type jump struct {
	at time.Time
	by time.Duration
}

// drawLocked returns what decides about the next call of a name, whichever of
// several that begin at once is the first to ask.
func (w *world) drawLocked(gen int, name string) *rand.Rand {
	key := fmt.Sprint(gen, " ", name)
	w.dice[key]++
	h := fnv.New64a()
	h.Write([]byte(key))
	return rand.New(rand.NewPCG(w.seed, h.Sum64()+w.dice[key]))
}

// shortly returns a random time of less than d.
func shortly(rng *rand.Rand, d time.Duration) time.Duration {
	return time.Duration(rng.Int64N(int64(d)))
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
		v = &simVersion{startup: time.Duration(w.rng.IntN(5000)) * time.Millisecond, held: map[string]time.Duration{}, served: map[rollout.Place]*served{}}
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
func (w *world) call(ctx context.Context, gen int, name, version string, effect func(*rand.Rand) error) error {
	w.mu.Lock()
	dice := w.drawLocked(gen, name+" "+version)
	kind := ""
	if time.Now().Before(w.calm) && dice.Float64() < w.faulty {
		kind = []string{"error", "error after", "slow", "hang", "hang, obeys", "hang, then error"}[dice.IntN(6)]
	}
	delay := shortly(dice, 20*time.Millisecond)
	if w.rivals && kind != "" && kind != "error" {
		kind = "error after"
	}
	switch kind {
	case "slow":
		delay = shortly(dice, 3*time.Second)
	case "hang", "hang, then error":
		delay = shortly(dice, 90*time.Second)
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
	w.crashPoint(gen, name+" (before)", dice)
	if !w.alive(gen) {
		return errSim // a dead process does nothing
	}
	if kind == "error" || kind == "hang, then error" {
		return errSim
	}
	err := effect(dice)
	w.crashPoint(gen, name+" (after)", dice)
	if !w.alive(gen) || kind == "error after" {
		return errSim
	}
	return err
}

func (w *world) alive(gen int) bool { return w.living[gen] != nil }

// late reports whether a call of that generation, which could harm what another
// does, comes though that has taken over: the Runner must have asked the store
// within the last second, which may take some time.
func (w *world) late(gen int) bool {
	at, ok := w.lost[gen]
	return ok && time.Since(at) > 1100*time.Millisecond
}

// crashPoint is where the process may die.
func (w *world) crashPoint(gen int, name string, dice *rand.Rand) {
	if !w.alive(gen) {
		return
	}
	w.points++
	if w.points == w.crashAt || w.crashAt == 0 && time.Now().Before(w.calm) && dice.Float64() < w.crashy {
		w.counts["crash"]++
		w.logf("CRASH at %s", name)
		w.integrate()
		if w.dies {
			for _, v := range w.versions {
				v.crashed = v.crashed || v.running
				v.running = false
			}
			w.weights = rollout.Weights{}
		}
		w.kill(gen)
	}
}

// kill ends a process.
func (w *world) kill(gen int) {
	w.living[gen]()
	delete(w.living, gen)
}

// integrate counts the traffic, and the time that weights were there. Each place
// has as much, but in eu more of it fails, whoever serves it.
func (w *world) integrate() {
	now := time.Now()
	d := now.Sub(w.integrated)
	w.integrated = now
	for id, v := range w.versions {
		for _, split := range w.weights.Splits {
			share := float64(w.weights.Of(id, split.Place)) / rollout.Whole
			n := 200 * share * d.Seconds() / float64(len(w.weights.Splits))
			at := v.served[split.Place]
			if at == nil {
				at = &served{}
				v.served[split.Place] = at
			}
			at.requests += n
			if split.Place.Location == "eu" {
				at.failures += n * 0.05
			}
			if v.bad(now) {
				at.failures += n * 0.3
			}
		}
		v.held[vector(w.weights, id)] += d
	}
}

// begin begins another attempt.
func (v *simVersion) begin() {
	v.again, v.stopCalled, v.aborted, v.passed = false, false, false, false
	v.held = map[string]time.Duration{}
}

func (v *simVersion) bad(now time.Time) bool { return !v.badFrom.IsZero() && now.After(v.badFrom) }

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
	if p.w.alive(p.gen) && p.w.late(p.gen) {
		p.w.violate("Start of %s by generation %d, which was taken over", id, p.gen)
	}
	if v.stopCalled && p.w.alive(p.gen) {
		if !v.again {
			p.w.violate("Start of %s after it was stopped", id)
		}
		v.begin()
	}
	p.w.mu.Unlock()
	return p.w.call(ctx, p.gen, "start", id, func(*rand.Rand) error {
		if v.stopCalled && v.again { // a call of the last attempt is as good
			v.begin()
		}
		if !v.running {
			v.running, v.crashed, v.started = true, false, time.Now()
		}
		return nil
	})
}

func (p process) Ready(ctx context.Context, id string) (rollout.Readiness, error) {
	var r rollout.Readiness
	err := p.w.call(ctx, p.gen, "ready", id, func(*rand.Rand) error {
		v := p.w.version(id)
		now := time.Now()
		r.Ready = v.running && now.Sub(v.started) >= v.startup && !(now.After(v.unready[0]) && now.Before(v.unready[1]))
		r.Reason = "warming up"
		return nil
	})
	// One that comes just after its time is heard still: the call is not left behind yet.
	deadline, _ := ctx.Deadline()
	heard := ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) && time.Since(deadline) < rollout.Grace
	if err == nil && heard {
		p.w.mu.Lock()
		defer p.w.mu.Unlock()
		v := p.w.version(id)
		v.answer, v.answered, v.answerGen = r.Ready, time.Now(), p.gen
	}
	return r, err
}

func (p process) SetWeights(ctx context.Context, weights rollout.Weights) error {
	w := p.w
	w.mu.Lock()
	w.logf("SetWeights %v", weights)
	if w.alive(p.gen) {
		for _, split := range weights.Splits {
			newest := split.Shares[0]
			v := w.version(newest.Version)
			if newest.Weight > 0 {
				v.forward = max(v.forward, weights.Revision)
			}
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
	return w.call(ctx, p.gen, "set weights", "", func(*rand.Rand) error {
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
		if is > 0 && (v.stopCalled || !v.running) {
			w.violate("%s has weight %d, but runs: %v, is to be stopped: %v", id, is, v.running, v.stopCalled)
		}
		if is > was && v.aborted && weights.Revision > v.before {
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
		if at >= 0 && need[at].gated && !v.passed {
			w.violate("%s goes on to %s, but the gate has not let it pass", id, vector(weights, id))
		}
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
	gated  bool // a gate comes before it
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
	gated := false
	for _, s := range p.Steps {
		gated = gated || s.Kind == rollout.KindGate
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
			need = append(need, requirement{vector: v, gated: gated})
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
	if w.alive(p.gen) {
		if w.late(p.gen) {
			w.violate("Stop of %s by generation %d, which was taken over", id, p.gen)
		}
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
	return w.call(ctx, p.gen, "stop", id, func(*rand.Rand) error {
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
	err := p.w.call(ctx, p.gen, "stats", "", func(*rand.Rand) error {
		p.w.integrate()
		for id, v := range p.w.versions {
			var all served
			var places []rollout.PlaceTraffic
			for place, at := range v.served {
				all.requests += at.requests
				all.failures += at.failures
				places = append(places, rollout.PlaceTraffic{Place: place, Traffic: at.traffic()})
			}
			if traffic[id] = all.traffic(); p.w.byPlace {
				traffic[id] = rollout.Traffic{Places: places}
			}
		}
		return nil
	})
	return traffic, err
}

func (p process) Load(ctx context.Context, app string) (value []byte, version uint64, err error) {
	err = p.w.call(ctx, p.gen, "store", "", func(*rand.Rand) error {
		value, version, err = p.w.store.Load(ctx, app)
		return err
	})
	return value, version, err
}

func (p process) CompareAndSwap(ctx context.Context, app string, expected uint64, value []byte) (version uint64, err error) {
	err = p.w.call(ctx, p.gen, "store", "", func(*rand.Rand) error {
		version, err = p.w.store.CompareAndSwap(context.Background(), app, expected, value)
		if err == nil && p.w.owner != p.gen {
			p.w.lost[p.w.owner] = time.Now()
			p.w.owner = p.gen
			delete(p.w.lost, p.gen)
		}
		return err
	})
	return version, err
}

// gate lets a version pass now and then, and has no opinion otherwise.
func (p process) gate(ctx context.Context, s rollout.State) (j rollout.Judgement, err error) {
	err = p.w.call(ctx, p.gen, "gate", "", func(dice *rand.Rand) error {
		if dice.IntN(10) == 0 {
			j.Verdict = rollout.Pass
			p.w.version(s.Plan.Version).passed = true
		}
		return nil
	})
	return j, err
}

// now is the clock of the process, which somebody sets now and then.
func (p process) now() time.Time {
	now := time.Now()
	clock := now
	for _, j := range p.w.jumps {
		if !now.Before(j.at) {
			clock = clock.Add(j.by)
		}
	}
	return clock.Round(0)
}

// boot begins a process.
func (w *world) boot() {
	ctx, cancel := context.WithCancel(context.Background())
	w.mu.Lock()
	w.gen++
	w.living[w.gen] = cancel
	p := process{w, w.gen}
	w.logf("boot")
	w.mu.Unlock()
	r, err := rollout.New(p, rollout.Options{
		Store:       p,
		Config:      rollout.Config{Interval: simInterval, StopWithin: 20 * time.Second},
		Gates:       map[string]rollout.GateFunc{"person": p.gate},
		CallTimeout: 5 * time.Second, AskTimeout: time.Second,
		ByPlace: w.byPlace,
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
	if w.ended != nil {
		w.older = append(w.older, w.ended)
	}
	w.r, w.ended = r, ended
}
