package rollout_test

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/rollout"
)

func histogramOf(durations ...time.Duration) rollout.Histogram {
	var h rollout.Histogram
	for _, d := range durations {
		h.Observe(d)
	}
	return h
}

// someDurations is skewed like latencies, from below a microsecond to hours.
func someDurations(seed uint64, n int) []time.Duration {
	rng := rand.New(rand.NewPCG(seed, 0))
	all := make([]time.Duration, n)
	for i := range all {
		all[i] = time.Duration(math.Exp(rng.NormFloat64()*4+12) + rng.Float64()*1000)
	}
	return all
}

func TestQuantilesAreAtMostASixteenthTooHigh(t *testing.T) {
	for seed := range uint64(50) {
		durations := someDurations(seed, 1+int(seed)*37)
		h := histogramOf(durations...)
		slices.Sort(durations)
		for _, q := range []float64{-1, 0, 0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 1, 2} {
			rank := min(max(int(math.Ceil(q*float64(len(durations)))), 1), len(durations))
			want, got := durations[rank-1], h.Quantile(q)
			require.GreaterOrEqual(t, got, want, "seed %d, q %v", seed, q)
			require.LessOrEqual(t, got, want+want/16+time.Microsecond, "seed %d, q %v", seed, q)
		}
		require.EqualValues(t, len(durations), h.Count())
	}
}

func TestAboveCountsWhatIsSurelyLonger(t *testing.T) {
	durations := someDurations(7, 3000)
	h := histogramOf(durations...)
	for _, d := range durations[:200] {
		longer, surely := uint64(0), uint64(0)
		for _, e := range durations {
			if e > d {
				longer++
			}
			if e > d+d/16+time.Microsecond {
				surely++
			}
		}
		require.LessOrEqual(t, h.Above(d), longer)
		require.GreaterOrEqual(t, h.Above(d), surely)
	}
	assert.Zero(t, h.Above(h.Quantile(1)))
	assert.LessOrEqual(t, h.Above(h.Quantile(0.99)), h.Count()/100)
}

func TestExtremesHaveABucket(t *testing.T) {
	h := histogramOf(-time.Hour, 0, math.MaxInt64, math.MinInt64)
	assert.EqualValues(t, 4, h.Count())
	assert.Less(t, h.Quantile(0.75), time.Microsecond)
	assert.InDelta(t, 19.09, h.Quantile(1).Hours(), 0.01)

	var empty rollout.Histogram
	assert.Zero(t, empty.Count())
	assert.Zero(t, empty.Quantile(0.99))
	assert.Zero(t, empty.Above(0))
}

func TestMergeAndSinceUndoEachOther(t *testing.T) {
	a, b := histogramOf(someDurations(1, 500)...), histogramOf(someDurations(2, 300)...)
	sum := a.Merge(b)
	assert.EqualValues(t, 800, sum.Count())
	assert.True(t, sum.Equal(b.Merge(a)))
	assert.True(t, sum.Equal(histogramOf(append(someDurations(1, 500), someDurations(2, 300)...)...)))
	back, ok := sum.Since(b)
	assert.True(t, ok)
	assert.True(t, back.Equal(a))
	none, ok := a.Since(a)
	assert.True(t, ok)
	assert.True(t, none.Equal(rollout.Histogram{}))

	again, ok := b.Since(sum)
	assert.False(t, ok, "a counter fell")
	assert.True(t, again.Equal(b), "so all of it is new")
}

func TestResultsShareNothing(t *testing.T) {
	a := histogramOf(time.Millisecond, time.Second)
	merged, clone := a.Merge(rollout.Histogram{}), a.Clone()
	since, _ := a.Since(rollout.Histogram{})
	a.Observe(time.Millisecond)
	for _, h := range []rollout.Histogram{merged, clone, since} {
		assert.EqualValues(t, 2, h.Count())
	}
}

