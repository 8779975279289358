package proxy_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

func newBalancer(t testing.TB, opts proxy.Options, backends ...proxy.Backend) *proxy.Balancer {
	t.Helper()
	b, err := proxy.NewBalancer(opts, backends...)
	require.NoError(t, err)
	return b
}

// An arrival is a request of a simulation that ends some time.
type arrival struct {
	at   time.Duration
	took time.Duration
	k    proxy.Picked
}

// simulate sends n requests, one each interval, to backends that take as long as
// latency says; it returns how many each got. A negative latency is never.
func simulate(b *proxy.Balancer, from time.Duration, n int, interval time.Duration, latency func(addr string) time.Duration) map[string]int {
	counts := map[string]int{}
	var open []arrival
	now := from
	for range n {
		now += interval
		rest := open[:0]
		for _, a := range open {
			if a.at <= now {
				a.k.Answer(a.at, a.took)
			} else {
				rest = append(rest, a)
			}
		}
		open = rest
		k, ok := b.Pick(now, "")
		if !ok {
			continue
		}
		counts[k.Addr]++
		if took := latency(k.Addr); took >= 0 {
			open = append(open, arrival{now + took, took, k})
		}
	}
	for _, a := range open {
		a.k.Answer(a.at, a.took)
	}
	return counts
}

func addrs(n int) (backends []proxy.Backend) {
	for i := range n {
		backends = append(backends, proxy.Backend{Addr: fmt.Sprintf("b%d:1", i)})
	}
	return backends
}

func TestPeakEWMASlow(t *testing.T) {
	for _, n := range []int{2, 3, 10} {
		b := newBalancer(t, proxy.Options{}, addrs(n)...)
		counts := simulate(b, 0, 20_000, time.Millisecond, func(addr string) time.Duration {
			if addr == "b0:1" {
				return 200 * time.Millisecond
			}
			return time.Millisecond
		})
		assert.LessOrEqual(t, counts["b0:1"], 20_000*2/100, "%d backends", n)
		assert.Len(t, counts, n, "each is used")
	}
}

// TestPeakEWMAEqual: none of equal backends is left without work.
func TestPeakEWMAEqual(t *testing.T) {
	b := newBalancer(t, proxy.Options{}, addrs(4)...)
	counts := simulate(b, 0, 40_000, 250*time.Microsecond, func(string) time.Duration { return 4 * time.Millisecond })
	for addr, n := range counts {
		assert.InDelta(t, 10_000, n, 1500, addr)
	}
}

// TestPeakEWMANew: a backend about which nothing is known gets one request to
// find out, not all.
func TestPeakEWMANew(t *testing.T) {
	b := newBalancer(t, proxy.Options{}, addrs(3)...)
	simulate(b, 0, 2000, time.Millisecond, func(string) time.Duration { return 2 * time.Millisecond })
	require.NoError(t, b.Pool().Add(proxy.Backend{Addr: "new:1"}))
	now, toNew := 2*time.Second, 0
	for range 200 { // all at once; none is answered
		now += 10 * time.Microsecond
		k, ok := b.Pick(now, "")
		require.True(t, ok)
		if k.Addr == "new:1" {
			toNew++
		}
	}
	assert.LessOrEqual(t, toNew, 3)
	assert.GreaterOrEqual(t, toNew, 1)
}

// TestPeakEWMASilent: a backend that has stopped answering is found out by few
// requests.
func TestPeakEWMASilent(t *testing.T) {
	b := newBalancer(t, proxy.Options{}, addrs(2)...)
	simulate(b, 0, 2000, time.Millisecond, func(string) time.Duration { return 2 * time.Millisecond })
	counts := simulate(b, 2*time.Second, 1000, time.Millisecond, func(addr string) time.Duration {
		if addr == "b0:1" {
			return -1
		}
		return 2 * time.Millisecond
	})
	assert.LessOrEqual(t, counts["b0:1"], 10)
}

