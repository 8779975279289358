package rollout_test

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/rollout"
)

// A placed is a stepper with a rollout over locations, and traffic of both versions
// wherever they have weights.
type placed struct {
	*stepper
	served map[string]rollout.Traffic
}

// newPlaced returns one of which v1 has all traffic, and v2 was submitted.
func newPlaced(t *testing.T, watch rollout.Analysis, steps ...rollout.Step) *placed {
	t.Helper()
	s := &placed{newStepper(t), map[string]rollout.Traffic{}}
	submit := func(version string, p rollout.Plan) {
		p.Version, p.Listeners, p.Locations = version, []string{"api"}, []string{"asia", "eu", "us"}
		s.command(rollout.Command{Kind: rollout.CommandSubmit, Plan: &p})
	}
	submit("v1", rollout.AllAtOnce())
	s.run()
	p := rollout.Canary(append(steps, rollout.Bake(time.Hour))...)
	p.Watch = &watch
	submit("v2", p)
	return s
}

// at returns the weight of v2 in a location.
func (s *placed) at(location string) int {
	return s.state.Weights.Of("v2", rollout.Place{Listener: "api", Location: location})
}

// serve lets each version serve requests at each location where it has a weight, a
// thousand at a whole one, of which fails says how many fail.
func (s *placed) serve(fails func(version, location string) float64) {
	for _, v := range []string{"v1", "v2"} {
		var places []rollout.PlaceTraffic
		for _, split := range s.state.Weights.Splits {
			n := uint64(1000 * s.state.Weights.Of(v, split.Place) / rollout.Whole)
			places = append(places, rollout.PlaceTraffic{Place: split.Place,
				Traffic: rollout.Traffic{Requests: n, Failures: uint64(float64(n) * fails(v, split.Location))}})
		}
		s.served[v] = s.served[v].Add(rollout.Traffic{Places: places})
	}
	s.look(time.Second, rollout.Outcome{Action: rollout.Action{Kind: rollout.ActStats, Revision: s.state.Weights.Revision}, Traffic: maps.Clone(s.served)})
}

// Where traffic is counted by place, versions are compared where both have some: a
// place at which many requests fail, whoever serves them, says nothing, and one at
// which more of the new version's fail says it all.
func TestComparedWhereBothAre(t *testing.T) {
	inEU := func(_, location string) float64 {
		if location == "eu" {
			return 0.1
		}
		return 0
	}
	worseInEU := func(version, location string) float64 {
		if version == "v2" {
			return 2 * inEU(version, location)
		}
		return inEU(version, location)
	}
	limits := rollout.Analysis{LimitsOnly: true, MinSuccess: 0.95}
	for name, test := range map[string]struct {
		watch   rollout.Analysis
		weights map[string]float64
		fails   func(version, location string) float64
		phase   rollout.Phase
		reason  string
	}{
		"a bad place":                      {rollout.Analysis{}, map[string]float64{"eu": 10}, inEU, rollout.Advancing, ""},
		"worse at a bad place":             {rollout.Analysis{}, map[string]float64{"eu": 10}, worseInEU, rollout.RollingBack, "20 % of the new version's requests failed, 10 % of the old one's"},
		"a bad place that it has alone":    {rollout.Analysis{}, map[string]float64{"eu": 100, "us": 50}, inEU, rollout.Advancing, ""},
		"worse where it is alone":          {rollout.Analysis{}, map[string]float64{"eu": 100, "us": 50}, worseInEU, rollout.Advancing, ""},
		"a bad place beside a good one":    {rollout.Analysis{}, map[string]float64{"asia": 30, "eu": 30}, inEU, rollout.Advancing, ""},
		"worse at one of two":              {rollout.Analysis{}, map[string]float64{"asia": 30, "eu": 30}, worseInEU, rollout.RollingBack, "10 % of the new version's requests failed, 5 % of the old one's"},
		"everywhere":                       {rollout.Analysis{}, map[string]float64{"asia": 30, "eu": 30, "us": 30}, worseInEU, rollout.RollingBack, "6.67 % of the new version's requests failed, 3.33 % of the old one's"},
		"a limit counts what it has alone": {limits, map[string]float64{"eu": 100, "us": 50}, worseInEU, rollout.RollingBack, "86.7 % of the new version's requests succeeded, the least is 95 %"},
		"a limit that is kept":             {limits, map[string]float64{"asia": 100, "us": 50}, worseInEU, rollout.Advancing, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var steps []rollout.Step
			for l, w := range test.weights {
				steps = append(steps, rollout.SetWeight(w).In(l))
			}
			s := newPlaced(t, test.watch, steps...)
			s.run()
			require.Equal(t, rollout.KindBake, s.state.Plan.Steps[s.state.Step].Kind)
			for range 60 {
				if s.serve(test.fails); s.state.Phase != rollout.Advancing {
					break
				}
			}
			require.Equal(t, test.phase, s.state.Phase, s.state.Reason)
			assert.Contains(t, s.state.Reason, test.reason)
			require.NotNil(t, s.state.Judgement)
			if test.phase == rollout.Advancing && !test.watch.LimitsOnly {
				assert.LessOrEqual(t, s.state.Judgement.Evidence, 1.)
			}
		})
	}
}

