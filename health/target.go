package health

import "context"

// A Target is something to watch.
type Target struct {
	// ID names the target. It must not be empty, and is unique in a prober.
	ID string

	// Group names the targets that stand in for each other, such as the
	// replicas of one service: caps on how many may be out at once count in a
	// group, and outliers are found by comparison with the rest of it. Targets
	// without a group share one.
	Group string

	// Check finds out how the target is. It must not be nil.
	Check CheckFunc

	// Policy says when to check, and what to make of it. The zero value means
	// [DefaultPolicy]; in any other each field is taken at its word.
	Policy Policy
}

// A CheckFunc asks a target how it is.
//
// An error says that the target did not answer, or not sensibly. A result says
// that it did, and so that it lives. The check must return when ctx ends, which
// it does after Policy.Timeout, or up to twice that while the prober is late, or when
// the target is removed. One that does
// not return is left alone in its goroutine and counts as a failure each period;
// it is never started a second time meanwhile. A panic is a failure, too, and so is
// the end of its goroutine by runtime.Goexit.
//
// Checks of different targets run at the same time.
type CheckFunc func(ctx context.Context) (Result, error)

// A Result is the answer of a target that lives. The zero value is the best
// one: ready.
type Result struct {
	// NotReady means that the target lives but wants no traffic.
	NotReady bool

	// Reason says why, in words. It becomes part of [Status.Why].
	Reason string
}

// Func makes a check of a function that knows only "well" and "not well", such
// as a ping.
func Func(f func(ctx context.Context) error) CheckFunc {
	if f == nil {
		return nil // which Add refuses
	}
	return func(ctx context.Context) (Result, error) { return Result{}, f(ctx) }
}
