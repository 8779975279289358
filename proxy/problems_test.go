package proxy_test

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// TestErrorLogLevels: many notices do not keep warnings from being heard.
func TestErrorLogLevels(t *testing.T) {
	var lines notes
	r := newRig(t, proxy.Options{HoldTimeout: -1, ErrorLog: slog.New(slog.NewTextHandler(&lines, nil))}, newBreaker(t).addr)
	c := fastWay.client(t)
	for range 8 { // each is one of either
		_, err := fetch(c, "POST", r.url("/"), "")
		require.NoError(t, err)
	}
	// That is less than either may be, but more than both might together.
	require.Equal(t, 8, strings.Count(lines.String(), "level=INFO"))
	require.Equal(t, 8, strings.Count(lines.String(), "level=WARN"))
	require.Zero(t, r.Status().LogDrops)
}
