package proxypeers_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/weaverkit/weaverkit/proxy"
)

const smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"

// A recorder is a backend that keeps the requests that it gets over HTTP/1.1,
// and answers with their targets.
type recorder struct {
	addr string

	mu   sync.Mutex
	seen []*http.Request
	odd  []error
}

func newRecorder(t *testing.T) *recorder {
	t.Helper()
	r := &recorder{}
	l := listen(t)
	r.addr = l.Addr().String()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { r.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait() // the proxy has closed its connections
	})
	return r
}

func (r *recorder) serve(c net.Conn) {
	defer c.Close()
	br := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(br)
		if err == nil {
			_, err = io.Copy(io.Discard, req.Body)
		}
		r.mu.Lock()
		if err == nil {
			r.seen = append(r.seen, req)
		} else if op := new(net.OpError); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.As(err, &op) {
			r.odd = append(r.odd, err)
		}
		r.mu.Unlock()
		if err != nil {
			return
		}
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nX-Target: %s\r\nContent-Length: 0\r\n\r\n", req.RequestURI)
	}
}

// An h2Client speaks HTTP/2 frame by frame.
type h2Client struct {
	t    *testing.T
	fr   *http2.Framer
	buf  bytes.Buffer
	enc  *hpack.Encoder
	next uint32
}

func newH2Client(t *testing.T, c net.Conn) *h2Client {
	h := &h2Client{t: t, fr: http2.NewFramer(c, c), next: 1}
	h.enc = hpack.NewEncoder(&h.buf)
	h.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_, err := io.WriteString(c, http2.ClientPreface)
	require.NoError(t, err)
	require.NoError(t, h.fr.WriteSettings())
	return h
}

// send sends a request of these fields, and a body if it is not nil.
func (h *h2Client) send(body []byte, fields ...string) uint32 {
	h.buf.Reset()
	for i := 0; i < len(fields); i += 2 {
		require.NoError(h.t, h.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	id := h.next
	h.next += 2
	require.NoError(h.t, h.fr.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: h.buf.Bytes(), EndHeaders: true, EndStream: body == nil,
	}))
	if body != nil {
		require.NoError(h.t, h.fr.WriteData(id, true, body))
	}
	return id
}

// answer returns the status of the response to a stream, or 0 if it was reset or
// the connection ended.
func (h *h2Client) answer(id uint32) (status string, target string) {
	for {
		f, err := h.fr.ReadFrame()
		if err != nil {
			require.False(h.t, isTimeout(err), "no answer")
			return "gone", ""
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				require.NoError(h.t, h.fr.WriteSettingsAck())
			}
		case *http2.MetaHeadersFrame:
			if f.StreamID == id {
				for _, field := range f.RegularFields() {
					if field.Name == "x-target" {
						target = field.Value
					}
				}
				return f.PseudoValue("status"), target
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == id {
				return "reset", ""
			}
		case *http2.GoAwayFrame:
			if f.ErrCode != http2.ErrCodeNo {
				return "gone", ""
			}
		}
	}
}

