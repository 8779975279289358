package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// onBothPaths runs a test on the fast path, and with a header field that only
// net/http's takes.
func onBothPaths(t *testing.T, f func(t *testing.T, fields string)) {
	t.Run("fast", func(t *testing.T) { f(t, "Host: h\r\n") })
	t.Run("slow", func(t *testing.T) { f(t, "Host: h\r\nTE: trailers\r\n") })
}

// connect connects to the proxy.
func connect(t testing.TB, f *front) (net.Conn, *bufio.Reader) {
	c := dial(t, f.addr)
	return c, bufio.NewReader(c)
}

// pattern returns n bytes that are the same nowhere.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i) ^ byte(i>>8)*31 ^ byte(i>>16)*17
	}
	return b
}

func echo(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).EnableFullDuplex()
	if r.ContentLength >= 0 {
		w.Header().Set("Content-Length", fmt.Sprint(r.ContentLength))
	}
	_, _ = io.Copy(w, r.Body) // the client may leave
}

func TestExpectContinue(t *testing.T) {
	f := serve(t, proxy.Options{BodyTimeout: time.Second}, httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		echo(w, r)
	}))
	for _, length := range []int{5, 100_000} {
		t.Run(fmt.Sprint(length), func(t *testing.T) {
			c, br := connect(t, f)
			send(t, c, fmt.Sprintf("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", length))
			resp, err := readResponse(br, "POST")
			require.NoError(t, err)
			require.Equal(t, 100, resp.StatusCode)
			body := string(pattern(length))
			send(t, c, body)
			got, err := readFinal(br, "POST") // on a busy machine the backend's 100 may follow the proxy's own
			require.NoError(t, err)
			require.Equal(t, 200, got.StatusCode)
			require.True(t, got.body == body)
		})
	}
	t.Run("refused", func(t *testing.T) {
		c, br := connect(t, f)
		send(t, c, "POST /refuse HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
		resp, err := readResponse(br, "POST")
		require.NoError(t, err)
		require.Equal(t, 413, resp.StatusCode)
		require.True(t, resp.Close)
		requireEnd(t, br)
	})
}

func TestInterimResponses(t *testing.T) {
	f := serve(t, proxy.Options{}, httpBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Link", "</b.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		fmt.Fprint(w, "hallo")
	}))
	onBothPaths(t, func(t *testing.T, fields string) {
		c, br := connect(t, f)
		for range 2 {
			for _, link := range []string{"</a.css>", "</b.css>"} {
				resp := response{}
				if link == "</a.css>" {
					resp = ask(t, c, br, "GET / HTTP/1.1\r\n"+fields+"\r\n")
				} else {
					var err error
					resp, err = readResponse(br, "GET")
					require.NoError(t, err)
				}
				require.Equal(t, http.StatusEarlyHints, resp.StatusCode)
				require.Equal(t, link, resp.Header.Get("Link"))
				require.Empty(t, resp.Header.Get("Content-Length"))
			}
			resp, err := readResponse(br, "GET")
			require.NoError(t, err)
			require.Equal(t, 200, resp.StatusCode)
			require.Empty(t, resp.Header.Get("Link"))
			require.Equal(t, "hallo", resp.body)
		}
	})
}

// TestNoInterimResponses: a client of HTTP/1.0 gets none.
func TestNoInterimResponses(t *testing.T) {
	f := serve(t, proxy.Options{}, httpBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		fmt.Fprint(w, "hallo")
	}))
	c := dial(t, f.addr)
	resp := ask(t, c, bufio.NewReader(c), "GET / HTTP/1.0\r\nHost: h\r\n\r\n")
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "hallo", resp.body)
}

func TestTrailers(t *testing.T) {
	f := serve(t, proxy.Options{}, httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Sum, Seen")
		fmt.Fprint(w, "hallo")
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Sum", "42")
		w.Header().Set("Seen", r.Trailer.Get("Up"))
	}))
	t.Run("of responses", func(t *testing.T) {
		onBothPaths(t, func(t *testing.T, fields string) {
			c, br := connect(t, f)
			for range 2 {
				resp := ask(t, c, br, "GET / HTTP/1.1\r\n"+fields+"\r\n")
				require.Equal(t, "hallo", resp.body)
				require.Equal(t, "42", resp.Trailer.Get("Sum"))
			}
		})
	})
	t.Run("of requests", func(t *testing.T) {
		c, br := connect(t, f)
		resp := ask(t, c, br, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: Up\r\n\r\n1\r\nx\r\n0\r\nUp: there\r\n\r\n")
		require.Equal(t, "hallo", resp.body)
		require.Equal(t, "there", resp.Trailer.Get("Seen"))
	})
}

