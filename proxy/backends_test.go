package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// A badBackend is what a backend does to a request. It is left with the
// connection and closes it when it returns.
type badBackend struct {
	name string
	do   func(c *net.TCPConn)
	on   bool // it goes on to serve the connection
	late bool // it says something after the response

	status int             // as the client gets it; 0 if the response breaks off
	body   string          // if the response is good after all
	kind   proxy.ErrorKind // as it is counted; NoError if it is not
	reason string          // in the log
	method string          // GET if it is empty
}

func says(s string) func(*net.TCPConn) {
	return func(c *net.TCPConn) { _, _ = io.WriteString(c, s) } // the proxy may have hung up
}

// keeps is says, but waits for the proxy to close the connection.
func keeps(s string) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		says(s)(c)
		_, _ = io.Copy(io.Discard, c)
	}
}

// resets is says, and then a reset.
func resets(s string) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		says(s)(c)
		time.Sleep(20 * time.Millisecond) // the reset would overtake what was said
		_ = c.SetLinger(0)
	}
}

// inTwo says the second part later.
func inTwo(first, second string) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		splits(first, "")(c)
		keeps(second)(c)
	}
}

// splits is inTwo, but does not wait for the proxy to close the connection.
func splits(first, second string) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		says(first)(c)
		time.Sleep(50 * time.Millisecond)
		says(second)(c)
	}
}

