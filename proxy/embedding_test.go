package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// A veiled connection embeds one of package net, and so has all its methods. What
// goes over the wire is not what is read from it and written to it, unless key is 0.
type veiled struct {
	*net.TCPConn
	key byte
}

func (c veiled) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.veil(p[:n])
	return n, err
}

func (c veiled) Write(p []byte) (int, error) {
	p = bytes.Clone(p)
	c.veil(p)
	return c.TCPConn.Write(p)
}

func (c veiled) veil(p []byte) {
	for i := range p {
		p[i] ^= c.key
	}
}

type veiledListener struct {
	net.Listener
	key byte
}

func (l veiledListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return veiled{c.(*net.TCPConn), l.key}, nil
}

const aKey = 0xa5

// openVeiled opens a connection to a listener of veiled ones.
func openVeiled(t testing.TB, addr string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, _ := open(t, addr)
	v := veiled{c, aKey}
	return v, bufio.NewReader(struct{ io.Reader }{v})
}

// TestEmbeddingConns: nothing passes by the Read and the Write of a connection that
// embeds one of package net, on whichever way a request comes.
func TestEmbeddingConns(t *testing.T) {
	big := string(pattern(1 << 20)) // would be spliced
	backend := httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the client tells
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		_, _ = w.Write(body) // as above
	})
	requests := map[string]string{
		"fast":     "Content-Length: 5\r\n\r\nhallo",
		"upload":   fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(big), big),
		"net/http": fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(big), big),
	}
	for _, encrypted := range []bool{false, true} {
		for name, rest := range requests {
			t.Run(fmt.Sprintf("%s/tls=%v", name, encrypted), func(t *testing.T) {
				var opts proxy.Options
				var roots *x509.CertPool
				if encrypted {
					opts.GetCertificate, roots = certificate(t)
				}
				leavesNothing(t)
				r := newRigOn(t, veiledListener{newListener(t), aKey}, opts, backend)
				c, br := openVeiled(t, r.addr)
				if encrypted {
					c = tls.Client(c, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"})
					br = bufio.NewReader(c)
				}
				want := "hallo"
				if name != "fast" {
					want = big
				}
				for range 2 { // the second one is read after the connection has rested
					sent := make(chan error, 1)
					go func() {
						_, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: h\r\n"+rest)
						sent <- err
					}()
					a := hear(t, br)
					require.NoError(t, <-sent)
					require.Equal(t, 200, a.status)
					require.True(t, a.body == want)
				}
			})
		}
	}
	t.Run("TCP", func(t *testing.T) {
		echo := newEcho(t)
		leavesNothing(t)
		r := newStreamRigOn(t, veiledListener{newListener(t), aKey}, proxy.Options{}, echo)
		c, br := openVeiled(t, r.addr)
		echoConn(t, c, br, "hallo")
		echoConn(t, c, br, big[:64<<10])
		require.NoError(t, c.(veiled).CloseWrite())
		closes(t, br)
	})
}

// A late connection says whose it is only when something has come, as one that
// speaks the PROXY protocol does.
type late struct {
	veiled
	known chan struct{}
}

func (c late) RemoteAddr() net.Addr { <-c.known; return c.veiled.RemoteAddr() }

type lateListener struct {
	net.Listener
	known chan struct{} // of the first; others know at once
	first *bool
}

func (l lateListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	known := l.known
	if !*l.first {
		known = make(chan struct{})
		close(known)
	}
	*l.first = false
	return late{veiled{c.(*net.TCPConn), 0}, known}, nil
}

// TestWhoseIsKnownLate: a client of which it is not known yet who it is keeps no
// other waiting.
func TestWhoseIsKnownLate(t *testing.T) {
	r := newRig(t, proxy.Options{})
	r.Pool("").SetBackends([]string{newOrigin(t, "a", nil).addr})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	known := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- r.Serve(ctx, lateListener{l, known, new(true)}) }()
	slow, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer slow.Close()
	answer := func(c net.Conn) {
		t.Helper()
		_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		require.NoError(t, err)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, resp.StatusCode)
		resp.Body.Close()
	}
	quick, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer quick.Close()
	answer(quick)
	close(known)
	answer(slow)
	cancel()
	require.NoError(t, <-served)
}
