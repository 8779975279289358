package proxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// serveEnds requires that Serve returns without an error.
func (r *rig) serveEnds() {
	r.t.Helper()
	require.NoError(r.t, receive(r.t, r.served))
	r.served <- nil // for close
}

// serving requires that Serve does not return yet.
func (r *rig) serving() {
	r.t.Helper()
	select {
	case err := <-r.served:
		require.Fail(r.t, "Serve has returned", "%v", err)
	case <-time.After(20 * time.Millisecond):
	}
}

// refuses waits until nobody accepts connections any more.
func (r *rig) refuses() {
	r.t.Helper()
	soon(r.t, func() bool {
		c, err := net.Dial("tcp", r.addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
}

// TestShutdownFinishes: what is in flight is answered, whole, and then Serve
// returns.
func TestShutdownFinishes(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		g := newGate(t, "it")
		r := newRig(t, proxy.Options{}, g.addr)
		c := w.client(t)
		var results []<-chan result
		for _, size := range bodies {
			results = append(results, in(func() (answer, error) { return fetch(c, "POST", r.url("/"), strings.Repeat("x", size)) }))
			receive(t, g.arrived)
		}
		begun := in(func() (answer, error) { return fetch(c, "GET", r.url("/begun"), "") })
		receive(t, g.arrived)
		r.cancel()
		r.refuses()
		r.serving()
		g.letGo()
		for _, res := range results {
			a := receive(t, res)
			require.NoError(t, a.err)
			require.Equal(t, "it", a.body)
			if w != h2Way {
				require.NotContains(t, a.header, "Keep-Alive")
			}
		}
		require.Equal(t, "begin it", receive(t, begun).body)
		r.serveEnds()
	})
}

// TestShutdownIdle: idle connections are closed at once.
func TestShutdownIdle(t *testing.T) {
	r := newRig(t, proxy.Options{DrainTimeout: time.Hour, IdleTimeout: time.Hour}, newOrigin(t, "it", nil).addr)
	c, br := open(t, r.addr)
	say(t, c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	require.Equal(t, 200, hear(t, br).status)
	slow, slowBr := open(t, r.addr)
	toNetHTTP(t, slow, slowBr)
	h2 := h2Way.client(t)
	get(t, h2, r.url("/"))
	r.cancel()
	closes(t, br)
	closes(t, slowBr)
	r.serveEnds()
}

// TestShutdownManyIdle: also those that wait without a goroutine.
func TestShutdownManyIdle(t *testing.T) {
	const conns = 1500
	r := newRig(t, proxy.Options{DrainTimeout: time.Hour}, newOrigin(t, "it", nil).addr)
	var all []*bufio.Reader
	for range conns {
		c, br := open(t, r.addr)
		say(t, c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		require.Equal(t, 200, hear(t, br).status)
		all = append(all, br)
	}
	r.cancel()
	for _, br := range all {
		closes(t, br)
	}
	r.serveEnds()
}

// TestShutdownNew: a connection that was accepted, but has not said anything yet,
// is served; and if it says nothing it holds nobody up.
func TestShutdownNew(t *testing.T) {
	for _, head := range []string{"", "GE", "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n"} {
		t.Run(fmt.Sprintf("%q", head), func(t *testing.T) {
			r := newRig(t, proxy.Options{DrainTimeout: time.Hour}, newOrigin(t, "it", nil).addr)
			c, br := open(t, r.addr)
			silent, silentBr := open(t, r.addr)
			say(t, c, "%s", head)
			// A third one that is served shows that these have been accepted.
			get(t, fastWay.client(t), r.url("/"))
			r.cancel()
			r.refuses()
			say(t, c, "%s", strings.TrimPrefix("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n", head))
			require.Equal(t, 200, hear(t, br).status)
			closes(t, br)
			closes(t, silentBr)
			silent.Close()
			r.serveEnds()
		})
	}
}

// TestShutdownSent: a request that has been sent on a kept connection when
// serving is to end, and not been read, is served, with its body.
func TestShutdownSent(t *testing.T) {
	for _, test := range []struct {
		name      string
		encrypted bool
		fields    string // of what comes first
		size      int    // of the body
	}{
		{"plain", false, "", 0},
		{"plain, upload", false, "", 100_000},
		{"TLS", true, "", 0},
		{"TLS, upload", true, "", 100_000},
		{"net/http", false, "TE: trailers\r\n", 0},
		{"net/http, upload", false, "TE: trailers\r\n", 100_000},
		{"net/http, TLS", true, "TE: trailers\r\n", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			for range 12 {
				testShutdownSent(t, test.encrypted, test.fields, test.size)
			}
		})
	}
}

func testShutdownSent(t *testing.T, encrypted bool, fields string, size int) {
	opts := proxy.Options{}
	var roots *x509.CertPool
	if encrypted {
		opts.GetCertificate, roots = certificate(t)
	}
	r := newRig(t, opts, newOrigin(t, "it", nil).addr)
	var conns []net.Conn
	var all []*bufio.Reader
	for range 20 {
		sock, _ := open(t, r.addr)
		var c net.Conn = sock
		if encrypted {
			c = tls.Client(c, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"})
		}
		br := bufio.NewReader(c)
		say(t, c, "GET / HTTP/1.1\r\nHost: a\r\n%s\r\n", fields)
		require.Equal(t, 200, hear(t, br).status)
		conns, all = append(conns, c), append(all, br)
	}
	message := fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", size, strings.Repeat("x", size))
	begin := min(len(message), 200)
	for _, c := range conns {
		say(t, c, "%s", message[:begin])
	}
	r.cancel()
	var sending sync.WaitGroup
	defer sending.Wait()
	for _, c := range conns {
		sending.Go(func() { io.WriteString(c, message[begin:]) }) // the answer tells
	}
	for _, br := range all {
		require.Equal(t, 200, hear(t, br).status)
	}
	r.serveEnds()
	r.close()
}

// TestShutdownDeadline: when DrainTimeout has passed what is in flight is ended.
func TestShutdownDeadline(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		g := newGate(t, "it")
		r := newRig(t, proxy.Options{DrainTimeout: brief}, g.addr)
		c := w.client(t)
		waiting := in(func() (answer, error) { return fetch(c, "GET", r.url("/"), "") })
		receive(t, g.arrived)
		begun := in(func() (answer, error) { return fetch(c, "POST", r.url("/begun"), "x") })
		receive(t, g.arrived)
		conn, _ := open(t, r.addr)
		say(t, conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nx") // a half-sent one
		r.cancel()
		r.serveEnds()
		a := receive(t, waiting)
		require.True(t, a.err != nil || a.status >= 500)
		require.Error(t, receive(t, begun).err)
	})
}

// switchOrigin is a backend that switches protocols and then echoes.
func switchOrigin(t testing.TB) string {
	return newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		for {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			if r.Header.Get("Upgrade") == "" {
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				continue
			}
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			io.Copy(c, br)
			return
		}
	})
}

