package logbuffer

import (
	"fmt"
	"reflect"
	"sync"
)

// Options configure a [Buffer]. The zero value keeps the last 15,360 to 16,384
// entries, written by a single goroutine.
type Options struct {
	// ChunkSize is the number of entries in a chunk, the unit in which memory
	// is allocated and old entries are dropped. 0 means 1024.
	ChunkSize int

	// Chunks is the number of chunks retained, the one being filled included;
	// at least 2. 0 means 16.
	Chunks int

	// MultiWriter allows any number of goroutines to write at the same time.
	// Their writes take a mutex, which puts them into one order; the entries
	// of one Write stay together. Without it, only one goroutine at a time may
	// write.
	MultiWriter bool
}

const (
	defaultChunkSize = 1024
	defaultChunks    = 16
	maxChunks        = 1 << 20
)

// A Buffer is an in-memory log of entries of type T: one writer, any number of
// readers. Its methods may be called by any goroutine at any time, but see
// [Options] about Write.
type Buffer[T any] struct {
	log   log[T]
	multi bool
	mu    sync.Mutex // held while writing, if multi
}

// New returns an empty buffer. It fails if an option is out of range. Memory
// for entries is allocated as they are written.
func New[T any](opts Options) (*Buffer[T], error) {
	if opts.ChunkSize == 0 {
		opts.ChunkSize = defaultChunkSize
	}
	if opts.Chunks == 0 {
		opts.Chunks = defaultChunks
	}
	most := maxChunk // entries, and also bytes
	if size := int(reflect.TypeFor[T]().Size()); size > 0 {
		most /= size
	}
	if opts.ChunkSize < 1 || opts.ChunkSize > most {
		return nil, fmt.Errorf("logbuffer: Options.ChunkSize is %d, not 1 to %d", opts.ChunkSize, most)
	}
	if opts.Chunks < 2 || opts.Chunks > maxChunks {
		return nil, fmt.Errorf("logbuffer: Options.Chunks is %d, not 2 to %d", opts.Chunks, maxChunks)
	}
	b := &Buffer[T]{multi: opts.MultiWriter}
	b.log.wipe = true // dropped entries may hold pointers
	b.log.init(opts.ChunkSize, opts.Chunks)
	return b, nil
}

// Write stores entries, in order, and wakes the readers that wait for them. It
// never waits for a reader. The entries are visible to readers from then on,
// and must not be changed any more; the slice itself is not kept.
//
// Write returns how many entries it stored: all of them, or fewer and
// [ErrClosed] if the buffer is closed. That is none if it was closed before the
// call; if Close comes in the middle of a Write that fills more than one chunk,
// those chunks that were complete by then have been stored.
//
// Without [Options].MultiWriter, Write panics if it notices that another
// goroutine is writing at the same time. It need not notice.
func (b *Buffer[T]) Write(entries ...T) (n int, err error) {
	if b.multi {
		b.mu.Lock()
		n, err = b.write(entries)
		b.mu.Unlock()
	} else {
		n, err = b.write(entries)
	}
	if b.log.busy.Load() != 0 {
		b.log.wake()
	}
	return n, err
}

// one is what an entry adds to the state of a chunk.
const one = 1<<countShift + 1

func (b *Buffer[T]) write(entries []T) (n int, err error) {
	if len(entries) == 1 { // most writes: shorter than the loop by a third
		c := b.log.tail.Load()
		s := c.state.Load()
		if i := used(s); i < len(c.data) && s&closed == 0 {
			c.data[i] = entries[0]
			if !c.publish(s, one) {
				return 0, ErrClosed
			}
			return 1, nil
		}
	}
	for {
		c := b.log.tail.Load()
		s := c.state.Load()
		if s&closed != 0 {
			return n, ErrClosed
		}
		if k := copy(c.data[used(s):], entries[n:]); k > 0 {
			if !c.publish(s, uint64(k)*one) {
				return n, ErrClosed
			}
			n += k
			s += uint64(k) * one
		}
		if n == len(entries) {
			return n, nil
		}
		if !b.log.roll(c, s) {
			return n, ErrClosed
		}
	}
}

// Close ends the buffer: readers read what is retained and then get io.EOF,
// and further writes are refused with [ErrClosed]. It wakes every blocked
// reader. Closing a closed buffer does nothing. The error is always nil.
func (b *Buffer[T]) Close() error {
	b.log.end()
	return nil
}

// Stats returns the counters of the buffer. It does not hold up the writer.
func (b *Buffer[T]) Stats() Stats { return b.log.stats() }

// FromOldest returns a reader that begins with the oldest entry retained.
func (b *Buffer[T]) FromOldest() *Reader[T] {
	first, _ := b.log.span()
	return b.reader(first)
}

// FromNow returns a reader of the entries written after the call.
func (b *Buffer[T]) FromNow() *Reader[T] {
	_, next := b.log.span()
	return b.reader(next)
}

// Tail returns a reader that begins with the last n entries: exactly n, or all
// that are retained if these are fewer. If n is 0 or negative, Tail is the same
// as FromNow.
func (b *Buffer[T]) Tail(n int) *Reader[T] {
	return b.reader(b.log.tailSeq(n))
}

// FromSeq returns a reader that begins with the entry of sequence number seq,
// which for the first entry ever written is 0. With the [Reader.Seq] of an
// earlier reader it goes on where that one stopped; entries that are no longer
// retained count as missed. It fails with [ErrFuture] if seq is greater than
// the number of entries written so far.
func (b *Buffer[T]) FromSeq(seq uint64) (*Reader[T], error) {
	if err := b.log.checkSeq(seq); err != nil {
		return nil, err
	}
	return b.reader(seq), nil
}

func (b *Buffer[T]) reader(pos uint64) *Reader[T] {
	r := new(Reader[T])
	r.cursor.init(&b.log, pos)
	return r
}
