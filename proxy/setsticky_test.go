package proxy_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// A session stays on a version while that is switched on, on either path.
func TestSetSticky(t *testing.T) {
	p, err := proxy.New(proxy.Options{Sticky: proxy.ByIssuedCookie("session")})
	require.NoError(t, err)
	t.Cleanup(p.Close)
	for _, version := range []string{"v1", "v2"} {
		backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, version) }))
		t.Cleanup(backend.Close)
		p.Pool(version).SetBackends([]string{backend.Listener.Addr().String()})
	}
	require.NoError(t, p.SetSplit(proxy.Share{Pool: "v2", Weight: 5000}, proxy.Share{Pool: "v1", Weight: 5000}))

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- p.Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		assert.NoError(t, <-served)
	})
	handler := httptest.NewServer(p)
	t.Cleanup(handler.Close)

	for name, url := range map[string]string{"the fast path": "http://" + l.Addr().String(), "as a handler": handler.URL} {
		t.Run(name, func(t *testing.T) {
			jar, err := cookiejar.New(nil)
			require.NoError(t, err)
			client := &http.Client{Jar: jar, Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			// seen returns which versions answered, and how many cookies came.
			seen := func() (versions map[string]int, cookies int) {
				versions = map[string]int{}
				for range 20 {
					resp, err := client.Get(url)
					require.NoError(t, err)
					body, err := io.ReadAll(resp.Body)
					require.NoError(t, err)
					resp.Body.Close()
					versions[string(body)]++
					cookies += len(resp.Cookies())
				}
				return versions, cookies
			}
			p.SetSticky(false)
			versions, cookies := seen()
			assert.Equal(t, map[string]int{"v1": 10, "v2": 10}, versions)
			assert.Zero(t, cookies)

			p.SetSticky(true)
			sticky, cookies := seen()
			assert.Len(t, sticky, 1)
			assert.Equal(t, 1, cookies)

			p.SetSticky(false)
			versions, _ = seen()
			assert.Equal(t, map[string]int{"v1": 10, "v2": 10}, versions)

			p.SetSticky(true)
			again, cookies := seen()
			assert.Equal(t, sticky, again, "the session is where it was")
			assert.Zero(t, cookies)
		})
	}
}
