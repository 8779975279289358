package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// track ends the attempt, whose context is ctx, when the body has been read or
// closed. client is the context of the request.
func (q *request) track(resp *http.Response, client, ctx context.Context, cancel func(error)) io.ReadCloser {
	t := &trackedBody{ReadCloser: resp.Body, q: q, client: client, ctx: ctx, cancel: cancel}
	q.tracked = t
	if d := q.p.opts.ResponseTimeout; d > 0 && resp.ContentLength > 0 {
		t.limit = d
		t.silent = time.AfterFunc(d, func() { cancel(errSilent) })
	}
	rw, ok := resp.Body.(io.ReadWriteCloser)
	if resp.StatusCode != http.StatusSwitchingProtocols || !ok {
		return t
	}
	if q.timeout != nil {
		q.timeout.Stop()
	}
	t.stop = context.AfterFunc(q.b.ctx, func() { rw.Close() })
	return &upgradedBody{trackedBody: t, w: rw, to: q.b}
}

type trackedBody struct {
	io.ReadCloser
	q        *request
	client   context.Context // of the request
	ctx      context.Context // of the attempt
	cancel   func(error)
	stop     func() bool
	limit    time.Duration              // for more of the body
	silent   *time.Timer                // ends the attempt after limit; nil if there is none
	half     atomic.Pointer[time.Timer] // the same, of what is upgraded, once the client has ended
	received atomic.Int64
	failed   atomic.Pointer[error]
	whole    atomic.Bool // all of it was read
	once     sync.Once
}

func (t *trackedBody) Read(p []byte) (int, error) {
	if t.silent != nil {
		t.silent.Reset(t.limit)
	}
	n, err := t.ReadCloser.Read(p)
	if t.silent != nil {
		t.silent.Stop() // the client may take its time
	}
	t.received.Add(int64(n))
	if err == io.EOF {
		t.whole.Store(true)
	} else if err != nil {
		t.failed.Store(&err)
	}
	return n, err
}

func (t *trackedBody) Close() error {
	err := t.ReadCloser.Close()
	t.end()
	return err
}

// end ends the attempt.
func (t *trackedBody) end() {
	t.once.Do(func() {
		t.q.received = t.received.Load()
		if t.stop != nil {
			t.stop()
		}
		if failed := t.failed.Load(); failed != nil && !t.q.upgraded {
			err, kind := *failed, t.q.kindOf(t.client, t.ctx, *failed)
			if cause := context.Cause(t.ctx); cause != nil {
				err = cause
			}
			t.q.lose(t.q.p.now(), kind, err)
		} else if !t.whole.Load() && !t.q.upgraded {
			t.q.lose(t.q.p.now(), Canceled, errClientGone)
		} else {
			t.q.finish()
		}
		if t.silent != nil {
			t.silent.Stop()
		}
		if half := t.half.Load(); half != nil {
			half.Stop()
		}
		t.cancel(nil)
	})
}

// An upgradedBody is that of a response that switches protocols.
type upgradedBody struct {
	*trackedBody
	w  io.Writer
	to *backend
}

func (u *upgradedBody) Write(p []byte) (int, error) {
	n, err := u.w.Write(p)
	u.to.bytesIn.Add(uint64(n))
	return n, err
}

func (u *upgradedBody) Read(p []byte) (int, error) {
	n, err := u.trackedBody.Read(p)
	if half := u.half.Load(); half != nil && err == nil {
		half.Reset(u.q.p.opts.DrainTimeout)
	}
	return n, err
}

// CloseWrite lets one direction end before the other, which must not be silent
// for too long then.
func (u *upgradedBody) CloseWrite() error {
	c, ok := u.w.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	u.half.Store(time.AfterFunc(u.q.p.opts.DrainTimeout, func() { u.ReadCloser.Close() }))
	return c.CloseWrite()
}
