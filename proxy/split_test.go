package proxy_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// deviation returns how far the counts of one weight are from its share after
// any number of requests: at least and at most, times the sum of all weights. The
// order is periodic, so no window of requests deviates by more than the
// difference of both.
func deviation(order []uint16, i, weight int) (least, most int) {
	d := 0
	for _, o := range order {
		d -= weight
		if int(o) == i {
			d += proxy.Whole
		}
		least, most = min(least, d), max(most, d)
	}
	return least, most
}

func TestInterleaveTwo(t *testing.T) {
	weights := []int{1, 2, 3, 4999, 5000, 5001, 9997, 9998, 9999}
	for w := 5; w < proxy.Whole; w += 13 {
		weights = append(weights, w)
	}
	for _, w := range weights {
		order := proxy.Interleave([]int{w, proxy.Whole - w})
		least, most := deviation(order, 0, w)
		// Less than one request: so the count of any window is rounded up or down.
		require.Less(t, most-least, proxy.Whole, "weight %d", w)
		require.Zero(t, len(order)*w%proxy.Whole, "weight %d", w)
	}
}

// TestInterleaveWindows counts in each window of all lengths, as the promise has
// it, to make sure that deviation means the same.
func TestInterleaveWindows(t *testing.T) {
	for _, w := range []int{100, 625, 1250, 2500, 3300, 5000, 7700, 9900} {
		order := proxy.Interleave([]int{w, proxy.Whole - w})
		for from := range order {
			count := 0
			for n := 1; n <= 2*len(order); n++ {
				if order[(from+n-1)%len(order)] == 0 {
					count++
				}
				require.GreaterOrEqual(t, count, n*w/proxy.Whole, "weight %d, from %d, %d requests", w, from, n)
				require.LessOrEqual(t, count, (n*w+proxy.Whole-1)/proxy.Whole, "weight %d, from %d, %d requests", w, from, n)
			}
		}
	}
}

func TestInterleaveMany(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 120 {
		weights := randomShares(rnd, 2+rnd.IntN(8))
		order := proxy.Interleave(weights)
		for i, w := range weights {
			least, most := deviation(order, i, w)
			require.Greater(t, least, -proxy.Whole, "%v", weights)
			require.Less(t, most, proxy.Whole, "%v", weights)
			if w == 0 {
				require.NotContains(t, order, uint16(i), "%v", weights)
			}
		}
	}
}

// randomShares returns n shares of the whole, some of them 0 or tiny.
func randomShares(rnd *rand.Rand, n int) []int {
	shares := make([]int, n)
	left := proxy.Whole
	for i := range n - 1 {
		switch rnd.IntN(4) {
		case 0:
		case 1:
			shares[i] = min(left, 1+rnd.IntN(3))
		default:
			shares[i] = rnd.IntN(left + 1)
		}
		left -= shares[i]
	}
	shares[n-1] = left
	rnd.Shuffle(n, func(i, j int) { shares[i], shares[j] = shares[j], shares[i] })
	return shares
}

func newProxy(t testing.TB, opts proxy.Options) *proxy.Proxy {
	t.Helper()
	p, err := proxy.New(opts)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

// TestSplitExact changes the split again and again; between two changes the
// counts are exact, wherever in the order they begin.
func TestSplitExact(t *testing.T) {
	p := newProxy(t, proxy.Options{})
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		w := rnd.IntN(proxy.Whole + 1)
		require.NoError(t, p.SetSplit(proxy.Share{Pool: "new", Weight: w}, proxy.Share{Pool: "old", Weight: proxy.Whole - w}))
		n, count := rnd.IntN(3000), 0
		for range n {
			if p.Choose("", "") == "new" {
				count++
			}
		}
		require.GreaterOrEqual(t, count, n*w/proxy.Whole)
		require.LessOrEqual(t, count, (n*w+proxy.Whole-1)/proxy.Whole)
	}
}

