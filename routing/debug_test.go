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
	for _, mk := range []func(int, *rand.Rand) *law{zipf(1.01), zipf(1.2), hotRange} {
		rng := rand.New(rand.NewPCG(7, 9))
		R := 100
		l := mk(100000, rng)
		c := newCluster(l, R, 1e4*float64(R), rng)
		for i := range 15 {
			p := c.a
			before := c.ratio()
			c.observe()
			if p == c.a {
				fmt.Println(l.name, i, "same", before)
				continue
			}
			n := map[string]int{}
			for _, ch := range c.gen.Explain() {
				n[ch.Action.String()+"/"+ch.Reason.String()]++
			}
			fmt.Println(l.name, i, before, c.ratio(), n)
		}
		for range 2 {
			c.replicas = append(c.replicas[:1], c.replicas[2:]...)
			c.step(nil)
			tot := 0.0
			for _, s := range c.gen.State().Slices {
				tot += s.Load
			}
			for _, ch := range c.gen.Explain() {
				w := float64(ch.End-ch.Start) / (1 << 64) * 5000
				if ch.Load/tot*100 > .03 || ch.Reason.String() == "overloaded" {
					fmt.Printf("%v %v load %.4f parts %d width %.3g from %.3f to %.3f %s\n", ch.Action, ch.Reason, ch.Load/tot*100, ch.Parts, w, ch.FromUsed, ch.ToUsed, ch.To)
				}
			}
		}
	}
}
