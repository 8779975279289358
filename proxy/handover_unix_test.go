//go:build unix

package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// TestMain is the other process of TestHandOver, if it is told so.
func TestMain(m *testing.M) {
	if path := os.Getenv("PROXY_TEST_TAKE_OVER"); path != "" {
		if err := takeOver(path, os.Getenv("PROXY_TEST_BACKEND")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// takeOver serves the listener that it gets, until standard input ends.
func takeOver(socket, backend string) error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return err
	}
	defer conn.Close()
	l, err := proxy.ReceiveListener(conn)
	if err != nil {
		return err
	}
	f, err := proxy.Start(l, proxy.Options{})
	if err != nil {
		return err
	}
	f.SetBackends([]string{backend})
	if _, err := conn.Write([]byte("serving")); err != nil {
		return err
	}
	io.Copy(io.Discard, os.Stdin)
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	return f.Close(ctx)
}

// TestHandOver passes the listener to another process under load, with kept
// connections and with new ones, and loses no request.
func TestHandOver(t *testing.T) {
	var hits [2]atomic.Int64
	var origins [2]*origin
	for i := range origins {
		origins[i] = newOrigin(t, "", func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			hits[i].Add(1)
			fmt.Fprint(w, i)
		})
	}
	r := newRig(t, proxy.Options{}, origins[0].addr)
	var clients []*http.Client
	for i := range 9 {
		c := ways[i%3].client(t)
		if i >= 3 {
			c.Transport.(onWay).tr.DisableKeepAlives = true
		}
		if w := ways[i%3]; w == h2Way {
			// HTTP/2 ends by a GOAWAY that may cross a request, about which it
			// then says that it was not served: clients send it again.
			c.Transport = onWay{tr: c.Transport.(onWay).tr, way: w, again: true}
		}
		clients = append(clients, c)
	}
	crowd := newCrowd(t, len(clients), func(i int) error {
		method, body := "GET", ""
		if i >= 3 { // a kept connection may end while a POST is on its way; a new one may not
			method, body = "POST", strings.Repeat("x", 1+i*3000)
		}
		a, err := fetch(clients[i], method, r.url("/"), body)
		if err == nil && a.status != 200 {
			err = fmt.Errorf("%d %s", a.status, a.body)
		}
		if err != nil {
			err = fmt.Errorf("client %d: %w", i, err)
		}
		return err
	})
	soon(t, func() bool { return hits[0].Load() > 100 })

	path := t.TempDir() + "/socket"
	u, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	defer u.Close()
	other := exec.Command(os.Args[0])
	other.Env = append(os.Environ(), "PROXY_TEST_TAKE_OVER="+path, "PROXY_TEST_BACKEND="+origins[1].addr)
	other.Stderr = os.Stderr
	stdin, err := other.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, other.Start())
	exited := sync.OnceFunc(func() {
		stdin.Close()
		assert.NoError(t, other.Wait())
	})
	defer exited()
	u.SetDeadline(time.Now().Add(longest))
	conn, err := u.AcceptUnix()
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, proxy.SendListener(conn, r.listener))
	conn.SetDeadline(time.Now().Add(longest))
	_, err = io.ReadFull(conn, make([]byte, len("serving")))
	require.NoError(t, err)
	soon(t, func() bool { return hits[1].Load() > 50 }, "both serve")
	r.cancel()
	r.serveEnds()
	n := hits[1].Load()
	soon(t, func() bool { return hits[1].Load() > n+100 })
	crowd.content(t)
	for _, c := range clients {
		c.CloseIdleConnections()
	}
	exited()
}

func TestHandOverErrors(t *testing.T) {
	leavesNothing(t)
	fds := func() (a, b *net.UnixConn) {
		path := t.TempDir() + "/socket"
		u, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		require.NoError(t, err)
		defer u.Close()
		a, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		require.NoError(t, err)
		b, err = u.AcceptUnix()
		require.NoError(t, err)
		t.Cleanup(func() { a.Close(); b.Close() })
		return a, b
	}
	a, b := fds()
	l := newListener(t)
	defer l.Close()
	require.ErrorContains(t, proxy.SendListener(a, struct{ net.Listener }{l}), "cannot be given away")
	_, err := a.Write([]byte("x"))
	require.NoError(t, err)
	_, err = proxy.ReceiveListener(b)
	require.ErrorContains(t, err, "the message has none")
	require.NoError(t, proxy.SendListener(a, l))
	got, err := proxy.ReceiveListener(b)
	require.NoError(t, err)
	require.Equal(t, l.Addr(), got.Addr())
	got.Close()
	// The one that was sent can be closed while it accepts.
	accepted := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		accepted <- err
	}()
	time.Sleep(10 * time.Millisecond)
	l.Close()
	require.Error(t, receive(t, accepted))
	a.Close()
	_, err = proxy.ReceiveListener(b)
	require.Error(t, err)
	require.Error(t, proxy.SendListener(a, l))

	// What was not given away removes its socket when it is closed.
	path := t.TempDir() + "/socket"
	u, err := net.Listen("unix", path)
	require.NoError(t, err)
	require.Error(t, proxy.SendListener(a, u))
	u.Close()
	require.NoFileExists(t, path)
}