// upgrade switches a new connection to the protocol of switchOrigin.
func upgrade(t testing.TB, addr string) (*net.TCPConn, *bufio.Reader) {
	t.Helper()
	c, br := open(t, addr)
	say(t, c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	resp, err := http.ReadResponse(br, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	echoConn(t, c, br, "hello")
	return c, br
}

// echoConn requires that what is sent comes back.
func echoConn(t testing.TB, c net.Conn, br *bufio.Reader, s string) {
	t.Helper()
	say(t, c, "%s", s)
	b := make([]byte, len(s))
	_, err := io.ReadFull(br, b)
	require.NoError(t, err)
	require.Equal(t, s, string(b))
}

func TestShutdownUpgraded(t *testing.T) {
	r := newRig(t, proxy.Options{DrainTimeout: time.Second}, switchOrigin(t))
	c, br := upgrade(t, r.addr)
	r.cancel()
	r.refuses()
	r.serving()
	echoConn(t, c, br, "still there")
	closes(t, br) // when DrainTimeout has passed
	r.serveEnds()

	r = newRig(t, proxy.Options{DrainTimeout: time.Hour}, switchOrigin(t))
	c, br = upgrade(t, r.addr)
	r.cancel()
	echoConn(t, c, br, "still there")
	c.Close()
	r.serveEnds()
}

// TestUpgradedElsewhere: an upgraded connection notices nothing of changes of
// other backends; of its own it has DrainTimeout.
func TestUpgradedElsewhere(t *testing.T) {
	own, other := switchOrigin(t), switchOrigin(t)
	r := newRig(t, proxy.Options{DrainTimeout: time.Second}, own)
	c, br := upgrade(t, r.addr)
	require.Equal(t, 1, r.backend(own).InFlight)
	pool := r.Pool(proxy.DefaultPool)
	for range 20 {
		require.NoError(t, pool.Add(proxy.Backend{Addr: other}))
		echoConn(t, c, br, "one")
		require.NoError(t, pool.Drain(t.Context(), other))
		echoConn(t, c, br, "two")
		r.SetBackends([]string{own, other})
		r.SetBackends([]string{own})
		echoConn(t, c, br, "three")
	}
	r.SetBackends([]string{other})
	echoConn(t, c, br, "four")
	c2, br2 := upgrade(t, r.addr)
	closes(t, br)
	require.NoError(t, pool.Drained(t.Context(), own))
	echoConn(t, c2, br2, "five")
	c2.Close()
	c.Close()
}

// TestUpgradedHalfClose: each direction ends by itself.
func TestUpgradedHalfClose(t *testing.T) {
	r := newRig(t, proxy.Options{}, switchOrigin(t))
	c, br := upgrade(t, r.addr)
	big := strings.Repeat("0123456789", 100_000)
	go func() {
		io.WriteString(c, big)
		c.CloseWrite()
	}()
	b, err := io.ReadAll(br)
	require.NoError(t, err)
	require.Equal(t, len(big), len(b))
	soon(t, func() bool { return r.pool(proxy.DefaultPool).Backends[0].InFlight == 0 })
}

// TestSeveralListeners: each ends by its own context.
func TestSeveralListeners(t *testing.T) {
	o := newOrigin(t, "it", nil)
	r := newRig(t, proxy.Options{}, o.addr)
	l := newListener(t)
	ctx, cancel := context.WithCancel(context.Background())
	second := make(chan error, 1)
	go func() { second <- r.Serve(ctx, l) }()
	c := fastWay.client(t)
	get(t, c, r.url("/"))
	get(t, c, "http://"+l.Addr().String()+"/")
	cancel()
	require.NoError(t, receive(t, second))
	_, err := fetch(c, "GET", "http://"+l.Addr().String()+"/", "")
	require.Error(t, err)
	get(t, c, r.url("/"))
}

// TestServeFails: a listener that breaks ends Serve with an error, but not what
// is in flight.
func TestServeFails(t *testing.T) {
	leavesNothing(t)
	g := newGate(t, "it")
	p := newProxy(t, proxy.Options{})
	p.SetBackends([]string{g.addr})
	l := newListener(t)
	served := make(chan error, 1)
	go func() { served <- p.Serve(context.Background(), l) }()
	res := in(func() (answer, error) { return fetch(fastWay.client(t), "GET", "http://"+l.Addr().String()+"/", "") })
	receive(t, g.arrived)
	l.Close()
	g.letGo()
	require.Equal(t, "it", receive(t, res).body)
	require.ErrorContains(t, receive(t, served), "serve "+l.Addr().String())
	require.ErrorContains(t, p.ServeTLS(context.Background(), newListener(t)), "set Options.GetCertificate")
}

// TestShutdownLate: the last connection of the fast path turns out to be one of
// HTTP/2 once serving is to end, and asks for nothing. It does not hold that up.
func TestShutdownLate(t *testing.T) {
	r := newRig(t, proxy.Options{DrainTimeout: time.Hour, IdleTimeout: time.Hour}, newOrigin(t, "it", nil).addr)
	c, br := open(t, r.addr)
	get(t, fastWay.client(t), r.url("/")) // so the one before has been accepted
	r.cancel()
	r.refuses()
	say(t, c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	_, err := io.Copy(io.Discard, br) // settings, and that it is to go
	require.NoError(t, err)
	r.serveEnds()
}
