package proxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// A shadow is a backend that keeps what it is sent.
type shadow struct {
	*origin
	mu  sync.Mutex
	got []*http.Request
	all []string // bodies
}

func newShadow(t testing.TB) *shadow {
	s := &shadow{}
	s.origin = newOrigin(t, "", func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.got, s.all = append(s.got, r), append(s.all, string(b))
		http.Error(w, "nobody hears this", 500)
	})
	return s
}

// mirrors waits until n copies have been sent, and nothing failed.
func (r *rig) mirrors(n int) {
	r.t.Helper()
	soon(r.t, func() bool { return r.Status().Mirrored >= uint64(n) })
	st := r.Status()
	require.EqualValues(r.t, n, st.Mirrored)
	require.Zero(r.t, st.MirrorFails)
	require.Zero(r.t, st.MirrorDrops)
}

// TestMirrorBodies: the copy is what the backend gets, whichever way it came, and
// whatever the backends speak.
func TestMirrorBodies(t *testing.T) {
	for _, protocol := range []proxy.Protocol{proxy.Auto, proxy.H2C} {
		eachWay(t, func(t *testing.T, w way) {
			for _, known := range []bool{true, false} {
				for _, size := range []int{0, 1, 100, 16 << 10, 20_000, proxy.MaxMirrored} {
					own, copied := newShadow(t), newShadow(t)
					r := newRig(t, proxy.Options{BackendProtocol: protocol}, own.addr)
					r.Pool("shadow").SetBackends([]string{copied.addr})
					require.NoError(t, r.SetMirror("shadow", 10_000))
					for i, method := range []string{"POST", "PUT"} {
						body := strings.Repeat("x", size)
						var from io.Reader = strings.NewReader(body)
						if !known {
							from = struct{ io.Reader }{from}
						}
						req, err := http.NewRequest(method, r.url("/path?q=1"), from)
						require.NoError(t, err)
						req.Header.Set("X-Some", "thing")
						req.Header.Set("X-Forwarded-For", "6.6.6.6")
						req.Header.Set("Connection", "X-Hop")
						req.Header.Set("X-Hop", "private")
						if w == h2Way {
							req.Header.Del("Connection")
							req.Header.Del("X-Hop")
						}
						resp, err := w.client(t).Do(req)
						require.NoError(t, err)
						resp.Body.Close()
						require.Equal(t, 500, resp.StatusCode)
						r.mirrors(i + 1)
						require.Equal(t, body, copied.all[i], "%s, %d bytes, known: %v", method, size, known)
						a, b := own.got[i], copied.got[i]
						assert.Equal(t, method, b.Method)
						assert.Equal(t, a.RequestURI, b.RequestURI)
						assert.Equal(t, a.Host, b.Host)
						for _, h := range []http.Header{a.Header, b.Header} {
							h.Del("Te")             // of which net/http keeps some
							h.Del("Content-Length") // which a copy always has
						}
						assert.Equal(t, a.Header, b.Header)
						assert.Empty(t, b.Header["X-Hop"])
						assert.Equal(t, "127.0.0.1", b.Header.Get("X-Forwarded-For"))
					}
					r.close()
				}
			}
		})
	}
}

// TestMirrorTooLarge: larger ones are answered, and not mirrored.
func TestMirrorTooLarge(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		own, copied := newOrigin(t, "it", nil), newShadow(t)
		r := newRig(t, proxy.Options{}, own.addr)
		r.Pool("shadow").SetBackends([]string{copied.addr})
		require.NoError(t, r.SetMirror("shadow", 10_000))
		c := w.client(t)
		for _, known := range []bool{true, false} {
			var from io.Reader = strings.NewReader(strings.Repeat("x", proxy.MaxMirrored+1))
			if !known {
				from = struct{ io.Reader }{from}
			}
			resp, err := c.Post(r.url("/"), "text/plain", from)
			require.NoError(t, err)
			resp.Body.Close()
			require.Equal(t, 200, resp.StatusCode)
		}
		get(t, c, r.url("/"))
		soon(t, func() bool { return r.Status().Mirrored == 1 })
		soon(t, func() bool { return r.Status().MirrorDrops == 2 })
		require.Zero(t, r.Status().MirrorFails)
	})
}