func TestSplitErrors(t *testing.T) {
	p := newProxy(t, proxy.Options{})
	require.NoError(t, p.SetSplit(proxy.Share{Pool: "a", Weight: 10_000}))
	for _, test := range []struct {
		shares []proxy.Share
		says   string
	}{
		{nil, "sum to 0"},
		{[]proxy.Share{{"", 10_000}}, "has no pool"},
		{[]proxy.Share{{"a", 5000}, {"a", 5000}}, "pool a has two shares"},
		{[]proxy.Share{{"a", -1}, {"b", 10_001}}, "share of pool a is -1"},
		{[]proxy.Share{{"a", 10_001}}, "share of pool a is 10001"},
		{[]proxy.Share{{"a", 5000}, {"b", 4999}}, "sum to 9999"},
		{[]proxy.Share{{"a", 10_000}, {"b", 1}}, "sum to 10001"},
	} {
		err := p.SetSplit(test.shares...)
		assert.ErrorContains(t, err, "set split: ")
		assert.ErrorContains(t, err, test.says)
		assert.Equal(t, []proxy.Share{{"a", 10_000}}, p.Status().Split, "nothing has changed")
	}
}

// assign returns the pools of many clients.
func assign(p *proxy.Proxy, clients int) []string {
	pools := make([]string, clients)
	for i := range pools {
		pools[i] = p.Choose(fmt.Sprint("client-", i), "")
	}
	return pools
}

// TestStickyRaise raises the share of the newest pool, while the others keep
// their proportions: clients move to the newest, and nowhere else.
func TestStickyRaise(t *testing.T) {
	const clients = 10_000
	p := newProxy(t, proxy.Options{Sticky: proxy.ByCookie("user")})
	var before []string
	for _, newest := range []int{0, 1, 10, 100, 500, 1000, 2500, 5000, 7500, 9000, 9999, 10_000} {
		rest := proxy.Whole - newest
		shares := []proxy.Share{{"newest", newest}, {"middle", rest * 6 / 10}, {"oldest", rest - rest*6/10}}
		require.NoError(t, p.SetSplit(shares...))
		after := assign(p, clients)
		require.Equal(t, after, assign(p, clients), "it depends on the client only")
		counts := map[string]int{}
		between := 0
		for i, pool := range after {
			counts[pool]++
			if before != nil && pool != before[i] && pool != "newest" {
				between++
			}
		}
		// Rounding of the two old shares may move a client in 10,000.
		assert.LessOrEqual(t, between, clients/2000, "newest %d", newest)
		for _, s := range shares {
			mean := float64(clients) * float64(s.Weight) / proxy.Whole
			sigma := math.Sqrt(mean * (1 - float64(s.Weight)/proxy.Whole))
			assert.InDelta(t, mean, counts[s.Pool], 4*sigma+1e-9, "newest %d, pool %s", newest, s.Pool)
		}
		before = after
	}
}

// TestStickyTwo has no rounding: nobody ever moves from new to old.
func TestStickyTwo(t *testing.T) {
	const clients = 5000
	p := newProxy(t, proxy.Options{Sticky: proxy.ByCookie("user")})
	isNew := make([]bool, clients)
	for w := 0; w <= proxy.Whole; w += 250 {
		require.NoError(t, p.SetSplit(proxy.Share{Pool: "new", Weight: w}, proxy.Share{Pool: "old", Weight: proxy.Whole - w}))
		for i, pool := range assign(p, clients) {
			require.False(t, isNew[i] && pool != "new", "client %d at %d", i, w)
			isNew[i] = pool == "new"
		}
	}
	require.NotContains(t, isNew, false)
}

// TestStickyModel compares with the definition: the share of the first pool, and
// so on, of what is left; weight 0 gets nothing; unknown overrides are ignored.
func TestStickyModel(t *testing.T) {
	p := newProxy(t, proxy.Options{Sticky: proxy.ByCookie("user")})
	rnd := rand.New(rand.NewPCG(5, 6))
	names := strings.Split("abcdefgh", "")
	for range 60 {
		weights := randomShares(rnd, len(names))
		var shares []proxy.Share
		for i, w := range weights {
			shares = append(shares, proxy.Share{Pool: names[i], Weight: w})
		}
		require.NoError(t, p.SetSplit(shares...))
		const clients = 4000
		counts := map[string]int{}
		for i := range clients {
			key := fmt.Sprint(rnd.Uint64())
			pool := p.Choose(key, "")
			counts[pool]++
			want := names[i%len(names)]
			require.Equal(t, want, p.Choose(key, want), "asked for")
			require.Equal(t, pool, p.Choose(key, "unknown"))
		}
		for i, w := range weights {
			share := float64(w) / proxy.Whole
			sigma := math.Sqrt(clients * share * (1 - share))
			require.InDelta(t, clients*share, counts[names[i]], 5*sigma+1e-9, "%v: %s", weights, names[i])
		}
	}
}

