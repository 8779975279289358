package health

import (
	"errors"
	"fmt"
	"time"
)

// A Policy says when a target is checked, and how many checks it takes to
// change one's mind. The names are those of Kubernetes' probes; one check
// serves as all three of them, which differ in what they count:
//
//   - startup: until the target has answered for the first time, failures
//     count against StartupThreshold only;
//   - readiness: FailureThreshold checks in a row that failed, or whose answer
//     was "not ready", take it out of routing; SuccessThreshold good ones bring
//     it back;
//   - liveness: LivenessThreshold checks in a row that failed ask for a
//     restart. An answer, even "not ready", is a sign of life.
type Policy struct {
	// InitialDelay is the time before the first check.
	InitialDelay time.Duration

	// Period is the longest time from the start of one check to that of the
	// next. Checks come 2 to 8 % sooner, at random, so that probers do not fall
	// into step, and a prober that is late makes them sooner by as much, at
	// most a quarter: that keeps the promise below. It is at least 1 ms. The
	// prober wakes up every 2 ms at most, so with periods under 200 ms it may take
	// up to 4 ms longer than promised to find a target out, and under 60 ms, if
	// its check ignores its context, up to 50 ms longer. With a Timeout of more than
	// nine tenths of the period, checks have to wait for each other: what the prober is
	// late is then taken from the timeout, up to a tenth of it, and what it is late beyond
	// that adds up. Periods under 10 ms are kept only roughly.
	Period time.Duration

	// Timeout is how long a check may take, at most Period. A target that
	// answers no more is found out after at most
	// Timeout + FailureThreshold × Period.
	Timeout time.Duration

	// SuccessThreshold is how many checks in a row must pass for the target to
	// become ready.
	SuccessThreshold int

	// FailureThreshold is how many checks in a row must fail for the target to
	// become not ready.
	FailureThreshold int

	// LivenessThreshold is how many checks in a row must fail to get an answer
	// for the target to be called dead. Zero means never.
	LivenessThreshold int

	// StartupThreshold is how many checks may fail before the first answer
	// until the target is called dead. Zero means any number.
	StartupThreshold int
}

// DefaultPolicy returns Kubernetes' defaults (every 10 s, 1 s to answer, one
// success, three failures), a restart after six failures in a row, and 30
// checks' time to start.
func DefaultPolicy() Policy {
	return Policy{
		Period:            10 * time.Second,
		Timeout:           time.Second,
		SuccessThreshold:  1,
		FailureThreshold:  3,
		LivenessThreshold: 6,
		StartupThreshold:  30,
	}
}

// mostDoubts is how many checks that tell nothing, as the prober was held up, are
// forgiven since the last answer. Those after them count.
func (p *Policy) mostDoubts() uint8 { return uint8(min(max(p.FailureThreshold, 2), maxDoubts)) }

// maxDoubts keeps their number within its bits.
const maxDoubts = 255

// maxDuration is far beyond all uses, and leaves room for sums.
const maxDuration = 100 * 365 * 24 * time.Hour

// maxThreshold keeps counts within the bits that a target has for them.
const maxThreshold = 1 << 20

func (p *Policy) validate() error {
	duration := func(field string, d time.Duration, least time.Duration, rule string) error {
		switch {
		case d < least:
			return fmt.Errorf("field Policy.%s is %v: %s", field, d, rule)
		case d > maxDuration:
			return fmt.Errorf("field Policy.%s is %v: it must not be longer than 100 years", field, d)
		}
		return nil
	}
	threshold := func(field string, n, least int) error {
		if n < least || n > maxThreshold {
			return fmt.Errorf("field Policy.%s is %d: it must be from %d to %d", field, n, least, maxThreshold)
		}
		return nil
	}
	errs := []error{
		duration("InitialDelay", p.InitialDelay, 0, "it must not be negative"),
		duration("Period", p.Period, time.Millisecond, "it must be at least 1ms"),
		duration("Timeout", p.Timeout, 1, "it must be positive"),
		threshold("SuccessThreshold", p.SuccessThreshold, 1),
		threshold("FailureThreshold", p.FailureThreshold, 1),
		threshold("LivenessThreshold", p.LivenessThreshold, 0),
		threshold("StartupThreshold", p.StartupThreshold, 0),
	}
	if p.Timeout > p.Period && p.Period > 0 {
		errs = append(errs, fmt.Errorf("field Policy.Timeout is %v: it must not exceed Policy.Period, %v", p.Timeout, p.Period))
	}
	return errors.Join(errs...)
}
