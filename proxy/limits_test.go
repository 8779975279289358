package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

const brief = 100 * time.Millisecond // a time limit in tests

// toNetHTTP sends a request after which net/http has the connection.
func toNetHTTP(t testing.TB, c net.Conn, br *bufio.Reader) {
	t.Helper()
	say(t, c, "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n")
	require.Equal(t, 200, hear(t, br).status)
}

// eachOld runs a test on a new connection, one that the fast path has served, and
// one that net/http serves.
func eachOld(t *testing.T, opts proxy.Options, f func(t *testing.T, r *rig, c *net.TCPConn, br *bufio.Reader)) {
	for _, old := range []string{"new", "fast", "slow"} {
		t.Run(old, func(t *testing.T) {
			r := newRig(t, opts, newOrigin(t, "it", nil).addr)
			c, br := open(t, r.addr)
			switch old {
			case "fast":
				say(t, c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
				require.Equal(t, 200, hear(t, br).status)
			case "slow":
				toNetHTTP(t, c, br)
			}
			f(t, r, c, br)
		})
	}
}

// TestHeaderTimeout: a head that does not come to its end.
func TestHeaderTimeout(t *testing.T) {
	for _, head := range []string{"G", "GET / HTTP/1.1\r\nHo", "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n"} {
		eachOld(t, proxy.Options{HeaderTimeout: brief}, func(t *testing.T, r *rig, c *net.TCPConn, br *bufio.Reader) {
			say(t, c, "%s", head)
			if said := toEnd(t, br); said != "" {
				require.Contains(t, said, "HTTP/1.1 408")
			}
			require.EqualValues(t, 0, r.backend(r.pool(proxy.DefaultPool).Backends[0].Addr).InFlight)
		})
	}
}

// TestHeaderTimeoutOnce: a head of which net/http gets the rest has no more time
// for that.
func TestHeaderTimeoutOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := proxy.New(proxy.Options{HeaderTimeout: 8 * time.Second})
		require.NoError(t, err)
		defer p.Close()
		sock, peer := net.Pipe()
		defer peer.Close()
		c := p.HandOver(sock, "GET / HTTP/1.1\r\nHost: a\r\nTE: ", time.Second)
		defer sock.Close()
		began := time.Now()
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, time.Second, time.Since(began))
	})
}

// TestHeaderTrickled: nor does it help to send a byte now and then.
func TestHeaderTrickled(t *testing.T) {
	eachOld(t, proxy.Options{HeaderTimeout: brief}, func(t *testing.T, r *rig, c *net.TCPConn, br *bufio.Reader) {
		say(t, c, "GET / HTTP/1.1\r\nHost: a\r\nX: ")
		require.True(t, trickle(c, br), "the connection must end")
	})
}

// trickle sends a byte now and then, and reports whether the connection ended. It
// drops what comes.
func trickle(c net.Conn, br *bufio.Reader) (ended bool) {
	done := make(chan bool)
	go func() {
		io.Copy(io.Discard, br)
		close(done)
	}()
	for began := time.Now(); time.Since(began) < longest/2; {
		select {
		case <-done:
			return true
		case <-time.After(brief / 10):
			if _, err := c.Write([]byte("x")); err != nil {
				<-done
				return true
			}
		}
	}
	return false
}

