package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/weaverkit/weaverkit/envelopekit"
)

const (
	holdTime    = 10 * time.Second       // how long a request waits for a backend
	avoidTime   = 200 * time.Millisecond // how long a request avoids one that failed it
	maxAttempts = 4
)

// exporter returns what opens a frontend at the address that the configuration
// gives the listener, or at a free port of the loopback interface.
func exporter(listeners envelopekit.ListenerConfig) func(context.Context, string) (envelopekit.Frontend, error) {
	return func(_ context.Context, name string) (envelopekit.Frontend, error) {
		address := listeners[name].Address
		if address == "" {
			address = "127.0.0.1:0"
		}
		l, err := net.Listen("tcp", address)
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("address %s is in use: stop what uses it, or change listeners.%s in section [%s]", address, name, deployerName)
		} else if err != nil {
			return nil, fmt.Errorf("%w: change listeners.%s in section [%s]", err, name, deployerName)
		}
		return newFrontend(l), nil
	}
}

// A frontend is a simple reverse proxy: its backends take turns, a request
// waits while there are none, and is repeated elsewhere if it was not sent, or
// if repeating it is harmless.
type frontend struct {
	listener  net.Listener
	server    *http.Server
	transport *http.Transport
	served    chan struct{} // closed when the server has stopped

	mu       sync.Mutex // guards the following
	backends []string
	turn     int
	inFlight map[string]int
	change   chan struct{} // closed when backends or inFlight change
}

func newFrontend(l net.Listener) *frontend {
	f := &frontend{
		listener:  l,
		transport: &http.Transport{MaxIdleConnsPerHost: 256, IdleConnTimeout: 30 * time.Second, DisableCompression: true},
		served:    make(chan struct{}),
		inFlight:  map[string]int{},
		change:    make(chan struct{}),
	}
	quiet := log.New(io.Discard, "", 0)
	f.server = &http.Server{
		Handler: &httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) {
				r.SetXForwarded()
				r.Out.URL.Scheme = "http"
				r.Out.URL.Host = r.In.Host // RoundTrip chooses the backend
			},
			Transport:     f,
			FlushInterval: -1,
			ErrorLog:      quiet,
		},
		ErrorLog:          quiet,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
	}
	go func() {
		defer close(f.served)
		_ = f.server.Serve(l) // it fails when it is closed
	}()
	return f
}

// Addr implements [envelopekit.Frontend].
func (f *frontend) Addr() string { return f.listener.Addr().String() }

// SetBackends implements [envelopekit.Frontend].
func (f *frontend) SetBackends(addresses []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.backends = addresses
	f.changedLocked()
}

// Drained returns when no request is in flight to the backend, or ctx ends.
func (f *frontend) Drained(ctx context.Context, address string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.inFlight[address] > 0 {
		if err := f.waitLocked(ctx, false); err != nil {
			return err
		}
	}
	return nil
}

// Close implements [envelopekit.Frontend].
func (f *frontend) Close(ctx context.Context) error {
	err := f.server.Shutdown(ctx)
	if err != nil {
		f.server.Close()
	}
	<-f.served
	f.transport.CloseIdleConnections()
	return err
}

// RoundTrip sends the request to a backend.
func (f *frontend) RoundTrip(req *http.Request) (*http.Response, error) {
	body := req.Body
	failed := map[string]time.Time{}
	for attempt := 1; ; attempt++ {
		backend, err := f.pick(req.Context(), failed)
		if err != nil {
			return nil, err
		}
		out := req.Clone(req.Context())
		out.URL.Host = backend
		if body != nil {
			out.Body = io.NopCloser(body) // the server closes it
		}
		resp, err := f.transport.RoundTrip(out)
		if err == nil {
			resp.Body = f.untilClosed(resp.Body, backend)
			return resp, nil
		}
		f.done(backend)
		failed[backend] = time.Now()
		var op *net.OpError
		unsent := errors.As(err, &op) && op.Op == "dial"
		harmless := body == nil && slices.Contains([]string{"GET", "HEAD", "OPTIONS"}, req.Method)
		if attempt == maxAttempts || req.Context().Err() != nil || !unsent && !harmless {
			return nil, err
		}
	}
}

// pick returns the backend whose turn it is, once there is one that has not
// just failed the request: a replica that died is a backend for some more
// milliseconds.
func (f *frontend) pick(ctx context.Context, failed map[string]time.Time) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, holdTime)
	defer cancel()
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		for range f.backends {
			f.turn++
			backend := f.backends[f.turn%len(f.backends)]
			if at, ok := failed[backend]; !ok || time.Since(at) > avoidTime {
				f.inFlight[backend]++
				return backend, nil
			}
		}
		if err := f.waitLocked(ctx, len(f.backends) > 0); err != nil {
			return "", fmt.Errorf("no replica serves this listener: %w", err)
		}
	}
}

func (f *frontend) done(backend string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.inFlight[backend]--; f.inFlight[backend] == 0 {
		delete(f.inFlight, backend)
		f.changedLocked()
	}
}

// waitLocked waits for a change without the lock; a short wait ends by itself.
func (f *frontend) waitLocked(ctx context.Context, short bool) error {
	change := f.change
	f.mu.Unlock()
	defer f.mu.Lock()
	var timeout <-chan time.Time
	if short {
		timeout = time.After(avoidTime)
	}
	select {
	case <-change:
		return nil
	case <-timeout:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *frontend) changedLocked() {
	close(f.change)
	f.change = make(chan struct{})
}

// untilClosed returns the body, which counts as in flight until it is closed.
// That of an upgraded connection can be written to.
func (f *frontend) untilClosed(body io.ReadCloser, backend string) io.ReadCloser {
	counted := countedBody{body, sync.OnceFunc(func() { f.done(backend) })}
	if w, ok := body.(io.Writer); ok {
		return struct {
			countedBody
			io.Writer
		}{counted, w}
	}
	return counted
}

type countedBody struct {
	io.ReadCloser
	done func()
}

func (b countedBody) Close() error {
	defer b.done()
	return b.ReadCloser.Close()
}
