package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/logging"
	"github.com/ServiceWeaver/weaver/runtime/protos"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/envelopekit/admin"
	"github.com/weaverkit/weaverkit/proxy"
	"github.com/weaverkit/weaverkit/rollout"
	"github.com/weaverkit/weaverkit/rollout/boltstore"
)

// deployerName is that of the section in the configuration.
const deployerName = "rollout"

// interval is the time between two looks: versions of this machine are asked
// at no cost.
const interval = 250 * time.Millisecond

// errKilled says that the user could not wait for a graceful stop.
var errKilled = errors.New("stopped at once")

// A config is what the command line says.
type config struct {
	file  string // "" for the sample
	state string // directory
	fresh bool   // forget what it has
	log   string // file, "" for none
	rate  int    // of the load, a second
	path  string // of the load
	plan  planSpec
}

// A deployment is all that "rollout deploy" runs.
type deployment struct {
	config
	name     string
	sample   *envelopekit.App // nil if it is another application
	versions *versions
	proxies  *proxies
	deployer *deployer
	runner   *rollout.Runner
	meter    *meter
	load     *load  // nil if there is none
	ask      func() // asks for a graceful stop
	quit     func() // is the user's wish to stop: the first is graceful, the second at once

	submitting sync.Mutex // one submission at a time
}

// deploy runs the application until it is stopped.
func deploy(c config) error {
	// The first signal stops gracefully, the second at once.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	background := context.Background()

	if err := os.MkdirAll(c.state, 0o700); err != nil {
		return err
	}
	store, err := boltstore.Open(filepath.Join(c.state, "rollouts.db"), &boltstore.Options{Timeout: time.Second})
	if err != nil {
		return fmt.Errorf("%w: choose another directory with -state", err)
	}
	defer store.Close()
	app, err := loadApp(c.file, filepath.Join(c.state, "sample", "shop"), signals)
	if err != nil {
		return err
	}
	if c.file == "" { // the plan is for the keys n and b
		if _, err := c.plan.plan("v2", app); err != nil {
			return fmt.Errorf("%w: %w", errUsage, err)
		}
	}
	if c.fresh {
		if err := errors.Join(forget(background, store, app.Name), forget(background, store, versionsKey(app.Name))); err != nil {
			return err
		}
	}
	before, err := recorded(background, store, app.Name)
	if err != nil {
		return err
	}

	asked := make(chan struct{})
	d := &deployment{config: c, name: app.Name, ask: sync.OnceFunc(func() { close(asked) })}
	d.quit = func() {
		select {
		case signals <- os.Interrupt:
		default: // two are there already
		}
	}
	screen := newScreen(os.Stdout, os.Stderr, d)
	defer screen.close()
	logs, closeLog, err := openLog(c.log)
	if err != nil {
		return err
	}
	defer closeLog()
	if err := d.assemble(app, store, screen, logs); err != nil {
		return err
	}
	socket, err := admin.Listen(c.state, app.Name)
	if err != nil {
		return err
	}

	// Commands are answered to the end. All else ends with ctx, the rollouts
	// before, the versions and their proxies in between.
	control, silence := context.WithCancel(background)
	var answering sync.WaitGroup
	defer answering.Wait()
	defer silence()
	answering.Go(func() {
		if err := d.serveControl(control, socket); err != nil {
			screen.log(err.Error())
		}
	})
	ctx, end := context.WithCancelCause(background)
	d.proxies.failed = end
	var running, rolling sync.WaitGroup
	rollouts, endRollouts := context.WithCancel(ctx)
	defer endRollouts()
	rolling.Go(func() {
		if err := d.runner.Run(rollouts); err != nil {
			end(err)
		}
	})
	running.Go(func() { d.meter.run(ctx) })
	running.Go(func() { screen.run(ctx) })
	loading, endLoad := context.WithCancel(ctx)
	defer endLoad()
	running.Go(func() { d.follow(ctx, loading, before.EventSeq, screen) })
	if before.Stable == nil {
		running.Go(func() {
			// When the Runner has stopped, it says why.
			if err := d.first(ctx, before, app); err != nil && !errors.Is(err, rollout.ErrStopped) {
				end(err)
			}
		})
	} else {
		screen.log(fmt.Sprintf("going on where it was, with the versions that %s has; -fresh forgets them", c.state))
	}

	select {
	case <-asked:
	case <-signals:
	case <-ctx.Done():
	}
	screen.log("stopping; once more stops at once")
	endLoad()
	endRollouts()
	graceful := d.close(signals, &rolling)
	end(nil)
	running.Wait()
	if !graceful {
		return errKilled
	}
	if err = context.Cause(ctx); errors.Is(err, context.Canceled) {
		return nil // it was asked for
	}
	return err
}

