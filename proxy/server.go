package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// warmConns is how many connections at rest keep their goroutines: to be served
// from the lot costs more.
const warmConns = 1024

// A server is one call of Serve or ServeTLS.
type server struct {
	proxy  *Proxy
	scheme string
	tls    *tls.Config // nil for plaintext

	ctx     context.Context // ends when what is in flight must
	abort   context.CancelFunc
	closing atomic.Bool // nothing new
	wg      sync.WaitGroup

	// Servers of net/http, for connections that are handed over. One of HTTP/2
	// that is to end takes no further ones, but those that come then have a
	// request, too.
	http, http2, late handedTo

	accept acceptor
	lot    *lot         // nil if there is none
	warm   atomic.Int64 // connections at rest that have a goroutine

	mu       sync.Mutex                // guards the following
	conns    []*conn                   // of the fast path
	other    map[*notifyConn]*screened // nil for those of HTTP/2
	handlers int                       // requests of net/http
	noFast   chan struct{}             // closed when closing and there are no conns left
	none     chan struct{}             // closed when there is nothing else left either
}

// Serve accepts plaintext connections, and serves HTTP/1.1 and HTTP/2 (with prior
// knowledge) on them, until ctx ends or accepting fails for good. Then it closes
// the listener, lets requests in flight end for Options.DrainTimeout, ends those
// that remain, and returns: nil if ctx ended. It may be called several times, for
// several listeners. Connections that are not package net's own are read and
// written by their methods, also if they embed such, which costs more.
func (p *Proxy) Serve(ctx context.Context, l net.Listener) error {
	return p.serve(ctx, l, nil)
}

// ServeTLS is Serve with TLS 1.2 or 1.3; it needs Options.GetCertificate.
func (p *Proxy) ServeTLS(ctx context.Context, l net.Listener) error {
	if p.opts.GetCertificate == nil {
		l.Close()
		return errors.New("serve TLS: set Options.GetCertificate, for instance to CertificateFiles(...)")
	}
	return p.serve(ctx, l, &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: p.opts.GetCertificate,
	})
}

func (p *Proxy) serve(ctx context.Context, l net.Listener, config *tls.Config) error {
	s := &server{
		proxy:  p,
		scheme: "http",
		tls:    config,
		accept: acceptor{proxy: p, places: make(chan struct{}, p.opts.MaxConns)},
		other:  map[*notifyConn]*screened{},
		noFast: make(chan struct{}),
		none:   make(chan struct{}),
	}
	if config != nil {
		s.scheme = "https"
	}
	s.ctx, s.abort = context.WithCancel(context.WithoutCancel(ctx))
	defer s.abort()
	servers := []*handedTo{&s.http, &s.http2, &s.late}
	for _, to := range servers {
		*to = handedTo{p.slow.server(s), newHandedConns(l.Addr())}
	}
	s.late.SetKeepAlivesEnabled(false)
	if config == nil {
		s.lot = newLot(func(c *conn) { s.wg.Go(c.serve) })
	}

	var running sync.WaitGroup
	stop := make(chan struct{})
	for _, to := range servers {
		running.Go(func() { _ = to.Serve(to.conns) }) // it fails when it is closed
	}
	running.Go(func() { s.reap(stop) })
	err := s.accept.run(ctx, l, s.start)
	s.shutdown()
	close(stop)
	for _, to := range servers {
		to.Close()
	}
	running.Wait()
	s.wg.Wait()
	return err
}

// start serves a connection in a goroutine of its own.
func (s *server) start(rwc net.Conn) {
	c := &conn{server: s, sock: rwc, rwc: rwc}
	c.resting.Store(true)
	c.fresh.Store(true)
	c.tick()
	c.expect(s.proxy.opts.HeaderTimeout)
	c.tells = canSplice && isTCP(rwc)
	if s.tls != nil || !c.tells && canSplice {
		sock := &notifyConn{Conn: rwc}
		if !c.tells {
			sock.setLimit(s.proxy.opts.BodyTimeout)
		}
		c.sock, c.rwc = sock, sock
	}
	if s.tls == nil {
		c.raw = rawConn(rwc)
		c.step = c.onReadable
		_, c.bare = rwc.(*net.TCPConn)
	} else {
		c.rwc = tls.Server(c.sock, s.tls)
	}
	if c.look = c.raw; c.look == nil {
		c.look = socketOf(rwc)
	}
	s.mu.Lock()
	c.slot = len(s.conns)
	s.conns = append(s.conns, c)
	s.mu.Unlock()
	s.wg.Go(func() {
		// What embeds a connection may read from it to say whose it is, as one that
		// speaks the PROXY protocol does.
		c.peer = peerOf(rwc)
		c.trust = len(s.proxy.opts.TrustedProxies) > 0 && s.proxy.trusted(c.peer)
		c.serve()
	})
}

