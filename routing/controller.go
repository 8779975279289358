package routing

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/protos"
)

// A Publisher hands an assignment to everybody who calls the component. It must
// not modify it. It may be called for several components at once, never twice at
// once for the same. If it fails it is called again, with this assignment or a
// newer one.
type Publisher interface {
	PublishAssignment(ctx context.Context, component string, a *protos.Assignment) error
}

// A Source asks one replica for its load. The report covers all routed
// components on the replica, and asking resets it: let nobody else ask. A
// source must return soon after ctx is done.
type Source func(ctx context.Context) (*protos.LoadReport, error)

// A Member is a replica of a routed component. One that is named twice counts
// once.
type Member struct {
	Addr     string  // as in assignments and in SetSource
	Weight   float64 // capacity; 0 means 1
	Draining bool    // to be emptied, see Generator.SetDraining
}

// A Snapshot is what has to outlive the deployer so that a component's
// assignment goes on where it was.
type Snapshot struct {
	Assignment *protos.Assignment
	State      State
}

// ControllerOptions tune a [Controller]. The zero value is what to start with.
type ControllerOptions struct {
	// Generator is for the generators of all components.
	Generator Options

	// Interval is the time between two polls of all sources. Zero means 5 s.
	Interval time.Duration

	// Jitter is how much, as a fraction, an interval is longer or shorter at
	// random. Zero means 0.1; negative means none.
	Jitter float64

	// Timeout is for one poll of one source, one call of the publisher and one
	// of Save. Zero means 2 s.
	Timeout time.Duration

	// Coalesce is how long to wait after a change of members for more of them.
	// Zero means 10 ms; negative means not at all.
	Coalesce time.Duration

	// Save, if set, is called with every new assignment before it is published,
	// and what it returns must be safe: then versions never go back, whenever
	// the deployer dies. An assignment that cannot be saved is not published;
	// both are tried again. Calls are as for Publisher.
	Save func(ctx context.Context, component string, s Snapshot) error

	// OnError, if set, is told of every failure: of sources, Save and the
	// publisher. It may be called from several goroutines and must not block.
	OnError func(error)
}

// A Controller keeps the assignments of any number of routed components up to
// date: it polls the load of all replicas, makes new assignments from it and
// from changes of members, and publishes them. All methods may be called at any
// time, before, during and after Run.
type Controller struct {
	opts ControllerOptions
	pub  Publisher
	wake chan struct{} // capacity 1: something changed
	done chan struct{} // capacity 1: a poll of all sources is over

	mu         sync.Mutex // guards the following, never held across a callback
	running    bool
	components map[string]*component
	removed    map[string]uint64 // versions of components that were removed
	sources    map[string]*source
	round      round
	stats      Stats
}

// Stats count what a controller did since it was made.
type Stats struct {
	Polls         uint64 // of one source each
	FailedPolls   uint64 // the source failed or ran into the timeout
	SkippedPolls  uint64 // the source was still busy with the last one
	LateReports   uint64 // came after their round was over and were used in the next
	LostReports   uint64 // late, and outdated by a newer one before they were used
	Steps         uint64 // calls of Generate
	Published     uint64
	FailedPublish uint64 // Save or the publisher failed
	Superseded    uint64 // assignments never published because a newer one was there
}

// A component is one routed component. Its generator is used under
// Controller.mu, which is never held for I/O.
type component struct {
	name       string
	gen        *Generator
	members    []Member
	assignment *protos.Assignment
	changes    []Change // of the step that made assignment
	dirty      bool     // members changed
	pending    *Snapshot
	publishing bool
	published  uint64 // version
	floor      uint64 // the version of the component's former self
}

// NewController returns a controller that publishes through pub. It fails if
// opts make no sense. It does nothing until Run.
func NewController(pub Publisher, opts ControllerOptions) (*Controller, error) {
	if pub == nil {
		return nil, errors.New("new routing controller: no publisher")
	}
	var err error
	if opts.Generator, err = opts.Generator.withDefaults(); err != nil {
		return nil, fmt.Errorf("new routing controller: %w", err)
	}
	if opts.Interval < 0 || opts.Timeout < 0 || !(opts.Jitter < 1) {
		return nil, fmt.Errorf("new routing controller: interval %v, timeout %v, jitter %v", opts.Interval, opts.Timeout, opts.Jitter)
	}
	if opts.Interval == 0 {
		opts.Interval = 5 * time.Second
	}
	if opts.Jitter == 0 {
		opts.Jitter = 0.1
	}
	if opts.Timeout == 0 {
		opts.Timeout = 2 * time.Second
	}
	if opts.Coalesce == 0 {
		opts.Coalesce = 10 * time.Millisecond
	}
	return &Controller{
		opts:       opts,
		pub:        pub,
		wake:       make(chan struct{}, 1),
		done:       make(chan struct{}, 1),
		components: map[string]*component{},
		removed:    map[string]uint64{},
		sources:    map[string]*source{},
	}, nil
}

