package rollout_test

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/rollout"
)

// A stepper drives the core by hand. Calls succeed, unless a test says
// otherwise.
type stepper struct {
	t      *testing.T
	config rollout.Config
	state  rollout.State
	now    time.Time
	wanted []rollout.Action
}

func newStepper(t *testing.T) *stepper {
	s := &stepper{t: t, now: time.Unix(1e9, 0)}
	s.state = rollout.State{}.TakeOver("me", s.now)
	return s
}

// newServing returns a stepper of which v1 has all traffic.
func newServing(t *testing.T) *stepper {
	t.Helper()
	s := newStepper(t)
	s.submit("v1", rollout.AllAtOnce())
	s.run()
	require.Equal(t, rollout.Succeeded, s.state.Phase)
	return s
}

func (s *stepper) submit(version string, p rollout.Plan) {
	p = plan(version, p)
	s.command(rollout.Command{Kind: rollout.CommandSubmit, Plan: &p})
}

func (s *stepper) command(c rollout.Command) {
	s.t.Helper()
	var err error
	s.state, err = s.config.Control(s.state, c, s.now)
	require.NoError(s.t, err)
}

// look lets time pass, with outcomes at its end.
func (s *stepper) look(d time.Duration, outcomes ...rollout.Outcome) {
	s.now = s.now.Add(d)
	s.state, s.wanted = s.config.Step(s.state, rollout.Observation{Outcomes: outcomes}, s.now)
}

// run lets calls succeed until nothing is wanted any more.
func (s *stepper) run() {
	for range 20 {
		s.look(0)
		if len(s.wanted) == 0 {
			return
		}
		for _, a := range s.wanted {
			s.look(0, rollout.Outcome{Action: a, Readiness: rollout.Readiness{Ready: true}})
		}
	}
}

// The last look at which the old version is kept is the one at which the new one
// turns out not to be ready: then it is kept.
func TestOldVersionIsKept(t *testing.T) {
	s := newServing(t)
	p := rollout.AllAtOnce()
	p.Steps[len(p.Steps)-1].For = 2 * time.Second
	s.submit("v2", p)
	s.run()
	require.Equal(t, rollout.KindStopOld, s.state.Plan.Steps[s.state.Step].Kind)
	s.look(time.Second)
	ready := rollout.Action{Kind: rollout.ActReady, Version: "v2"}
	s.look(time.Second, rollout.Outcome{Action: ready, Readiness: rollout.Readiness{Reason: "out of memory"}})
	require.Equal(t, 2*time.Second, s.state.Held)
	require.False(t, s.state.Final)
	assert.Equal(t, rollout.Whole, s.state.Weights.Most("v1"))
	s.look(0, rollout.Outcome{Action: ready, Readiness: rollout.Readiness{Ready: true}})
	s.run()
	assert.Equal(t, rollout.Succeeded, s.state.Phase)
}

// What a bake counts, look by look.
func TestWhatCounts(t *testing.T) {
	s := newServing(t)
	s.submit("v2", rollout.Canary(rollout.SetWeight(10), rollout.Bake(time.Minute)))
	s.run()
	require.Equal(t, rollout.KindBake, s.state.Plan.Steps[s.state.Step].Kind)
	held := func(want time.Duration, why string) {
		t.Helper()
		require.Equal(t, want, s.state.Held, why)
	}
	held(0, "it has just begun")
	s.look(time.Second)
	held(time.Second, "all is well")
	s.look(2 * time.Second)
	held(3*time.Second, "a look may be late")
	s.look(2*time.Second + 1)
	held(3*time.Second, "but not as late as that")
	s.look(-time.Hour)
	held(3*time.Second, "the clock was set back")
	s.look(time.Second)
	held(4*time.Second, "and goes on")
	s.look(time.Second, rollout.Outcome{Action: rollout.Action{Kind: rollout.ActSetWeights, Weights: s.state.Weights}, Err: "no proxy"})
	held(5*time.Second, "until then the weights were known to be applied")
	s.look(time.Second)
	held(5*time.Second, "and now they are not")
	s.look(0, rollout.Outcome{Action: rollout.Action{Kind: rollout.ActSetWeights, Weights: s.state.Weights}})
	s.look(time.Second)
	held(6*time.Second, "they are again")
	s.command(rollout.Command{Kind: rollout.CommandPause})
	s.look(time.Second)
	held(6*time.Second, "a pause does not count")
	s.command(rollout.Command{Kind: rollout.CommandResume})
	s.look(time.Second)
	held(6*time.Second, "nor does the time until it is seen to have ended")
	s.look(time.Second)
	held(7*time.Second, "it goes on")
	s.state = s.state.TakeOver("another", s.now)
	s.look(time.Second)
	held(7*time.Second, "a new Runner knows nothing")
	s.run()
	s.look(time.Second)
	held(8*time.Second, "until it does")
}

// A call that sets weights, was left behind and returns late may have undone a
// newer one: what is wanted is sent once more, under a revision of its own.
func TestLateWeights(t *testing.T) {
	s := newServing(t)
	s.submit("v2", rollout.Canary(rollout.SetWeight(10), rollout.Bake(time.Minute)))
	for s.state.Weights.Most("v2") == 0 {
		s.look(0)
		for _, a := range s.wanted {
			if a.Kind != rollout.ActSetWeights {
				s.look(0, rollout.Outcome{Action: a, Readiness: rollout.Readiness{Ready: true}})
			}
		}
	}
	forward := rollout.Action{Kind: rollout.ActSetWeights, Weights: s.state.Weights}
	s.look(0, rollout.Outcome{Action: forward, Err: "it did not return", Hung: true})
	s.command(rollout.Command{Kind: rollout.CommandAbort})
	s.look(0)
	i := slices.IndexFunc(s.wanted, func(a rollout.Action) bool { return a.Kind == rollout.ActSetWeights })
	require.GreaterOrEqual(t, i, 0)
	back := s.wanted[i]
	assert.True(t, back.Back)
	s.look(0, rollout.Outcome{Action: forward, Late: true})
	require.Contains(t, s.wanted, back, "it is not started again while it is under way")
	s.look(0, rollout.Outcome{Action: back})
	require.Len(t, s.wanted, 1, "and nothing is stopped before")
	again := s.wanted[0]
	assert.Greater(t, again.Weights.Revision, back.Weights.Revision)
	assert.Equal(t, back.Weights.Splits, again.Weights.Splits)
	s.look(0, rollout.Outcome{Action: again})
	assert.Equal(t, rollout.ActStop, s.wanted[0].Kind)
}

