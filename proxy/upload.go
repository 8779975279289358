package proxy

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// upload serves the request in c.w.req, whose body is larger than the buffer: it
// passes the body on while it waits for the response. Such a request is sent
// once.
func (c *conn) upload() action {
	w := c.w
	buffered := w.n - w.r - w.req.size
	c.begin(buffered)
	if w.x.p.mirrored(w.x.route.pool) != nil {
		w.x.p.mirrors.dropped.Add(1)
	}
	next := c.attempts(w.req.length - int64(buffered))
	c.conclude()
	w.r = w.n // nothing else can have been read
	return next
}

// uploadTime is how long the end of a body may take to be noticed after the
// backend, which has seen it, has answered. If it is not by then, the backend
// answers before it has all.
const uploadTime = 5 * time.Millisecond

// passBody passes the rest of the body on, and the response back.
func (c *conn) passBody(bc *backendConn, left int64) action {
	w := c.w
	x := &w.x
	done := make(chan error, 1)
	b := x.b
	var stopping atomic.Bool // so what then ends is not the client's doing
	// Both ways have limits of their own: what one end owes may be late while
	// there is news of the other. Only once all has been sent is the response
	// waited for, if it has not begun.
	var (
		mu          sync.Mutex
		sent, begun bool
	)
	c.expect(0)
	c.waiting.Store(0)
	go func() {
		n, err := c.copyBody(bc, left)
		if errors.Is(err, errClientGone) && !stopping.Load() {
			c.left.Store(true) // before whoever waits for the backend
			bc.interrupt()
		} else if err != nil {
			err = errBodyCut
		}
		b.bytesIn.Add(uint64(w.req.length - left + n))
		mu.Lock()
		sent = true
		c.owing.Store(0)
		c.due.Store(0)
		if !begun && err == nil {
			c.due.Store(int64(c.responseDeadline()))
			c.waiting.Store(int64(c.server.proxy.now()))
		}
		mu.Unlock()
		done <- err
	}()
	finished := false
	var upErr error
	stop := func() { // waits for the goroutine above
		if !finished {
			stopping.Store(true)
			c.rwc.SetReadDeadline(longAgo)
			bc.interrupt()
			upErr = <-done
			finished = true
		}
	}

	n, err := bc.conn.Read(w.resp)
	kind := NoError
	if err == nil {
		x.kept = false // it was good
		n, kind, err = c.readHead(bc, n)
	} else {
		kind = c.kindOf(bc, err)
	}
	mu.Lock()
	begun = true
	if sent {
		c.due.Store(0)
	}
	mu.Unlock()
	select {
	case upErr = <-done:
		finished = true
	case <-time.After(uploadTime):
	}
	if err != nil {
		whole := finished && upErr == nil
		stop()
		if errors.Is(upErr, errClientGone) {
			kind, err = Canceled, errClientGone
		}
		c.backend.Store(nil)
		bc.close()
		c.tick()
		x.lose(c.clock, kind, err)
		switch {
		case kind == Canceled:
			return hangUp
		case whole:
			return c.refuse(kind, err, false)
		}
		return c.refuse(kind, err, true)
	}
	if finished && upErr == nil {
		return c.respond(bc, n, false)
	}
	// The backend answers before it has all: the client is told, and then both
	// connections end.
	c.respond(bc, n, true)
	stop()
	c.linger()
	return hangUp
}

// errBodyCut says that the body was not passed on as a whole, which is the
// backend's doing, or this one's.
var errBodyCut = errors.New("the body was cut")

// copyBody passes n bytes of a body from the client to the backend.
func (c *conn) copyBody(bc *backendConn, n int64) (copied int64, err error) {
	p := c.server.proxy
	began := p.now()
	_, fromTCP := c.rwc.(*net.TCPConn)
	to, toTCP := bc.conn.(*net.TCPConn)
	splice := canSplice && fromTCP && toTCP
	var buf []byte
	if !splice {
		b := copyBuffers.Get().(*[32 << 10]byte)
		defer copyBuffers.Put(b)
		buf = b[:]
	}
	for copied < n {
		c.due.Store(0)
		c.owing.Store(int64(c.bodyDeadline(p.now(), began, copied)))
		var m int64
		if splice {
			// As much as there is: then only the backend is waited for.
			if m, err = awaitReadable(c.raw); err == nil {
				c.owing.Store(0)
				c.due.Store(int64(c.responseDeadline()))
				m, err = to.ReadFrom(&io.LimitedReader{R: c.rwc, N: min(m, n-copied)})
				copied += m
				if err != nil {
					return copied, err // the backend's answer, if any, says more
				}
				continue
			}
		} else {
			var k int
			if k, err = c.rwc.Read(buf[:min(int64(len(buf)), n-copied)]); k > 0 {
				c.owing.Store(0)
				c.due.Store(int64(c.responseDeadline()))
				k, err = bc.conn.Write(buf[:k])
				copied += int64(k)
				if err != nil {
					return copied, err
				}
				continue
			}
		}
		return copied, errClientGone
	}
	return copied, nil
}

// responseDeadline gives the backend time to take more of a body, or to answer
// once it has all.
func (c *conn) responseDeadline() instant {
	p := c.server.proxy
	if d := p.opts.ResponseTimeout; d > 0 {
		return p.now() + instant(d)
	}
	return never
}

// bodyDeadline gives the client BodyTimeout for more of its body, of which it
// has sent some since it began, unless it has been slower than MinBodyRate.
func (c *conn) bodyDeadline(now, began instant, sent int64) instant {
	opts := &c.server.proxy.opts
	if opts.BodyTimeout <= 0 {
		return never
	}
	limit := now + instant(opts.BodyTimeout)
	if opts.MinBodyRate > 0 {
		limit = min(limit, began+instant(opts.BodyTimeout)+instant(float64(sent)/float64(opts.MinBodyRate)*float64(time.Second)))
	}
	return limit
}

// linger ends the connection so that the client gets what was written last, even
// if it is still sending.
func (c *conn) linger() {
	c.deadline.Store(0)
	if cw, ok := c.rwc.(interface{ CloseWrite() error }); ok && cw.CloseWrite() == nil {
		readAll(c.rwc)
	}
}
