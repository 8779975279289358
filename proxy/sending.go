package proxy

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
)

// A sending is what is seen of one attempt within a transport. That would send a
// request again by itself, if it is idempotent and a connection that was kept
// turns out to be closed; here that is not its to decide. Over HTTP/2 it does so
// only if the backend said that it did not look at the request: that it may.
type sending struct {
	cancel context.CancelCauseFunc
	http2  bool

	asked  atomic.Bool                   // for a connection
	conn   atomic.Pointer[transportConn] // that it got
	kept   atomic.Bool                   // that was used before, and nothing has come on it since
	wrote  atomic.Bool                   // the head: the backend may have seen it
	denied atomic.Bool                   // to send it again
}

// broke returns why the connection is none any more.
func (s *sending) broke() error {
	if c := s.conn.Load(); c != nil {
		if err := c.failed.Load(); err != nil {
			return *err
		}
	}
	return errBroke
}

var errBroke = errors.New("the connection broke")

// trace returns a context by which a transport tells.
func (s *sending) trace(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) {
			s.asked.Store(true)
			if !s.wrote.Load() {
				return
			}
			if s.http2 {
				s.wrote.Store(false)
				return
			}
			s.denied.Store(true)
			s.cancel(s.broke())
		},
		GotConn: func(c httptrace.GotConnInfo) {
			if s.denied.Load() {
				c.Conn.Close() // it came before it was noticed that the attempt is over
			} else if conn, ok := c.Conn.(*transportConn); ok {
				s.conn.Store(conn)
				s.kept.Store(c.Reused)
			}
		},
		GotFirstResponseByte: func() { s.kept.Store(false) },
		WroteHeaders:         func() { s.wrote.Store(true) },
	})
}

// unsendable reports whether an error of a transport says that it cannot send such
// a request, which is not the backend's fault.
func (s *sending) unsendable(err error) bool {
	return !s.asked.Load() || strings.Contains(err.Error(), tooLargeForPeer)
}

// tooLargeForPeer is what net/http says of a head that is larger than a backend of
// HTTP/2 wants.
const tooLargeForPeer = "request header list larger than peer's advertised limit"

// An unsendableError says that a request cannot be sent to a backend.
type unsendableError struct{ error }

func (e *unsendableError) Unwrap() error { return e.error }

// neverReplay keeps a transport from sending a POST twice: it takes one that has
// no body, but one of these fields, for one that may be. It looks for them as it
// would write them itself; in other letters they say the same.
func neverReplay(r *http.Request) {
	if isIdempotent(r.Method) {
		return
	}
	for _, name := range []string{"Idempotency-Key", "X-Idempotency-Key"} {
		if v, ok := r.Header[name]; ok {
			delete(r.Header, name)
			r.Header[strings.ToLower(name)] = v
		}
	}
}