// A call to start a version hangs, and the version is stopped meanwhile. If the
// process dies then, nobody else knows that the call may have had its effect: so
// the version stays on the list of those to stop.
func TestHungStart(t *testing.T) {
	s := newServing(t)
	s.submit("v2", rollout.AllAtOnce())
	s.look(0)
	start := rollout.Action{Kind: rollout.ActStart, Version: "v2"}
	require.Contains(t, s.wanted, start)
	s.state, s.wanted = s.config.Step(s.state, rollout.Observation{Begun: []rollout.Action{start},
		Outcomes: []rollout.Outcome{{Action: start, Err: "it did not return", Hung: true}}}, s.now)
	s.command(rollout.Command{Kind: rollout.CommandAbort})
	s.run()
	require.Equal(t, rollout.RolledBack, s.state.Phase)
	require.True(t, s.state.Retired[0].Stopped)
	assert.Empty(t, s.wanted)
	assert.Contains(t, s.state.Why(s.now), "version v2 has stopped, but a call to start it has not returned")
	before := s.state

	s.look(0, rollout.Outcome{Action: start, Late: true})
	require.Equal(t, []rollout.ActionKind{rollout.ActStop}, kinds(s.wanted), "it returns")
	s.run()
	assert.Empty(t, s.state.Retired)

	s.state = before.TakeOver("another", s.now)
	s.run()
	assert.Empty(t, s.state.Retired, "another has stopped it")
	assert.EqualValues(t, "v2: stopped", s.state.Events[len(s.state.Events)-1].String())

	s.state = before
	s.command(rollout.Command{Kind: rollout.CommandRetry})
	s.look(0)
	assert.Contains(t, s.wanted, start, "it is wanted again")
	s.look(0, rollout.Outcome{Action: start, Late: true})
	s.run()
	assert.Equal(t, rollout.Succeeded, s.state.Phase)
}

// A call to stop a version that has not returned, for whatever reason, could stop
// the next attempt: that does not start before it has.
func TestStopLeftBehind(t *testing.T) {
	s := newServing(t)
	s.submit("v2", rollout.Canary(rollout.Pause()))
	s.run()
	s.command(rollout.Command{Kind: rollout.CommandAbort})
	s.look(0)
	s.look(0, rollout.Outcome{Action: s.wanted[0]})
	stop := s.wanted[0]
	require.Equal(t, rollout.ActStop, stop.Kind)
	// It is begun, left behind without a word, and begun again.
	begun := rollout.Observation{Begun: []rollout.Action{stop, stop}, Outcomes: []rollout.Outcome{{Action: stop}}}
	s.state, s.wanted = s.config.Step(s.state, begun, s.now)
	require.Equal(t, rollout.RolledBack, s.state.Phase)
	s.command(rollout.Command{Kind: rollout.CommandRetry})
	s.look(0)
	assert.NotContains(t, kinds(s.wanted), rollout.ActStart)
	assert.Contains(t, s.state.Why(s.now), "a call to stop version v2 has not returned, and could stop it if it started now")
	s.look(0, rollout.Outcome{Action: stop, Late: true})
	assert.Contains(t, kinds(s.wanted), rollout.ActStart)
}

func TestObserveN(t *testing.T) {
	var one, many rollout.Histogram
	for range 3 {
		one.Observe(time.Second)
	}
	many.ObserveN(time.Second, 3)
	many.ObserveN(time.Hour, 0)
	assert.True(t, one.Equal(many))
}

func kinds(actions []rollout.Action) []rollout.ActionKind {
	var k []rollout.ActionKind
	for _, a := range actions {
		k = append(k, a.Kind)
	}
	return k
}

// Versions that have ended leave nothing behind.
func TestForgets(t *testing.T) {
	s := newStepper(t)
	size := 0
	for i := range 60 {
		s.submit(string(rune('A'+i)), rollout.Canary(rollout.SetWeight(10), rollout.Bake(time.Second)))
		s.run()
		s.look(time.Second)
		s.run()
		require.Equal(t, rollout.Succeeded, s.state.Phase)
		if i == 30 {
			size = s.state.LiveSize()
		}
	}
	assert.Equal(t, size, s.state.LiveSize())
}

// A version without listeners has nothing to weigh: it is rolled out all the
// same, the first of all too.
func TestNoListeners(t *testing.T) {
	s := newStepper(t)
	for _, version := range []string{"v1", "v2"} {
		p := rollout.AllAtOnce()
		p.Version = version
		s.command(rollout.Command{Kind: rollout.CommandSubmit, Plan: &p})
		s.run()
		require.Equal(t, rollout.Succeeded, s.state.Phase, s.state.Why(s.now))
		require.Equal(t, version, s.state.Stable.ID)
		require.Empty(t, s.state.Retired)
	}
}

