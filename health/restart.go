package health

import (
	"cmp"
	"errors"
	"fmt"
	"time"
)

// ErrGaveUp is wrapped by what [Restart.Next] returns when there is to be no
// further restart.
var ErrGaveUp = errors.New("gave up")

// Restart says when something that ended, or is to be replaced, is started
// again, and when not any more. It is a plain value, for whoever supervises;
// the prober does not use it. The zero value is good for use.
//
// The wait grows from Base by Factor with each restart, and is varied at random
// by up to Jitter; it is never longer than Max. A stretch of Healthy without an end
// starts the waits anew. More than Limit restarts within Window are one too many.
type Restart struct {
	Base    time.Duration // the first wait. Zero means 100 ms
	Max     time.Duration // the longest wait, at least Base. Zero means 30 s
	Factor  float64       // at least 1. Zero means 2
	Jitter  float64       // from 0 to 1; of each wait, up or down. Zero means 0.2
	Healthy time.Duration // Zero means 1 min
	Limit   int           // Zero means 10; a negative value is no limit
	Window  time.Duration // Zero means 10 min
}

// A RestartHistory is what a [Restart] policy remembers of one target. The zero
// value is that of a target that was never restarted. Histories are values: a
// copy is not affected by what becomes of the original. They can be stored, such as
// in JSON.
type RestartHistory struct {
	Streak int         // restarts since it was last healthy
	Recent []time.Time // of restarts within the window, the newest last; never changed in place
}

// Next returns what to do about a target that ended, or was called dead, at
// now, after it had been healthy for the given time: wait that long and restart
// it, or, with an error that wraps [ErrGaveUp], leave it; another error names a field of
// r that is wrong. random is in [0,1),
// as of [math/rand/v2.Float64]. The history that it returns is that of the next
// call. It depends on nothing but its arguments.
func (r Restart) Next(h RestartHistory, now time.Time, healthy time.Duration, random float64) (RestartHistory, time.Duration, error) {
	if err := r.validate(); err != nil {
		return h, 0, err
	}
	r = r.withDefaults()
	if healthy >= r.Healthy {
		h.Streak = 0
	}
	var recent []time.Time
	for _, t := range h.Recent {
		if t.After(now) {
			t = now // the clock was set back
		}
		if now.Sub(t) < r.Window {
			recent = append(recent, t)
		}
	}
	if r.Limit > 0 && len(recent) >= r.Limit {
		h.Recent = recent
		return h, 0, fmt.Errorf("%w: it was restarted %d times within %v, and has failed again", ErrGaveUp, len(recent), r.Window)
	}
	wait := float64(r.Base)
	for range h.Streak {
		if wait *= r.Factor; wait >= float64(r.Max) {
			break
		}
	}
	d := r.Max
	if wait = min(wait, float64(r.Max)) * (1 + r.Jitter*(2*random-1)); wait < float64(r.Max) {
		d = time.Duration(wait)
	}
	h.Streak++
	if h.Recent = nil; r.Limit > 0 {
		h.Recent = append(recent, now)
	}
	return h, d, nil
}

func (r Restart) withDefaults() Restart {
	r.Base = cmp.Or(r.Base, 100*time.Millisecond)
	r.Max = max(cmp.Or(r.Max, 30*time.Second), r.Base)
	r.Factor = cmp.Or(r.Factor, 2)
	r.Jitter = cmp.Or(r.Jitter, 0.2)
	r.Healthy = cmp.Or(r.Healthy, time.Minute)
	r.Limit = cmp.Or(r.Limit, 10)
	r.Window = cmp.Or(r.Window, 10*time.Minute)
	return r
}

func (r Restart) validate() error {
	for _, f := range []struct {
		name string
		bad  bool
		rule string
	}{
		{"Base", r.Base < 0, "must not be negative"},
		{"Max", r.Max < 0, "must not be negative"},
		{"Factor", r.Factor != 0 && !(r.Factor >= 1), "must be at least 1"},
		{"Jitter", !(r.Jitter >= 0 && r.Jitter <= 1), "must be from 0 to 1"},
		{"Healthy", r.Healthy < 0, "must not be negative"},
		{"Window", r.Window < 0, "must not be negative"},
	} {
		if f.bad {
			return fmt.Errorf("field Restart.%s %s", f.name, f.rule)
		}
	}
	return nil
}
