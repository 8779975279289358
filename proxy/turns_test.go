package proxy_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/weaverkit/weaverkit/proxy"
)

// A processor is offered to others by who would use up its slice, and not by who
// rests anyway: 8,000 requests/s and thread are between the two.
func TestBusy(t *testing.T) {
	for _, test := range []struct {
		requests, threads int // requests a second
		want              bool
	}{
		{1_000, 1, false},
		{7_000, 1, false},
		{9_000, 1, true},
		{15_000, 2, false},
		{17_000, 2, true},
		{200_000, 32, false},
		{300_000, 32, true},
	} {
		took := 32 * time.Second / time.Duration(test.requests)
		assert.Equal(t, test.want, proxy.Busy(took, test.threads), "%d requests/s by %d threads", test.requests, test.threads)
	}
}