// SetMembers replaces the replicas of a component, which is thereby known. A new
// assignment follows at once, after the time to coalesce, from the loads that
// are remembered.
func (c *Controller) SetMembers(name string, members []Member) {
	members = slices.Clone(members)
	slices.SortFunc(members, func(a, b Member) int {
		switch {
		case a.Addr < b.Addr:
			return -1
		case a.Addr > b.Addr:
			return 1
		}
		return 0
	})
	c.mu.Lock()
	k := c.componentLocked(name)
	changed := k.members == nil || !slices.Equal(k.members, members)
	if changed {
		// Never nil: a component without replicas has an assignment as well.
		k.members = append([]Member{}, members...)
		k.dirty = true
	}
	c.mu.Unlock()
	if changed {
		signal(c.wake)
	}
}

func (c *Controller) componentLocked(name string) *component {
	k := c.components[name]
	if k == nil {
		k = &component{name: name, gen: &Generator{opts: c.opts.Generator}, floor: c.removed[name]}
		c.components[name] = k
	}
	return k
}

// Remove forgets a component but for its version, in case it comes again. An
// assignment that is being published may still arrive.
func (c *Controller) Remove(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.components[name]; k != nil {
		c.removed[name] = max(k.assignment.GetVersion(), k.floor)
		delete(c.components, name)
	}
}

// Restore continues a component where a former controller was, before its first
// assignment is made here; it fails after that. The assignment is published
// again, or the one that follows it.
func (c *Controller) Restore(name string, s Snapshot) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.componentLocked(name)
	if k.assignment != nil {
		return fmt.Errorf("restore routing of %s: it has version %d already", name, k.assignment.Version)
	}
	k.assignment = s.Assignment
	k.gen.Restore(s.State)
	return nil
}

// SetSource sets where to ask for the load of the replica at addr. Set it before
// the replica becomes a member. A nil source removes it: do that when the
// replica is gone.
func (c *Controller) SetSource(addr string, src Source) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if src == nil {
		delete(c.sources, addr)
		return
	}
	c.sources[addr] = &source{ask: src}
}

// A Status is where a component stands. Do not modify the assignment.
type Status struct {
	Assignment *protos.Assignment // the newest; nil before the first
	Published  uint64             // version that the publisher took last
	Changes    []Change           // how the newest came from the one before
}

// Status returns where a component stands, and whether it is known.
func (c *Controller) Status(name string) (Status, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.components[name]
	if k == nil {
		return Status{}, false
	}
	return Status{Assignment: k.assignment, Published: k.published, Changes: slices.Clone(k.changes)}, true
}

// Why returns why key is where it is, see [Generator.Why].
func (c *Controller) Why(name string, key uint64) (Change, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.components[name]
	if k == nil {
		return Change{}, false
	}
	return k.gen.Why(key)
}

// Snapshot returns what Restore needs, with the newest loads, and whether the
// component is known and has an assignment.
func (c *Controller) Snapshot(name string) (Snapshot, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.components[name]
	if k == nil || k.assignment == nil {
		return Snapshot{}, false
	}
	return Snapshot{Assignment: k.assignment, State: k.gen.State()}, true
}

// Stats returns what the controller did so far.
func (c *Controller) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

// Run keeps the assignments up to date until ctx is done. It then waits for the
// sources, the publisher and Save to return, and returns ctx's error. It fails
// at once if the controller runs already.
func (c *Controller) Run(ctx context.Context) error {
	c.mu.Lock()
	if c.running {
		c.mu.Unlock()
		return errors.New("run routing controller: it runs already")
	}
	c.running = true
	for _, k := range c.components {
		k.dirty = true // a former run may have ended in between
	}
	c.mu.Unlock()
	signal(c.wake)

	var wg sync.WaitGroup
	defer func() {
		wg.Wait()
		c.mu.Lock()
		c.running = false
		c.round.open, c.round.waiting = false, 0
		c.mu.Unlock()
	}()
	timer := time.NewTimer(c.interval())
	defer timer.Stop()
	late := time.NewTimer(c.opts.Timeout)
	defer late.Stop()
	poll := func() {
		if c.poll(ctx, &wg) {
			late.Reset(c.opts.Timeout)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			poll()
			timer.Reset(c.interval())
		case <-late.C:
			c.expire()
		case <-c.done:
			c.steps(ctx, &wg, c.collect())
			if c.unversioned() {
				poll() // members that came during the last round
			}
		case <-c.wake:
			if c.opts.Coalesce > 0 && !sleep(ctx, c.opts.Coalesce) {
				return ctx.Err()
			}
			if c.unversioned() {
				// The replicas may know assignments of a former deployer. What
				// follows must be newer, so ask before the first one is made.
				poll()
			}
			c.steps(ctx, &wg, nil)
		}
	}
}

