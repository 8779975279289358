package logbuffer

import (
	"context"
	"iter"
	"math"
)

// A Line is one line of a [Lines].
type Line struct {
	// Text is the line without its newline. It lies in the log's own memory:
	// it must not be changed, and is valid until the next call of a method of
	// the reader other than Seq and Lag. Copy it to keep it.
	Text []byte

	// Partial reports that the line was not ended by a newline: it was longer
	// than MaxLine and goes on in the next one, or the log was closed. So what
	// was written is the Text of each line, plus a newline unless Partial.
	Partial bool
}

// A LineReader follows a [Lines]. It is got from one of the methods of Lines and
// must be used by one goroutine at a time; only Lag may be called by any.
//
// Close it when it is no longer needed. A reader that has returned io.EOF holds
// on to nothing.
type LineReader struct {
	cursor cursor[byte]
	keep   func(Line) bool
}

// Where makes the reader pass over lines for which keep reports false, as
// [Reader.Where] does.
func (r *LineReader) Where(keep func(Line) bool) *LineReader {
	r.keep = keep
	return r
}

// Read puts lines into dst and returns how many. It blocks until there is at
// least one, and then takes what is there without waiting for more. Their text
// is not copied: see [Line]. missed is the number of lines lost to the reader
// just before dst[0]. Errors are those of [Reader.Read].
//
// If dst is empty, Read returns 0 at once. It panics if ctx is nil.
func (r *LineReader) Read(ctx context.Context, dst []Line) (n int, missed uint64, err error) {
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

// TryRead is like [LineReader.Read] but returns 0 lines and no error if there
// are none at the moment.
func (r *LineReader) TryRead(dst []Line) (n int, missed uint64, err error) {
	end := uint64(math.MaxUint64)
	if r.keep != nil {
		end = r.cursor.end() // see Reader.filterEnd
	}
	for n == 0 && len(dst) > 0 { // no further: the lines must lie in one chunk
		data, err := r.cursor.next()
		if err != nil {
			return 0, r.cursor.takeMissed(), err
		}
		if len(data) == 0 || r.cursor.pos.Load() >= end {
			return 0, 0, nil
		}
		at, passed := 0, uint64(0)
		for n < len(dst) && at < len(data) {
			line, size := nextLine(data[at:])
			at += size
			passed++
			if r.keep == nil || r.keep(line) {
				dst[n] = line
				n++
			}
		}
		r.cursor.advance(at, passed)
	}
	if n > 0 {
		missed = r.cursor.takeMissed()
	}
	return n, missed, nil
}

// All returns an iterator over the lines, each with the number of lines missed
// just before it. It blocks when the reader has caught up, and ends when the
// log is closed and drained, when ctx ends, or when the reader is closed. A
// line's text is valid until the loop goes on.
func (r *LineReader) All(ctx context.Context) iter.Seq2[Line, uint64] {
	if ctx == nil {
		panic("logbuffer: nil Context")
	}
	return func(yield func(Line, uint64) bool) {
		for ctx.Err() == nil {
			data, err := r.cursor.next()
			if err != nil {
				return
			}
			if len(data) == 0 {
				r.cursor.wait(ctx)
				continue
			}
			line, size := nextLine(data)
			r.cursor.advance(size, 1)
			if r.keep != nil && !r.keep(line) {
				continue
			}
			if !yield(line, r.cursor.takeMissed()) {
				return
			}
		}
	}
}

// Seq returns the sequence number of the next line that the reader will look
// at. It is where [Lines.FromSeq] resumes.
func (r *LineReader) Seq() uint64 { return r.cursor.pos.Load() }

// Lag returns how many lines have been written that the reader has not passed
// yet, those included that it will miss. Any goroutine may call it.
func (r *LineReader) Lag() uint64 { return r.cursor.lag() }

// Close lets go of the log. It must not be called while another goroutine is in
// Read: cancel that one's context first. The error is always nil.
func (r *LineReader) Close() error {
	r.cursor.close()
	return nil
}
