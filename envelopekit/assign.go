package envelopekit

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"github.com/ServiceWeaver/weaver/runtime/protos"
)

// An Assigner decides which replicas own which keys of a routed component.
//
// Assign is called when the replicas of a component change, and when
// [Deployment.Reassign] asks for it; not concurrently for one component, but
// concurrently for several. It returns the next assignment, or prev itself if
// nothing needs to change. prev is nil at first and must not be modified;
// replicas are addresses, sorted, at least one. The deployment sets the
// version: always one more than that of the last.
type Assigner interface {
	Assign(component string, replicas []string, prev *protos.Assignment) (*protos.Assignment, error)
}

// AssignerFunc is a function that is an [Assigner].
type AssignerFunc func(component string, replicas []string, prev *protos.Assignment) (*protos.Assignment, error)

// Assign calls the function.
func (f AssignerFunc) Assign(component string, replicas []string, prev *protos.Assignment) (*protos.Assignment, error) {
	return f(component, replicas, prev)
}

// EqualSplit is an [Assigner] that cuts the key space into equal slices, a
// power of two of them and at least eight for each replica, and deals them out
// in turn. It knows nothing of load, and moves most keys when the replicas
// change: it is the simplest thing that works.
func EqualSplit(_ string, replicas []string, _ *protos.Assignment) (*protos.Assignment, error) {
	if len(replicas) == 0 {
		return nil, errors.New("equal split: no replicas")
	}
	n := 1 << bits.Len(uint(len(replicas)*8-1))
	width := uint64(1) << (64 - bits.Len(uint(n-1)))
	split := make([]*protos.Assignment_Slice, n)
	for i := range split {
		split[i] = &protos.Assignment_Slice{Start: uint64(i) * width, Replicas: []string{replicas[i%len(replicas)]}}
	}
	return &protos.Assignment{Slices: split}, nil
}

// checkAssignment reports what a weavelet would choke on: slices that do not
// begin at 0 or do not rise, or a slice whose replicas are none, unknown or
// named twice.
func checkAssignment(a *protos.Assignment, replicas []string) error {
	if a == nil || len(a.Slices) == 0 {
		return errors.New("assignment has no slices")
	}
	if a.Slices[0].GetStart() != 0 {
		return fmt.Errorf("assignment begins at %#x, want 0", a.Slices[0].GetStart())
	}
	for i, s := range a.Slices {
		if i > 0 && s.GetStart() <= a.Slices[i-1].GetStart() {
			return fmt.Errorf("slice %d at %#x is not above slice %d at %#x", i, s.GetStart(), i-1, a.Slices[i-1].GetStart())
		}
		if len(s.GetReplicas()) == 0 {
			return fmt.Errorf("slice %d at %#x has no replicas", i, s.GetStart())
		}
		for j, r := range s.Replicas {
			if _, ok := slices.BinarySearch(replicas, r); !ok {
				return fmt.Errorf("slice %d at %#x names replica %s, which is not there", i, s.GetStart(), r)
			}
			if slices.Contains(s.Replicas[:j], r) {
				return fmt.Errorf("slice %d at %#x names replica %s twice", i, s.GetStart(), r)
			}
		}
	}
	return nil
}

// sameSlices reports whether two assignments differ in their versions at most.
func sameSlices(a, b *protos.Assignment) bool {
	return b != nil && slices.EqualFunc(a.Slices, b.Slices, func(x, y *protos.Assignment_Slice) bool {
		return x.Start == y.Start && slices.Equal(x.Replicas, y.Replicas)
	})
}
