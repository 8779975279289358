package proxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// TestUpgradedCounts: what passes on an upgraded connection is counted, both ways.
func TestUpgradedCounts(t *testing.T) {
	r := newRig(t, proxy.Options{}, switchOrigin(t))
	c, br := upgrade(t, r.addr)
	echoConn(t, c, br, strings.Repeat("x", 995))
	c.Close()
	soon(t, func() bool { return r.pool(proxy.DefaultPool).Backends[0].InFlight == 0 })
	require.EqualValues(t, 1000, r.pool(proxy.DefaultPool).BytesIn)
	require.EqualValues(t, 1000, r.pool(proxy.DefaultPool).BytesOut)
}

// TestUpgradeBalance: upgraded connections are load, however soon a backend
// upgrades.
func TestUpgradeBalance(t *testing.T) {
	slow := newOrigin(t, "slow", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(10 * time.Millisecond)
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		io.Copy(c, rw)
	}).addr
	quick := switchOrigin(t)
	r := newRig(t, proxy.Options{}, slow, quick)
	for range 40 {
		c, br := upgrade(t, r.addr)
		echoConn(t, c, br, "x")
	}
	require.InDelta(t, 20, r.backend(slow).InFlight, 1)
	require.InDelta(t, 20, r.backend(quick).InFlight, 1)
}

// TestUpgradeHalfSilent: when one end has ended, the other is not waited for if it
// says nothing.
func TestUpgradeHalfSilent(t *testing.T) {
	for _, first := range []string{"client", "backend"} {
		t.Run(first, func(t *testing.T) {
			stop := make(chan struct{})
			addr := newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
				if _, err := http.ReadRequest(br); err != nil {
					return
				}
				io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello")
				if first == "backend" {
					c.CloseWrite()
				}
				<-stop
			})
			r := newRig(t, proxy.Options{DrainTimeout: brief}, addr)
			t.Cleanup(func() { close(stop) })
			c, br := open(t, r.addr)
			say(t, c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			resp, err := http.ReadResponse(br, nil)
			require.NoError(t, err)
			require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
			if first == "client" {
				require.NoError(t, c.CloseWrite())
			}
			require.Equal(t, "hello", toEnd(t, br))
			soon(t, func() bool { return r.backend(addr).InFlight == 0 })
			soon(t, func() bool { return r.Status().Clients == 0 })
		})
	}
}

// TestUpgradeWithBody: after a body all passes.
func TestUpgradeWithBody(t *testing.T) {
	for _, body := range []string{"Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"} {
		r := newRig(t, proxy.Options{}, newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			b, err := io.ReadAll(r.Body)
			if err != nil || string(b) != "hello" {
				return
			}
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			io.Copy(c, br)
		}))
		c, br := open(t, r.addr)
		say(t, c, "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n%s", body)
		resp, err := http.ReadResponse(br, nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
		echoConn(t, c, br, "GET / of no protocol\n\n")
		c.Close()
	}
}

// TestBodyTimeoutUpgrade: nor is there more time for a body because the request
// would switch protocols.
func TestBodyTimeoutUpgrade(t *testing.T) {
	for _, body := range []string{"Content-Length: 100\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n64\r\nhalf"} {
		r := newRig(t, proxy.Options{BodyTimeout: brief}, newOrigin(t, "it", nil).addr)
		c, br := open(t, r.addr)
		say(t, c, "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n%s", body)
		require.Equal(t, http.StatusRequestTimeout, hear(t, br).status)
		closes(t, br)
		soon(t, func() bool { return r.pool(proxy.DefaultPool).Backends[0].InFlight == 0 })
		require.EqualValues(t, 1, r.pool(proxy.DefaultPool).Errors[proxy.Canceled])
	}
}

// TestUpgradeList: the backend chooses one of the protocols that are offered, and
// nothing else.
func TestUpgradeList(t *testing.T) {
	for _, test := range []struct {
		offer, to string
		status    int
	}{
		{"Upgrade: websocket", "websocket", 101},
		{"Upgrade: websocket", "WebSocket", 101},
		{"Upgrade: websocket, other", "websocket", 101},
		{"Upgrade: other,websocket", "websocket", 101},
		{"Upgrade: other\r\nUpgrade: websocket", "websocket", 101},
		{"Upgrade: h2c, websocket", "websocket", 101},
		{"Upgrade: h2c\r\nUpgrade: websocket", "websocket", 101},
		{"Upgrade: websocket/13", "websocket", 101},
		{"Upgrade: websocket/13, other/1", "other/1", 101},
		{"Upgrade: websocket, other", "another", 502},
		{"Upgrade: h2c, websocket", "h2c", 502},
		{"Upgrade: websocket", "", 502},
	} {
		t.Run(test.offer+" to "+test.to, func(t *testing.T) {
			addr := newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
				if _, err := http.ReadRequest(br); err != nil {
					return
				}
				io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+test.to+"\r\n\r\n")
				io.Copy(c, br)
			})
			r := newRig(t, proxy.Options{}, addr)
			c, br := open(t, r.addr)
			say(t, c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n%s\r\n\r\n", test.offer)
			resp, err := http.ReadResponse(br, nil)
			require.NoError(t, err)
			require.Equal(t, test.status, resp.StatusCode)
			if test.status == 101 {
				require.Equal(t, test.to, resp.Header.Get("Upgrade"))
				echoConn(t, c, br, "hallo")
				require.False(t, r.backend(addr).Avoided)
			}
			c.Close()
		})
	}
}
