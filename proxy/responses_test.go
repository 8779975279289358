package proxy_test

import (
	"errors"
	"io"
	"net"
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

// readPieces returns what net/http sees of what a backend says, which comes as
// pieces has it, and how that ends.
func readPieces(method, s string, pieces func(io.Reader) io.Reader) (string, error) {
	b, err := io.ReadAll(proxy.ScreenResponses(scripted{Reader: pieces(strings.NewReader(s))}, method))
	return string(b), err
}

// TestResponsesInPieces: what passes, and what does not, is the same in whatever
// pieces it comes.
func TestResponsesInPieces(t *testing.T) {
	const (
		early   = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
		doubled = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n"
	)
	for _, test := range []struct {
		name, method, says string
		refused            bool
	}{
		{name: "a length", says: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhallo"},
		{name: "chunks", says: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhallo\r\n0\r\nX: y\r\n\r\n"},
		{name: "until the end", says: "HTTP/1.0 200 OK\r\n\r\n" + doubled},
		{name: "interim responses", says: strings.Repeat(early, 16) + "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhallo"},
		{name: "switching protocols", says: "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n" + doubled},
		{name: "HEAD", method: "HEAD", says: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"},
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
				got, err := readPieces(test.method, test.says, pieces)
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
		got, err := readPieces("GET", "HTTP/1.1 200 OK\r\nX", func(r io.Reader) io.Reader {
			return io.MultiReader(r, iotest.ErrReader(broken))
		})
		require.ErrorIs(t, err, broken)
		require.Equal(t, "HTTP/1.1 200 OK\r\nX", got, "net/http is to see that something came")
	})
}