// TestSmugglingHTTP2 sends requests that HTTP/2 can express and HTTP/1.1 cannot.
func TestSmugglingHTTP2(t *testing.T) {
	pseudo := []string{":method", "POST", ":scheme", "http", ":authority", "h", ":path", "/a"}
	with := func(fields ...string) []string { return append(slices.Clone(pseudo), fields...) }
	pseudoBut := func(name, value string) []string {
		p := slices.Clone(pseudo)
		p[slices.Index(p, name)+1] = value
		return p
	}
	for _, test := range []struct {
		name   string
		fields []string
		body   []byte
		passes bool // as one request; it need not
	}{
		{"transfer-encoding", with("transfer-encoding", "chunked"), []byte("0\r\n\r\n" + smuggled), false},
		{"connection", with("connection", "close"), nil, false},
		{"proxy-connection", with("proxy-connection", "close"), nil, false},
		{"keep-alive", with("keep-alive", "1"), nil, false},
		{"upgrade", with("upgrade", "h2c"), nil, false},
		{"te", with("te", "gzip"), nil, false},
		{"te: trailers", with("te", "trailers"), nil, true},
		{"content-length too small", with("content-length", "0"), []byte(smuggled), false},
		{"content-length too large", with("content-length", "1000"), []byte(smuggled), false},
		{"content-length without body", with("content-length", "1000"), nil, true},
		{"content-length that is none", with("content-length", "0, 5"), []byte("hallo"), false},
		{"content-length twice", with("content-length", "5", "content-length", "0"), []byte("hallo"), true},
		{"CRLF in a value", with("x", "y\r\nTransfer-Encoding: chunked"), nil, false},
		{"LF in a value", with("x", "y\nTransfer-Encoding: chunked"), nil, false},
		{"NUL in a value", with("x", "y\x00"), nil, false},
		{"CRLF in a name", with("x: y\r\nz", "y"), nil, false},
		{"colon in a name", with("x: y", "y"), nil, false},
		{"space in a name", with("transfer-encoding ", "chunked"), nil, false},
		{"capitals in a name", with("Transfer-Encoding", "chunked"), nil, false},
		{"an empty name", with("", "chunked"), nil, false},
		{"CRLF in the path", pseudoBut(":path", "/a HTTP/1.1\r\nHost: x\r\n\r\n"), nil, false},
		{"space in the path", pseudoBut(":path", "/a HTTP/1.1 x"), nil, true},
		{"path without slash", pseudoBut(":path", "a"), nil, false},
		{"an empty path", pseudoBut(":path", ""), nil, false},
		{"an absolute path", pseudoBut(":path", "http://other/a"), nil, true},
		{"CRLF in the method", pseudoBut(":method", "GET / HTTP/1.1\r\nX: y\r\n\r\n"), nil, false},
		{"space in the method", pseudoBut(":method", "GET /smuggled HTTP/1.1"), nil, false},
		{"CRLF in the authority", pseudoBut(":authority", "h\r\nX: y"), nil, false},
		{"space in the authority", pseudoBut(":authority", "h x"), nil, false},
		{"slash in the authority", pseudoBut(":authority", "h/x"), nil, false},
		{"another scheme", pseudoBut(":scheme", "gopher"), nil, true},
		{"CRLF in the scheme", pseudoBut(":scheme", "http\r\nX: y"), nil, false},
		{"host besides the authority", with("host", "other"), nil, true},
		{"two paths", with(":path", "/smuggled"), nil, false},
		{"pseudo field after others", with("x", "y", ":path", "/smuggled"), nil, false},
		{"unknown pseudo field", append([]string{":x", "y"}, pseudo...), nil, false},
		{"CONNECT", []string{":method", "CONNECT", ":authority", "internal:22"}, nil, false},
		{"extended CONNECT", append([]string{":protocol", "websocket"}, pseudoBut(":method", "CONNECT")...), nil, false},
		{"http2-settings", with("http2-settings", "AAMAAABkAAQCAAAAAAIAAAAA"), nil, true},
		{"a big head", with("x", strings.Repeat("y", 14<<10)), nil, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			backend := newRecorder(t)
			f := serve(t, proxy.Options{}, backend.addr)
			h := newH2Client(t, dial(t, f.plain))
			status, target := h.answer(h.send(test.body, test.fields...))
			switch {
			case test.passes && status == "200":
			case len(status) == 3:
				assert.Contains(t, "45", status[:1], "status %s", status)
				assert.Empty(t, target)
			}
			// Others get what is theirs.
			resp, err := http.Get("http://" + f.plain + "/other")
			require.NoError(t, err)
			require.Equal(t, "/other", resp.Header.Get("X-Target"))
			resp.Body.Close()

			backend.mu.Lock()
			defer backend.mu.Unlock()
			assert.Empty(t, backend.odd)
			if status == "200" {
				require.Len(t, backend.seen, 2)
			}
			require.LessOrEqual(t, len(backend.seen), 2, "it may have been passed on before its end was seen to be bad, but as one")
			if !test.passes {
				require.NotEqual(t, "200", status)
			}
			for _, s := range backend.seen {
				assert.NotContains(t, s.RequestURI, "smuggled")
				assert.NotContains(t, s.RequestURI, " ")
				assert.Empty(t, s.Header["Http2-Settings"])
				assert.Empty(t, s.Header["Upgrade"])
			}
		})
	}
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	return c
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}