func badBackends() []badBackend {
	big := strings.Repeat("x", 100<<10)
	const evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	return []badBackend{
		// No answer.
		{name: "closes", do: says(""), status: 502, kind: proxy.Broken, reason: "EOF"},
		{name: "resets", do: resets(""), status: 502, kind: proxy.Broken, reason: "reset"},
		{name: "hangs", do: keeps(""), status: 504, kind: proxy.TimedOut, reason: "timed out"},
		{name: "hangs in the first line", do: keeps("HTTP/1.1 20"), status: 504, kind: proxy.TimedOut, reason: "timed out"},
		{name: "hangs in the head", do: keeps("HTTP/1.1 200 OK\r\nX: y\r\n"), status: 504, kind: proxy.TimedOut, reason: "timed out"},
		{name: "hangs after an interim response", do: keeps("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"), status: 504, kind: proxy.TimedOut, reason: "timed out"},
		{name: "closes in the head", do: says("HTTP/1.1 200 OK\r\nX: y\r\n"), status: 502, kind: proxy.Broken, reason: "EOF"},
		{name: "resets in the head", do: resets("HTTP/1.1 200 OK\r\nX: y\r\n"), status: 502, kind: proxy.Broken},
		{name: "garbage", do: keeps("hallo\r\n\r\n"), status: 502, kind: proxy.BadResponse, reason: "malformed"},
		{name: "garbage of SSH", do: keeps("SSH-2.0-OpenSSH_9.9\r\n"), status: 502, kind: proxy.BadResponse, reason: "malformed"},
		{name: "garbage of HTTP/2", do: keeps("\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64\n"), status: 502, kind: proxy.BadResponse, reason: "malformed"},
		{name: "garbage without end", do: keeps(big), status: 502, kind: proxy.BadResponse},
		{name: "HTTP/0.9", do: says("hallo\n"), status: 502, kind: proxy.BadResponse, reason: "malformed"},
		{name: "HTTP/3.0", on: true, do: says("HTTP/3.0 200 OK\r\nContent-Length: 0\r\n\r\n"), status: 502, kind: proxy.BadResponse, reason: "malformed"},
		{name: "a head of 100 KiB", do: keeps("HTTP/1.1 200 OK\r\nX: " + big + "\r\n\r\n"), status: 502, kind: proxy.BadResponse},
		{name: "a head without end", do: keeps("HTTP/1.1 200 OK\r\n" + strings.Repeat("X: yyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n", 4000)), status: 502, kind: proxy.BadResponse},
		{name: "a field without colon", do: keeps("HTTP/1.1 200 OK\r\nX\r\n\r\n"), status: 502, kind: proxy.BadResponse, reason: "malformed"},
		{name: "NUL in a field", do: keeps("HTTP/1.1 200 OK\r\nX: \x00\r\nContent-Length: 0\r\n\r\n"), status: 502, kind: proxy.BadResponse},
		{name: "CR in a field", do: keeps("HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n"), status: 502, kind: proxy.BadResponse},
		{name: "status 42", do: keeps("HTTP/1.1 42 OK\r\nContent-Length: 0\r\n\r\n"), status: 502, kind: proxy.BadResponse},
		{name: "status 999", on: true, do: says("HTTP/1.1 999 OK\r\nContent-Length: 0\r\n\r\n"), status: 502, kind: proxy.BadResponse},
		{name: "status -20", do: keeps("HTTP/1.1 -20 OK\r\nContent-Length: 0\r\n\r\n"), status: 502, kind: proxy.BadResponse},
		{name: "101 unasked", do: keeps("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n" + evil), status: 502, kind: proxy.BadResponse, reason: "101"},
		{name: "interim responses without end", do: keeps(strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", 3000)), status: 502, kind: proxy.BadResponse},

		// Lengths.
		{name: "length and chunks", on: true, do: says("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n"), status: 502, kind: proxy.BadResponse},
		{name: "two lengths", do: keeps("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nhallo"), status: 502, kind: proxy.BadResponse},
		{name: "negative length", do: keeps("HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\nhallo"), status: 502, kind: proxy.BadResponse},
		{name: "plus length", do: keeps("HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\nhallo"), status: 502, kind: proxy.BadResponse},
		{name: "huge length", do: keeps("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nhallo"), status: 502, kind: proxy.BadResponse},
		{name: "unknown coding", do: keeps("HTTP/1.1 200 OK\r\nTransfer-Encoding: cow\r\n\r\n4\r\nevil\r\n0\r\n\r\n"), status: 502, kind: proxy.BadResponse},
		{name: "a short body", do: says("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhallo"), kind: proxy.Broken, reason: "EOF"},
		{name: "a short big body", do: says("HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + big), kind: proxy.Broken, reason: "EOF"},
		{name: "a body that is reset", do: resets("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhallo"), kind: proxy.Broken, reason: "reset"},
		{name: "a big body that is reset", do: resets("HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + big), kind: proxy.Broken, reason: "reset"},
		{name: "a body that hangs", do: keeps("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhallo"), kind: proxy.TimedOut, reason: "timed out"},
		{name: "a big body that hangs", do: keeps("HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + big), kind: proxy.TimedOut, reason: "timed out"},
		{name: "a long body", do: keeps("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhallo" + evil), status: 200, body: "hallo"},
		{name: "a long body, later", late: true, do: inTwo("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhallo", evil), status: 200, body: "hallo"},
		{name: "a long big body", do: keeps("HTTP/1.1 200 OK\r\nContent-Length: 102400\r\n\r\n" + big + evil), status: 200, body: big},
		{name: "a body where there must be none", do: keeps("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + evil), status: 200},
		{name: "204 with a body", do: keeps("HTTP/1.1 204 No Content\r\nContent-Length: 44\r\n\r\n" + evil), status: 204},
		{name: "204 with chunks", do: keeps("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n"), status: 204},
		{name: "304 with a body", do: keeps("HTTP/1.1 304 Not Modified\r\nContent-Length: 44\r\n\r\n" + evil), status: 304},
		{name: "HEAD with a body", do: keeps("HTTP/1.1 200 OK\r\nContent-Length: 44\r\n\r\n" + evil), status: 200, method: "HEAD"},
		{name: "HEAD with chunks, later", late: true, do: inTwo("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "4\r\nevil\r\n0\r\n\r\n"), status: 200, method: "HEAD"},

		// Chunks.
		{name: "a chunk of garbage", do: keeps("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhallo\r\n"), status: 502, kind: proxy.BadResponse, reason: "malformed"},
		{name: "a second chunk of garbage", do: inTwo("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhallo\r\n", "xyz\r\n"), kind: proxy.BadResponse},
		{name: "a chunk that is too long", do: keeps("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhallo\r\n0\r\n\r\n"), status: 502, kind: proxy.BadResponse, reason: "malformed"},
		{name: "a chunk that overflows", do: keeps("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\nhallo"), status: 502, kind: proxy.BadResponse, reason: "malformed"},
		{name: "chunks without end", do: says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhallo\r\n"), kind: proxy.Broken, reason: "EOF"},
		{name: "chunks without the last line", do: says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhallo\r\n0\r\n"), kind: proxy.Broken, reason: "EOF"},
		{name: "chunks that are reset", do: resets("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhallo\r\n"), kind: proxy.Broken, reason: "reset"},
		{name: "chunks, and more", do: keeps("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhallo\r\n0\r\n\r\n" + evil), status: 200, body: "hallo"},
		{name: "chunks in HTTP/1.0", do: says("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhallo\r\n0\r\n\r\n"), status: 502, kind: proxy.BadResponse},
		{name: "two codings", do: keeps("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n5\r\nhallo\r\n0\r\n\r\n"), status: 502, kind: proxy.BadResponse},
		{name: "a list of codings", do: keeps("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhallo\r\n0\r\n\r\n"), status: 502, kind: proxy.BadResponse},
		{name: "chunks with LF", do: keeps("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhallo\n0\n\n"), status: 502, kind: proxy.BadResponse},

		// Heads that some read differently.
		{name: "two equal lengths", do: keeps("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhallo"), status: 502, kind: proxy.BadResponse, reason: "malformed"},
		{name: "a list of lengths", do: keeps("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhallo"), status: 502, kind: proxy.BadResponse},
		{name: "a space before the colon", do: keeps("HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhallo"), status: 502, kind: proxy.BadResponse, reason: "malformed"},
		{name: "a folded field", do: keeps("HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 5\r\n\r\nhallo"), status: 502, kind: proxy.BadResponse, reason: "malformed"},
		{name: "lines that end with LF", do: keeps("HTTP/1.1 200 OK\nContent-Length: 5\n\nhallo"), status: 502, kind: proxy.BadResponse, reason: "malformed"},
		{name: "a field that ends with LF", do: keeps("HTTP/1.1 200 OK\r\nX: y\nContent-Length: 5\r\n\r\nhallo"), status: 502, kind: proxy.BadResponse, reason: "malformed"},
		{name: "an empty line of LF", do: keeps("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\nhallo"), status: 502, kind: proxy.BadResponse, reason: "malformed"},
		{name: "two lengths after an interim response", do: keeps("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhallo"), status: 502, kind: proxy.BadResponse, reason: "malformed"},
		{name: "two lengths in an interim response", do: keeps("HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhallo"), status: 502, kind: proxy.BadResponse, reason: "malformed"},
		{name: "two equal lengths for a HEAD", do: keeps("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n"), status: 502, kind: proxy.BadResponse, reason: "malformed", method: "HEAD"},

		// Good.
		{name: "a length", on: true, do: says("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhallo"), status: 200, body: "hallo"},
		{name: "a length of 0", on: true, do: says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), status: 200},
		{name: "no reason", on: true, do: says("HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhallo"), status: 200, body: "hallo"},
		{name: "a length, in two", on: true, do: splits("HTTP/1.1 200 OK\r\nContent-Le", "ngth: 5\r\n\r\nhallo"), status: 200, body: "hallo"},
		{name: "a head, and a big body", on: true, do: splits("HTTP/1.1 200 OK\r\nContent-Length: 102400\r\n\r\n", big), status: 200, body: big},
		{name: "chunks", on: true, do: says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhallo\r\n0\r\nX: y\r\n\r\n"), status: 200, body: "hallo"},
		{name: "chunks, in two", on: true, do: splits("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal", "lo\r\n0\r\n\r\n"), status: 200, body: "hallo"},
		{name: "HEAD", on: true, do: says("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), status: 200, method: "HEAD"},
		{name: "HEAD of chunks", on: true, do: says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), status: 200, method: "HEAD"},
		{name: "204", on: true, do: says("HTTP/1.1 204 No Content\r\n\r\n"), status: 204},
		{name: "304", on: true, do: says("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"), status: 304},

		// Odd, but good.
		{name: "two responses", do: keeps(strings.Replace(evil, "evil", "good", 1) + evil), status: 200, body: "good"},
		{name: "HTTP/1.0", do: says("HTTP/1.0 200 OK\r\n\r\nhallo"), status: 200, body: "hallo"},
		{name: "HTTP/1.0 with length", do: says("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhallo"), status: 200, body: "hallo"},
		{name: "HTTP/1.0 with keep-alive", on: true, do: says("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhallo"), status: 200, body: "hallo"},
		{name: "a body until the end", do: says("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + big), status: 200, body: big},
		{name: "interim responses", on: true, do: says("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + strings.Replace(evil, "evil", "good", 1)), status: 200, body: "good"},
		{name: "an answer before the request", on: true, do: says(strings.Replace(evil, "evil", "good", 1)), status: 200, body: "good"},
	}
}

// TestBadBackends has each of them answer GET /bad, on the fast path and, since
// the request has a TE field, by net/http. Before and after it /good must be
// answered, on the same connection if that is kept, and on another.
func TestBadBackends(t *testing.T) {
	list := badBackends()
	inParallel(len(list), func(i int) {
		for _, path := range []string{"fast", "slow"} {
			t.Run(list[i].name+"/"+path, func(t *testing.T) { testBadBackend(t, list[i], path == "slow") })
		}
	})
}

func testBadBackend(t *testing.T, bad badBackend, slow bool) {
	addr := newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		for {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			if r.URL.Path == "/bad" {
				bad.do(c)
				if bad.on {
					continue
				}
				return
			}
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(r.URL.Path), r.URL.Path)
		}
	})
	f := serve(t, proxy.Options{ResponseTimeout: time.Second, BodyTimeout: time.Second, MaxAttempts: 1}, addr)
	fields := "Host: h\r\n"
	if slow {
		fields += "TE: trailers\r\n"
	}
	good := func(c net.Conn, br *bufio.Reader, path string) {
		t.Helper()
		resp := ask(t, c, br, "GET "+path+" HTTP/1.1\r\n"+fields+"\r\n")
		require.Equal(t, 200, resp.StatusCode, "%s", resp.body)
		require.Equal(t, path, resp.body)
	}
	c := dial(t, f.addr)
	br := bufio.NewReader(c)
	good(c, br, "/good1")

	method := bad.method
	if method == "" {
		method = "GET"
	}
	send(t, c, method+" /bad HTTP/1.1\r\n"+fields+"\r\n")
	began := time.Now()
	resp, err := readFinal(br, method)
	require.Less(t, time.Since(began), patience/2)
	if bad.status == 0 {
		require.Error(t, err, "what has broken off looks whole: %q", resp.body)
		require.False(t, isTimeout(err), "it hangs")
	} else {
		require.NoError(t, err)
		assert.Equal(t, bad.status, resp.StatusCode)
		if bad.status < 400 && bad.method != "HEAD" {
			assert.Equal(t, bad.body, resp.body)
		}
		if resp.Close {
			requireEnd(t, br)
		} else {
			if bad.late {
				time.Sleep(300 * time.Millisecond) // in the meantime it is the next one's answer
			}
			good(c, br, "/good2")
		}
	}
	other := dial(t, f.addr)
	good(other, bufio.NewReader(other), "/good3")

	status := f.only(t)
	for kind := range status.Errors {
		want := uint64(0)
		if kind := proxy.ErrorKind(kind); kind == bad.kind && kind != proxy.NoError {
			want = 1
		}
		assert.Equal(t, want, status.Errors[kind], "%v", proxy.ErrorKind(kind))
	}
	if bad.kind != proxy.NoError {
		assert.Contains(t, f.log.String(), "failed")
		assert.Contains(t, f.log.String(), bad.reason)
	}
	assert.Eventually(t, func() bool { return f.only(t).InFlight == 0 }, patience, time.Millisecond)
}

// TestBackendsThatCannotBeReached checks those that there is no connection to.
func TestBackendsThatCannotBeReached(t *testing.T) {
	for name, addr := range map[string]string{
		"refuses":          deadAddr(t),
		"does not resolve": "no-such-host.invalid:80",
		"no such socket":   "unix:/nonexistent/socket",
		"no such port":     "127.0.0.1:no-such-port",
	} {
		for _, fields := range []string{"Host: h\r\n", "Host: h\r\nTE: trailers\r\n"} {
			for _, method := range []string{"GET", "POST"} {
				t.Run(fmt.Sprintf("%s/%s/slow=%v", name, method, len(fields) > 9), func(t *testing.T) {
					f := serve(t, proxy.Options{HoldTimeout: 150 * time.Millisecond}, addr)
					c := dial(t, f.addr)
					br := bufio.NewReader(c)
					for range 2 {
						resp := ask(t, c, br, method+" / HTTP/1.1\r\n"+fields+"Content-Length: 0\r\n\r\n")
						require.Equal(t, 502, resp.StatusCode, "%s", resp.body)
						require.False(t, resp.Close)
					}
					status := f.only(t)
					assert.GreaterOrEqual(t, status.Errors[proxy.DialFailed], uint64(2))
					assert.Contains(t, f.log.String(), "dial")
				})
			}
		}
	}
}

// TestBackendThatAnswersEarly checks that a response which comes before the request
// has been sent whole is passed on, and that nothing of the rest is taken for a
// request.
func TestBackendThatAnswersEarly(t *testing.T) {
	const size = 4 << 20
	for _, after := range []struct {
		name string
		do   func(*net.TCPConn)
	}{
		{"closes", func(*net.TCPConn) {}},
		{"resets", func(c *net.TCPConn) { _ = c.SetLinger(0) }},
		{"reads on", func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) }},
		{"reads no more", func(c *net.TCPConn) { time.Sleep(time.Second) }},
	} {
		for _, fields := range []string{fmt.Sprintf("Content-Length: %d\r\n", size), "Transfer-Encoding: chunked\r\n"} {
			t.Run(after.name+"/"+fields[:8], func(t *testing.T) {
				addr := newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
					if r, err := http.ReadRequest(br); err != nil || r.Method != "POST" {
						return
					}
					says("HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nlong")(c)
					after.do(c)
				})
				f := serve(t, proxy.Options{}, addr)
				c := dial(t, f.addr)
				send(t, c, "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"+fields+"\r\n")
				done := make(chan struct{})
				go func() {
					defer close(done)
					body := strings.Repeat("GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n", size/35+1)[:size]
					if strings.HasPrefix(fields, "Transfer") {
						body = fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", size, body)
					}
					_, _ = io.WriteString(c, body) // the proxy hangs up
				}()
				br := bufio.NewReader(c)
				resp, err := readResponse(br, "POST")
				require.NoError(t, err)
				if resp.StatusCode == 502 && (after.name == "closes" || after.name == "resets") {
					c.Close()
					<-done
					return // its answer may be lost with the connection
				}
				require.Equal(t, 413, resp.StatusCode)
				require.Equal(t, "long", resp.body)
				_, err = br.ReadByte()
				require.Error(t, err)
				require.False(t, isTimeout(err))
				c.Close()
				<-done
			})
		}
	}
}

// TestBackendProtocol: what backends see is what Options.BackendProtocol says,
// whichever way a request comes.
func TestBackendProtocol(t *testing.T) {
	for _, test := range []struct {
		protocol proxy.Protocol
		http2    bool // what the backend speaks, and nothing else
		want     string
	}{{proxy.Auto, false, "HTTP/1.1"}, {proxy.HTTP1, false, "HTTP/1.1"}, {proxy.H2C, true, "HTTP/2.0"}} {
		l := newListener(t)
		srv := &http.Server{
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // the client tells
				fmt.Fprint(w, r.Proto)
			}),
			Protocols: new(http.Protocols),
		}
		srv.Protocols.SetHTTP1(!test.http2)
		srv.Protocols.SetUnencryptedHTTP2(test.http2)
		serveHTTP(t, l, srv)
		t.Run(fmt.Sprint(test.protocol, test.http2), func(t *testing.T) {
			eachWay(t, func(t *testing.T, w way) {
				r := newRig(t, proxy.Options{BackendProtocol: test.protocol}, l.Addr().String())
				c := w.client(t)
				for _, size := range []int{0, 1000, 100_000} {
					a, err := fetch(c, "POST", r.url("/"), strings.Repeat("x", size))
					require.NoError(t, err)
					require.Equal(t, 200, a.status, a.body)
					require.Equal(t, test.want, a.body)
				}
			})
		})
	}
}

// TestLargeResponseHead: a head may have 64 KiB, in any number of fields. One that
// has more is refused, and does not put its backend out of the balance unless
// there is nothing else in a row.
func TestLargeResponseHead(t *testing.T) {
	addr := newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		for {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			n, _ := strconv.Atoi(r.URL.Query().Get("n"))
			head := strings.Repeat(strings.Repeat("x", 30)+": y\r\n", n/35)
			if r.URL.Path == "/long" {
				head = "X: " + strings.Repeat("x", n) + "\r\n"
			}
			for _, part := range []string{"HTTP/1.1 103 Early Hints\r\n" + head + "\r\n", "HTTP/1.1 200 OK\r\n" + head + "Content-Length: 5\r\n\r\nhallo"} {
				says(part)(c)
			}
		}
	})
	eachWay(t, func(t *testing.T, w way) {
		r := newRig(t, proxy.Options{}, addr)
		c := w.client(t)
		c.Transport.(onWay).tr.MaxResponseHeaderBytes = 1 << 20
		good := func(path string) {
			t.Helper()
			for range 2 {
				require.Equal(t, "hallo", get(t, c, r.url(path)))
			}
		}
		for _, path := range []string{"/long?n=100", "/long?n=17000", "/fields?n=17000", "/long?n=65000", "/fields?n=65000", "/long?n=100"} {
			good(path)
		}
		for range 5 {
			require.False(t, r.backend(addr).Avoided)
			a, err := fetch(c, "GET", r.url("/long?n=70000"), "")
			require.NoError(t, err)
			require.Equal(t, http.StatusBadGateway, a.status)
		}
		require.True(t, r.backend(addr).Avoided)
		require.EqualValues(t, 5, r.backend(addr).Errors[proxy.BadResponse])
		good("/long?n=100")
	})
}
