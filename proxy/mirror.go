package proxy

import (
	"bufio"
	"bytes"
	"context"
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
	active                atomic.Int64
	running               sync.WaitGroup
}

// SetMirror has a share of the requests, in 1/10,000, sent to a pool, too,
// besides the one that answers them: with their bodies, if these have a
// Content-Length of 256 KiB at most. The answers are dropped. Requests
// that go to that pool anyway are not mirrored. A copy that cannot be sent at
// once, because 256 others are under way or its body is not of that kind, is
// dropped and counted. A share of 0
// ends it.
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
func (m *mirror) sendRequest(q *request, out *http.Request) {
	if q.upgrade || q.body != nil && !q.body.whole {
		m.proxy.mirrors.dropped.Add(1)
		return
	}
	var body []byte
	if q.body != nil {
		body = q.body.buf
	}
	m.start(func() (*http.Request, error) {
		r := out.Clone(context.Background())
		r.Body = io.NopCloser(bytes.NewReader(body))
		r.ContentLength = int64(len(body))
		r.TransferEncoding = nil
		return r, nil
	}, func() {})
}

// start sends the request that build returns, in a goroutine of its own; before
// that copy lets go of what is not its own.
func (m *mirror) start(build func() (*http.Request, error), copy func()) {
	stats := &m.proxy.mirrors
	if stats.active.Add(1) > maxMirrors {
		stats.active.Add(-1)
		stats.dropped.Add(1)
		return
	}
	copy()
	stats.running.Go(func() {
		defer stats.active.Add(-1)
		if err := m.roundTrip(build); err != nil {
			stats.failed.Add(1)
			m.proxy.problem("a mirrored request failed", "pool", m.pool.name, "error", err)
			return
		}
		stats.sent.Add(1)
	})
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
	b.requests.Add(1)
	ctx, cancel := context.WithTimeout(b.ctx, mirrorTime)
	defer cancel()
	r = r.WithContext(ctx)
	r.RequestURI = ""
	r.URL.Scheme, r.URL.Host = "http", urlHost(b.addr)
	resp, err := m.proxy.slow.http1.RoundTrip(r)
	if err != nil {
		x.lose(m.proxy.now(), errorKind(err), err)
		return err
	}
	defer resp.Body.Close()
	x.answer(m.proxy.now(), resp.StatusCode)
	x.received, err = io.Copy(io.Discard, resp.Body)
	x.finish()
	return err
}
