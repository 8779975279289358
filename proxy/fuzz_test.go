package proxy_test

import (
	"bufio"
	"bytes"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// What the fast path accepts, net/http must accept and read the same: it stands
// for all other readers.

// A counted reader knows how much has been read of it.
type counted struct {
	*bufio.Reader
	r *bytes.Reader
}

func newCounted(b []byte) counted {
	r := bytes.NewReader(b)
	return counted{bufio.NewReader(r), r}
}

func (c counted) left() int { return c.Buffered() + c.r.Len() }

func requireSameFields(t *testing.T, fields []proxy.Field, header http.Header) {
	t.Helper()
	want := http.Header{}
	for _, f := range fields {
		name := textproto.CanonicalMIMEHeaderKey(f.Name)
		want[name] = append(want[name], f.Value)
	}
	require.Equal(t, want, header)
}

// requirePrefixesIncomplete requires that a head is accepted as soon as all of
// it is there, and is not taken for something else before.
func requirePrefixesIncomplete(t *testing.T, head []byte, parse func([]byte) proxy.Parsed) {
	t.Helper()
	for n := range head {
		require.True(t, parse(head[:n]).Incomplete, "%q", head[:n])
	}
}

func FuzzParseRequest(f *testing.F) {
	for _, a := range attacks() {
		if len(a.raw) < 1000 {
			f.Add([]byte(a.raw))
		}
	}
	f.Add([]byte("PATCH /a%2Fb?c=d&e HTTP/1.1\r\nHost: [::1]:8080\r\nConnection: keep-alive\r\nContent-Length: 12\r\nCookie: a=b\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got := proxy.ParseRequest(b)
		if !got.Complete {
			return
		}
		if got.Size < 2000 {
			requirePrefixesIncomplete(t, b[:got.Size], proxy.ParseRequest)
		}
		br := newCounted(b)
		r, err := http.ReadRequest(br.Reader)
		require.NoError(t, err)
		require.Equal(t, got.Size, len(b)-br.left())
		require.Equal(t, got.Method, r.Method)
		require.Equal(t, got.Target, r.RequestURI)
		require.Equal(t, got.Host, r.Host)
		require.Equal(t, "HTTP/1.1", r.Proto)
		require.Equal(t, got.Length, r.ContentLength)
		require.Empty(t, r.TransferEncoding)
		require.Equal(t, got.Close, r.Close)
		r.Header["Host"] = []string{r.Host} // where net/http does not keep it
		requireSameFields(t, got.Fields, r.Header)
	})
}

func FuzzParseResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhallo",
		"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhallo",
		"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\nConnection: close, x\r\nTrailer: A\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 304\r\nContent-Length: 10\r\nConnection: x\r\nConnection: keep-alive\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got := proxy.ParseResponse(b)
		if !got.Complete {
			return
		}
		if got.Size < 2000 {
			requirePrefixesIncomplete(t, b[:got.Size], proxy.ParseResponse)
		}
		br := newCounted(b)
		r, err := http.ReadResponse(br.Reader, nil)
		require.NoError(t, err)
		require.Equal(t, got.Size, len(b)-br.left())
		require.Equal(t, got.Status, r.StatusCode)
		bodiless := got.Status < 200 || got.Status == 204 || got.Status == 304
		if !bodiless {
			require.Equal(t, got.Length, r.ContentLength)
			require.Equal(t, got.Chunked, len(r.TransferEncoding) == 1)
		}
		if got.Length >= 0 || got.Chunked {
			require.Equal(t, got.Close, r.Close)
		}
		// What net/http does not keep:
		gone := map[string]bool{"Transfer-Encoding": got.Chunked || bodiless, "Trailer": got.Chunked, "Connection": got.Close}
		got.Fields = slices.DeleteFunc(got.Fields, func(f proxy.Field) bool {
			return gone[textproto.CanonicalMIMEHeaderKey(f.Name)]
		})
		maps.DeleteFunc(r.Header, func(name string, _ []string) bool { return gone[name] })
		requireSameFields(t, got.Fields, r.Header)
	})
}

const chunkedHead = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"

func FuzzChunkScanner(f *testing.F) {
	for _, s := range []string{
		"0\r\n\r\n", "5\r\nhallo\r\n0\r\n\r\nGET", "A;x=y\r\n0123456789\r\n000\r\nA: b\r\nC:\r\n\r\n",
		"5 \r\nhallo\r\n0\r\n\r\n", "5\nhallo\n0\n\n", "00000000000000000\r\n\r\n", "0\r\na : b\r\n\r\n", "0;\r\n\r\n",
		"5;a\r\nhallo\r\n0;b=\"c\"\r\n\r\n", "FFFFFFFFFFFFFFF\r\n", "1\r\na\r\n2\r\nbc\r\n0\r\n:\r\n\r\n",
	} {
		f.Add([]byte(s), uint64(1))
	}
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		if len(b) > 4096 {
			return // net/http refuses bodies that have more overhead than data
		}
		var whole proxy.ChunkScanner
		n, ok := whole.Scan(b)
		require.True(t, n == len(b) || whole.Done() || !ok)
		require.False(t, whole.Done() && !ok)

		// In pieces it is the same.
		random := rand.New(rand.NewPCG(seed, 0))
		var pieces proxy.ChunkScanner
		at, good := 0, true
		for at < len(b) && good && !pieces.Done() {
			k := min(1+random.IntN(1+random.IntN(8)), len(b)-at)
			var m int
			m, good = pieces.Scan(b[at : at+k])
			at += m
		}
		require.Equal(t, ok, good)
		require.Equal(t, whole.Done(), pieces.Done())
		require.Equal(t, n, at)
		require.Equal(t, whole.Bytes(), pieces.Bytes())

		br := newCounted(append([]byte(chunkedHead), b...))
		r, err := http.ReadRequest(br.Reader)
		require.NoError(t, err)
		body, err := io.ReadAll(r.Body)
		if whole.Done() {
			require.NoError(t, err)
			require.Equal(t, n, len(b)-br.left())
			require.Equal(t, whole.Bytes(), uint64(len(body)))
		} else if ok {
			require.Error(t, err, "net/http has found an end where there is none")
		}
	})
}