// TestBodies sends bodies of all sizes, with a length and in chunks, with and
// without TLS, and gets them back.
func TestBodies(t *testing.T) {
	cert, roots := certificate(t)
	backend := httpBackend(t, echo)
	for _, scheme := range []string{"http", "https"} {
		opts := proxy.Options{}
		if scheme == "https" {
			opts.GetCertificate = cert
		}
		f := serve(t, opts, backend)
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
		client := &http.Client{Transport: transport, Timeout: patience}
		t.Cleanup(transport.CloseIdleConnections)
		for _, chunked := range []bool{false, true} {
			for _, size := range []int{0, 1, 4095, 16 << 10, 16<<10 + 1, 32<<10 - 7, 64 << 10, 1 << 20, 8 << 20} {
				t.Run(fmt.Sprintf("%s/chunked=%v/%d", scheme, chunked, size), func(t *testing.T) {
					body := pattern(size)
					var r io.Reader = bytes.NewReader(body)
					if chunked {
						r = io.MultiReader(r) // of which net/http does not know the length
					}
					resp, err := client.Post(scheme+"://"+f.addr, "", r)
					require.NoError(t, err)
					defer resp.Body.Close()
					got, err := io.ReadAll(resp.Body)
					require.NoError(t, err)
					require.True(t, bytes.Equal(body, got), "got %d bytes", len(got))
				})
			}
		}
	}
}

// TestEventStream checks that each event is there before the next one is made.
func TestEventStream(t *testing.T) {
	next := make(chan struct{})
	f := serve(t, proxy.Options{}, httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for n := range 5 {
			select {
			case <-next:
			case <-r.Context().Done():
				return
			}
			fmt.Fprintf(w, "data: %d\n\n", n)
			_ = http.NewResponseController(w).Flush() // the client may have left
		}
	}))
	onBothPaths(t, func(t *testing.T, fields string) {
		c, br := connect(t, f)
		send(t, c, "GET / HTTP/1.1\r\n"+fields+"\r\n")
		next <- struct{}{}
		resp, err := http.ReadResponse(br, nil)
		require.NoError(t, err)
		events := bufio.NewReader(resp.Body)
		for n := range 5 {
			line, err := events.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("data: %d\n", n), line)
			_, err = events.ReadString('\n')
			require.NoError(t, err)
			if n < 4 {
				next <- struct{}{}
			}
		}
		_, err = events.ReadByte()
		require.ErrorIs(t, err, io.EOF)
	})
}

func TestResponsesWithoutBody(t *testing.T) {
	f := serve(t, proxy.Options{}, httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/length":
			w.Header().Set("Content-Length", "12345")
		case "/304":
			w.Header().Set("Etag", `"x"`)
			w.WriteHeader(http.StatusNotModified)
		case "/204":
			w.WriteHeader(http.StatusNoContent)
		}
	}))
	onBothPaths(t, func(t *testing.T, fields string) {
		c, br := connect(t, f)
		resp := ask(t, c, br, "HEAD /length HTTP/1.1\r\n"+fields+"\r\n")
		require.Equal(t, int64(12345), resp.ContentLength)
		resp = ask(t, c, br, "GET /304 HTTP/1.1\r\n"+fields+"\r\n")
		require.Equal(t, 304, resp.StatusCode)
		require.Equal(t, `"x"`, resp.Header.Get("Etag"))
		resp = ask(t, c, br, "DELETE /204 HTTP/1.1\r\n"+fields+"\r\n")
		require.Equal(t, 204, resp.StatusCode)
		require.Empty(t, resp.Header["Content-Length"])
		require.Empty(t, resp.TransferEncoding)
		resp = ask(t, c, br, "HEAD / HTTP/1.1\r\n"+fields+"\r\n")
		require.Equal(t, 200, resp.StatusCode)
	})
}