// What is watched pauses the rollout while a gate is asked: who resumes has
// decided about what was watched, and not about the gate.
func TestAWatchPausesAtAGate(t *testing.T) {
	s := newServing(t)
	p := rollout.Canary(rollout.SetWeight(50), rollout.Gate("person", time.Hour))
	p.Watch = &rollout.Analysis{OnFail: rollout.ThenPause}
	s.submit("v2", p)
	s.run()
	atGate := func() {
		t.Helper()
		require.Equal(t, rollout.KindGate, s.state.Plan.Steps[s.state.Step].Kind)
	}
	atGate()
	served := map[string]rollout.Traffic{}
	stats := func(failures uint64) {
		for v, f := range map[string]uint64{"v1": 0, "v2": failures} {
			served[v] = served[v].Add(rollout.Traffic{Requests: 1000, Failures: f})
		}
		s.look(time.Second, rollout.Outcome{Action: rollout.Action{Kind: rollout.ActStats, Revision: s.state.Weights.Revision}, Traffic: maps.Clone(served)})
	}
	stats(0)
	stats(500)
	require.Equal(t, rollout.PausedByWatch, s.state.PausedBy)
	stats(500) // it is watched while it is paused
	s.command(rollout.Command{Kind: rollout.CommandResume})
	require.Equal(t, rollout.Advancing, s.state.Phase)
	atGate()
	stats(0)
	stats(0)
	require.Equal(t, rollout.Advancing, s.state.Phase, "what was seen counts again")
	pass := rollout.Outcome{Action: rollout.Action{Kind: rollout.ActGate, Gate: "person", Step: s.state.Step},
		Judgement: rollout.Judgement{Verdict: rollout.Pass}}
	s.look(time.Second, pass)
	s.run()
	assert.Equal(t, rollout.Succeeded, s.state.Phase)
}

// Who promotes a rollout that is promoted, and paused, wants it to go on.
func TestPromoteAfterAPause(t *testing.T) {
	for name, pause := range map[string]func(s *stepper){
		"of the plan": func(*stepper) {},
		"of a person": func(s *stepper) {
			s.command(rollout.Command{Kind: rollout.CommandResume})
			s.command(rollout.Command{Kind: rollout.CommandPause})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServing(t)
			s.submit("v2", rollout.Plan{Steps: []rollout.Step{rollout.StartVersion(), rollout.WaitReady(),
				rollout.Promote(), rollout.Pause(), rollout.StopOld(0)}})
			s.run()
			require.Equal(t, rollout.Paused, s.state.Phase)
			require.True(t, s.state.Promoted)
			pause(s)
			require.Equal(t, rollout.Paused, s.state.Phase)
			s.command(rollout.Command{Kind: rollout.CommandPromote})
			s.run()
			assert.Equal(t, rollout.Succeeded, s.state.Phase)
		})
	}
}

// With a long Interval, too, the wait after many failures stays at its bound.
func TestBackoffDoesNotOverflow(t *testing.T) {
	s := newStepper(t)
	s.config = rollout.Config{Interval: time.Hour, MaxBackoff: 3 * time.Hour}
	p := rollout.AllAtOnce()
	p.ProgressDeadline = -1
	s.submit("v1", p)
	s.look(0)
	start := rollout.Action{Kind: rollout.ActStart, Version: "v1"}
	for failures := range 100 {
		require.Contains(t, s.wanted, start)
		s.look(0, rollout.Outcome{Action: start, Err: "no"})
		require.NotContains(t, s.wanted, start, "after %d failures it is tried again at once", failures+1)
		for range 3 {
			s.look(time.Hour)
		}
	}
}

// Over many windows the weights of the times at which counting starts stay what
// they were: the oldest windows are left out, and the others not renamed.
func TestWindowsKeepTheirNumbers(t *testing.T) {
	s := newServing(t)
	p := rollout.Canary(rollout.SetWeight(50), rollout.Bake(24*time.Hour))
	p.Watch = &rollout.Analysis{}
	s.submit("v2", p)
	s.run()
	var served rollout.Traffic
	var all []rollout.Window
	for range 4 * 3600 {
		served = served.Add(rollout.Traffic{Requests: 100, Failures: served.Requests / 100 % 2})
		before := s.state.Windows
		s.look(time.Second, rollout.Outcome{Action: rollout.Action{Kind: rollout.ActStats, Revision: s.state.Weights.Revision},
			Traffic: map[string]rollout.Traffic{"v1": served, "v2": served}})
		if after := s.state.Windows; len(after) > 0 && (len(before) == 0 || before[len(before)-1].Index != after[len(after)-1].Index) {
			all = append(all, after[len(after)-1])
		}
	}
	require.Greater(t, len(all), 40)
	for i, w := range all {
		require.Equal(t, i, w.Index)
	}
	assert.Equal(t, all[len(all)-len(s.state.Windows):], s.state.Windows, "the newest are kept")
	j := p.Watch.Judge(s.state.Window.Old, s.state.Window.New, all...)
	assert.LessOrEqual(t, s.state.Judgement.Evidence, j.Evidence, "leaving out windows leaves out evidence")
}

// Where sessions stick, the new version's share of the requests rises for minutes
// after its weight: an outage of both versions is still not held against it, and
// a version that is bad is found.
func TestSharesThatRiseByAndBy(t *testing.T) {
	failed := func(seed uint64, spike, worse float64) (bool, time.Duration) {
		rng := rand.New(rand.NewPCG(seed, 13))
		s := newServing(t)
		p := rollout.Canary(rollout.SetWeight(50), rollout.Bake(5*time.Minute))
		p.Sticky, p.Watch = true, &rollout.Analysis{}
		s.submit("v2", p)
		s.run()
		share, outage := 0., rng.IntN(270)
		served := map[string]rollout.Traffic{}
		for second := range 300 {
			share += (0.5 - share) / 60 // sessions last a minute on average
			rate := 0.001
			if second >= outage && second < outage+30 {
				rate += spike
			}
			news := binomial(rng, 500, share)
			served["v1"] = served["v1"].Add(traffic(500-news, binomial(rng, 500-news, rate)))
			served["v2"] = served["v2"].Add(traffic(news, binomial(rng, news, rate+worse)))
			s.look(time.Second, rollout.Outcome{Action: rollout.Action{Kind: rollout.ActStats, Revision: s.state.Weights.Revision},
				Traffic: maps.Clone(served)})
			if s.state.Phase != rollout.Advancing {
				require.Equal(t, rollout.RollingBack, s.state.Phase)
				return true, time.Duration(second) * time.Second
			}
		}
		return false, 0
	}
	for seed := range uint64(40) {
		alarm, at := failed(seed, 0.3, 0)
		require.False(t, alarm, "seed %d: both versions are as good, at %v", seed, at)
	}
	for seed := range uint64(5) {
		found, at := failed(seed, 0, 0.05)
		require.True(t, found, "seed %d", seed)
		require.Less(t, at, time.Minute)
	}
}

