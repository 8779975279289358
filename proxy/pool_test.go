package proxy_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
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

func TestPoolErrors(t *testing.T) {
	r := newRig(t, proxy.Options{})
	pool := r.Pool("web")
	assert.Equal(t, "web", pool.Name())
	assert.Same(t, pool, r.Pool("web"))
	require.NoError(t, pool.Set([]proxy.Backend{{Addr: "127.0.0.1:1", Weight: 2}, {Addr: "unix:/tmp/x"}, {Addr: "[::1]:80"}}))
	before := pool.Status()
	for addr, says := range map[string]string{
		"":             "must be host:port",
		"127.0.0.1":    "must be host:port",
		":80":          "must be host:port",
		"host:":        "must be host:port",
		"unix:":        "has no path",
		"a b:80":       "must be host:port",
		"host:65536":   "must be at most 65535",
		"host:-1":      "must be at most 65535",
		"http://a:80":  "must be host:port",
		"host:80/path": "must be host:port",
		"a\r\nb:80":    "must be host:port",
	} {
		for _, err := range []error{pool.Add(proxy.Backend{Addr: addr}), pool.Set([]proxy.Backend{{Addr: "127.0.0.1:9"}, {Addr: addr}})} {
			assert.ErrorContains(t, err, "pool web")
			assert.ErrorContains(t, err, says, "%q", addr)
			assert.ErrorContains(t, err, strconv.Quote(addr))
		}
	}
	for _, weight := range []int{-1, 1_000_001} {
		assert.ErrorContains(t, pool.Add(proxy.Backend{Addr: "127.0.0.1:1", Weight: weight}), fmt.Sprint("has weight ", weight))
	}
	assert.ErrorContains(t, pool.Set([]proxy.Backend{{Addr: "a:1"}, {Addr: "b:1"}, {Addr: "a:1", Weight: 2}}), "backend a:1 is there twice")
	assert.Equal(t, before, pool.Status(), "nothing has changed")
	assert.False(t, pool.Remove("127.0.0.1:9"))

	pool.SetBackends([]string{"127.0.0.1:1", "nonsense", "127.0.0.1:1", "127.0.0.1:2"})
	assert.Contains(t, r.notes.String(), "nonsense")
	assert.Equal(t, map[string]int{"127.0.0.1:1": 2, "127.0.0.1:2": 1}, weights(pool), "a weight is kept")

	require.NoError(t, pool.Close(context.Background()))
	for _, err := range []error{pool.Add(proxy.Backend{Addr: "a:1"}), pool.Set(nil)} {
		assert.ErrorIs(t, err, proxy.ErrPoolClosed)
	}
	pool.SetBackends([]string{"a:1"})
	assert.Empty(t, pool.Status().Backends)
	require.NoError(t, pool.Close(context.Background()))
	again := r.Pool("web")
	assert.NotSame(t, pool, again)
	require.NoError(t, again.Add(proxy.Backend{Addr: "a:1"}))
}

func weights(pool *proxy.Pool) map[string]int {
	w := map[string]int{}
	for _, b := range pool.Status().Backends {
		if !b.Draining {
			w[b.Addr] = b.Weight
		}
	}
	return w
}

