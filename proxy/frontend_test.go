package proxy_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// exporter is what a deployer wants of a listener that it exports.
type exporter interface {
	Addr() string
	SetBackends([]string)
	Drained(ctx context.Context, address string) error
	Close(context.Context) error
}

var _ exporter = (*proxy.Frontend)(nil)

func newFrontend(t testing.TB, opts proxy.Options, backends ...string) *proxy.Frontend {
	t.Helper()
	leavesNothing(t)
	f, err := proxy.Start(newListener(t), opts)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		f.Close(ctx)
	})
	f.SetBackends(backends)
	return f
}

func TestFrontend(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		g := newGate(t, "it")
		f := newFrontend(t, proxy.Options{}, g.addr)
		c := w.client(t)
		res := in(func() (answer, error) { return fetch(c, "GET", "http://"+f.Addr(), "") })
		receive(t, g.arrived)
		assert.Equal(t, f.Pool, f.Proxy().Pool(proxy.DefaultPool))
		assert.Equal(t, 1, f.Pool.Status().Backends[0].InFlight)
		closed := make(chan error, 1)
		go func() { closed <- f.Close(context.Background()) }()
		soon(t, func() bool {
			c, err := net.Dial("tcp", f.Addr())
			if err == nil {
				c.Close()
			}
			return err != nil
		})
		g.letGo()
		require.Equal(t, "it", receive(t, res).body)
		require.NoError(t, receive(t, closed))
		require.NoError(t, f.Close(context.Background()), "again")
		receive(t, f.Done())
		require.NoError(t, f.Err())
	})
}

// TestFrontendCloseEnds: what remains when the context ends is ended, at once.
func TestFrontendCloseEnds(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		g := newGate(t, "it")
		f := newFrontend(t, proxy.Options{DrainTimeout: time.Hour, HoldTimeout: time.Hour}, g.addr)
		c := w.client(t)
		held := in(func() (answer, error) { return fetch(c, "GET", "http://"+f.Addr(), "") })
		receive(t, g.arrived)
		half, br := open(t, f.Addr())
		say(t, half, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\n")
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, f.Close(ctx), context.DeadlineExceeded)
		receive(t, held)
		toEnd(t, br)
	})
}

// TestFrontendBroken: Close tells why serving had ended before.
func TestFrontendBroken(t *testing.T) {
	l := newListener(t)
	f, err := proxy.Start(l, proxy.Options{})
	require.NoError(t, err)
	require.NoError(t, f.Err())
	l.Close()
	receive(t, f.Done())
	require.ErrorContains(t, f.Err(), "serve "+l.Addr().String())
	require.ErrorContains(t, f.Close(context.Background()), "serve "+l.Addr().String())
}

func TestFrontendTLS(t *testing.T) {
	f := newFrontend(t, proxy.Options{GetCertificate: getCertificate(t)}, newOrigin(t, "it", nil).addr)
	resp, err := tlsClient(t, true).Get("https://" + f.Addr())
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
}
