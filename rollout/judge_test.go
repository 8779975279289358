package rollout_test

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/rollout"
)

func traffic(requests, failures uint64) rollout.Traffic {
	return rollout.Traffic{Requests: requests, Failures: failures}
}

// timed is n requests of which slow took 900 ms and the others 20 to 30 ms.
func timed(n, slow int) rollout.Traffic {
	t := rollout.Traffic{Requests: uint64(n)}
	for i := range n {
		d := 20*time.Millisecond + time.Duration(i%100)*100*time.Microsecond
		if i < slow {
			d = 900 * time.Millisecond
		}
		t.Latency.Observe(d)
	}
	return t
}

func TestJudge(t *testing.T) {
	restarted := traffic(4000, 4)
	restarted.Restarts = 4
	for _, c := range []struct {
		name     string
		analysis rollout.Analysis
		old, new rollout.Traffic
		want     rollout.Verdict
		reason   string
	}{
		{"no traffic", rollout.Analysis{}, traffic(0, 0), traffic(0, 0), rollout.Inconclusive, "nothing to compare"},
		{"nothing of the new version", rollout.Analysis{}, traffic(1e6, 1000), traffic(0, 0), rollout.Inconclusive, "of the new one 0"},
		{"nothing of the old version", rollout.Analysis{}, traffic(0, 0), traffic(1e6, 1000), rollout.Inconclusive, "of the old version 0"},
		{"little traffic", rollout.Analysis{}, traffic(900, 1), traffic(99, 0), rollout.Inconclusive, "had 99 requests of late, of the 100"},
		{"good, but not for long", rollout.Analysis{}, traffic(9000, 9), traffic(1000, 1), rollout.Inconclusive, "may still be worse"},
		{"as good", rollout.Analysis{}, traffic(90_000, 90), traffic(10_000, 10), rollout.Pass, "0.1 % of the new version's requests failed, 0.1 % of the old one's"},
		{"perfect", rollout.Analysis{}, traffic(20_000, 0), traffic(2000, 0), rollout.Pass, "at most"},
		{"better", rollout.Analysis{}, traffic(9000, 450), traffic(1000, 1), rollout.Pass, "at most 0 % worse"},
		{"both bad", rollout.Analysis{}, traffic(9000, 450), traffic(1000, 50), rollout.Inconclusive, "may still be worse"},
		{"both bad, for long", rollout.Analysis{}, traffic(9e5, 45000), traffic(1e5, 5000), rollout.Pass, "at most"},
		{"both entirely broken", rollout.Analysis{}, traffic(9000, 9000), traffic(1000, 1000), rollout.Pass, "100 %"},
		{"an outage of both", rollout.Analysis{}, traffic(9000, 4500), traffic(1000, 500), rollout.Inconclusive, "may still be worse"},
		{"one failure", rollout.Analysis{}, traffic(900, 0), traffic(100, 1), rollout.Inconclusive, "may still be worse"},
		{"bad", rollout.Analysis{}, traffic(9000, 9), traffic(1000, 50), rollout.Fail, "worse by more than 0.5 %"},
		{"very bad, at once", rollout.Analysis{}, traffic(36, 0), traffic(4, 4), rollout.Fail, "100 % of the new version's"},
		{"worse, but forgiven", rollout.Analysis{}, traffic(9e6, 9000), traffic(1e6, 2000), rollout.Pass, "0.5 % are forgiven"},
		{"worse, and by how much is open", rollout.Analysis{}, traffic(36_000, 36), traffic(4000, 30), rollout.Inconclusive, "0.75 % of the new version's requests failed, 0.1 % of the old one's: may still be worse by"},
		{"the same, and less is tolerated", rollout.Analysis{Tolerance: 0.001}, traffic(36_000, 36), traffic(4000, 30), rollout.Fail, "worse by more than 0.1 %"},
		{"more is tolerated", rollout.Analysis{Tolerance: 0.1}, traffic(9000, 9), traffic(1000, 50), rollout.Pass, "10 % are forgiven"},
		{"more requests are wanted", rollout.Analysis{MinRequests: 20_000}, traffic(90_000, 90), traffic(10_000, 10), rollout.Inconclusive, "of the 20000"},
		{"failures come in bursts", rollout.Analysis{Burst: 20}, traffic(900, 0), traffic(100, 10), rollout.Inconclusive, "may still be worse"},

		{"restarts", rollout.Analysis{}, traffic(9000, 9), restarted, rollout.Fail, "restarted 4 times, at most 3"},
		{"restarts forgiven", rollout.Analysis{MaxRestarts: 4}, traffic(40_000, 40), restarted, rollout.Pass, "forgiven"},
		{"no restart forgiven", rollout.Analysis{MaxRestarts: -1}, traffic(0, 0), rollout.Traffic{Restarts: 1}, rollout.Fail, "at most 0"},

		{"enough succeeded", rollout.Analysis{LimitsOnly: true, MinSuccess: 0.99}, traffic(0, 0), traffic(1000, 9), rollout.Pass, "99.1 % of the new version's requests succeeded, the least is 99 %"},
		{"too few succeeded", rollout.Analysis{LimitsOnly: true, MinSuccess: 0.99}, traffic(0, 0), traffic(1000, 30), rollout.Fail, "97 %"},
		{"too few succeeded by chance", rollout.Analysis{LimitsOnly: true, MinSuccess: 0.99}, traffic(0, 0), traffic(1000, 11), rollout.Inconclusive, "may be chance"},
		{"as bad as the old one, but too bad", rollout.Analysis{MinSuccess: 0.99}, traffic(9000, 450), traffic(1000, 50), rollout.Fail, "the least is 99 %"},

		{"fast enough", rollout.Analysis{LimitsOnly: true, MaxP99: 100 * time.Millisecond}, timed(0, 0), timed(1000, 9), rollout.Pass, "the most is 100ms"},
		{"too slow", rollout.Analysis{LimitsOnly: true, MaxP99: 100 * time.Millisecond}, timed(0, 0), timed(1000, 40), rollout.Fail, "the most is 100ms"},
		{"too slow by chance", rollout.Analysis{LimitsOnly: true, MaxP99: 100 * time.Millisecond}, timed(0, 0), timed(1000, 12), rollout.Inconclusive, "may be chance"},
		{"not timed", rollout.Analysis{LimitsOnly: true, MaxP99: 100 * time.Millisecond}, timed(0, 0), traffic(1000, 0), rollout.Inconclusive, "none of the new version's requests was timed"},

		{"as fast", rollout.Analysis{SlowTolerance: 0.02}, timed(20_000, 150), timed(5000, 40), rollout.Pass, "were slow"},
		{"slower", rollout.Analysis{SlowTolerance: 0.02}, timed(20_000, 150), timed(5000, 400), rollout.Fail, "8 % of the new version's requests were slow"},
		{"the old version's p99 is not known yet", rollout.Analysis{SlowTolerance: 0.02}, timed(900, 5), timed(900, 400), rollout.Inconclusive, "nothing to compare"},
		{"slower, which nobody asked for", rollout.Analysis{}, timed(20_000, 150), timed(5000, 400), rollout.Pass, "failed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.NoError(t, c.analysis.Validate())
			j := c.analysis.Judge(c.old, c.new)
			assert.Equal(t, c.want, j.Verdict, j.Reason)
			assert.Contains(t, j.Reason, c.reason)
			assert.Equal(t, c.want.String()+": "+j.Reason, j.String())
		})
	}
}