// TestRemovedGetsNothing takes backends in and out under load: a request that
// begins after one has been taken out never gets there, by no way, and none
// fails. Requests carry the number of changes that had been made when they began.
func TestRemovedGetsNothing(t *testing.T) {
	var clock atomic.Int64 // changes so far
	var origins []*origin
	removed := map[string]*atomic.Int64{} // the change by which it was taken out last; 0 while it is in
	late := make(chan string, 1000)
	for range 4 {
		var since atomic.Int64
		var addr atomic.Pointer[string]
		o := newOrigin(t, "", func(w http.ResponseWriter, r *http.Request) {
			began, _ := strconv.ParseInt(r.Header.Get("X-Clock"), 10, 64)
			if out := since.Load(); out != 0 && began >= out {
				select {
				case late <- fmt.Sprintf("%s was out since %d, and got a request of %d", *addr.Load(), out, began):
				default:
				}
			}
			b, _ := io.ReadAll(r.Body)
			w.Write(b)
		})
		addr.Store(&o.addr)
		removed[o.addr] = &since
		origins = append(origins, o)
	}
	r := newRig(t, proxy.Options{})
	var all []string
	for _, o := range origins {
		all = append(all, o.addr)
	}
	r.SetBackends(all)
	var clients []*http.Client
	for _, w := range ways {
		clients = append(clients, w.client(t), w.client(t))
	}
	crowd := newCrowd(t, len(clients), func(i int) error {
		body := strings.Repeat("x", rand.IntN(100))
		if rand.IntN(20) == 0 {
			body = strings.Repeat("x", 40_000)
		}
		method := []string{"GET", "POST", "PUT"}[rand.IntN(3)]
		if method == "GET" {
			body = ""
		}
		a, err := fetch(clients[i], method, r.url("/"), body, "X-Clock", fmt.Sprint(clock.Load()))
		if err == nil && (a.status != 200 || a.body != body) {
			err = fmt.Errorf("%s of %d bytes: %d %.100q", method, len(body), a.status, a.body)
		}
		return err
	})
	rnd := rand.New(rand.NewPCG(7, 8))
	pool := r.Pool(proxy.DefaultPool)
	in := slices.Clone(all)
	change := func(next []string, f func()) {
		for _, a := range next {
			removed[a].Store(0) // before it can get anything
		}
		f()
		now := clock.Add(1)
		for _, a := range all {
			if !slices.Contains(next, a) && slices.Contains(in, a) {
				removed[a].Store(now)
			}
		}
		in = next
	}
	for range 150 {
		out := all[rnd.IntN(len(all))]
		switch rnd.IntN(4) {
		case 0:
			next := slices.Clone(all)
			rnd.Shuffle(len(next), func(i, j int) { next[i], next[j] = next[j], next[i] })
			next = next[:1+rnd.IntN(len(all))]
			change(next, func() { r.SetBackends(next) })
		case 1:
			if len(in) > 1 && slices.Contains(in, out) {
				change(without(in, out), func() { require.True(t, pool.Remove(out)) })
			}
		case 2:
			if len(in) > 1 && slices.Contains(in, out) {
				change(without(in, out), func() { require.NoError(t, pool.Drain(context.Background(), out)) })
			}
		case 3:
			if !slices.Contains(in, out) {
				change(append(slices.Clone(in), out), func() {
					require.NoError(t, pool.Add(proxy.Backend{Addr: out, Weight: 1 + rnd.IntN(3)}))
				})
			}
		}
		time.Sleep(time.Duration(rnd.IntN(4)) * time.Millisecond)
	}
	crowd.content(t)
	close(late)
	for s := range late {
		assert.Fail(t, s)
	}
}

func without(all []string, one string) (rest []string) {
	for _, a := range all {
		if a != one {
			rest = append(rest, a)
		}
	}
	return rest
}

// A gate is a backend whose answers wait until they are let go.
type gate struct {
	*origin
	arrived chan string
	open    chan struct{}
}

func newGate(t testing.TB, name string) *gate {
	g := &gate{arrived: make(chan string, 100), open: make(chan struct{})}
	g.origin = newOrigin(t, name, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // only then is it noticed that the client is gone
		g.arrived <- r.Method
		if r.URL.Path == "/begun" {
			io.WriteString(w, "begin ")
			w.(http.Flusher).Flush()
		}
		select {
		case <-g.open:
			io.WriteString(w, name)
		case <-r.Context().Done():
		}
	})
	t.Cleanup(g.letGo)
	return g
}

func (g *gate) letGo() {
	select {
	case <-g.open:
	default:
		close(g.open)
	}
}

// in runs a request, and returns how it ended.
func in(f func() (answer, error)) <-chan result {
	c := make(chan result, 1)
	go func() {
		a, err := f()
		c <- result{a, err}
	}()
	return c
}

type result struct {
	answer
	err error
}

func receive[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(longest):
		require.Fail(t, "nothing comes", stacks())
		panic("unreachable")
	}
}

func TestDrainWaits(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		g := newGate(t, "old")
		r := newRig(t, proxy.Options{}, g.addr)
		pool := r.Pool(proxy.DefaultPool)
		c := w.client(t)
		waiting := in(func() (answer, error) { return fetch(c, "GET", r.url("/"), "") })
		receive(t, g.arrived)
		begun := in(func() (answer, error) { return fetch(c, "POST", r.url("/begun"), "x") })
		receive(t, g.arrived)

		short, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		err := pool.Drain(short, g.addr)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, g.addr)
		require.ErrorContains(t, err, "2 requests are in flight")
		st := pool.Status().Backends
		require.Len(t, st, 1)
		require.True(t, st[0].Draining)
		require.Equal(t, 2, st[0].InFlight)

		drained := make(chan error, 1)
		go func() { drained <- pool.Drained(context.Background(), g.addr) }()
		other := newOrigin(t, "other", nil)
		r.SetBackends([]string{other.addr})
		require.Equal(t, "other", get(t, c, r.url("/")))
		select {
		case <-drained:
			require.Fail(t, "it is not drained")
		default:
		}
		g.letGo()
		require.NoError(t, receive(t, drained))
		a := receive(t, waiting)
		require.NoError(t, a.err)
		require.Equal(t, "old", a.body)
		a = receive(t, begun)
		require.NoError(t, a.err)
		require.Equal(t, "begin old", a.body)
		require.Len(t, pool.Status().Backends, 1)
		require.NoError(t, pool.Drained(context.Background(), g.addr), "long ago")
		require.NoError(t, pool.Drain(context.Background(), "unknown:1"), "there is nothing to wait for")
	})
}