// Two weights between nothing and all: with either of them the other place would
// be compared wrongly. A plan that compares does not stay there, but can be paused.
func TestNoComparisonOfTwoWeights(t *testing.T) {
	s := newPlaced(t, rollout.Analysis{}, rollout.SetWeight(10), rollout.SetWeight(80).In("eu"), rollout.SetWeight(80))
	for s.at("eu") < 8000 {
		s.look(0)
		for _, a := range s.wanted {
			if s.at("eu") < 8000 {
				s.look(0, rollout.Outcome{Action: a, Readiness: rollout.Readiness{Ready: true}})
			}
		}
	}
	s.command(rollout.Command{Kind: rollout.CommandPause})
	s.look(0, rollout.Outcome{Action: rollout.Action{Kind: rollout.ActSetWeights, Weights: s.state.Weights}})
	require.Equal(t, []int{1000, 8000, 1000}, []int{s.at("asia"), s.at("eu"), s.at("us")})
	for range 60 {
		s.serve(func(_, location string) float64 {
			if location == "eu" {
				return 0.5
			}
			return 0
		})
	}
	require.Equal(t, rollout.Paused, s.state.Phase, s.state.Reason)
	require.Equal(t, rollout.Inconclusive, s.state.Judgement.Verdict)
	require.Contains(t, s.state.Judgement.Reason, "nothing to compare")
	require.EqualValues(t, 59*1000, s.state.Judgement.NewRequests)
}

// A listener that only the new version has is not compared with those that the old
// one has, too.
func TestListenerOfItsOwn(t *testing.T) {
	for _, byPlace := range []bool{false, true} {
		s := newServing(t)
		p := rollout.Canary(rollout.SetWeight(50), rollout.Bake(time.Hour))
		p.Version, p.Listeners, p.Watch = "v2", []string{"api", "admin"}, &rollout.Analysis{}
		s.command(rollout.Command{Kind: rollout.CommandSubmit, Plan: &p})
		s.run()
		v1, v2 := rollout.Traffic{}, rollout.Traffic{}
		for range 60 {
			api := rollout.PlaceTraffic{Place: rollout.Place{Listener: "api"}, Traffic: rollout.Traffic{Requests: 100}}
			admin := rollout.PlaceTraffic{Place: rollout.Place{Listener: "admin"}, Traffic: rollout.Traffic{Requests: 10, Failures: 10}}
			if byPlace {
				v1 = v1.Add(rollout.Traffic{Places: []rollout.PlaceTraffic{api}})
				v2 = v2.Add(rollout.Traffic{Places: []rollout.PlaceTraffic{api, admin}})
			} else {
				v1, v2 = v1.Add(api.Traffic), v2.Add(api.Add(admin.Traffic))
			}
			s.look(time.Second, rollout.Outcome{Action: rollout.Action{Kind: rollout.ActStats, Revision: s.state.Weights.Revision},
				Traffic: map[string]rollout.Traffic{"v1": v1, "v2": v2}})
		}
		if byPlace {
			require.Equal(t, rollout.Advancing, s.state.Phase, s.state.Reason)
		} else {
			require.Equal(t, rollout.RollingBack, s.state.Phase, "this is what ByPlace is for")
		}
	}
}