// upgradeTo is a request for another protocol.
func upgradeTo(protocol string) string {
	return "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: " + protocol + "\r\n\r\n"
}

// switcher is a backend that switches to a protocol which echoes what it gets
// until that ends, and then says bye.
func switcher(t *testing.T) string {
	return newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		r, err := http.ReadRequest(br)
		if err != nil || r.Header.Get("Upgrade") == "" {
			return
		}
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\nhello ", r.Header.Get("Upgrade"))
		_, _ = io.Copy(c, br)
		_, _ = io.WriteString(c, " bye")
	})
}

func TestUpgrade(t *testing.T) {
	cert, roots := certificate(t)
	backend := switcher(t)
	for _, encrypted := range []bool{false, true} {
		opts := proxy.Options{}
		if encrypted {
			opts.GetCertificate = cert
		}
		f := serve(t, opts, backend)
		open := func(t *testing.T, first string) (c net.Conn, br *bufio.Reader) {
			c = dial(t, f.addr)
			if encrypted {
				c = tls.Client(c, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"})
			}
			br = bufio.NewReader(c)
			send(t, c, first)
			resp, err := http.ReadResponse(br, nil)
			require.NoError(t, err)
			require.Equal(t, 101, resp.StatusCode)
			require.Equal(t, "Upgrade", resp.Header.Get("Connection"))
			expect(t, br, "hello ")
			return c, br
		}
		t.Run(fmt.Sprintf("echo/tls=%v", encrypted), func(t *testing.T) {
			c, br := open(t, upgradeTo("echo/1"))
			for range 3 {
				send(t, c, "ping")
				expect(t, br, "ping")
			}
			big := string(pattern(1 << 20))
			go func() { _, _ = io.WriteString(c, big) }() // or expect fails
			expect(t, br, big)
		})
		t.Run(fmt.Sprintf("half-close/tls=%v", encrypted), func(t *testing.T) {
			c, br := open(t, upgradeTo("echo/1"))
			send(t, c, "last words")
			require.NoError(t, c.(interface{ CloseWrite() error }).CloseWrite())
			rest, err := io.ReadAll(br)
			require.NoError(t, err)
			require.Equal(t, "last words bye", string(rest))
		})
		t.Run(fmt.Sprintf("what comes early/tls=%v", encrypted), func(t *testing.T) {
			c, br := open(t, upgradeTo("echo/1")+"early bird")
			expect(t, br, "early bird")
			send(t, c, ", late worm")
			expect(t, br, ", late worm")
		})
		t.Run(fmt.Sprintf("not h2c/tls=%v", encrypted), func(t *testing.T) {
			c, _ := open(t, upgradeTo("h2c, echo/1"))
			c.Close()
		})
	}
}

func expect(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(r, got)
	require.NoError(t, err, "after %d bytes", n)
	require.True(t, want == string(got), "%.100q", got)
}

// TestBackendEndsUpgrade checks that what one end has ended the other sees ended,
// and can still answer.
func TestBackendEndsUpgrade(t *testing.T) {
	said := make(chan string, 1)
	f := serve(t, proxy.Options{}, newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		if _, err := http.ReadRequest(br); err != nil {
			return
		}
		says("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nthat is all")(c)
		_ = c.CloseWrite()
		rest, _ := io.ReadAll(br)
		said <- string(rest)
	}))
	c, br := connect(t, f)
	send(t, c, upgradeTo("x"))
	_, err := http.ReadResponse(br, nil)
	require.NoError(t, err)
	rest, err := io.ReadAll(br)
	require.NoError(t, err)
	require.Equal(t, "that is all", string(rest))
	send(t, c, "thanks")
	c.Close()
	select {
	case s := <-said:
		require.Equal(t, "thanks", s)
	case <-time.After(patience):
		require.Fail(t, "the backend waits for ever")
	}
}

