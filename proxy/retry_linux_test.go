package proxy_test

import (
	"net"
	"net/http"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// newBlackhole returns an address where nothing answers, as at a host that is
// gone: a listener whose backlog is full.
func newBlackhole(t testing.TB) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	t.Cleanup(func() { syscall.Close(fd) })
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, syscall.Listen(fd, 0))
	at, err := syscall.Getsockname(fd)
	require.NoError(t, err)
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(at.(*syscall.SockaddrInet4).Port))
	for range 4 {
		c, err := net.DialTimeout("tcp", addr, 100*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { c.Close() })
	}
	require.Fail(t, "the backlog is never full")
	return addr
}

// TestHoldBlackholes: a request is not tried for ever where nothing answers.
func TestHoldBlackholes(t *testing.T) {
	const dial = 100 * time.Millisecond
	var backends []string
	for range 8 {
		backends = append(backends, newBlackhole(t))
	}
	for hold, most := range map[time.Duration]uint64{3 * dial: 4, dial / 2: 2, -1: 2} {
		eachWay(t, func(t *testing.T, w way) {
			r := newRig(t, proxy.Options{HoldTimeout: hold, DialTimeout: dial}, backends...)
			a, err := fetch(w.client(t), "POST", r.url("/"), "body")
			require.NoError(t, err)
			require.Equal(t, http.StatusBadGateway, a.status)
			require.LessOrEqual(t, r.pool(proxy.DefaultPool).Requests, most)
		})
	}
}
