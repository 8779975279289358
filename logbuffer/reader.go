package logbuffer

import (
	"context"
	"iter"
	"math"
)

// A Reader follows a [Buffer]. It is got from one of the buffer's methods and
// must be used by one goroutine at a time; only Lag may be called by any.
//
// Close it when it is no longer needed. A reader that has returned io.EOF holds
// on to nothing.
type Reader[T any] struct {
	cursor cursor[T]
	keep   func(T) bool
}

// Where makes the reader pass over entries for which keep reports false: they
// are not copied, do not wake up the caller of Read, and count neither as seen
// nor as missed. It returns the reader itself, so that it can follow the
// reader's creation:
//
//	r := buf.Tail(100).Where(func(e Entry) bool { return e.Level >= Warn })
//
// These are the entries at or above Warn among the last 100. A second call of
// Where replaces the first; nil keeps everything.
//
// keep is called by the goroutine that reads, without any lock held.
func (r *Reader[T]) Where(keep func(T) bool) *Reader[T] {
	r.keep = keep
	return r
}

// Read copies entries to dst and returns how many. It blocks until there is at
// least one, and then takes what is there without waiting for more. missed is
// the number of entries lost to the reader just before dst[0]; a loss always
// comes at the start of a Read, never in between.
//
// Read returns io.EOF once the buffer is closed and everything retained has
// been read (missed can then be greater than 0 only with a filter), the error
// of ctx if ctx has ended, even if there are entries, and [ErrClosed] after
// Close. With an error n is 0. An error of ctx loses nothing: the next Read
// goes on at the same place.
//
// If dst is empty, Read returns 0 at once. It panics if ctx is nil.
func (r *Reader[T]) Read(ctx context.Context, dst []T) (n int, missed uint64, err error) {
	if ctx == nil {
		panic("logbuffer: nil Context")
	}
	for {
		if err := ctx.Err(); err != nil {
			return 0, 0, err
		}
		n, missed, err = r.TryRead(dst)
		if n > 0 || err != nil || len(dst) == 0 {
			return n, missed, err
		}
		r.cursor.wait(ctx)
	}
}

// TryRead is like [Reader.Read] but returns 0 entries and no error if there are
// none at the moment.
func (r *Reader[T]) TryRead(dst []T) (n int, missed uint64, err error) {
	end := r.filterEnd()
	for n < len(dst) {
		data, err := r.cursor.next()
		if n > 0 && (err != nil || r.cursor.missed > 0) {
			break // for the next call to tell
		}
		if err != nil {
			return 0, r.cursor.takeMissed(), err
		}
		if len(data) == 0 || r.cursor.pos.Load() >= end {
			break
		}
		first, seen := n == 0, 0
		if r.keep == nil {
			seen = copy(dst[n:], data)
			n += seen
		} else {
			for ; n < len(dst) && seen < len(data); seen++ {
				if r.keep(data[seen]) {
					dst[n] = data[seen]
					n++
				}
			}
		}
		r.cursor.advance(seen, uint64(seen))
		if first && n > 0 {
			missed = r.cursor.takeMissed()
		}
	}
	return n, missed, nil
}

// filterEnd returns where a search for an entry that passes the filter ends,
// for now. Without it, a writer that is fast enough could keep a reader from
// ever looking at its context.
func (r *Reader[T]) filterEnd() uint64 {
	if r.keep == nil {
		return math.MaxUint64
	}
	return r.cursor.end()
}

// head returns the entries at hand, the first of which passes the filter,
// without moving past it. None at hand: err is io.EOF, or nil if more may come.
func (r *Reader[T]) head() ([]T, error) {
	end := r.filterEnd()
	for {
		data, err := r.cursor.next()
		if len(data) == 0 || r.cursor.pos.Load() >= end {
			return nil, err
		}
		skip := 0
		if r.keep != nil {
			for skip < len(data) && !r.keep(data[skip]) {
				skip++
			}
			r.cursor.advance(skip, uint64(skip))
		}
		if skip < len(data) {
			return data[skip:], nil
		}
	}
}

// All returns an iterator over the entries, each with the number of entries
// missed just before it. It blocks when the reader has caught up, and ends when
// the buffer is closed and drained, when ctx ends, or when the reader is
// closed. The reader stands right behind the entry last yielded, and may be
// used for something else after the loop, or for another loop.
func (r *Reader[T]) All(ctx context.Context) iter.Seq2[T, uint64] {
	if ctx == nil {
		panic("logbuffer: nil Context")
	}
	return func(yield func(T, uint64) bool) {
		for ctx.Err() == nil {
			data, err := r.cursor.next()
			if err != nil {
				return
			}
			if len(data) == 0 {
				r.cursor.wait(ctx)
				continue
			}
			entry := data[0]
			r.cursor.advance(1, 1)
			if r.keep != nil && !r.keep(entry) {
				continue
			}
			if !yield(entry, r.cursor.takeMissed()) {
				return
			}
		}
	}
}

// Seq returns the sequence number of the next entry that the reader will look
// at. It is where [Buffer.FromSeq] resumes.
func (r *Reader[T]) Seq() uint64 { return r.cursor.pos.Load() }

// Lag returns how many entries have been written that the reader has not
// passed yet, those included that it will miss. Any goroutine may call it.
func (r *Reader[T]) Lag() uint64 { return r.cursor.lag() }

// Close lets go of the buffer. It must not be called while another goroutine
// is in Read: cancel that one's context first. The error is always nil.
func (r *Reader[T]) Close() error {
	r.cursor.close()
	return nil
}