func TestJudgementHasItsFigures(t *testing.T) {
	old, new := timed(40_000, 0), timed(10_000, 800)
	old.Failures, new.Failures, new.Restarts = 40, 24, 2
	j := rollout.Analysis{}.Judge(old, new)
	assert.EqualValues(t, 40_000, j.OldRequests)
	assert.EqualValues(t, 10_000, j.NewRequests)
	assert.InDelta(t, 0.001, j.OldFailing, 1e-12)
	assert.InDelta(t, 0.0024, j.NewFailing, 1e-12)
	assert.InDelta(t, 0.0014, j.Excess, 1e-12)
	assert.Greater(t, j.AtMost, j.Excess)
	assert.Less(t, j.AtMost, 0.005)
	assert.Less(t, j.Evidence, 1.)
	assert.InDelta(t, 100, j.Needed, 1e-9)
	some := rollout.Analysis{Tolerance: 0.0001}.Judge(old, new).Evidence
	assert.Greater(t, some, 1.)
	assert.Less(t, some, j.Needed)
	assert.Less(t, j.OldP99, 33*time.Millisecond)
	assert.Greater(t, j.P99, 890*time.Millisecond)
	assert.EqualValues(t, 2, j.Restarts)

	// Each further test takes its part of the chance of a false alarm.
	j = rollout.Analysis{SlowTolerance: 0.02, MinSuccess: 0.9, MaxP99: time.Minute}.Judge(old, new)
	assert.InDelta(t, 400, j.Needed, 1e-9)

	data, err := json.Marshal(j)
	require.NoError(t, err)
	var back rollout.Judgement
	require.NoError(t, json.Unmarshal(data, &back))
	assert.Equal(t, j, back)
}