// assemble makes the parts. What they tell goes to the screen, which shows the
// whole.
func (d *deployment) assemble(app *envelopekit.App, store rollout.Store, screen *screen, log func(string, *protos.LogEntry)) (err error) {
	background := context.Background()
	for _, w := range app.Warnings {
		screen.log("warning: " + w)
	}
	if d.file == "" {
		d.sample = app
	}
	if d.versions, err = openVersions(background, d.state, app.Name, store); err != nil {
		return err
	}
	d.proxies = &proxies{
		address: d.address,
		opened: func(listener, address string) {
			if err := d.versions.change(background, func(k *kept) { k.Addresses[listener] = address }); err != nil {
				screen.log(err.Error())
			}
		},
		log:     screen.logger(),
		all:     map[string]*proxy.Frontend{},
		traffic: map[place]*rollout.Traffic{},
	}
	d.deployer = &deployer{
		load:    d.versions.load,
		proxies: d.proxies,
		log:     log,
		problem: screen.log,
		running: map[string]*version{},
	}
	d.runner, err = rollout.New(d.deployer, rollout.Options{
		App:     app.Name,
		Store:   store,
		Config:  rollout.Config{Interval: interval},
		ByPlace: true,
	})
	d.meter = &meter{counts: d.proxies.counts, weights: func() uint64 { return d.runner.Status().State.Applied }}
	if d.rate > 0 {
		d.load = &load{rate: d.rate, path: d.path}
	}
	return err
}

// close stops the proxies, which finish what is in flight, and the versions,
// gracefully or, if a signal comes, at once. It reports whether it could be
// graceful. First the rollouts must have ended, which are about to: one that
// goes on counts time in which nobody listens.
func (d *deployment) close(signals <-chan os.Signal, rollouts *sync.WaitGroup) bool {
	ctx, kill := context.WithTimeout(context.Background(), d.plan.Drain+20*time.Second)
	defer kill()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		rollouts.Wait()
		drain, cancel := context.WithTimeout(ctx, d.plan.Drain)
		defer cancel()
		d.proxies.close(drain)
		d.deployer.close(ctx)
	}()
	select {
	case <-signals:
		kill()
		<-stopped
		return false
	case <-stopped:
		return true
	}
}

// first rolls out the first version of all, which takes all traffic, unless
// that is under way. Without it there is nothing to do.
func (d *deployment) first(ctx context.Context, before rollout.State, app *envelopekit.App) error {
	if (before.Plan == nil || before.Phase.Ended()) && before.Next == nil {
		if err := d.roll(ctx, "v1", app, planSpec{Name: "all", Drain: d.plan.Drain}); err != nil {
			return err
		}
	}
	st, err := d.runner.Wait(ctx)
	switch {
	case ctx.Err() != nil:
		return nil // it was stopped
	case err == nil && st.Stable == nil:
		return fmt.Errorf("version %s: %s", st.Plan.Version, st.Reason)
	}
	return err
}

// submit rolls out a version, as a command or a key asks for.
func (d *deployment) submit(ctx context.Context, s submission) error {
	if s.Version == "" || strings.ContainsAny(s.Version, "/\\\"\n") || len(s.Version) > 40 {
		return fmt.Errorf("%q is no name for a version: choose one of up to 40 characters, such as v2", s.Version)
	}
	var app *envelopekit.App
	var err error
	switch {
	case s.File != "":
		app, err = readApp(s.File)
	case d.sample == nil:
		err = errors.New("name the configuration or the binary of the version: rollout submit VERSION weaver.toml")
	default:
		app = sampleVersion(d.sample, s.Version, s.Errors)
	}
	if err != nil {
		return err
	}
	return d.roll(ctx, s.Version, app, s.Plan)
}

// roll keeps the version, submits its plan and, since that may be refused, only
// then forgets what is of no use any more.
func (d *deployment) roll(ctx context.Context, version string, app *envelopekit.App, spec planSpec) error {
	plan, err := spec.plan(version, app)
	if err != nil {
		return err
	}
	d.submitting.Lock()
	defer d.submitting.Unlock()
	if _, err := d.runner.State(ctx); err != nil { // before, nothing is in use
		return fmt.Errorf("submit version %s: the state is not there: %w", version, err)
	}
	if err := d.versions.add(ctx, version, app, versionsOf(d.runner.Status().State)); err != nil {
		return err
	}
	err = d.runner.Submit(ctx, plan)
	if s := d.runner.Status().State; errors.Is(err, rollout.ErrRefused) && s.Phase == rollout.RolledBack && s.Plan.Version == version {
		err = d.runner.Retry(ctx, s.At()) // the same plan, maybe for another build
	}
	if err != nil {
		return err
	}
	if err := d.versions.forget(ctx, needed(d.runner.Status().State)); err != nil {
		d.deployer.problem(err.Error())
	}
	return nil
}

