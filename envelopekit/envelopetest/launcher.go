package envelopetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/envelope"
	"github.com/ServiceWeaver/weaver/runtime/protos"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/envelopekit/placement"
)

// App returns an application that has the given references, and no binary.
// Listeners can be added to it.
func App(name string, calls ...placement.Edge) *envelopekit.App {
	components := map[string]bool{placement.Main: true}
	for _, e := range calls {
		components[e.From], components[e.To] = true, true
	}
	return &envelopekit.App{
		Name:       name,
		Config:     &protos.AppConfig{Name: name, Binary: name},
		Components: slices.Sorted(maps.Keys(components)),
		Calls:      calls,
	}
}

// A Script is what a component does when it is initialized, on each weavelet
// that is told to host it. The component has initialized when it returns nil.
// After an error it never does, as with a real Init method. ctx ends with the
// weavelet.
type Script func(ctx context.Context, w *Weavelet) error

// A Launcher is an [envelopekit.Launcher] of weavelets that are scripts. Its
// fields must be set before its first use.
type Launcher struct {
	// Scripts are what components do, by full name. A component without one
	// activates the components that Calls says it refers to, and waits for
	// their routing, as the references of a real one do.
	Scripts map[string]Script

	// Calls are the references between components; those of the App.
	Calls []placement.Edge

	// Starting, if not nil, is called when a weavelet is started, and fails
	// the start with its error. It may take time.
	Starting func(ctx context.Context, spec envelopekit.Spec) error

	mu        sync.Mutex // guards the following
	weavelets []*Weavelet
	change    chan struct{} // closed when a weavelet starts, or a state changes
}

// Launch implements [envelopekit.Launcher].
func (l *Launcher) Launch(ctx context.Context, spec envelopekit.Spec, h envelope.EnvelopeHandler) (envelopekit.Weavelet, error) {
	if l.Starting != nil {
		if err := l.Starting(ctx, spec); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	life, end := context.WithCancel(context.Background())
	w := &Weavelet{
		Spec:     spec,
		Handler:  h,
		launcher: l,
		life:     life,
		end:      end,
		done:     make(chan struct{}),
		awake:    make(chan struct{}),
		started:  map[string]bool{},
		ready:    map[string]bool{},
		routing:  map[string][]*protos.RoutingInfo{},
	}
	close(w.awake)
	l.mu.Lock()
	l.weavelets = append(l.weavelets, w)
	w.number = len(l.weavelets)
	l.changedLocked()
	l.mu.Unlock()
	if spec.Args.GetRunMain() {
		w.initialize(placement.Main)
	}
	return w, nil
}

func (l *Launcher) changedLocked() {
	if l.change != nil {
		close(l.change)
	}
	l.change = make(chan struct{})
}

func (l *Launcher) changed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changedLocked()
}

// All returns the weavelets that were ever started, in that order.
func (l *Launcher) All() []*Weavelet {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.weavelets)
}

// Live returns the weavelets of a group that run, in the order of their starts.
func (l *Launcher) Live(group string) []*Weavelet {
	return slices.DeleteFunc(l.All(), func(w *Weavelet) bool {
		return w.Spec.Group != group || w.life.Err() != nil
	})
}

// Await waits until n weavelets of the group run and have initialized what
// they were told to, and returns the last of them. It fails the test after a
// minute.
func (l *Launcher) Await(tb testing.TB, group string, n int) *Weavelet {
	tb.Helper()
	deadline := time.After(time.Minute)
	for {
		l.mu.Lock()
		if l.change == nil {
			l.change = make(chan struct{})
		}
		change := l.change
		l.mu.Unlock()
		live := l.Live(group)
		ready := slices.DeleteFunc(slices.Clone(live), func(w *Weavelet) bool { return !w.idle() })
		if len(live) == n && len(ready) == n {
			if n == 0 {
				return nil
			}
			return live[n-1]
		}
		select {
		case <-change:
		case <-deadline:
			tb.Fatalf("group %s has %d weavelets, %d of them ready; want %d", group, len(live), len(ready), n)
		}
	}
}

