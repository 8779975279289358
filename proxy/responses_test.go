package proxy_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// A scripted connection is one from which comes what the reader has.
type scripted struct {
	net.Conn // nil
	io.Reader
}

func (c scripted) Read(p []byte) (int, error) { return c.Reader.Read(p) }
func (c scripted) RemoteAddr() net.Addr       { return &net.TCPAddr{} }

// readPieces returns what net/http sees of what a backend says, which comes as
// pieces has it, and how that ends.
func readPieces(p *proxy.Proxy, method, s string, pieces func(io.Reader) io.Reader) (string, error) {
	b, err := io.ReadAll(p.ScreenResponses(scripted{Reader: pieces(strings.NewReader(s))}, method))
	return string(b), err
}

// TestResponsesInPieces: what passes, and what does not, is the same in whatever
// pieces it comes.
func TestResponsesInPieces(t *testing.T) {
	p, err := proxy.New(proxy.Options{})
	require.NoError(t, err)
	defer p.Close()
	const (
		early   = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
		doubled = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n"
	)
	for _, test := range []struct {
		name, method, says string
		unasked            string // follows, and does not pass
		refused            bool
	}{
		{name: "a length", says: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhallo", unasked: doubled},
		{name: "chunks", says: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhallo\r\n0\r\nX: y\r\n\r\n", unasked: "x"},
		{name: "until the end", says: "HTTP/1.0 200 OK\r\n\r\n" + doubled},
		{name: "interim responses", says: strings.Repeat(early, 16) + "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhallo"},
		{name: "switching protocols", says: "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n" + doubled},
		{name: "HEAD", method: "HEAD", says: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", unasked: "hallo"},
		{name: "204", says: "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", unasked: "hallo"},
		{name: "304", says: "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", unasked: "0\r\n\r\n"},
		{name: "a large head", says: "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 10_000) + "Content-Length: 5\r\n\r\nhallo"},
		{name: "a head that is cut", says: "HTTP/1.1 200 OK\r\nContent-Le"},
		{name: "a head that is cut after another", says: early + "HTTP/1.1 200 OK\r\nContent-Le"},

		{name: "two lengths", says: doubled, refused: true},
		{name: "two lengths after an interim response", says: early + doubled, refused: true},
		{name: "a head that is too large", says: "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 11_000) + "\r\n", refused: true},
		{name: "interim responses without end", says: strings.Repeat(early, 17), refused: true},
		{name: "a bad chunk", says: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhallo\n0\n\n", refused: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			for name, pieces := range map[string]func(io.Reader) io.Reader{
				"whole":      func(r io.Reader) io.Reader { return r },
				"halves":     iotest.HalfReader,
				"bytes":      iotest.OneByteReader,
				"with error": iotest.DataErrReader,
			} {
				if name == "bytes" && len(test.says) > 10_000 {
					continue // each would have it read once more
				}
				got, err := readPieces(p, test.method, test.says+test.unasked, pieces)
				if test.refused {
					require.ErrorIs(t, err, proxy.ErrMalformed, name)
					require.NotContains(t, got, " 200 OK\r\nContent-Length", name)
					continue
				}
				require.NoError(t, err, name)
				require.Equal(t, test.says, got, name)
			}
		})
	}
	t.Run("a connection that breaks", func(t *testing.T) {
		broken := errors.New("broken")
		got, err := readPieces(p, "GET", "HTTP/1.1 200 OK\r\nX", func(r io.Reader) io.Reader {
			return io.MultiReader(r, iotest.ErrReader(broken))
		})
		require.ErrorIs(t, err, broken)
		require.Equal(t, "HTTP/1.1 200 OK\r\nX", got, "net/http is to see that something came")
	})
}

// TestUnaskedResponses: what a backend says though nobody asked is heard by nobody:
// not by the next request, and not by the program's log, which net/http would tell.
func TestUnaskedResponses(t *testing.T) {
	const evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	var global notes
	before := log.Writer()
	log.SetOutput(&global)
	defer log.SetOutput(before)
	for _, test := range []struct{ name, with, later string }{
		{name: "204 with a body", with: "HTTP/1.1 204 No Content\r\nContent-Length: 44\r\n\r\n" + evil},
		{name: "two responses", with: "HTTP/1.1 204 No Content\r\n\r\n" + evil},
		{name: "a response, later", with: "HTTP/1.1 204 No Content\r\n\r\n", later: evil},
		{name: "garbage, later", with: "HTTP/1.1 204 No Content\r\n\r\n", later: "x"},
	} {
		t.Run(test.name, func(t *testing.T) {
			answered, closed := make(chan struct{}, 1), make(chan struct{}, 3)
			defer close(answered)
			r := newRig(t, proxy.Options{}, newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
				if _, err := http.ReadRequest(br); err != nil {
					return
				}
				says(test.with)(c)
				<-answered
				says(test.later)(c)
				_, _ = io.Copy(io.Discard, br) // until the proxy hangs up
				closed <- struct{}{}
			}))
			c, br := open(t, r.addr)
			for range 3 {
				say(t, c, "GET / HTTP/1.1\r\nHost: h\r\nTE: trailers\r\n\r\n")
				require.Equal(t, 204, hear(t, br).status)
				answered <- struct{}{}
				receive(t, closed)
			}
			require.Contains(t, r.notes.String(), "nobody asked for")
			require.Empty(t, global.String())
		})
	}
}

// TestUnaskedAtOnce: a connection on which something has come that nobody asked for
// gets no request, not even one that comes before net/http has heard of it.
func TestUnaskedAtOnce(t *testing.T) {
	addr := newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		keeps("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhallo")(c)
	})
	r := newRig(t, proxy.Options{}, addr)
	client := slowWay.client(t)
	crowd := newCrowd(t, 16, func(int) error {
		a, err := fetch(client, "POST", r.url("/"), "x")
		if err == nil && a.status != 204 {
			err = fmt.Errorf("status %d", a.status)
		}
		return err
	})
	soon(t, func() bool { return crowd.done.Load() > 3000 || crowd.failed.Load() > 0 })
	crowd.content(t)
	require.Zero(t, r.backend(addr).Errors)
}