// TestIdleTimeout: a connection that rests ends. Here it gets one request: what
// the client takes to send another is for the machine to say.
func TestIdleTimeout(t *testing.T) {
	for _, way := range []string{"fast", "slow"} {
		t.Run(way, func(t *testing.T) {
			r := newRig(t, proxy.Options{IdleTimeout: brief}, newOrigin(t, "it", nil).addr)
			for range 3 {
				c, br := open(t, r.addr)
				if way == "slow" {
					toNetHTTP(t, c, br)
				} else {
					say(t, c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
					require.Equal(t, 200, hear(t, br).status)
				}
				closes(t, br)
			}
		})
	}
}

// TestNewConnection: one that says nothing ends with HeaderTimeout, but not
// before, however old the proxy is.
func TestNewConnection(t *testing.T) {
	const limit = 2 * time.Second
	r := newRig(t, proxy.Options{HeaderTimeout: limit}, newOrigin(t, "it", nil).addr)
	time.Sleep(limit + 100*time.Millisecond)
	for {
		began := time.Now()
		c, br := open(t, r.addr)
		time.Sleep(limit / 2) // the reaper has looked
		_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if time.Since(began) > limit*3/4 {
			c.Close()
			continue // this machine was busy: the proxy may get it too late
		}
		require.NoError(t, err)
		require.Equal(t, 200, hear(t, br).status)
		break
	}
	_, br := open(t, r.addr)
	closes(t, br)
}

// TestBodyTimeout: a body that does not come to its end, be it small or large.
func TestBodyTimeout(t *testing.T) {
	for _, size := range []int{1000, 100_000} {
		for _, coding := range []string{"length", "chunked"} {
			for _, trickles := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d %s %v", size, coding, trickles), func(t *testing.T) {
					eachOld(t, proxy.Options{BodyTimeout: brief, MinBodyRate: 1 << 20}, func(t *testing.T, r *rig, c *net.TCPConn, br *bufio.Reader) {
						if coding == "length" {
							say(t, c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", size, strings.Repeat("x", size/2))
						} else {
							say(t, c, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s", size, strings.Repeat("x", size/2))
						}
						if trickles {
							require.True(t, trickle(c, br), "the connection must end")
						} else {
							require.NotContains(t, toEnd(t, br), "200 OK")
						}
						soon(t, func() bool { return r.pool(proxy.DefaultPool).Backends[0].InFlight == 0 })
						require.Zero(t, r.pool(proxy.DefaultPool).Backends[0].Errors[proxy.Broken], "it is not the backend's fault")
					})
				})
			}
		}
	}
}

// TestSlowBody: a body that comes slowly, but faster than it must, has all the
// time that it needs.
func TestSlowBody(t *testing.T) {
	for _, size := range []int{15, 17_000} {
		eachOld(t, proxy.Options{BodyTimeout: 700 * time.Millisecond, MinBodyRate: 1}, func(t *testing.T, r *rig, c *net.TCPConn, br *bufio.Reader) {
			say(t, c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", size, strings.Repeat("x", size-15))
			for range 15 {
				time.Sleep(brief)
				say(t, c, "x")
			}
			require.Equal(t, 200, hear(t, br).status)
		})
	}
}

// TestResponseTimeout: a backend that does not answer. It is answered for.
func TestResponseTimeout(t *testing.T) {
	for _, protocol := range []proxy.Protocol{proxy.Auto, proxy.H2C} {
		for _, size := range bodies[:3] {
			t.Run(fmt.Sprint(protocol, size), func(t *testing.T) {
				eachWay(t, func(t *testing.T, w way) {
					g := newGate(t, "it")
					r := newRig(t, proxy.Options{ResponseTimeout: brief, BackendProtocol: protocol}, g.addr)
					a, err := fetch(w.client(t), "POST", r.url("/"), strings.Repeat("x", size))
					require.NoError(t, err)
					require.Equal(t, http.StatusGatewayTimeout, a.status)
					require.Contains(t, a.body, "did not answer in time")
					soon(t, func() bool { return r.backend(g.addr).Errors[proxy.TimedOut] == 1 })
				})
			})
		}
	}
}

// TestRequestTimeout limits all of it: holding, answering, and the answer's body.
func TestRequestTimeout(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		t.Run("hold", func(t *testing.T) {
			r := newRig(t, proxy.Options{RequestTimeout: brief, HoldTimeout: time.Hour})
			a, err := fetch(w.client(t), "POST", r.url("/"), "body")
			require.NoError(t, err)
			require.Contains(t, []int{http.StatusServiceUnavailable, http.StatusGatewayTimeout}, a.status)
		})
		t.Run("answer", func(t *testing.T) {
			g := newGate(t, "it")
			r := newRig(t, proxy.Options{RequestTimeout: brief}, g.addr)
			a, err := fetch(w.client(t), "POST", r.url("/"), "body")
			require.NoError(t, err)
			require.Equal(t, http.StatusGatewayTimeout, a.status)
		})
		t.Run("body", func(t *testing.T) {
			g := newGate(t, "it")
			r := newRig(t, proxy.Options{RequestTimeout: brief}, g.addr)
			_, err := fetch(w.client(t), "POST", r.url("/begun"), "body")
			require.Error(t, err)
		})
		if w != fastWay {
			for _, known := range []bool{false, true} {
				for _, trickles := range []bool{false, true} {
					t.Run(fmt.Sprintf("upload, known: %v, trickles: %v", known, trickles), func(t *testing.T) {
						testRequestTimeoutUpload(t, w, known, trickles)
					})
				}
			}
		}
		t.Run("next", func(t *testing.T) { // it begins anew with each request
			const limit = 1500 * time.Millisecond // which one of them does not take on a slow machine
			r := newRig(t, proxy.Options{RequestTimeout: limit}, newOrigin(t, "it", nil).addr)
			c := w.client(t)
			get(t, c, r.url("/"))
			for began := time.Now(); time.Since(began) < limit; {
				time.Sleep(limit / 3)
				get(t, c, r.url("/"))
			}
		})
	})
}