// TestPeakEWMAWeights: among backends that are equally fast, shares follow weights,
// be there few requests at once or many.
func TestPeakEWMAWeights(t *testing.T) {
	for _, weight := range []int{3, 9, 99} {
		for _, clients := range []int{1, 2, 4, 16, 64, 200} {
			b := newBalancer(t, proxy.Options{}, proxy.Backend{Addr: "a:1", Weight: 1}, proxy.Backend{Addr: "b:1", Weight: weight})
			counts := closedLoop(b, clients, 100_000)
			share, want := float64(counts["a:1"])/100_000, 1/float64(1+weight)
			assert.InDelta(t, 0, math.Log(share/want), math.Log(1.5), "%d clients: %.4f instead of %.4f", clients, share, want)
		}
	}
}

// TestPeakEWMAWeightsMany: nor do several backends of two weights differ.
func TestPeakEWMAWeightsMany(t *testing.T) {
	for _, clients := range []int{1, 8, 64} {
		var backends []proxy.Backend
		for i, w := range []int{1, 10, 1, 10, 10} {
			backends = append(backends, proxy.Backend{Addr: fmt.Sprintf("b%d:1", i), Weight: w})
		}
		counts := closedLoop(newBalancer(t, proxy.Options{}, backends...), clients, 100_000)
		for _, b := range backends {
			share, want := float64(counts[b.Addr])/100_000, float64(b.Weight)/32
			assert.InDelta(t, 0, math.Log(share/want), math.Log(1.5), "%d clients, %s: %.4f instead of %.4f", clients, b.Addr, share, want)
		}
	}
}

// closedLoop has clients send n requests in all, each as soon as its last one is
// answered, which takes 4 to 6 ms. It returns how many each backend got.
func closedLoop(b *proxy.Balancer, clients, n int) map[string]int {
	random := rand.New(rand.NewPCG(1, 2))
	counts := map[string]int{}
	open := make([]arrival, clients)
	for i := range open {
		open[i].at = time.Duration(random.IntN(5000)) * time.Microsecond
	}
	for range n {
		next := &open[0]
		for i := range open {
			if open[i].at < next.at {
				next = &open[i]
			}
		}
		if next.k.Addr != "" {
			next.k.Answer(next.at, next.took)
		}
		k, _ := b.Pick(next.at, "")
		counts[k.Addr]++
		took := 4*time.Millisecond + time.Duration(random.IntN(2000))*time.Microsecond
		*next = arrival{next.at + took, took, k}
	}
	return counts
}

// TestPeakEWMAWeightsSlow: a large weight does not lead requests to a slow
// backend.
func TestPeakEWMAWeightsSlow(t *testing.T) {
	b := newBalancer(t, proxy.Options{}, proxy.Backend{Addr: "a:1", Weight: 1}, proxy.Backend{Addr: "b:1", Weight: 3})
	counts := simulate(b, 0, 20_000, time.Millisecond, func(addr string) time.Duration {
		if addr == "b:1" {
			return 200 * time.Millisecond
		}
		return time.Millisecond
	})
	assert.LessOrEqual(t, counts["b:1"], 20_000*3/100)
}

func TestRoundRobin(t *testing.T) {
	b := newBalancer(t, proxy.Options{Balance: proxy.RoundRobin}, addrs(3)...)
	counts := simulate(b, 0, 300, time.Millisecond, func(string) time.Duration { return 0 })
	for addr, n := range counts {
		assert.Equal(t, 100, n, addr)
	}
}

func TestRoundRobinWeights(t *testing.T) {
	b := newBalancer(t, proxy.Options{Balance: proxy.RoundRobin}, proxy.Backend{Addr: "a:1", Weight: 1}, proxy.Backend{Addr: "b:1", Weight: 3}, proxy.Backend{Addr: "c:1", Weight: 6})
	const n = 1000
	counts := map[string]int{}
	longestRun, run, last := 0, 0, ""
	for range n {
		k, ok := b.Pick(0, "")
		require.True(t, ok)
		k.Answer(0, 0)
		counts[k.Addr]++
		if k.Addr != last {
			run, last = 0, k.Addr
		}
		run++
		longestRun = max(longestRun, run)
	}
	assert.InDelta(t, 100, counts["a:1"], 5)
	assert.InDelta(t, 300, counts["b:1"], 5)
	assert.InDelta(t, 600, counts["c:1"], 5)
	assert.LessOrEqual(t, longestRun, 3, "turns are spread")

	require.NoError(t, b.Pool().Add(proxy.Backend{Addr: "c:1", Weight: 1}))
	require.NoError(t, b.Pool().Add(proxy.Backend{Addr: "b:1", Weight: 1}))
	counts = simulate(b, 0, 300, time.Millisecond, func(string) time.Duration { return 0 })
	assert.Equal(t, map[string]int{"a:1": 100, "b:1": 100, "c:1": 100}, counts, "weights were changed")
}

