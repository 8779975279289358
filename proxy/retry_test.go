package proxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// A breaker is a backend that reads requests whole and then breaks the
// connection.
type breaker struct {
	addr string
	got  atomic.Int64
}

func newBreaker(t testing.TB) *breaker {
	b := &breaker{}
	b.addr = newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		io.Copy(io.Discard, r.Body)
		b.got.Add(1)
	})
	return b
}

// bodies are of a kind each: none, in one piece with the head, larger than what
// is held at once, and larger than what sockets hold.
var bodies = []int{0, 100, 20_000, 2 << 20}

// TestRetryUnsent: what could not be sent is tried elsewhere, whatever it is.
func TestRetryUnsent(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		good := newOrigin(t, "good", nil)
		dead := []string{deadAddr(t), deadAddr(t), deadAddr(t), deadAddr(t)}
		for _, method := range []string{"GET", "POST", "PATCH", "DELETE"} {
			for _, size := range bodies {
				r := newRig(t, proxy.Options{Balance: proxy.RoundRobin, RetryBudget: -1, MaxAttempts: 1}, append(dead, good.addr)...)
				c := w.client(t)
				for range 5 {
					a, err := fetch(c, method, r.url("/"), strings.Repeat("x", size))
					require.NoError(t, err)
					require.Equal(t, "good", a.body, "%s of %d bytes", method, size)
				}
				r.close()
			}
		}
	})
}

// TestRetryBroken: what may be sent twice is tried elsewhere when the connection
// breaks before there is an answer.
func TestRetryBroken(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		for _, method := range []string{"GET", "HEAD", "OPTIONS", "DELETE", "PUT"} {
			for _, body := range []string{"", "small"} {
				if body != "" && method != "PUT" {
					continue
				}
				good, bad := newOrigin(t, "good", nil), newBreaker(t)
				r := newRig(t, proxy.Options{Balance: proxy.RoundRobin}, good.addr, bad.addr)
				c := w.client(t)
				for range 3 { // then the bad one is avoided
					a, err := fetch(c, method, r.url("/"), body)
					require.NoError(t, err)
					require.Equal(t, 200, a.status)
				}
				require.EqualValues(t, 1, bad.got.Load())
				require.EqualValues(t, 1, r.pool(proxy.DefaultPool).Retries)
				require.EqualValues(t, 1, r.backend(bad.addr).Errors[proxy.Broken])
				r.close()
			}
		}
	})
}

// TestNoReplay: a POST that a backend may have seen is never sent again.
func TestNoReplay(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		for _, size := range bodies {
			bad := []*breaker{newBreaker(t), newBreaker(t), newBreaker(t)}
			r := newRig(t, proxy.Options{}, bad[0].addr, bad[1].addr, bad[2].addr)
			c := w.client(t)
			for i := range 5 {
				for _, method := range []string{"POST", "PATCH"} {
					a, err := fetch(c, method, r.url("/"), strings.Repeat("x", size))
					require.NoError(t, err)
					require.Equal(t, http.StatusBadGateway, a.status)
				}
				got := bad[0].got.Load() + bad[1].got.Load() + bad[2].got.Load()
				require.EqualValues(t, 2*i+2, got, "%d bytes", size)
			}
			require.Zero(t, r.pool(proxy.DefaultPool).Retries)
			r.close()
		}
	})
}

// TestNoReplayReused: nor is it if the backend closes a connection that it had
// kept.
func TestNoReplayReused(t *testing.T) {
	for _, w := range []way{fastWay, slowWay} {
		t.Run(string(w), func(t *testing.T) {
			var posts atomic.Int64
			addr := newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
				for {
					r, err := http.ReadRequest(br)
					if err != nil {
						return
					}
					io.Copy(io.Discard, r.Body)
					if r.Method == "POST" {
						posts.Add(1)
						return
					}
					io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				}
			})
			r := newRig(t, proxy.Options{}, addr)
			c := w.client(t)
			for i := range 5 {
				get(t, c, r.url("/"))
				a, err := fetch(c, "POST", r.url("/"), "body")
				require.NoError(t, err)
				require.Equal(t, http.StatusBadGateway, a.status)
				require.EqualValues(t, i+1, posts.Load())
			}
		})
	}
}