// TestHopByHop checks that fields which are for one hop only end there.
func TestHopByHop(t *testing.T) {
	var got atomic.Pointer[http.Header]
	f := serve(t, proxy.Options{}, newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		for {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			got.Store(&r.Header)
			says("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: X-Secret, Keep-Alive\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\n" +
				"Proxy-Authenticate: Basic\r\nProxy-Connection: keep-alive\r\nX-Open: 1\r\nUpgrade: x\r\n\r\nhallo")(c)
		}
	}))
	onBothPaths(t, func(t *testing.T, fields string) {
		c, br := connect(t, f)
		for range 2 {
			resp := ask(t, c, br, "GET / HTTP/1.1\r\n"+fields+"Connection: keep-alive\r\nX-Open: 1\r\nKeep-Alive: 300\r\n\r\n")
			for _, name := range []string{"Connection", "X-Secret", "Keep-Alive", "Proxy-Authenticate", "Proxy-Connection", "Upgrade"} {
				assert.Empty(t, resp.Header[name], name)
			}
			assert.Equal(t, "1", resp.Header.Get("X-Open"))
			assert.Equal(t, "hallo", resp.body)
			assert.Empty(t, (*got.Load())["Connection"])
			assert.Empty(t, (*got.Load())["Keep-Alive"])
			assert.Equal(t, "1", got.Load().Get("X-Open"))
		}
	})
	c, br := connect(t, f)
	for _, connection := range []string{"X-Secret, Authorization, X-Forwarded-For", "close, X-Secret, authorization"} {
		ask(t, c, br, "GET / HTTP/1.1\r\nHost: h\r\nConnection: "+connection+"\r\nX-Secret: 1\r\nAuthorization: x\r\nX-Open: 1\r\n"+
			"Proxy-Authorization: x\r\nProxy-Connection: x\r\nTE: gzip\r\nHTTP2-Settings: x\r\n\r\n")
		for _, name := range []string{"Connection", "X-Secret", "Authorization", "Proxy-Authorization", "Proxy-Connection", "Te", "Http2-Settings"} {
			assert.Empty(t, (*got.Load())[name], name)
		}
		assert.Equal(t, "1", got.Load().Get("X-Open"))
		assert.Equal(t, "127.0.0.1", got.Load().Get("X-Forwarded-For"))
	}
}

// TestForwarded checks the fields by which a backend learns who asks.
func TestForwarded(t *testing.T) {
	backend := newRecorder(t)
	trust := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	const theirs = "X-Forwarded-For: 1.2.3.4\r\nx-forwarded-for: 5.6.7.8, 2001:db8::1\r\nX-Forwarded-Host: a\r\nX-Forwarded-Proto: https\r\n" +
		"X-Forwarded-Port: 443\r\nForwarded: for=1.2.3.4;proto=https\r\nFORWARDED: for=\"[2001:db8::1]\"\r\n"
	for _, test := range []struct {
		name    string
		trusted []netip.Prefix
		host    string
		sent    string
		want    map[string]string // joined with "|"
	}{
		{"nothing", nil, "127.0.0.1", "", map[string]string{
			"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "h", "X-Forwarded-Proto": "http", "X-Forwarded-Port": "",
			"Forwarded": `for=127.0.0.1;host="h";proto=http`}},
		{"of somebody", nil, "127.0.0.1", theirs, map[string]string{
			"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "h", "X-Forwarded-Proto": "http", "X-Forwarded-Port": "",
			"Forwarded": `for=127.0.0.1;host="h";proto=http`}},
		{"of a proxy", trust, "127.0.0.1", theirs, map[string]string{
			"X-Forwarded-For": "1.2.3.4, 5.6.7.8, 2001:db8::1, 127.0.0.1", "X-Forwarded-Host": "a", "X-Forwarded-Proto": "https", "X-Forwarded-Port": "443",
			"Forwarded": `for=1.2.3.4;proto=https, for="[2001:db8::1]", for=127.0.0.1;host="h";proto=http`}},
		{"nothing of a proxy", trust, "127.0.0.1", "", map[string]string{
			"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "h", "X-Forwarded-Proto": "http",
			"Forwarded": `for=127.0.0.1;host="h";proto=http`}},
		{"IPv6", nil, "::1", theirs, map[string]string{
			"X-Forwarded-For": "::1", "X-Forwarded-Host": "h", "X-Forwarded-Proto": "http", "X-Forwarded-Port": "",
			"Forwarded": `for="[::1]";host="h";proto=http`}},
		{"IPv6 of a proxy", trust, "::1", "Forwarded: for=x\r\n", map[string]string{
			"X-Forwarded-For": "::1", "Forwarded": `for=x, for="[::1]";host="h";proto=http`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := serveOn(t, net.JoinHostPort(test.host, "0"), proxy.Options{TrustedProxies: test.trusted}, backend.addr)
			onBothPaths(t, func(t *testing.T, fields string) {
				c, br := connect(t, f)
				backend.take()
				resp := ask(t, c, br, "GET / HTTP/1.1\r\n"+fields+test.sent+"\r\n")
				require.Equal(t, 200, resp.StatusCode)
				seen, _, odd := backend.take()
				require.Empty(t, odd)
				require.Len(t, seen, 1)
				for name, want := range test.want {
					assert.Equal(t, want, strings.Join(seen[0].values(name), "|"), name)
				}
			})
		})
	}
}

