package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"
)

// ErrStopped is wrapped by the errors of commands on a [Runner] whose Run has
// returned, and is that of State and Wait if what they wait for will not come any
// more.
var ErrStopped = errors.New("the runner has stopped")

// ErrTakenOver is wrapped by the error of [Runner.Run] when another Runner has
// taken over the same application in the same store.
var ErrTakenOver = errors.New("another runner has taken over")

// A Runner carries out the rollouts of an application, one at a time. Make one
// with [New] and run it with [Runner.Run], once. All other methods may be called
// from several goroutines, before, during and after Run. Commands, State and Wait
// need the stored state: before Run has loaded it they wait, until their context
// ends, and so do Events if there are none.
type Runner struct {
	deployer Deployer
	opts     Options
	owner    string
	now      func() time.Time

	life    context.Context // of the calls
	endLife context.CancelFunc
	kick    chan struct{} // holds one: look now
	loaded  chan struct{} // closed when the state is there
	over    chan struct{} // closed when Run returns
	events  *eventLog

	// mu guards what follows. It is held for short computations only.
	mu      sync.Mutex
	started bool // Run was called
	state   State
	inbox   Observation
	calls   map[string]*call // under way and wanted, by identity
	left    map[*call]bool   // left behind
	record  record
	count   counts
	changed chan struct{} // closed, and replaced, when the recorded state changes
	failure error         // why Run ends
}

// New returns a Runner. It starts nothing, and reads nothing, before Run. An error
// names the field of opts that is wrong.
func New(deployer Deployer, opts Options) (*Runner, error) {
	if deployer == nil {
		return nil, errors.New("rollout: no deployer")
	}
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("rollout: %w", err)
	}
	life, end := context.WithCancel(context.Background())
	return &Runner{
		deployer: deployer,
		opts:     opts,
		owner:    ownerName(),
		now:      time.Now,
		life:     life,
		endLife:  end,
		kick:     make(chan struct{}, 1),
		loaded:   make(chan struct{}),
		over:     make(chan struct{}),
		events:   newEventLog(opts.EventLimit),
		calls:    map[string]*call{},
		left:     map[*call]bool{},
		changed:  make(chan struct{}),
	}, nil
}

// Run takes over the application where the store says that it is, starts again
// what is to run, and carries out rollouts until ctx ends. What runs then goes
// on running, and the weights stay. Run returns when all calls have returned,
// but waits at most a few seconds for those that ignore their context, and for the
// store, and names them in its error. It returns early, with an error that wraps [ErrTakenOver],
// if another Runner takes over. It can be called once: a second call is an error.
func (r *Runner) Run(ctx context.Context) error {
	r.mu.Lock()
	again := r.started
	r.started = true
	r.mu.Unlock()
	if again {
		return errors.New("run rollouts: Run was called before")
	}
	defer r.events.close()
	defer close(r.over)
	defer r.endLife()

	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return r.stop()
		case <-timer.C:
		case <-r.kick:
		}
		wait, err := r.look()
		if err != nil {
			return errors.Join(fmt.Errorf("run rollouts of %q: %w", r.opts.App, err), r.stop())
		}
		timer.Reset(wait)
	}
}

// wake lets Run look at once.
func (r *Runner) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// look takes a step and sees to it that the calls that are wanted are made. It
// returns when the next one is due.
func (r *Runner) look() (time.Duration, error) {
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failure != nil {
		return 0, r.failure
	}
	if !r.record.loaded {
		return r.loadLocked(now), nil
	}
	state, actions := r.opts.Config.Step(r.state, r.inbox, now)
	r.inbox = Observation{}
	r.count.jumps += state.live.jumps - r.state.live.jumps
	r.state = state

	confirm := slices.ContainsFunc(actions, func(a Action) bool { return a.needsOwner() && r.calls[a.identity()] == nil })
	wait := min(r.opts.Config.Wake(state), r.recordLocked(now, confirm))
	recorded := r.record.seq == state.Seq
	owned := r.record.confirmed(now)
	wanted := map[string]bool{}
	for _, a := range actions {
		wanted[a.identity()] = true
	}
	for id, c := range r.calls {
		if !wanted[id] {
			r.leaveLocked(id, c)
		}
	}
	for _, a := range actions {
		if a.Back || recorded && (owned || !a.needsOwner()) {
			r.callLocked(a)
		}
	}
	return wait, nil
}

