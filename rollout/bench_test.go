package rollout_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/rollout"
)

// baking returns the state of a rollout that bakes, under n listeners, with
// traffic that has been seen in several windows.
func baking(tb testing.TB, listeners int) (rollout.Config, rollout.State, time.Time) {
	var config rollout.Config
	now := time.Unix(1e9, 0)
	state := rollout.State{}.TakeOver("me", now)
	requests := uint64(0)
	step := func() {
		var actions []rollout.Action
		state, actions = config.Step(state, rollout.Observation{}, now)
		var obs rollout.Observation
		requests += 100
		for _, a := range actions {
			t := rollout.Traffic{Requests: requests, Failures: requests / 1000}
			for i := range 1000 {
				t.Latency.Observe(time.Duration(i*i) * time.Microsecond)
			}
			obs.Outcomes = append(obs.Outcomes, rollout.Outcome{Action: a, Readiness: rollout.Readiness{Ready: true},
				Traffic: map[string]rollout.Traffic{"v1": t, "v2": t}})
		}
		state, _ = config.Step(state, obs, now)
		now = now.Add(time.Second)
	}
	submit := func(version string) {
		p := rollout.Canary(rollout.SetWeight(1), rollout.Bake(5*time.Second), rollout.SetWeight(5), rollout.Bake(5*time.Second),
			rollout.SetWeight(10), rollout.Bake(5*time.Second), rollout.SetWeight(25), rollout.Bake(time.Hour))
		p.Version, p.Watch = version, &rollout.Analysis{}
		for i := range listeners {
			p.Listeners = append(p.Listeners, fmt.Sprintf("listener%d", i))
		}
		var err error
		state, err = config.Control(state, rollout.Command{Kind: rollout.CommandSubmit, Plan: &p}, now)
		require.NoError(tb, err)
	}
	submit("v1")
	for state.Phase != rollout.Succeeded {
		step()
	}
	submit("v2")
	for range 30 {
		step()
	}
	require.Equal(tb, "bake 1h0m0s", state.Plan.Steps[state.Step].String())
	require.Len(tb, state.Windows, 3)
	return config, state, now
}

// What does a look cost at which nothing has happened, and one at which traffic
// is judged?
func BenchmarkStep(b *testing.B) {
	for _, listeners := range []int{1, 10, 100} {
		for _, judged := range []bool{false, true} {
			b.Run(fmt.Sprintf("listeners=%d/judged=%v", listeners, judged), func(b *testing.B) {
				config, state, now := baking(b, listeners)
				var obs rollout.Observation
				if judged {
					t := rollout.Traffic{Requests: 1 << 20, Failures: 1 << 10}
					obs.Outcomes = []rollout.Outcome{{
						Action:  rollout.Action{Kind: rollout.ActStats, Revision: state.Weights.Revision},
						Traffic: map[string]rollout.Traffic{"v1": t, "v2": t},
					}}
				}
				b.ReportAllocs()
				for b.Loop() {
					config.Step(state, obs, now)
				}
			})
		}
	}
}

// The same, where traffic is told by place.
func BenchmarkStepByPlace(b *testing.B) {
	for _, listeners := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("listeners=%d", listeners), func(b *testing.B) {
			config, state, now := baking(b, listeners)
			stats := rollout.Action{Kind: rollout.ActStats, Revision: state.Weights.Revision}
			requests := uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				requests += 10
				now = now.Add(time.Second)
				var t rollout.Traffic
				for _, s := range state.Weights.Splits {
					t.Places = append(t.Places, rollout.PlaceTraffic{Place: s.Place, Traffic: rollout.Traffic{Requests: requests}})
				}
				obs := rollout.Observation{Outcomes: []rollout.Outcome{{Action: stats, Traffic: map[string]rollout.Traffic{"v1": t, "v2": t}}}}
				state, _ = config.Step(state, obs, now)
			}
			require.NotZero(b, state.Judgement.OldRequests)
		})
	}
}

// How large is what is stored, and what does it cost to make it?
func BenchmarkStateJSON(b *testing.B) {
	for _, listeners := range []int{1, 100} {
		b.Run(fmt.Sprintf("listeners=%d", listeners), func(b *testing.B) {
			_, state, _ := baking(b, listeners)
			b.ReportAllocs()
			var data []byte
			for b.Loop() {
				data, _ = json.Marshal(state)
			}
			b.ReportMetric(float64(len(data)), "B")
		})
	}
}

func BenchmarkCascade(b *testing.B) {
	_, state, _ := baking(b, 100)
	weights := map[rollout.Place]int{}
	for _, s := range state.Weights.Splits {
		weights[s.Place] = 1000
	}
	v1, v2 := *state.Stable, *state.Stable
	v2.ID = "v2"
	b.ReportAllocs()
	for b.Loop() {
		rollout.Cascade([]rollout.Claim{{Version: v2, Weights: weights}, {Version: v1}})
	}
}

// How often is the store written in a rollout of four weights that takes an
// hour, and the deployer called? The time is that of the simulation.
func BenchmarkRollout(b *testing.B) {
	var writes, calls, rollouts uint64
	for b.Loop() {
		// A bubble needs a *testing.T.
		testing.RunTests(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{{Name: "bubble", F: func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := running(t, rollout.Options{})
				before := r.Counters()
				r.submit("v2", rollout.Linear(25, 15*time.Minute))
				r.wait(rollout.Succeeded)
				for i, c := range r.Counters() {
					switch c.Name {
					case "rollout.runner.store.writes":
						writes += c.Value - before[i].Value
					case "rollout.runner.calls":
						calls += c.Value - before[i].Value
					}
				}
				rollouts++
				r.stop()
			})
		}}})
	}
	b.ReportMetric(float64(writes)/float64(rollouts), "writes")
	b.ReportMetric(float64(calls)/float64(rollouts), "calls")
}
