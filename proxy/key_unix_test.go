//go:build unix

package proxy_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// TestNoClientAddr: clients at a Unix socket have no address, so they are neither
// kept in one pool nor on one backend.
func TestNoClientAddr(t *testing.T) {
	opts := proxy.Options{Sticky: proxy.ByClientAddr(), Balance: proxy.Hash, HashBy: proxy.ByClientAddr()}
	backends := map[string]string{}
	for _, name := range []string{"a", "b"} {
		backends[name] = newOrigin(t, name, nil).addr
	}
	raw := map[string]string{}
	for _, name := range []string{"a", "b"} {
		raw[name] = newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) { io.WriteString(c, name) })
	}
	split := func(p *proxy.Proxy, backends map[string]string) {
		for name, addr := range backends {
			p.Pool(name).SetBackends([]string{addr})
		}
		require.NoError(t, p.SetSplit(proxy.Share{Pool: "a", Weight: 5000}, proxy.Share{Pool: "b", Weight: 5000}))
	}
	// start serves a Unix socket, and returns how to connect to it.
	start := func(t *testing.T, p *proxy.Proxy, serve func(context.Context, net.Listener) error) func(context.Context, string, string) (net.Conn, error) {
		path := t.TempDir() + "/socket"
		l, err := net.Listen("unix", path)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		served := make(chan error, 1)
		go func() { served <- serve(ctx, l) }()
		t.Cleanup(func() {
			cancel()
			p.Close()
			require.NoError(t, receive(t, served))
		})
		return func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) }
	}
	eachWay(t, func(t *testing.T, w way) {
		p, err := proxy.New(opts)
		require.NoError(t, err)
		split(p, backends)
		c := w.client(t)
		c.Transport.(onWay).tr.DialContext = start(t, p, p.Serve)
		got := map[string]int{}
		for range 10 {
			got[get(t, c, "http://x/")]++
		}
		require.Equal(t, map[string]int{"a": 5, "b": 5}, got)
	})
	t.Run("tcp", func(t *testing.T) {
		p, err := proxy.New(opts)
		require.NoError(t, err)
		split(p, raw)
		connect := start(t, p, p.ServeTCP)
		got := map[string]int{}
		for range 10 {
			c, err := connect(t.Context(), "", "")
			require.NoError(t, err)
			b, err := io.ReadAll(c)
			require.NoError(t, err)
			got[string(b)]++
			c.Close()
		}
		require.Equal(t, map[string]int{"a": 5, "b": 5}, got)
	})
}