// byKey returns where each of many keys goes.
func byKey(t *testing.T, b *proxy.Balancer, keys int) []string {
	to := make([]string, keys)
	for i := range to {
		k, ok := b.Pick(0, fmt.Sprint("key", i))
		require.True(t, ok)
		k.Answer(0, 0)
		to[i] = k.Addr
	}
	return to
}

func TestHash(t *testing.T) {
	const keys = 5000
	b := newBalancer(t, proxy.Options{Balance: proxy.Hash, HashBy: proxy.ByHeader("X")}, addrs(5)...)
	all := byKey(t, b, keys)
	require.Equal(t, all, byKey(t, b, keys))
	counts := map[string]int{}
	for _, a := range all {
		counts[a]++
	}
	for a, n := range counts {
		assert.InDelta(t, keys/5, n, 150, a)
	}

	require.True(t, b.Pool().Remove("b2:1"))
	without := byKey(t, b, keys)
	moved := map[string]int{}
	for i := range all {
		if all[i] == "b2:1" {
			moved[without[i]]++
		} else {
			require.Equal(t, all[i], without[i], "only its keys move")
		}
	}
	assert.Len(t, moved, 4, "they are spread over the others")
	require.NoError(t, b.Pool().Add(proxy.Backend{Addr: "b2:1"}))
	require.Equal(t, all, byKey(t, b, keys), "and back")

	require.True(t, b.Pool().SetHealthy("b2:1", false))
	require.Equal(t, without, byKey(t, b, keys), "one that is not well counts as gone")
	require.True(t, b.Pool().SetHealthy("b2:1", true))
	require.Equal(t, all, byKey(t, b, keys))
}

// TestHashWeights: raising a weight moves keys to that backend only.
func TestHashWeights(t *testing.T) {
	const keys = 8000
	b := newBalancer(t, proxy.Options{Balance: proxy.Hash, HashBy: proxy.ByHeader("X")}, addrs(4)...)
	before := byKey(t, b, keys)
	require.NoError(t, b.Pool().Add(proxy.Backend{Addr: "b1:1", Weight: 5}))
	n := 0
	for i, to := range byKey(t, b, keys) {
		if to == "b1:1" {
			n++
		} else {
			require.Equal(t, before[i], to)
		}
	}
	assert.InDelta(t, keys*5/8, n, 200)
}

// TestHashRetry: what was tried on the key's backend goes to the key's next one.
func TestHashRetry(t *testing.T) {
	b := newBalancer(t, proxy.Options{Balance: proxy.Hash, HashBy: proxy.ByHeader("X")}, addrs(3)...)
	first, ok := b.Pick(0, "k")
	require.True(t, ok)
	second, ok := b.Pick(0, "k", first)
	require.True(t, ok)
	third, ok := b.Pick(0, "k", first, second)
	require.True(t, ok)
	assert.ElementsMatch(t, []string{"b0:1", "b1:1", "b2:1"}, []string{first.Addr, second.Addr, third.Addr})
	_, ok = b.Pick(0, "k", first, second, third)
	assert.False(t, ok, "there is no other")
}

var balances = []proxy.Options{{}, {Balance: proxy.RoundRobin}, {Balance: proxy.Hash, HashBy: proxy.ByHeader("X")}}

