package envelopekit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/envelope"
	"github.com/ServiceWeaver/weaver/runtime/protos"
	"github.com/google/uuid"

	"github.com/weaverkit/weaverkit/envelopekit/placement"
)

// A group is a colocation group and its replicas. Its fields, but for those of
// the embedded plan and rank, are guarded by Deployment.mu.
type group struct {
	placement.Group
	rank int // order of stopping

	want       int
	started    bool
	stable     bool     // one of its replicas has been stable
	numbers    int      // the last number given to a slot
	slots      []*slot  // in the order of their numbers
	active     []string // the components that are to run, sorted
	version    uint64   // of active
	addresses  []string // of the replicas in routing, sorted
	addressGen uint64   // rises with each change of addresses
}

// A slot is a place for a replica. It outlives the processes that fill it one
// after the other; a goroutine of its own starts them. Fields below are
// guarded by Deployment.mu.
type slot struct {
	g      *group
	number int
	retire chan struct{} // closed: no longer wanted
	again  chan struct{} // wakes it up from Failed
	gone   chan struct{} // closed when its goroutine ends

	state    State
	reason   string
	since    time.Time // of the state
	next     time.Time // of the next start, while Waiting
	restarts int
	count    failureCount
	failure  *GroupError // the last, while Failed
	replica  *replica    // the weavelet that runs, from its start to its end
	replaces *slot       // to be retired when this one serves
	replaced bool        // another slot is to take its place
}

// A replica is one weavelet, from its start to its end. Fields below are
// guarded by Deployment.mu; weavelet, address and pid are set once, before the
// replica is its slot's.
type replica struct {
	slot *slot
	id   string
	wake chan struct{} // there is something to tell it

	life context.Context // of calls to it; ends when it is given up
	end  context.CancelFunc

	weavelet  Weavelet // nil until it has started
	address   string
	pid       int  // 0 if it is no process
	gone      bool // it has ended, or never started
	routed    bool // it is in the routing of its components
	left      bool // it takes no part any more
	served    time.Time
	version   uint64 // of the component set that it was told
	subs      []*subscription
	listeners map[string]string // address by listener
	ready     []string          // components that have initialized
	problem   string            // the last call that failed, "" when the next succeeds
	complaint string            // the last error that its runtime logged
	unfit     error             // why it can never do what it is for
	metrics   metricsState
}

func (s *slot) retired() bool {
	select {
	case <-s.retire:
		return true
	default:
		return false
	}
}

func (s *slot) rearm() {
	select {
	case s.again <- struct{}{}:
	default:
	}
}

// kick lets the weavelet's goroutine look for something to tell it.
func (r *replica) kick() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// startLocked starts the group's replicas, if that has not been done.
func (d *Deployment) startLocked(g *group, reason string) {
	if g.started || d.stopping {
		return
	}
	g.started = true
	for range g.want {
		d.addSlotLocked(g, reason)
	}
}

// fillLocked adds or retires slots until there are as many as wanted.
func (d *Deployment) fillLocked(g *group) {
	var live []*slot
	for _, s := range g.slots {
		// One that takes another's place does not count until it has.
		if !s.retired() && s.replaces == nil {
			live = append(live, s)
		}
	}
	// The least useful go first, and of those the youngest.
	worth := []State{Failed, Done, Waiting, Starting, Serving}
	slices.SortStableFunc(live, func(a, b *slot) int {
		return cmp.Or(slices.Index(worth, b.state)-slices.Index(worth, a.state), a.number-b.number)
	})
	for i := len(live); i < g.want; i++ {
		d.addSlotLocked(g, "the group was scaled up")
	}
	for i := len(live); i > g.want; i-- {
		d.retireLocked(live[i-1], "the group was scaled down")
	}
}

