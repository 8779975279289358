package placement

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
)

// An Edge says that component From holds a reference to component To.
type Edge struct {
	From, To string
}

// An Input is what a placement may look at. Policies do not modify it.
type Input struct {
	// Components are the full names of all components, Main among them, each
	// once.
	Components []string

	// Edges are the references between components.
	Edges []Edge

	// Colocate are the configuration's lists of components that are to share
	// a group. Only [Colocated] and [ByCallGraph] heed it.
	Colocate [][]string

	// Calls are the calls counted on each edge, for instance over the last
	// hour of an earlier deployment. Counts that are not positive and finite,
	// and edges of other components, are ignored. Only [ByCallGraph] heeds it.
	Calls map[Edge]float64

	// Replicas is the replica count of groups that ReplicasOf does not name.
	// Zero means 1.
	Replicas int

	// ReplicasOf and ResourcesOf hold values for single groups, by group name
	// or by the full name of a component in the group. For a group that is
	// named in several ways the group's name wins, then the largest value.
	ReplicasOf  map[string]int
	ResourcesOf map[string]Resources
}

// A Policy makes a plan. It must be a pure function of its input.
type Policy func(Input) (Plan, error)

// Place calls the function. It makes a Policy usable where an interface with
// this method is asked for.
func (p Policy) Place(in Input) (Plan, error) { return p(in) }

// PerComponent gives every component a group of its own.
func PerComponent(in Input) (Plan, error) {
	return finish(in, newSets(in.Components))
}

// Together puts all components into one group.
func Together(in Input) (Plan, error) {
	sets := newSets(in.Components)
	for _, c := range in.Components {
		sets.union(in.Components[0], c)
	}
	return finish(in, sets)
}

// Colocated puts together what in.Colocate lists together; every other
// component gets a group of its own. It is what Service Weaver's own deployers
// do, and refuses a list that names an unknown component, or one twice.
func Colocated(in Input) (Plan, error) {
	sets, err := colocate(in)
	if err != nil {
		return Plan{}, err
	}
	return finish(in, sets)
}

// CallGraphOptions bounds [ByCallGraph].
type CallGraphOptions struct {
	// MaxComponents is the most components a group may hold. Zero means 4.
	MaxComponents int

	// MinShare is the share of all calls, in [0,1], that a pair of groups must
	// exchange to be put together. Zero means 0.05.
	MinShare float64
}

// ByCallGraph returns a policy that keeps chatty pairs together: beginning
// with the configuration's colocate lists, it merges again and again the two
// groups that exchange the most calls, until no pair is left that exchanges
// MinShare of all calls and fits into MaxComponents. (This is greedy
// agglomerative clustering; ties go to the alphabetically first pair.) Without
// call counts every reference counts as one call. A colocate list that is
// longer than MaxComponents is kept together, and gets no company.
func ByCallGraph(opts CallGraphOptions) Policy {
	maxSize := cmp.Or(opts.MaxComponents, 4)
	minShare := cmp.Or(opts.MinShare, 0.05)
	return func(in Input) (Plan, error) {
		if maxSize < 1 || minShare < 0 || minShare > 1 || math.IsNaN(minShare) {
			return Plan{}, fmt.Errorf("placement by call graph: MaxComponents %d must be at least 1 and MinShare %g within [0,1]", maxSize, minShare)
		}
		sets, err := colocate(in)
		if err != nil {
			return Plan{}, err
		}
		pairs, total := weights(in, sets)
		for {
			p, ok := chattiest(sets, pairs, maxSize)
			if !ok || p.calls/total < minShare {
				break
			}
			sets.union(p.a, p.b)
			pairs = contract(pairs, p)
		}
		return finish(in, sets)
	}
}

// A pair is two sets, by their representatives, and the calls between them.
type pair struct {
	a, b  string // a < b
	calls float64
}

// weights returns the pairs of sets that exchange calls, and the sum of all
// calls between known, distinct components. Sums are taken in a fixed order:
// sums of floats depend on it, and the same input is to give the same plan.
func weights(in Input, sets *sets) ([]pair, float64) {
	calls := in.Calls
	if len(calls) == 0 {
		calls = make(map[Edge]float64, len(in.Edges))
		for _, e := range in.Edges {
			calls[e] = 1
		}
	}
	var pairs []pair
	var total float64
	at := map[Edge]int{}
	for _, e := range slices.SortedFunc(maps.Keys(calls), compareEdges) {
		n := calls[e]
		if !(n > 0) || math.IsInf(n, 0) || e.From == e.To || !sets.has(e.From) || !sets.has(e.To) {
			continue
		}
		total += n
		x, y := sets.find(e.From), sets.find(e.To)
		if x == y {
			continue
		}
		key := Edge{From: min(x, y), To: max(x, y)}
		if i, ok := at[key]; ok {
			pairs[i].calls += n
			continue
		}
		at[key] = len(pairs)
		pairs = append(pairs, pair{key.From, key.To, n})
	}
	return pairs, total
}