// TestClosedWhileIdle: connections that the backend has closed meanwhile cost no
// request, not even a POST.
func TestClosedWhileIdle(t *testing.T) {
	for _, w := range []way{fastWay, slowWay} {
		t.Run(string(w), func(t *testing.T) {
			closed := make(chan bool)
			addr := newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
				r, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				io.Copy(io.Discard, r.Body)
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				c.Close()
				closed <- true
			})
			r := newRig(t, proxy.Options{RetryBudget: -1}, addr)
			c := w.client(t)
			for range 20 {
				a, err := fetch(c, "POST", r.url("/"), "body")
				require.NoError(t, err)
				require.Equal(t, 200, a.status)
				receive(t, closed)
				time.Sleep(time.Millisecond) // the end is on its way
			}
		})
	}
}

func TestMaxAttempts(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		for attempts := 1; attempts <= 4; attempts++ {
			var addrs []string
			var bad []*breaker
			for range 6 {
				b := newBreaker(t)
				bad = append(bad, b)
				addrs = append(addrs, b.addr)
			}
			r := newRig(t, proxy.Options{MaxAttempts: attempts}, addrs...)
			a, err := fetch(w.client(t), "GET", r.url("/"), "")
			require.NoError(t, err)
			require.Equal(t, http.StatusBadGateway, a.status)
			total, most := int64(0), int64(0)
			for _, b := range bad {
				total += b.got.Load()
				most = max(most, b.got.Load())
			}
			require.EqualValues(t, attempts, total)
			require.EqualValues(t, 1, most, "each time on another")
			require.EqualValues(t, attempts-1, r.pool(proxy.DefaultPool).Retries)
			r.close()
		}
	})
}

// TestRetryBudget: when everything breaks retries are a fifth of the requests,
// and a hundred.
func TestRetryBudget(t *testing.T) {
	const requests = 400
	for _, test := range []struct {
		name  string
		share float64
		want  float64
	}{{"default", 0, 100 + 0.2*requests}, {"none", -1, 0}, {"half", 0.5, 100 + 0.5*requests}} {
		t.Run(test.name, func(t *testing.T) {
			bad := []*breaker{newBreaker(t), newBreaker(t), newBreaker(t), newBreaker(t)}
			r := newRig(t, proxy.Options{RetryBudget: test.share}, bad[0].addr, bad[1].addr, bad[2].addr, bad[3].addr)
			c := fastWay.client(t)
			for range requests {
				a, err := fetch(c, "GET", r.url("/"), "")
				require.NoError(t, err)
				require.Equal(t, http.StatusBadGateway, a.status)
			}
			st := r.pool(proxy.DefaultPool)
			require.EqualValues(t, requests, st.Requests-st.Retries)
			// The share is rounded up once at most; ten seconds may end meanwhile.
			require.GreaterOrEqual(t, float64(st.Retries), test.want)
			require.LessOrEqual(t, float64(st.Retries), 2*test.want+1)
		})
	}
}

// TestBudgetWindow looks at the budget alone, at times of its own.
func TestBudgetWindow(t *testing.T) {
	b := proxy.NewBudget(0.2)
	spend := func(now time.Duration) (n int) {
		for b.Retry(now) {
			n++
		}
		return n
	}
	assert.Equal(t, proxy.BudgetReserve, spend(0), "without requests")
	assert.Zero(t, spend(9*time.Second))
	assert.Equal(t, proxy.BudgetReserve, spend(10*time.Second), "ten seconds later")
	now := 30 * time.Second
	for range 1000 {
		b.Request(now)
	}
	assert.Equal(t, proxy.BudgetReserve+200, spend(now+5*time.Second))
	for range 1000 {
		b.Request(now + 6*time.Second)
	}
	assert.Equal(t, 200, spend(now+6*time.Second))
	assert.Equal(t, 0, spend(now+9*time.Second))
	assert.Equal(t, proxy.BudgetReserve, spend(now+25*time.Second))
	assert.Zero(t, func() int { b = proxy.NewBudget(-1); return spend(0) }())
}

// TestUploadCut: a backend that ends its connection amid a body, for more of which
// the client is waited for. The client gets an answer, and the backend the blame.
func TestUploadCut(t *testing.T) {
	addr := newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		_, _ = io.CopyN(io.Discard, br, 25_000)
	})
	r := newRig(t, proxy.Options{}, addr)
	c, br := open(t, r.addr)
	say(t, c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n%s", strings.Repeat("x", 25_000))
	require.Equal(t, http.StatusBadGateway, hear(t, br).status)
	require.EqualValues(t, 1, r.backend(addr).Errors[proxy.Broken])
}

