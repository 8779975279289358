package logbuffer

import (
	"context"
	"io"
	"sync/atomic"
)

// A cursor is the place of one reader in a log. It is used by one goroutine at
// a time; lag alone may be called by any.
type cursor[E any] struct {
	log    *log[E]
	pos    atomic.Uint64 // sequence number of the next entry; stored by the reader only
	chunk  *chunk[E]     // where pos is, referenced; nil before the first read and after a skip
	off    int           // where the entry begins in chunk.data
	missed uint64        // entries missed just before pos and not yet reported
	shard  *shard        // where the reader blocks; nil until it does for the first time
	watch  watch         // of the context of the latest Read that blocked
	ended  error         // io.EOF or ErrClosed once the reader has let go of the log
}

func (r *cursor[E]) init(l *log[E], pos uint64) {
	r.log = l
	r.pos.Store(pos)
	l.readers.Add(1)
}

// next returns the elements at hand in the reader's chunk, without moving past
// them. They stay as they are until the next call that moves the cursor to
// another chunk. None at hand: err is io.EOF, or nil if more may come.
func (r *cursor[E]) next() ([]E, error) {
	if r.ended != nil {
		return nil, r.ended
	}
	for {
		if r.chunk == nil || r.pos.Load() < r.log.oldestSeq.Load() {
			r.seek()
			continue
		}
		c := r.chunk
		s := c.state.Load()
		if u := used(s); r.off < u {
			return c.data[r.off:u:u], nil
		}
		switch {
		case s&sealed != 0:
			next := c.follow(s)
			c.release()
			r.chunk, r.off = next, 0
		case s&closed != 0:
			r.leave(io.EOF)
			return nil, io.EOF
		default:
			return nil, nil
		}
	}
}

// advance moves past the next entries, which take up size elements.
func (r *cursor[E]) advance(size int, entries uint64) {
	r.off += size
	r.pos.Store(r.pos.Load() + entries)
}

// takeMissed returns the entries missed that have not been reported yet.
func (r *cursor[E]) takeMissed() uint64 {
	missed := r.missed
	r.missed = 0
	return missed
}

// seek finds the chunk of pos, or skips to the oldest if the entry is gone.
func (r *cursor[E]) seek() {
	if r.chunk != nil {
		r.chunk.release()
	}
	pos := r.pos.Load()
	c := r.log.find(pos)
	r.chunk, r.off = c, 0
	switch {
	case c.base > pos:
		r.missed += c.base - pos
		r.pos.Store(c.base)
	case r.log.offset != nil:
		r.off = r.log.offset(c.data, int(pos-c.base))
	default:
		r.off = int(pos - c.base)
	}
}

// changed reports whether next may have something new to tell. It is asked
// after a next that had nothing.
func (r *cursor[E]) changed() bool {
	s := r.chunk.state.Load()
	return used(s) > r.off || s&(sealed|closed) != 0
}

// wait blocks until there may be something new, or ctx has ended.
func (r *cursor[E]) wait(ctx context.Context) {
	l := &r.log.waitList
	if r.shard == nil {
		r.shard = l.shard(int(r.log.blockers.Add(1) % shardCount))
	}
	s := r.shard
	if r.watch.needs(ctx) {
		// This holds on to the shard only: a reader that is dropped without
		// Close does not live on through ctx.
		r.watch.set(ctx, s.wakeAll)
	}
	s.mu.Lock()
	l.announce(s.bit)
	if r.changed() || r.watch.ended() {
		s.mu.Unlock()
		return
	}
	s.blocked++
	s.cond.Wait() // unlocks s.mu, and leaves it unlocked
	l.relay(s)
}

// arm has w notified as soon as there may be something new. It reports false if
// there is something already; w may then be notified all the same.
func (r *cursor[E]) arm(w *watcher) bool {
	r.log.arm(w)
	return !r.changed()
}

// leave lets go of the log. Further calls of next return err.
func (r *cursor[E]) leave(err error) {
	if r.ended == nil {
		r.log.readers.Add(-1)
	}
	r.ended = err
	if r.chunk != nil {
		r.chunk.release()
		r.chunk = nil
	}
	r.watch.clear()
}

func (r *cursor[E]) close() {
	r.leave(ErrClosed)
	r.missed = 0
}

// end returns the sequence number of the next entry to be written.
func (r *cursor[E]) end() uint64 {
	_, next := r.log.span()
	return next
}

// lag returns how many entries have been written that the reader has not passed.
func (r *cursor[E]) lag() uint64 {
	end := r.end()
	return end - min(end, r.pos.Load())
}