// TestMirrorShare is exact.
func TestMirrorShare(t *testing.T) {
	own, copied := newOrigin(t, "it", nil), newShadow(t)
	r := newRig(t, proxy.Options{}, own.addr)
	r.Pool("shadow").SetBackends([]string{copied.addr})
	want := 0
	for _, share := range []int{0, 100, 1000, 3333, 10_000, 0} {
		require.NoError(t, r.SetMirror("shadow", share))
		for i := range 300 {
			get(t, ways[i%3].sharedClient(t, r), r.url("/"))
		}
		want += 300 * share / 10_000
		r.mirrors(want)
	}
	assert.ErrorContains(t, r.SetMirror("shadow", -1), "share is -1")
	assert.ErrorContains(t, r.SetMirror("shadow", 10_001), "share is 10001")
}

// TestMirrorItself: what goes to the mirrored pool anyway is not sent twice.
func TestMirrorItself(t *testing.T) {
	copied := newShadow(t)
	r := newRig(t, proxy.Options{}, copied.addr)
	require.NoError(t, r.SetMirror(proxy.DefaultPool, 10_000))
	for _, w := range ways {
		_, err := fetch(w.client(t), "GET", r.url("/"), "")
		require.NoError(t, err)
	}
	require.EqualValues(t, 3, copied.hits.Load())
	r.mirrors(0)
}

// TestMirrorHung: a mirror that does not answer delays nobody; copies that would
// be too many are dropped, and counted.
func TestMirrorHung(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		own, hung := newOrigin(t, "it", nil), newGate(t, "hung")
		r := newRig(t, proxy.Options{}, own.addr)
		r.Pool("shadow").SetBackends([]string{hung.addr})
		require.NoError(t, r.SetMirror("shadow", 10_000))
		c := w.client(t)
		go func() {
			for range hung.arrived {
			}
		}()
		const more = 20
		for i := range proxy.MaxMirrors + more {
			a, err := fetch(c, "POST", r.url("/"), "body")
			require.NoError(t, err)
			require.Equal(t, "it", a.body, i)
		}
		soon(t, func() bool { return r.Status().MirrorDrops == more })
		require.Zero(t, r.Status().Mirrored)
		hung.letGo()
		soon(t, func() bool { return r.Status().Mirrored == proxy.MaxMirrors })
		r.close()
		hung.srv.Close()
		close(hung.arrived)
	})
}

// TestMirrorDead: nor does one that is dead; its failures are counted.
func TestMirrorDead(t *testing.T) {
	own := newOrigin(t, "it", nil)
	r := newRig(t, proxy.Options{}, own.addr)
	require.NoError(t, r.SetMirror("shadow", 10_000)) // a pool without backends
	get(t, fastWay.client(t), r.url("/"))
	soon(t, func() bool { return r.Status().MirrorFails == 1 })
	r.Pool("shadow").SetBackends([]string{deadAddr(t)})
	get(t, fastWay.client(t), r.url("/"))
	soon(t, func() bool { return r.Status().MirrorFails == 2 })
	require.EqualValues(t, 1, r.pool("shadow").Errors[proxy.DialFailed])

	// A pool that takes the place of a closed one is mirrored to.
	require.NoError(t, r.Pool("shadow").Close(context.Background()))
	copied := newShadow(t)
	r.Pool("shadow").SetBackends([]string{copied.addr})
	get(t, fastWay.client(t), r.url("/"))
	soon(t, func() bool { return r.Status().Mirrored == 1 })
}

