package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/proxy"
	"github.com/weaverkit/weaverkit/rollout"
)

func newTestProxies() *proxies {
	return &proxies{
		address: func(*envelopekit.App, string) string { return "127.0.0.1:0" },
		opened:  func(string, string) {},
		log:     slog.New(slog.DiscardHandler),
		all:     map[string]*proxy.Frontend{},
		traffic: map[place]*rollout.Traffic{},
	}
}

// What counts, and what of it as a failure.
func TestCounter(t *testing.T) {
	for _, tt := range []struct {
		name             string
		outcome          proxy.Outcome
		requests, failed uint64
	}{
		{"answered", proxy.Outcome{Status: 200}, 1, 0},
		{"not found", proxy.Outcome{Status: 404}, 1, 0},
		{"failed", proxy.Outcome{Status: 500}, 1, 1},
		{"broken in the middle", proxy.Outcome{Status: 200, Err: proxy.Broken}, 1, 1},
		{"never answered", proxy.Outcome{Err: proxy.TimedOut, Latency: responseTimeout}, 1, 1},
		{"given up at once", proxy.Outcome{Err: proxy.Canceled, Latency: patience - 1}, 0, 0},
		{"given up in the end", proxy.Outcome{Err: proxy.Canceled, Latency: patience}, 1, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newTestProxies()
			tt.outcome.Pool = "v2"
			p.counter("shop")(tt.outcome)
			got := p.counts()[place{"shop", "v2"}]
			assert.Equal(t, tt.requests, got.Requests, "requests")
			assert.Equal(t, tt.failed, got.Failures, "failures")
		})
	}
}

// A hanging is a backend that answers when it is told to.
type hanging struct {
	came   chan struct{} // a request
	answer chan struct{}
}

// serve lets a version answer the requests to a proxy, and returns the address.
func (h *hanging) serve(t *testing.T, p *proxies, version string) string {
	t.Helper()
	h.came, h.answer = make(chan struct{}, 8), make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.came <- struct{}{}
		select {
		case <-h.answer:
			_, _ = io.WriteString(w, "done")
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(s.Close)
	f, err := p.open(nil, "shop")
	require.NoError(t, err)
	f.Proxy().Pool(version).SetBackends([]string{s.Listener.Addr().String()})
	require.NoError(t, p.split(rollout.Weights{Splits: []rollout.Split{{
		Place: rollout.Place{Listener: "shop"}, Shares: []rollout.Share{{Version: version, Weight: rollout.Whole}},
	}}}))
	return "http://" + f.Addr()
}

// The time that a client waited in vain is what patience is compared with.
func TestWaitedInVain(t *testing.T) {
	const waited = 50 * time.Millisecond
	outcomes := make(chan proxy.Outcome, 1)
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer silent.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f, err := proxy.Start(l, proxy.Options{Outcome: func(o proxy.Outcome) { outcomes <- o }})
	require.NoError(t, err)
	defer f.Close(t.Context())
	f.SetBackends([]string{silent.Listener.Addr().String()})
	client := http.Client{Timeout: waited}
	_, err = client.Get("http://" + f.Addr())
	require.Error(t, err)
	o := <-outcomes
	assert.Equal(t, proxy.Canceled, o.Err)
	assert.GreaterOrEqual(t, o.Latency, waited/2) // it began a little later than the client's clock
}

// A proxy that can accept nothing any more is a reason to end; one that is closed
// is none.
func TestListenerFails(t *testing.T) {
	p, failed := newTestProxies(), make(chan error, 2)
	p.failed = func(err error) { failed <- err }
	var listeners []net.Listener
	for _, name := range []string{"shop", "other"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		_, err = p.serve(name, l)
		require.NoError(t, err)
		listeners = append(listeners, l)
	}
	listeners[0].Close()
	select {
	case err := <-failed:
		assert.ErrorContains(t, err, "listener shop accepts no connections any more: ")
		assert.ErrorIs(t, err, net.ErrClosed)
	case <-time.After(30 * time.Second):
		t.Error("nobody is told")
	}
	p.close(t.Context())
	assert.Empty(t, failed, "a proxy that was closed")
}

// A stop that ends with the Runner leaves requests in flight to the end of the
// proxies, which is graceful.
func TestDrainOutlivesTheRunner(t *testing.T) {
	p, h := newTestProxies(), &hanging{}
	url := h.serve(t, p, "v1")
	got := make(chan string, 1)
	go func() {
		resp, err := http.Get(url)
		if err != nil {
			got <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		got <- string(body)
	}()
	<-h.came
	require.NoError(t, p.split(rollout.Weights{}))
	ended, end := context.WithCancel(t.Context())
	end()
	assert.ErrorIs(t, p.drain(ended, "v1", time.Minute), context.Canceled)
	time.AfterFunc(50*time.Millisecond, func() { close(h.answer) })
	p.close(t.Context())
	assert.Equal(t, "done", <-got)
}