// testRequestTimeoutUpload: a client that does not come to the end of its body is
// told in time, and it is not the backend's fault.
func testRequestTimeoutUpload(t *testing.T, w way, known, trickles bool) {
	o := newOrigin(t, "it", nil)
	r := newRig(t, proxy.Options{RequestTimeout: 3 * brief, BodyTimeout: time.Hour}, o.addr)
	pr, pw := io.Pipe()
	req, err := http.NewRequest("POST", r.url("/"), pr)
	require.NoError(t, err)
	if known {
		req.ContentLength = 100_000
	}
	c := w.client(t)
	got := in(func() (answer, error) { return whole(c.Do(req)) })
	var wg sync.WaitGroup
	wg.Go(func() {
		pw.Write([]byte("begin"))
		for trickles {
			time.Sleep(brief / 10)
			if _, err := pw.Write([]byte("x")); err != nil {
				return
			}
		}
	})
	a := receive(t, got)
	pw.Close()
	pr.Close()
	wg.Wait()
	require.NoError(t, a.err)
	require.Equal(t, http.StatusRequestTimeout, a.status)
	st := r.backend(o.addr)
	require.EqualValues(t, 1, st.Errors[proxy.Canceled], "%v", st.Errors)
	require.Zero(t, st.Errors[proxy.TimedOut])
	require.False(t, st.Avoided)
}

// TestReaderThatTakesNothing: a client that takes nothing of its answer, whatever
// its connection is.
func TestReaderThatTakesNothing(t *testing.T) {
	big := bytes.Repeat([]byte("x"), 32<<20)
	o := newOrigin(t, "", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", fmt.Sprint(len(big)))
		}
		w.Write(big)
	})
	for _, encrypted := range []bool{false, true} {
		for _, kind := range []string{"tcp", "wrapped", "embedded", "opaque", "unix"} {
			t.Run(fmt.Sprintf("%s/tls=%v", kind, encrypted), func(t *testing.T) {
				l := newListenerOf(t, kind)
				opts := proxy.Options{BodyTimeout: brief, ResponseTimeout: brief}
				var roots *x509.CertPool
				if encrypted {
					opts.GetCertificate, roots = certificate(t)
				}
				r := newRigOn(t, l, opts, o.addr)
				requests := []string{"/length HTTP/1.1", "/chunks HTTP/1.1", "/length HTTP/1.1\r\nTE: trailers"}
				if encrypted {
					requests = requests[1:2]
				}
				for i, request := range requests {
					c, err := net.Dial(l.Addr().Network(), r.addr)
					require.NoError(t, err)
					defer c.Close()
					c.SetDeadline(time.Now().Add(longest))
					if encrypted {
						c = tls.Client(c, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"})
					}
					say(t, c, "GET %s\r\nHost: a\r\n\r\n", request)
					soon(t, func() bool { return r.backend(o.addr).Requests == uint64(i+1) })
					soon(t, func() bool { return r.backend(o.addr).InFlight == 0 }, "it must be given up")
					n, _ := io.Copy(io.Discard, c)
					require.Less(t, n, int64(len(big)))
					require.EqualValues(t, i+1, r.backend(o.addr).Errors[proxy.Canceled], "it is not the backend's fault: %v", r.backend(o.addr).Errors)
				}
			})
		}
	}
}

