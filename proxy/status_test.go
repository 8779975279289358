package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// total adds up all pools, those that were closed included.
func total(s proxy.Status) (c proxy.Counts) {
	add := func(o proxy.Counts) {
		c.Requests += o.Requests
		c.Retries += o.Retries
		c.BytesIn += o.BytesIn
		c.BytesOut += o.BytesOut
		c.FailOpen += o.FailOpen
		for i, n := range o.Errors {
			c.Errors[i] += n
		}
		for i, n := range o.Statuses {
			c.Statuses[i] += n
		}
		for i, n := range o.Latency.Counts {
			c.Latency.Counts[i] += n
		}
	}
	add(s.Closed)
	for _, p := range s.Pools {
		add(p.Counts)
	}
	return c
}

// least requires that no counter has fallen.
func least(t testing.TB, before, after proxy.Counts) {
	t.Helper()
	require.GreaterOrEqual(t, after.Requests, before.Requests)
	require.GreaterOrEqual(t, after.Retries, before.Retries)
	require.GreaterOrEqual(t, after.BytesIn, before.BytesIn)
	require.GreaterOrEqual(t, after.BytesOut, before.BytesOut)
	for i := range after.Errors {
		require.GreaterOrEqual(t, after.Errors[i], before.Errors[i])
	}
	for i := range after.Statuses {
		require.GreaterOrEqual(t, after.Statuses[i], before.Statuses[i])
	}
	require.GreaterOrEqual(t, after.Latency.Count(), before.Latency.Count())
}

// TestStatusAddsUp sends known requests under load, while backends and pools come
// and go: counters never fall, and at the end are exact.
func TestStatusAddsUp(t *testing.T) {
	var origins []*origin
	for range 4 {
		origins = append(origins, newOrigin(t, "", func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.WriteHeader(map[string]int{"2": 200, "4": 404, "5": 500}[r.Header.Get("X-Status")])
			io.WriteString(w, "0123456789")
		}))
	}
	var outcomes, failed atomic.Uint64
	r := newRig(t, proxy.Options{HoldTimeout: longest, Outcome: func(o proxy.Outcome) {
		outcomes.Add(1)
		if o.Err != proxy.NoError {
			failed.Add(1)
		}
	}})
	r.SetBackends([]string{origins[0].addr})
	var sent [6]atomic.Uint64
	var bytesIn atomic.Uint64
	var clients []*http.Client
	for range 2 {
		for _, w := range ways {
			clients = append(clients, w.client(t))
		}
	}
	crowd := newCrowd(t, len(clients), func(i int) error {
		status := []int{2, 2, 2, 4, 5}[rand.IntN(5)]
		size := []int{0, 10, 20_000}[rand.IntN(3)]
		a, err := fetch(clients[i], "POST", r.url("/"), strings.Repeat("x", size), "X-Status", fmt.Sprint(status))
		if err != nil {
			return err
		}
		if a.status/100 != status {
			return fmt.Errorf("%d %s", a.status, a.body)
		}
		sent[status].Add(1)
		bytesIn.Add(uint64(size))
		return nil
	})
	var before proxy.Counts
	watched := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-watched:
				return
			default:
			}
			after := total(r.Status())
			least(t, before, after)
			before = after
		}
	})
	rnd := rand.New(rand.NewPCG(1, 9))
	for range 200 {
		var addrs []string
		for _, o := range origins {
			if rnd.IntN(2) == 0 {
				addrs = append(addrs, o.addr)
			}
		}
		name := []string{"a", "b", proxy.DefaultPool}[rnd.IntN(3)]
		r.Pool(name).SetBackends(append(addrs, origins[0].addr))
		require.NoError(t, r.SetSplit(proxy.Share{Pool: name, Weight: 10_000}))
		time.Sleep(2 * time.Millisecond)
	}
	crowd.content(t)
	for _, name := range []string{"a", "b"} {
		r.Pool(name).SetBackends(nil)
		require.NoError(t, r.Pool(name).Close(context.Background()))
	}
	close(watched)
	wg.Wait()
	var end proxy.Counts
	all := sent[2].Load() + sent[4].Load() + sent[5].Load()
	soon(t, func() bool { // the last byte is counted after the client has it
		end = total(r.Status())
		return end.BytesOut == 10*all && outcomes.Load() == end.Requests
	})
	again := end.Errors[proxy.DialFailed]
	assert.EqualValues(t, all+again, end.Requests)
	assert.EqualValues(t, again, end.Retries)
	assert.EqualValues(t, all, end.Latency.Count())
	assert.Equal(t, failed.Load(), again)
	for i := range sent {
		assert.EqualValues(t, sent[i].Load(), end.Statuses[i], "%d00", i)
	}
	assert.EqualValues(t, bytesIn.Load(), end.BytesIn)
	assert.NotZero(t, r.Status().Closed.Requests)
	for _, p := range r.Status().Pools {
		for _, b := range p.Backends {
			assert.Zero(t, b.InFlight)
		}
	}
}

