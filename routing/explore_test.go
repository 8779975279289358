package routing_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/ServiceWeaver/weaver/runtime/protos"
	"github.com/weaverkit/weaverkit/routing"
)

type stat map[string][]float64

func (s stat) add(k string, x float64) { s[k] = append(s[k], x) }

func TestExplore(t *testing.T) {
	if os.Getenv("EXPLORE") == "" {
		t.Skip()
	}
	laws := []func(int, *rand.Rand) *law{uniform, zipf(1.01), zipf(1.2), oneKey, hotRange}
	seeds := 3
	Rs := []int{3, 10, 100}
	pers := []float64{3000, 10000, 50000}
	if os.Getenv("EXPLORE") == "2" {
		pers = pers[1:2]
	}
	if os.Getenv("EXPLORE") == "3" {
		pers = pers[1:2]
		Rs = Rs[2:]
	}
	for _, per := range pers {
		for _, R := range Rs {
			for li, mk := range laws {
				st := stat{}
				name := ""
				for _, keys := range []int{20000, 100000} {
					for seed := 0; seed < seeds; seed++ {
						rng := rand.New(rand.NewPCG(uint64(R+seed*7919), uint64(keys+li)))
						M := per * float64(R)
						l := mk(keys, rng)
						name = l.name
						c := newCluster(l, R, M, rng)
						c.observe()
						st.add("1r", c.ratio())
						c.observe()
						st.add("2r", c.ratio())
						for range 3 {
							c.observe()
						}
						st.add("5r", c.ratio())
						changes, moved := 0, 0.0
						for range 10 {
							p := c.a
							c.observe()
							if p != c.a {
								changes++
								moved += routing.Diff(p, c.a, routing.State{}).KeySpace
							}
						}
						st.add("chg", float64(changes))
						st.add("mvd", moved)
						st.add("15r", c.ratio())
						st.add("n", float64(len(c.a.Slices))/float64(R))
						sp := map[string]float64{}
						for i, s := range c.a.Slices {
							e := uint64(math.MaxUint64)
							if i+1 < len(c.a.Slices) {
								e = c.a.Slices[i+1].Start
							}
							for _, r := range s.Replicas {
								sp[r] += float64(e-s.Start) / (1 << 64) * float64(R) / float64(len(s.Replicas))
							}
						}
						for _, x := range sp {
							st.add("space", x)
						}
						// join
						p := c.a
						c.grow()
						c.step(nil)
						d := routing.Diff(p, c.a, routing.State{})
						st.add("joinmv", d.KeySpace*float64(R+1))
						lo, ratio := c.loads(c.a, c.replicas)
						st.add("joinshare", lo[c.replicas[R]]*float64(R+1))
						st.add("joinratio", ratio)
						c.observe()
						// leave
						p = c.a
						own := 0.0
						for i, s := range c.a.Slices {
							e := uint64(math.MaxUint64)
							if i+1 < len(c.a.Slices) {
								e = c.a.Slices[i+1].Start
							}
							if slices.Contains(s.Replicas, c.replicas[1]) {
								own += float64(e-s.Start) / (1 << 64) * float64(R+1) / float64(len(s.Replicas))
							}
						}
						st.add("leaveown", own)
						c.replicas = slices.Delete(c.replicas, 1, 2)
						c.step(nil)
						d = routing.Diff(p, c.a, routing.State{})
						st.add("leavemv", d.KeySpace*float64(R+1))
						st.add("leaveratio", c.ratio())
						c.observe()
						if R >= 10 {
							// crash
							p = c.a
							for range R / 10 {
								x := rng.IntN(len(c.replicas))
								c.replicas = slices.Delete(c.replicas, x, x+1)
							}
							c.step(nil)
							st.add("crashratio", c.ratio())
							for range R / 10 {
								c.grow()
							}
							c.step(nil)
							st.add("rejoin", c.ratio())
						}
						// lost
						worst := 0.0
						for range 6 {
							rep := c.report(c.a, M, 10, rng)
							for _, r := range c.replicas {
								if rng.Float64() < 0.2 {
									delete(rep, r)
								}
							}
							c.step(rep)
							worst = max(worst, c.ratio())
						}
						st.add("lost", worst)
						c2 := newCluster(l, R, M, rng)
						for range 2 {
							rep := c2.report(c2.a, M, 10, rng)
							for _, r := range c2.replicas {
								if rng.Float64() < 0.2 {
									delete(rep, r)
								}
							}
							c2.step(rep)
						}
						st.add("lost2", c2.ratio())
						if li == 4 {
							worst := 0.0
							for range 4 {
								l.heat(rng.Uint64())
								c.observe()
								worst = max(worst, c.ratio())
								c.observe()
								st.add("jump2", c.ratio())
								c.observe()
							}
							st.add("jump1", worst)
							st.add("jumpn", float64(len(c.a.Slices))/float64(R))
						}
						// diurnal: rate varies and each key has its own phase
						worst = 0
						base := slices.Clone(l.p)
						phase := make([]float64, len(base))
						for i := range phase {
							phase[i] = rng.Float64() * 2 * math.Pi
						}
						_ = phase
						ch := 0
						for i := range 24 {
							tm := float64(i) / 48 * 2 * math.Pi
							sum := 0.0
							for k := range l.p {
								l.p[k] = base[k] * (1 + 0.5*math.Sin(tm+phase[k]))
								sum += l.p[k]
							}
							for k := range l.p {
								l.p[k] /= sum
							}
							p := c.a
							c.step(c.report(c.a, M*(1+0.6*math.Sin(2*tm)), 10, rng))
							if p != c.a {
								ch++
							}
							if i > 1 {
								worst = max(worst, c.ratio())
							}
						}
						st.add("diurnal", worst)
						st.add("diurnalchg", float64(ch))
					}
				}
				ks := []string{"1r", "2r", "5r", "15r", "chg", "mvd", "n", "space", "joinmv", "joinshare", "joinratio", "leaveown", "leavemv", "leaveratio", "crashratio", "rejoin", "lost", "lost2", "jump1", "jump2", "jumpn", "diurnal", "diurnalchg"}
				out := fmt.Sprintf("per=%5.0f R=%d %-16s", per, R, name)
				for _, k := range ks {
					if len(st[k]) == 0 {
						continue
					}
					x := st[k]
					slices.Sort(x)
					out += fmt.Sprintf(" %s %.3f/%.3f", k, x[len(x)/2], x[len(x)-1])
					if k == "joinshare" {
						out += fmt.Sprintf("(min %.3f)", x[0])
					}
				}
				fmt.Println(out)
			}
		}
	}
	_ = protos.Assignment{}
}
