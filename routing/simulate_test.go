package routing_test

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ServiceWeaver/weaver/runtime/protos"
	"github.com/weaverkit/weaverkit/routing"
)

var staticLaws = []func(int, *rand.Rand) *law{uniform, zipf(1.01), zipf(1.2), oneKey, hotRange}

// A setting is one size of the simulation. Requests per replica and report are
// what decides how much of an imbalance can be seen at all: 10,000 have a
// standard error of 1 %.
type setting struct {
	replicas int
	keys     int
	requests float64 // per replica and report
}

func (s setting) String() string { return fmt.Sprintf("replicas=%d", s.replicas) }

// settings returns what every simulation runs on. SIM=long in the environment
// is for the published figures: more seeds, keys and rates.
func settings() []setting {
	if !long() {
		return []setting{{3, 5_000, 10_000}, {10, 20_000, 10_000}, {100, 50_000, 10_000}}
	}
	return []setting{
		{3, 10_000, 10_000}, {3, 300_000, 10_000}, {3, 100_000, 50_000},
		{10, 20_000, 10_000}, {10, 300_000, 10_000}, {10, 100_000, 50_000},
		{100, 100_000, 10_000}, {100, 1_000_000, 10_000}, {100, 100_000, 30_000},
	}
}

// seedBase is SIM_SEED from the environment, for runs on other random numbers.
func seedBase() uint64 {
	n, _ := strconv.ParseUint(os.Getenv("SIM_SEED"), 10, 64)
	return n << 32
}

func long() bool { return os.Getenv("SIM") == "long" }

// results collects a figure over laws, settings and seeds.
type results map[string][]float64

func (r results) add(t *testing.T, what string, x, bar float64) {
	t.Helper()
	r[what] = append(r[what], x)
	if x > bar {
		t.Errorf("%s: %.3f, want at most %.3f", what, x, bar)
	}
}

