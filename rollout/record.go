package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

const (
	// How often the time that a step has held is recorded, or, if there is
	// nothing to record, the store is asked whose the application is.
	softInterval = 10 * time.Second

	// How long ago the store must have said so for a version to be started or
	// stopped, which a Deployer cannot fence as it can weights.
	confirmedFor = time.Second
)

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
	owned    time.Time // when the store has last confirmed that it is this Runner's
}

// confirmed reports whether the store has just said that this Runner owns the
// application.
func (rec *record) confirmed(now time.Time) bool {
	ago := now.Sub(rec.owned)
	return ago >= 0 && ago <= confirmedFor
}

// due reports whether something that is done every softInterval is due. A clock
// that was set back makes it due.
func due(now, last time.Time) bool {
	ago := now.Sub(last)
	return ago < 0 || ago >= softInterval
}

// loadLocked sees to it that the state is loaded and taken over, and returns when
// to look again. The state counts as loaded when the take-over is recorded: until
// then the application is its predecessor's, whose weights must not be
// overtaken.
func (r *Runner) loadLocked(now time.Time) time.Duration {
	rec := &r.record
	if rec.call != nil || rec.hung >= maxHungKey {
		return time.Minute
	}
	if wait := rec.retry.Sub(now); wait > 0 && wait <= r.opts.Config.MaxBackoff {
		return wait
	}
	r.count.writes++
	var s State
	var version uint64
	r.storeLocked(r.life, "load the state", func(ctx context.Context) (err error) {
		s, version, err = r.takeOver(ctx)
		return err
	}, func() {
		rec.version, rec.state, rec.seq, rec.loaded = version, s, s.Seq, true
		rec.last = r.now()
		r.state = s
		r.events.publish(s.Events)
		close(r.loaded)
		r.tellLocked()
	})
	return time.Minute
}

// takeOver loads the state and stores that it is this Runner's from now on. If its
// predecessor has stored something in between, it is loaded again. It does not
// hold the lock.
func (r *Runner) takeOver(ctx context.Context) (s State, version uint64, err error) {
	for range 3 {
		value, loaded, err := r.opts.Store.Load(ctx, r.opts.App)
		if err == nil {
			err = ctx.Err() // a call that was left behind must not take over from others
		}
		if err != nil {
			return s, 0, err
		}
		s = State{}
		if loaded != 0 {
			if err := json.Unmarshal(value, &s); err != nil {
				return s, 0, fmt.Errorf("what is stored is not a state: %w", err)
			}
			if s.Format > stateFormat {
				return s, 0, fmt.Errorf("what is stored is not for this program: it is of format %d, and this program knows %d: run the newer one that stored it", s.Format, stateFormat)
			}
		}
		s = s.TakeOver(r.owner, r.now())
		if value, err = json.Marshal(s); err != nil {
			return s, 0, err
		}
		version, err = r.opts.Store.CompareAndSwap(ctx, r.opts.App, loaded, value)
		switch {
		case err == nil:
			return s, version, nil
		case !errors.Is(err, ErrConflict):
			return s, 0, fmt.Errorf("record that it is taken over: %w", err)
		}
	}
	return s, 0, fmt.Errorf("record that it is taken over: %w: somebody else stores at the same time", ErrConflict)
}

// recordLocked sees to it that the state is recorded if it has to be, or that
// the store confirms whose it is if that is to be known now, or was not asked for
// long. It returns when to look again.
func (r *Runner) recordLocked(now time.Time, confirm bool) time.Duration {
	rec := &r.record
	write := rec.seq != r.state.Seq || r.state.live.counting && due(now, rec.last)
	ask := due(now, rec.owned) || confirm && !rec.confirmed(now)
	if !write && !ask {
		return time.Minute
	}
	if rec.call != nil || rec.hung >= maxHungKey {
		return time.Minute
	}
	if wait := rec.retry.Sub(now); wait > 0 && wait <= r.opts.Config.MaxBackoff {
		return wait
	}
	if !write {
		expected := rec.version
		r.storeLocked(r.life, "ask whose the state is", func(ctx context.Context) error {
			_, err := r.stillOurs(ctx, expected)
			return err
		}, func() {})
		return time.Minute
	}
	r.count.writes++
	w := r.writeLocked()
	r.storeLocked(context.Background(), "store the state", w.run, w.done)
	return time.Minute
}

// stillOurs returns the stored version, which is the expected one or another that
// this Runner has stored, or an error that wraps ErrTakenOver. It does not hold
// the lock.
func (r *Runner) stillOurs(ctx context.Context, expected uint64) (version uint64, err error) {
	value, version, err := r.opts.Store.Load(ctx, r.opts.App)
	if err != nil || version == expected {
		return version, err
	}
	var s State
	if err := json.Unmarshal(value, &s); err != nil || s.Owner != r.owner {
		return 0, fmt.Errorf("%w: %s in epoch %d", ErrTakenOver, or(s.Owner, "somebody"), s.Epoch)
	}
	return version, nil
}

// A write is one that is under way.
type write struct {
	r        *Runner
	state    State
	expected uint64
	unsure   bool
	version  uint64
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
			if w.expected, err = w.r.stillOurs(ctx, w.expected); err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err // it was left behind, and what is stored now may be newer
			}
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
		err := guarded(func() error { return run(ctx) })
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
			rec.owned = r.now()
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