func TestTraceparent(t *testing.T) {
	const theirs = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	backend := newRecorder(t)
	for _, tracing := range []bool{false, true} {
		opts := proxy.Options{}
		spans := make(chan proxy.Span, 10)
		if tracing {
			opts.Span = func(s proxy.Span) { spans <- s }
			opts.TraceShare = 1
		}
		f := serve(t, opts, backend.addr)
		onBothPaths(t, func(t *testing.T, fields string) {
			for _, sent := range []string{"", theirs, "00-00000000000000000000000000000000-b7ad6b7169203331-01", "junk", theirs + "|" + theirs} {
				c, br := connect(t, f)
				backend.take()
				field := ""
				if sent != "" {
					field = "Traceparent: " + strings.ReplaceAll(sent, "|", "\r\ntraceparent: ") + "\r\n"
				}
				ask(t, c, br, "GET / HTTP/1.1\r\n"+fields+field+"\r\n")
				seen, _, _ := backend.take()
				require.Len(t, seen, 1)
				got := seen[0].values("Traceparent")
				if !tracing {
					require.Equal(t, sent, strings.Join(got, "|"))
					continue
				}
				require.Len(t, got, 1)
				require.Regexp(t, `^00-[0-9a-f]{32}-[0-9a-f]{16}-01$`, got[0])
				require.NotEqual(t, theirs, got[0])
				require.Equal(t, sent == theirs, got[0][:36] == theirs[:36], "continued %q as %q", sent, got[0])
				select {
				case span := <-spans:
					require.Equal(t, got[0][3:35], fmt.Sprintf("%x", span.TraceID))
					require.Equal(t, got[0][36:52], fmt.Sprintf("%x", span.SpanID))
					require.Equal(t, 200, span.Status)
				case <-time.After(patience):
					require.Fail(t, "no span")
				}
			}
		})
	}
}

func TestHTTP10(t *testing.T) {
	f := serve(t, proxy.Options{}, httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/chunked" {
			for range 3 {
				fmt.Fprint(w, "hallo")
				_ = http.NewResponseController(w).Flush()
			}
			return
		}
		fmt.Fprint(w, r.Proto, " ", r.Host)
	}))
	t.Run("closes", func(t *testing.T) {
		c, br := connect(t, f)
		resp := ask(t, c, br, "GET / HTTP/1.0\r\nHost: h\r\n\r\n")
		require.Equal(t, "HTTP/1.1 h", resp.body)
		requireEnd(t, br)
	})
	t.Run("without Host", func(t *testing.T) {
		c, br := connect(t, f)
		resp := ask(t, c, br, "GET / HTTP/1.0\r\n\r\n")
		require.Equal(t, 200, resp.StatusCode)
		requireEnd(t, br)
	})
	t.Run("keep-alive", func(t *testing.T) {
		c, br := connect(t, f)
		for range 3 {
			resp := ask(t, c, br, "GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n")
			require.Equal(t, "HTTP/1.1 h", resp.body)
			require.Equal(t, "keep-alive", resp.Header.Get("Connection"))
		}
	})
	t.Run("no chunks", func(t *testing.T) {
		c, br := connect(t, f)
		send(t, c, "GET /chunked HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n")
		head, err := textproto.NewReader(br).ReadLine()
		require.NoError(t, err)
		require.Contains(t, head, "200")
		header, err := textproto.NewReader(br).ReadMIMEHeader()
		require.NoError(t, err)
		require.Empty(t, header["Transfer-Encoding"])
		rest, err := io.ReadAll(br)
		require.NoError(t, err)
		require.Equal(t, "hallohallohallo", string(rest))
	})
}