func TestMaxHeaderBytes(t *testing.T) {
	const limit = 4096
	eachOld(t, proxy.Options{MaxHeaderBytes: limit}, func(t *testing.T, r *rig, c *net.TCPConn, br *bufio.Reader) {
		head := "GET / HTTP/1.1\r\nHost: a\r\nX: "
		say(t, c, "%s%s\r\n\r\n", head, strings.Repeat("x", limit-len(head)-4))
		require.Equal(t, 200, hear(t, br).status, "just as large as it may be")
		say(t, c, "%s%s\r\n\r\n", head, strings.Repeat("x", limit+16<<10))
		require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, hear(t, br).status)
		toEnd(t, br)
	})
}

// TestMaxHeaderBytesExact: no byte more.
func TestMaxHeaderBytesExact(t *testing.T) {
	const limit = 4096
	for _, more := range []int{1, 2, 3, 4, 100, 3000, 5000} {
		eachOld(t, proxy.Options{MaxHeaderBytes: limit}, func(t *testing.T, r *rig, c *net.TCPConn, br *bufio.Reader) {
			head := "GET / HTTP/1.1\r\nHost: a\r\nX: "
			say(t, c, "%s%s\r\n\r\n", head, strings.Repeat("x", limit+more-len(head)-4))
			require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, hear(t, br).status, more)
			io.Copy(io.Discard, br) // it ends
			require.EqualValues(t, 1, r.Status().Refused)
		})
	}
}

func TestMaxHeaderBytesHTTP2(t *testing.T) {
	r := newRig(t, proxy.Options{MaxHeaderBytes: 4096}, newOrigin(t, "it", nil).addr)
	c := h2Way.client(t)
	get(t, c, r.url("/"), "X", strings.Repeat("x", 3000))
	a, err := fetch(c, "GET", r.url("/"), "", "X", strings.Repeat("x", 4050))
	require.NoError(t, err)
	require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, a.status)
	a, err = fetch(c, "GET", r.url("/"), "", "X", strings.Repeat("x", 20<<10))
	if err == nil {
		require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, a.status)
	}
	get(t, h2Way.client(t), r.url("/"))
}

// TestMaxBodyBytes: at once if its length is known, and when it has come too far
// else.
func TestMaxBodyBytes(t *testing.T) {
	for _, limit := range []int64{1000, 50_000} {
		eachWay(t, func(t *testing.T, w way) {
			o := newOrigin(t, "it", nil)
			r := newRig(t, proxy.Options{MaxBodyBytes: limit}, o.addr)
			c := w.client(t)
			for _, known := range []bool{true, false} {
				ask := func(n int64) (*http.Response, error) {
					var body io.Reader = strings.NewReader(strings.Repeat("x", int(n)))
					if !known {
						body = struct{ io.Reader }{body}
					}
					resp, err := c.Post(r.url("/"), "text/plain", body)
					if err == nil {
						io.Copy(io.Discard, resp.Body)
						resp.Body.Close()
					}
					return resp, err
				}
				resp, err := ask(limit)
				require.NoError(t, err)
				assert.Equal(t, 200, resp.StatusCode)
				resp, err = ask(limit + 1)
				require.NoError(t, err)
				assert.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode, "known: %v", known)
			}
		})
	}
}