// TestFailOpen: if all are avoided, requests go there all the same, and the
// status says so.
func TestFailOpen(t *testing.T) {
	for _, opts := range balances {
		for n := 1; n <= 3; n++ {
			b := newBalancer(t, opts, addrs(n)...)
			for i := range n {
				require.False(t, b.Pool().Status().FailingOpen())
				require.True(t, b.Pool().SetHealthy(fmt.Sprintf("b%d:1", i), false))
			}
			require.True(t, b.Pool().Status().FailingOpen())
			for i := range 20 {
				k, ok := b.Pick(0, fmt.Sprint(i))
				require.True(t, ok)
				require.True(t, k.Open)
				k.Answer(0, time.Millisecond)
			}
			require.True(t, b.Pool().SetHealthy("b0:1", true))
			for i := range 20 {
				k, ok := b.Pick(0, fmt.Sprint(i))
				require.True(t, ok)
				require.False(t, k.Open)
				require.Equal(t, "b0:1", k.Addr)
				k.Answer(0, time.Millisecond)
			}
			require.False(t, b.Pool().SetHealthy("unknown:1", true))
		}
	}
}

// TestAvoid: a backend that has just failed gets nothing; then one request finds
// out whether it works again, and only that.
func TestAvoid(t *testing.T) {
	for _, opts := range balances {
		b := newBalancer(t, opts, addrs(2)...)
		pick := func(now time.Duration, i int) proxy.Picked {
			k, ok := b.Pick(now, fmt.Sprint(i))
			require.True(t, ok)
			require.False(t, k.Open)
			return k
		}
		var bad proxy.Picked
		for i := 0; bad.Addr != "b0:1"; i++ {
			if bad.Addr != "" {
				bad.Answer(0, time.Millisecond)
			}
			bad = pick(0, i)
		}
		bad.Fail(0)
		for i := range 50 {
			k := pick(99*time.Millisecond, i)
			require.Equal(t, "b1:1", k.Addr)
			k.Answer(99*time.Millisecond, time.Millisecond)
		}
		probes := 0
		var probe proxy.Picked
		for i := range 100 {
			k := pick(101*time.Millisecond, i)
			if k.Addr == "b0:1" {
				probes++
				probe = k
			} else {
				k.Answer(101*time.Millisecond, time.Millisecond)
			}
		}
		require.Equal(t, 1, probes, "one request finds out")

		probe.Fail(102 * time.Millisecond) // for the second time in a row: twice as long
		for i := range 50 {
			k := pick(300*time.Millisecond, i)
			require.Equal(t, "b1:1", k.Addr)
			k.Answer(300*time.Millisecond, time.Millisecond)
		}
		now := 310 * time.Millisecond
		answered := false
		for i := range 200 {
			k := pick(now, i)
			answered = answered || k.Addr == "b0:1"
			k.Answer(now, time.Millisecond)
		}
		require.True(t, answered)
		counts := map[string]int{}
		for i := range 200 {
			k := pick(now, i)
			counts[k.Addr]++
			k.Answer(now, time.Millisecond)
		}
		require.Greater(t, counts["b0:1"], 10, "it is back: %v", counts)
	}
}

// TestFastErrors: to answer with errors at once attracts nothing.
func TestFastErrors(t *testing.T) {
	for _, fresh := range []bool{false, true} {
		for _, status := range []int{500, 503} {
			b := newBalancer(t, proxy.Options{}, addrs(2)...)
			now := time.Duration(0)
			failing, all := 0, 0
			for range 20_000 {
				now += 10 * time.Millisecond
				k, ok := b.Pick(now, "")
				require.True(t, ok)
				if k.Addr != "b0:1" || !fresh && now < 2*time.Second {
					k.Answer(now+5*time.Millisecond, 5*time.Millisecond)
					continue
				}
				k.AnswerStatus(now+100*time.Microsecond, 100*time.Microsecond, status)
				if failing++; k.Open {
					all++
				}
			}
			require.Zero(t, all)
			switch status {
			case 500:
				require.LessOrEqual(t, failing, 20_000*6/10, "fresh: %v", fresh)
			case 503:
				require.LessOrEqual(t, failing, 100, "it is avoided; fresh: %v", fresh)
				require.Greater(t, failing, 10, "and tried again")
			}
		}
	}
}