// TestMirrorStream: a request whose client waits for an answer to a part of its
// body is not held up.
func TestMirrorStream(t *testing.T) {
	for _, w := range []way{slowWay, h2Way} {
		t.Run(string(w), func(t *testing.T) {
			own := newOrigin(t, "", func(w http.ResponseWriter, r *http.Request) {
				rc := http.NewResponseController(w)
				rc.EnableFullDuplex()
				w.WriteHeader(200)
				rc.Flush()
				buf := make([]byte, 100)
				for {
					n, err := r.Body.Read(buf)
					w.Write(buf[:n])
					rc.Flush()
					if err != nil {
						return
					}
				}
			})
			copied := newShadow(t)
			r := newRig(t, proxy.Options{}, own.addr)
			r.Pool("shadow").SetBackends([]string{copied.addr})
			require.NoError(t, r.SetMirror("shadow", 10_000))
			pr, pw := io.Pipe()
			req, err := http.NewRequest("POST", r.url("/"), pr)
			require.NoError(t, err)
			var resp *http.Response
			got := make(chan error, 1)
			go func() {
				var err error
				resp, err = w.client(t).Do(req)
				got <- err
			}()
			_, err = pw.Write([]byte("ping"))
			require.NoError(t, err)
			require.NoError(t, receive(t, got))
			b := make([]byte, 4)
			for range 3 {
				_, err = io.ReadFull(resp.Body, b)
				require.NoError(t, err)
				_, err = pw.Write([]byte("pong"))
				require.NoError(t, err)
			}
			pw.Close()
			_, err = io.Copy(io.Discard, resp.Body)
			require.NoError(t, err)
			resp.Body.Close()
			r.mirrors(1)
			require.Equal(t, "pingpongpongpong", copied.all[0])
		})
	}
}

// TestMirrorUpgrade: a switch of protocols is not mirrored.
func TestMirrorUpgrade(t *testing.T) {
	copied := newShadow(t)
	r := newRig(t, proxy.Options{}, switchOrigin(t))
	r.Pool("shadow").SetBackends([]string{copied.addr})
	require.NoError(t, r.SetMirror("shadow", 10_000))
	c, _ := upgrade(t, r.addr)
	c.Close()
	get(t, fastWay.client(t), r.url("/"))
	r.mirrors(1)
}

// TestMirrorClose closes the proxy while copies are being sent.
func TestMirrorClose(t *testing.T) {
	own, copied := newOrigin(t, "it", nil), newShadow(t)
	for range 5 {
		r := newRig(t, proxy.Options{HoldTimeout: -1}, own.addr)
		r.Pool("shadow").SetBackends([]string{copied.addr})
		require.NoError(t, r.SetMirror("shadow", 10_000))
		var clients []*http.Client
		for _, w := range ways {
			clients = append(clients, w.client(t))
		}
		crowd := newCrowd(t, len(clients), func(i int) error {
			a, err := fetch(clients[i], "POST", r.url("/"), "body")
			if err == nil && a.status != 200 {
				err = fmt.Errorf("%d", a.status)
			}
			return err
		})
		time.Sleep(30 * time.Millisecond)
		r.close() // also waits for copies
		crowd.halt()
	}
}

// TestMirrorMalformed: what a mirror answers harms nobody, whatever it is.
func TestMirrorMalformed(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: odd\r\n\r\n",
		"HTTP/1.1 000 None\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
	} {
		eachWay(t, func(t *testing.T, w way) {
			odd := newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
				if _, err := http.ReadRequest(br); err == nil {
					io.WriteString(c, answer)
					io.Copy(io.Discard, br)
				}
			})
			r := newRig(t, proxy.Options{}, newOrigin(t, "it", nil).addr)
			r.Pool("shadow").SetBackends([]string{odd})
			require.NoError(t, r.SetMirror("shadow", 10_000))
			get(t, w.client(t), r.url("/"))
			soon(t, func() bool { return r.Status().MirrorFails == 1 })
			require.EqualValues(t, 1, r.pool("shadow").Errors[proxy.BadResponse], answer)
			require.Zero(t, r.pool("shadow").Statuses)
		})
	}
}

// TestMirrorFailOpen: a copy that goes to a backend that is avoided is counted.
func TestMirrorFailOpen(t *testing.T) {
	copied := newShadow(t)
	r := newRig(t, proxy.Options{}, newOrigin(t, "it", nil).addr)
	r.Pool("shadow").SetBackends([]string{copied.addr})
	r.Pool("shadow").SetHealthy(copied.addr, false)
	require.NoError(t, r.SetMirror("shadow", 10_000))
	get(t, fastWay.client(t), r.url("/"))
	r.mirrors(1)
	require.EqualValues(t, 1, r.pool("shadow").FailOpen)
}

