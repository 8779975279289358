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
	require.Equal(t, 8, strings.Count(lines.String(), `level=WARN msg="request failed"`))
	require.Zero(t, r.Status().LogDrops)
}

// TestFailOpenSaid: that a pool fails open is said when it begins, and when it
// ends, and not for every request.
func TestFailOpenSaid(t *testing.T) {
	o := newOrigin(t, "it", nil)
	r := newRig(t, proxy.Options{}, o.addr)
	c := fastWay.client(t)
	said := func(begun, ended int) {
		for range 5 {
			get(t, c, r.url("/"))
		}
		require.Equal(t, begun, strings.Count(r.notes.String(), "requests go there all the same"))
		require.Equal(t, ended, strings.Count(r.notes.String(), "not all backends are avoided any more"))
	}
	pool := r.Pool(proxy.DefaultPool)
	said(0, 0)
	pool.SetHealthy(o.addr, false)
	said(1, 0)
	pool.SetHealthy(o.addr, true)
	said(1, 1)
	pool.SetHealthy(o.addr, false)
	said(2, 1)
}