// On the way to the same weight everywhere the versions are not compared: an old
// version that has most of its traffic at a better place would look better.
func TestNoComparisonOnTheWay(t *testing.T) {
	s := newStepper(t)
	one := rollout.AllAtOnce()
	one.Version, one.Listeners = "v1", []string{"api", "web"}
	s.command(rollout.Command{Kind: rollout.CommandSubmit, Plan: &one})
	s.run()
	p := rollout.Canary(rollout.SetWeight(50).At("api"), rollout.SetWeight(50).At("web"), rollout.Bake(time.Hour))
	p.Version, p.Listeners, p.Watch = "v2", []string{"api", "web"}, &rollout.Analysis{}
	s.command(rollout.Command{Kind: rollout.CommandSubmit, Plan: &p})
	for s.state.Weights.Most("v2") == 0 {
		s.look(0)
		for _, a := range s.wanted {
			s.look(0, rollout.Outcome{Action: a, Readiness: rollout.Readiness{Ready: true}})
		}
	}
	s.command(rollout.Command{Kind: rollout.CommandPause})
	s.look(0, rollout.Outcome{Action: rollout.Action{Kind: rollout.ActSetWeights, Weights: s.state.Weights}})
	require.Equal(t, 5000, s.state.Weights.Of("v2", rollout.Place{Listener: "api"}))
	require.Zero(t, s.state.Weights.Of("v2", rollout.Place{Listener: "web"}))
	served := map[string]rollout.Traffic{}
	stats := func() {
		// All that comes to api fails, whoever serves it.
		served["v1"] = served["v1"].Add(rollout.Traffic{Requests: 300, Failures: 100})
		served["v2"] = served["v2"].Add(rollout.Traffic{Requests: 100, Failures: 100})
		s.look(time.Second, rollout.Outcome{Action: rollout.Action{Kind: rollout.ActStats, Revision: s.state.Weights.Revision}, Traffic: maps.Clone(served)})
	}
	for range 5 {
		stats()
	}
	require.Equal(t, rollout.Paused, s.state.Phase, s.state.Reason)
	s.command(rollout.Command{Kind: rollout.CommandResume})
	s.run()
	require.Equal(t, 5000, s.state.Weights.Of("v2", rollout.Place{Listener: "web"}))
	served["v1"], served["v2"] = rollout.Traffic{}, rollout.Traffic{}
	for range 2 {
		for v := range served {
			served[v] = served[v].Add(rollout.Traffic{Requests: 100})
		}
		s.look(time.Second, rollout.Outcome{Action: rollout.Action{Kind: rollout.ActStats, Revision: s.state.Weights.Revision}, Traffic: maps.Clone(served)})
	}
	require.Equal(t, rollout.Advancing, s.state.Phase, s.state.Reason)
	require.NotNil(t, s.state.Judgement)
	require.LessOrEqual(t, s.state.Judgement.Evidence, 1.)
}

// What is referred to, at every stage.
func TestVersions(t *testing.T) {
	s := newStepper(t)
	assert.Empty(t, s.state.Versions())
	s.submit("v1", rollout.AllAtOnce())
	assert.Equal(t, []string{"v1"}, s.state.Versions())
	s.run()
	assert.Equal(t, []string{"v1"}, s.state.Versions())
	s.submit("v2", rollout.Canary(rollout.Pause()))
	s.run()
	assert.Equal(t, []string{"v2", "v1"}, s.state.Versions())
	s.submit("v3", rollout.Canary(rollout.Pause()))
	assert.Equal(t, []string{"v3", "v2", "v1"}, s.state.Versions(), "v2 goes back first")
	s.run()
	assert.Equal(t, []string{"v3", "v1"}, s.state.Versions())
	s.command(rollout.Command{Kind: rollout.CommandAbort})
	s.run()
	require.Equal(t, rollout.RolledBack, s.state.Phase)
	assert.Equal(t, []string{"v3", "v1"}, s.state.Versions(), "it may be retried")
}

// A restart of the new version counts whenever it is told: while the version
// starts, while it is not ready and has no weight, while the weights are not
// applied.
func TestRestartsCountAtAllTimes(t *testing.T) {
	s := newServing(t)
	p := rollout.Canary(rollout.SetWeight(50), rollout.Bake(time.Hour))
	p.Watch = &rollout.Analysis{MaxRestarts: 3}
	s.submit("v2", p)
	s.look(0)
	s.look(0, rollout.Outcome{Action: rollout.Action{Kind: rollout.ActStart, Version: "v2"}})
	stats := func(restarts, requests uint64) {
		t.Helper()
		i := slices.IndexFunc(s.wanted, func(a rollout.Action) bool { return a.Kind == rollout.ActStats })
		require.GreaterOrEqual(t, i, 0, "nobody asks")
		v2 := rollout.Traffic{Requests: requests, Restarts: restarts}
		s.look(0, rollout.Outcome{Action: s.wanted[i], Traffic: map[string]rollout.Traffic{"v1": {Requests: requests}, "v2": v2}})
	}
	ready := func(is bool) {
		s.look(time.Second, rollout.Outcome{Action: rollout.Action{Kind: rollout.ActReady, Version: "v2"}, Readiness: rollout.Readiness{Ready: is}})
	}
	apply := func() {
		s.look(0, rollout.Outcome{Action: rollout.Action{Kind: rollout.ActSetWeights, Weights: s.state.Weights}})
	}
	stats(7, 0) // of an earlier attempt
	ready(false)
	stats(8, 0)
	require.EqualValues(t, 1, s.state.Restarts)
	ready(true)
	stats(9, 0) // the weights are on their way
	require.EqualValues(t, 2, s.state.Restarts)
	apply()
	s.look(time.Second)
	stats(9, 0)
	s.look(time.Second)
	stats(9, 10)
	require.EqualValues(t, 2, s.state.Judgement.Restarts)
	ready(false)
	require.Zero(t, s.state.Weights.Most("v2"))
	stats(1, 10) // it has begun to count anew
	require.EqualValues(t, 3, s.state.Restarts)
	require.Equal(t, rollout.Advancing, s.state.Phase, "so many are forgiven")
	s.look(time.Second)
	stats(2, 10)
	require.Equal(t, rollout.RollingBack, s.state.Phase)
	assert.Contains(t, s.state.Reason, "restarted 4 times, at most 3 are forgiven")
	s.run()
	s.command(rollout.Command{Kind: rollout.CommandRetry})
	require.Zero(t, s.state.Restarts, "an attempt begins anew")
}

