package proxy_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// TestBuckets: bounds rise, a latency is below the bound of its bucket and not
// below that of the one before, and a bucket is at most a quarter wide.
func TestBuckets(t *testing.T) {
	var h proxy.Histogram
	require.Len(t, h.Counts, proxy.BucketCount)
	last := proxy.BucketCount - 1
	for i := range last {
		require.Greater(t, h.Bound(i+1), h.Bound(i))
		for _, d := range []time.Duration{h.Bound(i) - 1, h.Bound(i)} {
			want := i
			if d == h.Bound(i) {
				want++
			}
			require.Equal(t, want, proxy.BucketOf(d), "%v", d)
		}
		if i >= 4 {
			require.LessOrEqual(t, float64(h.Bound(i+1)), 1.25*float64(h.Bound(i)))
		}
	}
	assert.Equal(t, 0, proxy.BucketOf(0))
	assert.Equal(t, 0, proxy.BucketOf(-time.Second))
	assert.Equal(t, last, proxy.BucketOf(math.MaxInt64))
	assert.Equal(t, last, proxy.BucketOf(h.Bound(last)))
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		d := time.Duration(rnd.Int64N(1 << rnd.IntN(38)))
		b := proxy.BucketOf(d)
		require.Less(t, d, h.Bound(b))
		if b > 0 {
			require.GreaterOrEqual(t, d, h.Bound(b-1))
		}
	}
}

// TestQuantile compares with the sorted latencies.
func TestQuantile(t *testing.T) {
	assert.Zero(t, new(proxy.Histogram).Quantile(0.5))
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		var h proxy.Histogram
		all := make([]time.Duration, 1+rnd.IntN(200))
		for i := range all {
			all[i] = time.Duration(rnd.Int64N(1 << (15 + rnd.IntN(20))))
			h.Counts[proxy.BucketOf(all[i])]++
		}
		slices.Sort(all)
		require.EqualValues(t, len(all), h.Count())
		for _, q := range []float64{0, 0.1, 0.25, 0.5, 0.9, 0.99, 1} {
			exact := all[max(int(math.Ceil(q*float64(len(all))))-1, 0)]
			got := h.Quantile(q)
			// So a share q does not exceed it, and it is at most a bucket too high.
			require.Greater(t, got, exact, "quantile %v of %d", q, len(all))
			require.Equal(t, h.Bound(proxy.BucketOf(exact)), got, "quantile %v of %d", q, len(all))
		}
	}
}