// A window must end when the weights change: the same traffic, told as one window,
// looks as if the new version were to blame for an outage of both.
func TestAnOutageAfterAChangeOfWeights(t *testing.T) {
	calm := rollout.Window{Old: traffic(90_000, 90), New: traffic(10_000, 10)}
	outage := rollout.Window{Old: traffic(25_000, 2500), New: traffic(75_000, 7500)}
	var a rollout.Analysis
	j := a.Judge(outage.Old, outage.New, calm)
	assert.NotEqual(t, rollout.Fail, j.Verdict, j.Reason)
	assert.Less(t, j.Evidence, 1.)

	j = a.Judge(calm.Old.Add(outage.Old), calm.New.Add(outage.New))
	assert.Equal(t, rollout.Fail, j.Verdict, "this is what the documentation warns of")
}

func TestEarlierWindows(t *testing.T) {
	var a rollout.Analysis
	// Neither window suffices; both together do.
	w := rollout.Window{Old: traffic(900, 1), New: traffic(100, 3)}
	v := rollout.Window{Old: traffic(750, 1), New: traffic(250, 7)}
	alone, before := a.Judge(v.Old, v.New), a.Judge(w.Old, w.New)
	assert.Equal(t, rollout.Inconclusive, before.Verdict)
	assert.Equal(t, rollout.Inconclusive, alone.Verdict, alone.Reason)
	both := a.Judge(v.Old, v.New, w, w, w)
	assert.Equal(t, rollout.Fail, both.Verdict, both.Reason)
	assert.EqualValues(t, 250, both.NewRequests, "with another split: not added up")
	assert.Contains(t, both.Reason, "(in the last 4 windows)", "they decided")

	// To pass, the windows with the same split are added up; but not another's.
	good := rollout.Window{Old: traffic(9000, 9), New: traffic(1000, 1)}
	assert.Equal(t, rollout.Inconclusive, a.Judge(good.Old, good.New).Verdict)
	j := a.Judge(good.Old, good.New, good, good)
	assert.Equal(t, rollout.Pass, j.Verdict, j.Reason)
	assert.EqualValues(t, 3000, j.NewRequests)
	other := rollout.Window{Old: traffic(300, 0), New: traffic(100, 0)}
	j = a.Judge(other.Old, other.New, good, good, good)
	assert.Equal(t, rollout.Inconclusive, j.Verdict, "what passed with one split has to pass again with the next")
	assert.EqualValues(t, 100, j.NewRequests)
	j = a.Judge(traffic(0, 0), traffic(0, 0), good, good, good)
	assert.Equal(t, rollout.Inconclusive, j.Verdict, "a window that has just begun says nothing yet")

	// A version that turns bad late is found by the last window alone, which one
	// window over all of the time would hide.
	long := rollout.Window{Old: traffic(900_000, 900), New: traffic(100_000, 100)}
	late := rollout.Window{Old: traffic(9000, 9), New: traffic(1000, 50)}
	j = a.Judge(late.Old, late.New, long)
	assert.Equal(t, rollout.Fail, j.Verdict, j.Reason)
	assert.Contains(t, j.Reason, "5 % of the new version's requests failed, 0.1 % of the old one's: worse by more than 0.5 %")
	j = a.Judge(long.Old.Add(late.Old), long.New.Add(late.New))
	assert.NotEqual(t, rollout.Fail, j.Verdict)

	restarted := rollout.Window{New: rollout.Traffic{Restarts: 2}}
	j = a.Judge(traffic(0, 0), rollout.Traffic{Restarts: 2}, restarted)
	assert.Equal(t, rollout.Fail, j.Verdict)
	assert.EqualValues(t, 4, j.Restarts)
}