// chattiest returns the pair that exchanges the most calls, of those that
// together have at most maxSize components.
func chattiest(sets *sets, pairs []pair, maxSize int) (best pair, ok bool) {
	for _, p := range pairs {
		better := !ok || p.calls > best.calls ||
			p.calls == best.calls && cmp.Or(cmp.Compare(p.a, best.a), cmp.Compare(p.b, best.b)) < 0
		if better && sets.size(p.a)+sets.size(p.b) <= maxSize {
			best, ok = p, true
		}
	}
	return best, ok
}

// contract returns the pairs after the sets of merged have become one, of
// which merged.a is the representative. It overwrites pairs.
func contract(pairs []pair, merged pair) []pair {
	at := map[string]int{} // where kept has the pair of merged and another set
	kept := pairs[:0]
	for _, p := range pairs {
		a, b := p.a, p.b
		if a == merged.b {
			a = merged.a
		}
		if b == merged.b {
			b = merged.a
		}
		switch {
		case a == b: // merged itself
		case a != merged.a && b != merged.a:
			kept = append(kept, p)
		default:
			a, b = min(a, b), max(a, b)
			other := a
			if a == merged.a {
				other = b
			}
			if i, ok := at[other]; ok {
				kept[i].calls += p.calls
				continue
			}
			at[other] = len(kept)
			kept = append(kept, pair{a, b, p.calls})
		}
	}
	return kept
}

func compareEdges(x, y Edge) int {
	return cmp.Or(cmp.Compare(x.From, y.From), cmp.Compare(x.To, y.To))
}

// colocate returns the sets that in.Colocate asks for.
func colocate(in Input) (*sets, error) {
	sets := newSets(in.Components)
	var errs []error
	seen := map[string]int{}
	for i, list := range in.Colocate {
		for _, c := range list {
			if !sets.has(c) {
				errs = append(errs, fmt.Errorf("colocate list %d names component %q, which the application does not have", i+1, c))
				continue
			}
			if before, dup := seen[c]; dup && before == i+1 {
				errs = append(errs, fmt.Errorf("component %q is in colocate list %d twice", c, before))
				continue
			} else if dup {
				errs = append(errs, fmt.Errorf("component %q is in colocate lists %d and %d", c, before, i+1))
				continue
			}
			seen[c] = i + 1
			sets.union(list[0], c)
		}
	}
	return sets, errors.Join(errs...)
}

// finish turns sets into a plan: names, replicas, resources, order.
func finish(in Input, sets *sets) (Plan, error) {
	if !sets.has(Main) {
		return Plan{}, fmt.Errorf("the application has no main component, %s", Main)
	}
	members := map[string][]string{}
	for _, c := range in.Components {
		root := sets.find(c)
		members[root] = append(members[root], c)
	}
	var plan Plan
	taken := map[string]int{}
	for _, root := range slices.Sorted(maps.Keys(members)) {
		g := Group{Components: members[root]}
		slices.Sort(g.Components)
		g.Main = slices.Contains(g.Components, Main)
		plan.Groups = append(plan.Groups, g)
		taken[shortName(g)]++
	}
	for i := range plan.Groups {
		g := &plan.Groups[i]
		// The short name is what people type; two components that share it
		// (a/shop/Cart, b/shop/Cart) keep their full names.
		if g.Name = shortName(*g); taken[g.Name] > 1 && !g.Main {
			g.Name = g.Components[0]
		}
		g.Replicas = replicas(in, *g)
		g.Resources = resources(in, *g)
	}
	plan.sort()
	if err := plan.Validate(in); err != nil {
		return Plan{}, err
	}
	return plan, nil
}

func shortName(g Group) string {
	if g.Main {
		return MainGroup
	}
	return Shorten(g.Components[0])
}

func replicas(in Input, g Group) int {
	if n, ok := in.ReplicasOf[g.Name]; ok {
		return n
	}
	n, named := 0, false
	for _, c := range g.Components {
		if m, ok := in.ReplicasOf[c]; ok {
			n, named = max(n, m), true
		}
	}
	if named {
		return n
	}
	return cmp.Or(in.Replicas, 1)
}

func resources(in Input, g Group) Resources {
	if r, ok := in.ResourcesOf[g.Name]; ok {
		return r
	}
	var r Resources
	for _, c := range g.Components {
		r.CPU = max(r.CPU, in.ResourcesOf[c].CPU)
		r.Memory = max(r.Memory, in.ResourcesOf[c].Memory)
	}
	return r
}

// sets is a union-find over component names whose representative is always the
// alphabetically first member, so that results do not depend on map order.
type sets struct {
	parent map[string]string
	count  map[string]int
}

func newSets(components []string) *sets {
	s := &sets{parent: make(map[string]string, len(components)), count: make(map[string]int, len(components))}
	for _, c := range components {
		s.parent[c], s.count[c] = c, 1
	}
	return s
}

func (s *sets) has(c string) bool    { _, ok := s.parent[c]; return ok }
func (s *sets) size(root string) int { return s.count[root] }

func (s *sets) find(c string) string {
	for s.parent[c] != c {
		s.parent[c] = s.parent[s.parent[c]] // halve the path
		c = s.parent[c]
	}
	return c
}

func (s *sets) union(a, b string) {
	a, b = s.find(a), s.find(b)
	if a == b {
		return
	}
	if b < a {
		a, b = b, a
	}
	s.parent[b] = a
	s.count[a] += s.count[b]
}
