package proxy

import (
	"context"
	"encoding/hex"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
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
	s.conns[n] = host
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

// leave closes the connections to a backend that has no more requests.
func (s *slowPath) leave(host string) {
	var conns []*notifyConn
	s.mu.Lock()
	for c, to := range s.conns {
		if to == host {
			conns = append(conns, c)
		}
	}
	s.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
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

// backendHost is what hosts of URLs end with that are backends.
const backendHost = ".backend.invalid:80"

// urlHost returns what the transports know a backend as, which is the host of a
// URL: its connections are used again for it only, and not for another one of the
// same address. backendAddr returns the address.
func urlHost(addr string, n uint64) string {
	return strconv.FormatUint(n, 10) + "." + hex.EncodeToString([]byte(addr)) + backendHost
}

func backendAddr(host string) string {
	name, _ := strings.CutSuffix(host, backendHost)
	_, name, _ = strings.Cut(name, ".")
	addr, err := hex.DecodeString(name)
	if err != nil {
		return host // and then dialing says what is wrong
	}
	return string(addr)
}