func (r results) log(t *testing.T) {
	var b strings.Builder
	for _, k := range sortedKeys(r) {
		x := slices.Sorted(slices.Values(r[k]))
		fmt.Fprintf(&b, "\n%-52s median %.3f  max %.3f  (%d runs)", k, x[len(x)/2], x[len(x)-1], len(x))
	}
	t.Log(b.String())
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// forEach runs f for every law, setting and seed, each with its own source of
// random numbers.
func forEach(t *testing.T, laws []func(int, *rand.Rand) *law, f func(t *testing.T, r results, c *cluster, what string)) {
	t.Parallel()
	r := results{}
	for i, mk := range laws {
		for j, s := range settings() {
			for seed := range seeds(s) {
				rng := rand.New(rand.NewPCG(uint64(100*i+j), seedBase()+uint64(seed)))
				l := mk(s.keys, rng)
				c := newCluster(l, s.replicas, s.requests*float64(s.replicas), rng)
				f(t, r, c, fmt.Sprintf("%s, %d replicas", l.name, s.replicas))
			}
		}
	}
	r.log(t)
}

func seeds(s setting) int {
	if long() {
		return 3
	}
	return 1
}

// TestStaticLaws: from the equal split to balance within two reports, and then
// no change any more.
func TestStaticLaws(t *testing.T) {
	forEach(t, staticLaws, func(t *testing.T, r results, c *cluster, what string) {
		r.add(t, what+": baseline, the equal split", c.ratio(), math.Inf(1))
		c.observe()
		r.add(t, what+": after 1 report", c.ratio(), 1.10)
		c.observe()
		r.add(t, what+": after 2 reports", c.ratio(), 1.05)
	})
}

// TestSteadyState: once balanced, reports that differ only by chance change
// nothing worth mentioning, and equal ones nothing at all.
func TestSteadyState(t *testing.T) {
	forEach(t, staticLaws, func(t *testing.T, r results, c *cluster, what string) {
		for range 8 {
			c.observe()
		}
		moved := 0.0
		version := c.a.Version
		for range 5 {
			prev := c.a
			c.observe()
			moved += routing.Diff(prev, c.a, routing.State{}).KeySpace
		}
		r.add(t, what+": key space moved in 5 reports", moved, 0.02)
		r.add(t, what+": new versions in 5 reports", float64(c.a.Version-version), 5)
		holders := 0
		for _, s := range c.a.Slices {
			holders += len(s.Replicas)
		}
		r.add(t, what+": holders per slice", float64(holders)/float64(len(c.a.Slices)), 2)
		for range 3 {
			c.step(c.expect(c.a, c.requests/10))
		}
		prev := c.a
		for range 5 {
			c.step(c.expect(c.a, c.requests/10))
			if c.a != prev {
				t.Errorf("%s: version %d → %d without a reason: %v", what, prev.Version, c.a.Version, c.gen.Explain())
			}
		}
	})
}

// TestThousandReplicas is the hardest case: a key may be as hot as 90 replicas.
func TestThousandReplicas(t *testing.T) {
	r := results{}
	requests, seeds := []float64{3000}, 1
	if long() {
		requests, seeds = []float64{1000, 3000, 10_000}, 3
	}
	for _, n := range requests {
		for seed := range seeds {
			rng := rand.New(rand.NewPCG(1000, seedBase()+uint64(seed)))
			c := newCluster(zipf(1.01)(100_000, rng), 1000, 1000*n, rng)
			what := fmt.Sprintf("zipf 1.01, 1000 replicas, %.0f requests each: ", n)
			c.observe()
			r.add(t, what+"after 1 report", c.ratio(), 1.15)
			c.observe()
			r.add(t, what+"after 2 reports", c.ratio(), 1.10)
		}
	}
	r.log(t)
}

// TestHotRangeJumps: the hot 1 % of the key space goes elsewhere, and one report
// later the load is even again; slices do not pile up.
func TestHotRangeJumps(t *testing.T) {
	forEach(t, []func(int, *rand.Rand) *law{hotRange}, func(t *testing.T, r results, c *cluster, what string) {
		for range 3 {
			c.observe()
		}
		for range 5 {
			c.heat(c.rng.Uint64())
			c.observe()
			r.add(t, what+": one report after the jump", c.ratio(), 1.10)
			c.observe()
			c.observe()
		}
		r.add(t, what+": slices per replica after 5 jumps", float64(len(c.a.Slices))/float64(len(c.replicas)), 100)
	})
}

// TestDiurnal: in the course of a day the overall rate goes up and down by 60 %,
// and every key's by 30 % at its own time.
func TestDiurnal(t *testing.T) {
	forEach(t, staticLaws[:2], func(t *testing.T, r results, c *cluster, what string) {
		base := slices.Clone(c.p)
		phase := make([]float64, len(base))
		for i := range phase {
			phase[i] = 2 * math.Pi * c.rng.Float64()
		}
		day := 24
		if long() {
			day = 48
		}
		for i := range day {
			now := float64(i) / float64(day) * 2 * math.Pi
			sum := 0.0
			for k := range c.p {
				c.p[k] = base[k] * (1 + 0.3*math.Sin(now+phase[k]))
				sum += c.p[k]
			}
			for k := range c.p {
				c.p[k] /= sum
			}
			c.step(c.report(c.a, c.requests*(1+0.6*math.Sin(now)), 10, c.rng))
			if i >= 2 {
				r.add(t, what+": diurnal", c.ratio(), 1.10)
			}
		}
	})
}

// TestLostReports: every round a fifth of the replicas cannot be asked.
func TestLostReports(t *testing.T) {
	forEach(t, staticLaws, func(t *testing.T, r results, c *cluster, what string) {
		for range 2 {
			c.observe()
		}
		for range 8 {
			report := c.report(c.a, c.requests, 10, c.rng)
			c.lose(report, 0.2)
			c.step(report)
			r.add(t, what+": a fifth of the reports lost", c.ratio(), 1.10)
		}
	})
}

// lose takes reports out, each with probability p.
func (c *cluster) lose(report map[string]*protos.LoadReport_ComponentLoad, p float64) {
	for _, name := range c.replicas {
		if c.rng.Float64() < p {
			delete(report, name)
		}
	}
}

// share returns the share of the key space that replica holds.
func (c *cluster) share(replica string) float64 {
	share := 0.0
	for i, s := range c.a.Slices {
		end := uint64(math.MaxUint64)
		if i+1 < len(c.a.Slices) {
			end = c.a.Slices[i+1].Start
		}
		if slices.Contains(s.Replicas, replica) {
			share += float64(end-s.Start) / (1 << 64) / float64(len(s.Replicas))
		}
	}
	return share
}

// TestJoin: a joiner has its share after one step, without a new report, and
// hardly more moves than it gets.
func TestJoin(t *testing.T) {
	forEach(t, staticLaws, func(t *testing.T, r results, c *cluster, what string) {
		for range 4 {
			c.observe()
		}
		for range 2 {
			prev := c.a
			c.grow()
			c.step(nil)
			n := float64(len(c.replicas))
			joiner := c.replicas[len(c.replicas)-1]
			loads, ratio := c.loads(c.a, c.replicas)
			r.add(t, what+": 2 - joiner's load/mean", 2-loads[joiner]*n, 2-0.9)
			r.add(t, what+": key space moved/ideal at a join", routing.Diff(prev, c.a, routing.State{}).KeySpace*n, 1.2)
			r.add(t, what+": max/mean right after a join", ratio, 1.05)
			c.observe()
		}
	})
}

// TestLeave: a leaver's keys go to the others, and hardly any others move.
func TestLeave(t *testing.T) {
	forEach(t, staticLaws, func(t *testing.T, r results, c *cluster, what string) {
		for range 4 {
			c.observe()
		}
		n := float64(len(c.replicas))
		prev := c.a
		c.replicas = slices.Delete(c.replicas, 1, 2)
		c.step(nil)
		r.add(t, what+": key space moved/ideal at a leave", routing.Diff(prev, c.a, routing.State{}).KeySpace*n, 1.2)
		r.add(t, what+": max/mean right after a leave", c.ratio(), 1.05)
	})
}

// TestCrash: a tenth of the replicas is gone at once, and with them their last
// reports.
func TestCrash(t *testing.T) {
	forEach(t, staticLaws, func(t *testing.T, r results, c *cluster, what string) {
		for range 4 {
			c.observe()
		}
		for range max(len(c.replicas)/10, 1) {
			k := c.rng.IntN(len(c.replicas))
			c.replicas = slices.Delete(c.replicas, k, k+1)
		}
		c.step(nil)
		r.add(t, what+": max/mean right after a crash", c.ratio(), 1.05)
	})
}

// TestDrain: a draining replica gets nothing new and is empty after a few
// steps, each within the budget.
func TestDrain(t *testing.T) {
	forEach(t, staticLaws, func(t *testing.T, r results, c *cluster, what string) {
		for range 4 {
			c.observe()
		}
		victim := c.replicas[0]
		c.gen.SetDraining(victim)
		last := c.share(victim)
		for step := 0; c.share(victim) > 0; step++ {
			if step == 10 {
				t.Fatalf("%s: still has %v of the key space", what, c.share(victim))
			}
			prev := c.a
			c.step(nil)
			r.add(t, what+": key space moved by a step while draining", routing.Diff(prev, c.a, routing.State{}).KeySpace, 0.101)
			now := c.share(victim)
			if now > last {
				t.Errorf("%s: draining replica went from %v to %v of the key space", what, last, now)
			}
			last = now
		}
		rest := slices.Delete(slices.Clone(c.replicas), 0, 1)
		_, ratio := c.loads(c.a, rest)
		r.add(t, what+": max/mean of the others after draining", ratio, 1.05)
	})
}
