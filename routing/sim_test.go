package routing_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sort"

	"github.com/ServiceWeaver/weaver/runtime/protos"
	"github.com/weaverkit/weaverkit/routing"
)

// A law is how requests fall on keys: keys in order of position with the share
// of requests each gets. All figures of the simulator are taken on the law, not
// on the requests that happened to be drawn from it.
type law struct {
	name string
	pos  []uint64
	p    []float64 // sums to 1
}

func newLaw(name string, keys int, rng *rand.Rand, weight func(rank int) float64) *law {
	l := &law{name: name, pos: make([]uint64, keys), p: make([]float64, keys)}
	for i := range l.pos {
		l.pos[i] = rng.Uint64()
	}
	slices.Sort(l.pos)
	rank := rng.Perm(keys)
	sum := 0.0
	for i := range l.p {
		l.p[i] = weight(rank[i])
		sum += l.p[i]
	}
	for i := range l.p {
		l.p[i] /= sum
	}
	return l
}

func uniform(keys int, rng *rand.Rand) *law {
	return newLaw("uniform", keys, rng, func(int) float64 { return 1 })
}

func zipf(s float64) func(int, *rand.Rand) *law {
	return func(keys int, rng *rand.Rand) *law {
		return newLaw(fmt.Sprintf("zipf %.2f", s), keys, rng, func(rank int) float64 { return math.Pow(float64(rank+1), -s) })
	}
}

// oneKey gives one key 30 % of the requests.
func oneKey(keys int, rng *rand.Rand) *law {
	return newLaw("one key 30%", keys, rng, func(rank int) float64 {
		if rank == 0 {
			return 0.3 / 0.7 * float64(keys-1)
		}
		return 1
	})
}

// hotRange gives 1 % of the key space, from a random place, 50 % of the
// requests.
func hotRange(keys int, rng *rand.Rand) *law {
	l := uniform(keys, rng)
	l.name = "1% of space 50%"
	l.heat(rng.Uint64())
	return l
}

// heat makes the 1 % of the key space from start hot and the rest even.
func (l *law) heat(start uint64) {
	const w = math.MaxUint64 / 100
	hot := 0
	for _, x := range l.pos {
		if x-start < w { // wraps around
			hot++
		}
	}
	for i, x := range l.pos {
		if x-start < w {
			l.p[i] = 0.5 / float64(hot)
		} else {
			l.p[i] = 0.5 / float64(len(l.pos)-hot)
		}
	}
}

// loads returns the load of each replica under a, as a fraction of all, and the
// largest over the mean of replicas.
func (l *law) loads(a *protos.Assignment, replicas []string) (map[string]float64, float64) {
	loads := make(map[string]float64, len(replicas))
	k := 0
	for i, s := range a.Slices {
		sum := 0.0
		for ; k < len(l.pos) && (i+1 == len(a.Slices) || l.pos[k] < a.Slices[i+1].Start); k++ {
			sum += l.p[k]
		}
		for _, r := range s.Replicas {
			loads[r] += sum / float64(len(s.Replicas))
		}
	}
	top := 0.0
	for _, r := range replicas {
		top = max(top, loads[r])
	}
	return loads, top * float64(len(replicas))
}

// report draws about n requests, spread over seconds, and reports them as the
// collectors of the weavelets do.
func (l *law) report(a *protos.Assignment, n, seconds float64, rng *rand.Rand) map[string]*protos.LoadReport_ComponentLoad {
	reports := map[string]*protos.LoadReport_ComponentLoad{}
	for _, s := range a.Slices {
		for _, r := range s.Replicas {
			if reports[r] == nil {
				reports[r] = &protos.LoadReport_ComponentLoad{Version: a.Version}
			}
		}
	}
	k := 0
	var keys []uint64
	var counts []int
	for i, s := range a.Slices {
		end := uint64(math.MaxUint64)
		if i+1 < len(a.Slices) {
			end = a.Slices[i+1].Start
		}
		from := k
		for k < len(l.pos) && l.pos[k] < end {
			k++
		}
		keys = l.pos[from:k]
		all := make([]int, len(keys))
		for j := range keys {
			all[j] = poisson(n*l.p[from+j], rng)
		}
		for h, r := range s.Replicas {
			counts = counts[:0]
			left := len(s.Replicas) - h
			for j := range all {
				c := binomial(all[j], 1/float64(left), rng)
				all[j] -= c
				counts = append(counts, c)
			}
			if sl := collect(s.Start, end, keys, counts, seconds, rng); sl != nil {
				reports[r].Load = append(reports[r].Load, sl)
			}
		}
	}
	return reports
}

