package health

import (
	"fmt"
	"math"
	"time"
)

// A lagMeter measures how late the prober itself is.
type lagMeter struct {
	planned instant // when it meant to wake up; 0 if it does not sleep
	lost    instant // all the time that it spent in stalls
	worst   fading  // lateness
	ended   instant // the end of the last stall, and its length
	length  instant
}

// wake notes that the prober is awake.
func (m *lagMeter) wake(now instant) {
	late := m.late(now)
	m.planned = 0
	m.worst.note(late, now)
	if late >= stall {
		m.lost += late
		m.ended, m.length = now, late
	}
}

// settling tells whether a check started so soon after a stall that what the
// target has sent meanwhile, such as heartbeats, may not have been read yet.
func (m *lagMeter) settling(timeout, started instant) bool {
	return m.length > timeout/4 && started-m.ended < min(m.length, pulse)
}

func (m *lagMeter) late(now instant) instant {
	if m.planned == 0 {
		return 0
	}
	return max(0, now-m.planned)
}

// lag returns the worst lateness of late: it fades.
func (m *lagMeter) lag(now instant) instant { return m.worst.at(now) }

// lostBy returns the time lost to stalls until now, the present one included.
func (m *lagMeter) lostBy(now instant) instant {
	if late := m.late(now); late >= stall {
		return m.lost + late
	}
	return m.lost
}

// stretch returns what is to be added to a timeout, because answers have to
// wait for a prober that is late: Lifeguard's local health awareness, in the
// unit that is measured. A lateness that a timeout hardly feels adds nothing.
func (m *lagMeter) stretch(timeout, now instant) instant {
	if lag := m.lag(now); lag >= stall && lag > timeout/10 {
		return min(lag, timeout)
	}
	return 0
}

// excuse tells whether a check that got no answer in time is no evidence
// against the target, since the prober was away for so much of that time that
// less than half of the timeout is left.
func (m *lagMeter) excuse(timeout, started, lostBefore, now instant) (string, bool) {
	lost := m.lostBy(now) - lostBefore
	if lost < stall || now-started-lost >= timeout/2 {
		return "", false
	}
	return heldUp(lost), true
}

// A fading is the worst of some delays, the memory of which halves each
// lagHalfLife.
type fading struct{ worst, noted instant }

func (f *fading) note(d, now instant) {
	if d > f.at(now) {
		f.worst, f.noted = d, now
	}
}

func (f *fading) at(now instant) instant {
	if f.worst == 0 {
		return 0
	}
	return instant(float64(f.worst) * math.Exp2(-float64(now-f.noted)/float64(lagHalfLife)))
}

func heldUp(lost time.Duration) string {
	return fmt.Sprintf("cannot tell: the prober itself was held up for %v", lost.Round(time.Millisecond))
}

// A tally counts targets, for one prober or group.
type tally struct {
	size    int // targets in routing or out by the prober's word
	out     int // those out
	ejected int // those among them out because of their traffic
	known   int // targets that have answered, and are not dead
	settled int // those among them that have failed for long
	failing int // of the others: the last check that told something failed
	doubted int // of the rest: the last check told nothing
}

// add counts a target in its standing, or with sign -1 no longer.
func (c *tally) add(s *standing, sign int) {
	if s.state == Ready || s.out {
		c.size += sign
	}
	if s.out {
		c.out += sign
		if s.byTraffic {
			c.ejected += sign
		}
	}
	if s.state == Ready || s.state == NotReady {
		c.known += sign
		switch {
		case s.settled:
			c.settled += sign
		case s.failing:
			c.failing += sign
		case s.last == doubtful:
			c.doubted += sign
		}
	}
}

// panicking tells whether so much fails at once that it must be the prober. What has
// failed for long is out of that count, but a few that are left are no more than a few.
func (o *Options) panicking(c *tally, failing int) bool {
	return c.known >= o.PanicMinimum && float64(failing) > o.PanicShare*float64(max(c.known-c.settled, o.PanicMinimum))
}

// full tells whether no further target of a group may be taken out.
func full(out, size int, share float64) bool {
	return out >= max(1, int(share*float64(size)+1e-9))
}

// panicText says what panic mode is about.
func (o *Options) panicText(known, failing int) string {
	return fmt.Sprintf("cannot tell: %d of %d targets fail at once, more than %.3g %%, so it may be the prober that is cut off",
		failing, known, 100*o.PanicShare)
}