func TestHistogramAsJSON(t *testing.T) {
	for _, h := range []rollout.Histogram{{}, histogramOf(0), histogramOf(someDurations(3, 1000)...), histogramOf(math.MaxInt64)} {
		data, err := json.Marshal(h)
		require.NoError(t, err)
		var back rollout.Histogram
		require.NoError(t, json.Unmarshal(data, &back))
		require.True(t, back.Equal(h))
	}
	data, err := json.Marshal(histogramOf(2*time.Microsecond, 2*time.Microsecond, 5*time.Microsecond))
	require.NoError(t, err)
	assert.Equal(t, `[2,2,2,1]`, string(data))

	// A usual one: a log-normal around 10 ms.
	rng := rand.New(rand.NewPCG(1, 1))
	var usual rollout.Histogram
	for range 100_000 {
		usual.Observe(time.Duration(math.Exp(rng.NormFloat64()*0.7) * 1e7))
	}
	data, err = json.Marshal(usual)
	require.NoError(t, err)
	assert.Less(t, len(data), 1000)

	for bad, why := range map[string]string{
		`{}`:                       "want an array",
		`[1]`:                      "want a count after each gap",
		`[-1,2]`:                   "want an array",
		`[600,1]`:                  "beyond the last",
		`[500,1,100,1]`:            "beyond the last",
		`[1,0]`:                    "count of 0",
		`[0.5,1]`:                  "want an array",
		`[18446744073709551615,1]`: "beyond the last",
	} {
		kept := histogramOf(time.Second)
		err := json.Unmarshal([]byte(bad), &kept)
		assert.ErrorContains(t, err, why, bad)
		assert.EqualValues(t, 1, kept.Count(), "left as it was")
	}
}

func FuzzHistogramJSON(f *testing.F) {
	f.Add([]byte(`[2,2,2,1]`))
	f.Add([]byte(`[0,18446744073709551615,0,1]`))
	f.Add([]byte(`[527,1]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var h rollout.Histogram
		if json.Unmarshal(data, &h) != nil {
			return
		}
		written, err := json.Marshal(h)
		require.NoError(t, err)
		var back rollout.Histogram
		require.NoError(t, json.Unmarshal(written, &back))
		require.True(t, back.Equal(h))
		require.LessOrEqual(t, h.Quantile(0.5), h.Quantile(0.99))
		require.LessOrEqual(t, h.Above(time.Second), h.Count())
		doubled := h.Merge(h)
		if doubled.Count() < math.MaxUint64 {
			half, ok := doubled.Since(h)
			require.True(t, ok)
			require.True(t, half.Equal(h))
		}
	})
}

func TestTrafficSince(t *testing.T) {
	at := func(requests, failures, restarts uint64, latencies ...time.Duration) rollout.Traffic {
		return rollout.Traffic{Requests: requests, Failures: failures, Restarts: restarts, Latency: histogramOf(latencies...)}
	}
	for _, c := range []struct {
		name                 string
		now, earlier, expect rollout.Traffic
	}{
		{"nothing before", at(5, 1, 2, time.Second), at(0, 0, 0), at(5, 1, 2, time.Second)},
		{"some before", at(9, 3, 2, 1, time.Second), at(5, 1, 1, 1), at(4, 2, 1, time.Second)},
		{"no change", at(9, 3, 2, 1), at(9, 3, 2, 1), at(0, 0, 0)},
		{"requests began anew", at(3, 0, 2, time.Second), at(9, 3, 1, 1, 1), at(3, 0, 1, time.Second)},
		{"more requests, fewer failures", at(12, 1, 0), at(9, 3, 0), at(12, 1, 0)},
		{"latency began anew", at(12, 4, 0, time.Second), at(9, 3, 0, 1), at(12, 4, 0, time.Second)},
		{"restarts began anew", at(9, 3, 1, 1), at(9, 3, 5, 1), at(0, 0, 1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.Equal(t, c.expect, c.now.Since(c.earlier))
		})
	}
	api, web := rollout.Place{Listener: "api"}, rollout.Place{Listener: "web", Location: "eu"}
	spread := func(places ...rollout.PlaceTraffic) rollout.Traffic { return rollout.Traffic{Places: places} }
	before := spread(rollout.PlaceTraffic{api, at(5, 1, 0, 1)})
	now := spread(rollout.PlaceTraffic{web, at(2, 2, 0)}, rollout.PlaceTraffic{api, at(9, 1, 0, 1, time.Second)})
	assert.Equal(t, spread(rollout.PlaceTraffic{web, at(2, 2, 0)}, rollout.PlaceTraffic{api, at(4, 0, 0, time.Second)}), now.Since(before))
	assert.Equal(t, spread(rollout.PlaceTraffic{api, at(14, 2, 0, 1, 1, time.Second)}, rollout.PlaceTraffic{web, at(2, 2, 0)}), before.Add(now))
	assert.Equal(t, spread(rollout.PlaceTraffic{api, at(5, 1, 0, 1)}), before, "it is left alone")

	a, b := at(5, 1, 2, time.Second), at(4, 2, 1, 1)
	assert.Equal(t, b, a.Add(b).Since(a))
	assert.Equal(t, 0.8, a.SuccessRate())
	assert.Equal(t, 1., rollout.Traffic{}.SuccessRate())

	data, err := json.Marshal(a)
	require.NoError(t, err)
	var back rollout.Traffic
	require.NoError(t, json.Unmarshal(data, &back))
	assert.Equal(t, a, back)
}