// TestDrainTimeout: when it is over requests are ended; those that may be are
// tried elsewhere.
func TestDrainTimeout(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		g := newGate(t, "old")
		other := newOrigin(t, "other", nil)
		r := newRig(t, proxy.Options{DrainTimeout: 50 * time.Millisecond}, g.addr)
		c := w.client(t)
		idempotent := in(func() (answer, error) { return fetch(c, "PUT", r.url("/"), "body") })
		receive(t, g.arrived)
		post := in(func() (answer, error) { return fetch(c, "POST", r.url("/"), "body") })
		receive(t, g.arrived)
		begun := in(func() (answer, error) { return fetch(c, "GET", r.url("/begun"), "") })
		receive(t, g.arrived)
		r.SetBackends([]string{other.addr})
		require.NoError(t, r.Pool(proxy.DefaultPool).Drained(context.Background(), g.addr))
		a := receive(t, idempotent)
		require.NoError(t, a.err)
		require.Equal(t, "other", a.body)
		a = receive(t, post)
		require.NoError(t, a.err)
		require.Equal(t, http.StatusBadGateway, a.status)
		a = receive(t, begun)
		require.Error(t, a.err, "a cut answer must not seem whole")
		require.EqualValues(t, 1, other.hits.Load())
	})
}

// TestReadd: an address comes back while its former self has a request; each is
// for itself.
func TestReadd(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		g := newGate(t, "it")
		r := newRig(t, proxy.Options{}, g.addr)
		pool := r.Pool(proxy.DefaultPool)
		c := w.client(t)
		first := in(func() (answer, error) { return fetch(c, "GET", r.url("/"), "") })
		receive(t, g.arrived)
		require.True(t, pool.Remove(g.addr))
		require.False(t, pool.Remove(g.addr))
		require.NoError(t, pool.Add(proxy.Backend{Addr: g.addr}))
		second := in(func() (answer, error) { return fetch(c, "GET", r.url("/"), "") })
		receive(t, g.arrived)
		st := pool.Status()
		require.Len(t, st.Backends, 2)
		for i, b := range st.Backends {
			require.Equal(t, 1, b.InFlight)
			require.Equal(t, i == 1, b.Draining)
		}
		require.True(t, pool.Remove(g.addr))
		drained := make(chan error, 1)
		go func() { drained <- pool.Drained(context.Background(), g.addr) }()
		require.NoError(t, pool.Add(proxy.Backend{Addr: g.addr}))
		g.letGo()
		require.NoError(t, receive(t, drained), "both selves")
		for _, c := range []<-chan result{first, second} {
			a := receive(t, c)
			require.NoError(t, a.err)
			require.Equal(t, "it", a.body)
		}
		require.Len(t, pool.Status().Backends, 1)
		require.EqualValues(t, 2, pool.Status().Requests)
	})
}

// TestPoolClose ends what is in flight when its time is over.
func TestPoolClose(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		g := newGate(t, "it")
		r := newRig(t, proxy.Options{HoldTimeout: -1}, g.addr)
		pool := r.Pool(proxy.DefaultPool)
		c := w.client(t)
		post := in(func() (answer, error) { return fetch(c, "POST", r.url("/"), "body") })
		receive(t, g.arrived)
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		err := pool.Close(ended)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorContains(t, err, "close pool default")
		a := receive(t, post)
		require.NoError(t, a.err)
		require.Equal(t, http.StatusBadGateway, a.status)
		// An empty pool takes its place in the split.
		a2, err := fetch(c, "GET", r.url("/"), "")
		require.NoError(t, err)
		require.Equal(t, http.StatusServiceUnavailable, a2.status)
		other := newOrigin(t, "other", nil)
		r.SetBackends([]string{other.addr})
		require.Equal(t, "other", get(t, c, r.url("/")))
	})
}

