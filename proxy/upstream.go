package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// A backendConn is a connection of the fast path to a backend. It belongs to
// one goroutine at a time, but for interrupt.
type backendConn struct {
	b    *backend
	conn net.Conn
	raw  syscall.RawConn // nil if the platform or the network has none
	idle instant         // since when

	// The exchange that is under way, for the callback of raw. One callback
	// that is made once keeps requests from allocating.
	onReady func(fd uintptr) bool
	look    func(fd uintptr)
	silent  bool // as look saw it
	out, in []byte
	wrote   bool
	sent    bool // some of out
	n       int
	err     error
}

func newBackendConn(b *backend, conn net.Conn) *backendConn {
	bc := &backendConn{b: b, conn: conn, raw: rawConn(conn)}
	bc.onReady = bc.step
	bc.look = func(fd uintptr) { bc.silent = silentFD(fd) }
	return bc
}

// dial opens a new connection to the backend.
func (b *backend) dial(ctx context.Context) (*backendConn, error) {
	conn, err := b.pool.proxy.dial(ctx, b.addr)
	if err != nil {
		return nil, err
	}
	bc := newBackendConn(b, conn)
	if !b.conns.add(bc) {
		conn.Close()
		return nil, errGone
	}
	return bc, nil
}

func (p *Proxy) dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: p.opts.DialTimeout}
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		return d.DialContext(ctx, "unix", path)
	}
	return d.DialContext(ctx, "tcp", addr)
}

// errGone says that a backend's requests have been ended.
var errGone = errors.New("the backend was removed and its time to drain is over")

// letGo ends that the connection to the backend is interrupted together with
// that of the client. It reports false if it has been: then it is not to be used
// for another request.
func (c *conn) letGo() bool {
	c.backend.Store(nil)
	return !c.interrupted.Load() // which is set before backend is looked at
}

// interrupt ends what the owner of the connection waits for. Others may call it.
func (bc *backendConn) interrupt() { bc.conn.SetDeadline(longAgo) }

// close ends the connection. Only its owner may call it.
func (bc *backendConn) close() {
	bc.b.conns.drop(bc)
	bc.conn.Close()
}

// roundTrip sends out, and reads what comes first into in. sent is whether any
// byte of out may have reached the backend.
//
// To write first and then wait, without trying to read what cannot have come
// yet, saves a system call. That no news is lost meanwhile is RawConn's doing:
// it clears what it heard before the first call of the callback, not later.
func (bc *backendConn) roundTrip(out, in []byte) (n int, sent bool, err error) {
	if bc.raw == nil {
		n, err := bc.conn.Write(out)
		if err != nil {
			return 0, n > 0, err
		}
		n, err = bc.conn.Read(in)
		return n, true, err
	}
	bc.out, bc.in, bc.wrote, bc.sent, bc.n, bc.err = out, in, false, false, 0, nil
	err = bc.raw.Read(bc.onReady)
	bc.out, bc.in = nil, nil
	if bc.err != nil {
		err = bc.err
	}
	return bc.n, bc.sent, err
}

// step is the callback of roundTrip.
func (bc *backendConn) step(fd uintptr) bool {
	untold := false // that there is an answer
	if !bc.wrote {
		n, err := writeFD(fd, bc.out)
		if err == errAgain {
			err = nil
		}
		bc.sent = n > 0
		if err == nil && n < len(bc.out) {
			_, err = bc.conn.Write(bc.out[n:])
			bc.sent = true
		}
		if err != nil {
			bc.err = err
			return true
		}
		bc.wrote = true
		if !bc.b.pool.proxy.turns.busy.Load() || !bc.b.prompt.expected() {
			return false
		}
		runtime.Gosched()
		untold = true
	}
	n, err := readFD(fd, bc.in)
	if untold {
		bc.b.prompt.found(err != errAgain)
	}
	if err == errAgain {
		return false
	}
	bc.n, bc.err = n, err
	return true
}

// stale reports whether the connection ended, or the backend has said something
// that nobody asked for, while it was idle.
func (bc *backendConn) stale() bool {
	if bc.raw == nil {
		return false
	}
	bc.silent = false
	err := bc.raw.Control(bc.look)
	return err != nil || !bc.silent
}

// errorKind says what an error of a connection to a backend means.
func errorKind(err error) ErrorKind {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return TimedOut
	case errors.Is(err, context.Canceled):
		return Canceled
	}
	return Broken
}

// idleConns are the connections of the fast path to one backend.
type idleConns struct {
	max int

	mu     sync.Mutex // guards the following
	closed bool
	dead   bool
	idle   []*backendConn // last in, first out
	all    map[*backendConn]struct{}
	open   atomic.Int64
}

// get returns an idle connection, or nil.
func (c *idleConns) get() *backendConn {
	for {
		c.mu.Lock()
		if len(c.idle) == 0 {
			c.mu.Unlock()
			return nil
		}
		last := len(c.idle) - 1
		bc := c.idle[last]
		c.idle[last] = nil
		c.idle = c.idle[:last]
		c.mu.Unlock()
		if !bc.stale() {
			return bc
		}
		bc.close()
	}
}

// put keeps a connection for further requests.
func (c *idleConns) put(bc *backendConn, now instant) {
	c.mu.Lock()
	keep := !c.closed && len(c.idle) < c.max
	if keep {
		bc.idle = now
		c.idle = append(c.idle, bc)
	}
	c.mu.Unlock()
	if !keep {
		bc.close()
	}
}

func (c *idleConns) add(bc *backendConn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return false
	}
	if c.all == nil {
		c.all = map[*backendConn]struct{}{}
	}
	c.all[bc] = struct{}{}
	c.open.Add(1)
	return true
}

func (c *idleConns) drop(bc *backendConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.all[bc]; ok {
		delete(c.all, bc)
		c.open.Add(-1)
	}
}

// closeAll closes the connections that are idle.
func (c *idleConns) closeAll() { c.closeIdle(func(*backendConn) bool { return true }) }

// closeOld closes connections that have been idle since before that time.
func (c *idleConns) closeOld(before instant) {
	c.closeIdle(func(bc *backendConn) bool { return bc.idle < before })
}

func (c *idleConns) closeIdle(which func(*backendConn) bool) {
	var closing []*backendConn
	c.mu.Lock()
	c.idle = slices.DeleteFunc(c.idle, func(bc *backendConn) bool {
		if which(bc) {
			closing = append(closing, bc)
			return true
		}
		return false
	})
	c.mu.Unlock()
	for _, bc := range closing {
		bc.close()
	}
}

// close keeps no more connections.
func (c *idleConns) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.closeAll()
}

// abort interrupts those in use, too, and allows no new ones.
func (c *idleConns) abort() {
	c.mu.Lock()
	c.closed, c.dead = true, true
	var all []*backendConn
	for bc := range c.all {
		all = append(all, bc)
	}
	c.mu.Unlock()
	for _, bc := range all {
		bc.interrupt()
	}
	c.closeAll()
}

// readAll keeps reading from a peer until it ends, for a short time and some
// bytes, so that what was written to it last is not lost to a reset.
func readAll(conn net.Conn) {
	conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	_, _ = io.CopyN(io.Discard, conn, 256<<10)
}
