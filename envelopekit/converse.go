package envelopekit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/protos"

	"github.com/weaverkit/weaverkit/envelopekit/placement"
)

const (
	// Polls whether a new replica's components have initialized begin fast,
	// for those that take milliseconds, and get slower.
	firstReadyPoll = 2 * time.Millisecond
	lastReadyPoll  = 200 * time.Millisecond

	// Every so many questions whether a weavelet is well, it is asked to take
	// over routing.
	routingProbe = 5

	// Waits before something that a weavelet refused is told to it again.
	firstRetry = 20 * time.Millisecond
	lastRetry  = time.Second
)

// errHung is the error of a weavelet that does not answer.
var errHung = errors.New("it does not answer")

// A conversation is what the goroutine that talks to a weavelet remembers.
type conversation struct {
	misses  int           // calls in a row that were not answered in time
	missed  time.Time     // when the last of them was counted
	retry   time.Duration // the wait after the next failure
	poll    time.Duration // the wait before the next poll for readiness
	asked   int           // questions whether it is well
	contact time.Time     // the last answer
}

// attend brings the weavelet up to date, whenever there is something to tell
// it, and asks whether it is well, until it ends, hangs, breaks or is retired. It
// returns how it ended; nil is an exit with status 0.
func (d *Deployment) attend(r *replica) error {
	s, w := r.slot, r.weavelet
	c := conversation{retry: firstRetry, poll: firstReadyPoll, contact: time.Now()}
	retire := s.retire
	var drained <-chan struct{}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-w.Done():
			d.leave(r)
			return w.Err()
		case <-d.life.Done():
			d.leave(r)
			d.halt(r)
			return errEnding
		case <-retire:
			retire = nil
			d.leave(r)
			drained = d.drain(r)
		case <-drained:
			d.halt(r)
			return errEnding
		case <-r.wake:
		case <-timer.C:
		}
		err := d.unfit(r)
		if err == nil {
			timer.Reset(d.talk(r, &c))
			err = d.unfit(r)
			if err == nil && c.misses >= d.opts.Liveness.Failures {
				err = fmt.Errorf("%w: %d calls in a row were not answered within %v", errHung, c.misses, d.opts.Liveness.Timeout)
			}
		}
		if err != nil {
			d.leave(r)
			// Whoever waits for its end is not the one to replace it.
			d.wg.Go(func() { d.halt(r) })
			return err
		}
	}
}

func (d *Deployment) leave(r *replica) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leaveLocked(r)
}

// halt ends the weavelet: gracefully if it is retired, by force if it hangs or
// all has to end at once.
func (d *Deployment) halt(r *replica) {
	ctx, cancel := context.WithTimeout(d.life, d.opts.StopGrace)
	defer cancel()
	if !r.slot.retired() {
		cancel()
	}
	if err := r.weavelet.Stop(ctx); err != nil {
		d.events.add(Event{Kind: Problem, Group: r.slot.g.Name, Replica: r.slot.number, Reason: fmt.Sprintf("stop: %v", err)})
	}
}

// drain returns a channel that is closed when the replica, which has left
// routing and listeners, has had time to finish what it was doing.
func (d *Deployment) drain(r *replica) <-chan struct{} {
	drained := make(chan struct{})
	d.wg.Go(func() {
		defer close(drained)
		ctx, cancel := context.WithTimeout(d.life, d.opts.StopGrace)
		defer cancel()
		d.awaitFrontends(ctx, r)
		select {
		case <-time.After(d.opts.DrainDelay):
		case <-d.stopc: // its callers have ended already
		case <-r.weavelet.Done():
		case <-ctx.Done():
		}
	})
	return drained
}

// talk tells the weavelet all that it does not know yet, and asks what is to
// be asked. It returns how long it need not be called again unless the replica
// is woken.
func (d *Deployment) talk(r *replica, c *conversation) time.Duration {
	for {
		m, ok := d.next(r)
		if !ok {
			break
		}
		if !d.say(r, c, m.what, func(ctx context.Context) error { return m.send(ctx, r.weavelet) }) {
			return c.backOff()
		}
		d.told(r, m)
	}
	if !d.isServing(r) {
		if d.askReady(r, c) {
			return 0
		}
		wait := c.poll
		c.poll = min(c.poll*3/2, lastReadyPoll)
		return wait
	}
	c.poll = firstReadyPoll
	period := d.opts.Liveness.Period
	if wait := period - time.Since(c.contact); wait > period/beats {
		return d.onBeat(wait)
	}
	if !d.say(r, c, "liveness", func(ctx context.Context) error {
		// Health costs half as much: nothing is logged.
		if c.asked++; c.asked%routingProbe != 0 {
			_, err := r.weavelet.Health(ctx)
			return err
		}
		return r.weavelet.UpdateRouting(ctx, d.probe(r))
	}) {
		c.asked = routingProbe - 1 // the more telling one is next
		return c.backOff()
	}
	return d.onBeat(period)
}

