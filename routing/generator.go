package routing

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/ServiceWeaver/weaver/runtime/protos"
)

// Options tune a [Generator]. The zero value is what to start with.
type Options struct {
	// SlicesPerReplica is how fine the key space is cut: load moves in pieces
	// of about 1/SlicesPerReplica of a replica's share. More slices balance
	// better and cost memory in every weavelet. Zero means
	// DefaultSlicesPerReplica.
	SlicesPerReplica int

	// Tolerance is how far above its share, as a fraction, a replica's load may
	// be before load is moved away from it. Zero means 0.03. Where the reports
	// hold so few requests that chance alone explains more, up to 0.08 is
	// tolerated.
	Tolerance float64

	// Churn is the share of the key space that one step may move for the sake
	// of balance. Keys of replicas that left do not count, nor do those given
	// to a replica that holds nothing yet. Zero means 0.1; negative means that
	// nothing is moved for balance.
	Churn float64

	// HotShare is the load, as a fraction of a replica's share, above which a
	// slice that cannot be cut is given to more replicas. Zero means 0.1, or two
	// and a half slices of usual size if that is more.
	HotShare float64

	// Bound, if above 1, turns on bounded-load mode: moves that bring a replica
	// down to Bound times its share are made even when Churn is used up.
	Bound float64
}

func (o Options) withDefaults() (Options, error) {
	bad := func(x float64) bool { return math.IsNaN(x) || math.IsInf(x, 0) }
	switch {
	case o.SlicesPerReplica < 0:
		return o, fmt.Errorf("routing options: SlicesPerReplica %d is negative", o.SlicesPerReplica)
	case bad(o.Tolerance) || o.Tolerance < 0:
		return o, fmt.Errorf("routing options: Tolerance %v is not a fraction", o.Tolerance)
	case bad(o.Churn):
		return o, fmt.Errorf("routing options: Churn %v is not a fraction", o.Churn)
	case bad(o.HotShare) || o.HotShare < 0:
		return o, fmt.Errorf("routing options: HotShare %v is not a fraction", o.HotShare)
	case bad(o.Bound) || o.Bound != 0 && o.Bound <= 1:
		return o, fmt.Errorf("routing options: Bound %v is not above 1", o.Bound)
	}
	if o.SlicesPerReplica == 0 {
		o.SlicesPerReplica = DefaultSlicesPerReplica
	}
	if o.Tolerance == 0 {
		o.Tolerance = 0.03
	}
	if o.Churn == 0 {
		o.Churn = 0.1
	}
	if o.HotShare == 0 {
		o.HotShare = max(0.1, 2.5/float64(o.SlicesPerReplica))
	}
	return o, nil
}

// A Generator makes the assignments of one routed component. It does no I/O
// and never reads the clock: what it returns depends on its options, on what it
// was told and on the calls before. It is not safe for concurrent use.
type Generator struct {
	opts     Options
	weights  map[string]float64
	draining map[string]bool
	mem      memory
	hist     history
	step     step // scratch, kept for its memory only
}

// NewGenerator returns a generator that remembers nothing. It fails if opts
// make no sense.
func NewGenerator(opts Options) (*Generator, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Generator{opts: opts}, nil
}

// SetWeights replaces the capacities of replicas: one with weight 2 gets twice
// the load of one with weight 1. Replicas that are not in the map, and weights
// that are not positive and finite, count as 1.
func (g *Generator) SetWeights(weights map[string]float64) {
	g.weights = make(map[string]float64, len(weights))
	for r, w := range weights {
		if w > 0 && !math.IsInf(w, 0) {
			g.weights[r] = min(max(w, 1e-6), 1e6)
		}
	}
}

// SetDraining replaces the set of replicas that are to be emptied: they get
// nothing new and lose what they hold as fast as Options.Churn allows. If all
// replicas drain, none does.
func (g *Generator) SetDraining(replicas ...string) {
	g.draining = make(map[string]bool, len(replicas))
	for _, r := range replicas {
		g.draining[r] = true
	}
}

