package routing_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/weaverkit/weaverkit/routing"
)

func TestDebug(t *testing.T) {
	if os.Getenv("EXPLORE") == "" {
		t.Skip()
	}
	for _, keys := range []int{100000, 1000000} {
		for _, per := range []float64{1000, 3000, 10000} {
			rng := rand.New(rand.NewPCG(7, 9))
			R := 1000
			l := zipf(1.01)(keys, rng)
			c := newCluster(l, R, per*float64(R), rng)
			for i := range 5 {
				p := c.a
				before := c.ratio()
				rep := c.report(c.a, c.requests, 10, c.rng)
				t0 := time.Now()
				c.step(rep)
				d := time.Since(t0)
				n := map[string]int{}
				for _, ch := range c.gen.Explain() {
					n[ch.Action.String()+"/"+ch.Reason.String()]++
				}
				fmt.Println(keys, per, i, before, c.ratio(), d, n, len(c.a.Slices), routing.Diff(p, c.a, routing.State{}))
			}
		}
	}
}
