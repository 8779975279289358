package logbuffer

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"sync"
)

// LineOptions configure a [Lines]. The zero value keeps up to 1 MiB of lines of
// at most 16 KiB, written by a single goroutine.
type LineOptions struct {
	// MaxBytes is the most memory that retained lines take up. Each line takes
	// up its length and four bytes. 0 means 1 MiB.
	MaxBytes int

	// ChunkBytes is the size of a chunk, the unit in which memory is allocated
	// and old lines are dropped; at most half of MaxBytes. 0 means a sixteenth
	// of MaxBytes, or more if MaxLine needs it.
	ChunkBytes int

	// MaxLine is the length at which lines are cut; at most ChunkBytes − 4. 0
	// means 16 KiB, or as much as a chunk can hold.
	MaxLine int

	// MultiWriter allows any number of goroutines to write at the same time,
	// for instance those that copy the standard output and the standard error
	// of one process. A write that ends within a line is continued by the next
	// write, whoever makes it.
	MultiWriter bool
}

const (
	defaultMaxBytes = 1 << 20
	defaultMaxLine  = 16 << 10
	maxMaxBytes     = min(1<<40, math.MaxInt)

	// A line is stored as its length, shifted left by one, with the lowest bit
	// set if it is partial, in four bytes; then come its bytes.
	lineHeader = 4
)

// Lines is an in-memory log of lines of text or whatever else a program prints:
// one writer, any number of readers. It is an [io.Writer] that splits what is
// written into lines. Bytes are copied into fixed-size chunks, so that the
// memory in use has a bound that does not depend on how long the lines are.
//
// Lines end with a newline, which is not stored. Everything else is passed
// through as it is: carriage returns, zero bytes, invalid UTF-8. The methods may
// be called by any goroutine at any time, but see [LineOptions] about Write.
type Lines struct {
	log     log[byte]
	multi   bool
	maxLine int

	open bool // partial is not empty; owned by the writer

	// mu is held by Close, by a write that begins or ends within a line, and
	// if multi by every write. It guards the following.
	mu      sync.Mutex
	partial []byte // the beginning of a line that has not ended yet
	shut    bool
}

// NewLines returns an empty Lines. It fails if an option is out of range.
// Memory is allocated as lines are written.
func NewLines(opts LineOptions) (*Lines, error) {
	if opts.MaxBytes == 0 {
		opts.MaxBytes = defaultMaxBytes
	}
	if opts.MaxBytes < 2*(lineHeader+1) || opts.MaxBytes > maxMaxBytes {
		return nil, fmt.Errorf("logbuffer: LineOptions.MaxBytes is %d, not %d to %d", opts.MaxBytes, 2*(lineHeader+1), maxMaxBytes)
	}
	if opts.ChunkBytes == 0 {
		line := lineHeader + max(1, min(opts.MaxLine, maxChunk-lineHeader))
		opts.ChunkBytes = min(max(opts.MaxBytes/16, line), opts.MaxBytes/2, maxChunk)
	}
	least := max(lineHeader+1, opts.MaxBytes/maxChunks)
	most := min(opts.MaxBytes/2, maxChunk)
	if opts.ChunkBytes < least || opts.ChunkBytes > most {
		return nil, fmt.Errorf("logbuffer: LineOptions.ChunkBytes is %d, not %d to %d", opts.ChunkBytes, least, most)
	}
	most = opts.ChunkBytes - lineHeader
	if opts.MaxLine == 0 {
		opts.MaxLine = min(defaultMaxLine, most)
	}
	if opts.MaxLine < 1 || opts.MaxLine > most {
		return nil, fmt.Errorf("logbuffer: LineOptions.MaxLine is %d, not 1 to %d", opts.MaxLine, most)
	}
	l := &Lines{multi: opts.MultiWriter, maxLine: opts.MaxLine}
	l.log.offset = skipLines
	l.log.init(opts.ChunkBytes, opts.MaxBytes/opts.ChunkBytes)
	return l, nil
}

// Write stores the lines of p and wakes the readers that wait for them. It
// never waits for a reader, and does not keep p. What follows the last newline
// is not visible to readers until a later Write ends the line, or Close does.
//
// A line longer than MaxLine becomes several, all but the last of which are
// marked [Line].Partial.
//
// If the Lines is closed, Write returns [ErrClosed] and how many bytes of p it
// had stored as lines by then; none, if it was closed before the call.
//
// Without [LineOptions].MultiWriter, Write panics if it notices that another
// goroutine is writing at the same time. It need not notice.
func (l *Lines) Write(p []byte) (n int, err error) {
	if l.multi || l.open {
		n, err = l.writeLocking(p)
	} else {
		n, err = l.write(p, false)
	}
	if l.log.busy.Load() != 0 {
		l.log.wake()
	}
	return n, err
}

func (l *Lines) writeLocking(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shut {
		return 0, ErrClosed
	}
	return l.write(p, true)
}

// write stores the lines of p. Without the lock it must not be called while a
// line is open, and it takes the lock if one is left open.
func (l *Lines) write(p []byte, locked bool) (int, error) {
	a := lineWriter{log: &l.log}
	if !a.begin() {
		return 0, ErrClosed
	}
	rest := p
	if l.open {
		var ok bool
		if rest, ok = l.resume(&a, p); !ok {
			return a.stored, ErrClosed
		}
	}
	for len(rest) > 0 {
		end := bytes.IndexByte(rest, '\n')
		line := rest
		if end >= 0 {
			line = rest[:end]
		}
		for len(line) > l.maxLine {
			if !a.put(line[:l.maxLine], true, l.maxLine) {
				return a.stored, ErrClosed
			}
			line, rest = line[l.maxLine:], rest[l.maxLine:]
		}
		if end < 0 {
			break
		}
		if !a.put(line, false, len(line)+1) {
			return a.stored, ErrClosed
		}
		rest = rest[len(line)+1:]
	}
	if !a.publish() {
		return a.stored, ErrClosed
	}
	if len(rest) > 0 {
		if !locked {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.shut {
				return a.stored, ErrClosed
			}
		}
		l.partial = append(l.partial, rest...)
		l.open = true
	}
	return len(p), nil
}