// handshake begins a connection of TLS.
func (s *server) handshake(c *conn) {
	t := c.rwc.(*tls.Conn)
	if err := t.HandshakeContext(s.ctx); err != nil {
		c.next = hangUp
	} else if t.ConnectionState().NegotiatedProtocol == "h2" {
		c.next = handOver
	}
}

// A notifyConn tells when it is closed, and limits how long the peer may take
// nothing of what is written.
type notifyConn struct {
	net.Conn
	onClose atomic.Pointer[func()]

	mu    sync.Mutex // guards the following
	limit time.Duration
}

// setLimit sets how long the peer may take nothing; not positive means for ever.
func (c *notifyConn) setLimit(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = d
	c.Conn.SetWriteDeadline(time.Time{})
}

// unlimit lets the peer take its time.
func (c *notifyConn) unlimit() { c.setLimit(0) }

// SetDeadline sets deadlines of both directions, in place of the limit.
func (c *notifyConn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = 0
	return c.Conn.SetDeadline(t)
}

// allow gives the peer half the limit. It reports false if there is none.
func (c *notifyConn) allow() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.limit <= 0 {
		return false
	}
	c.Conn.SetWriteDeadline(time.Now().Add(c.limit / 2))
	return true
}

// Write writes for as long as the peer takes something of it within the limit.
func (c *notifyConn) Write(p []byte) (written int, err error) {
	var before uint64
	for late := false; ; {
		limited := c.allow()
		n, err := c.Conn.Write(p[written:])
		written += n
		if !limited || !errors.Is(err, os.ErrDeadlineExceeded) {
			return written, err
		}
		// The kernel lets go of a writer only when much of what it holds has
		// been taken.
		var now uint64
		if raw := socketOf(c.Conn); raw != nil {
			now = moved(raw)
		}
		if late && n == 0 && now == before {
			return written, err
		}
		late, before = true, now
	}
}

func (c *notifyConn) Close() error {
	err := c.Conn.Close()
	if f := c.onClose.Swap(nil); f != nil {
		(*f)()
	}
	return err
}

// CloseWrite ends one direction before the other.
func (c *notifyConn) CloseWrite() error { return closeWrite(c.Conn) }

// NetConn returns what is below.
func (c *notifyConn) NetConn() net.Conn { return c.Conn }

// isBare reports whether a connection is package net's own. One that embeds such
// has its methods, too, but may have a Read and a Write of its own, which are not
// to be passed by.
func isBare(c net.Conn) bool {
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// rawConn returns the raw connection of one that is bare, to be read and written in
// its place, or nil.
func rawConn(c net.Conn) syscall.RawConn {
	if !isBare(c) {
		return nil
	}
	return syscallConn(c)
}

// socketOf returns the raw connection below what wraps it, which is to be looked
// at and not to be read. It is nil if there is none.
func socketOf(c net.Conn) syscall.RawConn {
	for {
		if raw := syscallConn(c); raw != nil {
			return raw
		}
		w, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		c = w.NetConn()
	}
}

// isTCP reports whether a connection is one of TCP, or wraps one.
func isTCP(c net.Conn) bool {
	for {
		if _, ok := c.(*net.TCPConn); ok {
			return true
		}
		w, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return false
		}
		c = w.NetConn()
	}
}

// peerOf returns the address of the peer, if it is that of a host.
func peerOf(c net.Conn) netip.Addr {
	if t, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap()
	}
	a, _ := netip.ParseAddrPort(c.RemoteAddr().String())
	return a.Addr().Unmap()
}

// discard ends a connection that has no goroutine.
func (s *server) discard(c *conn) {
	s.forget(c)
	c.sock.Close()
}

// forget is called by a connection that ends.
func (s *server) forget(c *conn) {
	s.mu.Lock()
	s.unlistLocked(c)
	s.leftLocked()
	s.mu.Unlock()
	s.accept.leave()
}

