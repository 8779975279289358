package envelopekit_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ServiceWeaver/weaver/runtime/protos"

	"github.com/weaverkit/weaverkit/envelopekit"
)

func replicaNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("tcp://10.0.%d.%d:80", i/100, i)
	}
	slices.Sort(names)
	return names
}

// EqualSplit covers the key space with slices of one width, at least eight for
// each replica, and no replica has more than one slice more than another.
func TestEqualSplit(t *testing.T) {
	for n := 1; n <= 300; n++ {
		replicas := replicaNames(n)
		a, err := envelopekit.EqualSplit("c", replicas, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := envelopekit.CheckAssignment(a, replicas); err != nil {
			t.Fatalf("%d replicas: %v", n, err)
		}
		count := len(a.Slices)
		if count&(count-1) != 0 || count < 8*n || count >= 16*n && n > 1 {
			t.Errorf("%d replicas: got %d slices", n, count)
		}
		has := map[string]int{}
		width := -a.Slices[count-1].Start // the last one reaches to 2^64
		for i, s := range a.Slices {
			if s.Start != uint64(i)*width || len(s.Replicas) != 1 {
				t.Fatalf("%d replicas: slice %d is %v, the last one is %d wide", n, i, s, width)
			}
			has[s.Replicas[0]]++
		}
		least, most := count, 0
		for _, r := range replicas {
			least, most = min(least, has[r]), max(most, has[r])
		}
		if least < 8 || most > least+1 {
			t.Errorf("%d replicas: one has %d slices, another %d", n, least, most)
		}
	}
	if a, err := envelopekit.EqualSplit("c", nil, nil); err == nil {
		t.Errorf("without replicas: got %v", a)
	}
}

func TestCheckAssignment(t *testing.T) {
	replicas := []string{"a", "b", "c"}
	slice := func(start uint64, replicas ...string) *protos.Assignment_Slice {
		return &protos.Assignment_Slice{Start: start, Replicas: replicas}
	}
	for _, test := range []struct {
		name   string
		slices []*protos.Assignment_Slice
		want   string
	}{
		{"one slice", []*protos.Assignment_Slice{slice(0, "a")}, ""},
		{"several replicas", []*protos.Assignment_Slice{slice(0, "c", "a"), slice(1, "b"), slice(1<<63, "b", "c")}, ""},
		{"none", nil, "assignment has no slices"},
		{"a gap at the start", []*protos.Assignment_Slice{slice(16, "a")}, "assignment begins at 0x10, want 0"},
		{"not rising", []*protos.Assignment_Slice{slice(0, "a"), slice(32, "a"), slice(32, "b")}, "slice 2 at 0x20 is not above slice 1 at 0x20"},
		{"nobody", []*protos.Assignment_Slice{slice(0)}, "slice 0 at 0x0 has no replicas"},
		{"nil", []*protos.Assignment_Slice{nil}, "slice 0 at 0x0 has no replicas"},
		{"a stranger", []*protos.Assignment_Slice{slice(0, "a"), slice(1, "x")}, "slice 1 at 0x1 names replica x, which is not there"},
		{"twice", []*protos.Assignment_Slice{slice(0, "a", "b", "a")}, "slice 0 at 0x0 names replica a twice"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := envelopekit.CheckAssignment(&protos.Assignment{Slices: test.slices}, replicas)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	if envelopekit.CheckAssignment(nil, replicas) == nil {
		t.Error("nil passed")
	}
}
