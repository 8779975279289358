package envelopekit

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/protos"
	"github.com/google/uuid"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/weaverkit/weaverkit/envelopekit/placement"
)

// ErrStopped is the error of operations on a deployment that is stopping or
// has stopped.
var ErrStopped = errors.New("the deployment is stopped")

// A Deployment runs one version of an application. Make one with [New], run it
// with [Deployment.Run], once. All methods may be called from several
// goroutines, before, during and after Run.
type Deployment struct {
	app     *App
	opts    Options
	plan    placement.Plan
	created time.Time // what onBeat counts from

	started time.Time
	events  *eventLog
	logs    *queue[*protos.LogEntry]
	spans   *queue[[]readOnlySpan]

	spanErrors atomic.Uint64 // exports that failed
	starting   chan struct{} // a token for each weavelet that may be starting

	running  atomic.Bool
	life     context.Context // ends when everything must end at once
	endLife  context.CancelFunc
	stopc    chan struct{} // closed by stopLocked: stop
	killc    chan struct{} // closed: at once
	killOnce sync.Once
	ended    chan struct{} // closed when Run has returned
	wg       sync.WaitGroup

	// mu guards all that follows, and the fields of groups, components, slots,
	// replicas and frontends that say so. It is held for short computations
	// only, never across a call to anything that could block.
	mu         sync.Mutex
	groups     []*group // in the plan's order
	components map[string]*component
	frontends  map[string]*frontend
	stopping   bool
	over       bool   // nothing may be started any more
	stopReason string // why it stops, once stopc is closed
	asked      bool   // Stop was called
	failure    error  // why the deployment failed, if it did
}

type readOnlySpan = sdktrace.ReadOnlySpan

// New returns a deployment of the application. It makes the plan, but starts
// nothing.
func New(app *App, opts Options) (*Deployment, error) {
	if app == nil || app.Config == nil {
		return nil, errors.New("deploy: no application: use LoadApp or LoadBinary")
	}
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("deploy %s: %w", app.Name, err)
	}
	if opts.ID == "" {
		opts.ID = uuid.NewString()
	}
	in := app.PlacementInput()
	in.Replicas, in.ReplicasOf, in.ResourcesOf, in.Calls = opts.Replicas, opts.ReplicasOf, opts.ResourcesOf, opts.CallCounts
	plan, err := opts.Placement.Place(in)
	if err == nil {
		err = plan.Validate(in)
	}
	if err == nil {
		err = checkReplicas(plan, opts)
	}
	if err != nil {
		return nil, fmt.Errorf("deploy %s: place its components: %w", app.Name, err)
	}

	life, end := context.WithCancel(context.Background())
	d := &Deployment{
		app:        app,
		opts:       opts,
		plan:       plan,
		created:    time.Now(),
		started:    time.Now(),
		events:     newEventLog(opts.EventLimit),
		starting:   make(chan struct{}, opts.MaxStarting),
		life:       life,
		endLife:    end,
		stopc:      make(chan struct{}),
		killc:      make(chan struct{}),
		ended:      make(chan struct{}),
		components: map[string]*component{},
		frontends:  map[string]*frontend{},
	}
	if opts.Log != nil {
		d.logs = newQueue(logQueue, logBytes, func(e *protos.LogEntry) int64 { return int64(len(e.Msg)) })
	}
	if opts.Spans != nil {
		d.spans = newQueue(spanQueue, spanQueue, func(spans []sdktrace.ReadOnlySpan) int64 { return int64(len(spans)) })
	}
	for _, pg := range plan.Groups {
		g := &group{Group: pg, want: pg.Replicas}
		for _, name := range pg.Components {
			d.components[name] = &component{name: name, group: g, subscribers: map[*replica]bool{}}
		}
		d.groups = append(d.groups, g)
	}
	for g, rank := range ranks(d.groups, d.components, app.Calls) {
		g.rank = rank
	}
	return d, nil
}

