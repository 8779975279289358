package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultPool is the pool that gets all traffic until SetSplit says otherwise.
const DefaultPool = "default"

// A Proxy passes requests to backends. All methods may be called concurrently.
type Proxy struct {
	opts    Options
	epoch   time.Time
	changed announcer
	budget  budget
	slow    slowPath

	split  atomic.Pointer[split]
	pools  atomic.Pointer[map[string]*Pool] // copied when it changes
	mirror atomic.Pointer[mirror]
	turn   atomic.Uint64 // of the split
	turns  turns         // of the processors
	loose  atomic.Bool   // Options.Sticky is switched off

	clients  atomic.Int64  // connections that are open
	noPick   atomic.Uint64 // requests that found no backend
	refused  atomic.Uint64 // by the screen
	warnings logLimit
	notices  logLimit
	mirrors  mirrorStats

	ended context.Context // by Close
	end   context.CancelFunc

	mu      sync.Mutex // guards changes of split, pools and mirror, and the following
	shares  []Share
	closing []*Pool // closed, but with requests in flight
	gone    Counts  // of pools that were closed before
}

// New returns a proxy without backends. An error names the field of opts that is
// wrong. A proxy has no goroutines of its own but while requests are mirrored;
// [Proxy.Close] waits for those.
func New(opts Options) (*Proxy, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("new proxy: %w", err)
	}
	p := &Proxy{opts: opts, epoch: time.Now(), budget: budget{share: opts.RetryBudget}}
	p.ended, p.end = context.WithCancel(context.Background())
	p.pools.Store(&map[string]*Pool{})
	p.slow.init(p)
	if err := p.SetSplit(Share{DefaultPool, Whole}); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Proxy) now() instant { return instant(time.Since(p.epoch)) }

// Pool returns the pool of that name, and makes it if there is none. A new pool
// has no backends, and gets no traffic before it has a share of it. "" means
// DefaultPool.
func (p *Proxy) Pool(name string) *Pool {
	name = cmp.Or(name, DefaultPool)
	if pool := (*p.pools.Load())[name]; pool != nil {
		return pool
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.poolLocked(name)
}

func (p *Proxy) poolLocked(name string) *Pool {
	old := *p.pools.Load()
	if pool := old[name]; pool != nil {
		return pool
	}
	pool := &Pool{name: name, proxy: p, closed: p.ended.Err() != nil}
	next := maps.Clone(old)
	next[name] = pool
	p.pools.Store(&next)
	return pool
}

// dropPool forgets a pool that has been closed. If it has a share of the
// traffic an empty one takes its place.
func (p *Proxy) dropPool(pool *Pool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := *p.pools.Load()
	if old[pool.name] != pool {
		return
	}
	next := maps.Clone(old)
	delete(next, pool.name)
	p.pools.Store(&next)
	if slices.ContainsFunc(p.shares, func(s Share) bool { return s.Pool == pool.name }) {
		p.split.Store(newSplit(p.shares, p.poolLocked))
	}
	if m := p.mirror.Load(); m != nil && m.pool == pool {
		p.mirror.Store(&mirror{proxy: p, pool: p.poolLocked(pool.name), share: m.share})
	}
	p.changed.announce()
	pool.mu.Lock()
	defer pool.mu.Unlock()
	if len(pool.draining) > 0 {
		p.closing = append(p.closing, pool)
	} else {
		p.gone.add(pool.total)
	}
}

// forgetPool is called when nothing is in flight any more in a closed pool.
func (p *Proxy) forgetPool(pool *Pool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.closing, pool)
	if i < 0 {
		return // dropPool has not seen it yet, or not with anything in flight
	}
	p.closing = slices.Delete(p.closing, i, i+1)
	pool.mu.Lock()
	p.gone.add(pool.total)
	pool.mu.Unlock()
}

// SetBackends makes the addresses the backends of [DefaultPool], see
// [Pool.SetBackends].
func (p *Proxy) SetBackends(addresses []string) { p.Pool(DefaultPool).SetBackends(addresses) }