// stop ends all calls, records how far the step has come, and waits.
func (r *Runner) stop() error {
	r.endLife()
	deadline := time.NewTimer(stopGrace)
	defer deadline.Stop()
	for {
		r.mu.Lock()
		r.saveLastLocked()
		var names []string
		for _, c := range r.calls {
			names = append(names, c.name)
		}
		for c := range r.left {
			names = append(names, c.name)
		}
		writing := ""
		if c := r.record.call; c != nil {
			writing = c.name // its time may not be up yet
		}
		r.mu.Unlock()
		if len(names) == 0 && writing == "" {
			return nil
		}
		select {
		case <-r.kick:
		case <-deadline.C:
			var errs []error
			if len(names) > 0 {
				slices.Sort(names)
				errs = append(errs, fmt.Errorf("calls that ignore that their context has ended: %q", names))
			}
			if writing != "" {
				errs = append(errs, fmt.Errorf("the store takes its time: %s", writing))
			}
			return errors.Join(errs...)
		}
	}
}

// do carries out a command, if the rollout is where it is meant for, and waits until
// that is recorded.
func (r *Runner) do(ctx context.Context, c Command, at ...At) error {
	switch len(at) {
	case 0:
	case 1:
		c.At = at[0]
	default:
		return fmt.Errorf("%s: %w: it is meant for %d places at once", c.Kind, ErrRefused, len(at))
	}
	select {
	case <-r.loaded:
	case <-r.over:
		return fmt.Errorf("%s: %w", c.Kind, ErrStopped)
	case <-ctx.Done():
		return fmt.Errorf("%s: the state was not loaded: %w", c.Kind, ctx.Err())
	}
	r.mu.Lock()
	select {
	case <-r.over:
		r.mu.Unlock()
		return fmt.Errorf("%s: %w", c.Kind, ErrStopped)
	default:
	}
	s, err := r.opts.Config.Control(r.state, c, r.now())
	if err == nil {
		r.state = s
	}
	r.mu.Unlock()
	if err != nil {
		return err
	}
	r.wake()
	_, err = r.until(ctx, func(recorded State) bool { return recorded.Seq >= s.Seq })
	if err != nil {
		return fmt.Errorf("%s: it is not recorded yet, though what could be done without that was begun: %w", c.Kind, err)
	}
	return nil
}

// until waits until the recorded state is as wanted.
func (r *Runner) until(ctx context.Context, done func(State) bool) (State, error) {
	for {
		r.mu.Lock()
		s, ok, changed := r.record.state, r.record.loaded, r.changed
		r.mu.Unlock()
		if ok && done(s) {
			return s, nil
		}
		select {
		case <-changed:
		case <-r.over:
			return s, ErrStopped
		case <-ctx.Done():
			return s, ctx.Err()
		}
	}
}

// Submit begins a rollout. It returns when that is recorded; an error that is
// not about the plan leaves open whether it will begin. A rollout that is under
// way is superseded: it goes back first, and the new one begins from where the
// old one had begun. If the old version is being stopped already, it is finished
// first. If several plans wait, the newest is carried out, and the others never
// begin.
//
// Submitting the same plan twice is submitting it once: nothing happens if it waits,
// is under way, or was the last that succeeded, and after it has gone back the
// error wraps [ErrRefused], as Retry is for that. So a program may submit its plan
// each time it starts.
func (r *Runner) Submit(ctx context.Context, p Plan) error {
	if err := p.fits(r.opts); err != nil {
		return fmt.Errorf("submit: %w", err)
	}
	// A copy that the caller cannot change, as it will be read from the store.
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("submit: %w", err)
	}
	p = Plan{}
	if err := json.Unmarshal(data, &p); err != nil {
		return fmt.Errorf("submit: %w", err)
	}
	return r.do(ctx, Command{Kind: CommandSubmit, Plan: &p})
}

// Pause keeps the rollout where it is until [Runner.Resume]. What is watched is
// still watched, and may make it go back. The reason is shown to others; it may
// be empty. Like all commands it returns when it is recorded, is done once
// however often it is called there, and returns an error that wraps [ErrRefused] if
// it makes no sense. It is about whatever is under way when it comes; with an [At],
// such as that of the [State] that somebody has looked at, it is refused if that
// has changed.
func (r *Runner) Pause(ctx context.Context, reason string, at ...At) error {
	return r.do(ctx, Command{Kind: CommandPause, Reason: reason}, at...)
}

// Resume goes on after a pause. If a verdict had paused the rollout, what was
// seen so far does not count again, and if it was that of an Analyze or Gate
// step, the step is done; if it was that of Plan.Watch, the step goes on. Called
// twice it may end two pauses: Resume(ctx, state.At()) does not.
func (r *Runner) Resume(ctx context.Context, at ...At) error {
	return r.do(ctx, Command{Kind: CommandResume}, at...)
}

// Promote skips the rest of the plan up to its Promote step: the new version
// gets all traffic as soon as it is ready, whatever the verdicts. After that step
// it is Resume. While a rollout goes back, and after a restart the stable version is
// not up to take the traffic, it is about the plan that waits, if one does.
func (r *Runner) Promote(ctx context.Context, at ...At) error {
	return r.do(ctx, Command{Kind: CommandPromote}, at...)
}

