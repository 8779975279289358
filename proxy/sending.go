package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
)

// send has a backend answer a request. If a connection that was used before turns
// out to have ended, and nothing was written on it, it is sent on a new one.
func (s *slowPath) send(r *http.Request, b *backend, via protocol) (*http.Response, *sending, error) {
	for anew := false; ; anew = true {
		conn, kept, err := b.slow[via].get(r.Context(), b, via, anew)
		if err != nil {
			return nil, &sending{}, err
		}
		t := &sending{conn: conn, kept: kept, before: conn.sock.written.Load()}
		if conn.sock.responses != nil {
			conn.sock.responses.announce(r.Method)
		}
		resp, err := b.slow[via].roundTrip(conn, r.WithContext(t.trace(r.Context())))
		if err == nil {
			if resp.StatusCode != http.StatusSwitchingProtocols {
				resp.Body = &clientBody{resp.Body, &b.slow[via], conn}
			}
			return resp, t, nil
		}
		t.err = err
		if anew || !kept || t.sent() || t.unsendable() || isRefused(err) || r.Context().Err() != nil || !rewind(r.Body) {
			return nil, t, err
		}
	}
}

// A clientBody is the body of a response. Once it has been closed its connection is
// looked at: net/http tells of a change only if there was none while it did so.
type clientBody struct {
	io.ReadCloser
	conns *clientConns
	conn  *clientConn
}

func (c *clientBody) Close() error {
	err := c.ReadCloser.Close()
	c.conns.changed(c.conn)
	return err
}

// rewind prepares a body to be read from its beginning, if that is possible.
func rewind(body any) bool {
	if body == nil || body == http.NoBody {
		return true
	}
	b, ok := body.(*attemptBody)
	return ok && b.rewind()
}

// A sending is what is seen of one attempt to send a request. The zero value is
// of one that found no connection.
type sending struct {
	conn   *clientConn
	kept   bool  // conn was used before
	before int64 // what had been written on it
	err    error

	wrote atomic.Bool // the head, with HTTP/2
	heard atomic.Bool // of the backend
}

// trace returns a context by which net/http tells.
func (t *sending) trace(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		// With HTTP/2 it is called while nobody else can write on the connection.
		WroteHeaders:         func() { t.wrote.Store(!t.conn.sock.broke.Load()) },
		GotFirstResponseByte: func() { t.heard.Store(true) },
	})
}

// sent reports whether the backend may have looked at the request.
func (t *sending) sent() bool {
	switch {
	case t.conn == nil:
		return false
	case t.conn.via == viaHTTP1:
		return t.conn.sock.written.Load() != t.before
	}
	return t.wrote.Load() && !isRefused(t.err) && !isGoAway(t.err)
}

// idled reports whether the attempt may have failed by no more than that the
// connection had been idle for long.
func (t *sending) idled() bool { return t.kept && !t.heard.Load() && !isRefused(t.err) }

// unsendable reports whether net/http cannot send such a request, which is not
// the backend's fault: it did not try, and the connection is as good as before.
func (t *sending) unsendable() bool {
	return t.conn != nil && t.conn.Err() == nil && !t.sent() && !isRefused(t.err) && !isGoAway(t.err)
}

// A streamError is net/http's error about a stream of HTTP/2: its method As finds
// this to be like that.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (e streamError) Error() string { return "stream error" }

// isRefused reports whether a backend of HTTP/2 said that it did not look at a
// request: RFC 9113, section 8.7.
func isRefused(err error) bool {
	const refusedStream = 0x7
	var e streamError
	return errors.As(err, &e) && e.Code == refusedStream
}

// isGoAway reports whether a backend of HTTP/2 said that it did not look at a
// request since it is about to close the connection, or had done so before. There
// are no errors to tell that by.
func isGoAway(err error) bool {
	if err == nil {
		return false
	}
	for _, words := range []string{"Transport received ", "client conn not usable", "client conn could not be established"} {
		if strings.HasPrefix(err.Error(), "http2: "+words) {
			return true
		}
	}
	return false
}

// An unsendableError says that a request cannot be sent to a backend.
type unsendableError struct{ error }

func (e *unsendableError) Unwrap() error { return e.error }