// checkReplicas refuses what ReplicasOf and ResourcesOf name in vain.
func checkReplicas(plan placement.Plan, opts Options) error {
	known := func(name string) bool {
		if _, ok := plan.Group(name); ok {
			return true
		}
		_, ok := plan.GroupOf(name)
		return ok
	}
	for name := range opts.ReplicasOf {
		if !known(name) {
			return fmt.Errorf("Options.ReplicasOf names %q, which is no group and no component%s", name, didYouMean(name, groupNames(plan)))
		}
	}
	for name := range opts.ResourcesOf {
		if !known(name) {
			return fmt.Errorf("Options.ResourcesOf names %q, which is no group and no component%s", name, didYouMean(name, groupNames(plan)))
		}
	}
	for _, g := range plan.Groups {
		if g.Replicas > opts.MaxReplicas {
			return fmt.Errorf("group %s has %d replicas, more than Options.MaxReplicas, %d", g.Name, g.Replicas, opts.MaxReplicas)
		}
	}
	return nil
}

func groupNames(plan placement.Plan) []string {
	var names []string
	for _, g := range plan.Groups {
		names = append(names, g.Name)
	}
	return names
}

// ID returns the deployment's id.
func (d *Deployment) ID() string { return d.opts.ID }

// App returns the application.
func (d *Deployment) App() *App { return d.app }

// Plan returns the plan that the placement made.
func (d *Deployment) Plan() placement.Plan { return d.plan }

// Run starts the main group, then the others as they are needed, and keeps
// them running until
//
//   - ctx ends or [Deployment.Stop] is called: Run stops everything
//     gracefully and returns nil. After ctx has ended that takes at most
//     Options.StopTimeout; what still runs then is killed.
//   - the main function has returned in every replica, with exit status 0: the
//     rest is stopped and Run returns nil.
//   - a group fails for good that the application cannot do without: the rest
//     is stopped and Run returns an error that says why.
//
// Everything that Run started has ended when it returns. Stopping begins at
// the frontends, and goes from the main group to those that it calls.
func (d *Deployment) Run(ctx context.Context) error {
	if !d.running.CompareAndSwap(false, true) {
		return fmt.Errorf("deploy %s: Run or Stop was called before", d.app.Name)
	}
	defer close(d.ended)
	defer d.events.close()

	var pumps sync.WaitGroup
	drained := make(chan struct{})
	d.startPumps(&pumps, drained)
	err := d.run(ctx)

	d.endLife()
	d.mu.Lock()
	d.stopping, d.over = true, true
	d.mu.Unlock()
	d.wg.Wait()
	close(drained)
	pumps.Wait()
	ended := Event{Kind: DeploymentStopped}
	if err != nil {
		ended.Reason = err.Error()
		err = fmt.Errorf("deploy %s: %w", d.app.Name, err)
	}
	d.events.add(ended)
	return err
}

func (d *Deployment) run(ctx context.Context) error {
	opening, cancel := context.WithCancel(ctx)
	defer cancel()
	d.wg.Go(func() { // stopping while frontends open is possible, too
		select {
		case <-d.stopc:
			cancel()
		case <-opening.Done():
		}
	})
	if err := d.openFrontends(opening); err != nil {
		stopCtx, cancel := d.stopContext(time.Second)
		defer cancel()
		d.closeFrontends(stopCtx)
		select {
		case <-d.stopc:
			return nil
		default:
			return err
		}
	}

	select {
	case <-d.stopc:
	default:
		d.mu.Lock()
		d.started = time.Now()
		d.events.add(Event{Kind: DeploymentStarted, Reason: fmt.Sprintf("%s, deployment %s", d.app.Name, d.opts.ID)})
		d.activateLocked(d.components[placement.Main], false)
		if d.opts.Prestart {
			for _, g := range d.groups {
				d.startLocked(g, "started ahead of its first use")
			}
		}
		d.mu.Unlock()
	}

	select {
	case <-ctx.Done():
		d.requestStop(context.Cause(ctx).Error())
	case <-d.stopc:
	}
	d.mu.Lock()
	var timeout time.Duration
	if !d.asked { // Stop has a context of its own
		timeout = d.opts.StopTimeout
	}
	d.mu.Unlock()
	stopCtx, end := d.stopContext(timeout)
	defer end()
	d.shutdown(stopCtx)

	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failure
}

