package logbuffer

import "sync/atomic"

// A chunk is a fixed-size piece of a log. Its state says how much of data is
// published; what is published never changes, and a sealed chunk grows no more.
type chunk[E any] struct {
	state atomic.Uint64            // see below; written by the writer, and by close
	next  atomic.Pointer[chunk[E]] // set before state is sealed; nil again once the chunk is dropped
	refs  atomic.Int64             // readers that stand in the chunk; negative while it is being reused
	base  uint64                   // sequence number of the first entry; may be read while holding a reference
	data  []E
}

// The state word of a chunk, low bits first: 31 bits count the published
// elements of data, 31 bits the entries that these make (a line is many bytes,
// but one entry), then come the two flags.
const (
	countShift = 31
	fieldMask  = 1<<31 - 1

	sealed uint64 = 1 << 62 // full: the entries go on in next
	closed uint64 = 1 << 63 // the last chunk of a closed log
)

// maxChunk is the largest number of elements that a chunk can hold.
const maxChunk = fieldMask

func used(state uint64) int     { return int(state & fieldMask) }
func count(state uint64) uint64 { return state >> countShift & fieldMask }

// retired marks, in refs, a chunk that the writer is about to use again.
const retired = -1 << 62

// acquire takes a reference, which keeps the chunk from being reused: base and
// the published part of data stay as they are until release. It fails if the
// chunk is just being reused.
//
// The chunk may have been reused between the load of the pointer that led to
// it and the call, so the caller must then check that it still is the chunk
// it looked for.
func (c *chunk[E]) acquire() bool {
	if c.refs.Add(1) > 0 {
		return true
	}
	c.refs.Add(-1)
	return false
}

func (c *chunk[E]) release() { c.refs.Add(-1) }

// reuse empties a dropped chunk for the entries from base on. It fails if a
// reader stands in the chunk: that reader then owns the last reference to it.
func (c *chunk[E]) reuse(base uint64, wipe bool) bool {
	if !c.refs.CompareAndSwap(0, retired) {
		return false
	}
	if wipe {
		clear(c.data)
	}
	c.base = base
	c.state.Store(0)
	// Not a store: a reader may be about to give back a reference that it failed to take.
	c.refs.Add(-retired)
	return true
}
