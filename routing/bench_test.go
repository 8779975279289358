package routing_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"

	"github.com/ServiceWeaver/weaver/runtime/protos"
	"github.com/weaverkit/weaverkit/routing"
)

var sizes = []int{10, 100, 1000}

// BenchmarkGenerate asks what a step costs: when reports come in and nothing
// needs to change; the first one under zipf 1.01, when all hot keys have to be
// isolated and replicated; and when a replica left and there are no reports.
// Its baseline is the equal split, which looks at nothing.
func BenchmarkGenerate(b *testing.B) {
	for _, n := range sizes {
		name := fmt.Sprintf("replicas=%d/slices=%d", n, 50*n)
		rng := rand.New(rand.NewPCG(1, uint64(n)))
		c := newCluster(zipf(1.01)(1000*n, rng), n, 10_000*float64(n), rng)
		start, first := c.a, c.report(c.a, c.requests, 10, rng)
		for range 20 {
			c.observe()
		}
		// The same report again and again must change nothing, so it is one
		// almost without noise.
		loads := c.report(c.a, 1000*c.requests, 10, rng)
		for v := uint64(0); v != c.a.Version; loads = c.report(c.a, 1000*c.requests, 10, rng) {
			v = c.a.Version
			for range 10 {
				c.step(loads)
			}
		}
		state := c.gen.State()
		b.Run(name+"/steady", func(b *testing.B) {
			c.gen.Restore(state)
			b.ReportAllocs()
			for b.Loop() {
				if mustGenerate(b, c, c.a, c.replicas, loads) != c.a {
					b.Fatal("changed")
				}
			}
		})
		b.Run(name+"/first", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.gen.Restore(routing.State{})
				mustGenerate(b, c, start, c.replicas, first)
			}
		})
		b.Run(name+"/leave", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				c.gen.Restore(state)
				b.StartTimer()
				mustGenerate(b, c, c.a, c.replicas[1:], nil)
			}
		})
		b.Run(name+"/baseline=equal", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				routing.EqualSplit(c.replicas, 0)
			}
		})
	}
}

func mustGenerate(b *testing.B, c *cluster, prev *protos.Assignment, replicas []string, loads map[string]*protos.LoadReport_ComponentLoad) *protos.Assignment {
	a, err := c.gen.Generate(prev, replicas, loads)
	if err != nil {
		b.Fatal(err)
	}
	return a
}

// layouts returns assignments with n slices, even and skewed: as after a hot
// range, half of all slices in 1 % of the space and a tenth in single keys.
func layouts(n int) map[string]*protos.Assignment {
	rng := rand.New(rand.NewPCG(3, uint64(n)))
	even := routing.EqualSplit([]string{"a", "b", "c", "d"}, n/4)
	set := map[uint64]bool{0: true}
	for len(set) < n {
		x := rng.Uint64()
		switch {
		case len(set)%2 == 0:
			x = 1<<62 + x/100
		case len(set)%10 == 1 && len(set) < n-1:
			set[x+1] = true
		}
		set[x] = true
	}
	skewed := &protos.Assignment{Version: 1}
	for _, x := range slices.Sorted(maps.Keys(set)) {
		skewed.Slices = append(skewed.Slices, &protos.Assignment_Slice{Start: x, Replicas: []string{"a", "b"}})
	}
	return map[string]*protos.Assignment{"even": even, "skewed": skewed}
}

// BenchmarkLookup asks what finding a key costs, for keys that fall where the
// slices are: every slice is looked up equally often. Its baseline is a binary
// search over the slices.
func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{16, 1000, 50_000} {
		for _, layout := range []string{"even", "skewed"} {
			a := layouts(n)[layout]
			t, err := routing.NewTable(a)
			if err != nil {
				b.Fatal(err)
			}
			rng := rand.New(rand.NewPCG(5, 5))
			keys := make([]uint64, 1<<16)
			for i := range keys {
				s := rng.IntN(len(a.Slices))
				end := ^uint64(0)
				if s+1 < len(a.Slices) {
					end = a.Slices[s+1].Start
				}
				keys[i] = a.Slices[s].Start + rng.Uint64N(end-a.Slices[s].Start)
			}
			name := fmt.Sprintf("slices=%d/%s", n, layout)
			b.Run(name+"/table", func(b *testing.B) {
				b.ReportAllocs()
				i, sum := 0, 0
				for b.Loop() {
					sum += len(t.Lookup(keys[i&(1<<16-1)]))
					i++
				}
				if sum < i {
					b.Fatal("not found")
				}
			})
			b.Run(name+"/baseline=sort.Search", func(b *testing.B) {
				b.ReportAllocs()
				i, sum := 0, 0
				for b.Loop() {
					key := keys[i&(1<<16-1)]
					k := sort.Search(len(a.Slices), func(k int) bool { return a.Slices[k].Start > key }) - 1
					sum += len(a.Slices[k].Replicas)
					i++
				}
				if sum < i {
					b.Fatal("not found")
				}
			})
		}
	}
}

// BenchmarkNewTable asks what building the index costs.
func BenchmarkNewTable(b *testing.B) {
	for _, n := range []int{16, 1000, 50_000} {
		for _, layout := range []string{"even", "skewed"} {
			a := layouts(n)[layout]
			b.Run(fmt.Sprintf("slices=%d/%s", n, layout), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := routing.NewTable(a); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
