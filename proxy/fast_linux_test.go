package proxy_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
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

// TestEndWithinARequest: nor is a part of a request waited for that cannot come any
// more, though there is no limit to how long it may take.
func TestEndWithinARequest(t *testing.T) {
	r := newRig(t, proxy.Options{HeaderTimeout: time.Hour, BodyTimeout: -1}, newPlainOrigin(t))
	const whole = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, part := range []string{
		"GET / HTTP/1.1\r\nHo",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello",
		whole + "GET / HTTP/1.1\r\nHo",
	} {
		c := dial(t, r.addr)
		cork(t, c)
		send(t, c, part)
		require.NoError(t, c.CloseWrite())
		_, err := io.Copy(io.Discard, c)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "%q", part)
	}
}

// TestStruckBeforeTheAnswer: a connection whose time is up just before an answer
// is written ends after it, and does not rest as if it could be used further.
func TestStruckBeforeTheAnswer(t *testing.T) {
	var slow atomic.Bool
	r := newRig(t, proxy.Options{ResponseTimeout: 300 * time.Millisecond, Outcome: func(proxy.Outcome) {
		if slow.Load() {
			time.Sleep(1500 * time.Millisecond) // the reaper strikes meanwhile
		}
	}}, newPlainOrigin(t))
	ask := func(c net.Conn, br *bufio.Reader) (response, error) {
		send(t, c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		return readResponse(br, "GET")
	}
	for range proxy.WarmConns + 10 { // those that rest then have no goroutine
		c := dial(t, r.addr)
		_, err := ask(c, bufio.NewReader(c))
		require.NoError(t, err)
	}
	c := dial(t, r.addr)
	br := bufio.NewReader(c)
	slow.Store(true)
	if _, err := ask(c, br); err == nil {
		_, err = br.ReadByte()
		require.ErrorIs(t, err, io.EOF)
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
