package proxy

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"
)

// A protocol is how net/http sends a request to a backend.
type protocol int

const (
	viaHTTP1 protocol = iota
	viaH2C
	viaGRPC // h2c without a limit for the response to begin
	protocols
)

// clientConns are the connections of net/http to one backend, for one protocol.
//
// They are kept here, and not by an http.Transport, since that sends a request
// again by itself, to where it chose, as often as it likes: what goes wrong is
// to be seen, counted and bounded; and since it keeps connections to a backend
// that is gone. No call into net/http is made while mu is held: it calls forget
// with locks of its own.
type clientConns struct {
	mu      sync.Mutex    // guards the following
	closed  bool          // nothing is kept any more
	conns   []*clientConn // HTTP/1: those that rest, last in, first out; HTTP/2: all, as they are shared
	dialing *dialing      // of a connection that is to be shared; nil if there is none
}

// A clientConn is a connection that net/http speaks on.
type clientConn struct {
	*http.ClientConn
	sock *transportConn
	via  protocol
	idle *time.Timer // closes it; nil with HTTP/2, which does that by itself

	// Guarded by clientConns.mu.
	calling bool // somebody has it, and net/http has not returned the response yet, with HTTP/1
	resting bool // in conns, with HTTP/1
	gone    bool // the socket has been closed
}

// A dialing is a connection that is being made.
type dialing struct {
	done chan struct{}
	err  error // of which those who wait have no better
}

// get reserves a connection for one request: one that was used before, if there
// is one and anew is not set, or a new one.
func (c *clientConns) get(ctx context.Context, b *backend, via protocol, anew bool) (conn *clientConn, kept bool, err error) {
	if via != viaHTTP1 {
		return c.share(ctx, b, via)
	}
	for !anew {
		conn := c.pop()
		if conn == nil {
			break
		}
		if conn.Reserve() != nil {
			continue // it has ended
		}
		if !conn.sock.stale() {
			return conn, true, nil
		}
		conn.Close()
	}
	conn, err = c.dial(ctx, b, via)
	return conn, false, err
}

// share is get for HTTP/2. One new connection is made at a time: it may do for
// all who wait for it.
func (c *clientConns) share(ctx context.Context, b *backend, via protocol) (*clientConn, bool, error) {
	for {
		c.mu.Lock()
		conns, other := slices.Clone(c.conns), c.dialing
		mine := &dialing{done: make(chan struct{})}
		if other == nil {
			c.dialing = mine
		}
		c.mu.Unlock()
		finish := func() {
			if other == nil {
				c.mu.Lock()
				c.dialing = nil
				c.mu.Unlock()
				close(mine.done)
			}
		}
		for _, conn := range conns {
			if conn.sock.hungUp() || conn.Reserve() != nil {
				continue
			}
			finish()
			return conn, true, nil
		}
		if other == nil {
			// It is for others, too: it does not end with this request.
			conn, err := c.dial(b.ctx, b, via)
			mine.err = err
			finish()
			return conn, false, err
		}
		select {
		case <-other.done:
			if other.err != nil {
				return nil, false, other.err
			}
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

// dial makes a connection, which is reserved for one request.
func (c *clientConns) dial(ctx context.Context, b *backend, via protocol) (*clientConn, error) {
	s := &b.pool.proxy.slow
	conn := &clientConn{via: via}
	if via == viaHTTP1 {
		conn.idle = time.AfterFunc(time.Hour, func() { c.expire(conn) })
		conn.idle.Stop()
	}
	opened := func(sock *transportConn) {
		conn.sock = sock
		if via == viaHTTP1 {
			sock.responses = new(responseScan)
		}
		forget := *sock.onClose.Load()
		both := func() {
			forget()
			c.forget(conn)
		}
		sock.onClose.Store(&both)
	}
	cc, err := s.transports[via].NewClientConn(context.WithValue(ctx, openKey{}, opened), "http", urlHost(b.addr))
	if err != nil {
		return nil, asDialError(err)
	}
	conn.ClientConn = cc
	if err := cc.Reserve(); err != nil {
		cc.Close()
		return nil, asDialError(err)
	}
	cc.SetStateHook(func(*http.ClientConn) { c.changed(conn) })
	if via != viaHTTP1 {
		c.mu.Lock()
		if !conn.gone && !c.closed {
			c.conns = append(c.conns, conn)
		}
		c.mu.Unlock()
	}
	return conn, nil
}

// openKey is for what is to be told of the socket that a transport has dialed.
type openKey struct{}

// roundTrip has the backend of a connection that is reserved answer a request.
func (c *clientConns) roundTrip(conn *clientConn, r *http.Request) (*http.Response, error) {
	if conn.via != viaHTTP1 {
		return conn.RoundTrip(r)
	}
	c.setCalling(conn, true)
	resp, err := conn.RoundTrip(r)
	c.setCalling(conn, false)
	c.changed(conn)
	return resp, err
}

func (c *clientConns) setCalling(conn *clientConn, calling bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn.calling = calling
}

// changed is called by net/http when a request has ended, or the connection. A
// request that has no more than the head of a response to wait for has ended for
// net/http before it returns that, and does not return it if the connection is
// closed then, by whoever gets it next or by this: so that is waited for.
func (c *clientConns) changed(conn *clientConn) {
	if conn.Err() != nil || conn.InFlight() > 0 {
		return
	}
	c.mu.Lock()
	if conn.calling {
		c.mu.Unlock()
		return
	}
	keep := !c.closed && !conn.gone
	if conn.via == viaHTTP1 && !conn.resting {
		if keep = keep && len(c.conns) < conn.sock.slow.proxy.opts.MaxIdleConns; keep {
			conn.resting = true
			c.conns = append(c.conns, conn)
			conn.idle.Reset(conn.sock.slow.proxy.opts.BackendIdleTimeout)
		}
	}
	c.mu.Unlock()
	if !keep {
		conn.Close()
	}
}

// pop returns a connection that rests, or nil.
func (c *clientConns) pop() *clientConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := len(c.conns) - 1
	if last < 0 {
		return nil
	}
	conn := c.conns[last]
	c.conns[last] = nil
	c.conns = c.conns[:last]
	conn.resting, conn.calling = false, true
	conn.idle.Stop()
	return conn
}

// expire closes a connection that has rested for too long.
func (c *clientConns) expire(conn *clientConn) {
	c.mu.Lock()
	rests := conn.resting
	if rests {
		c.removeLocked(conn)
	}
	c.mu.Unlock()
	if rests {
		conn.Close()
	}
}

// forget is called when a socket has been closed.
func (c *clientConns) forget(conn *clientConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn.gone = true
	c.removeLocked(conn)
	if conn.idle != nil {
		conn.idle.Stop()
	}
}

func (c *clientConns) removeLocked(conn *clientConn) {
	conn.resting = false
	c.conns = slices.DeleteFunc(c.conns, func(other *clientConn) bool { return other == conn })
}

// close closes what rests, and the others when they do.
func (c *clientConns) close() {
	c.mu.Lock()
	c.closed = true
	conns := slices.Clone(c.conns)
	c.mu.Unlock()
	for _, conn := range conns {
		if conn.InFlight() == 0 {
			conn.Close()
		}
	}
}
