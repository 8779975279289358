package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// newStreamRig serves a listener with ServeTCP.
func newStreamRig(t testing.TB, opts proxy.Options, backends ...string) *rig {
	t.Helper()
	leavesNothing(t)
	return newStreamRigOn(t, newListener(t), opts, backends...)
}

// newStreamRigOn is newStreamRig for a listener.
func newStreamRigOn(t testing.TB, l net.Listener, opts proxy.Options, backends ...string) *rig {
	t.Helper()
	p, err := proxy.New(opts)
	require.NoError(t, err)
	p.SetBackends(backends)
	r := &rig{Proxy: p, t: t, addr: l.Addr().String(), listener: l, notes: &notes{}, served: make(chan error, 1)}
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(context.Background())
	go func() { r.served <- p.ServeTCP(ctx, l) }()
	t.Cleanup(r.close)
	return r
}

func newEcho(t testing.TB) string {
	return newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		io.Copy(c, br)
		c.CloseWrite()
	})
}

func TestTCP(t *testing.T) {
	addr := newEcho(t)
	r := newStreamRig(t, proxy.Options{}, addr)
	c, br := open(t, r.addr)
	echoConn(t, c, br, "hello")
	require.Equal(t, 1, r.backend(addr).InFlight)
	echoConn(t, c, br, "again\x00\xff")
	require.NoError(t, c.CloseWrite())
	closes(t, br)
	soon(t, func() bool { return r.backend(addr).InFlight == 0 })
	st := r.backend(addr)
	require.EqualValues(t, 1, st.Requests)
	require.Zero(t, st.Statuses, "it has none")
	require.EqualValues(t, 12, st.BytesIn)
	require.EqualValues(t, 12, st.BytesOut)
}

// TestTCPHalfClose: either side may end first, and go on listening.
func TestTCPHalfClose(t *testing.T) {
	asked := newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) { // answers when it has all
		b, _ := io.ReadAll(br)
		c.Write(bytes.ToUpper(b))
	})
	r := newStreamRig(t, proxy.Options{}, asked)
	c, br := open(t, r.addr)
	say(t, c, "question")
	require.NoError(t, c.CloseWrite())
	b, err := io.ReadAll(br)
	require.NoError(t, err)
	require.Equal(t, "QUESTION", string(b))

	got := make(chan string, 1)
	talker := newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) { // ends first
		io.WriteString(c, "greeting")
		c.CloseWrite()
		b, _ := io.ReadAll(br)
		got <- string(b)
	})
	r.SetBackends([]string{talker})
	c, br = open(t, r.addr)
	b, err = io.ReadAll(br)
	require.NoError(t, err)
	require.Equal(t, "greeting", string(b))
	say(t, c, "reply")
	require.NoError(t, c.CloseWrite())
	require.Equal(t, "reply", receive(t, got))
}

func TestTCPBig(t *testing.T) {
	r := newStreamRig(t, proxy.Options{}, newEcho(t))
	data := make([]byte, 16<<20)
	rnd := rand.NewChaCha8([32]byte{1})
	rnd.Read(data)
	c, br := open(t, r.addr)
	go func() {
		c.Write(data)
		c.CloseWrite()
	}()
	h := sha256.New()
	n, err := io.Copy(h, br)
	require.NoError(t, err)
	require.EqualValues(t, len(data), n)
	want := sha256.Sum256(data)
	require.Equal(t, want[:], h.Sum(nil))
}

// TestTCPDead: a backend that cannot be reached costs no connection.
func TestTCPDead(t *testing.T) {
	good := newEcho(t)
	r := newStreamRig(t, proxy.Options{Balance: proxy.RoundRobin}, deadAddr(t), good, deadAddr(t))
	for range 12 {
		c, br := open(t, r.addr)
		echoConn(t, c, br, "hello")
		c.Close()
	}
}

func TestTCPNoBackend(t *testing.T) {
	for _, backends := range [][]string{nil, {deadAddr(t)}} {
		r := newStreamRig(t, proxy.Options{HoldTimeout: brief}, backends...)
		_, br := open(t, r.addr)
		closes(t, br)
		soon(t, func() bool { return r.Status().NoBackend == 1 })
	}
	r := newStreamRig(t, proxy.Options{HoldTimeout: longest})
	c, br := open(t, r.addr)
	say(t, c, "hello")
	soon(t, r.Awaited)
	r.SetBackends([]string{newEcho(t)})
	b := make([]byte, 5)
	_, err := io.ReadFull(br, b)
	require.NoError(t, err)
	require.Equal(t, "hello", string(b))
}

// TestTCPBackendEnds: one that resets its connection ends that of the client.
func TestTCPBackendEnds(t *testing.T) {
	addr := newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		br.ReadByte()
		c.SetLinger(0)
	})
	r := newStreamRig(t, proxy.Options{}, addr)
	c, br := open(t, r.addr)
	say(t, c, "x")
	closes(t, br)
	soon(t, func() bool { return r.backend(addr).InFlight == 0 })
}

func TestTCPDrain(t *testing.T) {
	own, other := newEcho(t), newEcho(t)
	r := newStreamRig(t, proxy.Options{DrainTimeout: time.Second}, own)
	pool := r.Pool(proxy.DefaultPool)
	c, br := open(t, r.addr)
	echoConn(t, c, br, "one")
	r.SetBackends([]string{other})
	echoConn(t, c, br, "two")
	c2, br2 := open(t, r.addr)
	echoConn(t, c2, br2, "elsewhere")
	require.Equal(t, 1, r.backend(other).InFlight)
	closes(t, br) // after DrainTimeout
	require.NoError(t, pool.Drained(t.Context(), own))
	echoConn(t, c2, br2, "still there")

	r.cancel()
	r.refuses()
	echoConn(t, c2, br2, "in flight")
	closes(t, br2)
	r.serveEnds()
}

