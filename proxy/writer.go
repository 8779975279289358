package proxy

import (
	"bufio"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// A statusWriter remembers the status, and is careful where the reverse proxy is
// not.
type statusWriter struct {
	http.ResponseWriter
	q      *request
	old    bool // the client is of HTTP/1.0
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if status < 200 && status != http.StatusSwitchingProtocols && w.old {
		return // which knows no interim responses: RFC 9110, section 15.2
	}
	if w.status < 200 {
		w.status = status
	}
	if status >= 200 && w.q.timed != nil {
		w.q.timed.answered()
	}
	if h := w.Header(); status >= 200 && h["Content-Type"] == nil {
		h["Content-Type"] = nil // or the server makes one up, if the body is there before the head is sent
	}
	w.ResponseWriter.WriteHeader(status)
}

// FlushError flushes, unless all is there already when the handler returns: in
// HTTP/2 the head must then say that nothing follows, or gRPC takes it for a
// stream whose trailers are missing.
func (w *statusWriter) FlushError() error {
	if w.q.bodiless {
		return nil
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack takes the connection over. What the client has sent already, and
// net/http has read, comes first.
func (w *statusWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if s, ok := conn.(interface{ switched() }); ok {
		s.switched()
	}
	return &hijackedConn{Conn: conn, early: rw.Reader, quiet: w.q.p.opts.DrainTimeout}, rw, nil
}

// A hijackedConn is a connection of which some has been read.
type hijackedConn struct {
	net.Conn
	early *bufio.Reader
	quiet time.Duration // for how long the client may be silent once the backend has ended
	half  atomic.Bool   // it has
}

func (c *hijackedConn) Read(p []byte) (int, error) {
	if c.early.Buffered() > 0 {
		return c.early.Read(p)
	}
	if c.half.Load() {
		c.Conn.SetReadDeadline(time.Now().Add(c.quiet))
	}
	return c.Conn.Read(p)
}

// CloseWrite ends one direction before the other.
func (c *hijackedConn) CloseWrite() error {
	c.half.Store(true)
	c.Conn.SetReadDeadline(time.Now().Add(c.quiet))
	return closeWrite(c.Conn)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
