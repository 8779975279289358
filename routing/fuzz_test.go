package routing_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/ServiceWeaver/weaver/runtime/protos"
	"github.com/weaverkit/weaverkit/routing"
	"google.golang.org/protobuf/proto"
)

// tape reads arbitrary values from the fuzzer's bytes.
type tape []byte

func (t *tape) byte() byte {
	if len(*t) == 0 {
		return 0
	}
	b := (*t)[0]
	*t = (*t)[1:]
	return b
}

// key returns keys of all magnitudes, often near others and near the ends.
func (t *tape) key() uint64 {
	b := t.byte()
	x := uint64(t.byte())<<56 | uint64(b)<<(b%56)
	switch b % 8 {
	case 0:
		return x
	case 1:
		return math.MaxUint64 - uint64(b)/8
	case 2:
		return uint64(b) / 8
	}
	return x + uint64(t.byte())
}

func (t *tape) load() float64 {
	switch b := t.byte(); b % 16 {
	case 0:
		return math.NaN()
	case 1:
		return math.Inf(1)
	case 2:
		return -float64(b)
	case 3:
		return math.MaxFloat64
	case 4:
		return math.SmallestNonzeroFloat64
	case 5:
		var raw [8]byte
		for i := range raw {
			raw[i] = t.byte()
		}
		return math.Float64frombits(binary.LittleEndian.Uint64(raw[:]))
	case 6:
		return 0
	default:
		return float64(b) * float64(t.byte())
	}
}

func (t *tape) names() []string {
	var names []string
	for range t.byte() % 12 {
		if b := t.byte() % 12; b == 0 {
			names = append(names, "")
		} else {
			names = append(names, fmt.Sprintf("r%d", b))
		}
	}
	return names
}

func (t *tape) assignment() *protos.Assignment {
	b := t.byte()
	if b == 0 {
		return nil
	}
	a := &protos.Assignment{Version: uint64(b % 4)}
	if b == 255 {
		a.Version = math.MaxUint64 - 1
	}
	var start uint64
	for range t.byte() % 40 {
		c := t.byte()
		if c == 0 {
			a.Slices = append(a.Slices, nil)
			continue
		}
		a.Slices = append(a.Slices, &protos.Assignment_Slice{Start: start, Replicas: t.names()})
		if c < 16 {
			start = t.key()
		} else {
			start += uint64(c) << 52
		}
	}
	return a
}

// loads are about slices of a, or about anything.
func (t *tape) loads(a *protos.Assignment) map[string]*protos.LoadReport_ComponentLoad {
	loads := map[string]*protos.LoadReport_ComponentLoad{}
	for range t.byte() % 8 {
		name := fmt.Sprintf("r%d", t.byte()%14)
		b := t.byte()
		if b == 0 {
			loads[name] = nil
			continue
		}
		rep := &protos.LoadReport_ComponentLoad{Version: a.GetVersion() + uint64(b%3) - 1}
		if b%2 == 0 {
			rep.Version = a.GetVersion()
		}
		for range t.byte() % 16 {
			sl := &protos.LoadReport_SliceLoad{Start: t.key(), End: t.key(), Load: t.load(), Size: uint64(t.byte())}
			if n := len(a.GetSlices()); n > 0 && b%4 != 1 {
				k := int(t.byte()) % n
				sl.Start, sl.End = a.Slices[k].GetStart(), math.MaxUint64
				if k+1 < n {
					sl.End = a.Slices[k+1].GetStart()
				}
			}
			start := sl.Start
			for range t.byte() % 22 {
				c := t.byte()
				if c == 0 {
					sl.Splits = append(sl.Splits, nil)
					continue
				}
				sl.Splits = append(sl.Splits, &protos.LoadReport_SubsliceLoad{Start: start, Load: t.load()})
				start += uint64(c) << (c % 56)
			}
			if b == 7 {
				sl = nil
			}
			rep.Load = append(rep.Load, sl)
		}
		loads[name] = rep
	}
	return loads
}

func (t *tape) state() routing.State {
	var s routing.State
	var start uint64
	for range t.byte() % 20 {
		s.Slices = append(s.Slices, routing.SliceState{Start: start, Load: t.load(), Evidence: t.load()})
		start += t.key() / 16
	}
	return s
}

func (t *tape) options() routing.Options {
	var o routing.Options
	if b := t.byte(); b&1 != 0 {
		o.SlicesPerReplica = 1 + int(b)/8
		o.Churn = float64(t.byte()%16)/16 - 0.1
		o.HotShare = float64(1+b%4) / 4
		o.Tolerance = float64(t.byte()%16) / 64
		if b&2 != 0 {
			o.Bound = 1.1
		}
	}
	return o
}

// checkRules fails t unless next may follow prev.
func checkRules(t *testing.T, prev, next *protos.Assignment, replicas []string) {
	t.Helper()
	if err := routing.Validate(next); err != nil {
		t.Fatal(err)
	}
	live := map[string]bool{}
	for _, r := range replicas {
		if r != "" {
			live[r] = true
		}
	}
	if (len(live) == 0) != (len(next.Slices) == 0) {
		t.Fatalf("%d slices for %d replicas", len(next.Slices), len(live))
	}
	for _, s := range next.Slices {
		for _, r := range s.Replicas {
			if !live[r] {
				t.Fatalf("slice %x has %s, not one of %v", s.Start, r, replicas)
			}
		}
	}
	if next == prev {
		return
	}
	if next.Version != prev.GetVersion()+1 {
		t.Fatalf("version %d → %d", prev.GetVersion(), next.Version)
	}
	if prev != nil {
		same := proto.Clone(next).(*protos.Assignment)
		same.Version = prev.Version
		if proto.Equal(canonical(same), canonical(prev)) {
			t.Fatalf("version rises from %d without a change", prev.Version)
		}
	}
}

