package routing_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/ServiceWeaver/weaver/runtime/protos"
	"github.com/weaverkit/weaverkit/routing"
)

func TestEqualSplit(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, 100} {
		var replicas []string
		for i := range n {
			replicas = append(replicas, fmt.Sprintf("r%03d", i))
		}
		rand.Shuffle(n, func(i, j int) { replicas[i], replicas[j] = replicas[j], replicas[i] })
		a := routing.EqualSplit(append(replicas, "", replicas[0]), 10)
		if err := routing.Validate(a); err != nil {
			t.Fatal(err)
		}
		if a.Version != 1 || len(a.Slices) != 10*n {
			t.Errorf("%d replicas: version %d, %d slices", n, a.Version, len(a.Slices))
		}
		lo, hi := uint64(math.MaxUint64), uint64(0)
		for i, s := range a.Slices {
			end := uint64(math.MaxUint64)
			if i+1 < len(a.Slices) {
				end = a.Slices[i+1].Start
			}
			lo, hi = min(lo, end-s.Start), max(hi, end-s.Start)
		}
		if hi-lo > 2 {
			t.Errorf("%d replicas: widths from %d to %d", n, lo, hi)
		}
		for _, r := range replicas {
			if held(a, r) != 10 {
				t.Errorf("%d replicas: %s holds %d slices", n, r, held(a, r))
			}
		}
	}
	if a := routing.EqualSplit(nil, 0); len(a.Slices) != 0 || a.Version != 1 {
		t.Errorf("without replicas: %v", a)
	}
}

func TestAppendingToReplicasDoesNotWriteIntoNeighbours(t *testing.T) {
	a := routing.EqualSplit([]string{"a", "b"}, 2)
	a.Slices[0].Replicas = append(a.Slices[0].Replicas, "x")
	if got := a.Slices[1].Replicas[0]; got != "b" {
		t.Errorf("slice 1 is held by %s", got)
	}
}

func TestValidate(t *testing.T) {
	if err := routing.Validate(nil); err == nil {
		t.Error("nil is valid")
	}
	if err := routing.Validate(&protos.Assignment{Version: 4}); err != nil {
		t.Errorf("no slices: %v", err)
	}
	bad := assignment(3, "a", "b,,b", "", "c")
	bad.Slices[3].Start = 1
	err := routing.Validate(bad)
	for _, want := range []string{"slice 1: empty", "slice 1: replica b twice", "slice 2: no replicas", "slice 3: starts at"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	if _, err := routing.NewTable(bad); err == nil {
		t.Error("NewTable takes an invalid assignment")
	}
	if _, err := routing.NewTable(nil); err == nil {
		t.Error("NewTable takes nil")
	}
	many := assignment(3, strings.Repeat("x,", 20)+"y")
	if _, err := routing.NewTable(many); err == nil {
		t.Error("NewTable takes duplicates")
	}
}

func TestDiff(t *testing.T) {
	a := assignment(1, "a", "b", "c", "d")
	for _, test := range []struct {
		to   *protos.Assignment
		want routing.Difference
	}{
		{a, routing.Difference{}},
		{assignment(2, "b", "b", "c", "d"), routing.Difference{KeySpace: 0.25, Load: 0.25, Ranges: 1}},
		{assignment(2, "a,b", "b", "c", "d"), routing.Difference{KeySpace: 0.125, Load: 0.125, Ranges: 1}},
		{assignment(2, "b", "c", "d", "a"), routing.Difference{KeySpace: 1, Load: 1, Ranges: 4}},
		{assignment(2, "a", "b"), routing.Difference{KeySpace: 0.75, Load: 0.75, Ranges: 3}},
		{&protos.Assignment{}, routing.Difference{}},
		{nil, routing.Difference{}},
	} {
		got := routing.Diff(a, test.to, routing.State{})
		if math.Abs(got.KeySpace-test.want.KeySpace) > 1e-9 || math.Abs(got.Load-test.want.Load) > 1e-9 || got.Ranges != test.want.Ranges {
			t.Errorf("to %v: %v, want %v", test.to, got, test.want)
		}
	}
	if got := routing.Diff(nil, a, routing.State{}); math.Abs(got.KeySpace-1) > 1e-9 || math.Abs(got.Load-1) > 1e-9 {
		t.Errorf("from nil: %v", got)
	}
	// With loads: the first half of the first slice has nine tenths.
	state := routing.State{Slices: []routing.SliceState{{Start: 0, Load: 90}, {Start: 1 << 61, Load: 10}}}
	got := routing.Diff(a, assignment(2, "b", "b", "c", "d"), state)
	if want := 0.9 + 0.1/7; math.Abs(got.Load-want) > 1e-6 {
		t.Errorf("load moved: %v, want %v", got.Load, want)
	}
}

func TestFormat(t *testing.T) {
	got := routing.Format(assignment(7, "a", "a,b", "b", "b"))
	for _, want := range []string{"version 7, 4 slices", "[0000000000000000, 4000000000000000)  25.00000%  a\n", "a b\n", "a: 2 slices, 37.500%\n", "b: 3 slices, 62.500%\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if got := routing.Format(nil); got != "version 0, 0 slices\n" {
		t.Errorf("nil: %q", got)
	}
}

// TestTableIsTheWeaveletsIndex compares with a binary search for the first end
// above the key, which is how the weavelet finds a slice.
func TestTableIsTheWeaveletsIndex(t *testing.T) {
	for _, n := range []int{16, 1000, 50_000} {
		for name, a := range layouts(n) {
			table, err := routing.NewTable(a)
			if err != nil {
				t.Fatal(err)
			}
			rng := rand.New(rand.NewPCG(1, uint64(n)))
			for range 20_000 {
				k := rng.IntN(len(a.Slices))
				end := uint64(math.MaxUint64)
				if k+1 < len(a.Slices) {
					end = a.Slices[k+1].Start
				}
				key := a.Slices[k].Start + rng.Uint64N(end-a.Slices[k].Start)
				if got := table.Find(key); got != k {
					t.Fatalf("%s, %d slices: %x is in %d, want %d", name, n, key, got, k)
				}
			}
		}
	}
	empty, err := routing.NewTable(&protos.Assignment{Version: 5})
	if err != nil || empty.Len() != 0 || empty.Version() != 5 || empty.Lookup(1) != nil || empty.Find(1) != -1 {
		t.Errorf("without slices: %v, %v", empty, err)
	}
}
