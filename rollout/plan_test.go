package rollout_test

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/rollout"
)

// named fills in what the constructors leave to the caller.
func named(p rollout.Plan) rollout.Plan {
	p.Version, p.Listeners = "v2", []string{"api", "web"}
	return p
}

func TestConstructorsAreValid(t *testing.T) {
	gate := rollout.Gate("person", time.Hour)
	for name, p := range map[string]rollout.Plan{
		"canary":       rollout.Canary(rollout.SetWeight(5), rollout.Bake(time.Minute), gate, rollout.SetWeight(50).At("api"), rollout.Pause()),
		"blue-green":   rollout.BlueGreen("http://localhost:9", time.Minute, time.Hour),
		"blue-green 0": rollout.BlueGreen("", 0, 0),
		"linear":       rollout.Linear(20, time.Minute),
		"linear 33":    rollout.Linear(33.33, time.Minute),
		"linear 0.3":   rollout.Linear(0.3, 0),
		"all at once":  rollout.AllAtOnce(),
		"waves":        rollout.Waves(time.Hour, 0.5, "a", "b", "c", "d", "e", "f"),
		"5m":           rollout.FromDuration(5 * time.Minute),
		"1ns":          rollout.FromDuration(1, "a", "b"),
		"0":            rollout.FromDuration(0, "a"),
	} {
		t.Run(name, func(t *testing.T) {
			p = named(p)
			require.NoError(t, p.Validate("v1"))
			assert.ErrorContains(t, p.Validate("v1", "v2"), `plan of version "v2": a version of that name runs already`)

			data, err := json.Marshal(p)
			require.NoError(t, err)
			var back rollout.Plan
			require.NoError(t, json.Unmarshal(data, &back))
			assert.Equal(t, p, back)
		})
	}
}

