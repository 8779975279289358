package proxy_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// A request that waits for a version that is rolled back is answered by the
// other one, on either path; and so is one whose backend has just failed.
func TestWaitingRequestsFollowTheSplit(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f, err := proxy.Start(l, proxy.Options{HoldTimeout: 5 * time.Second, Override: proxy.ByHeader("Version")})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, f.Close(context.Background())) })
	p := f.Proxy()
	old := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "v1") }))
	t.Cleanup(old.Close)
	p.Pool("v1").SetBackends([]string{old.Listener.Addr().String()})
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, dead.Close())
	handler := httptest.NewServer(p)
	t.Cleanup(handler.Close)

	for path, url := range map[string]string{"the fast path": "http://" + f.Addr(), "as a handler": handler.URL} {
		for name, backends := range map[string][]string{"without backends": nil, "with a dead one": {dead.Addr().String()}} {
			t.Run(path+", "+name, func(t *testing.T) {
				p.Pool("v2").SetBackends(backends)
				require.NoError(t, p.SetSplit(proxy.Share{Pool: "v2", Weight: 10_000}, proxy.Share{Pool: "v1"}))
				answer := make(chan string, 1)
				go func() { answer <- answerTo(url, "") }()
				soon(t, func() bool { return p.Awaited() || len(answer) > 0 })
				require.Empty(t, answer, "it must wait")
				require.NoError(t, p.SetSplit(proxy.Share{Pool: "v2"}, proxy.Share{Pool: "v1", Weight: 10_000}))
				assert.Equal(t, "v1", <-answer)
			})
		}
	}

	// Who asks for a version by name waits for that one, and no other.
	fresh := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "v2") }))
	t.Cleanup(fresh.Close)
	p.Pool("v2").SetBackends(nil)
	answer := make(chan string, 1)
	go func() { answer <- answerTo("http://"+f.Addr(), "v2") }()
	soon(t, p.Awaited)
	require.NoError(t, p.SetSplit(proxy.Share{Pool: "v1", Weight: 10_000}, proxy.Share{Pool: "v2"}))
	p.Pool("v2").SetBackends([]string{fresh.Listener.Addr().String()})
	assert.Equal(t, "v2", <-answer)
}

// answerTo returns the answer to a request for a version, "" for any.
func answerTo(url, version string) string {
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		return err.Error()
	}
	req.Header.Set("Version", version)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return string(body)
}