func (s *server) unlistLocked(c *conn) {
	last := len(s.conns) - 1
	s.conns[c.slot] = s.conns[last]
	s.conns[c.slot].slot = c.slot
	s.conns[last] = nil
	s.conns = s.conns[:last]
	c.slot = unlisted
}

// unlisted is the slot of a connection that has ended or been handed over.
const unlisted = -1

func (s *server) leftLocked() {
	if s.closing.Load() && len(s.conns) == 0 {
		closeOnce(s.noFast)
		if len(s.other) == 0 && s.handlers == 0 {
			closeOnce(s.none)
		}
	}
}

func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// ServeHTTP serves a request on a connection that was handed over. It is counted,
// so that none goes on when Serve has returned.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	select {
	case <-s.none: // its connection has been closed
		s.mu.Unlock()
		panic(http.ErrAbortHandler)
	default:
	}
	s.handlers++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.handlers--
		s.leftLocked()
		s.mu.Unlock()
	}()
	if s.closing.Load() && r.ProtoMajor == 1 && r.Header.Get("Upgrade") == "" {
		w.Header().Set("Connection", "close") // net/http does not know: see screened.end
	}
	if state, ok := r.Context().Value(tlsStateKey{}).(*tls.ConnectionState); ok {
		r.TLS = state // see newFramed
	}
	s.proxy.ServeHTTP(w, r)
}

// handOver gives a connection to net/http, with what has been read of it. If that
// is a part of a head, the rest must come by headBy.
func (s *server) handOver(c *conn, read []byte, headBy instant) {
	sock, notifies := c.sock.(*notifyConn)
	if !notifies {
		sock = &notifyConn{Conn: c.sock}
	}
	onClose := func() { s.closed(sock) }
	sock.onClose.Store(&onClose)
	sock.setLimit(s.proxy.opts.BodyTimeout)
	by := time.Now().Add(time.Duration(headBy - s.proxy.now()))
	to, next := c.rwc, []*handedTo{&s.http}
	var screen *screened
	t, encrypted := to.(*tls.Conn)
	switch {
	case encrypted && t.ConnectionState().NegotiatedProtocol == "h2":
		to = newFramed(s.proxy, t, read)
		next = []*handedTo{&s.http2, &s.late}
	case encrypted:
		screen = newScreened(s.proxy, t, sock.unlimit, read, by, false)
		to = screenedTLS{screen, t}
	default:
		screen = newScreened(s.proxy, sock, sock.unlimit, read, by, !c.used)
		to = screen
		if !c.used && bytes.HasPrefix(read, []byte("PRI ")) {
			next = []*handedTo{&s.http2, &s.late}
		}
	}
	s.mu.Lock()
	s.other[sock] = screen
	if screen != nil && s.closing.Load() {
		screen.end()
	}
	s.mu.Unlock()
	defer func() { // not before: while it is listed, the last server still accepts
		s.mu.Lock()
		s.unlistLocked(c)
		s.leftLocked()
		s.mu.Unlock()
	}()

	for _, n := range next {
		select {
		case n.conns.c <- to:
			return
		case <-n.conns.done:
		}
	}
	to.Close()
}

// closed is called when a connection that was handed over has been closed.
func (s *server) closed(c *notifyConn) {
	s.mu.Lock()
	_, ok := s.other[c]
	delete(s.other, c)
	s.leftLocked()
	s.mu.Unlock()
	if ok {
		s.accept.leave()
	}
}

