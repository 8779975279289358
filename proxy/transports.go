package proxy

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

type bodyBuffers struct{}

func (bodyBuffers) Get() []byte  { return copyBuffers.Get().(*[32 << 10]byte)[:] }
func (bodyBuffers) Put(b []byte) { copyBuffers.Put((*[32 << 10]byte)(b)) }

// initTransports makes what connections are made with; none of them keeps any.
func (s *slowPath) initTransports() {
	opts := &s.proxy.opts
	for via := range protocols {
		t := &s.transports[via]
		*t = http.Transport{
			DialContext:            s.dial,
			IdleConnTimeout:        opts.BackendIdleTimeout,
			DisableCompression:     true,
			ResponseHeaderTimeout:  max(opts.ResponseTimeout, 0),
			ExpectContinueTimeout:  time.Second,
			MaxResponseHeaderBytes: maxResponseHead,
			Protocols:              new(http.Protocols),
		}
		if via == viaHTTP1 {
			t.Protocols.SetHTTP1(true)
			continue
		}
		t.Protocols.SetUnencryptedHTTP2(true)
		t.ExpectContinueTimeout = 0
		// A backend that is dead without a word is found out.
		t.HTTP2 = &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second}
	}
	s.transports[viaGRPC].ResponseHeaderTimeout = 0
}

// via returns how a request of a kind is sent.
func (s *slowPath) via(grpc, upgrade bool) protocol {
	switch speaks := s.proxy.opts.BackendProtocol; {
	case grpc && speaks != HTTP1:
		return viaGRPC
	case speaks == H2C && !upgrade:
		return viaH2C
	}
	return viaHTTP1
}

// A dialError says that there was no connection.
type dialError struct{ error }

func (e *dialError) Unwrap() error { return e.error }

func asDialError(err error) error {
	if d := (*dialError)(nil); errors.As(err, &d) {
		return err
	}
	return &dialError{err}
}

// dial makes a socket for a transport.
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
	closed := s.closed
	if !closed {
		s.conns[n] = struct{}{}
	}
	s.mu.Unlock()
	if closed {
		conn.Close()
		return nil, &dialError{errClosed}
	}
	sock := &transportConn{notifyConn: n, slow: s, raw: rawConn(conn)}
	ctx.Value(openKey{}).(func(*transportConn))(sock)
	return sock, nil
}

var errClosed = errors.New("the proxy has been closed")

// A transportConn is the socket of a clientConn. It remembers what was written,
// and why that failed, which net/http does not tell. What is read has passed its
// responseScan.
type transportConn struct {
	*notifyConn
	slow    *slowPath
	raw     syscall.RawConn // nil if there is none
	written atomic.Int64
	broke   atomic.Bool // writing failed

	responses *responseScan // nil with HTTP/2

	// What was read and net/http has not seen. Only who reads uses it.
	held   []byte
	passes int   // of held
	end    error // after that
}

// Read reads what passes: see responseScan.
func (c *transportConn) Read(p []byte) (int, error) {
	if c.responses == nil {
		return c.notifyConn.Read(p)
	}
	for {
		if c.passes > 0 {
			n := copy(p, c.held[:c.passes])
			c.passes -= n
			if c.held = c.held[n:]; len(c.held) == 0 {
				c.held = nil
			}
			return n, nil
		}
		if c.end != nil {
			return 0, c.end
		}
		n, err := c.notifyConn.Read(p)
		b := p[:n]
		if c.held != nil {
			c.held = append(c.held, b...)
			b = c.held
		}
		passes, refused := c.responses.scan(b)
		if c.held == nil && passes == n {
			return n, err
		}
		if c.held == nil {
			c.held = bytes.Clone(b)
		}
		switch c.passes = passes; {
		case refused == errUnasked:
			// net/http would write it to the program's log, as often as it comes.
			c.slow.proxy.log(slog.LevelInfo, "closed a connection", "backend", c.RemoteAddr(), "error", refused)
			c.end = io.EOF
		case refused != nil:
			c.end = refused
		case err != nil:
			c.passes, c.end = len(b), err // net/http sees how it breaks off
		}
	}
}

func (c *transportConn) Write(p []byte) (int, error) {
	if c.responses != nil {
		c.responses.writing()
	}
	n, err := c.notifyConn.Write(p)
	c.written.Add(int64(n))
	if err != nil {
		c.broke.Store(true)
	}
	return n, err
}

// stale reports whether the backend has ended the connection, or has said
// something that nobody asked for.
func (c *transportConn) stale() bool {
	return c.responses != nil && !c.responses.rests() || c.look(func(fd uintptr) bool { return !silentFD(fd) })
}

// hungUp reports whether the backend has ended the connection.
func (c *transportConn) hungUp() bool { return c.look(hungUpFD) }

func (c *transportConn) look(at func(fd uintptr) bool) (sees bool) {
	if c.raw == nil {
		return false
	}
	err := c.raw.Control(func(fd uintptr) { sees = at(fd) })
	return err != nil || sees
}

// close closes all connections to backends, and those that are just being made.
func (s *slowPath) close() {
	s.mu.Lock()
	s.closed = true
	conns := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
}

const unixHost = ".unix.invalid:80"

// urlHost returns an address as net/http takes one; backendAddr returns the
// address.
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
