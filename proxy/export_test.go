package proxy

import (
	"context"
	"net"
	"time"
)

// What tests of behaviour need to see from inside.

const (
	BudgetReserve = budgetReserve
	BucketCount   = buckets
	MaxMirrors    = maxMirrors
	MaxMirrored   = maxMirrored
	BufferSize    = bufferSize
	WarmConns     = warmConns
)

func Interleave(weights []int) []uint16 { return interleave(weights) }

func BucketOf(d time.Duration) int { return bucket(d) }

// Choose returns the name of the pool that a request gets. Empty strings stand
// for what it does not have.
func (p *Proxy) Choose(key, override string) string {
	bytes := func(s string) []byte {
		if s == "" {
			return nil
		}
		return []byte(s)
	}
	var r route
	p.choose(&r, bytes(key), bytes(override))
	return r.pool.name
}

// Awaited reports whether a request waits for a backend, so that the next change
// of backends or of the split wakes it. It is for requests that began since the
// last change.
func (p *Proxy) Awaited() bool {
	p.changed.mu.Lock()
	defer p.changed.mu.Unlock()
	return p.changed.c != nil
}

// A Balancer is the choice of backends, without requests, at times that a test
// says.
type Balancer struct {
	p    *Proxy
	pool *Pool
}

func NewBalancer(opts Options, backends ...Backend) (*Balancer, error) {
	p, err := New(opts)
	if err != nil {
		return nil, err
	}
	b := &Balancer{p: p, pool: p.Pool(DefaultPool)}
	return b, b.pool.Set(backends)
}

// A Picked is a backend that a request has been given.
type Picked struct {
	Addr string
	Open bool // all are avoided
	b    *backend
	at   instant
}

// Pick reserves a backend, for what has a key if that is not empty. ok is false
// if there is none.
func (b *Balancer) Pick(now time.Duration, key string, tried ...Picked) (_ Picked, ok bool) {
	r := route{key: hashKey(0, key), hashed: key != "" && b.p.opts.Balance == Hash}
	for _, t := range tried {
		r.failed(t.b)
	}
	got, open := b.pool.pick(instant(now), &r)
	if got == nil {
		return Picked{}, false
	}
	return Picked{got.addr, open, got, instant(now)}, true
}

// Answer ends a request well.
func (k Picked) Answer(now, took time.Duration) { k.AnswerStatus(now, took, 200) }

// AnswerStatus ends a request with a response.
func (k Picked) AnswerStatus(now, took time.Duration, status int) {
	k.b.answer(instant(now-took), instant(now), status)
	k.b.probed(k.at, instant(now)) // if took is another time than its own
	k.b.release(false)
}

// Fail ends a request badly.
func (k Picked) Fail(now time.Duration) {
	k.b.unanswered(k.at, instant(now), Broken)
	k.b.fail(k.at, instant(now))
	k.b.release(false)
}

// Cancel ends a request that says nothing about the backend.
func (k Picked) Cancel(now time.Duration) {
	k.b.unanswered(k.at, instant(now), Canceled)
	k.b.release(false)
}

func (b *Balancer) Pool() *Pool { return b.pool }

// A Budget is a budget for retries.
type Budget struct{ b budget }

func NewBudget(share float64) *Budget { return &Budget{budget{share: share}} }

func (b *Budget) Request(now time.Duration)    { b.b.request(instant(now)) }
func (b *Budget) Retry(now time.Duration) bool { return b.b.retry(instant(now)) }

// ParseTraceparent returns the trace ID, the parent's ID and the flags of a
// traceparent.
func ParseTraceparent(s string) (id [16]byte, parent [8]byte, flags byte, ok bool) {
	var t trace
	ok = t.parse(s)
	return t.id, t.parent, t.flags, ok
}

// NewParser returns a function that reads the head of a request, as a connection
// does, and reports whether it is one that the fast path serves.
func NewParser() func(head []byte) bool {
	var h requestHead
	return func(head []byte) bool { return parseRequest(head, &h) == complete }
}

// Strike is what the reaper does to a connection with a deadline that has
// passed, if that is now another one, or the connection is not the fast path's
// any more. It reports whether it interrupts the connection.
func Strike(sock net.Conn, passed, now int64, handed bool) bool {
	s := &server{}
	c := &conn{server: s, sock: sock}
	if handed {
		c.slot = unlisted
	}
	c.deadline.Store(now)
	s.strike(suspect{c, &c.deadline, passed})
	return c.interrupted.Load()
}

// HandOver is what happens to a connection of which a part of a head has been
// read and the rest is due in a while, if it is net/http's. It returns what that
// gets.
func (p *Proxy) HandOver(sock net.Conn, read string, due time.Duration) net.Conn {
	s := &server{proxy: p, http: handedTo{conns: newHandedConns(nil)}, other: map[*notifyConn]*screened{}}
	c := &conn{server: s, sock: sock, rwc: sock, next: handOver, w: newWorkspace()}
	c.w.n = copy(c.w.buf[:], read)
	c.deadline.Store(int64(p.now()) + int64(due))
	s.conns = []*conn{c}
	go c.serve()
	return <-s.http.conns.c
}

// DialForNetHTTP makes a socket for net/http to a backend.
func (p *Proxy) DialForNetHTTP(addr string) (net.Conn, error) {
	ctx := context.WithValue(context.Background(), openKey{}, func(*transportConn) {})
	return p.slow.dial(ctx, "tcp", addr)
}

// Busy reports whether threads are taken to have no rests, if they serve the
// requests of a turn in that time.
func Busy(took time.Duration, threads int) bool { return busy(instant(took), threads) }

// Prompted is how many of n requests an answer is read for before it is told of, if
// answered says whether that of each is there.
func Prompted(n int, answered func(int) bool) (tried int) {
	var p promptness
	for i := range n {
		if p.expected() {
			tried++
			p.found(answered(i))
		}
	}
	return tried
}
