package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// slowWays are the ways through net/http, which sends some requests again by
// itself.
var slowWays = []way{slowWay, h2Way}

// TestResend: a request that broke on a connection that was kept is sent again to
// the same backend, and that is counted; but not without budget.
func TestResend(t *testing.T) {
	for _, w := range slowWays {
		for _, test := range []struct {
			name   string
			opts   proxy.Options
			status int
			seen   int64
		}{
			{"may be", proxy.Options{}, 200, 3},
			{"no budget", proxy.Options{RetryBudget: -1}, 502, 2},
			{"no more attempts", proxy.Options{MaxAttempts: 1}, 502, 2},
		} {
			t.Run(string(w)+" "+test.name, func(t *testing.T) {
				var seen atomic.Int64
				addr := newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
					for first := true; ; first = false {
						if _, err := http.ReadRequest(br); err != nil {
							return
						}
						seen.Add(1)
						if !first {
							return
						}
						io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					}
				})
				r := newRig(t, test.opts, addr)
				c := w.client(t)
				get(t, c, r.url("/"))
				a, err := fetch(c, "GET", r.url("/"), "")
				require.NoError(t, err)
				require.Equal(t, test.status, a.status)
				require.Equal(t, test.seen, seen.Load())
				st := r.backend(addr)
				require.EqualValues(t, test.seen, st.Requests)
				require.EqualValues(t, test.seen-2, st.Retries)
				require.EqualValues(t, 1, st.Errors[proxy.Broken])
			})
		}
	}
}

// TestCrashingRequest: a request that has a backend crash is not sent to one after
// the other beyond MaxAttempts, though connections to them had been kept and there
// are no new ones.
func TestCrashingRequest(t *testing.T) {
	for _, w := range slowWays {
		t.Run(string(w), func(t *testing.T) {
			var crashes atomic.Int64
			var addrs []string
			for range 6 {
				l := newListener(t)
				var wg sync.WaitGroup
				wg.Go(func() {
					c, err := l.Accept()
					if err != nil {
						return
					}
					defer c.Close()
					br := bufio.NewReader(c)
					for {
						req, err := http.ReadRequest(br)
						if err != nil {
							return
						}
						if req.URL.Path == "/crash" {
							crashes.Add(1)
							l.Close()
							return
						}
						io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					}
				})
				t.Cleanup(wg.Wait)
				t.Cleanup(func() { l.Close() })
				addrs = append(addrs, l.Addr().String())
			}
			r := newRig(t, proxy.Options{Balance: proxy.RoundRobin}, addrs...)
			c := w.client(t)
			for range addrs {
				get(t, c, r.url("/"))
			}
			a, err := fetch(c, "GET", r.url("/crash"), "")
			require.NoError(t, err)
			require.Equal(t, http.StatusBadGateway, a.status)
			require.EqualValues(t, 3, crashes.Load())
			r.close()
		})
	}
}

// TestNoReplayIdempotencyKey: a POST without a body is not sent again because it
// has a field that says that it could be. The field is passed on.
func TestNoReplayIdempotencyKey(t *testing.T) {
	for _, w := range slowWays {
		for _, field := range []string{"Idempotency-Key", "X-Idempotency-Key"} {
			t.Run(fmt.Sprint(w, field), func(t *testing.T) {
				posts := make(chan *http.Request, 10)
				addr := newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
					for {
						r, err := http.ReadRequest(br)
						if err != nil {
							return
						}
						if r.Method == "POST" {
							posts <- r
							return
						}
						io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					}
				})
				r := newRig(t, proxy.Options{}, addr)
				c := w.client(t)
				get(t, c, r.url("/"))
				a, err := fetch(c, "POST", r.url("/"), "", field, "key")
				require.NoError(t, err)
				require.Equal(t, http.StatusBadGateway, a.status)
				p := receive(t, posts)
				assert.Equal(t, "key", p.Header.Get(field))
				assert.Empty(t, p.TransferEncoding)
				assert.Zero(t, p.ContentLength)
				require.Empty(t, posts)
			})
		}
	}
}

// TestResetNotResent: a request whose stream was reset is not sent again beyond
// what is counted and allowed; one that is not idempotent is not at all.
func TestResetNotResent(t *testing.T) {
	for _, grpc := range []bool{false, true} {
		for _, code := range []uint32{h2ProtocolError, h2InternalError} {
			for _, test := range []struct {
				method, body string
				seen         int64
			}{
				{"GET", "", 3}, {"PUT", "body", 3}, {"POST", "", 1}, {"POST", "body", 1}, {"PATCH", "", 1},
			} {
				t.Run(fmt.Sprint(grpc, code, test.method, test.body), func(t *testing.T) {
					var seen atomic.Int64
					addr := newHTTP2Origin(t, func(stream uint32) ([]byte, bool) {
						seen.Add(1)
						return h2Frame{kind: h2Reset, stream: stream, payload: h2Uints(code)}.bytes(), false
					})
					opts, header := proxy.Options{BackendProtocol: proxy.H2C}, []string(nil)
					if grpc {
						opts, header = proxy.Options{}, []string{"Content-Type", "application/grpc"}
					}
					r := newRig(t, opts, addr)
					a, err := fetch(h2Way.client(t), test.method, r.url("/"), test.body, header...)
					require.NoError(t, err)
					if !grpc {
						require.Equal(t, http.StatusBadGateway, a.status)
					}
					require.Equal(t, test.seen, seen.Load())
					require.EqualValues(t, test.seen, r.backend(addr).Requests)
					require.EqualValues(t, test.seen-1, r.backend(addr).Retries)
				})
			}
		}
	}
}