// What was asked while the version still had its weight belongs to the window of
// that weight, though the answer comes after that has ended.
func TestTheEndOfAWindowIsSeen(t *testing.T) {
	s := newServing(t)
	p := rollout.Canary(rollout.SetWeight(50), rollout.Bake(time.Hour))
	p.Watch = &rollout.Analysis{MinSuccess: 0.9, LimitsOnly: true}
	s.submit("v2", p)
	s.run()
	asked := rollout.Action{Kind: rollout.ActStats, Revision: s.state.Weights.Revision}
	stats := func(requests, failures uint64) {
		s.look(time.Second, rollout.Outcome{Action: asked, Traffic: map[string]rollout.Traffic{"v2": {Requests: requests, Failures: failures}}})
	}
	stats(0, 0)
	stats(100, 0)
	s.look(0, rollout.Outcome{Action: rollout.Action{Kind: rollout.ActReady, Version: "v2"}, Readiness: rollout.Readiness{Reason: "it has crashed"}})
	require.Zero(t, s.state.Weights.Most("v2"))
	stats(150, 50)
	require.Len(t, s.state.Windows, 1)
	assert.EqualValues(t, 150, s.state.Windows[0].New.Requests)
	assert.EqualValues(t, 50, s.state.Windows[0].New.Failures)
	require.Equal(t, rollout.RollingBack, s.state.Phase, "and it is judged at once")
	stats(200, 100)
	assert.EqualValues(t, 150, s.state.Windows[0].New.Requests, "once")
}

// The verdicts end with the promotion: from then on only a person goes back.
func TestNoVerdictAfterPromotion(t *testing.T) {
	s := newServing(t)
	p := rollout.Canary(rollout.SetWeight(50), rollout.Bake(time.Second))
	p.Steps[len(p.Steps)-1].For = time.Hour
	p.Watch = &rollout.Analysis{}
	s.submit("v2", p)
	s.run()
	s.look(time.Second)
	s.run()
	require.True(t, s.state.Promoted)
	for n := range uint64(10) {
		s.look(time.Second, rollout.Outcome{Action: rollout.Action{Kind: rollout.ActStats, Revision: s.state.Weights.Revision},
			Traffic: map[string]rollout.Traffic{"v1": {Requests: 10 * n}, "v2": {Requests: 1000 * n, Failures: 1000 * n, Restarts: 10 * n}}})
	}
	assert.NotZero(t, s.state.Window.New.Failures)
	assert.Equal(t, rollout.Advancing, s.state.Phase, s.state.Reason)
}

// Weights that take all traffic from a version that is not ready any more are on the
// way back, too, though the rollout is not: they do not wait for the store.
func TestUnreadyIsBack(t *testing.T) {
	s := newServing(t)
	s.submit("v2", rollout.Canary(rollout.SetWeight(50), rollout.Bake(time.Hour)))
	s.run()
	back := func() bool {
		i := slices.IndexFunc(s.wanted, func(a rollout.Action) bool { return a.Kind == rollout.ActSetWeights })
		require.GreaterOrEqual(t, i, 0)
		return s.wanted[i].Back
	}
	ready := rollout.Action{Kind: rollout.ActReady, Version: "v2"}
	s.look(time.Second, rollout.Outcome{Action: ready})
	require.Equal(t, rollout.Advancing, s.state.Phase)
	require.Zero(t, s.state.Weights.Most("v2"))
	assert.True(t, back())
	s.run()
	s.look(time.Second, rollout.Outcome{Action: ready, Readiness: rollout.Readiness{Ready: true}})
	require.Equal(t, 5000, s.state.Weights.Most("v2"))
	assert.False(t, back(), "forward it waits")
}

// What counts for the progress deadline: each step, and each time that it gets on,
// begins anew.
func TestStalled(t *testing.T) {
	s := newServing(t)
	p := rollout.Canary(rollout.SetWeight(10), rollout.Bake(time.Minute), rollout.SetWeight(50), rollout.Bake(time.Minute))
	p.ProgressDeadline = 10 * time.Second
	s.submit("v2", p)
	stall := func(d time.Duration) {
		t.Helper()
		before := s.state.Stalled
		for range int(d / time.Second) {
			s.look(time.Second)
		}
		require.Equal(t, before+d, s.state.Stalled, s.state.Why(s.now))
		require.Equal(t, rollout.Advancing, s.state.Phase, s.state.Reason)
	}
	s.look(0)
	stall(8 * time.Second) // it starts
	s.look(0, rollout.Outcome{Action: rollout.Action{Kind: rollout.ActStart, Version: "v2"}})
	require.Zero(t, s.state.Stalled)
	stall(8 * time.Second) // it gets ready
	s.run()
	require.Equal(t, rollout.KindBake, s.state.Plan.Steps[s.state.Step].Kind)
	ready := rollout.Action{Kind: rollout.ActReady, Version: "v2"}
	for range 3 { // more than the deadline, but it bakes in between
		s.look(0, rollout.Outcome{Action: ready})
		s.look(0, rollout.Outcome{Action: rollout.Action{Kind: rollout.ActSetWeights, Weights: s.state.Weights}})
		stall(8 * time.Second)
		s.look(0, rollout.Outcome{Action: ready, Readiness: rollout.Readiness{Ready: true}})
		s.run()
		s.look(time.Second)
		require.Zero(t, s.state.Stalled)
	}
	s.look(0, rollout.Outcome{Action: ready})
	for range 12 {
		s.look(time.Second)
	}
	require.Equal(t, rollout.RollingBack, s.state.Phase)
}