// TestSplitRequests sends requests by all ways.
func TestSplitRequests(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		r := newRig(t, proxy.Options{Override: proxy.ByHeader("X-Version")})
		pools := map[string]*origin{}
		for _, name := range []string{"new", "old", "none"} {
			pools[name] = newOrigin(t, name, nil)
			r.Pool(name).SetBackends([]string{pools[name].addr})
		}
		require.NoError(t, r.SetSplit(proxy.Share{Pool: "new", Weight: 2500}, proxy.Share{Pool: "none"}, proxy.Share{Pool: "old", Weight: 7500}))
		c := w.client(t)
		count := map[string]int{}
		for range 100 {
			count[get(t, c, r.url("/"))]++
		}
		require.Equal(t, map[string]int{"new": 25, "old": 75}, count)
		require.Equal(t, "none", get(t, c, r.url("/"), "X-Version", "none"))
		get(t, c, r.url("/"), "X-Version", "unknown")
		require.EqualValues(t, 1, pools["none"].hits.Load())
	})
}

func TestOverrideByCookie(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		r := newRig(t, proxy.Options{Override: proxy.ByCookie("version"), Sticky: proxy.ByHeader("X-User")})
		for _, name := range []string{"new", "old"} {
			r.Pool(name).SetBackends([]string{newOrigin(t, name, nil).addr})
		}
		require.NoError(t, r.SetSplit(proxy.Share{Pool: "new"}, proxy.Share{Pool: "old", Weight: 10_000}))
		c := w.client(t)
		for i := range 50 {
			require.Equal(t, "old", get(t, c, r.url("/"), "X-User", fmt.Sprint(i)))
		}
		require.Equal(t, "new", get(t, c, r.url("/"), "X-User", "1", "Cookie", "a=b; version=new"))
		require.Equal(t, "old", get(t, c, r.url("/"), "Cookie", "version="))
	})
}

// TestStickyKeys: the same key means the same pool, whichever way a request
// takes, and an empty one is none.
func TestStickyKeys(t *testing.T) {
	for _, test := range []struct {
		key    proxy.Key
		header func(user string) []string
	}{
		{proxy.ByHeader("X-User"), func(u string) []string { return []string{"X-User", u} }},
		{proxy.ByCookie("user"), func(u string) []string { return []string{"Cookie", "x=y; user=" + u} }},
		{proxy.ByIssuedCookie("user"), func(u string) []string { return []string{"Cookie", "user=" + u} }},
	} {
		t.Run(test.key.String(), func(t *testing.T) {
			r := newRig(t, proxy.Options{Sticky: test.key})
			for _, name := range []string{"new", "old"} {
				r.Pool(name).SetBackends([]string{newOrigin(t, name, nil).addr})
			}
			require.NoError(t, r.SetSplit(proxy.Share{Pool: "new", Weight: 5000}, proxy.Share{Pool: "old", Weight: 5000}))
			counts := map[string]int{}
			for _, w := range ways {
				c := w.client(t)
				for i := range 40 {
					user := fmt.Sprint("user", i)
					pool := get(t, c, r.url("/"), test.header(user)...)
					require.Equal(t, r.Choose(user, ""), pool, "%s: %s", w, user)
					counts[pool]++
				}
				empty := map[string]int{}
				for range 40 {
					empty[get(t, c, r.url("/"), test.header("")...)]++
				}
				assert.Len(t, empty, 2, "%s: an empty key is none", w)
			}
			require.Len(t, counts, 2)
		})
	}
}