// State returns a copy of what the generator remembers.
func (g *Generator) State() State { return g.mem.state() }

// Restore replaces what the generator remembers by s. Slices of s that are out
// of order and loads that are no numbers are left out.
func (g *Generator) Restore(s State) {
	g.mem.restore(s)
	g.hist.reset()
}

// Explain returns what the last call of Generate changed, and why, in the order
// it was decided.
func (g *Generator) Explain() []Change {
	return slices.Clone(g.hist.log[g.hist.last:])
}

// Why returns the last change to the slice of the newest assignment that holds
// key: why it is where it is, or has the extent it has. It reports false for a
// slice that is as it was when the generator first saw it.
func (g *Generator) Why(key uint64) (Change, bool) {
	i, ok := slices.BinarySearch(g.mem.start, key)
	if !ok {
		i--
	}
	if i < 0 || g.mem.why[i] < 0 {
		return Change{}, false
	}
	return g.hist.log[g.mem.why[i]], true
}

// ErrVersion is returned by [Generator.Generate] when the assignment has to
// change and its version cannot rise any more.
var ErrVersion = errors.New("assignment version cannot rise")

// Generate returns the assignment that follows prev, for the given replicas
// and the loads they reported since prev was made, by replica address.
//
// If nothing needs to change it returns prev itself; otherwise the result is
// new, shares nothing with prev, and its version is prev's plus one. prev is
// never modified. It may be nil (the result is then [EqualSplit]) or invalid:
// it is repaired, and [Generator.Explain] says so. Without replicas the result
// has no slices. The order of replicas does not matter; empty and duplicate
// ones are ignored.
//
// loads may be nil or lack replicas, whose slices then keep the load that is
// remembered. Reports are checked and corrected, not trusted. A report must be
// handed in once only: it counts as a new observation.
//
// The only error is [ErrVersion].
func (g *Generator) Generate(prev *protos.Assignment, replicas []string, loads map[string]*protos.LoadReport_ComponentLoad) (*protos.Assignment, error) {
	s := &g.step
	s.begin(g, prev, replicas)
	defer s.end()

	empty := len(prev.GetSlices()) == 0
	if !empty && s.live > 0 {
		s.parse(prev)
		s.remember(&g.mem)
		g.hist.begin(s.segs)
		s.repair()
		s.observe(loads)
		s.balance()
	} else {
		s.changed = prev == nil || !empty || s.live > 0
	}
	if s.changed && prev.GetVersion() == math.MaxUint64 {
		g.hist.reset()
		g.mem.reset()
		return nil, fmt.Errorf("generate assignment after version %d: %w", prev.GetVersion(), ErrVersion)
	}
	switch {
	case s.live == 0:
		g.hist.reset()
		g.mem.reset()
		if s.changed {
			return newAssignment(s.version, 0, 0).Assignment, nil
		}
		return prev, nil
	case empty:
		return g.start(s), nil
	}
	s.save(&g.mem)
	if !s.changed {
		return prev, nil
	}
	return s.build(), nil
}

// start makes the first assignment: the equal split, or one like it that heeds
// capacities.
func (g *Generator) start(s *step) *protos.Assignment {
	n := s.active * g.opts.SlicesPerReplica
	b := newAssignment(s.version, n, n)
	g.hist.reset()
	g.mem.reset()
	why := g.hist.add(Change{Version: s.version, Action: Place, Reason: Started, End: keySpaceEnd})
	// Each slice goes to the replica that is served least with it. With equal
	// capacities that is one after the other.
	s.cold.reset(len(s.names))
	for r, c := range s.capacity {
		if c > 0 {
			s.cold.set(int32(r), 1/c)
		}
	}
	for i := range n {
		r := s.cold.top()
		s.cold.set(r, s.cold.key[r]+1/s.capacity[r])
		start := mulDiv64(uint64(i), uint64(n))
		b.add(start, s.names[r])
		g.mem.add(start, 0, 0, why)
	}
	return b.Assignment
}
