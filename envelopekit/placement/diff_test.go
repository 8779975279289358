package placement_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/weaverkit/weaverkit/envelopekit/placement"
)

func TestDiff(t *testing.T) {
	group := func(name string, replicas int, components ...string) placement.Group {
		return placement.Group{Name: name, Components: components, Replicas: replicas}
	}
	plan := func(groups ...placement.Group) placement.Plan { return placement.Plan{Groups: groups} }
	large := group("x", 1, "p/X")
	large.Resources = placement.Resources{CPU: 2, Memory: 1 << 30}
	for _, test := range []struct {
		name     string
		from, to placement.Plan
		want     string // lines
	}{
		{"nothing at all", plan(), plan(), "no changes"},
		{"the same in another order", plan(group("a", 1, "p/A"), group("x", 1, "p/X", "p/Y")), plan(group("x", 1, "p/Y", "p/X"), group("a", 1, "p/A")), "no changes"},
		{"new group", plan(), plan(group("x", 1, "p/X")), "+ group x"},
		{"group gone", plan(group("x", 1, "p/X")), plan(), "- group x"},
		{"renamed", plan(group("x", 1, "p/X")), plan(group("y", 1, "p/X")), "- group x\n+ group y\n> p.X: x -> y"},
		{"moved", plan(group("a", 1, "p/A", "p/B"), group("x", 1, "p/X")), plan(group("a", 1, "p/A"), group("x", 1, "p/B", "p/X")), "> p.B: a -> x"},
		{"component new in a group", plan(group("x", 1, "p/X")), plan(group("x", 1, "p/X", "p/Y")), "+ p.Y in group x"},
		{"component gone from a group", plan(group("x", 1, "p/X", "p/Y")), plan(group("x", 1, "p/X")), "- p.Y in group x"},
		{"scaled", plan(group("x", 1, "p/X")), plan(group("x", 3, "p/X")), "~ group x: replicas 1 -> 3"},
		{"resized", plan(group("x", 1, "p/X")), plan(large), "~ group x: resources - -> cpu=2,memory=1GiB"},
		{"everything, in order",
			plan(group("a", 1, "p/A", "p/B", "p/C"), group("old2", 1, "p/O2"), group("old1", 1, "p/O1"), group("x", 1, "p/X")),
			plan(group("new2", 1, "p/N2"), group("new1", 1, "p/N1", "p/A"), group("a", 2, "p/B", "p/D"), large),
			"- group old1\n- group old2\n+ group new1\n+ group new2\n- p.C in group a\n+ p.D in group a\n> p.A: a -> new1\n~ group a: replicas 1 -> 2\n~ group x: resources - -> cpu=2,memory=1GiB"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.from.Diff(test.to).String(); got != test.want+"\n" {
				t.Errorf("got\n%swant\n%s", got, test.want)
			}
		})
	}
}

// apply is what a Diff means: it changes a plan as the diff says, taking only
// what is in groups that are new as a whole from the new plan.
func apply(p, next placement.Plan, diff placement.Diff) map[string]string {
	groups := map[string][]string{}
	replicas := map[string]string{}
	for _, g := range p.Groups {
		groups[g.Name] = slices.Clone(g.Components)
		replicas[g.Name] = fmt.Sprint(g.Replicas)
	}
	home := map[string]string{}
	for _, g := range p.Groups {
		for _, c := range g.Components {
			home[c] = g.Name
		}
	}
	remove := func(g, c string) {
		groups[g] = slices.DeleteFunc(groups[g], func(x string) bool { return x == c })
	}
	for _, c := range diff {
		switch {
		case c.Kind == placement.Added && c.Component == "":
			g, _ := next.Group(c.Group)
			groups[c.Group] = nil
			for _, component := range g.Components {
				if home[component] == "" {
					groups[c.Group] = append(groups[c.Group], component)
				}
			}
			replicas[c.Group] = fmt.Sprint(g.Replicas)
		case c.Kind == placement.Added:
			groups[c.Group] = append(groups[c.Group], c.Component)
		case c.Kind == placement.Removed && c.Component == "":
			delete(groups, c.Group)
			delete(replicas, c.Group)
		case c.Kind == placement.Removed:
			remove(c.Group, c.Component)
		case c.Kind == placement.Moved:
			if _, ok := groups[c.From]; ok {
				remove(c.From, c.Component)
			}
			groups[c.Group] = append(groups[c.Group], c.Component)
		case c.Kind == placement.Replicas:
			replicas[c.Group] = c.To
		}
	}
	return render(groups, replicas)
}

func render(groups map[string][]string, replicas map[string]string) map[string]string {
	out := map[string]string{}
	for name, components := range groups {
		slices.Sort(components)
		out[name] = replicas[name] + " " + strings.Join(components, ",")
	}
	return out
}

// Applying the difference of two plans to the first gives the second.
func FuzzDiff(f *testing.F) {
	for seed := range uint64(50) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		randomPlan := func() placement.Plan {
			var p placement.Plan
			at := map[string]int{}
			for _, i := range rnd.Perm(rnd.IntN(12)) {
				name := fmt.Sprintf("g%d", rnd.IntN(5))
				if _, ok := at[name]; !ok {
					at[name] = len(p.Groups)
					p.Groups = append(p.Groups, placement.Group{Name: name, Replicas: rnd.IntN(3)})
				}
				g := &p.Groups[at[name]]
				g.Components = append(g.Components, fmt.Sprintf("p/C%d", i))
			}
			return p
		}
		from, to := randomPlan(), randomPlan()
		diff := from.Diff(to)
		got, want := apply(from, to, diff), apply(to, to, nil)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("from %+v\nto %+v\ndiff\n%sgives %v\nwant  %v", from, to, diff, got, want)
		}
		if again := to.Diff(to); len(again) != 0 {
			t.Errorf("a plan differs from itself:\n%s", again)
		}
	})
}