func TestPlanValidate(t *testing.T) {
	steps := func(s ...rollout.Step) rollout.Plan { return named(rollout.Plan{Steps: s}) }
	start, wait, promote, stop := rollout.StartVersion(), rollout.WaitReady(), rollout.Promote(), rollout.StopOld(0)
	for name, test := range map[string]struct {
		plan rollout.Plan
		want string
	}{
		"no version":             {rollout.AllAtOnce(), "it names no version: set Plan.Version"},
		"no steps":               {steps(), "it has no steps: use a constructor"},
		"never promotes":         {steps(start, wait, rollout.SetWeight(100), stop), "no step promotes it: put a Promote before the StopOld at the end"},
		"promotes twice":         {steps(start, wait, promote, promote, stop), "step 4 (promote): only Bake, Pause and StopOld may follow Promote"},
		"stop old missing":       {steps(start, wait, promote), "step 3 (promote): StopOld must be the last step"},
		"stop old early":         {steps(start, wait, stop, promote, stop), "step 3 (stop old): StopOld must be the last step, and no other"},
		"start missing":          {steps(wait, promote, stop), "step 1 (wait ready): StartVersion must be the first step"},
		"start twice":            {steps(start, start, wait, promote, stop), "step 2 (start): StartVersion must be the first step, and no other"},
		"wait ready missing":     {steps(start, rollout.SetWeight(5), promote, stop), "step 2 (set weight 5 %): WaitReady must come before it"},
		"over 100":               {named(rollout.Canary(rollout.SetWeight(100.01))), "step 3 (set weight 100.01 %): weights are from 0 to 100 %"},
		"negative":               {named(rollout.Canary(rollout.SetWeight(-1))), "step 3 (set weight -1 %): weights are from 0 to 100 %"},
		"not a number":           {named(rollout.Canary(rollout.SetWeight(math.NaN()))), "weights are from 0 to 100 %"},
		"huge":                   {named(rollout.Canary(rollout.SetWeight(1e300))), "weights are from 0 to 100 %"},
		"falls":                  {named(rollout.Canary(rollout.SetWeight(50), rollout.SetWeight(20).At("web"))), "step 4 (set weight 20 % at web): the weight falls from 50 % at web"},
		"unknown listener":       {named(rollout.Canary(rollout.SetWeight(50).At("admin"))), `step 3 (set weight 50 % at admin): the version has no listener "admin"; Plan.Listeners has ["api" "web"]`},
		"unknown location":       {named(rollout.Canary(rollout.SetWeight(50).In("mars"))), `step 3 (set weight 50 % in mars): the plan has no location "mars"; Plan.Locations has []`},
		"bake without time":      {named(rollout.Canary(rollout.Bake(0))), "step 3 (bake 0s): it has no duration"},
		"negative bake":          {named(rollout.Canary(rollout.Bake(-1))), "step 3 (bake -1ns): its time is negative"},
		"analysis missing":       {named(rollout.Canary(rollout.SetWeight(1), rollout.Analyze(nil, time.Second))), "step 4 (analyze): it has no analysis, and Plan.Watch is nil"},
		"analysis bad":           {named(rollout.Canary(rollout.SetWeight(1), rollout.Analyze(&rollout.Analysis{MinSuccess: 7}, time.Second))), "step 4 (analyze): field Analysis.MinSuccess is 7"},
		"analysis without limit": {named(rollout.Canary(rollout.SetWeight(1), rollout.Analyze(&rollout.Analysis{}, 0))), "step 4 (analyze): it has no time limit"},
		"analysis too early":     {named(rollout.Canary(rollout.Analyze(&rollout.Analysis{}, time.Second))), "step 3 (analyze): the version has no traffic yet"},
		"gate without name":      {named(rollout.Canary(rollout.Gate("", time.Second))), "step 3 (gate ): it names no gate"},
		"unknown rule":           {named(rollout.Canary(rollout.Step{Kind: rollout.KindGate, Gate: "g", For: 1, OnFail: 9})), "step 3 (gate g): it has rule 9, which is unknown"},
		"weight after promote":   {steps(start, wait, promote, rollout.SetWeight(100), stop), "step 4 (set weight 100 %): only Bake, Pause and StopOld may follow Promote"},
		"unknown kind":           {named(rollout.Canary(rollout.Step{Kind: "jump"})), "step 3 (jump): the kind is unknown"},
		"linear 0":               {named(rollout.Linear(0, time.Second)), "weights are from 0 to 100 %"},
		"wait share":             {named(rollout.Waves(time.Hour, 0.9, "a")), "its time is negative"},
		"listener twice":         {rollout.Plan{Version: "v", Listeners: []string{"a", "a"}, Steps: rollout.AllAtOnce().Steps}, `Plan.Listeners names "a" twice`},
		"location empty":         {rollout.Plan{Version: "v", Locations: []string{""}, Steps: rollout.AllAtOnce().Steps}, "Plan.Locations[0] is empty"},
		"watch of two weights":   {watched(named(rollout.Canary(rollout.SetWeight(10).At("api"), rollout.SetWeight(20).At("web"), rollout.Pause()))), "step 5 (pause): Plan.Watch compares the versions, but the new one has 10 % of the traffic at api and 20 % at web, and places differ: where both versions have traffic give the new one the same weight, or use limits alone (LimitsOnly)"},
		"analysis of two":        {named(rollout.Canary(rollout.SetWeight(10).At("api"), rollout.SetWeight(20).At("web"), rollout.Analyze(&rollout.Analysis{}, time.Hour))), "step 5 (analyze): its analysis compares the versions, but the new one has 10 % of the traffic at api and 20 % at web"},
		"analysis of nothing":    {named(rollout.Canary(rollout.SetWeight(100).At("api"), rollout.Analyze(&rollout.Analysis{}, time.Hour))), "step 4 (analyze): it compares the versions, but where the new one has traffic the old one has none: put it before the step that gives the new one 100 %"},
		"watch of all at once":   {watched(named(rollout.AllAtOnce())), "Plan.Watch compares the versions, but until step 3 (promote) gives the new one everything there is no time in which both have traffic: bake at a smaller weight first, or use limits alone (LimitsOnly)"},
		"watch of blue-green":    {watched(named(rollout.BlueGreen("", time.Minute, time.Hour))), "until step 5 (set weight 100 %) gives the new one everything there is no time"},
		"watch at 100 %":         {watched(named(rollout.Canary(rollout.SetWeight(50), rollout.SetWeight(100), rollout.Bake(time.Hour)))), "until step 4 (set weight 100 %)"},
		"analysis at 100 %":      {named(rollout.Canary(rollout.SetWeight(50), rollout.Bake(1), rollout.SetWeight(100), rollout.Analyze(&rollout.Analysis{}, time.Hour))), "step 6 (analyze): it compares the versions, but the old one has no traffic any more: put it before the step that gives the new one 100 %"},
		"watch as analysis":      {watched(named(rollout.Canary(rollout.SetWeight(50), rollout.Bake(1), rollout.SetWeight(100), rollout.Analyze(nil, time.Hour)))), "step 6 (analyze): it compares the versions"},
		"drops what it has":      {rollout.Plan{Version: "v", Listeners: []string{"a"}, Drops: []string{"a"}, Steps: rollout.AllAtOnce().Steps}, `Plan.Drops names "a", which the plan has`},
		"too many steps":         {named(rollout.Canary(make([]rollout.Step, 1000)...)), "it has 1004 steps: at most 1000 are possible"},
	} {
		t.Run(name, func(t *testing.T) {
			err := test.plan.Validate()
			require.ErrorContains(t, err, test.want)
			for _, line := range strings.Split(err.Error(), "\n") {
				assert.Contains(t, line, "plan of version")
			}
		})
	}
}