// TestMirrorUserAgent: a copy has no User-Agent that the request had not.
func TestMirrorUserAgent(t *testing.T) {
	for i, te := range []string{"", "TE: trailers\r\n"} {
		copied := newShadow(t)
		r := newRig(t, proxy.Options{}, newOrigin(t, "it", nil).addr)
		r.Pool("shadow").SetBackends([]string{copied.addr})
		require.NoError(t, r.SetMirror("shadow", 10_000))
		c, br := open(t, r.addr)
		say(t, c, "GET / HTTP/1.1\r\nHost: a\r\n%s\r\n", te)
		require.Equal(t, 200, hear(t, br).status)
		r.mirrors(1)
		require.NotContains(t, copied.got[0].Header, "User-Agent", i)
		c.Close()
	}
}

// TestMirrorAtOnce: a copy does not wait for the response.
func TestMirrorAtOnce(t *testing.T) {
	for _, body := range []string{"", "small", strings.Repeat("x", 20_000)} {
		eachWay(t, func(t *testing.T, w way) {
			g, copied := newGate(t, "it"), newShadow(t)
			r := newRig(t, proxy.Options{}, g.addr)
			r.Pool("shadow").SetBackends([]string{copied.addr})
			require.NoError(t, r.SetMirror("shadow", 10_000))
			c := w.client(t)
			got := in(func() (answer, error) { return fetch(c, "POST", r.url("/begun"), body) })
			receive(t, g.arrived)
			r.mirrors(1)
			require.Equal(t, body, copied.all[0])
			g.letGo()
			require.NoError(t, receive(t, got).err)
		})
	}
}

// TestMirrorPlaces: requests that have no place among the mirrored ones are
// dropped at once, and not kept for when there is one.
func TestMirrorPlaces(t *testing.T) {
	let := make(chan bool)
	wait := func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		select {
		case <-let:
		case <-r.Context().Done():
		}
	}
	own, hung := newOrigin(t, "", wait), newOrigin(t, "", wait)
	r := newRig(t, proxy.Options{DialTimeout: longest}, own.addr) // many dial at once
	r.Pool("shadow").SetBackends([]string{hung.addr})
	require.NoError(t, r.SetMirror("shadow", 10_000))
	c := slowWay.client(t)
	const more = 20
	var got []<-chan result
	for range proxy.MaxMirrors + more {
		got = append(got, in(func() (answer, error) { return fetch(c, "POST", r.url("/"), strings.Repeat("x", 20_000)) }))
	}
	soon(t, func() bool { return r.Status().MirrorDrops == more }, "while none has been answered")
	close(let)
	for _, a := range got {
		require.NoError(t, receive(t, a).err)
	}
	soon(t, func() bool { return r.Status().Mirrored == proxy.MaxMirrors })
	require.EqualValues(t, more, r.Status().MirrorDrops)
}

// TestMirrorTold: a copy is told apart from what was asked, and the status says
// where copies go.
func TestMirrorTold(t *testing.T) {
	outcomes := make(chan proxy.Outcome, 2)
	own, copied := newShadow(t), newShadow(t)
	r := newRig(t, proxy.Options{Outcome: func(o proxy.Outcome) { outcomes <- o }}, own.addr)
	require.Zero(t, r.Status().Mirror)
	r.Pool("shadow").SetBackends([]string{copied.addr})
	require.NoError(t, r.SetMirror("shadow", proxy.Whole))
	require.Equal(t, proxy.Share{Pool: "shadow", Weight: proxy.Whole}, r.Status().Mirror)
	_, err := fetch(fastWay.client(t), "GET", r.url("/"), "")
	require.NoError(t, err)
	for range 2 {
		o := receive(t, outcomes)
		require.Equal(t, o.Pool == "shadow", o.Mirror, "%+v", o)
	}
	require.NoError(t, r.SetMirror("another", 0), "it ends, whatever the pool")
	require.Zero(t, r.Status().Mirror)
	require.NoError(t, r.SetMirror("", 1))
	require.Equal(t, proxy.DefaultPool, r.Status().Mirror.Pool)
}