// TestRefusals: five answers in a row that say that a backend cannot serve are a
// failure, fewer are not, and any other one ends the row.
func TestRefusals(t *testing.T) {
	b := newBalancer(t, proxy.Options{Balance: proxy.RoundRobin}, addrs(1)...)
	answers := func(now time.Duration, statuses ...int) (avoided bool) {
		for _, s := range statuses {
			k, ok := b.Pick(now, "")
			require.True(t, ok)
			k.AnswerStatus(now, 0, s)
		}
		k, ok := b.Pick(now, "")
		require.True(t, ok)
		k.Cancel(now)
		return k.Open
	}
	require.False(t, answers(0, 503, 503, 503, 503))
	require.False(t, answers(0, 500, 503, 502, 504, 503))
	require.True(t, answers(0, 502))
	require.True(t, answers(99*time.Millisecond))
	require.False(t, answers(101*time.Millisecond), "100 ms have passed")
	require.True(t, answers(201*time.Millisecond, 503))
	require.True(t, answers(400*time.Millisecond), "for twice as long")
	require.False(t, answers(402*time.Millisecond, 200))
	require.False(t, answers(402*time.Millisecond, 503, 503, 503, 503))
}

// traffic is requests of a millisecond, one each, from then until then; those to
// the backends that are stopped are not answered. It returns how many each got,
// and those that are left.
func traffic(t *testing.T, b *proxy.Balancer, from, to time.Duration, stopped ...string) (counts map[string]int, left []proxy.Picked) {
	counts = map[string]int{}
	n := 0
	for now := from; now < to; now += time.Millisecond {
		k, ok := b.Pick(now, fmt.Sprint(n%100))
		require.True(t, ok)
		require.False(t, k.Open)
		n++
		counts[k.Addr]++
		if slices.Contains(stopped, k.Addr) {
			left = append(left, k)
		} else {
			k.Answer(now, time.Millisecond)
		}
	}
	return counts, left
}

// TestLongPoll: one request that takes long says nothing about its backend but
// that it is one more in flight, nor do several that began before others were
// answered.
func TestLongPoll(t *testing.T) {
	b := newBalancer(t, proxy.Options{}, addrs(2)...)
	took := func(string) time.Duration { return 6 * time.Millisecond } // with 1 ms between: 3 in flight at each
	now := 10 * time.Second
	simulate(b, 0, 10_000, time.Millisecond, took)
	poll, _ := b.Pick(now, "")
	for range 3 {
		counts := simulate(b, now, 20_000, time.Millisecond, took)
		now += 20 * time.Second
		require.Greater(t, counts[poll.Addr], 20_000/4, "%v", counts)
	}

	for _, opts := range balances[1:] {
		b := newBalancer(t, opts, addrs(2)...)
		now := time.Duration(0)
		for range 3 {
			for i, polled := 0, false; !polled; i++ {
				k, _ := b.Pick(now, fmt.Sprint(i))
				if polled = k.Addr == "b0:1"; !polled {
					k.Answer(now, time.Millisecond)
				}
			}
			counts, _ := traffic(t, b, now, now+time.Second)
			now += time.Second
			require.Greater(t, counts["b0:1"], 300, "balance %d: %v", opts.Balance, counts)
		}
	}
}

// TestSilent: a backend that is stopped gets next to nothing, and is found again
// when it goes on.
func TestSilent(t *testing.T) {
	for _, opts := range balances {
		b := newBalancer(t, opts, addrs(2)...)
		traffic(t, b, 0, time.Second)
		early, left := traffic(t, b, time.Second, 2200*time.Millisecond, "b0:1")
		if opts.Balance == proxy.PeakEWMA {
			require.LessOrEqual(t, early["b0:1"], 3)
		}
		late, more := traffic(t, b, 2200*time.Millisecond, 65*time.Second, "b0:1")
		require.LessOrEqual(t, late["b0:1"], 5, "balance %d: after 5, 10, 20 and 40 s", opts.Balance)
		require.GreaterOrEqual(t, late["b0:1"], 3)
		for _, k := range append(left, more...) {
			k.Answer(65*time.Second, time.Minute)
		}
		traffic(t, b, 65*time.Second, 135*time.Second) // a minute is remembered for a while
		again, _ := traffic(t, b, 135*time.Second, 145*time.Second)
		require.Greater(t, again["b0:1"], 1000, "balance %d: %v", opts.Balance, again)
	}
}