// TestRefusedElsewhere: a request that a backend of HTTP/2 says it did not look at
// is tried elsewhere at once, with what was sent of its body.
func TestRefusedElsewhere(t *testing.T) {
	refusals := map[string]func(stream uint32) ([]byte, bool){
		"REFUSED_STREAM": func(stream uint32) ([]byte, bool) {
			return h2Frame{kind: h2Reset, stream: stream, payload: h2Uints(h2RefusedStream)}.bytes(), false
		},
		"GOAWAY": func(uint32) ([]byte, bool) {
			return h2Frame{kind: h2GoAway, payload: h2Uints(0, 0)}.bytes(), true
		},
		"GOAWAY, for an error": func(uint32) ([]byte, bool) {
			return h2Frame{kind: h2GoAway, payload: h2Uints(0, h2InternalError)}.bytes(), true
		},
	}
	for name, refusal := range refusals {
		for _, method := range []string{"GET", "POST"} {
			for _, body := range []string{"", "body"} {
				for _, known := range []bool{false, true} {
					t.Run(fmt.Sprint(name, method, body, known), func(t *testing.T) {
						var seen atomic.Int64
						bad := newHTTP2Origin(t, func(stream uint32) ([]byte, bool) {
							seen.Add(1)
							return refusal(stream)
						})
						good := newOrigin(t, "", func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
						r := newRig(t, proxy.Options{BackendProtocol: proxy.H2C, Balance: proxy.RoundRobin, RetryBudget: -1}, bad, good.addr)
						c := h2Way.client(t)
						for range 2 {
							req, err := http.NewRequest(method, r.url("/"), strings.NewReader(body))
							require.NoError(t, err)
							if req.GetBody = nil; !known {
								req.ContentLength = -1
							}
							got, err := whole(c.Do(req))
							require.NoError(t, err)
							require.Equal(t, 200, got.status)
							require.Equal(t, body, got.body)
						}
						require.EqualValues(t, 1, seen.Load(), "then it is avoided")
						require.EqualValues(t, 1, r.backend(bad).Requests)
					})
				}
			}
		}
	}
}

// TestEndedConnections: a request does not meet a connection that the backend had
// ended before, so that even a POST does not fail by that.
func TestEndedConnections(t *testing.T) {
	for _, w := range ways {
		t.Run(string(w), func(t *testing.T) {
			ended := make(chan struct{})
			opts := proxy.Options{}
			addr := newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
				if _, err := http.ReadRequest(br); err != nil {
					return
				}
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				br.Discard(len("body"))
				c.Close()
				ended <- struct{}{}
			})
			r := newRig(t, opts, addr)
			c := w.client(t)
			for range 200 {
				a, err := fetch(c, "POST", r.url("/"), "body")
				require.NoError(t, err)
				require.Equal(t, 200, a.status, a.body)
				receive(t, ended)
			}
			st := r.backend(addr)
			require.Zero(t, st.Retries)
			require.Zero(t, st.Errors)
		})
	}
}

// TestUnsendable: a request that cannot be sent to a backend says nothing about
// that.
func TestUnsendable(t *testing.T) {
	t.Run("field", func(t *testing.T) {
		o := newOrigin(t, "it", nil)
		r := newRig(t, proxy.Options{}, o.addr)
		req := httptest.NewRequest("GET", "/", nil)
		req.Header["no name"] = []string{"x"}
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		require.Equal(t, http.StatusBadRequest, w.Code)
		require.False(t, r.backend(o.addr).Avoided)
		require.EqualValues(t, 1, r.backend(o.addr).Errors[proxy.Canceled])
		require.EqualValues(t, 1, r.Status().Refused)
	})
	t.Run("size", func(t *testing.T) {
		l := newListener(t)
		srv := &http.Server{Handler: http.NotFoundHandler(), MaxHeaderBytes: 1 << 10, Protocols: new(http.Protocols)}
		srv.Protocols.SetUnencryptedHTTP2(true)
		var wg sync.WaitGroup
		wg.Go(func() { srv.Serve(l) })
		t.Cleanup(wg.Wait)
		t.Cleanup(func() { srv.Close() })
		addr := l.Addr().String()
		r := newRig(t, proxy.Options{BackendProtocol: proxy.H2C}, addr)
		c := h2Way.client(t)
		_, err := fetch(c, "GET", r.url("/"), "") // then its settings are known
		require.NoError(t, err)
		a, err := fetch(c, "GET", r.url("/"), "", "X", strings.Repeat("x", 20<<10))
		require.NoError(t, err)
		require.Equal(t, http.StatusBadRequest, a.status)
		require.False(t, r.backend(addr).Avoided)
		require.EqualValues(t, 1, r.Status().Refused)
	})
}
