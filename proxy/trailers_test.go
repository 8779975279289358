package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// noTrailers are names of fields that cannot come after a body.
var noTrailers = []string{
	"Content-Length", "Transfer-Encoding", "Trailer", // framing
	"Host", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "x-forwarded-port", // routing
	"Cache-Control", "Expect", "Max-Forwards", "Pragma", "Range", "TE", "If-Match", "If-None-Match", // modifiers
	"Authorization", "Proxy-Authorization", "Proxy-Authenticate", "WWW-Authenticate", "Cookie", "Set-Cookie", // authentication
	"Content-Encoding", "Content-Type", "Content-Range", // of the body
	"Connection", "Keep-Alive", "Proxy-Connection", "Upgrade", "HTTP2-Settings", // hop by hop
	"Traceparent", "Tracestate",
}

// trailersOf is a backend of net/http that tells which trailers it got.
func trailersOf(t testing.TB) string {
	return httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // the client tells
		fmt.Fprint(w, r.Trailer)
	})
}

// TestTrailersThatCannotBe: a request that announces one is refused, from whomever it
// comes.
func TestTrailersThatCannotBe(t *testing.T) {
	addr := trailersOf(t)
	f := serve(t, proxy.Options{}, addr)
	for i, name := range noTrailers {
		c, br := connect(t, f)
		send(t, c, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: X-Good,\t"+name+" , X-Other\r\n\r\n"+
			"1\r\nx\r\n0\r\n"+name+": evil\r\n\r\n")
		resp, err := readResponse(br, "POST")
		require.NoError(t, err)
		require.Equal(t, http.StatusBadRequest, resp.StatusCode, name)
		requireEnd(t, br)
		require.EqualValues(t, i+1, f.Status().Refused)
	}
	require.Zero(t, f.only(t).Requests)
}

// TestTrailersThatPass: they are those that were announced.
func TestTrailersThatPass(t *testing.T) {
	f := serve(t, proxy.Options{}, trailersOf(t))
	for _, test := range []struct{ name, fields, trailers, want string }{
		{"announced", "Trailer: X-A, X-B\r\nTrailer: X-C\r\n", "X-A: 1\r\nX-B: 2\r\nx-b: 3\r\n", "map[X-A:[1] X-B:[2 3] X-C:[]]"},
		{"none announced", "", "X-A: 1\r\n", "map[]"},
		{"others announced", "Trailer: X-A\r\n", "X-Forwarded-For: evil\r\nHost: evil\r\nContent-Length: 5\r\nX-A: 1\r\nX-B: 2\r\n", "map[X-A:[1]]"},
		{"named by Connection", "Connection: x-a\r\nTrailer: X-A, X-B\r\n", "X-A: 1\r\nX-B: 2\r\n", "map[X-B:[2]]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, br := connect(t, f)
			resp := ask(t, c, br, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"+test.fields+"\r\n1\r\nx\r\n0\r\n"+test.trailers+"\r\n")
			require.Equal(t, 200, resp.StatusCode)
			require.Equal(t, test.want, resp.body)
		})
	}
}

// TestTrailersOfHTTP2: those that cannot be are taken out. net/http sees to some.
func TestTrailersOfHTTP2(t *testing.T) {
	f := serve(t, proxy.Options{}, trailersOf(t))
	c := h2Way.client(t)
	send := func(method, content string, names ...string) string {
		t.Helper()
		body, w := io.Pipe()
		r, err := http.NewRequest(method, "http://"+f.addr, body)
		require.NoError(t, err)
		r.Trailer = http.Header{}
		for _, name := range names {
			r.Trailer.Set(name, "evil")
		}
		go func() {
			_, _ = io.WriteString(w, content) // the request tells
			w.Close()
		}()
		a, err := whole(c.Do(r))
		require.NoError(t, err)
		require.Equal(t, 200, a.status, a.body)
		return a.body
	}
	post := func(names ...string) string { t.Helper(); return send("POST", "x", names...) }
	require.Equal(t, "map[X-A:[evil] X-B:[evil]]", post("X-A", "X-B"))
	for _, method := range []string{"POST", "GET", "DELETE"} {
		require.Equal(t, "map[X-A:[evil]]", send(method, "", "X-A"), method+" of an empty body")
	}
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Port", "Forwarded", "Cookie", "Set-Cookie", "Traceparent"} {
		require.Equal(t, "map[X-A:[evil]]", post("X-A", name))
	}
}

// TestTrailersAgain: what is sent again has its trailers, too.
func TestTrailersAgain(t *testing.T) {
	var asked atomic.Int32
	breaks := func(c *net.TCPConn, br *bufio.Reader) {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		if asked.Add(1) > 1 {
			got := fmt.Sprint(r.Trailer)
			says(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(got), got))(c)
		}
	}
	f := serve(t, proxy.Options{}, newRawOrigin(t, breaks), newRawOrigin(t, breaks))
	c, br := connect(t, f)
	resp := ask(t, c, br, "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n1\r\nx\r\n0\r\nX-A: 1\r\n\r\n")
	require.Equal(t, "map[X-A:[1]]", resp.body)
	require.EqualValues(t, 2, asked.Load())
}