// TestUploadLeft: a client that goes away amid its body, while an answer is on its
// way. That is not the backend's fault.
func TestUploadLeft(t *testing.T) {
	addr := newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		_, _ = io.CopyN(io.Discard, br, 100)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
		_, _ = io.Copy(io.Discard, br)
	})
	for range 20 {
		r := newRig(t, proxy.Options{}, addr)
		c, br := open(t, r.addr)
		say(t, c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n%s", strings.Repeat("x", 25_000))
		_, err := br.Peek(1)
		require.NoError(t, err)
		c.Close()
		soon(t, func() bool { return r.backend(addr).InFlight == 0 })
		want := [6]uint64{}
		want[proxy.Canceled] = 1
		require.Equal(t, want, r.backend(addr).Errors)
		r.close()
	}
}

// TestHold: requests wait for a backend, and get the one that comes.
func TestHold(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		for _, size := range bodies[:3] {
			good := newOrigin(t, "good", nil)
			r := newRig(t, proxy.Options{HoldTimeout: longest})
			c := w.client(t)
			held := in(func() (answer, error) { return fetch(c, "POST", r.url("/"), strings.Repeat("x", size)) })
			soon(t, r.Awaited)
			r.SetBackends([]string{good.addr})
			a := receive(t, held)
			require.NoError(t, a.err)
			require.Equal(t, "good", a.body)
			r.close()
		}
	})
}

// TestHoldReplaced: the only backend is dead; another takes its place while
// requests wait.
func TestHoldReplaced(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		good := newOrigin(t, "good", nil)
		dead := deadAddr(t)
		r := newRig(t, proxy.Options{HoldTimeout: longest}, dead)
		c := w.client(t)
		held := in(func() (answer, error) { return fetch(c, "POST", r.url("/"), "body") })
		soon(t, func() bool { return r.backend(dead).Errors[proxy.DialFailed] > 0 })
		r.SetBackends([]string{good.addr})
		a := receive(t, held)
		require.NoError(t, a.err)
		require.Equal(t, "good", a.body)
	})
}

// TestHoldRestarted: the only backend is dead, and comes back at its address.
func TestHoldRestarted(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		dead := closedAddr(t)
		r := newRig(t, proxy.Options{HoldTimeout: longest}, dead)
		c := w.client(t)
		held := in(func() (answer, error) { return fetch(c, "POST", r.url("/"), "body") })
		soon(t, func() bool { return r.backend(dead).Errors[proxy.DialFailed] > 0 })
		newOriginAt(t, dead, "good", nil)
		a := receive(t, held)
		require.NoError(t, a.err)
		require.Equal(t, "good", a.body)
		st := r.backend(dead)
		require.Equal(t, st.Requests-1, st.Retries, "all but the first")
	})
}

// TestHoldEnds: then the answer is 503, or 502 if there was a backend that could
// not be reached; and counted.
func TestHoldEnds(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		for _, hold := range []time.Duration{-1, 30 * time.Millisecond} {
			for _, backends := range [][]string{nil, {deadAddr(t)}} {
				r := newRig(t, proxy.Options{HoldTimeout: hold}, backends...)
				c := w.client(t)
				for i, size := range bodies[:3] { // of the largest the client may see no more than that it is cut
					a, err := fetch(c, "POST", r.url("/"), strings.Repeat("x", size))
					require.NoError(t, err)
					want := http.StatusServiceUnavailable
					if backends != nil {
						want = http.StatusBadGateway
					}
					require.Equal(t, want, a.status)
					require.EqualValues(t, i+1, r.Status().NoBackend)
				}
				if backends != nil {
					require.Contains(t, r.notes.String(), "refused", "the log says why")
				}
				r.close()
			}
		}
	})
}

// TestHoldClosed: what waits for a pool that is closed gets its successor's
// backends, and 503 once the proxy is closed.
func TestHoldClosed(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		good := newOrigin(t, "good", nil)
		r := newRig(t, proxy.Options{HoldTimeout: time.Hour})
		c := w.client(t)
		held := in(func() (answer, error) { return fetch(c, "GET", r.url("/"), "") })
		soon(t, r.Awaited)
		require.NoError(t, r.Pool(proxy.DefaultPool).Close(t.Context()))
		r.SetBackends([]string{good.addr})
		require.Equal(t, "good", receive(t, held).body)

		r.SetBackends(nil)
		held = in(func() (answer, error) { return fetch(c, "GET", r.url("/"), "") })
		soon(t, r.Awaited)
		r.Proxy.Close()
		require.Equal(t, http.StatusServiceUnavailable, receive(t, held).status)
	})
}

