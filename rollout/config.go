package rollout

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"time"
)

// Config holds the times of the decisions. The zero value is good for use.
type Config struct {
	// Interval is the time between two looks: how often Ready and Stats are
	// called. Twice as long, but at least a second, is the longest time between
	// two looks that counts. Zero means 1 s.
	Interval time.Duration

	// StopWithin is how long, beyond its drain, a version may take to stop
	// before the rollout ends without it. It is tried further. Zero means 2
	// minutes.
	StopWithin time.Duration

	// MaxBackoff bounds the wait after an action has failed, which begins with
	// Interval and doubles. Zero means 30 s.
	MaxBackoff time.Duration

	// Resync is how often weights that are applied are sent again, unchanged.
	// Zero means a minute, a negative value never.
	Resync time.Duration
}

func (c Config) withDefaults() (Config, error) {
	c.Interval = cmp.Or(c.Interval, time.Second)
	c.StopWithin = cmp.Or(c.StopWithin, 2*time.Minute)
	c.MaxBackoff = cmp.Or(c.MaxBackoff, 30*time.Second)
	c.Resync = cmp.Or(c.Resync, time.Minute)
	if c.Resync < 0 {
		c.Resync = math.MaxInt64
	}
	var errs []error
	for _, f := range []struct {
		name string
		d    time.Duration
	}{{"Interval", c.Interval}, {"StopWithin", c.StopWithin}, {"MaxBackoff", c.MaxBackoff}} {
		if f.d <= 0 {
			errs = append(errs, fmt.Errorf("field Config.%s is %v: it must be positive", f.name, f.d))
		}
	}
	return c, errors.Join(errs...)
}

// backoff returns the wait after that many failures in a row.
func (c Config) backoff(failures int) time.Duration {
	wait := c.Interval
	for range failures - 1 {
		if wait > c.MaxBackoff/2 {
			return c.MaxBackoff
		}
		wait *= 2
	}
	return min(wait, c.MaxBackoff)
}

// Wake returns how long after the step that made s the next one is due.
func (c Config) Wake(s State) time.Duration {
	c, _ = c.withDefaults()
	wait := c.Interval
	soonest := func(d time.Duration) {
		wait = min(wait, max(d, time.Millisecond))
	}
	for _, r := range s.live.retry {
		if r.at > s.live.clock {
			soonest(r.at - s.live.clock)
		}
	}
	for _, at := range s.live.next {
		if at > s.live.clock {
			soonest(at - s.live.clock)
		}
	}
	if step, ok := s.step(); ok && s.live.counting {
		soonest(step.For - s.Held)
	}
	return wait
}