// expect reports the rates that are expected, without chance and without splits.
func (l *law) expect(a *protos.Assignment, rate float64) map[string]*protos.LoadReport_ComponentLoad {
	k := 0
	return even(a, func(i int) float64 {
		sum := 0.0
		for ; k < len(l.pos) && (i+1 == len(a.Slices) || l.pos[k] < a.Slices[i+1].Start); k++ {
			sum += l.p[k]
		}
		return rate * sum
	})
}

// collect is the weavelet's collector (loadCollector in
// weaver/internal/weaver/load.go): a rate, a sketch of the number of keys, and
// up to 20 splits from a sample of 1000 requests. It leaves out slices without
// requests.
func collect(start, end uint64, keys []uint64, counts []int, seconds float64, rng *rand.Rand) *protos.LoadReport_SliceLoad {
	total, distinct := 0, 0
	for _, c := range counts {
		total += c
		if c > 0 {
			distinct++
		}
	}
	if total == 0 {
		return nil
	}
	// The ranks of the sample, in order: all requests, or 1000 of them.
	k := min(total, 1000)
	ranks := make([]int, k)
	if k == total {
		for i := range ranks {
			ranks[i] = i
		}
	} else {
		for i := range ranks {
			ranks[i] = rng.IntN(total)
		}
		sort.Ints(ranks)
	}
	n := 20
	switch {
	case k < 10:
		n = 1
	case k < 50:
		n = 2
	case k < 100:
		n = 4
	case k < 250:
		n = 5
	case k < 500:
		n = 10
	}
	load := float64(total) / seconds
	sl := &protos.LoadReport_SliceLoad{Start: start, End: end, Load: load, Size: uint64(float64(distinct)*(1+0.03*rng.NormFloat64()) + 0.5)}
	sl.Size = max(sl.Size, 1)
	j, passed := 0, counts[0]
	for i := range n {
		rank := ranks[int(float64(i)/float64(n)*float64(k))]
		for rank >= passed {
			j++
			passed += counts[j]
		}
		if m := len(sl.Splits); m > 0 && sl.Splits[m-1].Start == keys[j] {
			sl.Splits[m-1].Load += load / float64(n)
		} else {
			sl.Splits = append(sl.Splits, &protos.LoadReport_SubsliceLoad{Start: keys[j], Load: load / float64(n)})
		}
	}
	sl.Splits[0].Start = start
	return sl
}

func poisson(mean float64, rng *rand.Rand) int {
	if mean > 50 {
		return max(0, int(math.Round(mean+math.Sqrt(mean)*rng.NormFloat64())))
	}
	// Inversion: one random number.
	p := math.Exp(-mean)
	n, u := 0, rng.Float64()
	for sum := p; u > sum && n < 200; sum += p {
		n++
		p *= mean / float64(n)
	}
	return n
}

func binomial(n int, p float64, rng *rand.Rand) int {
	switch {
	case n == 0 || p >= 1:
		return n
	case float64(n)*p*(1-p) > 20:
		mean := float64(n) * p
		return min(n, max(0, int(math.Round(mean+math.Sqrt(mean*(1-p))*rng.NormFloat64()))))
	}
	c := 0
	for range n {
		if rng.Float64() < p {
			c++
		}
	}
	return c
}

// A cluster is a generator, a law and the replicas it runs on.
type cluster struct {
	*law
	rng      *rand.Rand
	gen      *routing.Generator
	replicas []string
	a        *protos.Assignment
	requests float64 // per report
	next     int     // number of the next replica
}

func newCluster(l *law, replicas int, requests float64, rng *rand.Rand) *cluster {
	gen, err := routing.NewGenerator(routing.Options{})
	if err != nil {
		panic(err)
	}
	c := &cluster{law: l, rng: rng, gen: gen, requests: requests}
	for range replicas {
		c.grow()
	}
	c.step(nil)
	return c
}

func (c *cluster) grow() {
	c.replicas = append(c.replicas, fmt.Sprintf("tcp://10.0.%d.%d:9000", c.next/256, c.next%256))
	c.next++
}

func (c *cluster) step(loads map[string]*protos.LoadReport_ComponentLoad) {
	a, err := c.gen.Generate(c.a, c.replicas, loads)
	if err != nil {
		panic(err)
	}
	if err := routing.Validate(a); err != nil {
		panic(err)
	}
	c.a = a
}

// observe makes one report and one step.
func (c *cluster) observe() { c.step(c.report(c.a, c.requests, 10, c.rng)) }

// ratio returns max/mean on the law.
func (c *cluster) ratio() float64 {
	_, ratio := c.loads(c.a, c.replicas)
	return ratio
}
