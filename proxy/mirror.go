package proxy

import (
	"bufio"
	"bytes"
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
// or whose body is larger than 256 KiB, is dropped and counted. A share of 0 ends
// it.
func (p *Proxy) SetMirror(pool string, share int) error {
	if share < 0 || share > whole {
		return fmt.Errorf("mirror to pool %s: the share is %d: it must be between 0 and %d", pool, share, whole)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if share == 0 {
		p.mirror.Store(nil)
		return nil
	}
	p.mirror.Store(&mirror{proxy: p, pool: p.poolLocked(pool), share: uint64(share)})
	return nil
}

// mirrored returns where a request that goes to a pool is to be sent, too, or
// nil.
func (p *Proxy) mirrored(to *Pool) *mirror {
	m := p.mirror.Load()
	if m == nil || m.pool == to {
		return nil
	}
	if n := m.turn.Add(1); n*m.share%whole >= m.share {
		return nil
	}
	return m
}

// send sends a copy of a request as a backend gets it.
func (m *mirror) send(raw []byte) {
	m.start(func() (*http.Request, error) {
		return http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
	}, func() { raw = bytes.Clone(raw) })
}

// sendRequest is send for a request of net/http, whose body was kept.
func (m *mirror) sendRequest(q *request) {
	m.start(func() (*http.Request, error) {
		r := q.copied.Clone(context.Background())
		r.Body = http.NoBody
		if q.body != nil {
			r.Body = io.NopCloser(bytes.NewReader(q.body.copy))
			r.ContentLength = int64(len(q.body.copy))
		}
		r.TransferEncoding = nil
		return r, nil
	}, func() {})
}

// start sends the request that build returns, in a goroutine of its own; before
// that copy lets go of what is not its own.
func (m *mirror) start(build func() (*http.Request, error), copy func()) {
	stats := &m.proxy.mirrors
	if !stats.begin() {
		return
	}
	copy()
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
	b, _ := m.pool.pick(now, 0, false, nil)
	if b == nil {
		return errNoBackend
	}
	x := exchange{p: m.proxy, start: now, route: route{pool: m.pool}}
	x.try(b, now)
	ctx, cancel := context.WithTimeout(b.ctx, mirrorTime)
	defer cancel()
	r = r.WithContext(ctx)
	r.RequestURI = ""
	r.URL.Scheme, r.URL.Host = "http", urlHost(b.addr)
	b.bytesIn.Add(uint64(max(r.ContentLength, 0)))
	resp, err := m.proxy.slow.transport(isGRPC(r), false).RoundTrip(r)
	if err != nil {
		kind := errorKind(err)
		if dial := (*dialError)(nil); errors.As(err, &dial) {
			kind = DialFailed
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