// A rollout that is paused is watched, and goes back; a watch whose rule is to pause
// or to continue changes nothing then, and does not say it twice.
func TestWatchWhilePaused(t *testing.T) {
	for rule, want := range map[rollout.Rule]rollout.Phase{
		rollout.ThenRollBack: rollout.RollingBack,
		rollout.ThenPause:    rollout.Paused,
		rollout.ThenContinue: rollout.Paused,
	} {
		t.Run(rule.String(), func(t *testing.T) {
			s := newServing(t)
			p := rollout.Canary(rollout.SetWeight(50), rollout.Bake(time.Hour))
			p.Watch = &rollout.Analysis{OnFail: rule}
			s.submit("v2", p)
			s.run()
			s.command(rollout.Command{Kind: rollout.CommandPause, Reason: "lunch"})
			told := s.state.EventSeq
			for n := range uint64(5) {
				s.look(time.Second, rollout.Outcome{Action: rollout.Action{Kind: rollout.ActStats, Revision: s.state.Weights.Revision},
					Traffic: map[string]rollout.Traffic{"v1": {Requests: 1000 * n}, "v2": {Requests: 1000 * n, Failures: 300 * n}}})
			}
			require.Equal(t, want, s.state.Phase)
			if want == rollout.Paused {
				assert.Equal(t, rollout.PausedByUser, s.state.PausedBy)
				assert.Equal(t, "lunch", s.state.Reason)
				assert.Equal(t, told, s.state.EventSeq)
				assert.Equal(t, rollout.Fail, s.state.Judgement.Verdict, "it is seen")
			}
		})
	}
}

// The way back waits for the stable version only after a restart: one that was up in
// this process gets the traffic at once, whatever is known of it.
func TestWayBackAndTheStableVersion(t *testing.T) {
	s := newServing(t)
	s.submit("v2", rollout.Canary(rollout.SetWeight(50), rollout.Bake(time.Hour)))
	s.run()
	before := s.state
	s.command(rollout.Command{Kind: rollout.CommandAbort})
	s.look(0)
	require.Equal(t, []rollout.ActionKind{rollout.ActSetWeights}, kinds(s.wanted))

	s.state = before
	s.command(rollout.Command{Kind: rollout.CommandAbort})
	s.state = s.state.TakeOver("another", s.now)
	s.look(0)
	require.Equal(t, []rollout.Action{{Kind: rollout.ActStart, Version: "v1"}}, s.wanted)
	s.look(0, rollout.Outcome{Action: s.wanted[0]})
	require.Equal(t, []rollout.Action{{Kind: rollout.ActReady, Version: "v1"}}, s.wanted)
	s.look(0, rollout.Outcome{Action: s.wanted[0], Readiness: rollout.Readiness{Reason: "warming up"}})
	require.Empty(t, s.wanted)
	require.Equal(t, rollout.RollingBack, s.state.Phase)
	s.look(time.Second)
	s.look(0, rollout.Outcome{Action: s.wanted[0], Readiness: rollout.Readiness{Ready: true}})
	require.Equal(t, []rollout.ActionKind{rollout.ActSetWeights}, kinds(s.wanted))
	require.Equal(t, rollout.Whole, s.wanted[0].Weights.Most("v1"))
	s.look(0, rollout.Outcome{Action: s.wanted[0]})
	require.Equal(t, rollout.RollingBack, s.state.Phase)
	require.Equal(t, []rollout.ActionKind{rollout.ActStop}, kinds(s.wanted))
	s.run()
	require.Equal(t, rollout.RolledBack, s.state.Phase)
}

// After a restart a promoted version has everything though the stable one is not up.
// If it is given up then, it serves until the stable one can.
func TestWayBackOfAPromotedVersion(t *testing.T) {
	s := newStepper(t)
	s.config.Resync = -1
	s.submit("v1", rollout.AllAtOnce())
	s.run()
	p := rollout.Canary(rollout.SetWeight(50), rollout.Bake(time.Hour))
	p.Steps[len(p.Steps)-1].For = time.Hour
	s.submit("v2", p)
	s.run()
	s.command(rollout.Command{Kind: rollout.CommandPromote})
	s.run()
	s.state = s.state.TakeOver("another", s.now)
	for range 4 { // v1 does not start
		s.look(0)
		for _, a := range s.wanted {
			if a.Version != "v1" {
				s.look(0, rollout.Outcome{Action: a, Readiness: rollout.Readiness{Ready: true}})
			}
		}
	}
	require.Equal(t, s.state.Weights.Revision, s.state.Applied)
	require.Equal(t, rollout.Whole, s.state.Weights.Most("v2"))
	s.command(rollout.Command{Kind: rollout.CommandAbort})
	for range 300 {
		s.look(time.Second)
		require.Equal(t, []rollout.Action{{Kind: rollout.ActStart, Version: "v1"}}, s.wanted)
	}
	require.Equal(t, rollout.RollingBack, s.state.Phase)
	require.Zero(t, s.state.Retired[0].Waited)

	s.config.Resync = time.Minute // a proxy that has lost the weights gets them again
	again := rollout.Action{Kind: rollout.ActSetWeights, Weights: s.state.Weights}
	s.look(0, rollout.Outcome{Action: again})
	for range 59 {
		s.look(time.Second)
		require.NotContains(t, s.wanted, again)
	}
	s.look(time.Second)
	require.Contains(t, s.wanted, again)
	s.look(0, rollout.Outcome{Action: again})
	s.look(0, rollout.Outcome{Action: s.wanted[0]})
	s.look(0, rollout.Outcome{Action: s.wanted[0], Readiness: rollout.Readiness{Ready: true}})
	require.Equal(t, []rollout.ActionKind{rollout.ActSetWeights}, kinds(s.wanted))
	require.Equal(t, rollout.Whole, s.wanted[0].Weights.Most("v1"))
	s.look(0, rollout.Outcome{Action: s.wanted[0]})
	require.Equal(t, []rollout.ActionKind{rollout.ActStop}, kinds(s.wanted))
	s.run()
	require.Equal(t, rollout.RolledBack, s.state.Phase)
}