// TestTCPSticky: a client, which is an address, stays in its pool.
func TestTCPSticky(t *testing.T) {
	r := newStreamRig(t, proxy.Options{Sticky: proxy.ByClientAddr()})
	for _, name := range []string{"a", "b"} {
		r.Pool(name).SetBackends([]string{newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) { io.WriteString(c, name) })})
	}
	require.NoError(t, r.SetSplit(proxy.Share{Pool: "a", Weight: 5000}, proxy.Share{Pool: "b", Weight: 5000}))
	want := r.Choose("127.0.0.1", "")
	for range 10 {
		_, br := open(t, r.addr)
		b, err := io.ReadAll(br)
		require.NoError(t, err)
		require.Equal(t, want, string(b))
	}
}

func TestTCPMaxConns(t *testing.T) {
	r := newStreamRig(t, proxy.Options{MaxConns: 1}, newEcho(t))
	c, br := open(t, r.addr)
	echoConn(t, c, br, "first")
	c2, br2 := open(t, r.addr)
	say(t, c2, "second")
	c2.SetReadDeadline(time.Now().Add(brief))
	_, err := br2.Peek(1)
	require.Error(t, err)
	c.Close()
	c2.SetReadDeadline(time.Now().Add(longest))
	b := make([]byte, 6)
	_, err = io.ReadFull(br2, b)
	require.NoError(t, err)
}

// TestTCPBalance: connections that stay are load, however soon they were made.
func TestTCPBalance(t *testing.T) {
	for n := 2; n <= 3; n++ {
		var backends []string
		for range n {
			backends = append(backends, newEcho(t))
		}
		r := newStreamRig(t, proxy.Options{}, backends...)
		const each = 20
		for range n * each {
			c, br := open(t, r.addr)
			echoConn(t, c, br, "x")
		}
		for _, b := range r.pool(proxy.DefaultPool).Backends {
			require.InDelta(t, each, b.InFlight, each/4, "of %d backends", n)
		}
	}
}

// TestTCPBalanceWeights: each backend has connections by its weight, and those
// that end are made up for.
func TestTCPBalanceWeights(t *testing.T) {
	heavy, light := newEcho(t), newEcho(t)
	r := newStreamRig(t, proxy.Options{})
	require.NoError(t, r.Pool(proxy.DefaultPool).Set([]proxy.Backend{{Addr: heavy, Weight: 3}, {Addr: light, Weight: 1}}))
	for range 2 {
		var conns []net.Conn
		for range 40 {
			c, br := open(t, r.addr)
			echoConn(t, c, br, "x")
			conns = append(conns, c)
		}
		require.InDelta(t, 30, r.backend(heavy).InFlight, 1)
		require.InDelta(t, 10, r.backend(light).InFlight, 1)
		for _, c := range conns {
			c.Close()
		}
		soon(t, func() bool { return r.backend(heavy).InFlight+r.backend(light).InFlight == 0 })
	}
}

// TestTCPReset: a backend that resets its connections without a word is to blame,
// and avoided; one whose clients do is not.
func TestTCPReset(t *testing.T) {
	bad := newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		br.ReadByte()
		c.SetLinger(0)
	})
	good := newEcho(t)
	r := newStreamRig(t, proxy.Options{}, bad, good)
	soon(t, func() bool {
		c, br := open(t, r.addr)
		say(t, c, "x")
		if _, err := br.ReadByte(); err == nil {
			c.SetLinger(0)
		}
		c.Close()
		return r.backend(bad).Errors[proxy.Broken] >= 3
	})
	require.True(t, r.backend(bad).Avoided)
	require.False(t, r.backend(good).Avoided)
	require.Greater(t, r.backend(good).Requests, r.backend(bad).Requests)
	soon(t, func() bool { return r.backend(good).InFlight == 0 })
	require.Zero(t, r.backend(good).Errors[proxy.Broken])
}

// TestTCPHalfSilent: when one end has ended, the other is not waited for if it
// says nothing.
func TestTCPHalfSilent(t *testing.T) {
	for _, first := range []string{"client", "backend"} {
		t.Run(first, func(t *testing.T) {
			stop := make(chan struct{})
			addr := newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
				if first == "backend" {
					c.CloseWrite()
				}
				<-stop
			})
			r := newStreamRig(t, proxy.Options{DrainTimeout: brief}, addr)
			t.Cleanup(func() { close(stop) })
			c, br := open(t, r.addr)
			soon(t, func() bool { return r.backend(addr).InFlight == 1 })
			if first == "client" {
				require.NoError(t, c.CloseWrite())
			}
			closes(t, br)
			soon(t, func() bool { return r.backend(addr).InFlight == 0 })
			require.Zero(t, r.backend(addr).Errors[proxy.Broken])
		})
	}
}

// TestTCPHalfTalks: but it may go on for as long as it says something.
func TestTCPHalfTalks(t *testing.T) {
	const limit = 1500 * time.Millisecond
	got := make(chan string, 1)
	r := newStreamRig(t, proxy.Options{DrainTimeout: limit}, newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		c.CloseWrite()
		b, _ := io.ReadAll(br)
		got <- string(b)
	}))
	c, br := open(t, r.addr)
	closes(t, br)
	sent := ""
	for began := time.Now(); time.Since(began) < 2*limit; time.Sleep(brief) {
		say(t, c, "x")
		sent += "x"
	}
	require.NoError(t, c.CloseWrite())
	require.Equal(t, sent, receive(t, got))
}
