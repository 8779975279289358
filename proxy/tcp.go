package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// ServeTCP accepts connections and passes what comes on them to backends, and
// back, as it is. A connection whose backend cannot be reached is tried on
// others. Splits, stickiness by client address, holding, and health are those of
// requests; each connection counts as one. A backend that resets a connection
// before it has said anything is avoided, as one that cannot be reached. When one
// end of a connection has ended, the other may be silent for Options.DrainTimeout.
// ServeTCP returns as [Proxy.Serve] does.
func (p *Proxy) ServeTCP(ctx context.Context, l net.Listener) error {
	t := &tcpServer{proxy: p}
	t.ctx, t.abort = context.WithCancel(context.WithoutCancel(ctx))
	defer t.abort()
	a := acceptor{proxy: p, places: make(chan struct{}, p.opts.MaxConns)}
	err := a.run(ctx, l, func(c net.Conn) {
		t.wg.Go(func() {
			defer a.leave()
			t.serve(c)
		})
	})
	done := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Go(func() {
		t.wg.Wait()
		close(done)
	})
	timeout := time.NewTimer(p.opts.DrainTimeout)
	defer timeout.Stop()
	select {
	case <-done:
	case <-timeout.C:
		t.abort()
	case <-p.ended.Done():
		t.abort()
	}
	waiting.Wait()
	return err
}

type tcpServer struct {
	proxy *Proxy
	ctx   context.Context // ends when connections must
	abort context.CancelFunc
	wg    sync.WaitGroup
}

// serve passes one connection on until it ends.
func (t *tcpServer) serve(client net.Conn) {
	defer client.Close()
	p := t.proxy
	x := &exchange{p: p, start: p.now()}
	peer := peerOf(client)
	defer func() { x.conclude("", "", "", peer, "TCP") }()
	t.route(x, peer)
	for {
		b, now, err := p.next(t.ctx, &x.route, p.now())
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				x.refused(err)
			}
			return
		}
		x.try(b, now)
		server, err := p.dial(b.ctx, b.addr)
		if err != nil {
			x.lose(p.now(), DialFailed, err)
			x.route.failed(b)
			continue
		}
		x.connected(p.now())
		var kind ErrorKind
		x.received, kind, err = t.join(b, client, server)
		switch {
		case kind == Broken && x.received == 0:
			b.refused(x.began, p.now()) // as good as a refused connection
		case kind == NoError || x.received > 0:
			b.well()
		}
		if kind == NoError {
			x.finish()
		} else {
			x.lose(p.now(), kind, err)
		}
		return
	}
}

func (t *tcpServer) route(x *exchange, peer netip.Addr) {
	p := t.proxy
	x.route.stream = true
	client := clientKey(peer)
	var sticky []byte
	if p.sticky().kind == clientAddr {
		sticky = client
	}
	p.choose(&x.route, sticky, nil)
	if p.opts.Balance == Hash && p.opts.HashBy.kind == clientAddr && client != nil {
		x.route.key, x.route.hashed = hashKey(0, client), true
	}
}

// join copies both ways until both ends have ended, or must. What one end has
// ended is ended at the other. It returns how much the client got, and what went
// wrong: Broken if the backend did, Canceled if the client or this proxy ended it,
// or TimedOut if the client had ended and the backend said nothing more.
func (t *tcpServer) join(b *backend, client, server net.Conn) (received int64, kind ErrorKind, err error) {
	defer server.Close()
	j := joint{client: client, server: server, quiet: t.proxy.opts.DrainTimeout / 2}
	for _, ctx := range []context.Context{t.ctx, b.ctx} {
		stop := context.AfterFunc(ctx, func() { j.end(Canceled, context.Cause(ctx)) })
		defer stop()
	}
	var up sync.WaitGroup
	up.Go(func() {
		n, err := j.copy(server, client, Canceled)
		b.bytesIn.Add(uint64(n))
		j.ended(server, err)
	})
	received, err = j.copy(client, server, TimedOut)
	j.ended(client, err)
	up.Wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	return received, j.kind, j.err
}

// A joint is two connections of which each gets what comes from the other.
type joint struct {
	client, server net.Conn
	quiet          time.Duration // half of the time for which one end may be silent once the other has ended

	mu   sync.Mutex // guards the following, and read deadlines
	half bool       // one direction has ended
	over bool
	kind ErrorKind // why
	err  error
}

// end ends both directions, for the first reason that it is given.
func (j *joint) end(kind ErrorKind, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.over {
		j.over, j.kind, j.err = true, kind, err
		j.client.SetDeadline(longAgo)
		j.server.SetDeadline(longAgo)
	}
}

// ended notes that all has been copied to that end, or what failed.
func (j *joint) ended(to net.Conn, err error) {
	if err != nil {
		return // end has been called
	}
	if err := closeWrite(to); err != nil {
		j.end(j.blame(to), err)
		return
	}
	j.mu.Lock()
	j.half = true
	j.mu.Unlock()
	j.limit(to) // of which the rest is waited for
}

// limit has reading from that end cease when it has been silent for a while, if
// the other has ended. It reports false if both have.
func (j *joint) limit(from net.Conn) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.half && !j.over {
		from.SetReadDeadline(time.Now().Add(j.quiet))
	}
	return j.half && !j.over
}

// copy copies from one end to the other until that has ended; the kernel does it
// if it can. It calls end before it returns an error.
func (j *joint) copy(to, from net.Conn, silent ErrorKind) (n int64, err error) {
	var w io.Writer = to
	if !isBare(to) {
		w = struct{ io.Writer }{to} // without a ReadFrom that may be of what it embeds
	}
	var r io.Reader = from
	if !isBare(from) {
		r = struct{ io.Reader }{from} // nor a WriteTo
	}
	for quiet := 0; ; {
		m, err := io.Copy(w, r)
		n += m
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if quiet++; m > 0 {
				quiet = 0
			}
			if quiet < 2 && j.limit(from) {
				continue
			}
			j.end(silent, err)
		} else if err != nil {
			j.end(j.culprit(err, to, from), err)
		}
		return n, err
	}
}

// culprit says what an error of copying is: Broken if it is the backend's.
func (j *joint) culprit(err error, to, from net.Conn) ErrorKind {
	var op *net.OpError
	for cause := err; errors.As(cause, &op); cause = op.Err {
		switch op.Op {
		case "read":
			return j.blame(from)
		case "write":
			return j.blame(to)
		}
	}
	// The kernel reports errors of both ends alike.
	if isReset(j.server) && !isReset(j.client) {
		return Broken
	}
	return Canceled
}

func (j *joint) blame(end net.Conn) ErrorKind {
	if end == j.server {
		return Broken
	}
	return Canceled
}

// isReset reports whether a connection can neither be read nor written any more.
func isReset(c net.Conn) (reset bool) {
	if raw := socketOf(c); raw != nil {
		_ = raw.Control(func(fd uintptr) { reset = resetFD(fd) })
	}
	return reset
}

func closeWrite(c net.Conn) error {
	if cw, ok := c.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}
