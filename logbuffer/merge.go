package logbuffer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"sync"
	"sync/atomic"
	"time"
	"weak"
)

// MergeOptions configure a [Merge].
type MergeOptions struct {
	// Wait is how long an entry is held back, at most, because another input
	// has nothing to read and might still come up with an earlier one. Entries
	// that become readable no later than Wait after those that belong behind
	// them are put in order. 0 means that nothing is held back: only what is
	// there at the same time is put in order.
	Wait time.Duration
}

// An Item is an entry of a merged stream.
type Item[T any] struct {
	Source string // the name of the input
	Entry  T
	Missed uint64 // entries of this input that were lost just before this one
	Late   bool   // an entry that belongs behind this one has been read already
}

// A Merge reads many buffers as one stream, ordered by a key of the entries,
// usually their time. Entries of one input keep their order, whatever their
// keys; entries with equal keys come in the order in which their inputs were
// added. No entry is left out because it is late.
//
// A merge holds on to one chunk of each input at most, and needs no goroutine.
// One goroutine at a time may read it; Add, the functions that Add returns, and
// Seal may be called by any goroutine at any time.
type Merge[T any] struct {
	key   func(T) int64
	wait  time.Duration
	begin time.Time // instants are measured from here

	// Owned by the goroutine that reads.
	inputs  []*input[T]    // all of them
	heads   headHeap[T]    // those that have something to read
	arrival arrivalList[T] // the same
	started bool           // an item has been read
	last    int64          // the greatest key read
	now     time.Duration  // an instant not after the present one
	timer   *time.Timer    // interrupts the reader when an entry has been held back long enough
	turn    []change[T]    // scratch of collect
	watch   watch
	closed  bool

	pending atomic.Bool // events != nil

	mu          sync.Mutex // guards the following
	events      *input[T]  // inputs that were added, have become readable, or were removed
	added       int        // inputs ever added
	sealed      bool
	asleep      bool // the reader waits on cond
	interrupted bool // the reader has to look at its context, the clock and sealed
	cond        sync.Cond
}

// An input is one reader in a merge.
type input[T any] struct {
	source string
	order  int // among all inputs ever added
	reader *Reader[T]
	watcher

	// Owned by the goroutine that reads.
	state   inputState
	at      int           // index in Merge.inputs
	view    []T           // entries at hand, the first of which is next
	arrived time.Duration // when these were first seen
	earlier *input[T]     // neighbours in Merge.arrival
	later   *input[T]

	// Guarded by Merge.mu.
	event   *input[T] // the next in Merge.events
	listed  bool      // in Merge.events
	removed bool
}

type inputState uint8

const (
	added  inputState = iota // not looked at yet
	silent                   // has nothing to read, and will notify the merge when it has
	ready                    // in Merge.heads
	gone
)

// A change is an event as collect sees it.
type change[T any] struct {
	in      *input[T]
	removed bool
}

// NewMerge returns a merge without inputs, ordered by ascending key. It fails
// if key is nil or an option is out of range. key is called once for each entry,
// by the goroutine that reads.
func NewMerge[T any](key func(T) int64, opts MergeOptions) (*Merge[T], error) {
	if key == nil {
		return nil, errors.New("logbuffer: the key of a merge is nil")
	}
	if opts.Wait < 0 {
		return nil, fmt.Errorf("logbuffer: MergeOptions.Wait is %v, less than 0", opts.Wait)
	}
	wait := min(opts.Wait, math.MaxInt64/2) // so that adding to it does not overflow
	m := &Merge[T]{key: key, wait: wait, begin: time.Now()}
	m.cond.L = &m.mu
	return m, nil
}

// Add adds an input. The reader belongs to the merge from now on, which closes
// it when it has read the input to its end, or when the function is called that
// Add returns. That function takes the input out of the merge at the next read,
// together with what it still has to say. Sources need not be distinct.
//
// An input that is added to a sealed or closed merge is closed at once.
func (m *Merge[T]) Add(source string, r *Reader[T]) (remove func()) {
	in := &input[T]{source: source, reader: r}
	in.notify = func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.eventLocked(in)
	}
	if !m.enter(in) {
		r.Close()
		return func() {}
	}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		in.removed = true
		m.eventLocked(in)
	}
}

func (m *Merge[T]) enter(in *input[T]) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sealed {
		return false
	}
	in.order = m.added
	m.added++
	m.eventLocked(in)
	return true
}

// Seal says that no further input will be added. Once those that there are have
// ended and been read, reads return io.EOF; without Seal they wait for new ones.
func (m *Merge[T]) Seal() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sealed = true
	m.interrupted = true
	m.wakeLocked()
}