// stopContext returns a context that bounds a stop: it ends when Stop's does,
// or after the timeout, if there is one.
func (d *Deployment) stopContext(timeout time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	if timeout > 0 {
		ctx, cancel = context.WithTimeout(context.Background(), timeout)
	}
	stop := make(chan struct{})
	d.wg.Go(func() {
		select {
		case <-d.killc:
			cancel()
		case <-stop:
		}
	})
	return ctx, func() { close(stop); cancel() }
}

// Stop stops the deployment gracefully: frontends finish what is in flight, for
// at most Options.StopGrace, then the groups end, callers before those they
// call. When ctx ends first, what still runs is killed. Stop returns when Run
// has returned; it returns ctx's error if it had to kill. Stopping twice is no
// error. The functions in Options must not call it, since Run waits for them.
func (d *Deployment) Stop(ctx context.Context) error {
	d.mu.Lock()
	d.asked = true
	d.stopLocked("Stop was called")
	if d.running.CompareAndSwap(false, true) {
		// Run was not called, and must not be any more.
		d.stopping, d.over = true, true
		d.events.close()
		close(d.ended)
	}
	d.mu.Unlock()
	select {
	case <-d.ended:
		return nil
	default:
	}
	select {
	case <-d.ended:
		return nil
	case <-ctx.Done():
	}
	d.killOnce.Do(func() { close(d.killc) })
	<-d.ended
	return ctx.Err()
}

func (d *Deployment) requestStop(reason string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopLocked(reason)
}

// stopLocked lets Run stop the deployment. The first reason counts.
func (d *Deployment) stopLocked(reason string) {
	if d.stopReason == "" {
		d.stopReason = reason
		close(d.stopc)
	}
}

// failLocked ends the deployment because of err.
func (d *Deployment) failLocked(err *GroupError) {
	if d.failure == nil && d.stopReason == "" {
		d.failure = err
	}
	d.stopLocked("it failed: " + err.Error())
}

// shutdown ends all groups in order and returns when they have ended, or ctx has.
func (d *Deployment) shutdown(ctx context.Context) {
	d.mu.Lock()
	d.stopping = true
	d.events.add(Event{Kind: DeploymentStopping, Reason: d.stopReason})
	last := 0
	for _, g := range d.groups {
		last = max(last, g.rank)
	}
	d.mu.Unlock()

	// One client that holds a request open must not hold up all the rest.
	closing, cancel := context.WithTimeout(ctx, d.opts.StopGrace)
	d.closeFrontends(closing)
	cancel()
	for rank := 0; rank <= last && ctx.Err() == nil; rank++ {
		var gone []chan struct{}
		d.mu.Lock()
		for _, g := range d.groups {
			if g.rank == rank {
				for _, s := range g.slots {
					d.retireLocked(s, "the deployment stops")
					gone = append(gone, s.gone)
				}
			}
		}
		d.mu.Unlock()
		for _, c := range gone {
			select {
			case <-c:
			case <-ctx.Done():
			}
		}
	}
}

// ranks orders groups for stopping: a group's rank is above those of all
// groups that call it, but for calls in a circle. The main group's is 0.
func ranks(groups []*group, components map[string]*component, calls []placement.Edge) map[*group]int {
	callees := map[*group][]*group{}
	for _, e := range calls {
		from, to := components[e.From].group, components[e.To].group
		if from != to && !slices.Contains(callees[from], to) {
			callees[from] = append(callees[from], to)
		}
	}
	// Reverse postorder of a depth-first search is a topological order of
	// what is no circle.
	var order []*group
	position := map[*group]int{}
	var visit func(*group)
	visit = func(g *group) {
		if _, seen := position[g]; seen {
			return
		}
		position[g] = -1
		for _, to := range callees[g] {
			visit(to)
		}
		position[g] = len(order)
		order = append(order, g)
	}
	visit(components[placement.Main].group)
	for _, g := range groups {
		visit(g)
	}
	rank := make(map[*group]int, len(groups))
	for _, g := range slices.Backward(order) {
		rank[g] += 0
		for _, to := range callees[g] {
			if position[to] < position[g] {
				rank[to] = max(rank[to], rank[g]+1)
			}
		}
	}
	return rank
}