func (c *Controller) interval() time.Duration {
	d := float64(c.opts.Interval)
	if c.opts.Jitter > 0 {
		d *= 1 + c.opts.Jitter*(2*rand.Float64()-1)
	}
	return time.Duration(d)
}

// unversioned reports whether some component waits for its first assignment
// until a member was asked.
func (c *Controller) unversioned() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.components {
		if c.unaskedLocked(k) {
			return true
		}
	}
	return false
}

func (c *Controller) unaskedLocked(k *component) bool {
	if k.assignment != nil {
		return false
	}
	for _, m := range k.members {
		if s := c.sources[m.Addr]; s != nil && !s.answered {
			return true
		}
	}
	return false
}

// steps makes one step for every component: with new reports for all, or
// without, after a change of members, for those concerned.
func (c *Controller) steps(ctx context.Context, wg *sync.WaitGroup, reports map[string]*protos.LoadReport) {
	c.mu.Lock()
	names := slices.Sorted(maps.Keys(c.components))
	var errs []error
	for _, name := range names {
		k := c.components[name]
		if k.members == nil || reports == nil && !k.dirty || c.unaskedLocked(k) {
			continue
		}
		if err := c.stepLocked(k, reports); err != nil {
			errs = append(errs, fmt.Errorf("route %s: %w", name, err))
			continue
		}
		if k.pending != nil && !k.publishing {
			k.publishing = true
			wg.Go(func() { c.publish(ctx, k) })
		}
	}
	c.mu.Unlock()
	for _, err := range errs {
		c.report(err)
	}
}

// stepLocked makes a component's next assignment.
func (c *Controller) stepLocked(k *component, reports map[string]*protos.LoadReport) error {
	addrs := make([]string, len(k.members))
	weights := map[string]float64{}
	var draining []string
	for i, m := range k.members {
		addrs[i] = m.Addr
		if m.Weight != 0 {
			weights[m.Addr] = m.Weight
		}
		if m.Draining {
			draining = append(draining, m.Addr)
		}
	}
	k.gen.SetWeights(weights)
	k.gen.SetDraining(draining...)

	loads := make(map[string]*protos.LoadReport_ComponentLoad, len(reports))
	known := max(k.assignment.GetVersion(), k.floor)
	for addr, rep := range reports {
		if load := rep.GetLoads()[k.name]; load != nil {
			loads[addr] = load
			if load.Version < maxAdopted {
				known = max(known, load.Version)
			}
		}
	}
	prev := k.assignment
	behind := known > prev.GetVersion()
	if behind {
		// A replica knows a newer assignment than we: it had it from a former
		// deployer whose snapshot is lost. Versions go on from there, and what
		// is reported is about slices that we do not know.
		prev = &protos.Assignment{Slices: prev.GetSlices(), Version: known}
		loads = nil
	}
	next, err := k.gen.Generate(prev, addrs, loads)
	c.stats.Steps++
	if err != nil {
		return err
	}
	if next == prev && behind {
		next = &protos.Assignment{Slices: prev.Slices, Version: known + 1}
	}
	k.dirty = false
	again := k.published == 0 && k.pending == nil && !k.publishing // restored
	if next == k.assignment && !again {
		return nil
	}
	if next != k.assignment {
		k.changes = k.gen.Explain()
	}
	if k.pending != nil {
		c.stats.Superseded++
	}
	k.assignment = next
	k.pending = &Snapshot{Assignment: next}
	if c.opts.Save != nil {
		k.pending.State = k.gen.State()
	}
	return nil
}

// maxAdopted bounds the version that is taken over from a replica's report: a
// garbled one must not use up the versions.
const maxAdopted = 1 << 48

// report tells OnError.
func (c *Controller) report(err error) {
	if c.opts.OnError != nil {
		c.opts.OnError(err)
	}
}

// signal leaves a message in ch, if there is none yet.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// sleep reports whether d passed before ctx was done.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