func TestPipelining(t *testing.T) {
	backend := newRecorder(t)
	f := serve(t, proxy.Options{}, backend.addr)
	c, br := connect(t, f)
	var all strings.Builder
	const n = 200
	for i := range n {
		switch {
		case i%3 == 0:
			fmt.Fprintf(&all, "GET /%d HTTP/1.1\r\nHost: h\r\n\r\n", i)
		case i == 100: // from here on it is net/http's
			fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", i)
		default:
			body := pattern(i * 100)
			fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", i, len(body), body)
		}
	}
	go func() { _, _ = io.WriteString(c, all.String()) }() // or the loop below fails
	for i := range n {
		resp, err := readResponse(br, "GET")
		require.NoError(t, err, "response %d", i)
		require.Equal(t, fmt.Sprintf("/%d", i), resp.Header.Get("X-Target"))
		switch {
		case i%3 == 0:
			require.Empty(t, resp.body)
		case i == 100:
			require.Equal(t, "abc", resp.body)
		default:
			require.True(t, string(pattern(i*100)) == resp.body)
		}
	}
}

// TestSlowReader checks that a client which reads nothing makes the backend wait,
// rather than the proxy hold what it sends; and that all is there in the end.
func TestSlowReader(t *testing.T) {
	held := kernelHolds() + 1<<20 // and what is in the proxy's pipe or buffer
	size := int(held) + 16<<20
	size -= size % (1 << 20)
	var written atomic.Int64
	block := pattern(1 << 20)
	backend := httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", fmt.Sprint(size))
		}
		for range size / len(block) {
			n, err := w.Write(block)
			written.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	sum := sha256.New()
	for range size / len(block) {
		sum.Write(block)
	}
	want := sum.Sum(nil)
	f := serve(t, proxy.Options{}, backend)
	for _, path := range []string{"/length", "/chunked"} {
		t.Run(path[1:], func(t *testing.T) {
			onBothPaths(t, func(t *testing.T, fields string) {
				written.Store(0)
				c := dial(t, f.addr)
				require.NoError(t, c.SetReadBuffer(64<<10))
				send(t, c, "GET "+path+" HTTP/1.1\r\n"+fields+"\r\n")
				last := int64(-1)
				require.Eventually(t, func() bool { // it comes to rest
					now := written.Load()
					defer func() { last = now }()
					return now == last
				}, patience, 100*time.Millisecond)
				require.LessOrEqual(t, last, held, "somebody else holds it")
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				require.NoError(t, err)
				got := sha256.New()
				n, err := io.Copy(got, resp.Body)
				require.NoError(t, err)
				require.EqualValues(t, size, n)
				require.Equal(t, want, got.Sum(nil))
			})
		})
	}
}

// kernelHolds returns how much of a response the kernel may hold between a
// backend and a client that has a small buffer, on two connections: what the
// backend and the proxy have sent, and the proxy has not read.
func kernelHolds() int64 {
	const client = 256 << 10
	most := func(name string) int64 {
		b, err := os.ReadFile("/proc/sys/net/ipv4/" + name)
		if f := strings.Fields(string(b)); err == nil && len(f) == 3 {
			if n, err := strconv.ParseInt(f[2], 10, 64); err == nil {
				return n
			}
		}
		return 8 << 20 // more than other systems allow by themselves
	}
	return 2*most("tcp_wmem") + most("tcp_rmem") + client
}