// A pieceConn is a connection from which data comes in pieces, and which then
// ends.
type pieceConn struct {
	net.Conn // nil: nothing else is called
	data     []byte
	random   *rand.Rand
}

func (c *pieceConn) Read(p []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.data[:min(1+c.random.IntN(1+c.random.IntN(64)), len(c.data))])
	c.data = c.data[n:]
	return n, nil
}

func (*pieceConn) RemoteAddr() net.Addr            { return &net.TCPAddr{} }
func (*pieceConn) SetReadDeadline(time.Time) error { return nil }

// FuzzScreen reads what passes the screen as net/http does. Of each request the
// limits must be those that the screen has found.
func FuzzScreen(f *testing.F) {
	for _, a := range attacks() {
		if len(a.raw) < 1000 {
			f.Add([]byte(a.raw), uint64(1))
		}
	}
	p, err := proxy.New(proxy.Options{})
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		c := p.Screen(&pieceConn{data: b, random: rand.New(rand.NewPCG(seed, 0))})
		br := bufio.NewReader(c)
		for {
			r, err := http.ReadRequest(br)
			state, length := proxy.ScreenState(c)
			if state == "open" {
				return
			}
			if state == "refusing" {
				require.Error(t, err)
				return
			}
			if err != nil {
				return // net/http ends the connection, too
			}
			require.Zero(t, br.Buffered())
			switch state {
			case "head":
				require.Zero(t, r.ContentLength)
				require.Empty(t, r.TransferEncoding)
			case "body":
				require.Equal(t, length, r.ContentLength)
				require.Empty(t, r.TransferEncoding)
			case "chunks":
				require.EqualValues(t, -1, r.ContentLength)
				require.Equal(t, []string{"chunked"}, r.TransferEncoding)
			}
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return
			}
			state, _ = proxy.ScreenState(c)
			if r.Method == "CONNECT" || slices.ContainsFunc(r.Header["Upgrade"], func(v string) bool { return !strings.EqualFold(v, "h2c") }) {
				require.Equal(t, "open", state)
				return
			}
			require.Equal(t, "head", state)
			require.Zero(t, br.Buffered())
		}
	})
}

// FuzzFrames compares what is seen of frames that come in pieces with what there
// is of them, by a reader that has it all.
func FuzzFrames(f *testing.F) {
	frames := append(h2Frame{kind: h2Settings}.bytes(), h2Head(1, "x", "y")...)
	frames = append(frames, h2Frame{h2Headers, 0, 3, h2Fields("x", "y")}.bytes()...)
	frames = append(frames, h2Frame{h2Continuation, 0, 3, nil}.bytes()...)
	frames = append(frames, h2Frame{h2Continuation, h2EndHeaders, 3, h2Fields("x", "y")}.bytes()...)
	frames = append(frames, h2Frame{h2Data, h2EndStream, 1, make([]byte, 300)}.bytes()...)
	for _, step := range []uint8{1, 2, 9, 10, 100} {
		f.Add(frames, step)
		f.Add(append(frames, frames[:5]...), step)
	}
	f.Add(h2Frame{h2Headers, 0, 3, nil}.bytes(), uint8(4))
	f.Fuzz(func(t *testing.T, frames []byte, step uint8) {
		// ends are the places that are not within anything.
		ends := map[int]bool{len(preface): true}
		head := false
		for at := 0; at+9 <= len(frames); {
			kind, flags := frames[at+3], frames[at+4]
			at += 9 + int(frames[at])<<16 + int(frames[at+1])<<8 + int(frames[at+2])
			if kind == h2Headers || kind == h2Continuation {
				head = flags&h2EndHeaders == 0
			}
			if !head {
				ends[len(preface)+at] = true
			}
		}
		all := append([]byte(preface), frames...)
		s := proxy.NewFrameScan()
		if !s.Within() {
			t.Fatal("it is not within the preface")
		}
		for at := 0; at < len(all); {
			next := min(at+int(step)%32+1, len(all))
			rests := false
			for i := at; i <= next; i++ {
				rests = rests || ends[i]
			}
			rested, ok := s.Scan(all[at:next])
			if !ok || rested != rests || s.Within() == ends[next] {
				t.Fatalf("at %d of %d: rested %v, should have %v; within %v, should be %v", next, len(all), rested, rests, s.Within(), !ends[next])
			}
			at = next
		}
		if _, ok := proxy.NewFrameScan().Scan(frames); ok && len(frames) > 0 && !strings.HasPrefix(preface, string(frames[:min(len(frames), len(preface))])) {
			t.Fatal("no preface is needed")
		}
	})
}
