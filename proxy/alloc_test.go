package proxy_test

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// TestNoAllocation: a small GET on a warm connection allocates nothing, neither
// the client and the backend of this test nor the proxy. The runtime and the
// reaper allocate a little from time to time, so many requests are counted.
func TestNoAllocation(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates, and empties pools")
	}
	r := newRig(t, proxy.Options{}, newPlainOrigin(t))
	c := newPlainClient(t, r.addr)
	for range 200 {
		require.NoError(t, c.ask())
	}
	const requests = 5000
	least := uint64(requests)
	for range 5 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range requests {
			if err := c.ask(); err != nil {
				require.NoError(t, err)
			}
		}
		runtime.ReadMemStats(&after)
		least = min(least, after.Mallocs-before.Mallocs)
	}
	require.Less(t, least, uint64(requests/20), "allocations of %d requests", requests)
}
