package proxy

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxMirrored = 256 << 10 // bytes of a body
	maxMirrors  = 256       // under way at once
	mirrorTime  = 30 * time.Second
)

// A mirror sends copies of requests to a pool.
type mirror struct {
	proxy *Proxy
	pool  *Pool
	share uint64
	turn  atomic.Uint64
}

type mirrorStats struct {
	sent, failed, dropped atomic.Uint64

	mu     sync.Mutex // guards the following
	active int
	none   chan struct{} // closed when there are none; nil if nobody waits
}

// begin reports whether another one may be sent; end must follow then.
func (s *mirrorStats) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active == maxMirrors {
		s.dropped.Add(1)
		return false
	}
	s.active++
	return true
}

func (s *mirrorStats) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active--; s.active == 0 && s.none != nil {
		close(s.none)
		s.none = nil
	}
}

// wait waits until there are none.
func (s *mirrorStats) wait() {
	s.mu.Lock()
	if s.active == 0 {
		s.mu.Unlock()
		return
	}
	if s.none == nil {
		s.none = make(chan struct{})
	}
	none := s.none
	s.mu.Unlock()
	<-none
}

// SetMirror has a share of the requests, in 1/10,000, sent to a pool, too,
// besides the one that answers them, bodies included. The answers are dropped.
// Requests that go to that pool anyway, and those that switch protocols, are not
// mirrored. A copy that cannot be sent at once, because 256 others are under way,
// or whose body is larger than 256 KiB, is dropped and counted; one may take 30 s. Copies are sent
// once; for the choice within their pool they count as other requests do.
//
// There is one mirror at a time: each call replaces the last one. The pool is made
// if there is none of that name. A share of 0 ends mirroring, whatever the pool.
func (p *Proxy) SetMirror(pool string, share int) error {
	if share < 0 || share > Whole {
		return fmt.Errorf("mirror to pool %s: the share is %d: it must be between 0 and %d", pool, share, Whole)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if share == 0 {
		p.mirror.Store(nil)
		return nil
	}
	p.mirror.Store(&mirror{proxy: p, pool: p.poolLocked(cmp.Or(pool, DefaultPool)), share: uint64(share)})
	return nil
}

// mirrored returns where a request that goes to a pool is to be sent, too, or
// nil.
func (p *Proxy) mirrored(to *Pool) *mirror {
	m := p.mirror.Load()
	if m == nil || m.pool == to {
		return nil
	}
	if n := m.turn.Add(1); n*m.share%Whole >= m.share {
		return nil
	}
	return m
}

// send sends a copy of a request as a backend gets it.
func (m *mirror) send(raw []byte) {
	if !m.proxy.mirrors.begin() {
		return
	}
	raw = bytes.Clone(raw)
	m.run(func() (*http.Request, error) {
		return http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
	})
}

// A mirrorCopy is a copy of a request of net/http, from when it has a place among
// the mirrored ones until it is sent or dropped.
type mirrorCopy struct {
	mirror *mirror
	head   *http.Request
	body   []byte
	ended  atomic.Bool // sent or dropped
}

// begin returns a copy of a request, as a backend gets it, without its body. It is
// to be sent or dropped. If there is no place for it, begin returns nil.
func (m *mirror) begin(r *http.Request) *mirrorCopy {
	if !m.proxy.mirrors.begin() {
		return nil
	}
	c := &mirrorCopy{mirror: m, head: r.Clone(context.Background())}
	c.head.Body, c.head.TransferEncoding, c.head.Trailer = http.NoBody, nil, nil
	return c
}

// add adds a part of the body.
func (c *mirrorCopy) add(p []byte) {
	switch {
	case c.ended.Load():
	case len(c.body)+len(p) > maxMirrored:
		c.drop()
		c.body = nil
	default:
		c.body = append(c.body, p...)
	}
}

// send sends the copy, which is whole, unless it was dropped.
func (c *mirrorCopy) send() {
	if c.ended.Swap(true) {
		return
	}
	c.mirror.run(func() (*http.Request, error) {
		if c.head.ContentLength = int64(len(c.body)); len(c.body) > 0 {
			c.head.Body = io.NopCloser(bytes.NewReader(c.body))
		}
		return c.head, nil
	})
}

// drop gives the copy up, if it was not sent.
func (c *mirrorCopy) drop() {
	if !c.ended.Swap(true) {
		c.mirror.proxy.mirrors.dropped.Add(1)
		c.mirror.proxy.mirrors.end()
	}
}

// run sends the request that build returns, in a goroutine of its own, and gives
// its place back.
func (m *mirror) run(build func() (*http.Request, error)) {
	stats := &m.proxy.mirrors
	go func() {
		defer stats.end()
		if err := m.roundTrip(build); err != nil {
			stats.failed.Add(1)
			m.proxy.problem("a mirrored request failed", "pool", m.pool.name, "error", err)
			return
		}
		stats.sent.Add(1)
	}()
}

func (m *mirror) roundTrip(build func() (*http.Request, error)) error {
	r, err := build()
	if err != nil {
		return err
	}
	now := m.proxy.now()
	x := exchange{p: m.proxy, start: now, mirrored: true, route: route{pool: m.pool}}
	b, open := m.pool.pick(now, &x.route)
	if b == nil {
		return errNoBackend
	}
	if open {
		b.open.Add(1)
	}
	x.try(b, now)
	ctx, cancel := context.WithTimeout(b.ctx, mirrorTime)
	defer cancel()
	r = r.WithContext(ctx)
	r.RequestURI = ""
	r.URL.Scheme, r.URL.Host = "http", urlHost(b.addr)
	if _, ok := r.Header["User-Agent"]; !ok {
		r.Header.Set("User-Agent", "") // or net/http says its own
	}
	b.bytesIn.Add(uint64(max(r.ContentLength, 0)))
	slow := &m.proxy.slow
	resp, _, err := slow.send(r, b, slow.via(isGRPC(r), false))
	if err == nil {
		if err = check(resp, r); err != nil {
			resp.Body.Close()
		}
	}
	if err != nil {
		kind := errorKind(err)
		if dial := (*dialError)(nil); errors.As(err, &dial) {
			kind = DialFailed
		} else if kind == Broken && isBadResponse(err) {
			kind = BadResponse
		}
		x.lose(m.proxy.now(), kind, err)
		return err
	}
	defer resp.Body.Close()
	x.answer(m.proxy.now(), resp.StatusCode)
	if x.received, err = io.Copy(io.Discard, resp.Body); err != nil {
		x.lose(m.proxy.now(), errorKind(err), err)
		return err
	}
	x.finish()
	return nil
}