// Scale sets how many replicas the group has. It returns at once; Events,
// Status and Why tell how it goes. Replicas that are too many are drained, the
// youngest first. Replicas that were given up get another chance.
func (d *Deployment) Scale(group string, replicas int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	g, err := d.groupLocked(group)
	switch {
	case err != nil:
		return fmt.Errorf("scale: %w", err)
	case replicas < 0 || replicas > d.opts.MaxReplicas:
		return fmt.Errorf("scale group %s to %d replicas: choose between 0 and %d", group, replicas, d.opts.MaxReplicas)
	case d.stopping:
		return fmt.Errorf("scale group %s: %w", group, ErrStopped)
	}
	if replicas != g.want {
		d.events.add(Event{Kind: GroupScaled, Group: g.Name, Reason: fmt.Sprintf("from %d to %d replicas", g.want, replicas)})
	}
	g.want = replicas
	for _, s := range g.slots {
		if s.state == Failed {
			s.rearm()
		}
	}
	if g.started {
		d.fillLocked(g)
	}
	return nil
}

// Replace starts another replica in the place of one, and drains that when the
// other serves. It returns at once.
func (d *Deployment) Replace(group string, replica int, reason string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	g, err := d.groupLocked(group)
	if err != nil {
		return fmt.Errorf("replace a replica: %w", err)
	}
	if d.stopping {
		return fmt.Errorf("replace replica %d of group %s: %w", replica, group, ErrStopped)
	}
	for _, s := range g.slots {
		if s.number != replica || s.retired() {
			continue
		}
		if s.replaces != nil {
			return fmt.Errorf("replace replica %d of group %s: it is just taking the place of replica %d", replica, group, s.replaces.number)
		}
		if !s.replaced {
			s.replaced = true
			d.addSlotLocked(g, fmt.Sprintf("in place of replica %d: %s", replica, reason)).replaces = s
		}
		return nil
	}
	return fmt.Errorf("replace replica %d of group %s: there is none of that number", replica, group)
}

// Restart ends a replica that is beyond help, although its process runs: it is
// out of routing and frontends when Restart returns, is then ended by force, and
// started again by the rules of Options.Restart. It is for health checks;
// [Deployment.Replace] is the gentle way.
func (d *Deployment) Restart(group string, replica int, reason string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, err := d.replicaLocked(group, replica)
	if err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	d.leaveLocked(r)
	r.giveUpLocked(errors.New(reason))
	return nil
}

// Ping asks a replica for a sign of life.
func (d *Deployment) Ping(ctx context.Context, group string, replica int) error {
	d.mu.Lock()
	r, err := d.replicaLocked(group, replica)
	d.mu.Unlock()
	if err == nil {
		_, err = r.weavelet.Health(ctx)
	}
	if err != nil {
		return fmt.Errorf("ping replica %d of group %s: %w", replica, group, err)
	}
	return nil
}

// replicaLocked returns the weavelet of a replica.
func (d *Deployment) replicaLocked(group string, number int) (*replica, error) {
	g, err := d.groupLocked(group)
	if err != nil {
		return nil, err
	}
	for _, s := range g.slots {
		if s.number == number && s.replica != nil {
			return s.replica, nil
		}
	}
	return nil, fmt.Errorf("replica %d of group %s: %w", number, group, ErrEnded)
}

// groupLocked returns the group of the given name.
func (d *Deployment) groupLocked(name string) (*group, error) {
	names := groupNames(d.plan)
	for _, g := range d.groups {
		if g.Name == name {
			return g, nil
		}
	}
	return nil, fmt.Errorf("no group %q%s; there are: %s", name, didYouMean(name, names), strings.Join(names, ", "))
}

// Events yields every change of state with a sequence number above after: 0
// for all that are kept, the last one seen to go on where a reader left off.
// It goes on as things happen, until ctx or the deployment ends. The newest
// Options.EventLimit events are kept; a jump in Seq tells a slow reader how
// many it has missed. Readers never slow the deployment down.
func (d *Deployment) Events(ctx context.Context, after uint64) iter.Seq[Event] {
	return d.events.all(ctx, after)
}