// Violations returns what real weavelets would have choked on, of all that
// the weavelets were told: versions of assignments that went back, slices
// without replicas, local routing with replicas, unknown components.
func (l *Launcher) Violations() []string {
	var all []string
	for _, w := range l.All() {
		w.mu.Lock()
		for _, v := range w.violations {
			all = append(all, fmt.Sprintf("%s/%d: %s", w.Spec.Group, w.Spec.Replica, v))
		}
		w.mu.Unlock()
	}
	return all
}

// A Weavelet is a weavelet that is a script. What it is told by the deployer
// is on its [envelopekit.Weavelet] methods; the others are for scripts and
// tests. All may be called from several goroutines.
type Weavelet struct {
	Spec    envelopekit.Spec
	Handler envelope.EnvelopeHandler // what it asks of its deployer

	launcher *Launcher
	number   int
	life     context.Context // ends with the weavelet
	end      context.CancelFunc
	done     chan struct{}
	scripts  sync.WaitGroup

	mu         sync.Mutex // guards the following
	awake      chan struct{}
	err        error // how it ended
	ended      bool
	started    map[string]bool // components that it was told to host
	ready      map[string]bool // those that have initialized
	routing    map[string][]*protos.RoutingInfo
	load       *protos.LoadReport
	metrics    *protos.MetricUpdate
	violations []string
}

var _ envelopekit.Weavelet = (*Weavelet)(nil)

// initialize runs the component's script, once.
func (w *Weavelet) initialize(component string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.started[component] || w.ended {
		return
	}
	w.started[component] = true
	script := w.launcher.Scripts[component]
	if script == nil {
		script = useAll(component, w.launcher.Calls)
	}
	w.scripts.Go(func() {
		err := script(w.life, w)
		w.mu.Lock()
		if err == nil {
			w.ready[component] = true
		}
		w.mu.Unlock()
		if err != nil && w.life.Err() == nil {
			w.Log("ERROR", "Failed to construct", "component", placement.Shorten(component), "err", err.Error())
		}
		w.launcher.changed()
	})
}

// useAll is the script of a component that refers to others.
func useAll(component string, calls []placement.Edge) Script {
	return func(ctx context.Context, w *Weavelet) error {
		for _, e := range calls {
			if e.From == component {
				if err := w.Use(ctx, e.To, false); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

// Use activates a component and waits until it is told of a replica to call, as
// a reference of a component does.
func (w *Weavelet) Use(ctx context.Context, component string, routed bool) error {
	if _, err := w.Handler.ActivateComponent(ctx, &protos.ActivateComponentRequest{Component: component, Routed: routed}); err != nil {
		return err
	}
	for {
		w.launcher.mu.Lock()
		if w.launcher.change == nil {
			w.launcher.change = make(chan struct{})
		}
		change := w.launcher.change
		w.launcher.mu.Unlock()
		if r := w.Routing(component); r.GetLocal() || len(r.GetReplicas()) > 0 {
			return nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Export exports a listener that the weavelet serves at the address, and
// returns the address for clients.
func (w *Weavelet) Export(ctx context.Context, listener, address string) (string, error) {
	reply, err := w.Handler.ExportListener(ctx, &protos.ExportListenerRequest{Listener: listener, Address: address})
	if err == nil && reply.Error != "" {
		err = errors.New(reply.Error)
	}
	return reply.GetProxyAddress(), err
}

// Log logs a message as the weavelet's own runtime does. attrs are names and
// values in turn.
func (w *Weavelet) Log(level, message string, attrs ...string) {
	_ = w.Handler.LogBatch(w.life, &protos.LogEntryBatch{Entries: []*protos.LogEntry{{
		App:        w.Spec.Args.GetApp(),
		Version:    w.Spec.Args.GetDeploymentId(),
		Component:  "weavelet",
		Node:       w.Spec.Args.GetId(),
		TimeMicros: time.Now().UnixMicro(),
		Level:      level,
		Msg:        message,
		Attrs:      append([]string{"serviceweaver/system", ""}, attrs...),
	}}})
}

// idle reports whether the weavelet was told to host something and all that
// has initialized.
func (w *Weavelet) idle() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.started) > 0 && len(w.ready) == len(w.started)
}

// Components returns the components that it was told to host, sorted.
func (w *Weavelet) Components() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.started))
}

// Routing returns the last routing of the component that it was told, or nil.
func (w *Weavelet) Routing(component string) *protos.RoutingInfo {
	w.mu.Lock()
	defer w.mu.Unlock()
	if all := w.routing[component]; len(all) > 0 {
		return all[len(all)-1]
	}
	return nil
}

// Routings returns all routing of the component that it was told, in order.
func (w *Weavelet) Routings(component string) []*protos.RoutingInfo {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.routing[component])
}

// Subscriptions returns the components whose routing it was told, sorted,
// without the main component, of which deployers may tell any weavelet.
func (w *Weavelet) Subscriptions() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := slices.Sorted(maps.Keys(w.routing))
	return slices.DeleteFunc(all, func(c string) bool { return c == placement.Main })
}