// A watch that compares needs some time in which both versions have traffic, and
// one with limits alone needs none.
func TestWatchesThatSeeEnough(t *testing.T) {
	limits := &rollout.Analysis{LimitsOnly: true, MinSuccess: 0.9}
	for name, p := range map[string]rollout.Plan{
		"a share before 100 %":      watched(named(rollout.Canary(rollout.SetWeight(10), rollout.Bake(1), rollout.SetWeight(100), rollout.Bake(time.Hour)))),
		"a pause at a share":        watched(named(rollout.Canary(rollout.SetWeight(10), rollout.Pause(), rollout.SetWeight(100)))),
		"linear":                    watched(named(rollout.Linear(50, time.Minute))),
		"waves without locations":   watched(named(rollout.FromDuration(time.Minute))),
		"limits analyzed at 100 %":  watched(named(rollout.Canary(rollout.SetWeight(10), rollout.Bake(1), rollout.SetWeight(100), rollout.Analyze(limits, time.Hour)))),
		"analysis before the watch": watched(named(rollout.Canary(rollout.SetWeight(10), rollout.Analyze(nil, time.Hour)))),
	} {
		assert.NoError(t, p.Validate(), name)
	}
	for name, p := range map[string]rollout.Plan{
		"blue-green": named(rollout.BlueGreen("", time.Minute, time.Hour)), "all at once": named(rollout.AllAtOnce()),
	} {
		p.Watch = limits
		assert.NoError(t, p.Validate(), name)
	}
}

// Waves: at most four, the first of one location; all of the time is used; each
// location gets 10, 25, 50, 75 and 100 %.
func TestWaves(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 12 {
		var locations []string
		for i := range n {
			locations = append(locations, string(rune('a'+i)))
		}
		total := time.Duration(1+rng.IntN(1000)) * 7777 * time.Microsecond
		p := rollout.Waves(total, 0.2, locations...)
		p.Version, p.Listeners = "v", []string{"api"}
		require.NoError(t, p.Validate())
		var baked time.Duration
		waves, got := 0, map[string][]int{}
		var wave []string
		for _, s := range p.Steps {
			switch s.Kind {
			case rollout.KindBake:
				baked += s.For
			case rollout.KindSetWeight:
				got[s.Location] = append(got[s.Location], s.Weight)
				if s.Weight == 1000 {
					if len(wave) == 0 || len(got[wave[0]]) > 1 {
						wave = nil
						waves++
					}
					wave = append(wave, s.Location)
					if waves == 1 {
						assert.Len(t, wave, 1, "the canary is alone")
					}
				}
			}
		}
		assert.Equal(t, total, baked)
		assert.Equal(t, max(1, min(4, n)), waves)
		assert.Len(t, got, max(1, n))
		for _, weights := range got {
			assert.Equal(t, []int{1000, 2500, 5000, 7500, 10000}, weights)
		}
	}
}

