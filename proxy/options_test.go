package proxy_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

func TestOptionErrors(t *testing.T) {
	for _, test := range []struct {
		field string
		opts  proxy.Options
		says  string
	}{
		{"Balance", proxy.Options{Balance: -1}, "must be PeakEWMA, RoundRobin or Hash"},
		{"Balance", proxy.Options{Balance: 3}, "is 3"},
		{"HashBy", proxy.Options{Balance: proxy.Hash}, "must be set if Options.Balance is Hash"},
		{"HashBy", proxy.Options{HashBy: proxy.ByHeader("a b")}, `"header`},
		{"HashBy", proxy.Options{HashBy: proxy.ByIssuedCookie("a")}, "only Options.Sticky issues cookies"},
		{"Sticky", proxy.Options{Sticky: proxy.ByCookie("")}, "has no name"},
		{"Sticky", proxy.Options{Sticky: proxy.ByIssuedCookie("a;b")}, "character"},
		{"Override", proxy.Options{Override: proxy.ByHeader("a:b")}, "character"},
		{"Override", proxy.Options{Override: proxy.ByIssuedCookie("a")}, "be of another kind"},
		{"Override", proxy.Options{Override: proxy.ByClientAddr()}, "be of another kind"},
		{"BackendProtocol", proxy.Options{BackendProtocol: -1}, "must be Auto, HTTP1 or H2C"},
		{"BackendProtocol", proxy.Options{BackendProtocol: 3}, "is 3"},
		{"DialTimeout", proxy.Options{DialTimeout: -1}, "not be negative"},
		{"HeaderTimeout", proxy.Options{HeaderTimeout: -time.Second}, "is -1s"},
		{"IdleTimeout", proxy.Options{IdleTimeout: -1}, "not be negative"},
		{"BackendIdleTimeout", proxy.Options{BackendIdleTimeout: -1}, "not be negative"},
		{"DrainTimeout", proxy.Options{DrainTimeout: -1}, "not be negative"},
		{"MaxHeaderBytes", proxy.Options{MaxHeaderBytes: 1023}, "at least 1024"},
		{"MaxHeaderBytes", proxy.Options{MaxHeaderBytes: 1<<20 + 1}, "at most 1048576"},
		{"MaxBodyBytes", proxy.Options{MaxBodyBytes: -1}, "not be negative"},
		{"MaxConns", proxy.Options{MaxConns: -1}, "at least 1"},
		{"MaxIdleConns", proxy.Options{MaxIdleConns: -1}, "at least 1"},
		{"MaxAttempts", proxy.Options{MaxAttempts: -1}, "at least 1"},
		{"RetryBudget", proxy.Options{RetryBudget: 1.5}, "at most 1"},
		{"RetryBudget", proxy.Options{RetryBudget: math.NaN()}, "at most 1"},
		{"AccessLogShare", proxy.Options{AccessLogShare: -0.1}, "between 0 and 1"},
		{"AccessLogShare", proxy.Options{AccessLogShare: math.NaN()}, "between 0 and 1"},
		{"TraceShare", proxy.Options{TraceShare: 1.1}, "between 0 and 1"},
	} {
		_, err := proxy.New(test.opts)
		assert.ErrorContains(t, err, "new proxy: field Options."+test.field, "%+v", test.opts)
		assert.ErrorContains(t, err, test.says)
		l := newListener(t)
		_, err = proxy.Start(l, test.opts)
		assert.ErrorContains(t, err, "field Options."+test.field)
		assert.NoError(t, l.Close(), "it is left as it is")
	}
	_, err := proxy.New(proxy.Options{MaxConns: -1, TraceShare: 2, Sticky: proxy.ByHeader("")})
	for _, field := range []string{"MaxConns", "TraceShare", "Sticky"} {
		assert.ErrorContains(t, err, "field Options."+field, "all are named")
	}
}

func TestOptionsGood(t *testing.T) {
	for _, opts := range []proxy.Options{
		{},
		{HoldTimeout: -1, ResponseTimeout: -1, RequestTimeout: -1, BodyTimeout: -1, MinBodyRate: -1, RetryBudget: -1},
		{Balance: proxy.Hash, HashBy: proxy.ByClientAddr(), Sticky: proxy.ByIssuedCookie("s"), Override: proxy.ByCookie("v"), BackendProtocol: proxy.H2C},
		{MaxHeaderBytes: 1 << 20, MaxBodyBytes: 1, MaxConns: 1, MaxIdleConns: 1, MaxAttempts: 1, RetryBudget: 1, AccessLogShare: 0.5, TraceShare: 1},
	} {
		p, err := proxy.New(opts)
		require.NoError(t, err)
		p.Close()
	}
}

func TestKeyString(t *testing.T) {
	for want, key := range map[string]proxy.Key{
		"none":            {},
		"header X-User":   proxy.ByHeader("x-user"),
		"cookie user":     proxy.ByCookie("user"),
		"issued cookie c": proxy.ByIssuedCookie("c"),
		"client address":  proxy.ByClientAddr(),
	} {
		assert.Equal(t, want, key.String())
	}
}
