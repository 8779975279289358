package routing

import (
	"fmt"
	"math/bits"
	"slices"

	"github.com/ServiceWeaver/weaver/runtime/protos"
)

// A Table is an immutable index over an assignment: which replicas hold a key.
// It may be used by any number of goroutines. It shares the slices of the
// assignment, which must not be changed any more.
//
// The index is a trie over the bits of the key. Each node is a radix table
// about as large as the number of slices below it, scaled to the range these
// slices take, so that evenly spread slices are found in one step and skewed
// ones in two or three. The last few slices are compared without a branch.
type Table struct {
	version uint64
	slots   []slot // of slices, and padding behind the last
	nodes   []tableNode
	entries []uint32 // a slice to compare from, or nodeFlag and a node
}

// A slot is a slice.
type slot struct {
	start uint64
	slice *protos.Assignment_Slice
}

// A tableNode covers the starts of some slices; entry (key-base)>>shift of its
// entries leads on.
type tableNode struct {
	base  uint64
	off   uint32 // of its first entry
	size  uint32 // number of entries
	lo    uint32 // the slice before base
	shift uint8
}

const (
	nodeFlag = 1 << 31
	perEntry = 3 // starts within one entry that are compared one by one

	// keySpaceEnd is the exclusive end of the last slice.
	keySpaceEnd = 1<<64 - 1
)

// NewTable indexes a. It fails if a is invalid, see [Validate].
func NewTable(a *protos.Assignment) (*Table, error) {
	t := &Table{version: a.GetVersion()}
	all := a.GetSlices()
	n := len(all)
	ok := a != nil && n < nodeFlag
	if ok && n > 0 {
		t.slots = make([]slot, n+perEntry)
	}
	for i, s := range all {
		if ok = ok && s != nil && len(s.Replicas) > 0 && s.Start != keySpaceEnd; !ok {
			break
		}
		if i == 0 {
			ok = s.Start == 0
		} else {
			ok = s.Start > t.slots[i-1].start
		}
		t.slots[i] = slot{s.Start, s}
		for _, r := range s.Replicas {
			ok = ok && r != ""
		}
		switch len(s.Replicas) {
		case 1:
		case 2:
			ok = ok && s.Replicas[0] != s.Replicas[1]
		default:
			ok = ok && !hasDuplicate(s.Replicas)
		}
	}
	if !ok {
		return nil, fmt.Errorf("index assignment: %w", Validate(a))
	}
	if n == 0 {
		return t, nil
	}
	for i := range perEntry {
		t.slots[n+i].start = keySpaceEnd
	}
	t.nodes = make([]tableNode, 0, 1+n/16)
	t.entries = make([]uint32, 0, 3*n+8)
	t.build(0, n-1)
	return t, nil
}

// build adds the node for the starts lo..hi and returns its number. The
// recursion is at most 64 deep: each node tells at least one bit apart.
func (t *Table) build(lo, hi int) uint32 {
	base := t.slots[lo].start
	span := t.slots[hi].start - base
	if len(t.nodes) == 0 {
		span = keySpaceEnd // the root takes any key
	}
	// One to two times as many entries as starts: most hold one or two.
	b := bits.Len(uint(hi - lo + 1))
	shift := max(bits.Len64(span)-b, 0)
	size := int(span>>shift) + 1
	id, off := len(t.nodes), len(t.entries)
	t.nodes = append(t.nodes, tableNode{base: base, off: uint32(off), size: uint32(size), lo: uint32(max(lo-1, 0)), shift: uint8(shift)})
	t.entries = slices.Grow(t.entries, size)[:off+size] // all are written below
	entries := t.entries[off:]
	next := 0 // entries before it are filled
	for i := lo; i <= hi; {
		// The starts i..j-1 fall into entry e; those before it lead to the slice
		// before i.
		e := int((t.slots[i].start - base) >> shift)
		j := i + 1
		for j <= hi && int((t.slots[j].start-base)>>shift) == e {
			j++
		}
		before := uint32(max(i-1, 0))
		for ; next < e; next++ {
			entries[next] = before
		}
		next = e + 1
		switch {
		case j-i > perEntry && shift > 0:
			v := nodeFlag | t.build(i, j-1)
			entries = t.entries[off : off+size] // they may have moved
			entries[e] = v
		case t.slots[i].start-base == uint64(e)<<shift:
			entries[e] = uint32(i)
		default:
			entries[e] = before
		}
		i = j
	}
	for ; next < size; next++ {
		entries[next] = uint32(hi)
	}
	return uint32(id)
}

// Len returns the number of slices.
func (t *Table) Len() int { return max(len(t.slots)-perEntry, 0) }

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
	return t.slots[i].slice.Replicas
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
		e := min((key-n.base)>>(n.shift&63), uint64(n.size)-1)
		v = t.entries[n.off+uint32(e)]
	}
	// At most perEntry starts lie in the entry; those behind it are larger than
	// any key in it, and so is the padding.
	s := t.slots[v : v+perEntry+1]
	i := int(v)
	if s[1].start <= key {
		i++
	}
	if s[2].start <= key {
		i++
	}
	if s[3].start <= key {
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