// TestReaderThatIsSlow checks that a client which takes a little at a time gets
// all, however full the kernel's buffers are.
func TestReaderThatIsSlow(t *testing.T) {
	cert, roots := certificate(t)
	const size = 12 << 20
	backend := httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", fmt.Sprint(size))
		}
		_, _ = w.Write(pattern(size)) // the test fails below
	})
	want := pattern(size)
	// The system lets the proxy go on with a part of a window only: what the client
	// takes may get there every half a second, and later on a busy machine.
	const limit = 3 * time.Second
	inParallel(9, func(i int) {
		encrypted, path, slow, opaque := i&1 != 0, []string{"/length", "/chunked"}[i>>1&1], i&4 != 0, i == 8
		t.Run(fmt.Sprintf("%s/tls=%v/slow=%v/opaque=%v", path[1:], encrypted, slow, opaque), func(t *testing.T) {
			opts := proxy.Options{BodyTimeout: limit}
			if encrypted {
				opts.GetCertificate = cert
			}
			l := newListener(t)
			if opaque {
				l = wrapping{l, true}
			}
			f := serveListener(t, l, opts, backend)
			sock := dial(t, f.addr)
			require.NoError(t, sock.SetDeadline(time.Now().Add(time.Minute))) // all of them have 100 MiB to take
			require.NoError(t, sock.SetReadBuffer(32<<10))
			var c net.Conn = sock
			if encrypted {
				c = tls.Client(c, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"})
			}
			fields := "Host: h\r\n"
			if slow {
				fields += "TE: trailers\r\n"
			}
			send(t, c, "GET "+path+" HTTP/1.1\r\n"+fields+"\r\n")
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			require.NoError(t, err)
			got := make([]byte, 0, size)
			for began := time.Now(); time.Since(began) < 2*limit; {
				n, err := io.ReadFull(resp.Body, got[len(got):len(got)+8<<10])
				require.NoError(t, err)
				got = got[:len(got)+n]
				time.Sleep(100 * time.Millisecond)
			}
			rest, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, append(got, rest...)))
		})
	})
}

// TestUploadThatStops checks that a client which owes a part of its body does not
// keep its connection because the backend answers meanwhile.
func TestUploadThatStops(t *testing.T) {
	gone := make(chan struct{}, 1)
	backend := httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, err := io.Copy(flushed{w}, r.Body)
		if err != nil {
			gone <- struct{}{}
		}
	})
	f := serve(t, proxy.Options{BodyTimeout: 500 * time.Millisecond}, backend)
	for _, encoding := range []string{"Content-Length: 100000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\nC350\r\n"} {
		t.Run(encoding[:8], func(t *testing.T) {
			c, br := connect(t, f)
			send(t, c, "POST / HTTP/1.1\r\nHost: h\r\n"+encoding)
			half := string(pattern(50000))
			send(t, c, half)
			if strings.HasPrefix(encoding, "T") {
				send(t, c, "\r\n")
			}
			resp, err := http.ReadResponse(br, nil)
			require.NoError(t, err)
			expect(t, resp.Body, half)
			select {
			case <-gone:
			case <-time.After(patience):
				require.Fail(t, "the client is still waited for")
			}
			_, err = io.Copy(io.Discard, resp.Body)
			require.Error(t, err, "what has broken off looks whole")
			require.False(t, isTimeout(err))
			require.Eventually(t, func() bool { return f.only(t).InFlight == 0 }, patience, time.Millisecond)
			status := f.only(t)
			require.Zero(t, status.Errors[proxy.Broken]+status.Errors[proxy.TimedOut], "it is not the backend's fault: %v", status.Errors)
		})
	}
}

// A flushed writer keeps nothing back.
type flushed struct{ w http.ResponseWriter }

func (f flushed) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		err = http.NewResponseController(f.w).Flush()
	}
	return n, err
}

// TestReaderThatStops checks that a client which takes nothing of a response does
// not keep its connection, nor that to the backend.
func TestReaderThatStops(t *testing.T) {
	gone := make(chan struct{}, 1)
	backend := httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", fmt.Sprint(1<<30))
		}
		for block := pattern(1 << 20); ; {
			if _, err := w.Write(block); err != nil {
				gone <- struct{}{}
				return
			}
		}
	})
	f := serve(t, proxy.Options{BodyTimeout: 300 * time.Millisecond, ResponseTimeout: 300 * time.Millisecond}, backend)
	for _, path := range []string{"/length", "/chunked"} {
		t.Run(path[1:], func(t *testing.T) {
			onBothPaths(t, func(t *testing.T, fields string) {
				c := dial(t, f.addr)
				send(t, c, "GET "+path+" HTTP/1.1\r\n"+fields+"\r\n")
				select {
				case <-gone:
				case <-time.After(patience):
					require.Fail(t, "the client is still waited for")
				}
				require.Eventually(t, func() bool { return f.only(t).Errors[proxy.Canceled] > 0 }, patience, time.Millisecond)
				require.Zero(t, f.only(t).Errors[proxy.Broken]+f.only(t).Errors[proxy.TimedOut], "it is not the backend's fault")
			})
		})
	}
}