// shutdown lets what is in flight end, and then ends it.
func (s *server) shutdown() {
	s.mu.Lock()
	s.closing.Store(true)
	now := s.proxy.now()
	for _, c := range s.conns {
		switch {
		case !c.resting.Load():
		case c.fresh.Load():
			if d := c.deadline.Load(); d > int64(now+freshTime) {
				c.deadline.CompareAndSwap(d, int64(now+freshTime)) // unless it has just begun
			}
		default:
			c.sock.SetReadDeadline(longAgo) // see nudged
		}
	}
	for _, screen := range s.other {
		if screen != nil {
			screen.end()
		}
	}
	s.leftLocked()
	s.mu.Unlock()
	if s.lot != nil {
		for _, c := range s.lot.close() {
			if c.fresh.Load() || !silent(c.raw) {
				s.wg.Go(c.serve)
			} else {
				s.discard(c)
			}
		}
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.proxy.opts.DrainTimeout)
	defer cancel()
	defer context.AfterFunc(s.proxy.ended, cancel)()
	shutDown(ctx, s.http2.Server)
	select {
	case <-s.noFast:
		shutDown(ctx, s.late.Server)
	case <-ctx.Done():
	}
	select {
	case <-s.none:
		return
	case <-ctx.Done():
	}
	s.abort()
	s.http.Close()
	s.http2.Close()
	s.late.Close()
	s.mu.Lock()
	for _, c := range s.conns {
		c.interrupt()
	}
	var other []*notifyConn
	for c := range s.other {
		other = append(other, c)
	}
	s.mu.Unlock()
	for _, c := range other {
		c.Close()
	}
	<-s.none
}

// shutDown lets the requests of a server of net/http end, for as long as ctx
// allows. Connections of HTTP/2 are told to go when Shutdown is called, but not
// those that are being set up just then, so it is called again.
func shutDown(ctx context.Context, srv *http.Server) {
	for ctx.Err() == nil {
		some, cancel := context.WithTimeout(ctx, reapTime)
		err := srv.Shutdown(some)
		cancel()
		if err == nil {
			return
		}
	}
}

// interrupt ends what the connection waits for.
func (c *conn) interrupt() {
	c.interrupted.Store(true)
	c.sock.SetDeadline(longAgo)
	if bc := c.backend.Load(); bc != nil {
		bc.interrupt()
	}
}

// The reaper looks at all connections so often. Timeouts may be longer by that.
const reapTime = 500 * time.Millisecond

// reap interrupts connections whose deadline has passed, and ends those whose
// clients are gone while they wait for a backend.
func (s *server) reap(stop <-chan struct{}) {
	tick := time.NewTicker(reapTime)
	defer tick.Stop()
	var late, owing, waiting, unread []suspect
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-stop:
			return
		}
		late, owing, waiting, unread = late[:0], owing[:0], waiting[:0], unread[:0]
		now := int64(s.proxy.now())
		s.mu.Lock()
		for _, c := range s.conns {
			if d := c.deadline.Load(); d != 0 && d < now {
				late = append(late, suspect{c, &c.deadline, d})
			} else if d := c.due.Load(); d != 0 && d < now {
				late = append(late, suspect{c, &c.due, d})
			} else if d := c.owing.Load(); d != 0 && d < now {
				owing = append(owing, suspect{c, &c.owing, d})
			} else if w := c.waiting.Load(); w != 0 && now-w > int64(reapTime) {
				waiting = append(waiting, suspect{c, &c.waiting, w})
			} else if u := c.unread.Load(); u != 0 && now-u > int64(reapTime) {
				unread = append(unread, suspect{c, &c.unread, u})
			}
		}
		s.mu.Unlock()
		for _, u := range late {
			if s.lot != nil && u.still() && s.lot.take(u.c) {
				s.discard(u.c)
				continue
			}
			s.strike(u)
		}
		for _, u := range owing {
			s.hurry(u)
		}
		for _, u := range unread {
			if ended(u.c.raw) {
				s.hurry(u) // it has no more to say
			}
			u.by.CompareAndSwap(u.said, 0)
		}
		left := false
		for _, u := range waiting {
			if gone := u.c.clientGone(); gone || u.c.stuck(instant(now)) {
				if gone {
					u.c.left.Store(true)
					left = true
				}
				s.strike(u)
			}
		}
		if left {
			s.proxy.changed.announce() // their requests may wait for a backend
		}
		s.proxy.closeIdle(instant(now))
	}
}

// A suspect is a connection that took too long when it was looked at, by what it
// said then. Meanwhile it may have gone on.
type suspect struct {
	c    *conn
	by   *atomic.Int64
	said int64
}

func (u suspect) still() bool { return u.by.Load() == u.said }

// strike interrupts a connection, unless it has gone on or is net/http's now. A
// request that comes at that very moment to a connection that has rested for too
// long is not begun: see advance.
func (s *server) strike(u suspect) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u.c.slot == unlisted {
		return
	}
	before := u.c.interrupted.Swap(true)
	if !u.still() {
		u.c.interrupted.Store(before)
		return
	}
	u.c.interrupt()
}