// Windows that are left out take their share of the evidence, and of the limits'
// chance of a false alarm, with them.
func TestWindowsThatAreLeftOut(t *testing.T) {
	a := rollout.Analysis{MinSuccess: 0.99}
	quiet := rollout.Window{Old: traffic(900, 0), New: traffic(100, 0)}
	bad := rollout.Window{Old: traffic(750, 1), New: traffic(250, 7)}
	var windows []rollout.Window
	for i := range 10 {
		quiet.Index = i
		windows = append(windows, quiet)
	}
	evidence := a.Judge(bad.Old, bad.New, windows...).Evidence
	for len(windows) > 1 {
		windows = windows[1:]
		j := a.Judge(bad.Old, bad.New, windows...)
		require.LessOrEqual(t, j.Evidence, evidence)
		evidence = j.Evidence
	}
	windows[0].Index = 0
	require.Greater(t, a.Judge(bad.Old, bad.New, windows...).Evidence, evidence)

	// The same failures, shown to be above the limit in the second window, are not
	// in the thousandth, of which so many could have been chance.
	limit := rollout.Analysis{LimitsOnly: true, MinSuccess: 0.99}
	new := traffic(250, 14)
	first := rollout.Window{New: traffic(100, 0)}
	require.Equal(t, rollout.Fail, limit.Judge(rollout.Traffic{}, new, first).Verdict)
	first.Index = 10_000
	require.NotEqual(t, rollout.Fail, limit.Judge(rollout.Traffic{}, new, first).Verdict)
}

func TestJudgeTouchesNothing(t *testing.T) {
	old, new := timed(2000, 3), timed(2000, 500)
	earlier := make([]rollout.Window, 1, 4)
	earlier[0] = rollout.Window{Old: old, New: new}
	spare := earlier[:2][1]
	a := rollout.Analysis{SlowTolerance: 0.02, MaxP99: time.Second}
	first := a.Judge(old, new, earlier...)
	assert.Equal(t, timed(2000, 3), old)
	assert.Equal(t, timed(2000, 500), new)
	assert.Equal(t, spare, earlier[:2][1])
	assert.Equal(t, first, a.Judge(old, new, earlier...))
}

// A limit counts over windows, and names the figures that decided.
func TestLimitsAddUpWindows(t *testing.T) {
	slow := rollout.Window{New: timed(100, 4)}
	slow.New.Failures = 7
	last := timed(100, 4)
	last.Failures = 3
	for figures, a := range map[string]rollout.Analysis{
		"94.3 % of the new version's requests succeeded, the least is 99 % (in the last 3 windows)": {LimitsOnly: true, MinSuccess: 0.99},
		"the new version's p99 is 9": {LimitsOnly: true, MaxP99: 100 * time.Millisecond},
	} {
		j := a.Judge(rollout.Traffic{}, last)
		assert.Equal(t, rollout.Inconclusive, j.Verdict, j.Reason)
		j = a.Judge(rollout.Traffic{}, last, slow, slow, slow, slow, slow, slow, slow)
		assert.Equal(t, rollout.Fail, j.Verdict, j.Reason)
		assert.Contains(t, j.Reason, figures)
	}
	// What was good before does not speak for what is bad now.
	good := rollout.Window{New: traffic(1e6, 0)}
	bad := rollout.Window{New: traffic(500, 25)}
	a := rollout.Analysis{LimitsOnly: true, MinSuccess: 0.99}
	j := a.Judge(rollout.Traffic{}, bad.New, good, bad)
	assert.Equal(t, rollout.Fail, j.Verdict, j.Reason)
	assert.Contains(t, j.Reason, "95 % of the new version's requests succeeded")
}

// TestAVersionWithinTheToleranceIsSeldomFailed looks every ten seconds at versions
// that are worse than the old one by some part of the tolerance, or by all of it,
// over the weights of a rollout.
func TestAVersionWithinTheToleranceIsSeldomFailed(t *testing.T) {
	for _, c := range []struct {
		perSecond                uint64
		oldRate, newRate, within float64
	}{
		{100, 0.001, 0.002, 0.005},
		{100, 0.001, 0.004, 0.005},
		{100, 0.001, 0.006, 0.005},
		{1000, 0.001, 0.006, 0.005},
		{1000, 0.01, 0.015, 0.005},
		{100, 0.001, 0.021, 0.02},
		{1000, 0.0001, 0.0002, 0.0001},
	} {
		t.Run(fmt.Sprintf("%v of %v more, at %d per second", c.newRate-c.oldRate, c.within, c.perSecond), func(t *testing.T) {
			t.Parallel()
			runs := 400
			if testing.Short() {
				runs = 100
			}
			failed := 0
			for seed := range runs {
				rng := rand.New(rand.NewPCG(uint64(seed), 12))
				a := rollout.Analysis{Tolerance: c.within}
				var windows []rollout.Window
			weights:
				for i, share := range ladder {
					w := rollout.Window{Index: i}
					for range 30 {
						all := 10 * c.perSecond
						news := binomial(rng, all, share)
						w.New = w.New.Add(traffic(news, binomial(rng, news, c.newRate)))
						w.Old = w.Old.Add(traffic(all-news, binomial(rng, all-news, c.oldRate)))
						if a.Judge(w.Old, w.New, windows...).Verdict == rollout.Fail {
							failed++
							break weights
						}
					}
					windows = append(windows, w)
				}
			}
			t.Logf("%d of %d", failed, runs)
			assert.LessOrEqual(t, failed, runs/100)
		})
	}
}