// needed returns the versions of [versionsOf], and the one that was rolled back
// last, which can be tried again.
func needed(s rollout.State) []string {
	names := versionsOf(s)
	if s.Plan != nil {
		names = append(names, s.Plan.Version)
	}
	return names
}

// versionsOf returns the versions that run, are to run, or may still be running,
// newest first.
func versionsOf(s rollout.State) []string {
	var names []string
	add := func(name string) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	retired := func(name string) bool {
		return slices.ContainsFunc(s.Retired, func(r rollout.Retirement) bool { return r.Version.ID == name })
	}
	if s.Next != nil {
		add(s.Next.Version)
	}
	if s.Plan != nil && (!s.Phase.Ended() || retired(s.Plan.Version)) {
		add(s.Plan.Version)
	}
	if s.Stable != nil {
		add(s.Stable.ID)
	}
	for _, r := range s.Retired {
		add(r.Version.ID)
	}
	return names
}

// next returns the name of the version after all that are known: v4 after v3.
func (d *deployment) next() string {
	most := 0
	for name := range d.versions.now.Load().Configs {
		if n, err := strconv.Atoi(strings.TrimPrefix(name, "v")); err == nil {
			most = max(most, n)
		}
	}
	return fmt.Sprintf("v%d", most+1)
}

// follow tells what happens after an event: all of it to the screen, and where
// a listener is once its traffic is divided. Then the load begins, at the first,
// until its own context ends.
func (d *deployment) follow(ctx, loading context.Context, after uint64, screen *screen) {
	told := map[string]bool{}
	reason := ""
	var requests sync.WaitGroup
	defer requests.Wait()
	for e := range d.runner.Events(ctx, after) {
		var text string
		text, reason = tell(e, reason)
		screen.log(text)
		st := d.runner.Status().State
		if e.Kind != rollout.WeightsApplied || st.Stable == nil {
			continue
		}
		_, address := d.proxies.addresses()
		for _, s := range st.Weights.Splits { // a later version may have further listeners
			at := address[s.Listener]
			if told[s.Listener] {
				continue
			}
			screen.print(fmt.Sprintf("listener %s http://%s", s.Listener, at))
			if d.load != nil && len(told) == 0 {
				requests.Go(func() { d.load.run(loading, at) })
			}
			told[s.Listener] = true
		}
	}
}

// tell returns the line for an event. A verdict is the reason of what follows from
// it, so one that was told last is not told again.
func tell(e rollout.Event, last string) (line, reason string) {
	reason = last
	if e.Kind == rollout.VerdictGiven || e.Kind == rollout.PhaseChanged {
		if reason, _, _ = strings.Cut(e.Reason, "; then: "); reason == last {
			e.Reason = ""
		}
	}
	return fmt.Sprintf("%s %v", e.Time.Format(time.TimeOnly), e), reason
}

// address returns where to open a listener: where the configuration of the first
// version that has it says, where it was before, or at a free port of the
// loopback interface.
func (d *deployment) address(app *envelopekit.App, listener string) string {
	var sec section
	_ = app.Section(deployerName, &sec) // readApp has looked for errors
	if a := sec.Listeners[listener].Address; a != "" {
		return a
	}
	if a := d.versions.now.Load().Addresses[listener]; a != "" && free(a) {
		return a
	}
	return "127.0.0.1:0"
}

// recorded returns the state that the store has, to tell whether it has one.
func recorded(ctx context.Context, store rollout.Store, key string) (s rollout.State, err error) {
	value, _, err := store.Load(ctx, key)
	if err == nil && value != nil {
		err = json.Unmarshal(value, &s)
	}
	if err != nil {
		return s, fmt.Errorf("read the state: %w; -fresh forgets it", err)
	}
	return s, nil
}

// forget empties a value of the store.
func forget(ctx context.Context, store rollout.Store, key string) error {
	_, version, err := store.Load(ctx, key)
	if err == nil && version != 0 {
		_, err = store.CompareAndSwap(ctx, key, version, []byte("{}"))
	}
	return err
}

// openLog returns what appends the versions' log entries to a file, if one is
// named.
func openLog(file string) (log func(string, *protos.LogEntry), end func(), err error) {
	if file == "" {
		return func(string, *protos.LogEntry) {}, func() {}, nil
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, err
	}
	printer := logging.NewPrettyPrinter(false)
	var mu sync.Mutex
	return func(version string, e *protos.LogEntry) {
		mu.Lock()
		line := fmt.Sprintf("%s %s\n", version, printer.Format(e))
		mu.Unlock()
		_, _ = io.WriteString(f, line) // a full disk is no reason to end
	}, func() { f.Close() }, nil
}