// SetLoad sets what the next call of Load returns; those after it return none.
func (w *Weavelet) SetLoad(load *protos.LoadReport) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.load = load
}

// SetMetrics sets what the next call of Metrics returns; those after it return
// no change.
func (w *Weavelet) SetMetrics(update *protos.MetricUpdate) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.metrics = update
}

// Exit ends the weavelet with an exit status and last output.
func (w *Weavelet) Exit(status int, output ...string) {
	if status == 0 {
		w.exit(nil)
		return
	}
	w.exit(&envelopekit.ExitError{Pid: w.number, Status: status, Output: output})
}

// Kill ends the weavelet as SIGKILL does.
func (w *Weavelet) Kill() {
	w.exit(&envelopekit.ExitError{Pid: w.number, Status: -1, Signal: "killed", Killed: true})
}

func (w *Weavelet) exit(err error) {
	w.mu.Lock()
	if w.ended {
		w.mu.Unlock()
		return
	}
	w.ended, w.err = true, err
	w.end()
	close(w.done)
	w.mu.Unlock()
	w.launcher.changed()
}

// Hang lets the weavelet answer nothing any more, as SIGSTOP does, until
// Resume.
func (w *Weavelet) Hang() {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.awake:
		w.awake = make(chan struct{})
	default:
	}
}

// Resume undoes Hang.
func (w *Weavelet) Resume() {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.awake:
	default:
		close(w.awake)
	}
}

