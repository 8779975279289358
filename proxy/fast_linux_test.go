package proxy_test

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// TestEndInTheSameSegment: a client that says with its last request that it has no
// more is answered, and the connection is closed, though the proxy hears of both
// at once, and does not try to read after a request what is seldom there.
func TestEndInTheSameSegment(t *testing.T) {
	r := newRig(t, proxy.Options{IdleTimeout: time.Hour}, newPlainOrigin(t))
	for _, before := range []int{0, 1, 3} {
		c := dial(t, r.addr)
		answers := bufio.NewReader(c)
		ask := func() {
			send(t, c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		}
		hear := func() {
			res, err := http.ReadResponse(answers, nil)
			require.NoError(t, err)
			_, err = io.Copy(io.Discard, res.Body)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, res.StatusCode)
		}
		for range before {
			ask()
			hear()
		}
		cork(t, c)
		ask()
		require.NoError(t, c.CloseWrite())
		hear()
		_, err := answers.ReadByte()
		require.ErrorIs(t, err, io.EOF, "after %d requests", before)
	}
}

// cork has the kernel wait for more to send.
func cork(t *testing.T, c syscall.Conn) {
	t.Helper()
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_CORK, 1)
	})
	require.NoError(t, errors.Join(err, failed))
}