// TestLatencyIsSeldomAFalseAlarm looks after every hundred requests at a version
// that is as fast as the old one.
func TestLatencyIsSeldomAFalseAlarm(t *testing.T) {
	a := rollout.Analysis{SlowTolerance: 0.0001, Tolerance: 0.5}
	runs := 1000
	if testing.Short() {
		runs = 200
	}
	alarms := 0
	for seed := range runs {
		rng := rand.New(rand.NewPCG(uint64(seed), 9))
		var old, new rollout.Traffic
		for range 50 {
			for range 100 {
				version := &old
				if rng.Float64() < 0.2 {
					version = &new
				}
				version.Requests++
				version.Latency.Observe(time.Duration(math.Exp(rng.NormFloat64()) * 1e7))
			}
			if a.Judge(old, new).Verdict == rollout.Fail {
				alarms++
				break
			}
		}
	}
	t.Logf("%d of %d", alarms, runs)
	assert.LessOrEqual(t, alarms, runs/100)
}

// TestAVersionBeyondTheToleranceSeldomPasses looks often at a version that exceeds
// it by nothing: the hardest case.
func TestAVersionBeyondTheToleranceSeldomPasses(t *testing.T) {
	for _, rate := range []float64{0.001, 0.05} {
		const runs = 200
		passes := 0
		for seed := range uint64(runs) {
			rng := rand.New(rand.NewPCG(seed, 8))
			var old, new rollout.Traffic
			for range 60 {
				old = old.Add(traffic(3000, binomial(rng, 3000, rate)))
				new = new.Add(traffic(1000, binomial(rng, 1000, rate+0.005)))
				v := rollout.Analysis{}.Judge(old, new).Verdict
				if v == rollout.Pass {
					passes++
				}
				if v != rollout.Inconclusive {
					break
				}
			}
		}
		t.Logf("rate %v: %d of %d", rate, passes, runs)
		assert.LessOrEqual(t, passes, runs*5/100)
	}
}

func TestValidate(t *testing.T) {
	assert.NoError(t, rollout.Analysis{}.Validate())
	for field, a := range map[string]rollout.Analysis{
		"Tolerance":      {Tolerance: -0.1},
		"SlowTolerance":  {SlowTolerance: 1},
		"FalseAlarm":     {FalseAlarm: 0.6},
		"FalseAlarm ":    {FalseAlarm: 1e-309},
		"FalsePass ":     {FalsePass: 1e-10},
		"FalsePass":      {FalsePass: math.NaN()},
		"Burst":          {Burst: 0.5},
		"MinSuccess":     {MinSuccess: 99},
		"MaxP99":         {MaxP99: -1},
		"LimitsOnly":     {LimitsOnly: true},
		"OnFail":         {OnFail: 7},
		"OnInconclusive": {OnInconclusive: -1},
	} {
		assert.ErrorContains(t, a.Validate(), "field Analysis."+strings.TrimSpace(field)+" is ")
	}
	least := rollout.Analysis{FalseAlarm: 1e-9, FalsePass: 1e-9}
	require.NoError(t, least.Validate())
	_, err := json.Marshal(least.Judge(traffic(10, 0), traffic(10, 0)))
	require.NoError(t, err)
	err = rollout.Analysis{Tolerance: 2, Burst: math.Inf(1), LimitsOnly: true, MinSuccess: 0.9, SlowTolerance: 0.1}.Validate()
	for _, field := range []string{"Tolerance", "Burst", "SlowTolerance"} {
		assert.ErrorContains(t, err, "field Analysis."+field)
	}
}

