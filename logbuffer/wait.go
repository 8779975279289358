package logbuffer

import (
	"context"
	"sync"
	"sync/atomic"
	"weak"
)

// A waitList holds the readers of a log that wait for more. Whoever wakes them
// takes the whole list in one step, however long it is, and wakes its first
// reader; that one hands the rest on to the next and wakes a few itself; and so
// on. So a write that finds a thousand readers blocked pays for one of them,
// and all processors share the work of waking the others.
//
// The list is a stack without a lock: readers push themselves, and leave only
// when all are taken. A reader that stops waiting for another reason, such as a
// cancelled context, stays behind as a waiter without an owner, until the next
// write or until such waiters become too many.
type waitList struct {
	head   atomic.Pointer[waiter]
	orphan atomic.Int64 // about how many waiters on the list have no owner
}

const (
	// fanOut is how many readers a woken reader wakes, besides the one to which
	// it hands the rest. It looks them all up first, so the figure also bounds
	// how long the rest wait if its thread loses the processor just then.
	fanOut = 16

	// minOrphans is how many waiters without an owner are always put up with.
	minOrphans = 64
)

// A waiter is the entry of one reader in a waitList.
type waiter struct {
	next *waiter // while listed: the next on the list

	mu      sync.Mutex // guards the following
	listed  bool       // on the list, or on one that has been taken but not gone through
	blocked bool       // the reader waits on cond
	ended   bool       // the watched context has ended since the reader last asked
	rest    *waiter    // handed over to the reader when it is woken: more to wake
	notify  func()     // called in place of waking, if not nil: the reader is part of a Merge
	cond    sync.Cond

	list  *waitList
	watch watch // owned by the reader
}

func newWaiter(l *waitList, notify func()) *waiter {
	w := &waiter{list: l, notify: notify}
	w.cond.L = &w.mu
	return w
}

// enlistLocked makes w be found by the next wake.
func (w *waiter) enlistLocked() {
	if w.listed {
		return
	}
	w.listed = true
	for {
		w.next = w.list.head.Load()
		if w.list.head.CompareAndSwap(w.next, w) {
			return
		}
	}
}

// wake sees to it that every reader on the list is woken. What they wait for
// must have been published before.
func (l *waitList) wake() {
	l.orphan.Store(0)
	handOn(l.head.Swap(nil))
}

// handOn goes through a list that has been taken, to the first reader that is
// blocked, wakes it and leaves the rest to it.
func handOn(w *waiter) {
	for w != nil {
		next := w.next
		if w.release(next) {
			return
		}
		w = next
	}
}

// relay wakes the readers of a list that has been handed on.
func relay(rest *waiter) {
	if rest == nil {
		return
	}
	var own [fanOut]*waiter
	n := 0
	for ; rest != nil && n < fanOut; n++ {
		own[n] = rest
		rest = rest.next
	}
	handOn(rest)
	for _, w := range own[:n] {
		w.release(nil)
	}
}

// release takes w off the list that it was on, and wakes its reader if that is
// blocked. It reports whether it was; the reader has then got rest as well.
func (w *waiter) release(rest *waiter) bool {
	w.mu.Lock()
	w.listed = false // from here on w.next belongs to the reader again
	blocked, notify := w.blocked, w.notify
	if blocked {
		w.blocked = false
		w.rest = rest
	}
	w.mu.Unlock()
	if blocked {
		w.cond.Signal()
	} else if notify != nil {
		notify()
	}
	return blocked
}

// interrupt wakes w, and w alone, if it is blocked.
func (w *waiter) interrupt() {
	w.mu.Lock()
	w.ended = true
	w.blocked = false
	w.mu.Unlock()
	w.cond.Signal()
}

// abandon leaves w, which its reader does not use any more, to the list.
func (w *waiter) abandon(readers int64) {
	w.watch.clear()
	w.mu.Lock()
	listed := w.listed
	w.notify = nil
	w.mu.Unlock()
	if !listed {
		return
	}
	// Waking everybody for nothing clears the list. As it takes as many orphans
	// as there may be readers to wake, an orphan costs no more than a wake-up.
	if n := w.list.orphan.Add(1); n >= minOrphans && n >= readers {
		w.list.wake()
	}
}

// interruptOn has w interrupted when ctx ends.
func (w *waiter) interruptOn(ctx context.Context) {
	if !w.watch.needs(ctx) {
		return
	}
	// A reader that is dropped without Close must not live on through ctx.
	p := weak.Make(w)
	w.watch.set(ctx, func() {
		if w := p.Value(); w != nil {
			w.interrupt()
		}
	})
}

// A watch is a function registered to run when a context ends. It stays
// registered from one blocking call to the next, because most calls of a reader
// come with the same context, and because registering costs more than all the
// rest of the call.
type watch struct {
	done <-chan struct{} // identifies the context
	stop func() bool
}

// needs reports whether the watch has to be set for ctx. If not, it is in place,
// or ctx never ends; in the latter case the watch is cleared.
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