// TestProxyClose answers what is in flight at once, and does not hold it.
func TestProxyClose(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		g := newGate(t, "it")
		r := newRig(t, proxy.Options{HoldTimeout: time.Hour}, g.addr)
		c := w.client(t)
		get := in(func() (answer, error) { return fetch(c, "GET", r.url("/"), "") })
		receive(t, g.arrived)
		post := in(func() (answer, error) { return fetch(c, "POST", r.url("/"), "body") })
		receive(t, g.arrived)
		r.Proxy.Close()
		a := receive(t, get)
		require.NoError(t, a.err)
		require.Equal(t, http.StatusBadGateway, a.status)
		a = receive(t, post)
		require.NoError(t, a.err)
		require.Equal(t, http.StatusBadGateway, a.status)
		after, err := fetch(c, "GET", r.url("/"), "")
		require.NoError(t, err)
		require.Equal(t, http.StatusServiceUnavailable, after.status)
	})
}

// TestPoolScript runs random changes, under load and compares with a map after
// each.
func TestPoolScript(t *testing.T) {
	var origins []*origin
	for i := range 5 {
		origins = append(origins, newOrigin(t, fmt.Sprint(i), nil))
	}
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 9))
			r := newRig(t, proxy.Options{HoldTimeout: longest})
			pool := r.Pool(proxy.DefaultPool)
			clients := []*http.Client{fastWay.client(t), slowWay.client(t), h2Way.client(t)}
			crowd := newCrowd(t, 3, func(i int) error {
				a, err := fetch(clients[i], []string{"GET", "POST"}[rand.IntN(2)], r.url("/"), "body")
				if err == nil && a.status != 200 {
					err = errors.New(a.body)
				}
				return err
			})
			model := map[string]int{}
			some := func() proxy.Backend {
				return proxy.Backend{Addr: origins[rnd.IntN(len(origins))].addr, Weight: rnd.IntN(4)}
			}
			for range 150 {
				switch b := some(); rnd.IntN(7) {
				case 0, 1:
					require.NoError(t, pool.Add(b))
					model[b.Addr] = cmp.Or(b.Weight, model[b.Addr], 1)
				case 2:
					_, there := model[b.Addr]
					require.Equal(t, there, pool.Remove(b.Addr))
					delete(model, b.Addr)
				case 3:
					require.NoError(t, pool.Drain(t.Context(), b.Addr))
					delete(model, b.Addr)
				case 4:
					next := map[string]int{}
					var set []proxy.Backend
					for range rnd.IntN(6) {
						if b := some(); next[b.Addr] == 0 {
							next[b.Addr] = max(b.Weight, 1)
							set = append(set, b)
						}
					}
					require.NoError(t, pool.Set(set))
					model = next
				case 5:
					next := map[string]int{}
					var set []string
					for range rnd.IntN(6) {
						a := some().Addr
						next[a] = max(model[a], 1)
						set = append(set, a)
					}
					pool.SetBackends(set)
					model = next
				case 6:
					_, there := model[b.Addr]
					require.Equal(t, there, pool.SetHealthy(b.Addr, rnd.IntN(2) == 0))
				}
				require.Equal(t, model, weights(pool))
				time.Sleep(time.Duration(rnd.IntN(2)) * time.Millisecond)
			}
			r.SetBackends([]string{origins[0].addr})
			crowd.content(t)
			soon(t, func() bool {
				st := pool.Status()
				return len(st.Backends) == 1 && st.Backends[0].InFlight == 0
			})
			st := pool.Status()
			answered := st.Requests - st.Errors[proxy.DialFailed] // on a busy machine one may take too long
			require.EqualValues(t, answered, st.Statuses[2])
			require.EqualValues(t, answered, st.Latency.Count())
		})
	}
}

// TestPoolCloseRace: no backend comes to stay in a pool that is being closed.
func TestPoolCloseRace(t *testing.T) {
	p, err := proxy.New(proxy.Options{})
	require.NoError(t, err)
	defer p.Close()
	for range 200 {
		pool := p.Pool("p")
		added := make(chan bool, 1)
		var wg sync.WaitGroup
		wg.Go(func() {
			for pool.Add(proxy.Backend{Addr: "a:1"}) == nil {
				select {
				case added <- true:
				default:
				}
			}
		})
		receive(t, added)
		require.NoError(t, pool.Close(t.Context()))
		wg.Wait()
		require.Empty(t, pool.Status().Backends)
	}
}

