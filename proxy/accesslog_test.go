package proxy_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// entries returns what was logged, as JSON.
func (n *notes) entries(t testing.TB) (entries []map[string]any) {
	t.Helper()
	for line := range bytes.Lines([]byte(n.String())) {
		var e map[string]any
		require.NoError(t, json.Unmarshal(line, &e))
		entries = append(entries, e)
	}
	return entries
}

// logged waits for n entries.
func (n *notes) logged(t testing.TB, want int) []map[string]any {
	t.Helper()
	soon(t, func() bool { return len(n.entries(t)) >= want })
	require.Len(t, n.entries(t), want)
	return n.entries(t)
}

func TestAccessLog(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		log := &notes{}
		good := newOrigin(t, "answer", nil)
		r := newRig(t, proxy.Options{AccessLog: slog.New(slog.NewJSONHandler(log, nil)), HoldTimeout: -1}, good.addr)
		c := w.client(t)
		for i, size := range bodies {
			a, err := fetch(c, "PUT", r.url("/path?q=1"), strings.Repeat("x", size))
			require.NoError(t, err)
			require.Equal(t, 200, a.status)
			e := log.logged(t, i+1)[i]
			assert.Equal(t, "request", e["msg"])
			assert.Equal(t, "127.0.0.1", e["client"])
			assert.Equal(t, "PUT", e["method"])
			assert.Equal(t, r.addr, e["host"])
			assert.Equal(t, "/path?q=1", e["target"])
			assert.Equal(t, map[way]string{fastWay: "HTTP/1.1", slowWay: "HTTP/1.1", h2Way: "HTTP/2.0"}[w], e["proto"])
			assert.EqualValues(t, 200, e["status"])
			assert.EqualValues(t, len("answer"), e["bytes"])
			assert.Positive(t, e["took"])
			assert.Equal(t, proxy.DefaultPool, e["pool"])
			assert.Equal(t, good.addr, e["backend"])
			assert.EqualValues(t, 1, e["attempts"])
			assert.NotContains(t, e, "trace")
		}
		r.SetBackends(nil)
		_, err := fetch(c, "GET", r.url("/"), "")
		require.NoError(t, err)
		e := log.logged(t, len(bodies)+1)[len(bodies)]
		assert.EqualValues(t, http.StatusServiceUnavailable, e["status"])
		assert.Equal(t, "", e["backend"])
		assert.EqualValues(t, 0, e["attempts"])

		bad := newBreaker(t)
		r.SetBackends([]string{bad.addr})
		_, err = fetch(c, "POST", r.url("/"), "body")
		require.NoError(t, err)
		e = log.logged(t, len(bodies)+2)[len(bodies)+1]
		assert.EqualValues(t, http.StatusBadGateway, e["status"])
		assert.Equal(t, bad.addr, e["backend"])
		assert.EqualValues(t, 1, e["attempts"])
	})
}

// TestAccessLogShare: a share is about that many, and the whole is all.
func TestAccessLogShare(t *testing.T) {
	const requests = 400
	for _, share := range []float64{0, 0.25, 1} {
		log := &notes{}
		r := newRig(t, proxy.Options{AccessLog: slog.New(slog.NewJSONHandler(log, nil)), AccessLogShare: share}, newOrigin(t, "it", nil).addr)
		for i := range requests {
			get(t, ways[i%3].sharedClient(t, r), r.url("/"))
		}
		if share == 0.25 {
			assert.InDelta(t, requests/4, len(log.entries(t)), 60) // seven standard deviations
		} else {
			log.logged(t, requests) // zero means all
		}
		r.close()
	}
}

// TestErrorLogRate: ten messages a second, and the rest is counted.
func TestErrorLogRate(t *testing.T) {
	log := &notes{}
	r := newRig(t, proxy.Options{ErrorLog: slog.New(slog.NewJSONHandler(log, nil)), HoldTimeout: -1}, newBreaker(t).addr)
	c := fastWay.client(t)
	const requests = 200
	for range requests {
		_, err := fetch(c, "POST", r.url("/"), "body")
		require.NoError(t, err)
	}
	entries := log.entries(t)
	assert.EqualValues(t, 2*requests+1, r.Status().LogDrops+uint64(len(entries)), "one for the attempt, one for the request, and that the pool fails open")
	assert.GreaterOrEqual(t, len(entries), 10)
	assert.Equal(t, "INFO", entries[0]["level"])
	assert.Equal(t, "broken", entries[0]["kind"])
	assert.Equal(t, "WARN", entries[1]["level"])
	assert.Equal(t, "request failed", entries[1]["msg"])
}

// TestAccessLogRefused: what no backend is asked for is logged and counted, too.
func TestAccessLogRefused(t *testing.T) {
	log := &notes{}
	r := newRig(t, proxy.Options{AccessLog: slog.New(slog.NewJSONHandler(log, nil)), MaxBodyBytes: 10}, newOrigin(t, "it", nil).addr)
	for i, test := range []struct {
		request string
		status  int
	}{
		{"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", http.StatusMethodNotAllowed},
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world", http.StatusRequestEntityTooLarge},
		{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n", http.StatusRequestEntityTooLarge},
	} {
		c, br := open(t, r.addr)
		say(t, c, "%s", test.request)
		require.Equal(t, test.status, hear(t, br).status)
		e := log.logged(t, i+1)[i]
		assert.EqualValues(t, test.status, e["status"])
		assert.EqualValues(t, i+1, r.Status().Refused)
		c.Close()
	}
	for i, bad := range []func(*http.Request){
		func(r *http.Request) { r.Method = "GE(T" },
		func(r *http.Request) { r.Host = "a/b" },
	} {
		req := httptest.NewRequest("GET", "/", nil)
		bad(req)
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		require.Equal(t, http.StatusBadRequest, w.Code)
		assert.EqualValues(t, http.StatusBadRequest, log.logged(t, 4+i)[3+i]["status"])
		assert.EqualValues(t, 4+i, r.Status().Refused)
	}
	require.Zero(t, r.pool(proxy.DefaultPool).Requests-r.pool(proxy.DefaultPool).Errors[proxy.Canceled])
}
