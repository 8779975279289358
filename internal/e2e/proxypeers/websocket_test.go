package proxypeers_test

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

func TestWebSocket(t *testing.T) {
	closed := make(chan websocket.StatusCode, 10)
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"echo"}, CompressionMode: websocket.CompressionContextTakeover})
		if err != nil {
			return
		}
		c.SetReadLimit(16 << 20)
		for {
			kind, m, err := c.Read(r.Context())
			if err != nil {
				closed <- websocket.CloseStatus(err)
				return
			}
			if string(m) == "go" {
				c.Close(4321, "as you wish")
				return
			}
			if c.Write(r.Context(), kind, m) != nil {
				return
			}
		}
	})
	// Another backend comes and goes: that must not be noticed.
	other := backend(t, echo)
	f := serve(t, proxy.Options{}, backend(t, echo))
	f.Pool(proxy.DefaultPool)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig()}}
	for _, url := range []string{"ws://" + f.plain, "wss://" + f.tls} {
		t.Run(url[:3], func(t *testing.T) {
			ctx := within(t, 2*patience)
			dial := func() *websocket.Conn {
				c, resp, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: client, Subprotocols: []string{"echo"}, CompressionMode: websocket.CompressionContextTakeover})
				require.NoError(t, err)
				require.Equal(t, "echo", resp.Header.Get("Sec-WebSocket-Protocol"))
				c.SetReadLimit(16 << 20)
				return c
			}
			c := dial()
			big := bytes.Repeat([]byte("0123456789"), 500_000)
			for i := range 20 {
				m := []byte(fmt.Sprint("message ", i))
				if i == 10 {
					m = big
					require.NoError(t, f.Pool(proxy.DefaultPool).Add(proxy.Backend{Addr: other}))
				}
				require.NoError(t, c.Write(ctx, websocket.MessageBinary, m))
				_, got, err := c.Read(ctx)
				require.NoError(t, err)
				require.True(t, bytes.Equal(m, got))
			}
			require.True(t, f.Pool(proxy.DefaultPool).Remove(other))
			reading := c.CloseRead(ctx)
			require.NoError(t, c.Ping(ctx))
			require.NoError(t, reading.Err())
			require.NoError(t, c.Close(websocket.StatusGoingAway, "bye"))
			select {
			case code := <-closed:
				require.Equal(t, websocket.StatusGoingAway, code)
			case <-time.After(patience):
				require.Fail(t, "the server does not learn that it is over")
			}

			c = dial()
			require.NoError(t, c.Write(ctx, websocket.MessageText, []byte("go")))
			_, _, err := c.Read(ctx)
			var ce websocket.CloseError
			require.ErrorAs(t, err, &ce)
			require.Equal(t, websocket.CloseError{Code: 4321, Reason: "as you wish"}, ce)
		})
	}
	require.Eventually(t, func() bool { return f.Status().Pools[0].Backends[0].InFlight == 0 }, patience, time.Millisecond)
}