func (d *Deployment) addSlotLocked(g *group, reason string) *slot {
	g.numbers++
	s := &slot{
		g:      g,
		number: g.numbers,
		retire: make(chan struct{}),
		again:  make(chan struct{}, 1),
		gone:   make(chan struct{}),
	}
	g.slots = append(g.slots, s)
	d.setStateLocked(s, Starting, reason)
	d.wg.Go(func() { d.runSlot(s) })
	return s
}

// retireLocked lets the slot drain and end, and one that was to take its place.
func (d *Deployment) retireLocked(s *slot, reason string) {
	if s.retired() {
		return
	}
	close(s.retire)
	if s.replica != nil {
		d.leaveLocked(s.replica)
	}
	d.setStateLocked(s, Draining, reason)
	for _, other := range s.g.slots {
		if other.replaces == s && other.state != Serving {
			other.replaces = nil
			d.retireLocked(other, reason)
		}
	}
}

// setStateLocked moves the slot to a state and tells why.
func (d *Deployment) setStateLocked(s *slot, state State, reason string) {
	s.state, s.reason, s.since = state, reason, time.Now()
	e := Event{Kind: ReplicaChanged, Group: s.g.Name, Replica: s.number, State: state, Reason: reason}
	if r := s.replica; r != nil {
		e.Pid, e.Address = r.pid, r.address
	}
	d.events.add(e)
}