func TestIssuedCookie(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		r := newRig(t, proxy.Options{Sticky: proxy.ByIssuedCookie("canary")})
		for _, name := range []string{"new", "old"} {
			r.Pool(name).SetBackends([]string{newOrigin(t, name, nil).addr})
		}
		require.NoError(t, r.SetSplit(proxy.Share{Pool: "new", Weight: 5000}, proxy.Share{Pool: "old", Weight: 5000}))
		c := w.client(t)
		counts := map[string]int{}
		issued := map[string]bool{}
		for range 64 {
			a, err := fetch(c, "GET", r.url("/"), "")
			require.NoError(t, err)
			cookies := (&http.Response{Header: a.header}).Cookies()
			require.Len(t, cookies, 1)
			cookie := cookies[0]
			assert.Equal(t, "canary", cookie.Name)
			assert.Equal(t, "/", cookie.Path)
			assert.True(t, cookie.HttpOnly)
			issued[cookie.Value] = true
			counts[a.body]++
			for range 3 {
				again, err := fetch(c, "GET", r.url("/"), "", "Cookie", "canary="+cookie.Value)
				require.NoError(t, err)
				require.Equal(t, a.body, again.body)
				require.Empty(t, again.header["Set-Cookie"], "it has one")
			}
		}
		assert.Len(t, issued, 64)
		assert.Len(t, counts, 2)
	})
}

// TestOverrideEmpty: who asks for a pool that has no backends, and is not to have
// any, gets what others get; but that one once it has.
func TestOverrideEmpty(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		old, preview := newOrigin(t, "old", nil), newOrigin(t, "preview", nil)
		r := newRig(t, proxy.Options{HoldTimeout: longest, Override: proxy.ByHeader("Version")}, old.addr)
		gone := r.Pool("v2")
		c := w.client(t)
		require.Equal(t, "old", get(t, c, r.url("/"), "Version", "v2"))

		r.SetBackends(nil)
		held := in(func() (answer, error) { return fetch(c, "GET", r.url("/"), "", "Version", "v2") })
		soon(t, r.Awaited)
		require.NoError(t, gone.Close(t.Context()))
		r.Pool("v2").SetBackends([]string{preview.addr})
		require.Equal(t, "preview", receive(t, held).body)

		r.SetBackends([]string{old.addr})
		r.Pool("v2").SetBackends(nil)
		require.Equal(t, "old", get(t, c, r.url("/"), "Version", "v2"))
		require.NoError(t, r.SetSplit(proxy.Share{Pool: proxy.DefaultPool, Weight: 10_000}, proxy.Share{Pool: "v2"}))
		held = in(func() (answer, error) { return fetch(c, "GET", r.url("/"), "", "Version", "v2") })
		soon(t, r.Awaited)
		r.Pool("v2").SetBackends([]string{preview.addr})
		require.Equal(t, "preview", receive(t, held).body, "it is in the split, so it was waited for")
	})
}

// TestSplitQuiet: once SetSplit has returned, and what was in flight has ended,
// nothing more comes to a pool without a share.
func TestSplitQuiet(t *testing.T) {
	r := newRig(t, proxy.Options{})
	for _, name := range []string{"a", "b"} {
		r.Pool(name).SetBackends([]string{newOrigin(t, name, nil).addr})
	}
	require.NoError(t, r.SetSplit(proxy.Share{Pool: "a", Weight: 5000}, proxy.Share{Pool: "b", Weight: 5000}))
	c := fastWay.client(t)
	crowd := newCrowd(t, 16, func(int) error { _, err := fetch(c, "GET", r.url("/"), ""); return err })
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		before := r.pool("a").Requests
		require.NoError(t, r.SetSplit(proxy.Share{Pool: "a", Weight: 5000}, proxy.Share{Pool: "b", Weight: 5000}))
		for r.pool("a").Requests == before {
			require.Zero(t, crowd.failed.Load())
			runtime.Gosched()
		}
		require.NoError(t, r.SetSplit(proxy.Share{Pool: "a"}, proxy.Share{Pool: "b", Weight: 10_000}))
		for r.pool("a").Backends[0].InFlight > 0 {
			runtime.Gosched()
		}
		n := r.pool("a").Requests
		time.Sleep(time.Millisecond) // for what would come late
		require.Equal(t, n, r.pool("a").Requests)
	}
	crowd.content(t)
}