// beats is how many moments there are in a Liveness.Period at which weavelets
// are asked.
const beats = 20

// onBeat lengthens a wait so that questions to many weavelets come together: to
// wake up for each of them costs several times as much as to ask it.
func (d *Deployment) onBeat(wait time.Duration) time.Duration {
	beat := max(1, d.opts.Liveness.Period/beats)
	return wait + (beat-(time.Since(d.created)+wait)%beat)%beat
}

// backOff returns how long to wait after a failure.
func (c *conversation) backOff() time.Duration {
	wait := c.retry
	c.retry = min(2*c.retry, lastRetry)
	return wait
}

// say makes a call to the weavelet and keeps count of those unanswered.
func (d *Deployment) say(r *replica, c *conversation, what string, f func(context.Context) error) bool {
	timeout := d.opts.Liveness.Timeout
	ctx, cancel := context.WithTimeout(r.life, timeout)
	defer cancel()
	start := time.Now()
	err := f(ctx)
	took := time.Since(start)
	switch {
	case err == nil:
		c.misses, c.retry, c.contact = 0, firstRetry, time.Now()
	case errors.Is(err, ErrEnded) || r.life.Err() != nil:
		return false
	case errors.Is(err, context.DeadlineExceeded):
		// If it took much longer than the timeout, then this process was
		// stopped or starved, and cannot tell.
		if took < timeout*3/2 {
			c.misses, c.missed = c.misses+1, time.Now()
		}
	case errors.Is(err, ErrUnanswered) && time.Since(c.missed) >= timeout:
		// It was not even asked: that took no time, but counts as if it had.
		c.misses, c.missed = c.misses+1, time.Now()
	}
	d.noteProblem(r, what, err)
	return err == nil
}

// noteProblem remembers what the weavelet failed to do; the first time it is
// an event.
func (d *Deployment) noteProblem(r *replica, what string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		r.problem = ""
		return
	}
	if r.problem == "" {
		d.events.add(Event{Kind: Problem, Group: r.slot.g.Name, Replica: r.slot.number, Reason: fmt.Sprintf("%s: %v", what, err)})
	}
	r.problem = fmt.Sprintf("%s: %v", what, err)
}

// probe returns routing that is true, that the weavelet need not act upon, and
// that it can only acknowledge if its log is not stuck: nothing can call the
// main component.
func (d *Deployment) probe(r *replica) *protos.RoutingInfo {
	if r.slot.g.Main {
		return &protos.RoutingInfo{Component: placement.Main, Local: true}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return &protos.RoutingInfo{Component: placement.Main, Replicas: d.components[placement.Main].group.addresses}
}

// unfit returns why the weavelet can never do what it is for, if so.
func (d *Deployment) unfit(r *replica) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return r.unfit
}

func (d *Deployment) isServing(r *replica) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return r.left || !r.served.IsZero()
}

// askReady asks which components have initialized. It returns true when all
// that are to run have, and the replica serves.
func (d *Deployment) askReady(r *replica, c *conversation) bool {
	var ready []string
	ok := d.say(r, c, "health", func(ctx context.Context) error {
		reply, err := r.weavelet.Health(ctx)
		ready = reply.GetHealthyComponents()
		return err
	})
	if !ok {
		return false
	}
	slices.Sort(ready)

	d.mu.Lock()
	defer d.mu.Unlock()
	r.ready = ready
	s, g := r.slot, r.slot.g
	if r.version < g.version || r.left || s.retired() || len(missing(g.active, ready)) > 0 {
		return false
	}
	r.served = time.Now()
	d.setStateLocked(s, Serving, "its components have initialized")
	d.joinLocked(r)
	if old := s.replaces; old != nil {
		s.replaces = nil
		d.retireLocked(old, fmt.Sprintf("replica %d has taken its place", s.number))
	}
	return true
}

// missing returns the members of want that are not in have; both are sorted.
func missing(want, have []string) []string {
	var m []string
	for _, c := range want {
		if _, ok := slices.BinarySearch(have, c); !ok {
			m = append(m, c)
		}
	}
	return m
}
