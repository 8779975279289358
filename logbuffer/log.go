package logbuffer

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
)

// ErrClosed is returned by writes to a closed [Buffer] or [Lines], and by reads
// from a closed reader.
var ErrClosed = errors.New("logbuffer: closed")

// ErrFuture is returned, wrapped, by FromSeq for a sequence number that has not
// been written yet: most likely it belongs to an earlier buffer.
var ErrFuture = errors.New("sequence number not yet written")

// A log is the list of chunks behind a Buffer (of entries) and a Lines (of
// bytes): it knows how chunks are published, retained, found and closed, but
// not what is in them.
type log[E any] struct {
	size   int                             // elements per chunk; immutable
	limit  int                             // chunks retained, at least 2; immutable
	wipe   bool                            // clear what is dropped; immutable
	offset func(data []E, entries int) int // where the n-th entry of a chunk begins; nil: at n; immutable

	chunks int // allocated so far, at most limit; owned by the writer

	tail      atomic.Pointer[chunk[E]] // the newest chunk; moved by the writer
	oldest    atomic.Pointer[chunk[E]] // the oldest retained chunk; moved by the writer
	oldestSeq atomic.Uint64            // sequence number of the first entry retained

	readers  atomic.Int64
	blockers atomic.Uint32 // readers that have ever blocked, to spread them over the shards

	waitList
}

// init makes the log ready. It starts with a chunk without room, so that an
// unused log costs little and the first write is not a special case.
func (l *log[E]) init(size, limit int) {
	l.size, l.limit = size, limit
	root := new(chunk[E])
	l.tail.Store(root)
	l.oldest.Store(root)
}

// publish makes the elements of c up to and including those in delta visible.
// Only the writer may call it, with the state s on which it based them. It
// fails if the log has been closed in the meantime.
func (c *chunk[E]) publish(s, delta uint64) bool {
	if c.state.CompareAndSwap(s, s+delta) {
		return true
	}
	if c.state.Load()&closed == 0 {
		panic("logbuffer: concurrent writes without MultiWriter")
	}
	return false
}

// roll seals the newest chunk, whose state is s, and starts another. Only the
// writer may call it. It fails if the log has been closed in the meantime.
func (l *log[E]) roll(c *chunk[E], s uint64) bool {
	next := l.fresh(c.base + count(s))
	c.next.Store(next)
	if !c.publish(s, sealed) {
		c.next.Store(nil)
		return false
	}
	l.tail.Store(next)
	if len(c.data) == 0 { // the chunk of init goes as soon as there is a real one
		l.oldest.Store(next)
		c.next.Store(nil)
	}
	return true
}

// fresh returns an empty chunk for the entries from base on. At the limit the
// oldest chunk is dropped, and used again unless a reader stands in it. The
// newest chunk is full by then, so limit−1 full chunks remain.
func (l *log[E]) fresh(base uint64) *chunk[E] {
	if l.chunks == l.limit {
		old := l.oldest.Load()
		next := old.next.Load()
		// In this order, so that a reader sent away by oldestSeq finds oldest
		// moved already.
		l.oldest.Store(next)
		l.oldestSeq.Store(next.base)
		// A reader left behind in old must not pin what comes after it.
		old.next.Store(nil)
		if old.reuse(base, l.wipe) {
			return old
		}
	} else {
		l.chunks++
	}
	return &chunk[E]{base: base, data: make([]E, l.size)}
}

// end closes the log for the writer. Any goroutine may call it, again too.
func (l *log[E]) end() {
	for {
		c := l.newest()
		s := c.state.Or(closed)
		c.release()
		if s&sealed == 0 {
			break
		}
		// The writer is about to move on. The flag has no effect on a chunk
		// that it has sealed.
		runtime.Gosched()
	}
	l.wake()
}

// newest returns, with a reference, the newest chunk.
func (l *log[E]) newest() *chunk[E] {
	for {
		c := l.tail.Load()
		if c.acquire() {
			if c == l.tail.Load() { // and was not reused before acquire
				return c
			}
			c.release()
		}
	}
}

// find returns, with a reference, the chunk in which the entry seq is or will
// be, or the oldest chunk if the entry is gone. seq must not be greater than
// the number of entries written.
func (l *log[E]) find(seq uint64) *chunk[E] {
	// Most readers are close to the end.
	c := l.newest()
	if c.base <= seq {
		return c
	}
	c.release()
	for {
		c := l.oldest.Load()
		if !c.acquire() {
			continue
		}
		if c != l.oldest.Load() {
			c.release()
			continue
		}
		for {
			s := c.state.Load()
			if s&sealed == 0 || seq < c.base+count(s) {
				return c
			}
			next := c.follow(s)
			c.release()
			if next == nil {
				break // c has been dropped: start again
			}
			c = next
		}
	}
}

// follow returns, with a reference, the chunk after c, or nil if c has been
// dropped. The caller holds a reference to c, and s is its sealed state.
func (c *chunk[E]) follow(s uint64) *chunk[E] {
	next := c.next.Load()
	if next == nil || !next.acquire() {
		return nil
	}
	if next.base != c.base+count(s) {
		next.release() // dropped and reused since
		return nil
	}
	return next
}

// span returns the sequence numbers of the first entry retained and of the
// next one to be written, as of one moment during the call.
func (l *log[E]) span() (first, next uint64) {
	for {
		first = l.oldestSeq.Load()
		c := l.newest()
		next = c.base + count(c.state.Load())
		c.release()
		if l.oldestSeq.Load() == first {
			return first, next
		}
	}
}

// tailSeq returns where a reader of the last n entries begins.
func (l *log[E]) tailSeq(n int) uint64 {
	first, next := l.span()
	return next - min(next-first, uint64(max(n, 0)))
}

// checkSeq tells whether a reader can begin at seq.
func (l *log[E]) checkSeq(seq uint64) error {
	if _, next := l.span(); seq > next {
		return fmt.Errorf("logbuffer: read from %d: %w, the next one is %d", seq, ErrFuture, next)
	}
	return nil
}

// Stats are the counters of a [Buffer] or [Lines], as of one moment.
// Written = Retained + Dropped.
type Stats struct {
	Written  uint64 // entries written
	Retained uint64 // entries that a new reader can still read
	Dropped  uint64 // entries that are gone, whether anybody has read them or not
	Readers  int    // readers that have neither been closed nor reached io.EOF
}

func (l *log[E]) stats() Stats {
	first, next := l.span()
	return Stats{
		Written:  next,
		Retained: next - first,
		Dropped:  first,
		Readers:  int(l.readers.Load()),
	}
}
