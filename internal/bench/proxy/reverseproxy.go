//go:build linux

package main

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
	"sync/atomic"
	"time"
)

// A front is a subject written in Go, within its process.
type front interface {
	serve(l net.Listener) error
	// set sets all backends; those of weight 0 get no new requests.
	set(backends []backend) error
	// drained waits until no request is under way to the backend.
	drained(ctx context.Context, address string) error
}

// A reverseProxy is httputil.ReverseProxy tuned as far as it goes without
// leaving it: round robin over what is set, connections kept, buffers pooled.
type reverseProxy struct {
	next     atomic.Uint64
	backends atomic.Pointer[[]string] // a backend stands here as often as its weight

	mu       sync.Mutex // guards the following
	inFlight map[string]*atomic.Int64
}

func newReverseProxy() front {
	return &reverseProxy{inFlight: map[string]*atomic.Int64{}}
}

type targetKey struct{}

func (p *reverseProxy) serve(l net.Listener) error {
	handler := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme = "http"
			r.Out.URL.Host, _ = r.In.Context().Value(targetKey{}).(string)
			r.SetXForwarded()
		},
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: time.Second}).DialContext,
			MaxIdleConnsPerHost: 1024,
			IdleConnTimeout:     90 * time.Second,
			DisableCompression:  true,
			ReadBufferSize:      4 << 10,
			WriteBufferSize:     4 << 10,
		},
		BufferPool: &bufferPool{},
		ErrorLog:   log.New(io.Discard, "", 0),
	}
	server := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			backends := p.backends.Load()
			if backends == nil || len(*backends) == 0 {
				http.Error(w, "no backend", http.StatusServiceUnavailable)
				return
			}
			address := (*backends)[p.next.Add(1)%uint64(len(*backends))]
			n := p.count(address)
			n.Add(1)
			defer n.Add(-1)
			handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), targetKey{}, address)))
		}),
	}
	return server.Serve(l)
}

func (p *reverseProxy) set(backends []backend) error {
	var list []string
	for _, b := range backends {
		for range b.weight {
			list = append(list, b.address)
		}
	}
	p.backends.Store(&list)
	return nil
}

func (p *reverseProxy) count(address string) *atomic.Int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.inFlight[address]
	if n == nil {
		n = new(atomic.Int64)
		p.inFlight[address] = n
	}
	return n
}

func (p *reverseProxy) drained(ctx context.Context, address string) error {
	n := p.count(address)
	for n.Load() > 0 {
		select {
		case <-ctx.Done():
			return errors.New("requests are under way")
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// A bufferPool lends buffers of the size that ReverseProxy makes.
type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) Get() []byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 32<<10)
}

func (p *bufferPool) Put(b []byte) { p.pool.Put(&b) }