func TestCascade(t *testing.T) {
	place := func(l string) rollout.Place { return rollout.Place{Listener: l} }
	version := func(id string, listeners ...string) rollout.Version {
		return rollout.Version{ID: id, Listeners: listeners}
	}
	all := func(w int) map[rollout.Place]int {
		return map[rollout.Place]int{place("a"): w, place("b"): w, place("c"): w}
	}
	// The example of the documentation.
	var got []string
	for _, s := range rollout.Cascade([]rollout.Claim{
		{Version: version("v3", "b", "c"), Weights: all(4000)},
		{Version: version("v2", "a", "b", "c"), Weights: all(4000)},
		{Version: version("v1", "a", "c")},
	}) {
		got = append(got, s.String())
	}
	assert.Equal(t, []string{
		"v2 40 %, v1 60 % at a",
		"v3 40 %, v2 60 % at b",
		"v3 40 %, v2 40 %, v1 20 % at c",
	}, got)

	assert.Empty(t, rollout.Cascade(nil))
}

// Cascade against the rule read out loud: hand out the 10,000 parts of the
// traffic one at a time, each to the newest version that claims more.
func TestCascadeModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		var claims []rollout.Claim
		for i := range 1 + rng.IntN(5) {
			v := rollout.Version{ID: string(rune('9' - i))}
			weights := map[rollout.Place]int{}
			for _, l := range []string{"a", "b", "c"} {
				if rng.IntN(3) > 0 {
					v.Listeners = append(v.Listeners, l)
				}
				weights[rollout.Place{Listener: l}] = rng.IntN(14_000) - 2000
			}
			if rng.IntN(4) == 0 {
				v.Locations = []string{"eu"}
			}
			claims = append(claims, rollout.Claim{Version: v, Weights: weights})
		}
		seen := map[rollout.Place]bool{}
		for _, split := range rollout.Cascade(claims) {
			require.False(t, seen[split.Place])
			seen[split.Place] = true
			location := map[bool]int{true: 0, false: 1}[split.Location == ""]
			var here []rollout.Claim
			for _, c := range claims {
				if len(c.Version.Locations) == location && contains(c.Version.Listeners, split.Listener) {
					here = append(here, c)
				}
			}
			model := make([]int, len(here))
			for range rollout.Whole {
				i := 0
				for i < len(here)-1 && model[i] >= here[i].Weights[split.Place] {
					i++
				}
				model[i]++
			}
			require.Len(t, split.Shares, len(here))
			for i, share := range split.Shares {
				require.Equal(t, rollout.Share{Version: here[i].Version.ID, Weight: model[i]}, share)
			}
		}
		for _, c := range claims {
			for _, l := range c.Version.Listeners {
				p := rollout.Place{Listener: l}
				if len(c.Version.Locations) > 0 {
					p.Location = "eu"
				}
				require.True(t, seen[p])
			}
		}
	}
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

// watched returns the plan with a comparison all the time.
func watched(p rollout.Plan) rollout.Plan {
	p = named(p)
	p.Watch = &rollout.Analysis{}
	return p
}

// Weights that differ by place while no time passes, or where nothing is
// compared, are fine; others need traffic that is counted by place.
func TestComparisonsByPlace(t *testing.T) {
	api, web := rollout.SetWeight(10).At("api"), rollout.SetWeight(10).At("web")
	limits := named(rollout.FromDuration(time.Hour, "eu", "us"))
	limits.Watch = &rollout.Analysis{LimitsOnly: true, MinSuccess: 0.99}
	for name, p := range map[string]rollout.Plan{
		"one after the other": watched(rollout.Canary(api, web, rollout.Bake(time.Hour))),
		"limits":              limits,
	} {
		require.NoError(t, p.Validate(), name)
		require.False(t, rollout.Uneven(p), name)
	}
	for name, p := range map[string]rollout.Plan{
		"waves":      watched(rollout.FromDuration(time.Hour, "eu", "us", "asia")),
		"a listener": watched(rollout.Canary(api, rollout.Pause())),
		"analysis":   named(rollout.Canary(api, rollout.Analyze(&rollout.Analysis{}, time.Hour))),
		"the second": watched(rollout.Canary(rollout.SetWeight(100).At("api"), web, rollout.Pause())),
	} {
		require.NoError(t, p.Validate(), name)
		require.True(t, rollout.Uneven(p), name)
	}
}
