package rollout

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

const (
	// How long a call may take to return after its context has ended before it
	// is left behind.
	grace = 100 * time.Millisecond

	// How many calls for the same purpose are left behind.
	maxHungKey = 4

	// How long Run waits for its calls at the end.
	stopGrace = 5 * time.Second
)

// A call is a goroutine that calls a Deployer, a gate or a Store. Its fields are
// guarded by Runner.mu, or do not change.
type call struct {
	name   string
	key    string
	back   bool
	since  time.Time
	cancel context.CancelFunc
	timer  *time.Timer // leaves it behind
}

// callLocked makes the call, unless it is under way already or too many hang.
func (r *Runner) callLocked(a Action) {
	id := a.identity()
	if r.calls[id] != nil {
		return
	}
	c := &call{name: a.String(), key: a.key(), back: a.Back || a.Kind == ActStop, since: r.now()}
	all, same := 0, 0
	for l := range r.left {
		if l.back == c.back {
			all++
		}
		if l.key == c.key {
			same++
		}
	}
	if all >= r.opts.MaxHung || same >= maxHungKey {
		r.count.withheld++
		return
	}
	timeout := r.opts.CallTimeout
	switch a.Kind {
	case ActReady, ActStats:
		timeout = r.opts.AskTimeout
	case ActStop:
		timeout = later(timeout, a.Drain)
	}
	ctx, cancel := context.WithTimeout(r.life, timeout)
	c.cancel = cancel
	r.calls[id] = c
	r.inbox.Begun = append(r.inbox.Begun, a)
	r.count.calls[kindIndex(a.Kind)]++
	c.timer = time.AfterFunc(later(timeout, grace), func() {
		r.mu.Lock()
		if r.calls[id] == c {
			r.leaveLocked(id, c)
			r.count.hung++
			r.inbox.Outcomes = append(r.inbox.Outcomes, Outcome{Action: a, Hung: true,
				Err: fmt.Sprintf("it did not return within %v", timeout)})
		}
		r.mu.Unlock()
		r.wake()
	})
	state := r.state
	go func() {
		o := r.perform(ctx, a, state)
		cancel()
		c.timer.Stop()
		r.mu.Lock()
		if o.Late = r.left[c]; o.Late {
			delete(r.left, c)
		} else {
			delete(r.calls, id)
			if o.Err != "" {
				r.count.errors[kindIndex(a.Kind)]++
			}
		}
		r.inbox.Outcomes = append(r.inbox.Outcomes, o)
		r.mu.Unlock()
		r.wake()
	}()
}

// later returns the sum of two times that are not negative, or the longest there is.
func later(a, b time.Duration) time.Duration {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// leaveLocked cancels a call and does not wait for it.
func (r *Runner) leaveLocked(id string, c *call) {
	delete(r.calls, id)
	r.left[c] = true
	c.cancel()
}

// perform makes the call.
func (r *Runner) perform(ctx context.Context, a Action, s State) Outcome {
	o := Outcome{Action: a}
	err := guarded(func() (err error) {
		switch a.Kind {
		case ActStart:
			err = r.deployer.Start(ctx, a.Version)
		case ActReady:
			o.Readiness, err = r.deployer.Ready(ctx, a.Version)
		case ActSetWeights:
			err = r.deployer.SetWeights(ctx, a.Weights)
		case ActStop:
			err = r.deployer.Stop(ctx, a.Version, a.Drain)
		case ActStats:
			o.Traffic, err = r.deployer.Stats(ctx)
			if err == nil && r.opts.ByPlace {
				err = allByPlace(o.Traffic)
			}
		case ActGate:
			gate := r.opts.Gates[a.Gate]
			if gate == nil {
				return fmt.Errorf("there is no gate %q in Options.Gates", a.Gate)
			}
			o.Judgement, err = gate(ctx, s)
		}
		return err
	})
	if err != nil {
		o.Err, o.Permanent = or(err.Error(), "an error without words"), errors.Is(err, ErrPermanent)
	}
	return o
}

// allByPlace reports whether Stats kept the promise of Options.ByPlace.
func allByPlace(traffic map[string]Traffic) error {
	for _, version := range slices.Sorted(maps.Keys(traffic)) {
		if !traffic[version].byPlace() {
			return fmt.Errorf("the traffic of %s has no Places, which Options.ByPlace promises", version)
		}
	}
	return nil
}
