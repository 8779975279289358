package proxy_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// TestBodyTimeoutHTTP2: a body of known length that does not come to its end, with
// HTTP/2. The connection goes on.
func TestBodyTimeoutHTTP2(t *testing.T) {
	for _, method := range []string{"POST", "PUT"} { // a small PUT is read before it is sent
		for _, size := range []int64{1000, 100_000} {
			for _, trickles := range []bool{false, true} {
				t.Run(fmt.Sprint(method, size, trickles), func(t *testing.T) {
					o := newOrigin(t, "it", nil)
					r := newRig(t, proxy.Options{BodyTimeout: brief, MinBodyRate: 1 << 20}, o.addr)
					c := h2Way.client(t)
					pr, pw := io.Pipe()
					req, err := http.NewRequest(method, r.url("/"), pr)
					require.NoError(t, err)
					req.ContentLength = size
					got := in(func() (answer, error) { return whole(c.Do(req)) })
					pw.Write(make([]byte, size/2))
					var a result
					for waiting := true; waiting; {
						select {
						case a = <-got:
							waiting = false
						case <-time.After(brief / 10):
							if trickles {
								go pw.Write([]byte("x"))
							}
						}
					}
					pw.Close()
					require.NoError(t, a.err)
					require.Equal(t, http.StatusRequestTimeout, a.status)
					require.False(t, r.backend(o.addr).Avoided, "it is not the backend's fault")
					require.Equal(t, "it", get(t, c, r.url("/")))
				})
			}
		}
	}
}

// TestOpenBodyTimeoutHTTP2: nor is there more time for a body whose length is
// unknown.
func TestOpenBodyTimeoutHTTP2(t *testing.T) {
	o := newOrigin(t, "it", nil)
	r := newRig(t, proxy.Options{BodyTimeout: brief}, o.addr)
	c := h2Way.client(t)
	pr, pw := io.Pipe()
	defer pw.Close()
	got := in(func() (answer, error) { return whole(c.Post(r.url("/"), "text/plain", pr)) })
	pw.Write([]byte("x"))
	a := receive(t, got)
	require.NoError(t, a.err)
	require.Equal(t, http.StatusRequestTimeout, a.status)
	require.False(t, r.backend(o.addr).Avoided, "it is not the backend's fault")
}

// TestSlowBodyHTTP2: nor is a body too slow because the backend is, or, if its
// length is unknown, because there is a response already or it is of gRPC.
func TestSlowBodyHTTP2(t *testing.T) {
	const limit = 1500 * time.Millisecond
	o := newOrigin(t, "", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			time.Sleep(limit + limit/3)
		}
		if r.URL.Path == "/begun" {
			_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/2 always does that
			w.(http.Flusher).Flush()
		}
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	})
	r := newRig(t, proxy.Options{BodyTimeout: limit, MinBodyRate: 1 << 10}, o.addr)
	c := h2Way.client(t)
	a, err := fetch(c, "POST", r.url("/slow"), strings.Repeat("x", 20<<20))
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint(20<<20), a.body)

	for path, kind := range map[string]string{"/begun": "text/plain", "/": "application/grpc"} {
		pr, pw := io.Pipe()
		got := in(func() (answer, error) { return whole(c.Post(r.url(path), kind, pr)) })
		pw.Write([]byte("x"))
		time.Sleep(limit + limit/3)
		pw.Close()
		require.Equal(t, "1", receive(t, got).body)
	}
}

// TestHalfSentHTTP2: a client that stops within what it has begun, or goes on with
// it for ever.
func TestHalfSentHTTP2(t *testing.T) {
	settings := string(h2Frame{kind: h2Settings}.bytes())
	ping := string(h2Frame{kind: h2Ping, payload: make([]byte, 8)}.bytes())
	begun := string(h2Frame{kind: h2Headers, stream: 1, payload: h2Fields(":method", "GET")}.bytes())
	more := string(h2Frame{kind: h2Continuation, stream: 1, payload: h2Fields("x", "y")}.bytes())
	whole := string(h2Head(1, ":method", "GET", ":scheme", "http", ":authority", "h", ":path", "/"))
	post := string(h2Frame{h2Headers, h2EndHeaders, 1, h2Fields(":method", "POST", ":scheme", "http", ":authority", "h", ":path", "/", "content-type", "application/grpc")}.bytes())
	body := string(h2Frame{kind: h2Data, stream: 1, payload: make([]byte, 10_000)}.bytes())
	for _, encrypted := range []bool{false, true} {
		for _, test := range []struct{ name, says, trickles string }{
			{"nothing", "", ""},
			{"half of the preface", preface[:10], ""},
			{"most of the preface", preface[:20], ""},
			{"the preface", preface, ""},
			{"half of the settings", preface + settings[:5], ""},
			{"half of a frame's header", preface + settings + ping[:4], ""},
			{"half of a frame", preface + settings + ping[:12], ""},
			{"half of a head", preface + settings + whole[:20], ""},
			{"a head without end", preface + settings + begun, ""},
			{"a head that goes on", preface + settings + begun, more},
			{"half of a body's frame", preface + settings + post + body[:1000], ""},
			{"a body's frame that goes on", preface + settings + post + body[:1000], "x"},
		} {
			t.Run(fmt.Sprintf("%s, encrypted: %v", test.name, encrypted), func(t *testing.T) {
				opts := proxy.Options{HeaderTimeout: brief, BodyTimeout: brief, MinBodyRate: 1 << 20}
				if encrypted {
					opts.GetCertificate = getCertificate(t)
				}
				r := newRig(t, opts, newOrigin(t, "it", func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }).addr)
				tc, _ := open(t, r.addr)
				var c net.Conn = tc
				if encrypted {
					c = tls.Client(tc, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
					require.NoError(t, c.(*tls.Conn).Handshake())
				}
				if test.says != "" {
					say(t, c, "%s", test.says)
				}
				ended := make(chan struct{})
				var wg sync.WaitGroup
				wg.Go(func() {
					for test.trickles != "" {
						select {
						case <-time.After(brief / 10):
						case <-ended:
							return
						}
						if _, err := io.WriteString(c, test.trickles); err != nil {
							return
						}
					}
				})
				_, err := io.Copy(io.Discard, c)
				close(ended)
				wg.Wait()
				require.False(t, isTimeout(err), "it is still open")
				soon(t, func() bool { return r.Status().Clients == 0 })
			})
		}
	}
}

