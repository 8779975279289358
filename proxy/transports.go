package proxy

import (
	"context"
	"encoding/hex"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
)

type bodyBuffers struct{}

func (bodyBuffers) Get() []byte  { return copyBuffers.Get().(*[32 << 10]byte)[:] }
func (bodyBuffers) Put(b []byte) { copyBuffers.Put((*[32 << 10]byte)(b)) }

// transport returns what a request of a kind is sent with.
func (s *slowPath) transport(grpc, upgrade bool) *http.Transport {
	switch speaks := s.proxy.opts.BackendProtocol; {
	case grpc && speaks != HTTP1:
		return &s.grpc
	case speaks == H2C && !upgrade:
		return &s.h2c
	}
	return &s.http1
}

// A dialError says that there was no connection.
type dialError struct{ error }

func (e *dialError) Unwrap() error { return e.error }

func (s *slowPath) dial(ctx context.Context, _, host string) (net.Conn, error) {
	conn, err := s.proxy.dial(ctx, backendAddr(host))
	if err != nil {
		return nil, &dialError{err}
	}
	n := &notifyConn{Conn: conn}
	forget := func() {
		s.mu.Lock()
		delete(s.conns, n)
		s.mu.Unlock()
	}
	n.onClose.Store(&forget)
	s.mu.Lock()
	s.conns[n] = struct{}{}
	s.mu.Unlock()
	return &transportConn{notifyConn: n}, nil
}

// A transportConn is a connection that a transport has. It remembers why reading
// failed, which the transport does not tell if it tries again.
type transportConn struct {
	*notifyConn
	failed atomic.Pointer[error]
}

func (c *transportConn) Read(p []byte) (int, error) {
	n, err := c.notifyConn.Read(p)
	if err != nil {
		c.failed.CompareAndSwap(nil, &err)
	}
	return n, err
}

// close closes all connections to backends. The transports could close only
// those that rest, and take a while to notice which do.
func (s *slowPath) close() {
	s.mu.Lock()
	conns := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
	s.http1.CloseIdleConnections()
	s.h2c.CloseIdleConnections()
	s.grpc.CloseIdleConnections()
}

const unixHost = ".unix.invalid:80"

// urlHost returns an address as the host of a URL, which tells the transports
// which connections they can use again; backendAddr returns the address.
func urlHost(addr string) string {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		return hex.EncodeToString([]byte(path)) + unixHost
	}
	return addr
}

func backendAddr(host string) string {
	if path, ok := strings.CutSuffix(host, unixHost); ok {
		if b, err := hex.DecodeString(path); err == nil {
			return "unix:" + string(b)
		}
	}
	return host
}