// TestHoldIsNoTimeout: how long a request is held is not taken from what its
// head or its answer may take.
func TestHoldIsNoTimeout(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		const limit = 500 * time.Millisecond // the good backend must keep to it, too
		good := newOrigin(t, "good", nil)
		r := newRig(t, proxy.Options{HoldTimeout: longest, HeaderTimeout: limit, ResponseTimeout: limit, BodyTimeout: limit})
		c := w.client(t)
		held := in(func() (answer, error) { return fetch(c, "POST", r.url("/"), "body") })
		soon(t, r.Awaited)
		time.Sleep(2*limit + 200*time.Millisecond) // the reaper has looked after the limit
		r.SetBackends([]string{good.addr})
		a := receive(t, held)
		require.NoError(t, a.err)
		require.Equal(t, "good", a.body)
	})
}

// TestKilledBackend: one of two backends is killed under load; no request fails
// that may be sent twice.
func TestKilledBackend(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		slow := func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			time.Sleep(time.Millisecond)
		}
		a, b := newOrigin(t, "a", slow), newOrigin(t, "b", slow)
		r := newRig(t, proxy.Options{}, a.addr, b.addr)
		var clients []*http.Client
		for range 8 {
			clients = append(clients, w.client(t))
		}
		crowd := newCrowd(t, len(clients), func(i int) error {
			got, err := fetch(clients[i], []string{"GET", "PUT", "DELETE"}[i%3], r.url("/"), "")
			if err == nil && got.status != 200 {
				err = fmt.Errorf("%d %s", got.status, got.body)
			}
			return err
		})
		soon(t, func() bool { return a.hits.Load() > 50 && b.hits.Load() > 50 })
		b.srv.Close()
		n := crowd.done.Load()
		soon(t, func() bool { return crowd.done.Load() > n+500 || crowd.failed.Load() > 0 })
		crowd.content(t)
	})
}

// A keeper is a backend that keeps connections, but ends them when it reads a
// request for /poison, and counts those.
type keeper struct {
	addr     string
	poisoned atomic.Int64
}

func newKeeper(t testing.TB) *keeper {
	k := &keeper{}
	k.addr = newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		for {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			io.Copy(io.Discard, r.Body)
			if r.URL.Path == "/poison" {
				k.poisoned.Add(1)
				return
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	return k
}

// TestResendsCount: that a connection was kept gives no right to send a request
// more often than Options.MaxAttempts says, nor without the budget.
func TestResendsCount(t *testing.T) {
	for _, test := range []struct {
		budget float64
		sent   int64
	}{{0, 3}, {-1, 1}} {
		var addrs []string
		var all []*keeper
		for range 6 {
			k := newKeeper(t)
			all = append(all, k)
			addrs = append(addrs, k.addr)
		}
		r := newRig(t, proxy.Options{Balance: proxy.RoundRobin, RetryBudget: test.budget}, addrs...)
		c := fastWay.client(t)
		for range 12 {
			get(t, c, r.url("/"))
		}
		a, err := fetch(c, "GET", r.url("/poison"), "")
		require.NoError(t, err)
		require.Equal(t, http.StatusBadGateway, a.status)
		total := int64(0)
		for _, k := range all {
			require.LessOrEqual(t, k.poisoned.Load(), int64(1), "each time to another")
			total += k.poisoned.Load()
		}
		require.Equal(t, test.sent, total)
		require.EqualValues(t, test.sent-1, r.pool(proxy.DefaultPool).Retries)
		require.EqualValues(t, test.sent, r.pool(proxy.DefaultPool).Errors[proxy.Broken])
		r.close()
	}
}

// TestPoison: a request that crashes who reads it crashes no more than
// Options.MaxAttempts backends.
func TestPoison(t *testing.T) {
	const n = 6
	var origins [n]*origin
	var addrs []string
	var dead atomic.Int64
	for i := range origins {
		origins[i] = newOrigin(t, "", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/poison" {
				dead.Add(1)
				origins[i].srv.Close()
			}
		})
		addrs = append(addrs, origins[i].addr)
	}
	r := newRig(t, proxy.Options{Balance: proxy.RoundRobin}, addrs...)
	c := fastWay.client(t)
	for range 2 * n {
		get(t, c, r.url("/"))
	}
	a, err := fetch(c, "GET", r.url("/poison"), "")
	require.NoError(t, err)
	require.Equal(t, http.StatusBadGateway, a.status)
	require.EqualValues(t, 3, dead.Load())
}