// TestClientLeaves checks that a backend learns when the client has gone while it
// still thinks.
func TestClientLeaves(t *testing.T) {
	cert, roots := certificate(t)
	started, canceled := make(chan struct{}, 1), make(chan struct{}, 1)
	backend := httpBackend(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // or it would not see the end
		started <- struct{}{}
		select {
		case <-r.Context().Done():
			canceled <- struct{}{}
		case <-time.After(patience):
		}
	})
	await := func(t *testing.T, c <-chan struct{}, what string) {
		t.Helper()
		select {
		case <-c:
		case <-time.After(patience):
			require.Fail(t, what)
		}
	}
	for _, encrypted := range []bool{false, true} {
		opts := proxy.Options{}
		if encrypted {
			opts.GetCertificate = cert
		}
		f := serve(t, opts, backend)
		for _, test := range []struct{ name, request string }{
			{"fast", "GET / HTTP/1.1\r\nHost: h\r\n\r\n"},
			{"slow", "GET / HTTP/1.1\r\nHost: h\r\nTE: trailers\r\n\r\n"},
			{"POST", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhallo"},
			{"big POST", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n" + string(pattern(100000))},
			{"chunked POST", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhallo\r\n0\r\n\r\n"},
			{"pipelining", "GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"},
		} {
			t.Run(fmt.Sprintf("%s/tls=%v", test.name, encrypted), func(t *testing.T) {
				var c net.Conn = dial(t, f.addr)
				if encrypted {
					c = tls.Client(c, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"})
				}
				send(t, c, test.request)
				await(t, started, "the backend got nothing")
				c.Close()
				await(t, canceled, "the backend works for nobody")
				require.Eventually(t, func() bool { return f.only(t).InFlight == 0 }, patience, time.Millisecond)
				status := f.only(t)
				require.Zero(t, status.Errors[proxy.Broken]+status.Errors[proxy.TimedOut], "%v", status.Errors)
				require.False(t, status.Avoided)
			})
		}
		t.Run(fmt.Sprintf("HTTP2/tls=%v", encrypted), func(t *testing.T) {
			transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, Protocols: new(http.Protocols)}
			transport.Protocols.SetHTTP2(true)
			transport.Protocols.SetUnencryptedHTTP2(true)
			defer transport.CloseIdleConnections()
			scheme := "http://"
			if encrypted {
				scheme = "https://"
			}
			r, err := http.NewRequest("GET", scheme+f.addr, nil)
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				resp, err := transport.RoundTrip(r.WithContext(ctx))
				if err == nil {
					resp.Body.Close()
					err = errors.New("there is a response")
				}
				done <- err
			}()
			await(t, started, "the backend got nothing")
			cancel()
			await(t, canceled, "the backend works for nobody")
			require.ErrorIs(t, <-done, ctx.Err())
		})
	}
}

// TestNoContentType: a response that does not say what it is reaches the client as
// it is, whether or not its body is there before its head has been sent.
func TestNoContentType(t *testing.T) {
	backend := httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Type"] = nil
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", "6")
		}
		_, _ = io.WriteString(w, "<html>") // the test fails below
	})
	untyped := func(t *testing.T, c *http.Client, url string) {
		t.Helper()
		for _, path := range []string{"/length", "/chunks"} {
			a, err := fetch(c, "GET", url+path, "")
			require.NoError(t, err)
			require.Equal(t, "<html>", a.body)
			require.NotContains(t, a.header, "Content-Type", path)
		}
	}
	eachWay(t, func(t *testing.T, w way) {
		r := newRig(t, proxy.Options{}, backend)
		c := w.client(t)
		for range 50 {
			untyped(t, c, r.url(""))
		}
	})
	// A server that sends the head no earlier than it must.
	for _, w := range []way{slowWay, h2Way} {
		t.Run("handler/"+string(w), func(t *testing.T) {
			p, err := proxy.New(proxy.Options{})
			require.NoError(t, err)
			t.Cleanup(p.Close)
			p.SetBackends([]string{backend})
			untyped(t, w.client(t), "http://"+httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
				p.ServeHTTP(struct{ http.ResponseWriter }{w}, r)
			}))
		})
	}
}