// TestCloseEndsClosing: what is in flight in a pool that was closed before ends,
// too.
func TestCloseEndsClosing(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		g := newGate(t, "it")
		r := newRig(t, proxy.Options{DrainTimeout: time.Hour}, g.addr)
		res := in(func() (answer, error) { return fetch(w.client(t), "GET", r.url("/"), "") })
		receive(t, g.arrived)
		closed := make(chan error, 1)
		pool := r.Pool(proxy.DefaultPool)
		go func() { closed <- pool.Close(context.Background()) }()
		soon(t, func() bool { return r.Pool(proxy.DefaultPool) != pool })
		r.Proxy.Close()
		a := receive(t, res)
		require.NoError(t, a.err, "it is told so")
		require.Contains(t, []int{http.StatusBadGateway, http.StatusServiceUnavailable}, a.status)
		require.NoError(t, receive(t, closed))
	})
}

// TestPoolAfterClose: a proxy that has been closed gets no backends any more.
func TestPoolAfterClose(t *testing.T) {
	p, err := proxy.New(proxy.Options{})
	require.NoError(t, err)
	p.Pool("old").SetBackends([]string{"127.0.0.1:1"})
	p.Close()
	p.SetBackends([]string{"127.0.0.1:1"})
	for _, name := range []string{proxy.DefaultPool, "old", "new"} {
		require.ErrorIs(t, p.Pool(name).Add(proxy.Backend{Addr: "127.0.0.1:1"}), proxy.ErrPoolClosed)
	}
	for _, pool := range p.Status().Pools {
		require.Empty(t, pool.Backends)
	}
	p.Close()
}

// TestAddKeepsWeight: to add a backend that is there changes its weight only if it
// says one.
func TestAddKeepsWeight(t *testing.T) {
	r := newRig(t, proxy.Options{})
	pool := r.Pool("")
	require.Same(t, r.Pool(proxy.DefaultPool), pool)
	for _, weights := range [][2]int{{0, 1}, {5, 5}, {0, 5}, {1, 1}} {
		require.NoError(t, pool.Add(proxy.Backend{Addr: "a:1", Weight: weights[0]}))
		require.Equal(t, weights[1], r.backend("a:1").Weight)
	}
	require.Zero(t, pool.Status().Latency.Quantile(0.5))
}

// TestRemovedConnections: connections to a backend that is removed are closed, once
// nothing is in flight on them.
func TestRemovedConnections(t *testing.T) {
	for _, w := range ways {
		for _, speaks := range []proxy.Protocol{proxy.HTTP1, proxy.H2C} {
			t.Run(fmt.Sprint(w, speaks), func(t *testing.T) {
				var open atomic.Int64
				arrived, goOn := make(chan string, 10), make(chan struct{})
				l := newListener(t)
				srv := &http.Server{
					Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						arrived <- r.Method
						<-goOn
						io.WriteString(w, "it")
					}),
					ConnState: func(_ net.Conn, s http.ConnState) {
						switch s {
						case http.StateNew:
							open.Add(1)
						case http.StateClosed:
							open.Add(-1)
						}
					},
					Protocols: new(http.Protocols),
				}
				srv.Protocols.SetHTTP1(true)
				srv.Protocols.SetUnencryptedHTTP2(true)
				var wg sync.WaitGroup
				wg.Go(func() { srv.Serve(l) })
				t.Cleanup(wg.Wait)
				t.Cleanup(func() { srv.Close() })
				addr := l.Addr().String()
				r := newRig(t, proxy.Options{BackendProtocol: speaks, BackendIdleTimeout: time.Hour}, addr)
				c := w.client(t)
				got := in(func() (answer, error) { return fetch(c, "GET", r.url("/"), "") })
				receive(t, arrived)
				r.SetBackends(nil)
				close(goOn)
				require.Equal(t, "it", receive(t, got).body)
				soon(t, func() bool { return open.Load() == 0 })

				r.SetBackends([]string{addr})
				require.Equal(t, "it", get(t, c, r.url("/")))
				require.NotZero(t, open.Load())
				require.NoError(t, r.Pool(proxy.DefaultPool).Drain(t.Context(), addr))
				soon(t, func() bool { return open.Load() == 0 })
			})
		}
	}
}

// TestDialedLate: a connection that is there only when the proxy has been closed is
// closed, too.
func TestDialedLate(t *testing.T) {
	r := newRig(t, proxy.Options{})
	ended := make(chan error, 1)
	addr := newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		_, err := br.ReadByte()
		ended <- err
	})
	r.close()
	_, err := r.DialForNetHTTP(addr)
	require.Error(t, err)
	require.ErrorIs(t, receive(t, ended), io.EOF)
}