// hurry ends that more of a body is waited for; copyBody does the rest.
func (s *server) hurry(u suspect) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u.c.slot != unlisted && u.still() {
		u.c.sock.SetReadDeadline(longAgo)
	}
}

// freshTime is how long a new connection is waited for when serving ends: its
// client has been told that it is accepted, and cannot know better.
const freshTime = instant(time.Second)

// nudged reports whether what a read of the connection failed by is that serving
// is about to end, and not a time limit: then what has come is served all the
// same.
func (c *conn) nudged() bool {
	if !c.server.closing.Load() || c.wasNudged {
		return false
	}
	c.wasNudged = true
	return c.limitRead(time.Time{})
}

// limitRead sets the deadline of reading in place of what shutdown has set. It
// reports false if the connection has been interrupted.
func (c *conn) limitRead(t time.Time) bool {
	c.server.mu.Lock() // what interrupts has it, and so has shutdown, until it is through
	defer c.server.mu.Unlock()
	if c.interrupted.Load() {
		return false
	}
	c.sock.SetReadDeadline(t)
	return true
}

// lookTime is how long a connection at rest is read for what has been sent on it,
// when serving ends; unless it can be seen that there is nothing.
const lookTime = 250 * time.Millisecond

// lastLook is nudged for connections that can only be read the ordinary way: it
// reports whether to read once more.
func (c *conn) lastLook() bool {
	if !c.server.closing.Load() || c.wasNudged {
		return false
	}
	c.wasNudged = true
	if raw := c.look; raw != nil && silent(raw) {
		return false
	}
	return c.limitRead(time.Now().Add(lookTime))
}

// silent reports whether the peer is there and has sent nothing.
func silent(raw syscall.RawConn) (silent bool) {
	_ = raw.Control(func(fd uintptr) { silent = silentFD(fd) })
	return silent
}

// ended reports whether the peer has sent its last, and all of it was read.
func ended(raw syscall.RawConn) (ended bool) {
	_ = raw.Control(func(fd uintptr) { ended = closedFD(fd) })
	return ended
}

// clientGone reports whether the client has closed the connection.
func (c *conn) clientGone() (gone bool) {
	if raw := c.look; raw != nil {
		_ = raw.Control(func(fd uintptr) { gone = hungUpFD(fd) })
	}
	return gone
}

// A stall is what was seen of a body that is passed on.
type stall struct {
	piece int64  // when it was begun
	moved uint64 // by both connections
	since instant
}

// stuck reports whether the client has taken nothing of a body for too long, or
// the backend has sent nothing of what is spliced.
func (c *conn) stuck(now instant) bool {
	passing, bc := c.passing.Load(), c.backend.Load()
	if passing == notPassing || !c.tells || bc == nil {
		return false
	}
	s := stall{piece: c.waiting.Load(), moved: moved(c.look), since: now}
	limit := c.server.proxy.opts.BodyTimeout
	if passing == splicing {
		s.moved += moved(bc.raw)
		if unsent(c.look) == 0 {
			limit = c.server.proxy.opts.ResponseTimeout
		}
	}
	if s.moved == 0 || s.piece != c.stall.piece || s.moved != c.stall.moved {
		c.stall = s
		return false
	}
	return limit > 0 && now-c.stall.since > instant(limit)
}

// closeIdle closes connections to backends that have been idle for too long.
func (p *Proxy) closeIdle(now instant) {
	before := now - instant(p.opts.BackendIdleTimeout)
	for _, pool := range *p.pools.Load() {
		if set := pool.set.Load(); set != nil {
			for _, b := range set.all {
				b.conns.closeOld(before)
			}
		}
	}
}

// A handedTo is a server of net/http with its listener.
type handedTo struct {
	*http.Server
	conns *handedConns
}

// handedConns is the listener of a http.Server: of connections that the fast
// path has handed over.
type handedConns struct {
	addr net.Addr
	c    chan net.Conn
	once sync.Once
	done chan struct{}
}

func newHandedConns(addr net.Addr) *handedConns {
	return &handedConns{addr: addr, c: make(chan net.Conn), done: make(chan struct{})}
}

func (h *handedConns) Accept() (net.Conn, error) {
	select {
	case c := <-h.c:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *handedConns) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

func (h *handedConns) Addr() net.Addr { return h.addr }