// TestProbes: an avoided backend that does not answer those that are to find out
// whether it works again gets few of them.
func TestProbes(t *testing.T) {
	for _, opts := range balances {
		b := newBalancer(t, opts, addrs(2)...)
		traffic(t, b, 0, time.Second)
		for failed := false; !failed; {
			for i := range 100 {
				k, _ := b.Pick(time.Second, fmt.Sprint(i))
				if failed = k.Addr == "b0:1"; failed {
					k.Fail(time.Second)
					break
				}
				k.Answer(time.Second, time.Millisecond)
			}
		}
		counts, _ := traffic(t, b, time.Second, 61*time.Second, "b0:1")
		require.LessOrEqual(t, counts["b0:1"], 5, "balance %d", opts.Balance)
		require.GreaterOrEqual(t, counts["b0:1"], 3, "balance %d", opts.Balance)
	}
}

// TestAvoidOnce: a request finds out about one backend that has failed before at
// most, if there is a better one.
func TestAvoidOnce(t *testing.T) {
	for _, opts := range balances {
		b := newBalancer(t, opts, addrs(6)...)
		for failed := map[string]bool{}; len(failed) < 5; {
			k, ok := b.Pick(0, fmt.Sprint(len(failed)))
			require.True(t, ok)
			if failed[k.Addr] = k.Addr != "b5:1"; failed[k.Addr] {
				k.Fail(0)
			} else {
				delete(failed, k.Addr)
				b.Pool().SetHealthy("b5:1", false) // so that it is not chosen always
			}
		}
		b.Pool().SetHealthy("b5:1", true)
		probed := false
		for i := range 50 {
			now := time.Minute + time.Duration(i)*time.Second
			k, ok := b.Pick(now, fmt.Sprint(i))
			require.True(t, ok)
			if k.Addr == "b5:1" {
				k.Answer(now, time.Millisecond)
				continue
			}
			probed = true
			k.Fail(now)
			next, ok := b.Pick(now, fmt.Sprint(i), k)
			require.True(t, ok)
			require.Equal(t, "b5:1", next.Addr)
			next.Answer(now, time.Millisecond)
		}
		require.True(t, probed)
	}
}

// TestAvoidEnds: a backend that keeps failing is tried again at least every ten
// seconds.
func TestAvoidEnds(t *testing.T) {
	b := newBalancer(t, proxy.Options{Balance: proxy.RoundRobin}, addrs(2)...)
	var last, longestGap time.Duration
	for now := time.Duration(0); now < 2*time.Minute; now += 10 * time.Millisecond {
		k, ok := b.Pick(now, "")
		require.True(t, ok)
		if k.Addr == "b0:1" {
			longestGap = max(longestGap, now-last)
			last = now
			k.Fail(now)
		} else {
			k.Answer(now, time.Millisecond)
		}
	}
	assert.LessOrEqual(t, longestGap, 10*time.Second+50*time.Millisecond)
	assert.GreaterOrEqual(t, longestGap, 9*time.Second)
}

// TestAvoidTogether: requests that were in flight together fail once, however
// many they are.
func TestAvoidTogether(t *testing.T) {
	b := newBalancer(t, proxy.Options{Balance: proxy.RoundRobin}, addrs(1)...)
	failed := func(now time.Duration) {
		var all []proxy.Picked
		for i := range 8 {
			k, ok := b.Pick(now+time.Duration(i), "")
			require.True(t, ok)
			all = append(all, k)
		}
		for i, k := range all {
			k.Fail(now + time.Millisecond + time.Duration(i)) // one after the other
		}
	}
	avoided := func(now time.Duration) bool {
		k, ok := b.Pick(now, "")
		require.True(t, ok)
		k.Cancel(now)
		return k.Open
	}
	failed(0)
	require.True(t, avoided(100*time.Millisecond))
	require.False(t, avoided(102*time.Millisecond), "for 100 ms")
	failed(2 * time.Second)
	require.True(t, avoided(2200*time.Millisecond))
	require.False(t, avoided(2202*time.Millisecond), "for 200 ms: it failed again")
}