// SetSplit says which share of the traffic each pool gets, newest first; shares
// must sum to 10,000. It takes effect for requests that come after it has
// returned, and for those that wait for a backend, or are to be tried on another
// one, of a pool that has no share any more.
//
// Without Options.Sticky each request is decided by itself, and exactly: among
// any number of requests in a row, the count of each of two pools is its share,
// rounded up or down; with more pools it is off by less than 2. A pool with
// share 0 gets nothing, but for requests that ask for it, see Options.Override.
//
// With Options.Sticky a client stays in its pool. When the share of the newest
// pool rises and those of the others fall in proportion, clients move to the
// newest only, and nobody moves between others.
func (p *Proxy) SetSplit(shares ...Share) error {
	if err := checkSplit(shares); err != nil {
		return fmt.Errorf("set split: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shares = slices.Clone(shares)
	p.split.Store(newSplit(p.shares, p.poolLocked))
	p.changed.announce()
	return nil
}

// SetSticky switches Options.Sticky off, or on again, for requests that come
// after it has returned. A proxy begins with it on. This is for deployers whose
// rollouts say whether sessions are to stay on a version.
func (p *Proxy) SetSticky(on bool) { p.loose.Store(!on) }

// sticky returns the key that keeps a client in its pool now.
func (p *Proxy) sticky() Key {
	if p.loose.Load() {
		return Key{}
	}
	return p.opts.Sticky
}

// Close closes all pools, and those that are yet to be made; it ends what is in flight, at once, and waits for
// mirrored requests. Calls of Serve end by their contexts, and do not wait for
// requests any more then; requests that come meanwhile are answered with 503.
func (p *Proxy) Close() {
	p.end()
	p.mu.Lock()
	pools := *p.pools.Load() // those that are made from now on are closed
	p.mu.Unlock()
	for _, pool := range pools {
		_ = pool.Close(p.ended) // its error is that it did not wait
	}
	p.mu.Lock()
	closing := slices.Clone(p.closing) // others that somebody else waits for, or gave up
	p.mu.Unlock()
	for _, pool := range closing {
		pool.end()
	}
	p.mirrors.wait()
	p.slow.close()
}

// cookie returns the Set-Cookie field that issues a key.
func (p *Proxy) cookie(key string) string {
	return p.opts.Sticky.name + "=" + key + "; Path=/; HttpOnly; SameSite=Lax"
}

// errNoBackend says that there was none for as long as a request may wait.
var errNoBackend = errors.New("no backend")

// A route is the way of one request to its backend.
type route struct {
	pool   *Pool
	wanted string // the name of the pool that it asks for; "" if it does not
	split  *split // that chose the pool; nil if it is the wanted one
	client uint64 // the hash of the sticky key
	sticky bool   // there is one
	key    uint64 // for Hash
	hashed bool
	stream bool // it may go on for ever: a connection of TCP, or what is to be upgraded
	tried  []*backend
	spare  *backend // of tried: but it is better than one that is avoided
	sent   int      // attempts that a backend may have seen
	held   instant  // until when it may wait for a backend; 0 if it has not failed yet to get one
	last   instant  // until when it may be tried on others; 0 if it has not failed yet
	limit  instant  // of the request as a whole; 0 if there is none

	left *atomic.Bool // the client is gone; nil if the context tells
}

// choose chooses the pool of a request that has a sticky key, if not nil, and
// asks for the pool of a name, if not nil.
func (p *Proxy) choose(r *route, key, override []byte) {
	if r.sticky = key != nil; r.sticky {
		r.client = hashKey(0, key)
	}
	s := p.split.Load()
	if override != nil {
		r.wanted = string(override)
		if r.pool = p.wanted(r.wanted, s); r.pool != nil {
			return
		}
	}
	p.chooseBy(r, s)
}

// wanted returns the pool of a name that a request asks for, unless there is none,
// or it has no backends and is not to have any.
func (p *Proxy) wanted(name string, s *split) *Pool {
	pool := (*p.pools.Load())[name]
	if pool == nil || !pool.some() && !slices.Contains(s.pools, pool) {
		return nil
	}
	return pool
}

func (p *Proxy) chooseBy(r *route, s *split) {
	r.split = s
	if r.sticky {
		r.pool = s.sticky(r.client)
	} else {
		r.pool = s.at(p.turn.Add(1) - 1)
	}
}

// follow chooses anew for a request that has no backend yet, or not any more, if
// its pool has lost its share meanwhile, or it asks for a pool that has gone or
// come.
func (p *Proxy) follow(r *route) {
	s := p.split.Load()
	if r.wanted != "" {
		switch pool := p.wanted(r.wanted, s); {
		case pool == r.pool:
			return
		case pool != nil:
			r.pool, r.split, r.tried = pool, nil, r.tried[:0]
			return
		case r.split == nil:
			p.chooseBy(r, s)
			r.tried = r.tried[:0]
			return
		}
	}
	if r.split != s && !s.has(r.pool) {
		p.chooseBy(r, s)
		r.tried = r.tried[:0]
	}
}

// next reserves a backend for the request, and waits for one if there is none
// that was not tried before. It is told the time, and tells it. The error is
// errNoBackend, errClientGone or that of ctx.
func (p *Proxy) next(ctx context.Context, r *route, now instant) (*backend, instant, error) {
	var change <-chan struct{}
	if len(r.tried) > 0 && r.last == 0 {
		p.hold(r, now)
		r.last = max(r.held, now+instant(p.opts.DialTimeout))
	}
	for {
		if r.last != 0 && now >= r.last {
			p.noPick.Add(1)
			return nil, now, errNoBackend
		}
		p.follow(r)
		b, open := r.pool.pick(now, r)
		if r.spare != nil && (b == nil || open) {
			if b != nil {
				b.unreserve(now)
			}
			r.tried = slices.DeleteFunc(r.tried, func(b *backend) bool { return b == r.spare })
			r.spare = nil
			continue
		}
		if b != nil {
			if s := p.split.Load(); r.split != nil && r.split != s && !s.has(r.pool) {
				b.unreserve(now) // SetSplit may have returned before it was reserved
				continue
			}
			if open {
				b.open.Add(1)
			}
			return b, now, nil
		}
		p.hold(r, now)
		if now >= r.held {
			p.noPick.Add(1)
			return nil, now, errNoBackend
		}
		if change == nil { // look once more, in case something changed meanwhile
			change = p.changed.wait()
			continue
		}
		wait := time.Duration(r.held - now)
		if len(r.tried) > 0 { // it has another chance when it is no longer avoided
			wait = min(wait, avoidTime)
		}
		again := time.NewTimer(wait)
		select {
		case <-change:
		case <-again.C:
			r.tried = r.tried[:0]
		case <-p.ended.Done():
			r.held = now
		case <-ctx.Done():
			again.Stop()
			return nil, p.now(), ctx.Err()
		}
		again.Stop()
		change = nil
		now = p.now()
		if r.left != nil && r.left.Load() {
			return nil, now, errClientGone
		}
	}
}

// hold begins the time for which the request may wait for a backend, if that has
// not begun.
func (p *Proxy) hold(r *route, now instant) {
	if r.held == 0 {
		r.held = now + instant(max(p.opts.HoldTimeout, 1))
		if r.limit != 0 {
			r.held = min(r.held, r.limit)
		}
	}
}

// mayRetry reports whether a request that failed is to be tried elsewhere: it
// was not sent, or sending it twice does no harm.
func (p *Proxy) mayRetry(r *route, b *backend, sent, idempotent bool) bool {
	r.failed(b)
	if !sent {
		return true // next bounds them by time
	}
	r.sent++
	r.held, r.last = 0, 0 // attempts that are sent are bounded by their number
	return idempotent && r.sent < p.opts.MaxAttempts && p.budget.retry(p.now())
}

// failed notes a backend that is not to be chosen again while there are others.
func (r *route) failed(b *backend) { r.tried = append(r.tried, b) }

// An Outcome is how a request to a backend ended.
type Outcome struct {
	Pool    string
	Backend string // its address
	Status  int    // 0 if there was no response
	Err     ErrorKind
	Latency time.Duration // to the head of the response, or the failure
	Retry   bool          // it was not the first attempt
	Mirror  bool          // it was a copy, see SetMirror
}

// trusted reports whether a peer's forwarding headers are to be believed.
func (p *Proxy) trusted(peer netip.Addr) bool {
	return slices.ContainsFunc(p.opts.TrustedProxies, func(t netip.Prefix) bool { return t.Contains(peer) })
}

// client returns the address of the client behind the peer: the last one of
// those that proxies name which is not trusted itself.
func (p *Proxy) client(peer netip.Addr, forwardedFor string) netip.Addr {
	forwardedFor = strings.TrimRight(forwardedFor, ", ")
	for forwardedFor != "" && p.trusted(peer) {
		var last string
		if i := strings.LastIndexByte(forwardedFor, ','); i >= 0 {
			forwardedFor, last = forwardedFor[:i], forwardedFor[i+1:]
		} else {
			forwardedFor, last = "", forwardedFor
		}
		a, err := netip.ParseAddr(strings.TrimSpace(last))
		if err != nil {
			break
		}
		peer = a.Unmap()
	}
	return peer
}

// An announcer wakes those who wait for a change.
type announcer struct {
	mu sync.Mutex
	c  chan struct{}
}

// wait returns a channel that is closed at the next change.
func (a *announcer) wait() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.c == nil {
		a.c = make(chan struct{})
	}
	return a.c
}

func (a *announcer) announce() {
	a.mu.Lock()
	c := a.c
	a.c = nil
	a.mu.Unlock()
	if c != nil {
		close(c)
	}
}