// Limits hold, and pass, where the new version has all the traffic, too.
func TestLimitsWhereItIsAlone(t *testing.T) {
	limits := rollout.Analysis{LimitsOnly: true, MinSuccess: 0.9, MinRequests: 1500}
	s := newPlaced(t, limits, rollout.SetWeight(100).In("eu"), rollout.Analyze(nil, time.Hour), rollout.SetWeight(50).In("us"))
	s.run()
	none := func(_, _ string) float64 { return 0 }
	s.serve(none)
	require.Contains(t, s.state.Judgement.Reason, "had 1000 requests of late, of the 1500 it needs")
	s.serve(none)
	s.run()
	require.Equal(t, 5000, s.at("us"), s.state.Reason)
	require.Len(t, s.state.Windows, 1)
	require.EqualValues(t, 2000, s.state.Windows[0].Apart.Requests)
	require.Zero(t, s.state.Windows[0].New.Requests)
}

// What a call to Stats tells of a window after its end is divided by the weights of
// that window.
func TestRestByPlace(t *testing.T) {
	s := newPlaced(t, rollout.Analysis{}, rollout.SetWeight(10).In("eu"))
	s.run()
	none := func(_, _ string) float64 { return 0 }
	s.serve(none)
	s.serve(none)
	before := s.state.Weights
	s.command(rollout.Command{Kind: rollout.CommandPromote})
	s.look(0)
	require.NotEqual(t, before.Revision, s.state.Weights.Revision)
	rest := maps.Clone(s.served)
	for v := range rest {
		rest[v] = rest[v].Add(rollout.Traffic{Places: []rollout.PlaceTraffic{
			{Place: rollout.Place{Listener: "api", Location: "eu"}, Traffic: rollout.Traffic{Requests: 7}},
			{Place: rollout.Place{Listener: "api", Location: "us"}, Traffic: rollout.Traffic{Requests: 3}},
		}})
	}
	s.look(0, rollout.Outcome{Action: rollout.Action{Kind: rollout.ActStats, Revision: before.Revision}, Traffic: rest})
	require.Len(t, s.state.Windows, 1)
	w := s.state.Windows[0]
	require.Equal(t, []uint64{2*900 + 7, 2*100 + 7, 3}, []uint64{w.Old.Requests, w.New.Requests, w.Apart.Requests})
}

// A plan that compares under weights that differ by place needs traffic by place: it
// is refused without the promise, and the watch is blind while that is not kept.
func TestByPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		waves := func() rollout.Plan {
			p := plan("v2", rollout.FromDuration(time.Hour, "eu", "us"))
			p.Watch = &rollout.Analysis{}
			return p
		}
		first := func(b *runnerBench) {
			p := plan("v1", rollout.AllAtOnce())
			p.Locations = []string{"eu", "us"}
			require.NoError(t, b.Submit(t.Context(), p))
			b.wait(rollout.Succeeded)
		}
		b := start(t, newFake(), rollout.Options{})
		first(b)
		require.ErrorContains(t, b.Submit(t.Context(), waves()), "step 4 (bake 4m48s): Plan.Watch compares the versions, but the new one has 10 % of the traffic at api in eu and 0 % at api in us, and places differ: "+
			"let Stats tell Traffic.Places (Options.ByPlace), or give all places the same weight, or use limits alone (LimitsOnly)")
		b.stop()

		b = start(t, newFake(), rollout.Options{ByPlace: true})
		first(b)
		told := true
		b.f.set(func() {
			b.f.traffic = func(version string) rollout.Traffic {
				n := uint64(time.Since(b.f.began).Seconds() * 100)
				if !told {
					return rollout.Traffic{Requests: 2 * n}
				}
				var places []rollout.PlaceTraffic
				for _, l := range []string{"eu", "us"} {
					places = append(places, rollout.PlaceTraffic{Place: rollout.Place{Listener: "api", Location: l}, Traffic: rollout.Traffic{Requests: n}})
				}
				return rollout.Traffic{Places: places}
			}
		})
		require.NoError(t, b.Submit(t.Context(), waves()))
		time.Sleep(time.Minute)
		require.True(t, b.Status().BlindSince.IsZero())
		require.NotZero(t, b.Status().State.Judgement.OldRequests)
		b.f.set(func() { told = false })
		time.Sleep(time.Minute)
		require.False(t, b.Status().BlindSince.IsZero())
		require.Contains(t, b.Why(), "the traffic of v1 has no Places, which Options.ByPlace promises")
		held := b.Status().State.Held
		time.Sleep(time.Minute)
		require.Equal(t, held, b.Status().State.Held)
		b.f.set(func() { told = true })
		b.wait(rollout.Succeeded)
		b.stop()
	})
}