// TestMaxConns: those that are too many wait until others go.
func TestMaxConns(t *testing.T) {
	r := newRig(t, proxy.Options{MaxConns: 3}, newOrigin(t, "it", nil).addr)
	var conns []*net.TCPConn
	for i := range 3 {
		c, br := open(t, r.addr)
		if i == 0 {
			toNetHTTP(t, c, br)
		} else {
			say(t, c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			require.Equal(t, 200, hear(t, br).status)
		}
		conns = append(conns, c)
	}
	for _, old := range conns {
		c, br := open(t, r.addr)
		say(t, c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		c.SetReadDeadline(time.Now().Add(brief))
		_, err := br.Peek(1)
		require.Error(t, err, "there is no place for it")
		old.Close()
		c.SetReadDeadline(time.Now().Add(longest))
		require.Equal(t, 200, hear(t, br).status)
	}
}

// TestGoneClient: a client that goes away while its request is under way does not
// keep it there. One that only says that it sends no more goes away, too.
func TestGoneClient(t *testing.T) {
	for _, kind := range []string{"tcp", "wrapped", "embedded", "unix"} { // nobody sees it of what is opaque
		for _, te := range []string{"", "TE: trailers\r\n"} {
			for _, half := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, half %v, with %s", kind, half, te), func(t *testing.T) {
					l := newListenerOf(t, kind)
					g := newGate(t, "it")
					r := newRigOn(t, l, proxy.Options{}, g.addr)
					c, err := net.Dial(l.Addr().Network(), r.addr)
					require.NoError(t, err)
					defer c.Close()
					say(t, c, "GET / HTTP/1.1\r\nHost: a\r\n%s\r\n", te)
					receive(t, g.arrived)
					if half {
						c.(interface{ CloseWrite() error }).CloseWrite()
					} else {
						c.Close()
					}
					soon(t, func() bool { return r.backend(g.addr).InFlight == 0 })
					require.EqualValues(t, 1, r.backend(g.addr).Errors[proxy.Canceled])
					require.False(t, r.backend(g.addr).Avoided, "it is not the backend's fault")
					require.Len(t, g.arrived, 0, "it was not tried again")
				})
			}
		}
	}
}

// TestSilentForEver: without a limit for the response a backend may fall silent
// within it for longer than a client may take nothing.
func TestSilentForEver(t *testing.T) {
	const size = 128 << 10 // of more a piece has more time
	wait := make(chan struct{})
	o := newOrigin(t, "", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(size))
		w.Write(make([]byte, size/2))
		w.(http.Flusher).Flush()
		<-wait
		w.Write(make([]byte, size/2))
	})
	r := newRig(t, proxy.Options{BodyTimeout: brief, ResponseTimeout: -1}, o.addr)
	c, br := open(t, r.addr)
	say(t, c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	time.AfterFunc(25*brief, func() { close(wait) }) // the reaper looks meanwhile
	require.Len(t, hear(t, br).body, size)
}

// TestNotStruck: what was late when it was looked at, and has gone on since, is
// not interrupted.
func TestNotStruck(t *testing.T) {
	for _, test := range []struct {
		now    int64
		handed bool
		want   bool
	}{{1, false, true}, {2, false, false}, {0, false, false}, {1, true, false}} {
		c, peer := net.Pipe()
		require.Equal(t, test.want, proxy.Strike(c, 1, test.now, test.handed), "%+v", test)
		go peer.Write([]byte("x"))
		_, err := c.Read(make([]byte, 1))
		require.Equal(t, test.want, err != nil, "%+v", test)
		c.Close()
		peer.Close()
	}
}