// If it is given up, or ceases to be ready, before it has everything, it does not
// get it, though the stable one is not up either.
func TestPromotedVersionGivenUpBeforeItsWeights(t *testing.T) {
	promoted := newServing(t)
	promoted.submit("v2", rollout.Canary(rollout.SetWeight(50), rollout.Bake(time.Hour)))
	promoted.run()
	promoted.command(rollout.Command{Kind: rollout.CommandPromote})
	promoted.state = promoted.state.TakeOver("another", promoted.now)
	ready := rollout.Action{Kind: rollout.ActReady, Version: "v2"}
	promoted.look(0, rollout.Outcome{Action: rollout.Action{Kind: rollout.ActStart, Version: "v2"}})
	promoted.look(0, rollout.Outcome{Action: ready, Readiness: rollout.Readiness{Ready: true}})
	require.Contains(t, kinds(promoted.wanted), rollout.ActSetWeights)
	require.Equal(t, rollout.Whole, promoted.state.Weights.Most("v2"))

	for name, giveUp := range map[string]func(*stepper){
		"aborted": func(s *stepper) {
			s.command(rollout.Command{Kind: rollout.CommandAbort})
			s.look(0)
		},
		"superseded": func(s *stepper) {
			s.submit("v3", rollout.AllAtOnce())
			s.look(0)
		},
		"unready": func(s *stepper) { s.look(time.Second, rollout.Outcome{Action: ready}) },
	} {
		t.Run(name, func(t *testing.T) {
			s := *promoted
			s.t = t
			giveUp(&s)
			for range 100 {
				require.NotContains(t, kinds(s.wanted), rollout.ActSetWeights)
				s.look(time.Second)
			}
			s.look(0, rollout.Outcome{Action: rollout.Action{Kind: rollout.ActStart, Version: "v1"}})
			s.look(0, rollout.Outcome{Action: rollout.Action{Kind: rollout.ActReady, Version: "v1"}, Readiness: rollout.Readiness{Ready: true}})
			require.Contains(t, kinds(s.wanted), rollout.ActSetWeights)
			require.Equal(t, rollout.Whole, s.state.Weights.Most("v1"))
		})
	}
}

// What comes to a version by its preview address alone is judged as it comes, not
// when its window has ended.
func TestPreviewIsJudged(t *testing.T) {
	s := newServing(t)
	p := rollout.Canary(rollout.SetWeight(0), rollout.Analyze(&rollout.Analysis{LimitsOnly: true, MinSuccess: 0.9, MinRequests: 500}, time.Hour))
	p.Preview = "here"
	s.submit("v2", p)
	s.run()
	var v2 rollout.Traffic
	for i := range 400 {
		v2.Requests++
		if i >= 320 { // in the second window
			v2.Requests += 9
			v2.Failures += 10
		}
		s.look(time.Second, rollout.Outcome{Action: rollout.Action{Kind: rollout.ActStats, Revision: s.state.Weights.Revision}, Traffic: map[string]rollout.Traffic{"v2": v2}})
	}
	require.Equal(t, rollout.RollingBack, s.state.Phase, s.state.Reason)
}

// An answer that comes long after the weights have changed is of traffic under both,
// and of an outage under the next ones that hit both versions.
func TestAnswerLongAfterAChange(t *testing.T) {
	s := newServing(t)
	p := rollout.Canary(rollout.SetWeight(5), rollout.Bake(10*time.Second), rollout.SetWeight(50), rollout.Bake(time.Minute))
	p.Watch = &rollout.Analysis{}
	s.submit("v2", p)
	s.run()
	was := s.state.Weights.Revision
	answer := func(revision, v1, v2, failures uint64) rollout.Outcome {
		return rollout.Outcome{Action: rollout.Action{Kind: rollout.ActStats, Revision: revision}, Traffic: map[string]rollout.Traffic{
			"v1": {Requests: v1, Failures: failures}, "v2": {Requests: v2, Failures: failures},
		}}
	}
	for i := range uint64(10) {
		s.look(time.Second, answer(was, 950*i, 50*i, 0))
	}
	for s.look(time.Second); s.state.Weights.Revision == was || s.state.Applied != s.state.Weights.Revision; s.look(0) {
		for _, a := range s.wanted {
			if a.Kind == rollout.ActSetWeights {
				s.look(0, rollout.Outcome{Action: a})
			}
		}
	}
	for range 3 {
		s.look(time.Second)
	}
	s.look(time.Second, answer(was, 950*10+4*500, 50*10+4*500, 600))
	require.Len(t, s.state.Windows, 1)
	require.EqualValues(t, 50*9, s.state.Windows[0].New.Requests)
	require.Equal(t, rollout.Advancing, s.state.Phase, s.state.Reason)
}