// Read fills dst with the next items and returns how many. It blocks until
// there is at least one, and then takes what can be had without waiting.
//
// Read returns io.EOF when the merge is sealed and all inputs have been read to
// their end, the error of ctx if ctx has ended, and [ErrClosed] after Close.
// With an error n is 0, and nothing is lost. If dst is empty, Read returns 0 at
// once. It panics if ctx is nil.
func (m *Merge[T]) Read(ctx context.Context, dst []Item[T]) (n int, err error) {
	if ctx == nil {
		panic("logbuffer: nil Context")
	}
	if m.closed {
		return 0, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	for n < len(dst) {
		if m.pending.Load() {
			m.collect()
		}
		due, ok := m.due()
		if ok {
			m.take(&dst[n])
			n++
			continue
		}
		if n > 0 {
			break
		}
		if len(m.inputs) == 0 && m.isSealed() {
			return 0, io.EOF
		}
		m.sleep(ctx, due)
		if err := ctx.Err(); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// All returns an iterator over the items. It blocks while there are none, and
// ends when the merge is sealed and all inputs have been read to their end, when
// ctx ends, or when the merge is closed.
func (m *Merge[T]) All(ctx context.Context) iter.Seq[Item[T]] {
	if ctx == nil {
		panic("logbuffer: nil Context")
	}
	return func(yield func(Item[T]) bool) {
		for {
			var item [1]Item[T]
			if _, err := m.Read(ctx, item[:]); err != nil || !yield(item[0]) {
				return
			}
		}
	}
}

// Close closes all inputs. It must not be called while another goroutine is in
// Read: cancel that one's context first. The error is always nil.
func (m *Merge[T]) Close() error {
	m.closed = true
	m.watch.clear()
	m.Seal()
	m.collect()
	for len(m.inputs) > 0 {
		m.drop(m.inputs[len(m.inputs)-1])
	}
	return nil
}

// due reports whether the first entry may be taken. If not, it returns when it
// may be, or 0 if there is none.
//
// As soon as any entry has been held back long enough, all those that belong
// before it go, too: so none is held back for longer.
func (m *Merge[T]) due() (at time.Duration, ok bool) {
	if len(m.heads) == 0 {
		return 0, false
	}
	if m.wait == 0 || len(m.heads) == len(m.inputs) {
		return 0, true
	}
	at = m.arrival.first.arrived + m.wait
	if m.now < at {
		m.now = time.Since(m.begin)
	}
	return at, m.now >= at
}

// take moves the first entry to item.
func (m *Merge[T]) take(item *Item[T]) {
	top := &m.heads[0]
	in := top.in
	*item = Item[T]{
		Source: in.source,
		Entry:  in.view[0],
		Missed: in.reader.cursor.takeMissed(),
		Late:   m.started && top.key < m.last,
	}
	if !item.Late {
		m.started, m.last = true, top.key
	}
	if in.pass() {
		top.key = m.key(in.view[0])
		m.heads.down(0)
		return
	}
	m.heads.remove(0)
	m.arrival.remove(in)
	m.look(in)
}

// pass moves past the first entry at hand, and reports whether there is another.
func (in *input[T]) pass() bool {
	for {
		in.view = in.view[1:]
		in.reader.cursor.advance(1, 1)
		if len(in.view) == 0 {
			return false
		}
		if keep := in.reader.keep; keep == nil || keep(in.view[0]) {
			return true
		}
	}
}

// look sees what an input has to read that had nothing at hand.
func (m *Merge[T]) look(in *input[T]) {
	view, err := in.reader.head()
	switch {
	case len(view) > 0:
		in.view, in.state = view, ready
		if m.wait > 0 {
			m.now = time.Since(m.begin)
			in.arrived = m.now
		}
		m.arrival.add(in)
		m.heads.push(head[T]{m.key(view[0]), in})
	case err != nil:
		in.state = silent
		m.drop(in)
	default:
		in.view, in.state = nil, silent
		if !in.reader.cursor.arm(&in.watcher) {
			in.notify() // there is something already: look again
		}
	}
}

// drop takes an input out of the merge.
func (m *Merge[T]) drop(in *input[T]) {
	if in.state == ready {
		m.heads.remove(m.heads.index(in))
		m.arrival.remove(in)
	}
	in.view, in.state = nil, gone
	last := m.inputs[len(m.inputs)-1]
	m.inputs[in.at], last.at = last, in.at
	m.inputs[len(m.inputs)-1] = nil
	m.inputs = m.inputs[:len(m.inputs)-1]
	in.reader.cursor.log.disarm(&in.watcher)
	in.reader.Close()
}

// eventLocked has in looked at by the goroutine that reads.
func (m *Merge[T]) eventLocked(in *input[T]) {
	if in.listed {
		return
	}
	in.listed = true
	in.event = m.events
	m.events = in
	m.pending.Store(true)
	m.wakeLocked()
}

// collect acts upon the events.
func (m *Merge[T]) collect() {
	m.mu.Lock()
	for m.events != nil {
		in := m.events
		m.events, in.event, in.listed = in.event, nil, false
		m.turn = append(m.turn, change[T]{in, in.removed})
	}
	m.pending.Store(false)
	m.mu.Unlock()
	for _, c := range m.turn {
		in := c.in
		if in.state == added {
			in.at = len(m.inputs)
			m.inputs = append(m.inputs, in)
		}
		switch {
		case in.state == gone:
		case c.removed:
			m.drop(in)
		case in.state != ready:
			m.look(in)
		}
	}
	clear(m.turn)
	m.turn = m.turn[:0]
}

func (m *Merge[T]) isSealed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sealed && m.events == nil
}

// sleep blocks until there are events, until ctx ends, until the merge is
// sealed, or until the instant at, unless that is 0; it may also return early.
func (m *Merge[T]) sleep(ctx context.Context, at time.Duration) {
	if m.watch.needs(ctx) {
		// A merge that is dropped without Close must not live on through ctx.
		p := weak.Make(m)
		m.watch.set(ctx, func() {
			if m := p.Value(); m != nil {
				m.interrupt()
			}
		})
	}
	if at > 0 {
		if d := at - m.now; m.timer == nil {
			m.timer = time.AfterFunc(d, m.interrupt)
		} else {
			m.timer.Reset(d)
		}
		defer m.timer.Stop()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.asleep = true; m.asleep && !m.interrupted && m.events == nil; {
		m.cond.Wait()
	}
	m.asleep, m.interrupted = false, false
}

func (m *Merge[T]) interrupt() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.interrupted = true
	m.wakeLocked()
}

func (m *Merge[T]) wakeLocked() {
	if m.asleep {
		m.asleep = false
		m.cond.Signal()
	}
}
