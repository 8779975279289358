package health

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// A Heartbeat is a check that asks nobody: it fails when nobody has called Beat
// in time. Since it counts time itself, one failure is enough: a FailureThreshold
// of 1 suits it.
//
//	h := &health.Heartbeat{Within: 5 * time.Second}
//	prober.Add(health.Target{ID: "worker", Check: h.Check, Policy: policy})
//	...
//	h.Beat() // whenever the worker shows up
//
// Its fields must not be changed once it is in use. All methods may be called
// concurrently.
type Heartbeat struct {
	// Within is the longest silence. Zero means 30 s.
	Within time.Duration

	// MaxPhi, if positive, makes it fail sooner, when φ exceeds it: the silence
	// is then not long as such, but longer than this target's habits explain,
	// with an error once in 10^φ heartbeats. 8 is a good value. It begins to
	// work with the fourth beat.
	MaxPhi float64

	// Pause is how much longer than usual a silence may be before φ rises, for
	// targets that stop now and then to collect garbage.
	Pause time.Duration

	// MinDeviation is what the intervals are taken to vary by at least, as their
	// standard deviation, so that a burst of beats does not pass for a habit that
	// makes each ordinary silence suspicious. With MaxPhi 8 a silence is fine as
	// long as it exceeds the mean by less than some 5.6 times as much. Zero means
	// 100 ms.
	MinDeviation time.Duration

	mu      sync.Mutex // guards the following
	last    time.Time
	accrual accrual
}

// Beat tells that the target lives.
func (h *Heartbeat) Beat() {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if interval := now.Sub(h.last); h.MaxPhi > 0 && !h.last.IsZero() && interval <= h.within() {
		h.accrual.add(interval) // an outage is not a habit
	}
	h.last = now
}

func (h *Heartbeat) within() time.Duration {
	if h.Within > 0 {
		return h.Within
	}
	return 30 * time.Second
}

func (h *Heartbeat) phi(silence time.Duration) (float64, bool) {
	least := h.MinDeviation
	if least <= 0 {
		least = 100 * time.Millisecond
	}
	return h.accrual.phi(silence, h.Pause, least)
}

// Phi returns how suspicious the silence is at a time, in powers of ten: see
// MaxPhi. It is 0 if MaxPhi is, and until there have been four beats.
func (h *Heartbeat) Phi(now time.Time) float64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	phi, _ := h.phi(now.Sub(h.last))
	return phi
}

// Check is a [CheckFunc].
func (h *Heartbeat) Check(context.Context) (Result, error) {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last.IsZero() {
		return Result{}, fmt.Errorf("no heartbeat yet")
	}
	silence := now.Sub(h.last)
	if within := h.within(); silence > within {
		return Result{}, fmt.Errorf("no heartbeat for %v, of at most %v", silence.Round(time.Millisecond), within)
	}
	if h.MaxPhi > 0 {
		if phi, ok := h.phi(silence); ok && phi > h.MaxPhi {
			return Result{}, fmt.Errorf("no heartbeat for %v: phi is %.1f, of at most %.1f", silence.Round(time.Millisecond), phi, h.MaxPhi)
		}
	}
	return Result{}, nil
}
