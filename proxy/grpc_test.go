package proxy_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/weaverkit/weaverkit/proxy"
)

func TestGRPCTimeout(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"1H": time.Hour, "2M": 2 * time.Minute, "3S": 3 * time.Second, "4m": 4 * time.Millisecond, "5u": 5 * time.Microsecond, "6n": 6,
		"00000001S": time.Second, "99999999S": 99999999 * time.Second, "99999999H": math.MaxInt64,
		"": 0, "S": 0, "1": 0, "1s": 0, "-1S": 0, "+1S": 0, "1.5S": 0, "100000000S": 0, "0x1S": 0, "1 S": 0,
	} {
		assert.Equal(t, want, proxy.GRPCTimeout(s), "%q", s)
	}
}