// Abort goes back: all traffic to the old version, then the new one is stopped.
// A plan that waits is dropped. The way back does not wait for the store. What
// was aborted never goes forward again by itself.
func (r *Runner) Abort(ctx context.Context, reason string, at ...At) error {
	return r.do(ctx, Command{Kind: CommandAbort, Reason: reason}, at...)
}

// Retry carries out once more the plan of a rollout that was rolled back.
func (r *Runner) Retry(ctx context.Context, at ...At) error {
	return r.do(ctx, Command{Kind: CommandRetry}, at...)
}

// State returns the recorded state, as soon as it is loaded and taken over:
// whoever starts a process looks here whether anything runs already (Stable), or
// is under way. If nothing was ever submitted its Plan is nil.
func (r *Runner) State(ctx context.Context) (State, error) {
	return r.until(ctx, func(State) bool { return true })
}

// Wait returns the recorded state when nothing is under way any more, at once if
// nothing was submitted. Its error is that of ctx, or ErrStopped.
func (r *Runner) Wait(ctx context.Context) (State, error) {
	return r.until(ctx, func(s State) bool { return s.Phase.Ended() && s.Next == nil })
}

// Events yields what happened after the event of that number, and then what
// happens, until ctx ends or Run has returned. The newest Options.EventLimit
// events are kept; a gap in their numbers says how many a reader has missed.
// Numbers go on after a restart, so a reader can too.
func (r *Runner) Events(ctx context.Context, after uint64) iter.Seq[Event] {
	return r.events.all(ctx, after)
}

// A Status is what is known now, which may not be recorded yet.
type Status struct {
	State     State
	Why       string        // see State.Why
	Schedule  []Planned     // see State.Schedule
	Remaining time.Duration // see State.Remaining: the old version's drain is not in it
	Certain   bool          // Remaining does not depend on others

	// BlindSince is since when Plan.Watch sees no traffic, since Stats does not
	// succeed; zero if it sees it, or is not to judge now.
	BlindSince time.Time

	Measured float64 // the new version's share of the requests since the last weights
	Requests uint64  // how many there were

	Calls      []Call // under way, or left behind
	Unrecorded bool   // a change waits for the store
	StoreError string // why, if the last try failed
}

// A Call is a call that has not returned.
type Call struct {
	Name  string
	Since time.Time
	Hung  bool // it was left behind
}

// Status returns what is known now. It never waits for anything.
func (r *Runner) Status() Status {
	now := r.now()
	r.mu.Lock()
	st := Status{State: r.state, Unrecorded: r.record.seq != r.state.Seq, StoreError: r.record.err}
	for _, c := range r.calls {
		st.Calls = append(st.Calls, Call{c.name, c.since, false})
	}
	for c := range r.left {
		st.Calls = append(st.Calls, Call{c.name, c.since, true})
	}
	if c := r.record.call; c != nil {
		st.Calls = append(st.Calls, Call{c.name, c.since, false})
	}
	loaded := r.record.loaded
	r.mu.Unlock()
	slices.SortFunc(st.Calls, func(a, b Call) int { return a.Since.Compare(b.Since) })
	st.Schedule = st.State.Schedule(now)
	st.Remaining, st.Certain = st.State.Remaining(now)
	st.Measured, st.Requests = st.State.Measured()
	st.BlindSince = st.State.live.blind
	st.Why = st.why(now, loaded)
	return st
}

// Why explains in words, of one or more lines, what is waited for, since when,
// and what would make it go on. It never waits for anything.
func (r *Runner) Why() string { return r.Status().Why }

// Schedule returns the projected times of the steps that remain.
func (r *Runner) Schedule() []Planned { return r.Status().Schedule }

func (st Status) why(now time.Time, loaded bool) string {
	why := ""
	switch {
	case loaded:
		why = st.State.Why(now)
	case st.StoreError == "":
		why = "the state is not loaded yet: Run does that\n"
	}
	if st.StoreError != "" {
		what := "the store does not say whether this Runner was taken over, so nothing is started or stopped"
		switch {
		case !loaded:
			what = "the state cannot be loaded"
		case st.Unrecorded:
			what = "the last change is not recorded, so nothing goes forward"
		}
		why += fmt.Sprintf("%s: %s\n", what, st.StoreError)
	}
	for _, c := range st.Calls {
		if took := now.Sub(c.Since); c.Hung {
			why += fmt.Sprintf("a call hangs for %v, and ignores its context: %s\n", took.Round(time.Millisecond), c.Name)
		} else if took > time.Second {
			why += fmt.Sprintf("a call is under way for %v: %s\n", took.Round(time.Millisecond), c.Name)
		}
	}
	return why
}
