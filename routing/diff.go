package routing

import (
	"math"

	"github.com/ServiceWeaver/weaver/runtime/protos"
)

// A Difference says what changes for callers between two assignments. A key
// moves to the extent that its requests reach replicas that did not hold it
// before: from {a} to {b} moves all of it, from {a} to {a, b} half, and from
// {a, b} to {a} nothing.
type Difference struct {
	KeySpace float64 // share of the key space that moves, 0 to 1
	Load     float64 // share of the load that moves, 0 to 1
	Ranges   int     // ranges of keys whose set of replicas differs
}

// Diff compares two assignments. The load of keys is taken from loads, usually
// [Generator.State]; where that knows nothing, load is taken to be even. Either
// assignment may be nil or without slices: then nothing can be held by it, and
// all keys of the other count as moved. Both must be sorted, see [Validate].
func Diff(from, to *protos.Assignment, loads State) Difference {
	var d Difference
	a, b := from.GetSlices(), to.GetSlices()
	if len(b) == 0 {
		return d
	}
	var mem memory
	mem.restore(loads)
	var ia, ib, im int
	var start uint64
	var total, moved float64
	held := make(map[string]bool)
	heldOf := -1
	for start < math.MaxUint64 {
		// The range from start that lies within one slice of each.
		end := uint64(math.MaxUint64)
		for ia+1 < len(a) && a[ia+1].GetStart() <= start {
			ia++
		}
		for ib+1 < len(b) && b[ib+1].GetStart() <= start {
			ib++
		}
		for im+1 < len(mem.start) && mem.start[im+1] <= start {
			im++
		}
		if ia+1 < len(a) {
			end = min(end, a[ia+1].GetStart())
		}
		if ib+1 < len(b) {
			end = min(end, b[ib+1].GetStart())
		}
		load := width(start, end)
		if len(mem.start) > 0 {
			memEnd := mem.end(im)
			end = min(end, memEnd)
			load = mem.load[im] * width(start, end) / width(mem.start[im], memEnd)
		}
		if heldOf != ia {
			clear(held)
			if len(a) > 0 {
				for _, r := range a[ia].GetReplicas() {
					held[r] = true
				}
			}
			heldOf = ia
		}
		fresh, same := 0, 0
		for _, r := range b[ib].GetReplicas() {
			if held[r] {
				same++
			} else {
				fresh++
			}
		}
		total += load
		if n := fresh + same; n > 0 {
			f := float64(fresh) / float64(n)
			d.KeySpace += f * width(start, end)
			moved += f * load
		}
		if fresh > 0 || same != len(held) {
			d.Ranges++
		}
		start = end
	}
	if total > 0 {
		d.Load = moved / total
	}
	return d
}