// resume adds the beginning of p to the open line, and stores the line if it is
// then complete or too long. It returns the rest of p; what it has added and not
// stored is the open line.
func (l *Lines) resume(a *lineWriter, p []byte) (rest []byte, ok bool) {
	line, complete := p, false
	if end := bytes.IndexByte(p, '\n'); end >= 0 {
		line, complete = p[:end], true
	}
	room := l.maxLine - len(l.partial)
	switch {
	case len(line) > room:
		l.partial = append(l.partial, line[:room]...)
		ok = a.put(l.partial, true, room)
		rest = p[room:]
	case complete:
		l.partial = append(l.partial, line...)
		ok = a.put(l.partial, false, len(line)+1)
		rest = p[len(line)+1:]
	default:
		l.partial = append(l.partial, line...)
		return nil, true
	}
	l.partial, l.open = l.partial[:0], false
	return rest, ok
}

// Close ends the log: readers read what is retained and then get io.EOF, and
// further writes are refused with [ErrClosed]. A line that has no newline yet
// is stored as it is and marked [Line].Partial. Close wakes every blocked
// reader. Closing a closed Lines does nothing. The error is always nil.
func (l *Lines) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shut {
		return nil
	}
	l.shut = true
	// An open line was left by a write that has since given up the lock, and
	// the next write will ask for it before it does anything else. So the part
	// of the writer is free, and this call may play it.
	if len(l.partial) > 0 {
		a := lineWriter{log: &l.log}
		if a.begin() && a.put(l.partial, true, 0) {
			a.publish()
		}
		l.partial = nil
	}
	l.log.end()
	return nil
}

// Stats returns the counters of the log, in lines. It does not hold up the
// writer. A line that is still open does not count.
func (l *Lines) Stats() Stats { return l.log.stats() }

// FromOldest returns a reader that begins with the oldest line retained.
func (l *Lines) FromOldest() *LineReader {
	first, _ := l.log.span()
	return l.reader(first)
}

// FromNow returns a reader of the lines completed after the call.
func (l *Lines) FromNow() *LineReader {
	_, next := l.log.span()
	return l.reader(next)
}

// Tail returns a reader that begins with the last n lines: exactly n, or all
// that are retained if these are fewer. If n is 0 or negative, Tail is the same
// as FromNow.
func (l *Lines) Tail(n int) *LineReader {
	return l.reader(l.log.tailSeq(n))
}

// FromSeq returns a reader that begins with the line of sequence number seq,
// as [Buffer.FromSeq] does.
func (l *Lines) FromSeq(seq uint64) (*LineReader, error) {
	if err := l.log.checkSeq(seq); err != nil {
		return nil, err
	}
	return l.reader(seq), nil
}

func (l *Lines) reader(pos uint64) *LineReader {
	r := new(LineReader)
	r.cursor.init(&l.log, pos)
	return r
}

// A lineWriter stores lines for one Write, and publishes as many as possible
// at a time. Its methods report false if the log has been closed.
type lineWriter struct {
	log    *log[byte]
	chunk  *chunk[byte]
	state  uint64 // of chunk
	delta  uint64 // what the lines not published yet add to it
	at     int    // where the next line goes
	taken  int    // bytes of the caller's that these lines stand for
	stored int    // bytes of the caller's that published lines stand for
}

func (a *lineWriter) begin() bool {
	a.chunk = a.log.tail.Load()
	a.state = a.chunk.state.Load()
	a.at = used(a.state)
	return a.state&closed == 0
}

// put stores a line that stands for so many bytes of the caller's.
func (a *lineWriter) put(line []byte, partial bool, bytes int) bool {
	size := lineHeader + len(line)
	if a.at+size > len(a.chunk.data) {
		if !a.publish() || !a.log.roll(a.chunk, a.state) || !a.begin() {
			return false
		}
	}
	header := uint32(len(line)) << 1
	if partial {
		header |= 1
	}
	to := a.chunk.data[a.at : a.at+size]
	binary.LittleEndian.PutUint32(to, header)
	copy(to[lineHeader:], line)
	a.at += size
	a.delta += uint64(size) + 1<<countShift
	a.taken += bytes
	return true
}

func (a *lineWriter) publish() bool {
	if a.delta != 0 {
		if !a.chunk.publish(a.state, a.delta) {
			return false
		}
		a.state += a.delta
		a.delta = 0
	}
	a.stored += a.taken
	a.taken = 0
	return true
}

// nextLine returns the first line of data, and its size including the header.
func nextLine(data []byte) (line Line, size int) {
	header := binary.LittleEndian.Uint32(data)
	size = lineHeader + int(header>>1)
	return Line{Text: data[lineHeader:size:size], Partial: header&1 != 0}, size
}

// skipLines returns where the n-th line of data begins.
func skipLines(data []byte, n int) int {
	at := 0
	for range n {
		at += lineHeader + int(binary.LittleEndian.Uint32(data[at:])>>1)
	}
	return at
}