func TestRules(t *testing.T) {
	var a rollout.Analysis
	assert.Equal(t, rollout.ThenContinue, a.Rule(rollout.Pass))
	assert.Equal(t, rollout.ThenRollBack, a.Rule(rollout.Fail))
	assert.Equal(t, rollout.ThenPause, a.Rule(rollout.Inconclusive))
	a = rollout.Analysis{OnFail: rollout.ThenPause, OnInconclusive: rollout.ThenContinue}
	assert.Equal(t, rollout.ThenPause, a.Rule(rollout.Fail))
	assert.Equal(t, rollout.ThenContinue, a.Rule(rollout.Inconclusive))

	data, err := json.Marshal(a)
	require.NoError(t, err)
	assert.JSONEq(t, `{"onFail":"pause","onInconclusive":"continue"}`, string(data))
	var back rollout.Analysis
	require.NoError(t, json.Unmarshal(data, &back))
	assert.Equal(t, a, back)

	assert.Equal(t, "Verdict(9)", rollout.Verdict(9).String())
	assert.Equal(t, "roll back", rollout.ThenRollBack.String())
	_, err = rollout.Rule(-1).MarshalText()
	assert.ErrorContains(t, err, "no rule has the number -1")
	var v rollout.Verdict
	assert.NoError(t, v.UnmarshalText([]byte("pass")))
	assert.Equal(t, rollout.Pass, v)
	assert.ErrorContains(t, v.UnmarshalText([]byte("passed")), `no verdict is called "passed": use one of inconclusive, pass, fail`)
}

func FuzzJudge(f *testing.F) {
	f.Add(uint64(9000), uint64(9), uint64(1000), uint64(50), uint64(900), uint64(1), uint64(100), uint64(2), 1.)
	f.Add(uint64(math.MaxUint64), uint64(math.MaxUint64), uint64(math.MaxUint64), uint64(math.MaxUint64), uint64(math.MaxUint64), uint64(1), uint64(100), uint64(2), 3.)
	f.Add(uint64(1), uint64(5), uint64(1), uint64(5), uint64(0), uint64(1), uint64(0), uint64(2), 1.)
	f.Fuzz(func(t *testing.T, a, b, c, d, e, f, g, h uint64, burst float64) {
		analysis := rollout.Analysis{Burst: burst, MinSuccess: 0.9}
		if analysis.Validate() != nil {
			return
		}
		j := analysis.Judge(traffic(a, b), traffic(c, d), rollout.Window{Old: traffic(e, f), New: traffic(g, h)})
		require.NotEmpty(t, j.Reason)
		_, err := json.Marshal(j)
		require.NoError(t, err, "all figures are numbers")
		// The bound is that of both windows or of the last alone.
		least := j.Excess
		if a > 0 && c > 0 {
			last := float64(min(d, c))/float64(c) - float64(min(b, a))/float64(a)
			least = min(least, last)
		}
		require.GreaterOrEqual(t, j.AtMost, least-1e-9)
		if j.Verdict == rollout.Pass {
			require.LessOrEqual(t, j.AtMost, 0.005)
			require.GreaterOrEqual(t, c, uint64(100))
		}
	})
}

func BenchmarkJudge(b *testing.B) {
	a := rollout.Analysis{SlowTolerance: 0.02, MinSuccess: 0.99, MaxP99: time.Second}
	earlier := make([]rollout.Window, 10)
	for i := range earlier {
		earlier[i] = rollout.Window{Old: timed(90_000, 90), New: timed(10_000, 10)}
	}
	old, new := timed(90_000, 90), timed(10_000, 10)
	b.ReportAllocs()
	for b.Loop() {
		a.Judge(old, new, earlier...)
	}
}

func ExampleAnalysis_Judge() {
	a := rollout.Analysis{MaxP99: 500 * time.Millisecond}
	if err := a.Validate(); err != nil {
		fmt.Println(err)
		return
	}
	old := rollout.Traffic{Requests: 9000, Failures: 9}
	canary := rollout.Traffic{Requests: 1000, Failures: 20}
	for range 1000 {
		canary.Latency.Observe(20 * time.Millisecond)
	}
	j := a.Judge(old, canary)
	fmt.Println(j)
	fmt.Println(a.Rule(j.Verdict))
	// Output:
	// fail: 2 % of the new version's requests failed, 0.1 % of the old one's: worse by more than 0.5 %, evidence 1.1e+03 of 200
	// roll back
}