// Traffic at a place that is not the version's would not count, and the bad version
// that it is of would be promoted: the watch is blind then, and says why.
func TestMisplacedTraffic(t *testing.T) {
	at := func(location string) rollout.PlaceTraffic {
		return rollout.PlaceTraffic{Place: rollout.Place{Listener: "api", Location: location}, Traffic: rollout.Traffic{Requests: 10}}
	}
	for why, places := range map[string][]rollout.PlaceTraffic{
		"v1 has traffic at api in mars, which is not among the listeners and locations of its plan": {at("eu"), at("mars")},
		"v1 has traffic at api, which is not among the listeners":                                   {at("")},
		"the traffic of v1 at api in eu is told twice: add it up":                                   {at("eu"), at("us"), at("eu")},
	} {
		s := newPlaced(t, rollout.Analysis{}, rollout.SetWeight(10))
		s.run()
		stats := rollout.Action{Kind: rollout.ActStats, Revision: s.state.Weights.Revision}
		s.look(time.Second, rollout.Outcome{Action: stats, Traffic: map[string]rollout.Traffic{"v1": {Places: places}}})
		s.look(time.Second)
		held := s.state.Held
		s.look(time.Second)
		require.Equal(t, held, s.state.Held)
		require.Contains(t, s.state.Why(s.now), why)
		s.look(time.Second, rollout.Outcome{Action: stats, Traffic: map[string]rollout.Traffic{"v1": {Places: places[:1]}}})
		require.Equal(t, why == "v1 has traffic at api, which is not among the listeners", strings.Contains(s.state.Why(s.now), "traffic"))
	}
}

// A state whose plan compares by place may be taken on by a process that cannot.
func TestPlacesThatAreNotToldAnyMore(t *testing.T) {
	s := newPlaced(t, rollout.Analysis{}, rollout.SetWeight(10).In("eu"))
	s.run()
	stats := rollout.Action{Kind: rollout.ActStats, Revision: s.state.Weights.Revision}
	s.look(time.Second, rollout.Outcome{Action: stats, Traffic: map[string]rollout.Traffic{"v1": {Requests: 10}, "v2": {Requests: 10}}})
	require.Contains(t, s.state.Why(s.now), "the traffic of v2 has no Places, which Plan.Watch needs, as the weights differ by place")
}

// Evidence from one place that a version is good does not let it pass at another.
func TestNoPassForAnotherPlace(t *testing.T) {
	for _, first := range []bool{true, false} {
		for seed := range uint64(10) {
			dice := rand.New(rand.NewPCG(seed, 3))
			steps := []rollout.Step{rollout.SetWeight(10).In("us"), rollout.Analyze(nil, 2*time.Minute)}
			if first {
				steps = append([]rollout.Step{rollout.SetWeight(10).In("eu"), rollout.Bake(5 * time.Minute), rollout.SetWeight(100).In("eu")}, steps...)
			}
			s := newPlaced(t, rollout.Analysis{}, steps...)
			s.run()
			for range 600 {
				s.serve(func(version, location string) float64 {
					if version == "v2" && location == "us" {
						return float64(dice.IntN(5)) / 100 // 2 %
					}
					return 0.001
				})
				for _, a := range s.wanted {
					if a.Kind == rollout.ActSetWeights || a.Kind == rollout.ActStop {
						s.look(0, rollout.Outcome{Action: a})
					}
				}
			}
			require.False(t, slices.ContainsFunc(s.state.Events, func(e rollout.Event) bool {
				return e.Kind == rollout.VerdictGiven && strings.HasPrefix(e.Reason, "pass")
			}))
			require.Equal(t, rollout.RolledBack, s.state.Phase)
			require.Contains(t, s.state.Reason, "worse by more than 0.5 %")
		}
	}
}

