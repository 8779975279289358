package health

import (
	"cmp"
	"errors"
	"fmt"
	"time"
)

// Options configure a [Prober]. The zero value is good for use.
type Options struct {
	// Concurrency is how many checks run at the same time. It must be at least
	// the number of checks a second times the seconds that one takes, those
	// included that run into their timeout. If it is not, checks start late, and
	// Snapshot.Doubt says so. An eighth of it, but one at least and none of one, is
	// kept for targets whose last check did not fail, so that those that are silent
	// do not delay them. Zero means 512.
	Concurrency int

	// MaxHung is how many checks that ignore their context are left alone, in
	// goroutines besides those of Concurrency. Further ones each keep one of
	// Concurrency from working. Zero means 1024.
	MaxHung int

	// PanicShare is the share of the targets that must fail at once for the
	// prober to blame itself: when more than this share of those that have
	// answered before, and are not dead yet, fail their checks, no failure
	// changes anything, or counts afterwards. Those that have failed for twice as long
	// as it takes to be called not ready are left out of both: they do not fail now. An answer "not ready" is not a failure here. Zero means 0.5; 1
	// switches it off.
	PanicShare float64

	// PanicMinimum is how many targets there must be for a share of them to
	// mean anything; and of how many at least the share is taken. Zero means 5.
	PanicMinimum int

	// MaxUnready is the share of a group that may be out at once, because their
	// checks fail or their traffic fares badly: that was ready, and has been
	// called not ready or dead. One may always be. The rest stays ready, and is
	// held, until one of those is back or has been removed. A target that says
	// itself that it is not ready is believed; it counts as out, but is never
	// held. Zero means a third; 1 switches it off.
	MaxUnready float64

	// Outlier says what to make of what [Prober.Observe] is told.
	Outlier Outlier
}

func (o Options) withDefaults() (Options, error) {
	o.Concurrency = cmp.Or(o.Concurrency, 512)
	o.MaxHung = cmp.Or(o.MaxHung, 1024)
	o.PanicShare = cmp.Or(o.PanicShare, 0.5)
	o.PanicMinimum = cmp.Or(o.PanicMinimum, 5)
	o.MaxUnready = cmp.Or(o.MaxUnready, 1./3)
	var errs []error
	for _, f := range []struct {
		name string
		n    int
	}{{"Concurrency", o.Concurrency}, {"MaxHung", o.MaxHung}, {"PanicMinimum", o.PanicMinimum}} {
		if f.n < 1 {
			errs = append(errs, fmt.Errorf("field Options.%s is %d: it must be positive", f.name, f.n))
		}
	}
	for _, f := range []struct {
		name  string
		share float64
	}{{"PanicShare", o.PanicShare}, {"MaxUnready", o.MaxUnready}} {
		if !(f.share > 0 && f.share <= 1) {
			errs = append(errs, fmt.Errorf("field Options.%s is %v: it must be from 0 to 1", f.name, f.share))
		}
	}
	var err error
	o.Outlier, err = o.Outlier.withDefaults()
	return o, errors.Join(append(errs, err)...)
}

const (
	// Being late by less than this is normal for a process that shares its
	// processors with others; more is a stall, which checks do not pay for.
	stall = 100 * time.Millisecond

	// Run sleeps at least this long, so that what it costs to wake up is shared
	// by all that is due by then.
	rest = 2 * time.Millisecond

	// While checks run the prober looks at the clock this often, so as to
	// notice that it was stopped.
	pulse = 100 * time.Millisecond

	// How long a check may take to return after its context has ended, before
	// its place is given to another.
	grace = 50 * time.Millisecond

	// The lock is held for that many targets at once.
	chunk = 2048

	// The memory of the worst lateness halves in this time.
	lagHalfLife = 5 * time.Second
)
