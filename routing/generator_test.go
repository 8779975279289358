package routing_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/ServiceWeaver/weaver/runtime/protos"
	"github.com/weaverkit/weaverkit/routing"
	"google.golang.org/protobuf/proto"
)

type loads = map[string]*protos.LoadReport_ComponentLoad

func newGenerator(t testing.TB, opts routing.Options) *routing.Generator {
	t.Helper()
	g, err := routing.NewGenerator(opts)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func generate(t testing.TB, g *routing.Generator, prev *protos.Assignment, replicas []string, l loads) *protos.Assignment {
	t.Helper()
	a, err := g.Generate(prev, replicas, l)
	if err != nil {
		t.Fatal(err)
	}
	if err := routing.Validate(a); err != nil {
		t.Fatal(err)
	}
	return a
}

// assignment returns one with the given replicas in slices of equal width.
func assignment(version uint64, replicas ...string) *protos.Assignment {
	a := &protos.Assignment{Version: version}
	for i, r := range replicas {
		s := &protos.Assignment_Slice{Start: uint64(i) * (1 << 63 / uint64(len(replicas)) * 2)}
		if r != "" {
			s.Replicas = strings.Split(r, ",")
		}
		a.Slices = append(a.Slices, s)
	}
	return a
}

// even reports the rate of every slice of a, in equal parts by its holders, with
// no sizes and splits.
func even(a *protos.Assignment, rate func(slice int) float64) loads {
	l := loads{}
	for i, s := range a.Slices {
		end := uint64(math.MaxUint64)
		if i+1 < len(a.Slices) {
			end = a.Slices[i+1].Start
		}
		x := rate(i)
		for _, r := range s.Replicas {
			if l[r] == nil {
				l[r] = &protos.LoadReport_ComponentLoad{Version: a.Version}
			}
			if x > 0 {
				l[r].Load = append(l[r].Load, &protos.LoadReport_SliceLoad{Start: s.Start, End: end, Load: x / float64(len(s.Replicas))})
			}
		}
	}
	return l
}

func held(a *protos.Assignment, replica string) int {
	n := 0
	for _, s := range a.Slices {
		if slices.Contains(s.Replicas, replica) {
			n++
		}
	}
	return n
}

func TestFirstAssignmentIsTheEqualSplit(t *testing.T) {
	g := newGenerator(t, routing.Options{})
	a := generate(t, g, nil, []string{"b", "a", "", "b"}, nil)
	if want := routing.EqualSplit([]string{"a", "b"}, 0); !proto.Equal(a, want) {
		t.Errorf("got %s, want %s", routing.Format(a), routing.Format(want))
	}
	if c, ok := g.Why(123); !ok || c.Reason != routing.Started {
		t.Errorf("Why: %v, %v", c, ok)
	}
	// Nothing is known; nothing changes.
	if b := generate(t, g, a, []string{"a", "b"}, nil); b != a {
		t.Errorf("changed: %v", g.Explain())
	}
}

func TestNoReplicas(t *testing.T) {
	g := newGenerator(t, routing.Options{})
	a := generate(t, g, nil, []string{"a"}, nil)
	b := generate(t, g, a, nil, nil)
	if len(b.Slices) != 0 || b.Version != a.Version+1 {
		t.Errorf("got %v", b)
	}
	if c := generate(t, g, b, []string{""}, nil); c != b {
		t.Errorf("changed again: %v", c)
	}
	if d := generate(t, g, b, []string{"x"}, nil); d.Version != b.Version+1 || held(d, "x") != len(d.Slices) || len(d.Slices) == 0 {
		t.Errorf("got %v", d)
	}
	if e := generate(t, g, nil, nil, nil); e.Version != 1 || len(e.Slices) != 0 {
		t.Errorf("from nothing: %v", e)
	}
}

func TestVersionCannotRise(t *testing.T) {
	g := newGenerator(t, routing.Options{})
	last := routing.EqualSplit([]string{"a", "b"}, 0)
	last.Version = math.MaxUint64
	if a := generate(t, g, last, []string{"a", "b"}, nil); a != last {
		t.Errorf("changed: %v", g.Explain())
	}
	if a, err := g.Generate(last, []string{"a"}, nil); !errors.Is(err, routing.ErrVersion) || a != nil {
		t.Errorf("got %v, %v", a, err)
	}
}

func TestInvalidPrevIsRepairedAndSaidSo(t *testing.T) {
	replicas := []string{"a", "b"}
	for name, prev := range map[string]*protos.Assignment{
		"not at 0":       {Version: 3, Slices: []*protos.Assignment_Slice{{Start: 5, Replicas: replicas}}},
		"nil slice":      {Version: 3, Slices: []*protos.Assignment_Slice{nil, {Start: 5, Replicas: replicas}}},
		"only nil":       {Version: 3, Slices: []*protos.Assignment_Slice{nil}},
		"no replicas":    {Version: 3, Slices: []*protos.Assignment_Slice{{Start: 0}}},
		"empty replica":  {Version: 3, Slices: []*protos.Assignment_Slice{{Start: 0, Replicas: []string{"", "a"}}}},
		"duplicate":      {Version: 3, Slices: []*protos.Assignment_Slice{{Start: 0, Replicas: []string{"a", "b", "a"}}}},
		"unsorted":       {Version: 3, Slices: []*protos.Assignment_Slice{{Start: 9, Replicas: replicas}, {Start: 0, Replicas: replicas}}},
		"same start":     {Version: 3, Slices: []*protos.Assignment_Slice{{Start: 0, Replicas: replicas}, {Start: 0, Replicas: replicas}}},
		"at end of keys": {Version: 3, Slices: []*protos.Assignment_Slice{{Start: 0, Replicas: replicas}, {Start: math.MaxUint64, Replicas: replicas}}},
	} {
		if err := routing.Validate(prev); err == nil {
			t.Errorf("%s: Validate finds no fault", name)
		}
		g := newGenerator(t, routing.Options{})
		a := generate(t, g, prev, replicas, nil)
		if a.Version != 4 {
			t.Errorf("%s: version %d", name, a.Version)
		}
		if !slices.ContainsFunc(g.Explain(), func(c routing.Change) bool { return c.Action == routing.Repair }) {
			t.Errorf("%s: not said: %v", name, g.Explain())
		}
	}
}

func TestLoadMovesFromTheHottestToTheColdest(t *testing.T) {
	g := newGenerator(t, routing.Options{SlicesPerReplica: 4, HotShare: 10})
	prev := assignment(1, "a", "a", "a", "a", "b", "b", "c", "c")
	before := proto.Clone(prev)
	a := generate(t, g, prev, []string{"a", "b", "c"}, even(prev, func(i int) float64 {
		return []float64{10, 20, 10, 10, 10, 10, 2, 2}[i]
	}))
	if !proto.Equal(before, prev) {
		t.Error("prev was modified")
	}
	if a.Version != 2 {
		t.Fatalf("version %d: %v", a.Version, g.Explain())
	}
	if held(a, "a") >= 4 || held(a, "c") <= 2 {
		t.Errorf("got %s", routing.Format(a))
	}
	moved := slices.IndexFunc(g.Explain(), func(c routing.Change) bool {
		return c.Action == routing.Move && c.Reason == routing.Overloaded && c.From == "a" && c.FromUsed > 1.5 && c.To == "c"
	})
	if moved < 0 {
		t.Fatalf("not explained: %v", g.Explain())
	}
	c := g.Explain()[moved]
	if why, ok := g.Why(c.Start); !ok || why.Start != c.Start || why.Version != 2 {
		t.Errorf("Why: %v, %v", why, ok)
	}
}

func TestChurnIsBounded(t *testing.T) {
	prev := routing.EqualSplit([]string{"a", "b", "c", "d"}, 50)
	hot := func(i int) float64 { // a has nearly all load
		if i%4 == 0 {
			return 100
		}
		return 1
	}
	for _, churn := range []float64{-1, 0.02, 0.1, 0.3} {
		g := newGenerator(t, routing.Options{Churn: churn, HotShare: 100})
		a := generate(t, g, prev, []string{"a", "b", "c", "d"}, even(prev, hot))
		if d := routing.Diff(prev, a, g.State()); d.KeySpace > max(churn, 0)+1e-9 || churn > 0 && d.KeySpace < churn/2 {
			t.Errorf("churn %v: moved %v", churn, d)
		}
	}
	// In bounded-load mode the budget does not keep anybody above the bound.
	g := newGenerator(t, routing.Options{Churn: 0.02, HotShare: 100, Bound: 1.2})
	a := generate(t, g, prev, []string{"a", "b", "c", "d"}, even(prev, hot))
	used := map[string]float64{}
	total := 0.0
	for i, s := range g.State().Slices {
		total += s.Load
		for _, r := range a.Slices[i].Replicas {
			used[r] += s.Load / float64(len(a.Slices[i].Replicas))
		}
	}
	for r, x := range used {
		if x > 1.2*total/4 {
			t.Errorf("%s has %v of its share", r, x/total*4)
		}
	}
}

func TestWeights(t *testing.T) {
	g := newGenerator(t, routing.Options{Churn: 1})
	g.SetWeights(map[string]float64{"b": 3, "c": -1, "d": math.NaN()})
	replicas := []string{"a", "b", "c", "d"}
	want := map[string]float64{"a": 1. / 6, "b": 3. / 6, "c": 1. / 6, "d": 1. / 6}
	a := generate(t, g, nil, replicas, nil)
	if b := generate(t, g, a, replicas, nil); b != a {
		t.Errorf("not heeded at the start: %v", g.Explain())
	}
	// They change, and change back.
	g.SetWeights(nil)
	for range 5 {
		a = generate(t, g, a, replicas, even(a, func(int) float64 { return 1 }))
	}
	if n := held(a, "b"); n > 52 {
		t.Errorf("b holds %d of %d at weight 1", n, len(a.Slices))
	}
	g.SetWeights(map[string]float64{"b": 3})
	for range 5 {
		a = generate(t, g, a, replicas, even(a, func(int) float64 { return 1 }))
	}
	n := float64(len(a.Slices))
	for r, want := range want {
		if got := float64(held(a, r)) / n; math.Abs(got-want) > 0.06*want {
			t.Errorf("%s holds %.3f, want %.3f", r, got, want)
		}
	}
}

func TestDrainingGetsNothingNew(t *testing.T) {
	g := newGenerator(t, routing.Options{})
	replicas := []string{"a", "b", "c"}
	a := generate(t, g, nil, replicas, nil)
	g.SetDraining("c", "d")
	// d joins draining: it gets nothing at all.
	replicas = append(replicas, "d")
	for range 10 {
		before := held(a, "c")
		a = generate(t, g, a, replicas, even(a, func(int) float64 { return 1 }))
		if held(a, "c") > before || held(a, "d") > 0 {
			t.Fatalf("draining replicas hold %d (before %d) and %d", held(a, "c"), before, held(a, "d"))
		}
	}
	if held(a, "c") != 0 {
		t.Errorf("still holds %d", held(a, "c"))
	}
	// The last ones standing keep everything.
	g.SetDraining("a", "b")
	a = generate(t, g, a, []string{"a", "b"}, nil)
	if held(a, "a") == 0 || held(a, "b") == 0 {
		t.Errorf("all drain: %s", routing.Format(a))
	}
}

func TestHotKeyIsIsolatedReplicatedAndBack(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	c := newCluster(oneKey(10_000, rng), 10, 100_000, rng)
	hot := slices.Max(c.p)
	key := c.pos[slices.Index(c.p, hot)]
	c.observe()
	c.observe()
	table, err := routing.NewTable(c.a)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(table.Lookup(key)); n < 6 {
		t.Errorf("the key is held by %d", n)
	}
	if why, ok := c.gen.Why(key); !ok || why.Action != routing.Replicate || why.Reason != routing.HotKey || why.Parts != len(table.Lookup(key)) {
		t.Errorf("Why: %v, %v", why, ok)
	}
	if n := len(table.Lookup(key + 1<<57)); n != 1 {
		t.Errorf("its neighbours are held by %d", n)
	}
	// It cools: all keys are equal again.
	for i := range c.p {
		c.p[i] = 1 / float64(len(c.p))
	}
	for range 4 {
		c.observe()
	}
	if table, err = routing.NewTable(c.a); err != nil {
		t.Fatal(err)
	}
	if n := len(table.Lookup(key)); n != 1 {
		t.Errorf("after cooling the key is held by %d", n)
	}
}

// TestReplicatedReports: holders of a replicated slice count together, and those
// who did not report are made up for.
func TestReplicatedReports(t *testing.T) {
	prev := assignment(1, "a,b,c,d", "a", "b", "c", "d")
	l := even(prev, func(i int) float64 { return []float64{40, 10, 10, 10, 10}[i] })
	delete(l, "d")
	g := newGenerator(t, routing.Options{SlicesPerReplica: 1, HotShare: 10})
	generate(t, g, prev, []string{"a", "b", "c", "d"}, l)
	if got := g.State().Slices[0].Load; math.Abs(got-40) > 1e-6 {
		t.Errorf("load %v, want 40", got)
	}
	// What d alone holds is unknown, and guessed like the rest.
	if got := g.State().Slices[4].Load; got < 5 || got > 30 {
		t.Errorf("load %v of the slice without a report", got)
	}
}

// TestStaleReport: a report about another version counts where it overlaps, and
// says nothing about the rest.
func TestStaleReport(t *testing.T) {
	old := assignment(1, "a", "b", "a", "b")
	g := newGenerator(t, routing.Options{SlicesPerReplica: 4, HotShare: 10})
	prev := assignment(2, "a", "a", "b", "b", "a", "a", "b", "b")
	generate(t, g, prev, []string{"a", "b"}, even(old, func(i int) float64 { return float64(10 * (i + 1)) }))
	for i, want := range []float64{5, 5, 10, 10, 15, 15, 20, 20} {
		if got := g.State().Slices[i].Load; math.Abs(got-want) > 1e-6 {
			t.Errorf("slice %d: load %v, want %v", i, got, want)
		}
	}
}

// TestStaleReportOfReplicatedSlice: those who held it together are summed up,
// whoever holds it now; a current report counts alone.
func TestStaleReportOfReplicatedSlice(t *testing.T) {
	old := assignment(1, "a,b", "a,b", "a", "b")
	prev := assignment(2, "a", "a,b", "a", "b")
	g := newGenerator(t, routing.Options{SlicesPerReplica: 2, HotShare: 10})
	generate(t, g, prev, []string{"a", "b"}, even(old, func(i int) float64 { return 10 }))
	for i, s := range g.State().Slices {
		if math.Abs(s.Load-10) > 1e-6 {
			t.Errorf("slice %d: load %v", i, s.Load)
		}
	}
	g = newGenerator(t, routing.Options{SlicesPerReplica: 2, HotShare: 10})
	l := even(old, func(i int) float64 { return 10 })
	l["a"] = even(prev, func(i int) float64 { return 10 })["a"]
	generate(t, g, prev, []string{"a", "b"}, l)
	for i, s := range g.State().Slices {
		if math.Abs(s.Load-10) > 1e-6 {
			t.Errorf("a is current: slice %d: load %v", i, s.Load)
		}
	}
}

// TestReportOutOfOrder: entries in any order, and twice, with unknown ones in
// between, are counted once each.
func TestReportOutOfOrder(t *testing.T) {
	prev := assignment(1, "a", "b", "a", "b", "a", "a")
	l := even(prev, func(i int) float64 { return float64(10 + i) })
	a := l["a"].Load
	a = append(a, &protos.LoadReport_SliceLoad{Start: math.MaxUint64 - 5, End: math.MaxUint64, Load: 1e9, Size: 9}, a[1], a[0])
	slices.Reverse(a)
	l["a"].Load = a
	g := newGenerator(t, routing.Options{SlicesPerReplica: 3, HotShare: 10, Tolerance: 10})
	generate(t, g, prev, []string{"a", "b"}, l)
	for i, s := range g.State().Slices {
		if math.Abs(s.Load-float64(10+i)) > 1e-6 {
			t.Errorf("slice %d: load %v", i, s.Load)
		}
	}
}

// TestMemory: a slice without a report keeps its load, over a restart too; one
// whose holder reports others has few requests, not none.
func TestMemory(t *testing.T) {
	prev := assignment(1, "a", "a", "b", "b")
	g := newGenerator(t, routing.Options{SlicesPerReplica: 2, HotShare: 10})
	replicas := []string{"a", "b"}
	a := generate(t, g, prev, replicas, even(prev, func(int) float64 { return 10 }))
	restarted := newGenerator(t, routing.Options{SlicesPerReplica: 2, HotShare: 10})
	restarted.Restore(g.State())
	l := even(a, func(i int) float64 { return []float64{10, 0, 10, 10}[i] })
	delete(l, "b")
	generate(t, restarted, a, replicas, l)
	s := restarted.State().Slices
	if s[2].Load != 10 || s[3].Load != 10 {
		t.Errorf("forgot the loads of b: %v", s)
	}
	if s[1].Load <= 0 || s[1].Load > 5 {
		t.Errorf("the slice without requests has load %v", s[1].Load)
	}
}

// TestLeaverIsForgottenAtOnce: what a replica held is placed without waiting.
func TestLeaverIsForgottenAtOnce(t *testing.T) {
	g := newGenerator(t, routing.Options{})
	a := generate(t, g, nil, []string{"a", "b", "c"}, nil)
	b := generate(t, g, a, []string{"a", "c"}, nil)
	if held(b, "b") != 0 || held(b, "a") != 75 || held(b, "c") != 75 {
		t.Errorf("a %d, b %d, c %d", held(b, "a"), held(b, "b"), held(b, "c"))
	}
	for _, c := range g.Explain() {
		if c.Action != routing.Place || c.Reason != routing.Left {
			t.Errorf("unexpected change %v", c)
		}
	}
}

// TestCoarseAssignmentGetsFiner: what another deployer left, few wide slices, is
// cut and balanced within a few steps.
func TestCoarseAssignmentGetsFiner(t *testing.T) {
	for _, mk := range []func(int, *rand.Rand) *law{uniform, zipf(1.01), hotRange} {
		rng := rand.New(rand.NewPCG(4, 4))
		c := newCluster(mk(100_000, rng), 5, 50_000, rng)
		c.gen.Restore(routing.State{})
		c.a = assignment(7, c.replicas[0], c.replicas[1], c.replicas[0]+","+c.replicas[2], c.replicas[3], c.replicas[1], c.replicas[0], c.replicas[4], c.replicas[0])
		for range 8 {
			c.observe()
		}
		if r := c.ratio(); r > 1.06 {
			t.Errorf("%s: %v after 8 steps", c.name, r)
		}
	}
}

// TestShrinking: slices do not stay as many as for all the replicas there were.
func TestShrinking(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	c := newCluster(uniform(5_000, rng), 30, 60_000, rng)
	c.observe()
	c.replicas = c.replicas[:3]
	for range 50 {
		prev := c.a
		c.step(c.report(c.a, 3e5, 10, rng))
		if d := routing.Diff(prev, c.a, routing.State{}); d.KeySpace > 0.1 && prev.Version > 3 {
			t.Fatalf("moved %v", d)
		}
	}
	if n := len(c.a.Slices); n > 3*50*4 {
		t.Errorf("%d slices for 3 replicas", n)
	}
}

// TestBadReports: none of these changes more than it should, or breaks a rule.
func TestBadReports(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	prev := assignment(1, "a", "b", "a", "b")
	quarter := prev.Slices[1].Start
	good := func() loads { return even(prev, func(int) float64 { return 10 }) }
	split := func(xs ...*protos.LoadReport_SubsliceLoad) []*protos.LoadReport_SubsliceLoad { return xs }
	for name, sl := range map[string]*protos.LoadReport_SliceLoad{
		"nil":              nil,
		"NaN":              {Start: 0, End: quarter, Load: nan},
		"negative":         {Start: 0, End: quarter, Load: -5},
		"infinite":         {Start: 0, End: quarter, Load: inf},
		"unknown slice":    {Start: 7, End: 9, Load: 1000},
		"not its slice":    {Start: quarter, End: prev.Slices[2].Start, Load: 1000},
		"another extent":   {Start: 0, End: quarter / 2, Load: 1000},
		"backwards":        {Start: quarter, End: 0, Load: 1000},
		"splits unordered": {Start: 0, End: quarter, Load: 10, Splits: split(&protos.LoadReport_SubsliceLoad{Start: 9, Load: 5}, &protos.LoadReport_SubsliceLoad{Start: 8, Load: 5})},
		"splits outside":   {Start: 0, End: quarter, Load: 10, Splits: split(&protos.LoadReport_SubsliceLoad{Start: 0, Load: 5}, &protos.LoadReport_SubsliceLoad{Start: quarter + 1, Load: 5})},
		"splits NaN":       {Start: 0, End: quarter, Load: 10, Splits: split(&protos.LoadReport_SubsliceLoad{Start: 0, Load: nan}, &protos.LoadReport_SubsliceLoad{Start: 10, Load: 5})},
		"splits sum wrong": {Start: 0, End: quarter, Load: 10, Splits: split(&protos.LoadReport_SubsliceLoad{Start: 0, Load: 500}, &protos.LoadReport_SubsliceLoad{Start: quarter / 2, Load: 500})},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGenerator(t, routing.Options{SlicesPerReplica: 2, HotShare: 10})
			l := good()
			l["a"].Load = append([]*protos.LoadReport_SliceLoad{sl}, l["a"].Load[1:]...)
			generate(t, g, prev, []string{"a", "b"}, l)
			for i, s := range g.State().Slices {
				if !(s.Load >= 0 && s.Load < 20) {
					t.Errorf("slice %d: load %v", i, s.Load)
				}
			}
		})
	}
	t.Run("huge", func(t *testing.T) {
		g := newGenerator(t, routing.Options{})
		a := prev
		for range 5 {
			l := even(a, func(i int) float64 { return []float64{math.MaxFloat64, 1, 1e-300, 0}[i%4] })
			next := generate(t, g, a, []string{"a", "b"}, l)
			checkRules(t, a, next, []string{"a", "b"})
			a = next
		}
	})
	t.Run("huge for each of three", func(t *testing.T) {
		g := newGenerator(t, routing.Options{})
		a := assignment(1, "a", "b", "c")
		for _, s := range a.Slices {
			s.Replicas = []string{"a", "b", "c"}
		}
		for range 3 {
			restored := newGenerator(t, routing.Options{})
			restored.Restore(g.State())
			if is, was := restored.State(), g.State(); !slices.Equal(is.Slices, was.Slices) {
				t.Errorf("restored: %v, was %v", is, was)
			}
			l := even(a, func(i int) float64 { return []float64{math.MaxFloat64, 1e15}[i%2] })
			a = generate(t, g, a, []string{"a", "b", "c"}, l)
		}
	})
	t.Run("splits of next to nothing", func(t *testing.T) {
		g := newGenerator(t, routing.Options{})
		l := even(prev, func(i int) float64 { return []float64{1000, 1, 1, 1}[i] })
		l["a"].Load[0].Splits = split(&protos.LoadReport_SubsliceLoad{Load: 0}, &protos.LoadReport_SubsliceLoad{Start: quarter / 2, Load: math.SmallestNonzeroFloat64})
		checkRules(t, prev, generate(t, g, prev, []string{"a", "b"}, l), []string{"a", "b"})
		for i, s := range g.State().Slices {
			if !(s.Load >= 0 && s.Load <= 1000) {
				t.Errorf("slice %d: load %v", i, s.Load)
			}
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []routing.Options{
		{SlicesPerReplica: -1}, {Tolerance: -1}, {Tolerance: math.NaN()}, {Churn: math.Inf(1)},
		{HotShare: -1}, {Bound: 1}, {Bound: 0.5}, {Bound: math.NaN()},
	} {
		if _, err := routing.NewGenerator(o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}

// TestArbitrary runs what the fuzzer runs, on long random inputs.
func TestArbitrary(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 6))
	for range 3000 {
		tp := make(tape, 200+rng.IntN(2000))
		for i := range tp {
			tp[i] = byte(rng.Uint32())
		}
		g, err := routing.NewGenerator(tp.options())
		if err != nil {
			continue
		}
		g.Restore(tp.state())
		prev := tp.assignment()
		for len(tp) > 0 {
			replicas := tp.names()
			g.SetDraining(fmt.Sprintf("r%d", tp.byte()%12))
			next, err := g.Generate(prev, replicas, tp.loads(prev))
			if err != nil {
				break
			}
			checkRules(t, prev, next, replicas)
			prev = next
		}
	}
}

// TestSteadyStateDoesNotAllocate: reports that change nothing cost no memory.
func TestSteadyStateDoesNotAllocate(t *testing.T) {
	g := newGenerator(t, routing.Options{})
	replicas := []string{"a", "b", "c", "d"}
	a := generate(t, g, nil, replicas, nil)
	l := even(a, func(int) float64 { return 10 })
	generate(t, g, a, replicas, l)
	if n := testing.AllocsPerRun(20, func() {
		if generate(t, g, a, replicas, l) != a {
			t.Fatal("changed")
		}
	}); n > 3 { // Validate's map
		t.Errorf("%v allocations", n)
	}
}
