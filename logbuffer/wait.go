package logbuffer

import (
	"context"
	"math/bits"
	"sync"
	"sync/atomic"
)

// A waitList holds the readers of a log that are blocked. They are spread over
// shards, each with a condition variable. Who wakes them wakes one, and leaves
// it to that one to wake the others; it passes what concerns other shards on to
// a reader there before it turns to its own. So a write that finds a thousand
// readers blocked pays for one of them, all processors share the work of waking
// the others, and no thread that loses the processor holds up more than a shard.
type waitList struct {
	// busy has a bit set for each shard that may have blocked readers, and
	// watchBit if there may be watchers. It is all that a write looks at.
	busy atomic.Uint32

	// duty has a bit set for each shard that must still be woken. It is for the
	// next reader that wakes up, in whatever shard.
	duty atomic.Uint32

	shards [shardCount]atomic.Pointer[shard] // allocated when first used

	watchMu  sync.Mutex // guards the following, and the links of watchers
	watchers *watcher
}

const (
	shardCount = 16
	watchBit   = 1 << 31
)

// A shard is where some of the readers of a log block.
type shard struct {
	bit     uint32 // in waitList.busy
	mu      sync.Mutex
	blocked int       // readers that wait on cond and have not been woken; guarded by mu
	cond    sync.Cond // L is a parkLock of mu

	_ [48]byte // to 128: neighbours in memory may be in use by other processors
}

// parkLock is the Locker of a condition variable whose waiters, once woken,
// need no lock because they look at atomic state only. So a thousand of them do
// not queue up for a mutex just to unlock it again.
type parkLock struct{ mu *sync.Mutex }

func (parkLock) Lock()     {}
func (p parkLock) Unlock() { p.mu.Unlock() }

// shard returns the i-th shard.
func (l *waitList) shard(i int) *shard {
	s := l.shards[i].Load()
	if s == nil {
		s = &shard{bit: 1 << i}
		s.cond.L = parkLock{&s.mu}
		if !l.shards[i].CompareAndSwap(nil, s) {
			s = l.shards[i].Load()
		}
	}
	return s
}

// announce makes sure that writes notice that there are readers waiting. The
// caller must look for itself afterwards whether there is something to read: a
// write publishes first and looks for waiting readers second, so that one of
// the two sees the other.
func (l *waitList) announce(bit uint32) {
	if l.busy.Load()&bit == 0 {
		l.busy.Or(bit)
	}
}

// wake sees to it that all readers are woken that wait for what has been
// published before the call.
func (l *waitList) wake() {
	mask := l.busy.Swap(0)
	if mask&watchBit != 0 {
		l.notify()
	}
	l.handOn(mask &^ watchBit)
}

// handOn wakes one of the readers in the shards of mask, and makes it the duty
// of that reader to wake the others.
func (l *waitList) handOn(mask uint32) {
	for mask != 0 {
		s := l.shards[bits.TrailingZeros32(mask)].Load()
		s.mu.Lock()
		if s.blocked > 0 {
			s.blocked--
			if s.blocked == 0 {
				mask &^= s.bit
			}
			l.duty.Or(mask)
			s.cond.Signal()
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		mask &^= s.bit
	}
}

// relay does the duty that a reader of s may find when it wakes up.
func (l *waitList) relay(s *shard) {
	if l.duty.Load() == 0 {
		return
	}
	mask := l.duty.Swap(0)
	l.handOn(mask &^ s.bit)
	if mask&s.bit != 0 {
		s.wakeAll()
	}
}

// wakeAll wakes all readers of the shard.
func (s *shard) wakeAll() {
	s.mu.Lock()
	s.blocked = 0
	s.cond.Broadcast()
	s.mu.Unlock()
}

// A watcher is told, once for each time that it is armed, that there may be
// something to read. It is the part of a Merge in a waitList.
type watcher struct {
	notify     func() // must neither block nor call the waitList
	armed      bool   // on the list
	next, prev *watcher
}

func (l *waitList) arm(w *watcher) {
	l.watchMu.Lock()
	defer l.watchMu.Unlock()
	if !w.armed {
		w.armed = true
		w.prev, w.next = nil, l.watchers
		if w.next != nil {
			w.next.prev = w
		}
		l.watchers = w
	}
	l.announce(watchBit)
}

func (l *waitList) disarm(w *watcher) {
	l.watchMu.Lock()
	defer l.watchMu.Unlock()
	l.removeLocked(w)
}

func (l *waitList) removeLocked(w *watcher) {
	if !w.armed {
		return
	}
	w.armed = false
	if w.next != nil {
		w.next.prev = w.prev
	}
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		l.watchers = w.next
	}
	w.next, w.prev = nil, nil
}

func (l *waitList) notify() {
	l.watchMu.Lock()
	defer l.watchMu.Unlock()
	for w := l.watchers; w != nil; w = l.watchers {
		l.removeLocked(w)
		w.notify()
	}
}

// A watch is a function registered to run when a context ends. It stays
// registered from one blocking call to the next, because most calls of a reader
// come with the same context, and because registering costs more than all the
// rest of the call.
type watch struct {
	done <-chan struct{} // identifies the context; nil: never ends
	stop func() bool
}

// needs reports whether the watch has yet to be set for ctx.
func (w *watch) needs(ctx context.Context) bool {
	done := ctx.Done()
	if done == w.done {
		return false
	}
	w.clear()
	return done != nil
}

func (w *watch) set(ctx context.Context, f func()) {
	w.done, w.stop = ctx.Done(), context.AfterFunc(ctx, f)
}

func (w *watch) clear() {
	if w.stop != nil {
		w.stop()
	}
	*w = watch{}
}

// ended reports whether the context has ended. It calls nothing of the user's.
func (w *watch) ended() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}
