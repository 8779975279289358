package routing

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/ServiceWeaver/weaver/runtime/protos"
)

// DefaultSlicesPerReplica is the number of slices that [EqualSplit] and a
// [Generator] with zero Options aim at for every replica.
const DefaultSlicesPerReplica = 50

// EqualSplit returns the starting assignment: the key space cut into
// perReplica slices of equal width per replica, dealt out in turn, so that
// every replica has the same number of slices and a hot range of keys falls on
// many replicas. Empty and duplicate addresses are ignored and order does not
// matter. perReplica ≤ 0 means [DefaultSlicesPerReplica].
//
// The version is 1, the first one. Without replicas the assignment has no
// slices.
func EqualSplit(replicas []string, perReplica int) *protos.Assignment {
	if perReplica <= 0 {
		perReplica = DefaultSlicesPerReplica
	}
	names := liveNames(replicas)
	n := len(names) * perReplica
	a := newAssignment(1, n, n)
	if n == 0 {
		return a.Assignment
	}
	for i := range n {
		// i * 2^64 / n without overflow, so widths differ by at most one key.
		a.add(mulDiv64(uint64(i), uint64(n)), names[i%len(names)])
	}
	return a.Assignment
}

// Validate reports what makes a unfit to be published: a nil assignment or
// slice, a first slice that does not start at 0, slices out of order, a slice
// without replicas (the weavelet panics on one), and empty or duplicate
// replicas within a slice. It returns nil for an assignment without slices,
// which is what a component without replicas has.
//
// At most ten faults are listed.
func Validate(a *protos.Assignment) error {
	if a == nil {
		return errors.New("validate assignment: nil")
	}
	var errs []error
	report := func(i int, format string, args ...any) {
		errs = append(errs, fmt.Errorf("validate assignment version %d: slice %d: %s", a.Version, i, fmt.Sprintf(format, args...)))
	}
	seen := map[string]int{} // replica → last slice that named it, plus one
	var last uint64
	for i, s := range a.Slices {
		if len(errs) >= 10 {
			break
		}
		if s == nil {
			report(i, "nil")
			continue
		}
		switch {
		case i == 0 && s.Start != 0:
			report(i, "starts at %#016x, not at 0", s.Start)
		case i > 0 && s.Start <= last:
			report(i, "starts at %#016x, not after %#016x", s.Start, last)
		}
		// [MaxUint64, MaxUint64) is empty: the end of the space is exclusive.
		if s.Start == math.MaxUint64 {
			report(i, "starts at the end of the key space")
		}
		last = s.Start
		if len(s.Replicas) == 0 {
			report(i, "no replicas")
		}
		for _, r := range s.Replicas {
			if r == "" {
				report(i, "empty replica address")
			}
			if seen[r] == i+1 {
				report(i, "replica %s twice", r)
			}
			seen[r] = i + 1
		}
	}
	return errors.Join(errs...)
}

// Format renders a as a table for people: one line a slice with its range, its
// share of the key space and its replicas, and one line a replica with its
// number of slices and share.
func Format(a *protos.Assignment) string {
	var b strings.Builder
	fmt.Fprintf(&b, "version %d, %d slices\n", a.GetVersion(), len(a.GetSlices()))
	type holding struct {
		slices int
		share  float64
	}
	held := map[string]holding{}
	all := a.GetSlices()
	for i, s := range all {
		end := uint64(math.MaxUint64)
		if i+1 < len(all) {
			end = all[i+1].GetStart()
		}
		w := width(s.GetStart(), end)
		fmt.Fprintf(&b, "[%016x, %016x) %9.5f%%  %s\n", s.GetStart(), end, 100*w, strings.Join(s.GetReplicas(), " "))
		for _, r := range s.GetReplicas() {
			h := held[r]
			h.slices++
			h.share += w / float64(len(s.GetReplicas()))
			held[r] = h
		}
	}
	names := make([]string, 0, len(held))
	for r := range held {
		names = append(names, r)
	}
	slices.Sort(names)
	for _, r := range names {
		fmt.Fprintf(&b, "%s: %d slices, %.3f%%\n", r, held[r].slices, 100*held[r].share)
	}
	return b.String()
}

// width returns the share of the key space in [start, end).
func width(start, end uint64) float64 {
	if end <= start {
		return 0
	}
	return float64(end-start) * 0x1p-64
}

// builder fills an assignment whose slices and replicas live in two blocks, so
// that 50,000 slices cost a handful of allocations.
type builder struct {
	*protos.Assignment
	block []protos.Assignment_Slice
	names []string
}

func newAssignment(version uint64, slices, holders int) *builder {
	b := &builder{Assignment: &protos.Assignment{Version: version}}
	if slices > 0 {
		b.block = make([]protos.Assignment_Slice, slices)
		b.names = make([]string, 0, holders)
		b.Slices = make([]*protos.Assignment_Slice, 0, slices)
	}
	return b
}

// open starts a slice; name adds replicas to it.
func (b *builder) open(start uint64) *protos.Assignment_Slice {
	s := &b.block[len(b.Slices)]
	s.Start = start
	n := len(b.names)
	s.Replicas = b.names[n:n:n]
	b.Slices = append(b.Slices, s)
	return s
}

func (b *builder) name(s *protos.Assignment_Slice, replica string) {
	from := len(b.names) - len(s.Replicas)
	b.names = append(b.names, replica)
	// The capacity ends with the slice's own names: a caller who appends to
	// Replicas gets a copy and cannot write into a neighbour.
	s.Replicas = b.names[from:len(b.names):len(b.names)]
}

func (b *builder) add(start uint64, replica string) { b.name(b.open(start), replica) }