// TestRestsHTTP2: nothing is limited that rests between frames, and a request over
// TLS is known to be one.
func TestRestsHTTP2(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		o := newOrigin(t, "", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Header.Get("X-Forwarded-Proto")) })
		const limit = time.Second
		opts, scheme := proxy.Options{HeaderTimeout: limit, BodyTimeout: limit}, "http"
		tr := &http.Transport{Protocols: new(http.Protocols), TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		tr.Protocols.SetUnencryptedHTTP2(!encrypted)
		tr.Protocols.SetHTTP2(encrypted)
		if encrypted {
			opts.GetCertificate, scheme = getCertificate(t), "https"
		}
		r := newRig(t, opts, o.addr)
		c := &http.Client{Transport: tr, Timeout: longest}
		t.Cleanup(tr.CloseIdleConnections)
		for range 2 {
			require.Equal(t, scheme, get(t, c, scheme+"://"+r.addr+"/"))
			require.EqualValues(t, 1, r.Status().Clients)
			time.Sleep(limit + limit/3)
		}
		require.EqualValues(t, 1, r.Status().Clients)
		tr.CloseIdleConnections()
		r.close()
	}
}

// TestReaderThatTakesNothingHTTP2: a client that takes nothing of what is sent on
// its connection. One that reads slowly has the time that it needs.
func TestReaderThatTakesNothingHTTP2(t *testing.T) {
	o := newOrigin(t, "", func(w http.ResponseWriter, r *http.Request) {
		big := make([]byte, 1<<20)
		for range 4 {
			w.Write(big)
		}
	})
	for _, encrypted := range []bool{false, true} {
		for _, slow := range []bool{false, true} {
			t.Run(fmt.Sprintf("encrypted: %v, slow: %v", encrypted, slow), func(t *testing.T) {
				opts := proxy.Options{BodyTimeout: 800 * time.Millisecond}
				if encrypted {
					opts.GetCertificate = getCertificate(t)
				}
				r := newRig(t, opts, o.addr)
				s := &stopping{goOn: make(chan struct{})}
				tr := &http.Transport{Protocols: new(http.Protocols), HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 4<<20 - 1}}
				scheme := "http"
				if encrypted {
					scheme = "https"
					tr.Protocols.SetHTTP2(true)
					tr.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
				} else {
					tr.Protocols.SetUnencryptedHTTP2(true)
				}
				tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					if s.state.Load() == 2 {
						// The client would send again, there, what the end of
						// the first connection left unanswered.
						return nil, errors.New("one connection is all there is")
					}
					c, err := new(net.Dialer).DialContext(ctx, network, addr)
					if err != nil {
						return nil, err
					}
					c.(*net.TCPConn).SetReadBuffer(256 << 10)
					return &stopper{c, s}, nil
				}
				defer tr.CloseIdleConnections()
				c := &http.Client{Transport: tr, Timeout: longest}
				warm, err := c.Head(scheme + "://" + r.addr + "/")
				require.NoError(t, err)
				warm.Body.Close()
				if slow {
					s.state.Store(1)
				} else {
					s.state.Store(2)
				}
				streams := int64(16) // whose windows are more than sockets hold
				if slow {
					streams = 4 // which is more still, and all of it is to come
				}
				before := o.hits.Load()
				var got []<-chan result
				for range streams {
					got = append(got, in(func() (answer, error) { return fetch(c, "GET", scheme+"://"+r.addr+"/", "") }))
				}
				if slow {
					time.Sleep(2500 * time.Millisecond)
					s.state.Store(0)
				} else {
					soon(t, func() bool { return o.hits.Load() == before+streams })
					soon(t, func() bool { return r.Status().Clients == 0 }, "the connection must be given up")
					soon(t, func() bool { return r.backend(o.addr).InFlight == 0 }, "and so must its requests")
				}
				close(s.goOn)
				for _, g := range got {
					a := receive(t, g)
					if slow {
						require.NoError(t, a.err)
						require.Len(t, a.body, 4<<20)
					} else {
						require.Error(t, a.err)
					}
				}
			})
		}
	}
}

// A stopping is how connections are read: slowly (1), or not at all (2), until
// goOn is closed.
type stopping struct {
	state atomic.Int32
	goOn  chan struct{}
}

type stopper struct {
	net.Conn
	*stopping
}

func (s *stopper) Read(p []byte) (int, error) {
	switch s.state.Load() {
	case 1:
		time.Sleep(20 * time.Millisecond)
		p = p[:min(len(p), 32<<10)]
	case 2:
		<-s.goOn
	}
	return s.Conn.Read(p)
}