// TestStatusClosedInFlight: a pool that is closed before its last request has
// ended keeps what that counts.
func TestStatusClosedInFlight(t *testing.T) {
	g := newGate(t, "it")
	r := newRig(t, proxy.Options{HoldTimeout: -1})
	pool := r.Pool("web")
	pool.SetBackends([]string{g.addr})
	require.NoError(t, r.SetSplit(proxy.Share{Pool: "web", Weight: 10_000}))
	res := in(func() (answer, error) { return fetch(fastWay.client(t), "POST", r.url("/"), "body") })
	receive(t, g.arrived)
	closed := make(chan error, 1)
	go func() { closed <- pool.Close(context.Background()) }()
	soon(t, func() bool { return errors.Is(pool.Add(proxy.Backend{Addr: g.addr}), proxy.ErrPoolClosed) })
	require.EqualValues(t, 1, total(r.Status()).Requests)
	g.letGo()
	require.NoError(t, receive(t, closed))
	require.Equal(t, "it", receive(t, res).body)
	st := r.Status()
	require.EqualValues(t, 1, st.Closed.Requests)
	require.EqualValues(t, 1, st.Closed.Statuses[2])
	require.EqualValues(t, 4, st.Closed.BytesIn)
	require.EqualValues(t, 2, st.Closed.BytesOut)
}

func TestStatus(t *testing.T) {
	a, b := newOrigin(t, "a", nil), deadAddr(t)
	r := newRig(t, proxy.Options{})
	require.NoError(t, r.Pool("web").Set([]proxy.Backend{{Addr: a.addr, Weight: 3}, {Addr: b}}))
	shares := []proxy.Share{{Pool: "web", Weight: 9000}, {Pool: "default", Weight: 1000}}
	require.NoError(t, r.SetSplit(shares...))
	st := r.Status()
	assert.Equal(t, shares, st.Split)
	require.Len(t, st.Pools, 2)
	assert.Equal(t, "default", st.Pools[0].Name)
	assert.Equal(t, "web", st.Pools[1].Name)
	require.True(t, r.Pool("web").SetHealthy(b, false))
	for _, s := range r.pool("web").Backends {
		assert.Equal(t, s.Addr == a.addr, s.Healthy)
		assert.Equal(t, s.Addr != a.addr, s.Avoided)
		assert.False(t, s.Draining)
	}
	assert.False(t, r.pool("web").FailingOpen())
	assert.False(t, r.pool("default").FailingOpen(), "it has no backends")
	for kind := range proxy.ErrorKind(6) {
		assert.NotContains(t, kind.String(), "ErrorKind")
	}
	assert.Equal(t, "ErrorKind(6)", proxy.ErrorKind(6).String())
	assert.Equal(t, "ErrorKind(-1)", proxy.ErrorKind(-1).String())

	c, br := open(t, r.addr)
	say(t, c, "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
	require.Equal(t, 400, hear(t, br).status)
	assert.EqualValues(t, 1, r.Status().Refused)
	get(t, fastWay.client(t), r.url("/"))
	soon(t, func() bool { return r.pool("web").Backends[0].Conns+r.pool("web").Backends[1].Conns == 1 })
}

// TestFailOpenCounted: requests that go to avoided backends are counted as such.
func TestFailOpenCounted(t *testing.T) {
	a := newOrigin(t, "a", nil)
	r := newRig(t, proxy.Options{}, a.addr)
	pool := r.Pool(proxy.DefaultPool)
	c := fastWay.client(t)
	get(t, c, r.url("/"))
	pool.SetHealthy(a.addr, false)
	for range 3 {
		get(t, c, r.url("/"))
	}
	require.True(t, pool.Status().FailingOpen())
	require.EqualValues(t, 3, pool.Status().FailOpen)
	pool.SetHealthy(a.addr, true)
	get(t, c, r.url("/"))
	require.EqualValues(t, 3, pool.Status().FailOpen)
}

// TestBytesOfChunks: what is counted of a body in chunks is its data.
func TestBytesOfChunks(t *testing.T) {
	o := newOrigin(t, "", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Query().Get("n"))
		for range n {
			io.WriteString(w, "x")
			w.(http.Flusher).Flush()
		}
	})
	eachWay(t, func(t *testing.T, w way) {
		log := &notes{}
		r := newRig(t, proxy.Options{AccessLog: slog.New(slog.NewJSONHandler(log, nil))}, o.addr)
		c := w.client(t)
		total := 0
		for i, n := range []int{1, 1000, 20_000} {
			require.Len(t, get(t, c, r.url(fmt.Sprintf("/?n=%d", n))), n)
			require.EqualValues(t, n, log.logged(t, i+1)[i]["bytes"])
			total += n
			require.EqualValues(t, total, r.backend(o.addr).BytesOut)
		}
	})
}