// runSlot keeps a weavelet running until the slot is retired.
func (d *Deployment) runSlot(s *slot) {
	defer close(s.gone)
	for {
		r, err := d.launch(s)
		if err == nil {
			err = d.attend(r)
			d.forget(r)
		}
		if s.retired() || d.life.Err() != nil || !d.restart(s, r, err) {
			break
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s.g.slots = slices.DeleteFunc(s.g.slots, func(x *slot) bool { return x == s })
	if s.replaces != nil {
		s.replaces.replaced = false
	}
	d.setStateLocked(s, Removed, s.reason)
	d.judgeLocked(s.g)
}

// errEnding is the error of a launch that the deployment does not want any more.
var errEnding = errors.New("it is no longer wanted")

// launch starts a weavelet for the slot and puts it to use.
func (d *Deployment) launch(s *slot) (*replica, error) {
	select {
	case d.starting <- struct{}{}:
	case <-s.retire:
		return nil, errEnding
	case <-d.life.Done():
		return nil, errEnding
	}
	release := sync.OnceFunc(func() { <-d.starting })
	defer release()
	// One that takes long must not keep the others from starting.
	defer time.AfterFunc(startingHold, release).Stop()

	ctx, cancel := context.WithTimeoutCause(d.life, d.opts.StartTimeout,
		fmt.Errorf("no answer within %v (Options.StartTimeout)", d.opts.StartTimeout))
	defer cancel()
	ctx, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	watched := make(chan struct{})
	defer close(watched)
	d.wg.Go(func() {
		select {
		case <-s.retire:
			abort(errEnding)
		case <-watched:
		}
	})

	g := s.g
	r := &replica{slot: s, id: uuid.NewString(), wake: make(chan struct{}, 1), listeners: map[string]string{}}
	r.life, r.end = context.WithCancel(d.life)
	w, err := d.opts.Launcher.Launch(ctx, Spec{
		Config: d.app.Config,
		Args: &protos.WeaveletArgs{
			App:             d.app.Name,
			DeploymentId:    d.opts.ID,
			Id:              r.id,
			RunMain:         g.Main,
			Mtls:            d.opts.Identity != nil,
			InternalAddress: d.opts.InternalAddress,
		},
		Group:     g.Name,
		Replica:   s.number,
		Resources: g.Resources,
	}, d.handler(r))
	if err != nil {
		d.forget(r) // it may have asked for something before it failed
		return nil, err
	}

	r.weavelet, r.address = w, w.Address()
	r.pid, _ = w.Pid()

	d.mu.Lock()
	defer d.mu.Unlock()
	s.replica = r
	if s.retired() { // attend will see it
		r.left = true
		return r, nil
	}
	d.hostLocked(r)
	// The first replica is in use before its components have initialized:
	// callers wait for them at the replica. Further ones join when they can
	// serve.
	if len(g.addresses) == 0 {
		d.joinLocked(r)
	}
	return r, nil
}

// startingHold is how long a weavelet that starts counts as one of the
// Options.MaxStarting.
const startingHold = 2 * time.Second

// handler returns what answers the weavelet.
func (d *Deployment) handler(r *replica) envelope.EnvelopeHandler {
	h := &Handler{
		Group: r.slot.g.Name,
		Plan:  d.plan,
		Calls: d.app.Calls,
		Activate: func(_ context.Context, component string, routed bool) error {
			return d.activate(r, component, routed)
		},
		ListenOn: d.opts.ListenOn,
		Export: func(_ context.Context, listener, address string) (string, error) {
			return d.export(r, listener, address)
		},
		Identity: d.opts.Identity,
		Log:      func(e *protos.LogEntry) { d.log(r, e) },
	}
	if d.spans != nil {
		h.Spans = d.spans.put
	}
	if d.opts.WrapHandler != nil {
		return d.opts.WrapHandler(h)
	}
	return h
}

// leaveLocked takes the replica out of routing and listeners.
func (d *Deployment) leaveLocked(r *replica) {
	if r.left {
		return
	}
	r.left = true
	if r.routed {
		r.routed = false
		d.rerouteLocked(r.slot.g)
	}
	for name := range r.listeners {
		d.frontends[name].markLocked()
	}
}

// failInitLocked notes that a component of the replica cannot be made. That
// ends the replica; but in an application that has been up, one that hosts
// other components goes on for their sake.
func (d *Deployment) failInitLocked(r *replica, err error) {
	if d.cameUpLocked(time.Now()) && len(r.slot.g.active) > 1 {
		d.events.add(Event{Kind: Problem, Group: r.slot.g.Name, Replica: r.slot.number, Reason: err.Error()})
		return
	}
	r.giveUpLocked(err)
}

// giveUpLocked lets the goroutine that attends to the replica end it by force.
func (r *replica) giveUpLocked(err error) {
	r.unfit = err
	r.end()
	r.kick()
}

// forget ends what the deployment knows of a weavelet that has ended.
func (d *Deployment) forget(r *replica) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leaveLocked(r)
	r.end()
	r.gone = true
	for _, sub := range r.subs {
		delete(sub.component.subscribers, r)
	}
	if r.slot.replica == r {
		r.slot.replica = nil
	}
}

// A GroupError says that a group failed for good.
type GroupError struct {
	Group    string
	Failures int   // in a row
	Err      error // the last
}

// Error includes the last output of the process, if there was one.
func (e *GroupError) Error() string {
	return fmt.Sprintf("group %s failed %d times in a row: %s", e.Group, e.Failures, describe(e.Err))
}

// Unwrap returns the last failure.
func (e *GroupError) Unwrap() error { return e.Err }

// describe returns an error with the output of the process that it is about.
func describe(err error) string {
	if exit, ok := errors.AsType[*ExitError](err); ok {
		return exit.Detail()
	}
	return err.Error()
}

// restart decides what follows the failure of the slot's last weavelet, r, or
// of its start, and waits until it is time to start another. It returns false
// if there is to be none.
func (d *Deployment) restart(s *slot, r *replica, err error) bool {
	d.mu.Lock()
	if s.retired() {
		d.mu.Unlock()
		return false
	}
	g, now := s.g, time.Now()
	var served time.Duration
	if r != nil && !r.served.IsZero() {
		served = now.Sub(r.served)
	}
	d.noteStableLocked(g, served, now)

	var timer *time.Timer
	switch {
	case err == nil && g.Main:
		d.setStateLocked(s, Done, "its main function returned")
	default:
		if err == nil {
			err = errors.New("the process exited with status 0, although it hosts components: does its main function call os.Exit?")
		}
		if delay, again := d.failedLocked(s, r, served, err); again {
			timer = time.NewTimer(delay)
			defer timer.Stop()
		}
	}
	d.judgeLocked(g)
	replacement := s.replaces != nil
	done := s.state == Done
	d.mu.Unlock()

	if timer == nil && replacement {
		return false // the one that it was to replace goes on
	}
	if !d.await(s, timer) || done {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.retired() {
		return false
	}
	if timer == nil {
		s.count, s.failure = failureCount{}, nil
	}
	s.restarts++
	d.setStateLocked(s, Starting, fmt.Sprintf("start %d, after: %v", s.restarts+1, err))
	return true
}

// failedLocked counts a failure of the slot, and returns whether and when it is
// to be started again.
func (d *Deployment) failedLocked(s *slot, r *replica, served time.Duration, err error) (delay time.Duration, again bool) {
	g, policy, now := s.g, d.opts.Restart, time.Now()
	// A replica that has served did come up, whatever ended it then: with mTLS a
	// peer that dies in the middle of a handshake is enough. Only the main
	// function can fail right after its component has initialized.
	fault := isFault(err) && (g.Main || r == nil || r.served.IsZero())
	s.count = s.count.after(policy, served, fault)
	// What fails at the start of the whole application fails that.
	hopeless := !g.stable && !d.cameUpLocked(now) && s.count.faults >= policy.StartAttempts
	if hopeless || s.count.failures >= policy.GiveUp {
		s.failure = &GroupError{Group: g.Name, Failures: s.count.failures, Err: err}
		d.setStateLocked(s, Failed, fmt.Sprintf("given up after %d failures in a row; the last: %s", s.count.failures, describe(err)))
		if hopeless {
			d.failLocked(s.failure)
		}
		return 0, false
	}
	delay = max(headStart, s.count.delay(policy, rand.Float64()))
	s.next = now.Add(delay)
	d.setStateLocked(s, Waiting, describe(err))
	return delay, true
}

// headStart is how long the news that a replica is gone have the processors to
// themselves, before its successor starts.
const headStart = 5 * time.Millisecond

// judgeLocked ends the deployment if the group is one that it cannot do
// without, and none of its replicas runs or will run any more: the main group,
// or any while the application has never been up.
func (d *Deployment) judgeLocked(g *group) {
	if d.stopping || !g.Main && (g.stable || d.cameUpLocked(time.Now())) {
		return
	}
	var failure *GroupError
	ended := 0
	for _, s := range g.slots {
		switch {
		case s.retired():
			continue // it does not count any more
		case s.state == Failed:
			failure = s.failure
		case s.state != Done:
			return
		}
		ended++
	}
	switch {
	case ended == 0: // it is scaled to 0, or was not started
	case failure != nil:
		d.failLocked(failure)
	default:
		d.stopLocked("its main function returned")
	}
}

// cameUpLocked reports whether the application has ever been up: its main group
// has been stable.
func (d *Deployment) cameUpLocked(now time.Time) bool {
	g := d.components[placement.Main].group
	d.noteStableLocked(g, 0, now)
	return g.stable
}

// await waits for the timer or, without one, until the slot is rearmed. It
// returns false if the slot or the deployment ends first.
func (d *Deployment) await(s *slot, timer *time.Timer) bool {
	var due <-chan time.Time
	again := s.again
	if timer != nil {
		due, again = timer.C, nil
	}
	select {
	case <-due:
	case <-again:
	case <-s.retire:
		return false
	case <-d.life.Done():
		return false
	}
	return true
}

// noteStableLocked notes whether the group has had a stable replica.
func (d *Deployment) noteStableLocked(g *group, served time.Duration, now time.Time) {
	stable := d.opts.Restart.Stable
	g.stable = g.stable || served >= stable || slices.ContainsFunc(g.slots, func(s *slot) bool {
		return s.state == Serving && now.Sub(s.since) >= stable
	})
}
