package envelopekit

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"time"
)

// Restart says when a replica that has ended is started again, and when not
// any more. The zero value is good for use.
//
// The first restart is immediate, but for some milliseconds in which the others
// are told. Further ones wait Base, 2·Base, 4·Base and so
// on up to Max, each varied by up to a fifth so that replicas that fail
// together do not start together. A replica that has served for Stable starts
// afresh.
type Restart struct {
	// Base is the wait before the second restart in a row. Zero means 100 ms.
	Base time.Duration

	// Max is the longest wait. Zero means 10 s.
	Max time.Duration

	// Stable is how long a replica must have served for the count to begin
	// anew. Zero means 5 s.
	Stable time.Duration

	// StartAttempts is how many times in a row, as long as the main group has
	// never been stable, a replica of a group that has not been either may fail
	// to come up (end by itself before it serves or, in the main group, also
	// after that) before the whole deployment fails: such an application does
	// not work. Zero means 3.
	StartAttempts int

	// GiveUp is how many failures in a row a replica may have before it is
	// given up. Zero means 16, which with the other defaults takes about one
	// and a half minutes.
	GiveUp int
}

func (r Restart) withDefaults() Restart {
	r.Base = cmp.Or(r.Base, 100*time.Millisecond)
	r.Max = cmp.Or(r.Max, 10*time.Second)
	r.Stable = cmp.Or(r.Stable, 5*time.Second)
	r.StartAttempts = cmp.Or(r.StartAttempts, 3)
	r.GiveUp = cmp.Or(r.GiveUp, 16)
	return r
}

func (r Restart) validate() error {
	for _, f := range []struct {
		name string
		bad  bool
	}{
		{"Base", r.Base < 0},
		{"Max", r.Max < 0},
		{"Stable", r.Stable < 0},
		{"StartAttempts", r.StartAttempts < 0},
		{"GiveUp", r.GiveUp < 0},
	} {
		if f.bad {
			return fmt.Errorf("negative Options.Restart.%s", f.name)
		}
	}
	return nil
}

// A failureCount is what a replica's past means for its next start.
type failureCount struct {
	failures int // in a row, without a stable stretch
	faults   int // those among them that were the program's own doing
}

// after returns the count after another failure. served is how long the
// replica had served; fault tells whether it ended by itself.
func (c failureCount) after(r Restart, served time.Duration, fault bool) failureCount {
	if served >= r.Stable {
		c = failureCount{}
	}
	c.failures++
	if fault {
		c.faults++
	}
	return c
}

// delay returns the wait before the next start; random is in [0,1).
func (c failureCount) delay(r Restart, random float64) time.Duration {
	if c.failures <= 1 {
		return 0
	}
	d := r.Max
	if shift := c.failures - 2; r.Base <= r.Max>>shift { // Base<<shift fits, too
		d = r.Base << shift
	}
	d = min(d, math.MaxInt64/2) // room for the variation
	return time.Duration(float64(d) * (0.8 + 0.4*random))
}

// isFault reports whether a weavelet that ended with err did so by its own
// doing, and was not killed.
func isFault(err error) bool {
	exit, ok := errors.AsType[*ExitError](err)
	return !ok || !exit.Killed
}