// canonical returns a with the replicas of each slice in order.
func canonical(a *protos.Assignment) *protos.Assignment {
	a = proto.Clone(a).(*protos.Assignment)
	for _, s := range a.Slices {
		if s != nil {
			slices.Sort(s.Replicas)
		}
	}
	return a
}

// FuzzGenerate: whatever comes in, the rules hold, for three steps in a row,
// one of them after a restart; prev is not modified; and the same inputs give
// the same output.
func FuzzGenerate(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 3, 1, 2, 3})
	f.Add([]byte("\x00\x07\x05\x20\x01\x01\x20\x02\x01\x02\x20\x01\x01\x05\x01\x02\x03\x04\x05\x06\x07abcdefghijklmnopqrstuvwxyz"))
	f.Add([]byte("\x03\x07\x05\x14\x20\x01\x01\x20\x02\x01\x02\x20\x01\x01\x30\x02\x01\x02\x03\x04\x05\x06\x07\x02\x01\x04\x09zyxwvutsrqponmlkjihgfedcba0123456789"))
	f.Fuzz(func(t *testing.T, data []byte) {
		tp := tape(data)
		opts := tp.options()
		gen, err := routing.NewGenerator(opts)
		if err != nil {
			return
		}
		gen.Restore(tp.state())
		prev := tp.assignment()
		for step := range 3 {
			replicas := tp.names()
			loads := tp.loads(prev)
			weights := map[string]float64{"r1": tp.load(), "r2": tp.load()}
			var draining []string
			if b := tp.byte(); b&1 != 0 {
				draining = []string{fmt.Sprintf("r%d", b/2%12), "r3"}
			}
			twin, _ := routing.NewGenerator(opts)
			twin.Restore(gen.State())
			if step == 1 {
				gen.Restore(gen.State())
			}
			gen.SetWeights(weights)
			twin.SetWeights(weights)
			gen.SetDraining(draining...)
			twin.SetDraining(draining...)

			before := proto.Clone(prev).(*protos.Assignment)
			next, err := gen.Generate(prev, replicas, loads)
			if err != nil {
				if prev.GetVersion() != math.MaxUint64 {
					t.Fatal(err)
				}
				return
			}
			if prev != nil && !proto.Equal(before, prev) {
				t.Fatal("prev was modified")
			}
			checkRules(t, prev, next, replicas)
			slices.Reverse(replicas)
			again, err := twin.Generate(prev, replicas, loads)
			if err != nil || !proto.Equal(next, again) {
				t.Fatalf("not deterministic: %v\n%s%s", err, routing.Format(next), routing.Format(again))
			}
			for _, s := range gen.State().Slices {
				if !(s.Load >= 0) || math.IsInf(s.Load, 0) || !(s.Evidence >= 0) || math.IsInf(s.Evidence, 0) {
					t.Fatalf("remembers load %v, evidence %v", s.Load, s.Evidence)
				}
			}
			for _, c := range gen.Explain() {
				if c.Version != prev.GetVersion()+1 || c.String() == "" {
					t.Fatalf("change %v of version %d", c, next.Version)
				}
			}
			gen.Why(tp.key())
			prev = next
		}
	})
}

// FuzzTable: a table finds what a scan finds.
func FuzzTable(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16})
	f.Add([]byte("the quick brown fox jumps over the lazy dog and then some more of it"))
	f.Fuzz(func(t *testing.T, data []byte) {
		tp := tape(data)
		starts := []uint64{0}
		for len(tp) > 0 && len(starts) < 3000 {
			base := tp.key()
			starts = append(starts, base)
			// Clusters of every width.
			for range tp.byte() % 64 {
				base += 1 + uint64(tp.byte())<<(tp.byte()%48)
				starts = append(starts, base)
			}
		}
		slices.Sort(starts)
		starts = slices.Compact(starts)
		if starts[len(starts)-1] == math.MaxUint64 {
			starts = starts[:len(starts)-1]
		}
		a := &protos.Assignment{Version: 9}
		for i, s := range starts {
			a.Slices = append(a.Slices, &protos.Assignment_Slice{Start: s, Replicas: []string{fmt.Sprint(i)}})
		}
		table, err := routing.NewTable(a)
		if err != nil {
			t.Fatal(err)
		}
		if table.Len() != len(starts) || table.Version() != 9 {
			t.Fatalf("%d slices, version %d", table.Len(), table.Version())
		}
		check := func(key uint64) {
			want := -1
			if key != math.MaxUint64 {
				for i, s := range starts {
					if s <= key {
						want = i
					}
				}
			}
			if got := table.Find(key); got != want {
				t.Fatalf("Find(%x): %d, want %d", key, got, want)
			}
			if r := table.Lookup(key); want >= 0 && r[0] != fmt.Sprint(want) || want < 0 && r != nil {
				t.Fatalf("Lookup(%x): %v, want %d", key, r, want)
			}
		}
		for k := 0; k < len(starts); k += 1 + len(starts)/64 {
			check(starts[k])
			check(starts[k] - 1)
			check(starts[k] + 1)
		}
		for range 64 {
			check(tp.key() * 0x9e3779b97f4a7c15)
		}
		check(math.MaxUint64)
		check(math.MaxUint64 - 1)
	})
}