// What was shown while both versions had traffic counts when the old one has none.
func TestEvidenceFromBefore(t *testing.T) {
	traffic := func(requests, failures uint64) rollout.Traffic {
		return rollout.Traffic{Requests: requests, Failures: failures}
	}
	j := rollout.Analysis{}.Judge(rollout.Traffic{}, traffic(10_000, 1000), rollout.Window{Old: traffic(10_000, 0), New: traffic(10_000, 1000)})
	require.Equal(t, rollout.Fail, j.Verdict)
	require.Contains(t, j.Reason, "10 % of the new version's requests failed, 0 % of the old one's (in the last 2 windows): worse by more than 0.5 %")
	j = rollout.Analysis{}.Judge(rollout.Traffic{}, traffic(10_000, 10), rollout.Window{Old: traffic(10_000, 10), New: traffic(10_000, 10)})
	require.Equal(t, rollout.Inconclusive, j.Verdict)
	require.Contains(t, j.Reason, "nothing to compare")
}

// What is meant for a version that waits is refused while nothing but time helps it.
func TestCommandsForOneThatWaits(t *testing.T) {
	s := newServing(t)
	s.submit("v2", rollout.Canary(rollout.SetWeight(50), rollout.Pause()))
	s.run()
	s.submit("v3", rollout.Canary(rollout.Pause()))
	require.Equal(t, rollout.RollingBack, s.state.Phase)
	for _, kind := range []rollout.CommandKind{rollout.CommandPause, rollout.CommandResume, rollout.CommandPromote, rollout.CommandRetry} {
		_, err := s.config.Control(s.state, rollout.Command{Kind: kind, At: rollout.At{Version: "v3"}}, s.now)
		require.ErrorIs(t, err, rollout.ErrRefused)
		require.ErrorContains(t, err, "version v3 waits until v2 has gone back, and begins by itself then; Abort drops it")
	}
	s.command(rollout.Command{Kind: rollout.CommandAbort, At: rollout.At{Version: "v3"}})
	require.Nil(t, s.state.Next)

	s = newServing(t)
	s.submit("v2", rollout.AllAtOnce())
	for !s.state.Final {
		s.look(0)
		for _, a := range s.wanted {
			if a.Kind != rollout.ActStop {
				s.look(0, rollout.Outcome{Action: a, Readiness: rollout.Readiness{Ready: true}})
			}
		}
	}
	s.submit("v3", rollout.AllAtOnce())
	require.Equal(t, rollout.Advancing, s.state.Phase)
	_, err := s.config.Control(s.state, rollout.Command{Kind: rollout.CommandPromote, At: rollout.At{Version: "v3"}}, s.now)
	require.ErrorContains(t, err, "version v3 waits until v2 has stopped what it replaces")
	s.run()
	require.Equal(t, "v3", s.state.Stable.ID)
}

// begin takes note that a call has begun.
func (s *stepper) begin(a rollout.Action) rollout.Action {
	s.state, s.wanted = s.config.Step(s.state, rollout.Observation{Begun: []rollout.Action{a}}, s.now)
	return a
}

// startHangs returns a stepper of which v2 was submitted, and aborted while a call to
// start it hung, and the calls that it wants to make to start and to stop v2.
func startHangs(t *testing.T) (s *stepper, start, stop rollout.Action) {
	t.Helper()
	s = newServing(t)
	s.submit("v2", rollout.Canary(rollout.SetWeight(10), rollout.Bake(time.Minute)))
	s.look(0)
	start = rollout.Action{Kind: rollout.ActStart, Version: "v2"}
	require.Contains(t, s.wanted, start)
	s.begin(start)
	s.look(0, rollout.Outcome{Action: start, Hung: true, Err: "it hangs"})
	s.command(rollout.Command{Kind: rollout.CommandAbort})
	s.look(0)
	stop = s.wanted[slices.IndexFunc(s.wanted, func(a rollout.Action) bool { return a.Kind == rollout.ActStop })]
	return s, start, s.begin(stop)
}

// A version that is given up, tried again, and only then has stopped, is wanted: after
// a restart it is started, not stopped.
func TestStoppedWhenItIsWantedAgain(t *testing.T) {
	s, start, stop := startHangs(t)
	for s.state.Phase == rollout.RollingBack {
		s.look(time.Second)
	}
	require.Equal(t, rollout.RolledBack, s.state.Phase)
	s.command(rollout.Command{Kind: rollout.CommandRetry})
	s.look(0)
	require.NotContains(t, s.wanted, start, "it is being stopped")
	s.look(0, rollout.Outcome{Action: stop})
	require.Empty(t, s.state.Retired)
	for s.state.Phase != rollout.Succeeded {
		for _, a := range s.wanted {
			s.look(time.Second, rollout.Outcome{Action: s.begin(a), Readiness: rollout.Readiness{Ready: true}})
		}
		s.look(time.Second)
	}
	s.state = s.state.TakeOver("another", s.now)
	s.look(time.Second)
	require.Contains(t, s.wanted, start)

	// A state that was stored before this was so.
	s.state.Retired = []rollout.Retirement{{Version: rollout.Version{ID: "v2"}, Stopped: true}}
	s.state = s.state.TakeOver("a third", s.now)
	s.look(time.Second)
	require.Contains(t, s.wanted, start)
}

// A call of an earlier attempt that returns late does not count for the next one, also
// if one of that has failed meanwhile.
func TestStartOfAnEarlierAttempt(t *testing.T) {
	s, start, stop := startHangs(t)
	s.look(0, rollout.Outcome{Action: stop})
	for s.state.Phase != rollout.RolledBack {
		s.look(0)
	}
	s.command(rollout.Command{Kind: rollout.CommandRetry})
	s.look(0)
	require.Contains(t, s.wanted, start)
	s.look(0, rollout.Outcome{Action: s.begin(start), Err: "no memory"})
	s.look(0, rollout.Outcome{Action: start, Late: true}) // its effect was before the stop
	s.look(2 * time.Second)
	require.Contains(t, s.wanted, start)
	s.look(0, rollout.Outcome{Action: s.begin(start)})
	require.NotContains(t, s.wanted, start)
	s.look(0, rollout.Outcome{Action: start, Late: true, Err: "no such file", Permanent: true})
	require.Equal(t, rollout.Advancing, s.state.Phase, s.state.Reason)
}