// enter returns when the weavelet answers.
func (w *Weavelet) enter(ctx context.Context) error {
	w.mu.Lock()
	awake := w.awake
	w.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-w.done:
		return envelopekit.ErrEnded
	default:
	}
	select {
	case <-awake:
		return nil
	case <-w.done:
		return envelopekit.ErrEnded
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Address implements [envelopekit.Weavelet].
func (w *Weavelet) Address() string {
	address := fmt.Sprintf("tcp://%s-%d.test:1", path.Base(strings.ReplaceAll(w.Spec.Group, ".", "/")), w.number)
	if w.Spec.Args.GetMtls() {
		return "mtls://" + address
	}
	return address
}

// Pid implements [envelopekit.Weavelet]: the number of the start.
func (w *Weavelet) Pid() (int, bool) { return w.number, true }

// UpdateComponents implements [envelopekit.Weavelet].
func (w *Weavelet) UpdateComponents(ctx context.Context, components []string) error {
	if err := w.enter(ctx); err != nil {
		return err
	}
	var errs []error
	for _, c := range components {
		if !w.launcher.knows(c) {
			w.violate("component %q was not registered", c)
			errs = append(errs, fmt.Errorf("component %q was not registered; maybe you forgot to run weaver generate", c))
			continue
		}
		w.initialize(c)
	}
	w.launcher.changed()
	return errors.Join(errs...)
}

// knows reports whether there is such a component, if that can be told.
func (l *Launcher) knows(component string) bool {
	if len(l.Calls) == 0 || component == placement.Main {
		return true
	}
	return slices.ContainsFunc(l.Calls, func(e placement.Edge) bool { return e.From == component || e.To == component })
}

func (w *Weavelet) violate(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.violations = append(w.violations, fmt.Sprintf(format, args...))
}

// UpdateRouting implements [envelopekit.Weavelet].
func (w *Weavelet) UpdateRouting(ctx context.Context, routing *protos.RoutingInfo) error {
	if err := w.enter(ctx); err != nil {
		return err
	}
	for _, s := range routing.GetAssignment().GetSlices() {
		if len(s.Replicas) == 0 {
			w.violate("a slice of %s has no replicas", routing.Component)
			w.Exit(2, "panic: invalid argument to Intn") // as a real one would
			return envelopekit.ErrEnded
		}
	}
	if routing.Local && (len(routing.Replicas) > 0 || routing.Assignment != nil) {
		w.violate("local routing of %s has replicas or an assignment", routing.Component)
	}
	w.mu.Lock()
	all := w.routing[routing.Component]
	var last *protos.RoutingInfo
	if len(all) > 0 {
		last = all[len(all)-1]
	}
	w.mu.Unlock()
	if last != nil && last.Local != routing.Local {
		w.violate("local routing of %s changed", routing.Component)
		return fmt.Errorf("RoutingInfo.Local for %q: got %t, want %t", routing.Component, last.Local, routing.Local)
	}
	if was, is := lastVersion(all), routing.GetAssignment().GetVersion(); is != 0 && is < was {
		w.violate("the version of the assignment of %s went back from %d to %d", routing.Component, was, is)
	}
	w.mu.Lock()
	w.routing[routing.Component] = append(all, routing)
	w.mu.Unlock()
	w.launcher.changed()
	w.Log("DEBUG", "Updated routing info", "component", placement.Shorten(routing.Component))
	return nil
}

// lastVersion returns the version of the last assignment there was.
func lastVersion(all []*protos.RoutingInfo) uint64 {
	for _, r := range slices.Backward(all) {
		if v := r.GetAssignment().GetVersion(); v != 0 {
			return v
		}
	}
	return 0
}

// Health implements [envelopekit.Weavelet].
func (w *Weavelet) Health(ctx context.Context) (*protos.GetHealthReply, error) {
	if err := w.enter(ctx); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return &protos.GetHealthReply{
		Status:            protos.HealthStatus_HEALTHY,
		HealthyComponents: slices.Sorted(maps.Keys(w.ready)),
	}, nil
}

// Load implements [envelopekit.Weavelet].
func (w *Weavelet) Load(ctx context.Context) (*protos.LoadReport, error) {
	if err := w.enter(ctx); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	load := w.load
	w.load = nil
	if load == nil {
		load = &protos.LoadReport{}
	}
	return load, nil
}

// Metrics implements [envelopekit.Weavelet].
func (w *Weavelet) Metrics(ctx context.Context) (*protos.MetricUpdate, error) {
	if err := w.enter(ctx); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	update := w.metrics
	w.metrics = nil
	if update == nil {
		update = &protos.MetricUpdate{}
	}
	return update, nil
}

// Profile implements [envelopekit.Weavelet]; the profile is empty.
func (w *Weavelet) Profile(ctx context.Context, _ *protos.GetProfileRequest) ([]byte, error) {
	return nil, w.enter(ctx)
}

// Stop implements [envelopekit.Weavelet]. As a real weavelet does, one that is
// asked to end exits with status 1.
func (w *Weavelet) Stop(ctx context.Context) error {
	if err := w.enter(ctx); err == nil {
		w.Exit(1)
	} else {
		w.Kill()
	}
	w.scripts.Wait()
	return nil
}

// Done implements [envelopekit.Weavelet].
func (w *Weavelet) Done() <-chan struct{} { return w.done }

// Err implements [envelopekit.Weavelet].
func (w *Weavelet) Err() error {
	select {
	case <-w.done:
	default:
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}
