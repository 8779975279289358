package proxy

import (
	"math"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// This file is the fast path: HTTP/1.1 requests that are plain enough are served
// here, by one goroutine for each connection, with buffers that it has only
// while there is a request. What is not is handed to net/http, with all that has
// been read.

// A conn is a connection of a client, as the fast path has it.
type conn struct {
	server *server
	sock   net.Conn        // below TLS
	rwc    net.Conn        // sock, or TLS on it
	raw    syscall.RawConn // of rwc; nil if there is none
	look   syscall.RawConn // of what is below sock, to be looked at only; nil if there is none
	tells  bool            // look says how much the client takes; if not, sock limits it
	peer   netip.Addr
	trust  bool // of what the peer says of its clients

	w    *workspace // nil while at rest
	step func(fd uintptr) bool
	bare bool    // rwc is a connection of TCP, and nothing around it
	open uintptr // the descriptor of one that is, while raw calls step; or 0
	next action
	used bool // there was a request

	// For the reaper, which interrupts what takes too long.
	deadline atomic.Int64 // instant; 0 if there is none
	clock    instant      // the time of late, so that it is asked for twice a request only
	pieces   bool         // the head of the request does not come at once
	owed     instant      // when it was seen that the client owes a body; 0 if it does not
	limit    instant      // of the request as a whole; 0 if there is none
	owing    atomic.Int64 // instant: when the client must have sent more of an upload; 0 if it need not
	due      atomic.Int64 // instant: when the backend must have taken more of it, or have answered
	waiting  atomic.Int64 // instant since when it waits for a backend; 0 if it does not
	backend  atomic.Pointer[backendConn]
	resting  atomic.Bool  // between requests
	unread   atomic.Int64 // instant since when it rests, if it was not read to its end before
	passing  atomic.Int32 // a body to the client: notPassing and so on
	stall    stall        // of the reaper alone
	fresh    atomic.Bool  // before the first one
	left     atomic.Bool  // the client was seen to be gone

	interrupted atomic.Bool // deadlines of sock have been set, and perhaps those of backend
	wasNudged   bool

	slot int // in server.conns; guarded by server.mu

	// Of the lot, where connections rest without a goroutine.
	fd       int32
	enlisted bool
	parked   atomic.Bool
	warm     bool // counted in server.warm
}

// An action is what a connection does next.
type action int

const (
	readMore action = iota
	hangUp
	handOver // to net/http
	park     // in the lot
	doUpload // of a body that does not fit into the buffer
)

// serve serves the connection until it ends or is handed over.
func (c *conn) serve() {
	if c.server.tls != nil {
		c.server.handshake(c)
	}
	for {
		if c.next == readMore {
			if c.raw == nil {
				c.next = c.readLoop()
			} else if err := c.raw.Read(c.step); err != nil && !c.nudged() {
				c.next = hangUp
			}
		}
		switch c.next {
		case park:
			c.next = readMore
			if c.server.lot.park(c) {
				return // serve is called again when there is something to read
			}
			c.warm = true // the lot is being closed
			c.server.warm.Add(1)
			continue
		case doUpload:
			if c.next = c.upload(); c.next == readMore {
				c.next = c.advance()
			}
			continue
		case handOver:
			headBy := instant(c.deadline.Swap(0))
			var read []byte
			if c.w != nil {
				read = append(read, c.w.buf[c.w.r:c.w.n]...)
			}
			c.rest()
			c.server.handOver(c, read, headBy)
			return
		case hangUp:
			c.rest()
			if c.warm {
				c.server.warm.Add(-1)
			}
			c.server.forget(c)
			c.rwc.Close()
			return
		}
	}
}

// rest gives the workspace back.
func (c *conn) rest() {
	if c.w != nil {
		c.w.free()
		c.w = nil
	}
}

// onReadable is called by c.raw when there may be something to read. It serves
// what there is, and returns true when something else is to be done: to return
// false is to wait. Nobody else can read from the connection meanwhile.
func (c *conn) onReadable(fd uintptr) bool {
	if c.bare {
		c.open = fd
		defer func() { c.open = 0 }()
	}
	if c.w == nil {
		c.w = newWorkspace()
		if c.warm {
			c.warm = false
			c.server.warm.Add(-1)
		}
	}
	last := false
	for {
		into := c.w.buf[c.w.n:]
		n, err := readFD(fd, into)
		switch {
		case err == errAgain:
			if c.w.r < c.w.n {
				return false
			}
			if c.server.closing.Load() && !c.fresh.Load() {
				if !last {
					last = true // what came before it was closing is served
					continue
				}
				c.next = hangUp
				return true
			}
			return !c.wait()
		case err != nil:
			c.next = hangUp
			return true
		}
		c.w.n += n
		if c.next = c.advance(); c.next != readMore {
			return true
		}
		// To have read less than there was room for is to have read what there was,
		// with TCP on Linux, if no byte of it was urgent. What has come since is heard
		// of, but for the end, if that was there already: the reaper looks for it. If
		// there is a part of a request, that is not left to the reaper.
		if c.tells && n < len(into) && c.w.r == c.w.n && !c.server.closing.Load() {
			c.unread.Store(int64(c.clock))
			return !c.wait()
		}
	}
}

// wait lets the connection rest. It reports whether its goroutine stays.
func (c *conn) wait() bool {
	c.rest()
	if c.server.lot == nil {
		return true
	}
	if c.server.warm.Add(1) <= warmConns {
		c.warm = true
		return true
	}
	c.server.warm.Add(-1)
	c.next = park
	return false
}

// readLoop is onReadable for connections that can only be read the ordinary
// way. While at rest they have one byte for what comes first.
func (c *conn) readLoop() action {
	var first [1]byte
	for {
		if c.w != nil && c.w.r == c.w.n {
			c.rest()
		}
		resting := c.w == nil && !c.fresh.Load()
		if resting && c.server.closing.Load() && !c.wasNudged {
			c.limitRead(longAgo) // shutdown may have come before it rested
		}
		into := first[:]
		if c.w != nil {
			into = c.w.buf[c.w.n:]
		}
		n, err := c.rwc.Read(into)
		if n == 0 && err != nil {
			if resting && c.lastLook() {
				continue
			}
			return hangUp
		}
		if c.w == nil {
			c.w = newWorkspace()
			c.w.buf[0] = first[0]
		}
		c.w.n += n
		if next := c.advance(); next != readMore {
			return next
		}
	}
}

// advance serves the requests that have been read whole.
func (c *conn) advance() action {
	w := c.w
	opts := &c.server.proxy.opts
	for {
		if w.r == w.n {
			w.r, w.n = 0, 0
			c.resting.Store(true)
			c.expect(opts.IdleTimeout)
			return readMore
		}
		if c.resting.Load() {
			c.resting.Store(false)
			if c.fresh.Load() {
				c.fresh.Store(false)
			}
			if c.server.closing.Load() {
				c.limitRead(time.Time{}) // shutdown may have taken it for one at rest
			}
			c.tick()
			c.expect(opts.HeaderTimeout)
			if c.interrupted.Load() {
				return hangUp // it had rested for too long: see strike
			}
		}
		switch parseRequest(w.buf[w.r:w.n], &w.req) {
		case unusual:
			return handOver
		case incomplete:
			if w.n-w.r >= min(len(w.buf), opts.MaxHeaderBytes) {
				return handOver
			}
			w.compact()
			c.pieces = true
			return readMore
		}
		switch size := int64(w.req.size) + w.req.length; {
		case opts.BackendProtocol == H2C:
			return handOver // which speaks it
		case w.req.size > opts.MaxHeaderBytes, opts.MaxBodyBytes > 0 && w.req.length > opts.MaxBodyBytes:
			return handOver // to be refused there
		case size > int64(len(w.buf)) && w.req.length <= maxMirrored && c.server.proxy.mirror.Load() != nil:
			return handOver // which can mirror it
		case size > int64(len(w.buf)):
			c.arrived()
			return doUpload
		case size > int64(w.n-w.r):
			w.compact()
			c.tick()
			if c.owed == 0 {
				c.owed = c.clock
			}
			c.until(c.bodyDeadline(c.clock, c.owed, int64(w.n-w.req.size)))
			return readMore
		default:
			c.arrived()
			next := c.request()
			w.r += int(size)
			c.server.proxy.turns.next(c.clock)
			if next != readMore {
				return next
			}
			c.resting.Store(true)
		}
	}
}

// arrived notes that a request can be served, which may have come in pieces.
func (c *conn) arrived() {
	if c.owed != 0 || c.pieces {
		c.tick()
		c.owed, c.pieces = 0, false
	}
}

// tick looks at the clock, as is due after every wait.
func (c *conn) tick() { c.clock = c.server.proxy.now() }

// expect has the reaper interrupt the connection when d has passed since the
// last tick. Not positive means never; the request as a whole may have a limit
// all the same. Only the goroutine of the connection may call it.
func (c *conn) expect(d time.Duration) { c.expectFrom(c.clock, d) }

func (c *conn) expectFrom(now instant, d time.Duration) {
	if d <= 0 {
		c.deadline.Store(int64(c.limit))
		return
	}
	c.until(now + instant(d))
}

// never is a deadline that does not come.
const never = instant(math.MaxInt64)

// until is expect for a time.
func (c *conn) until(at instant) {
	if c.limit != 0 {
		at = min(at, c.limit)
	}
	c.deadline.Store(int64(at))
}

// begin chooses the pool of the request in c.w.req, and prepares what goes to
// its backend: the head, and the part of the body that is in the buffer.
func (c *conn) begin(buffered int) {
	w := c.w
	p := c.server.proxy
	c.used = true
	x := &w.x
	*x = exchange{p: p, start: c.clock, route: route{tried: x.route.tried[:0], left: &c.left}}
	stick := p.sticky()
	sticky := c.key(stick)
	if sticky == nil && stick.kind == issuedCookie {
		x.issued = newKey()
		sticky = []byte(x.issued)
	}
	p.choose(&x.route, sticky, c.key(p.opts.Override))
	if p.opts.Balance == Hash {
		if key := c.key(p.opts.HashBy); key != nil {
			x.route.key, x.route.hashed = hashKey(0, key), true
		}
	}
	if p.opts.Span != nil {
		x.trace = c.trace()
	}
	if p.opts.RequestTimeout > 0 {
		c.limit = x.start + instant(p.opts.RequestTimeout)
		x.route.limit = c.limit
	}
	w.out = c.appendRequest(w.out[:0])
	body := w.r + w.req.size
	w.out = append(w.out, w.buf[body:body+buffered]...)
}

// request serves the request in c.w.req, whose body is in the buffer.
func (c *conn) request() action {
	w := c.w
	x := &w.x
	c.begin(int(w.req.length))
	if m := x.p.mirrored(x.route.pool); m != nil {
		m.send(w.out)
	}
	next := c.attempts(0)
	c.conclude()
	return next
}

// attempts has the request answered by one backend after the other, until one
// does. left is how much of the body is not in the buffer; if there is any, the
// request can be tried elsewhere only for as long as nothing was sent.
func (c *conn) attempts(left int64) action {
	w := c.w
	x := &w.x
	for {
		c.expect(0) // next has a limit of its own
		c.waiting.Store(int64(c.clock))
		b, now, err := x.p.next(c.server.ctx, &x.route, c.clock)
		c.clock = now
		if err != nil {
			return c.refuse(NoError, err, left > 0)
		}
		x.try(b, now)
		bc, n, sent, err := c.send(left == 0)
		if sent && left == 0 {
			b.bytesIn.Add(uint64(w.req.length))
		}
		var kind ErrorKind
		switch {
		case err != nil:
			kind = c.kindOf(bc, err)
		case left > 0:
			return c.passBody(bc, left)
		default:
			x.kept = false // it was good
			if n, kind, err = c.readHead(bc, n); err == nil {
				return c.respond(bc, n, false)
			}
		}
		if bc != nil {
			bc.close()
		}
		c.backend.Store(nil)
		c.tick()
		x.lose(c.clock, kind, err)
		if kind == Canceled {
			return hangUp
		}
		if !x.p.mayRetry(&x.route, b, sent, w.req.idempotent && left == 0 && kind == Broken) {
			return c.refuse(kind, err, left > 0)
		}
	}
}

// send sends what there is of the request to the backend of the attempt and, if
// that is all of it, reads what comes first. sent is whether the backend may
// have seen any of it. If there is an error the connection, if any, is to be
// closed.
func (c *conn) send(whole bool) (bc *backendConn, n int, sent bool, err error) {
	w := c.w
	x := &w.x
	// What is sent again gets a new connection, so that this happens to it once.
	for x.kept = x.route.sent == 0; ; {
		if bc, err = c.connect(); err != nil {
			return nil, 0, false, err
		}
		c.expect(x.p.opts.ResponseTimeout)
		if whole {
			n, sent, err = bc.roundTrip(w.out, w.resp)
		} else {
			n, err = bc.conn.Write(w.out)
			sent = n > 0
		}
		if err == nil || sent || !x.kept || errorKind(err) != Broken {
			return bc, n, sent, err
		}
		bc.close() // as the backend had done before
		c.backend.Store(nil)
		x.kept = false
	}
}

// connect gives the attempt a connection: one that is kept, if x.kept says so
// and there is one, or else a new one, and then x.kept is false.
func (c *conn) connect() (bc *backendConn, err error) {
	x := &c.w.x
	if x.kept {
		bc = x.b.conns.get()
	}
	if x.kept = bc != nil; bc == nil {
		c.expect(0) // dialing has a timeout of its own
		if bc, err = x.b.dial(x.b.ctx); err != nil {
			return nil, err
		}
		if c.left.Load() { // meanwhile
			bc.close()
			return nil, errClientGone
		}
	}
	c.backend.Store(bc)
	return bc, nil
}

// kindOf says what an error of the attempt means.
func (c *conn) kindOf(bc *backendConn, err error) ErrorKind {
	switch {
	case c.left.Load() || c.server.ctx.Err() != nil:
		return Canceled
	case bc == nil:
		return DialFailed
	case c.w.x.b.ctx.Err() != nil:
		return Broken // its time to drain is over
	}
	return errorKind(err)
}

// key returns what a request has for a key, or nil.
func (c *conn) key(k Key) []byte {
	w := c.w
	buf := w.buf[w.r:]
	switch k.kind {
	case byHeader:
		for i := range w.req.n {
			f := &w.req.fields[i]
			if int(f.colon-f.start) == len(k.name) && equalFold(buf[f.start:f.colon], k.lower) {
				if v := f.val(buf); len(v) > 0 {
					return v
				}
				return nil
			}
		}
	case byCookie, issuedCookie:
		for i := range w.req.n {
			if f := &w.req.fields[i]; f.kind == cookieField {
				if v, ok := cookieValue(f.val(buf), k.name); ok && len(v) > 0 {
					return v
				}
			}
		}
	case clientAddr:
		return clientKey(c.client())
	}
	return nil
}

// client returns the address of the client, which may be behind the peer.
func (c *conn) client() netip.Addr {
	w := c.w
	if !c.trust || !w.req.has(forwardedForField) {
		return c.peer
	}
	return c.server.proxy.client(c.peer, string(w.req.join(w.buf[w.r:], forwardedForField, nil)))
}

// refuse answers in place of a backend. If the body has not been read whole the
// connection ends then.
func (c *conn) refuse(kind ErrorKind, err error, unread bool) action {
	x := &c.w.x
	c.waiting.Store(0)
	if c.server.ctx.Err() != nil || c.left.Load() {
		return hangUp
	}
	status, text := x.refusal(kind, err)
	x.refused(err)
	x.status = status
	c.limit = 0 // there is time to say so
	closing := c.closing() || unread
	if c.interrupted.Load() {
		// The time limit was that of the backend. The client is told, and the
		// connection is not used further: the limit may strike once more.
		c.sock.SetDeadline(time.Time{})
		closing = true
	}
	h := append(c.w.head[:0], "HTTP/1.1 "...)
	h = strconv.AppendInt(h, int64(status), 10)
	h = append(append(append(h, ' '), http.StatusText(status)...), "\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: "...)
	h = strconv.AppendInt(h, int64(len(text)+1), 10)
	if closing {
		h = append(h, "\r\nConnection: close"...)
	}
	h = append(h, "\r\n\r\n"...)
	if !c.w.req.isHead {
		h = append(append(h, text...), '\n')
	}
	c.w.head = h
	good := c.write(h)
	if unread {
		c.linger()
	}
	if !good || closing {
		return hangUp
	}
	return readMore
}

// closing reports whether the connection is to end after the request.
func (c *conn) closing() bool {
	return c.w.req.close || c.server.closing.Load() || c.interrupted.Load()
}

// write sends to the client, which must not take too long.
func (c *conn) write(b []byte) bool {
	c.expect(c.server.proxy.opts.BodyTimeout)
	if c.open != 0 {
		n, err := writeFD(c.open, b)
		if err != errAgain {
			return err == nil && !c.interrupted.Load() // which this does not hear of
		}
		b = b[n:]
	}
	_, err := c.rwc.Write(b)
	return err == nil
}