// TestKeptTooLong: the only backend ends a kept connection while a request is on
// its way, as after an idle timeout. The request is sent once more, at once, and
// the backend does not count as one that fails.
func TestKeptTooLong(t *testing.T) {
	var conns atomic.Int64
	addr := newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		first := conns.Add(1) == 1
		for n := 0; ; n++ {
			r, err := http.ReadRequest(br)
			if err != nil || first && n > 0 {
				return
			}
			io.Copy(io.Discard, r.Body)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	r := newRig(t, proxy.Options{HoldTimeout: -1, MaxAttempts: 2}, addr)
	c := fastWay.client(t)
	for range 3 {
		get(t, c, r.url("/"))
	}
	b := r.backend(addr)
	require.EqualValues(t, 2, conns.Load())
	require.EqualValues(t, 4, b.Requests)
	require.EqualValues(t, 1, b.Retries)
	require.EqualValues(t, 1, b.Errors[proxy.Broken])
	require.False(t, b.Avoided)
	require.Zero(t, b.FailOpen)
}

// TestKeptTooLongBesideHung: then it is better than one that is known to be bad.
func TestKeptTooLongBesideHung(t *testing.T) {
	k := newKeeper(t)
	hung := newGate(t, "hung")
	r := newRig(t, proxy.Options{}, k.addr, hung.addr)
	require.True(t, r.Pool(proxy.DefaultPool).SetHealthy(hung.addr, false))
	c := fastWay.client(t)
	get(t, c, r.url("/"))
	res := in(func() (answer, error) { return fetch(c, "GET", r.url("/poison"), "") })
	soon(t, func() bool { return k.poisoned.Load() == 2 })
	hung.letGo()
	receive(t, res)
}

// TestHoldLeft: a client that goes away while its request waits for a backend is
// not waited for, and its request not sent.
func TestHoldLeft(t *testing.T) {
	for _, size := range bodies[:3] {
		var ended notes
		r := newRig(t, proxy.Options{HoldTimeout: time.Hour, AccessLog: slog.New(slog.NewTextHandler(&ended, nil))})
		c, _ := open(t, r.addr)
		say(t, c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", size, strings.Repeat("x", size))
		c.Close()
		soon(t, func() bool { return strings.Contains(ended.String(), "status=0") })
		require.Zero(t, r.Status().NoBackend, "the backends are not to blame")
		r.close()
	}
}

// TestBadFirstChunk: a body that is malformed from the start is answered for, as
// a malformed head is.
func TestBadFirstChunk(t *testing.T) {
	addr := newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		if _, err := http.ReadRequest(br); err == nil {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
			_, _ = io.Copy(io.Discard, br)
		}
	})
	r := newRig(t, proxy.Options{}, addr)
	for _, size := range bodies[:3] {
		a, err := fetch(fastWay.client(t), "PUT", r.url("/"), strings.Repeat("x", size))
		require.NoError(t, err)
		require.Equal(t, http.StatusBadGateway, a.status)
		require.Contains(t, a.body, "malformed")
	}
	require.EqualValues(t, 3, r.backend(addr).Errors[proxy.BadResponse])
}

// TestAnswerBeforeConnEnds: a response that is no more than a head reaches its client
// even if its connection has ended by then, and another request has found that out.
func TestAnswerBeforeConnEnds(t *testing.T) {
	ended := make(chan struct{}, 2)
	addr := newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		if _, err := http.ReadRequest(br); err != nil {
			return
		}
		says("HTTP/1.1 204 No Content\r\n\r\n")(c)
		c.Close()
		ended <- struct{}{}
	})
	p, err := proxy.New(proxy.Options{})
	require.NoError(t, err)
	t.Cleanup(p.Close)
	p.SetBackends([]string{addr})
	post := func(ctx context.Context) int {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "POST", "/", nil))
		return w.Code
	}
	other := 0
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		PutIdleConn: func(error) { // net/http has the response, and has not returned it
			receive(t, ended)
			other = post(context.Background())
		},
	})
	require.Equal(t, 204, post(ctx))
	require.Equal(t, 204, other)
}
