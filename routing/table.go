package routing

import (
	"fmt"
	"math/bits"

	"github.com/ServiceWeaver/weaver/runtime/protos"
)

// A Table is an immutable index over an assignment: which replicas hold a key.
// It may be used by any number of goroutines. It copies what it needs, so the
// assignment may be changed afterwards.
//
// The index is a trie over the bits of the key. Each node is a radix table
// about as large as the number of slices below it, scaled to the range these
// slices take, so that evenly spread slices are found in one step and skewed
// ones in two or three; the last few slices are scanned.
type Table struct {
	version uint64
	starts  []uint64 // of slices, with a sentinel behind the last
	first   []uint32 // names[first[i]:first[i+1]] hold slice i
	names   []string
	nodes   []tableNode
	entries []uint32 // a slice to scan from, or nodeFlag and a node
}

// A tableNode covers the starts of slices [lo, hi]; entry (key-base)>>shift of
// its entries leads on.
type tableNode struct {
	base  uint64
	off   uint32 // of its first entry
	size  uint32 // number of entries
	lo    uint32 // the slice before base
	shift uint8
}

const (
	nodeFlag  = 1 << 31
	scanSlice = 6 // starts within one entry that are scanned one by one
)

// NewTable indexes a. It fails if a is invalid, see [Validate].
func NewTable(a *protos.Assignment) (*Table, error) {
	t := &Table{version: a.GetVersion()}
	all := a.GetSlices()
	n := len(all)
	if n >= nodeFlag {
		return nil, fmt.Errorf("index assignment version %d: %d slices are too many", t.version, n)
	}
	holders := 0
	ok := a != nil
	for i, s := range all {
		if s == nil || len(s.Replicas) == 0 || i == 0 && s.Start != 0 || i > 0 && ok && s.Start <= all[i-1].Start || s.Start == keySpaceEnd {
			ok = false
			break
		}
		for j, r := range s.Replicas {
			// Pairwise up to a few; Validate's map finds the rest.
			if r == "" || j == 1 && r == s.Replicas[0] {
				ok = false
			}
		}
		if len(s.Replicas) > 2 && hasDuplicate(s.Replicas) {
			ok = false
		}
		holders += len(s.Replicas)
	}
	if !ok {
		return nil, fmt.Errorf("index assignment: %w", Validate(a))
	}
	if n == 0 {
		return t, nil
	}
	t.starts = make([]uint64, n+1)
	t.first = make([]uint32, n+1)
	t.names = make([]string, 0, holders)
	for i, s := range all {
		t.starts[i] = s.Start
		t.first[i] = uint32(len(t.names))
		t.names = append(t.names, s.Replicas...)
	}
	t.first[n] = uint32(len(t.names))
	t.starts[n] = keySpaceEnd
	t.nodes = make([]tableNode, 0, 1+n/32)
	t.entries = make([]uint32, 0, 6*n+8)
	t.build(0, n-1)
	return t, nil
}

// keySpaceEnd is the exclusive end of the last slice.
const keySpaceEnd = 1<<64 - 1

// build adds the node for the starts lo..hi and returns its number. The
// recursion is at most 64 deep: a node's range is split at least in two.
func (t *Table) build(lo, hi int) uint32 {
	base := t.starts[lo]
	span := t.starts[hi] - base
	if lo == 0 {
		span = keySpaceEnd // the root takes any key
	}
	// Twice to four times as many entries as starts: most hold at most one.
	b := bits.Len(uint(hi-lo+1)) + 1
	shift := max(bits.Len64(span)-b, 0)
	size := int(span>>shift) + 1
	id := len(t.nodes)
	off := len(t.entries)
	before := max(lo-1, 0)
	t.nodes = append(t.nodes, tableNode{base: base, off: uint32(off), size: uint32(size), lo: uint32(before), shift: uint8(shift)})
	t.entries = append(t.entries, make([]uint32, size)...)
	i := lo
	for e := range size {
		// Entry e holds the starts in [from, to); scanning begins at the slice
		// that its first key falls into.
		j := i
		for j <= hi && (t.starts[j]-base)>>shift == uint64(e) {
			j++
		}
		v := uint32(max(i-1, 0))
		if i <= hi && j > i && (t.starts[i]-base) == uint64(e)<<shift {
			v = uint32(i)
		}
		if j-i > scanSlice && shift > 0 {
			v = nodeFlag | t.build(i, j-1)
		}
		t.entries[off+e] = v
		i = j
	}
	return uint32(id)
}

// Len returns the number of slices.
func (t *Table) Len() int { return len(t.first) - min(len(t.first), 1) }

// Version returns the version of the assignment.
func (t *Table) Version() uint64 { return t.version }

// Lookup returns the replicas that hold key, in the assignment's order. The
// result is shared: do not write to it. Like the weavelet's own index, a table
// finds no slice for the key MaxUint64, nor for any key if the assignment has
// no slices; the result is then nil. Key 0 lies in the first slice, although a
// weavelet treats a call with shard key 0 as not routed.
func (t *Table) Lookup(key uint64) []string {
	i := t.Find(key)
	if i < 0 {
		return nil
	}
	a, b := t.first[i], t.first[i+1]
	return t.names[a:b:b]
}

// Find returns the number of the slice that contains key, or -1.
func (t *Table) Find(key uint64) int {
	if key == keySpaceEnd || len(t.nodes) == 0 {
		return -1
	}
	n := &t.nodes[0]
	v := t.entries[n.off+uint32(key>>(n.shift&63))]
	for v&nodeFlag != 0 {
		n = &t.nodes[v&^nodeFlag]
		if key < n.base {
			return int(n.lo)
		}
		e := (key - n.base) >> (n.shift & 63)
		if e >= uint64(n.size) {
			e = uint64(n.size) - 1
		}
		v = t.entries[n.off+uint32(e)]
	}
	i := int(v)
	starts := t.starts
	for starts[i+1] <= key {
		i++
	}
	return i
}

// hasDuplicate is quadratic up to 16 names and uses a set beyond.
func hasDuplicate(names []string) bool {
	if len(names) <= 16 {
		for i, a := range names {
			for _, b := range names[:i] {
				if a == b {
					return true
				}
			}
		}
		return false
	}
	seen := make(map[string]struct{}, len(names))
	for _, n := range names {
		if _, dup := seen[n]; dup {
			return true
		}
		seen[n] = struct{}{}
	}
	return false
}
