package routing_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
)

func TestDebug(t *testing.T) {
	if os.Getenv("EXPLORE") == "" {
		t.Skip()
	}
	for _, keys := range []int{20000, 100000} {
		rng := rand.New(rand.NewPCG(7, 9))
		R := 100
		l := hotRange(keys, rng)
		c := newCluster(l, R, 1e4*float64(R), rng)
		c.observe()
		lo, ratio := l.loads(c.a, c.replicas)
		top := ""
		for r, x := range lo {
			if x*float64(R) == ratio {
				top = r
			}
		}
		fmt.Println("keys", keys, "ratio", ratio, top)
		st := c.gen.State()
		tot := 0.0
		for _, s := range st.Slices {
			tot += s.Load
		}
		k := 0
		es, ts := 0., 0.
		for i, s := range c.a.Slices {
			sum, nk := 0.0, 0
			for ; k < len(l.pos) && (i+1 == len(c.a.Slices) || l.pos[k] < c.a.Slices[i+1].Start); k++ {
				sum += l.p[k]
				nk++
			}
			for _, r := range s.Replicas {
				if r == top {
					e := st.Slices[i].Load / tot * float64(R) / float64(len(s.Replicas))
					tr := sum * float64(R) / float64(len(s.Replicas))
					es += e
					ts += tr
					if tr > .03 || e > .03 {
						w := float64(^uint64(0))
						if i+1 < len(c.a.Slices) {
							w = float64(c.a.Slices[i+1].Start - s.Start)
						}
						fmt.Printf("slice %d start %x h=%d est %.4f true %.4f keys %d width %.3g why %v\n", i, s.Start, len(s.Replicas), e, tr, nk, w/1.8e19*5000, func() string { x, _ := c.gen.Why(s.Start); return x.String() }())
					}
				}
			}
		}
		fmt.Println(es, ts)
		n := 0
		for _, ch := range c.gen.Explain() {
			if ch.Action.String() == "split" && n < 5 {
				n++
				fmt.Println(ch)
			}
		}
	}
}
