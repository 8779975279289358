package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
)

// RoundTrip has a backend answer the request. It implements [http.RoundTripper]
// for the reverse proxy.
func (s *slowPath) RoundTrip(req *http.Request) (*http.Response, error) {
	q := req.Context().Value(requestKey{}).(*request)
	via := s.via(q.grpc, q.upgrade)
	q.mirrorTo(req)
	for {
		b, now, err := s.proxy.next(req.Context(), &q.exchange.route, s.proxy.now())
		if err != nil {
			return nil, err
		}
		q.try(b, now)
		ctx, cancel := context.WithCancelCause(req.Context())
		stop := context.AfterFunc(b.ctx, func() { cancel(errGone) })
		out := req.WithContext(ctx)
		url := *req.URL
		url.Host = urlHost(b.addr)
		out.URL = &url
		if q.body != nil {
			out.Trailer = maps.Clone(req.Trailer)
			out.Body = q.body.attempt(b, out.Trailer)
			if via == viaHTTP1 && out.ContentLength <= 0 && len(out.Trailer) > 0 {
				// Or net/http looks whether there is a body at all while it writes
				// the names of the trailers, which are filled at its end.
				out.TransferEncoding = []string{"chunked"}
			}
		}
		resp, sent, err := s.send(out, b, via)
		wasSent := err == nil || sent.sent()
		if err == nil {
			if err = check(resp, out); err == nil {
				if q.body != nil {
					q.body.settle()
				}
				q.answer(s.proxy.now(), resp.StatusCode)
				resp.Body = q.track(resp, req.Context(), ctx, func(cause error) { stop(); cancel(cause) })
				return resp, nil
			}
			resp.Body.Close()
		} else if ctx.Err() == nil && sent.unsendable() {
			err = &unsendableError{err}
		}
		stop()
		kind := q.kindOf(req.Context(), ctx, err)
		cancel(nil)
		q.kept = sent.idled()
		q.lose(s.proxy.now(), kind, err)
		if kind == Canceled || req.Context().Err() != nil || q.body != nil && !q.body.replayable() ||
			!s.proxy.mayRetry(&q.exchange.route, b, wasSent, isIdempotent(req.Method) && kind == Broken) {
			return nil, &backendError{kind, err}
		}
	}
}

// mirrorTo has the request, as a backend gets it, mirrored: at once, if there is
// all of it, or once its body has passed. The body is not read ahead: the client
// may wait for an answer to a part of it.
func (q *request) mirrorTo(req *http.Request) {
	if q.mirror == nil {
		return
	}
	if req.ContentLength > maxMirrored {
		q.p.mirrors.dropped.Add(1)
		return
	}
	c := q.mirror.begin(req)
	switch {
	case c == nil:
	case q.body == nil:
		c.send()
	default:
		q.copy, q.body.mirror = c, c
	}
}

// A backendError is why the last backend did not answer.
type backendError struct {
	kind ErrorKind
	err  error
}

func (e *backendError) Error() string { return e.err.Error() }
func (e *backendError) Unwrap() error { return e.err }

func isIdempotent(method string) bool {
	return slices.Contains([]string{"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"}, method)
}

// check looks at the head of a response for what net/http lets pass.
func check(resp *http.Response, req *http.Request) error {
	switch to := resp.Header.Get("Upgrade"); {
	case resp.ProtoMajor != 1 && resp.ProtoMajor != 2, resp.StatusCode < 100, resp.StatusCode > 599:
		return fmt.Errorf("%w: %s %s", errMalformed, resp.Proto, resp.Status)
	case resp.StatusCode == http.StatusSwitchingProtocols && !offers(req.Header.Get("Upgrade"), to):
		return fmt.Errorf("%w: status 101, to %q instead of %q", errMalformed, to, req.Header.Get("Upgrade"))
	}
	return nil
}

// offers reports whether a protocol is one of those in an Upgrade, each of which
// may have a version: RFC 9110, section 7.8.
func offers(upgrade, protocol string) bool {
	return protocol != "" && slices.ContainsFunc(strings.Split(upgrade, ","), func(offered string) bool {
		offered = strings.TrimSpace(offered)
		name, _, _ := strings.Cut(offered, "/")
		return strings.EqualFold(offered, protocol) || strings.EqualFold(name, protocol)
	})
}

// kindOf says what an error of a transport means. client is the request's
// context, ctx the attempt's.
func (q *request) kindOf(client, ctx context.Context, err error) ErrorKind {
	var dial *dialError
	var timeout net.Error
	var unsendable *unsendableError
	switch {
	case q.body != nil && q.body.failed() != nil, errors.As(err, &unsendable):
		return Canceled // by the client
	case errors.Is(context.Cause(client), errTimeout):
		return TimedOut
	case client.Err() != nil, q.pastDeadline():
		return Canceled
	case errors.Is(context.Cause(ctx), errSilent):
		return TimedOut
	case ctx.Err() != nil:
		return Broken // its time to drain is over
	case errors.As(err, &dial):
		return DialFailed
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return TimedOut
	case isBadResponse(err):
		return BadResponse
	}
	return Broken
}

// isBadResponse reports whether a transport could not read a response, or its
// body, for what it says. net/http has no errors to tell that by.
func isBadResponse(err error) bool {
	var op *net.OpError
	switch {
	case errors.Is(err, errMalformed):
		return true
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &op):
		return false
	}
	for _, word := range []string{"malformed", "invalid", "exceeded", "too many 1xx", "Content-Length", "unsupported transfer", "chunk"} {
		if strings.Contains(err.Error(), word) {
			return true
		}
	}
	return false
}