// Sessions that stick end sooner at some places than at others, so the new version's
// share of the requests differs from place to place though its weight does not. A
// place where more fails, whoever serves it, then makes it look worse, or better, in
// the sum.
func TestSharesThatDifferByPlace(t *testing.T) {
	alarms, passes := 0, 0
	for seed := range uint64(20) {
		dice := rand.New(rand.NewPCG(seed, 7))
		s := newPlaced(t, rollout.Analysis{}, rollout.SetWeight(10))
		s.run()
		fails := map[string]float64{"asia": 0.02, "eu": 0.05, "us": 0.001}
		for i := range 600 {
			shares := map[string]float64{"asia": 0.1, "eu": 0.1, "us": 0.1 * float64(i) / float64(i+1800)}
			for _, split := range s.state.Weights.Splits {
				for range 100 {
					v := "v1"
					if dice.Float64() < shares[split.Location] {
						v = "v2"
					}
					t := rollout.Traffic{Requests: 1}
					if dice.Float64() < fails[split.Location] {
						t.Failures = 1
					}
					s.served[v] = s.served[v].Add(rollout.Traffic{Places: []rollout.PlaceTraffic{{Place: split.Place, Traffic: t}}})
				}
			}
			s.look(time.Second, rollout.Outcome{Action: rollout.Action{Kind: rollout.ActStats, Revision: s.state.Weights.Revision}, Traffic: maps.Clone(s.served)})
			if s.state.Phase == rollout.RollingBack {
				alarms++
				break
			}
			if s.state.Judgement != nil && s.state.Judgement.Verdict == rollout.Pass {
				passes++
			}
		}
		require.Contains(t, s.state.Judgement.Reason, "they cannot be added up")
	}
	assert.Zero(t, alarms)
	assert.Zero(t, passes)
}

// Beyond 16 places the rest counts as one.
func TestManyPlaces(t *testing.T) {
	var old, new rollout.Traffic
	for i := range 100 {
		at := rollout.Place{Listener: "api", Location: string(rune('A' + i))}
		old.Places = append(old.Places, rollout.PlaceTraffic{Place: at, Traffic: rollout.Traffic{Requests: 900, Failures: 9}})
		new.Places = append(new.Places, rollout.PlaceTraffic{Place: at, Traffic: rollout.Traffic{Requests: 100, Failures: 3}})
	}
	j := rollout.Analysis{}.Judge(old, new)
	require.Equal(t, rollout.Fail, j.Verdict, j.Reason)
	require.Equal(t, []uint64{90_000, 10_000}, []uint64{j.OldRequests, j.NewRequests})
	require.Contains(t, j.Reason, "3 % of the new version's requests failed, 1 % of the old one's")
	// The sum alone would say that it is worse, but not the places: each has failed
	// equally, and the new version has more of the bad ones.
	for i := range old.Places {
		bad, many := i%2 == 0, uint64(100)
		if bad {
			many = 300
		}
		fail := func(n uint64) rollout.Traffic {
			if bad {
				return rollout.Traffic{Requests: n, Failures: n / 10}
			}
			return rollout.Traffic{Requests: n}
		}
		if i >= 15 { // those that are one have the same share
			many, bad = 100, false
		}
		old.Places[i].Traffic, new.Places[i].Traffic = fail(900), fail(many)
	}
	require.NotEqual(t, rollout.Fail, rollout.Analysis{}.Judge(old, new).Verdict)
}
