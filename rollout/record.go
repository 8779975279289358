package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// How often the time that a step has held is recorded.
const softInterval = 10 * time.Second

// A record is what is known of the stored state. It is guarded by Runner.mu.
type record struct {
	loaded  bool
	state   State  // what is stored
	seq     uint64 // its Seq
	version uint64 // of the store
	unsure  bool   // a write may have happened that was not confirmed

	call     *call // to the store, under way
	hung     int   // calls to the store that were left behind
	err      string
	failures int
	retry    time.Time // when to try again
	last     time.Time // when it was stored
}

// loadLocked sees to it that the state is loaded, and returns when to look again.
func (r *Runner) loadLocked(now time.Time) time.Duration {
	rec := &r.record
	if rec.call != nil || rec.hung >= maxHungKey {
		return time.Minute
	}
	if wait := rec.retry.Sub(now); wait > 0 && wait <= r.opts.Config.MaxBackoff {
		return wait
	}
	var s State
	var version uint64
	r.storeLocked(r.life, "load the state", func(ctx context.Context) error {
		value, v, err := r.opts.Store.Load(ctx, r.opts.App)
		if err == nil && v != 0 {
			if err = json.Unmarshal(value, &s); err != nil {
				err = fmt.Errorf("what is stored is not a state: %w", err)
			} else if s.Format > stateFormat {
				err = fmt.Errorf("what is stored is not for this program: it is of format %d, and this program knows %d: run the newer one that stored it", s.Format, stateFormat)
			}
		}
		version = v
		return err
	}, func() {
		rec.version, rec.state, rec.seq, rec.loaded = version, s, s.Seq, true
		r.state = s.takeOver(r.owner, r.now())
		r.events.publish(s.Events)
		close(r.loaded)
		r.tellLocked()
	})
	return time.Minute
}

// recordLocked sees to it that the state is recorded if it has to be, and
// returns when to look again.
func (r *Runner) recordLocked(now time.Time) time.Duration {
	rec := &r.record
	if rec.seq == r.state.Seq && (!r.state.live.counting || now.Sub(rec.last) < softInterval) {
		return time.Minute
	}
	if rec.call != nil || rec.hung >= maxHungKey {
		return time.Minute
	}
	if wait := rec.retry.Sub(now); wait > 0 && wait <= r.opts.Config.MaxBackoff {
		return wait
	}
	r.count.writes++
	w := r.writeLocked()
	r.storeLocked(context.Background(), "store the state", w.run, w.done)
	return time.Minute
}

// A write is one that is under way.
type write struct {
	r        *Runner
	state    State
	expected uint64
	unsure   bool
	version  uint64
	lost     error
}

func (r *Runner) writeLocked() *write {
	rec := &r.record
	w := &write{r: r, state: r.state, expected: rec.version, unsure: rec.unsure}
	rec.unsure = true // until it has succeeded
	return w
}

// run stores the state. It does not hold the lock.
func (w *write) run(ctx context.Context) error {
	store, app := w.r.opts.Store, w.r.opts.App
	value, err := json.Marshal(w.state)
	if err != nil {
		return err
	}
	for range 3 {
		if w.unsure {
			// One of ours may have been stored though it failed, or was late.
			old, version, err := store.Load(ctx, app)
			if err != nil {
				return err
			}
			var s State
			if err := json.Unmarshal(old, &s); version != w.expected && (err != nil || s.Owner != w.r.owner) {
				w.lost = fmt.Errorf("%w: %s in epoch %d", ErrTakenOver, or(s.Owner, "somebody"), s.Epoch)
				return w.lost
			}
			w.expected = version
		}
		w.version, err = store.CompareAndSwap(ctx, app, w.expected, value)
		if !errors.Is(err, ErrConflict) {
			return err
		}
		w.unsure = true
	}
	return err
}

// done notes that it is stored. It is called with the lock held.
func (w *write) done() {
	r, rec := w.r, &w.r.record
	rec.version, rec.state, rec.seq, rec.unsure = w.version, w.state, w.state.Seq, false
	rec.last = r.now()
	r.events.publish(w.state.Events)
	r.tellLocked()
}

// tellLocked wakes those who wait for the recorded state to change.
func (r *Runner) tellLocked() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// storeLocked makes a call to the store, and calls done, with the lock held, if
// it succeeds in time.
func (r *Runner) storeLocked(life context.Context, name string, run func(context.Context) error, done func()) {
	rec := &r.record
	ctx, cancel := context.WithTimeout(life, r.opts.AskTimeout)
	c := &call{name: name, key: "store", since: r.now(), cancel: cancel}
	rec.call = c
	fail := func(err error) {
		if errors.Is(err, ErrTakenOver) {
			r.failure = err
		}
		rec.err = name + ": " + err.Error()
		rec.failures++
		rec.retry = r.now().Add(r.opts.Config.backoff(rec.failures))
		r.count.storeErrors++
	}
	c.timer = time.AfterFunc(r.opts.AskTimeout+grace, func() {
		r.mu.Lock()
		if rec.call == c {
			rec.call = nil
			rec.hung++
			r.left[c] = true
			r.count.hung++
			fail(fmt.Errorf("it did not return within %v", r.opts.AskTimeout))
		}
		r.mu.Unlock()
		r.wake()
	})
	go func() {
		err := run(ctx)
		cancel()
		c.timer.Stop()
		r.mu.Lock()
		switch {
		case r.left[c]:
			delete(r.left, c)
			rec.hung--
		default:
			rec.call = nil
			if err != nil {
				fail(err)
				break
			}
			rec.err, rec.failures, rec.retry = "", 0, time.Time{}
			done()
		}
		r.mu.Unlock()
		r.wake()
	}()
}

// saveLastLocked records what is not recorded, and how far the step has come, if
// the store is well. Run is about to return, and waits for the call.
func (r *Runner) saveLastLocked() {
	rec := &r.record
	if !rec.loaded || rec.call != nil || r.failure != nil || rec.failures > 0 ||
		rec.seq == r.state.Seq && rec.state.Held == r.state.Held {
		return
	}
	r.count.writes++
	w := r.writeLocked()
	r.storeLocked(context.Background(), "store the state", w.run, w.done)
}
