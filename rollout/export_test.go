package rollout

import "time"

// SetNow lets a Runner believe in another clock.
func (r *Runner) SetNow(now func() time.Time) { r.now = now }

// TakeOver is what a Runner does with the state that it has loaded.
func (s State) TakeOver(owner string, now time.Time) State { return s.takeOver(owner, now) }
