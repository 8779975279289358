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
					got := in(func() (answer, error) {
						resp, err := c.Do(req)
						if err != nil {
							return answer{}, err
						}
						defer resp.Body.Close()
						b, err := io.ReadAll(resp.Body)
						return answer{resp.StatusCode, resp.Header, string(b)}, err
					})
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
	got := in(func() (answer, error) {
		resp, err := c.Post(r.url("/"), "text/plain", pr)
		if err != nil {
			return answer{}, err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return answer{resp.StatusCode, resp.Header, string(b)}, err
	})
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
		got := in(func() (answer, error) {
			resp, err := c.Post(r.url(path), kind, pr)
			if err != nil {
				return answer{}, err
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			return answer{resp.StatusCode, resp.Header, string(b)}, err
		})
		pw.Write([]byte("x"))
		time.Sleep(limit + limit/3)
		pw.Close()
		require.Equal(t, "1", receive(t, got).body)
	}
}

// TestReaderThatTakesNothingHTTP2: a client that takes nothing of what is sent on
// its connection. One that reads slowly has the time that it needs.
func TestReaderThatTakesNothingHTTP2(t *testing.T) {
	const streams = 16 // whose windows are more than sockets hold
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
