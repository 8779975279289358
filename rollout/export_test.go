package rollout

import "time"

// Grace is how long after its time a call is waited for.
const Grace = grace

// SetNow lets a Runner believe in another clock.
func (r *Runner) SetNow(now func() time.Time) { r.now = now }

// LiveSize is how many things a State remembers of this process.
func (s State) LiveSize() int {
	return len(s.live.versions) + len(s.live.retry) + len(s.live.next)
}

// Uneven reports whether the plan compares versions while their weights differ by
// place.
func Uneven(p Plan) bool { return p.uneven(false) != nil }
