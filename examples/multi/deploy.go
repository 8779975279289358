package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/ServiceWeaver/weaver/runtime/logging"
	"github.com/ServiceWeaver/weaver/runtime/protos"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/envelopekit/admin"
	"github.com/weaverkit/weaverkit/envelopekit/identity"
	"github.com/weaverkit/weaverkit/envelopekit/placement"
	"github.com/weaverkit/weaverkit/health"
	"github.com/weaverkit/weaverkit/logbuffer"
	"github.com/weaverkit/weaverkit/routing"
)

// deployerName is that of the section in the configuration, and of the
// directory with the admin sockets.
const deployerName = "multi"

// sample is what is deployed without a configuration.
const sample = "github.com/weaverkit/weaverkit/examples/shop"

// errKilled says that the user could not wait for a graceful stop.
var errKilled = errors.New("stopped at once")

// A config is what the command line says.
type config struct {
	file      string // "" for the sample
	replicas  int
	placement placement.Policy
	mtls      bool
	level     slog.Level
}

// A section is what the configuration says in [multi], as for upstream's
// deployer of this name.
type section struct {
	MTLS      bool                       `toml:"mtls"`
	Listeners envelopekit.ListenerConfig `toml:"listeners"`
}

// deploy deploys the application until it ends or is stopped.
func deploy(c config) error {
	// The first signal stops gracefully, the second at once.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)

	screen := newScreen(os.Stdout, os.Stderr)
	defer screen.close()
	app, clean, err := load(c, screen, signals)
	if err != nil {
		return err
	}
	defer clean()
	var sec section
	if err := app.Section(deployerName, &sec); err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	for _, w := range app.Warnings {
		screen.log("warning: " + w)
	}

	// Log entries are kept for "multi logs", and shown.
	logs, err := logbuffer.New[*protos.LogEntry](logbuffer.Options{})
	if err != nil {
		return err
	}
	defer logs.Close()
	shown := screen.printer(c.level)
	fronts := frontends{listeners: sec.Listeners, problems: screen.logger(), failed: make(chan error, 1)}
	if fronts.prober, err = health.New(health.Options{}); err != nil {
		return err
	}
	var d *envelopekit.Deployment
	var assigner assigner
	opts := envelopekit.Options{
		Placement: c.placement,
		Replicas:  c.replicas,
		Prestart:  true,
		Export:    fronts.export,
		Members:   assigner.setMembers,
		Liveness:  lastResort,
		Log: func(e *protos.LogEntry) {
			shown(e)
			if c.level <= slog.LevelDebug || !logging.IsSystemGenerated(e) {
				logs.Write(e)
			}
		},
	}
	if c.mtls || sec.MTLS {
		if opts.Identity, err = identity.New(identity.Options{}); err != nil {
			return err
		}
	}
	if d, err = envelopekit.New(app, opts); err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	assigner.d = d
	if assigner.Controller, err = routing.NewController(d, routing.ControllerOptions{}); err != nil {
		return err
	}

	dir := admin.Dir(deployerName)
	socket, err := admin.Listen(dir, d.ID())
	if err != nil {
		return err
	}
	defer os.Remove(dir) // unless there are others

	// Everything below ends when the deployment does.
	ctx, end := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer end()
	asked, killed := make(chan struct{}), make(chan struct{})
	server := admin.Server{Deployment: d, Stop: sync.OnceFunc(func() { close(asked) }), Logs: logWriter(logs)}
	running.Go(func() {
		if err := server.Serve(ctx, socket); err != nil {
			screen.log(err.Error())
		}
	})
	running.Go(func() { _ = assigner.Run(ctx) }) // its error is ctx's
	running.Go(func() {
		if err := watchHealth(ctx, d, screen.log); err != nil {
			screen.log(err.Error())
		}
	})
	running.Go(func() { fronts.watch(ctx, screen.log) })
	running.Go(func() { screen.watch(ctx, d) })
	var failed error // read when all of running has ended
	running.Go(func() {
		select {
		case <-asked:
		case <-signals:
		case failed = <-fronts.failed:
			screen.log(failed.Error())
		case <-ctx.Done():
			return
		}
		screen.log("stopping; once more stops at once")
		if !stop(d, signals) {
			close(killed)
		}
	})

	if err := d.Run(context.Background()); err != nil {
		return err
	}
	end()
	running.Wait()
	fronts.watching.Wait()
	select {
	case <-killed:
		return errKilled
	default:
		return failed
	}
}

// An assigner makes the assignments of routed components from their load.
type assigner struct {
	*routing.Controller
	d       *envelopekit.Deployment
	sources sync.Map // of all replicas of routed components, by component: []string
}

// setMembers tells the controller which replicas a component has, and where to
// ask for their load.
func (a *assigner) setMembers(component string, replicas []string) {
	before, _ := a.sources.Swap(component, replicas)
	members := make([]routing.Member, len(replicas))
	for i, address := range replicas {
		members[i].Addr = address
		a.SetSource(address, func(ctx context.Context) (*protos.LoadReport, error) {
			return a.d.LoadAt(ctx, address)
		})
	}
	a.SetMembers(component, members)
	gone, _ := before.([]string)
	for _, address := range gone {
		if !slices.Contains(replicas, address) {
			a.SetSource(address, nil)
		}
	}
}

// stop stops the deployment gracefully, or kills it if a signal comes
// meanwhile. It reports whether it could be graceful.
func stop(d *envelopekit.Deployment, signals <-chan os.Signal) bool {
	ctx, kill := context.WithCancel(context.Background())
	defer kill()
	stopped := make(chan error)
	go func() { stopped <- d.Stop(ctx) }()
	select {
	case <-signals:
		kill()
		<-stopped
		return false
	case <-stopped:
		return true
	}
}

// load loads the application of the configuration file or, without one, builds
// the sample into a directory that clean removes.
func load(c config, screen *screen, signals <-chan os.Signal) (app *envelopekit.App, clean func(), err error) {
	clean = func() {}
	if c.file != "" {
		if app, err = envelopekit.LoadApp(c.file); err != nil {
			err = fmt.Errorf("%w: %w", errUsage, err)
		}
		return app, clean, err
	}
	dir, err := os.MkdirTemp("", "weaverkit-sample")
	if err != nil {
		return nil, clean, err
	}
	clean = func() { os.RemoveAll(dir) }
	binary := filepath.Join(dir, "shop")
	screen.log("building the sample application, examples/shop")
	ctx, cancel := context.WithCancel(context.Background())
	built := make(chan struct{})
	go func() {
		defer cancel()
		select {
		case <-signals:
		case <-built:
		}
	}()
	out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, sample).CombinedOutput()
	interrupted := ctx.Err() != nil
	close(built)
	switch {
	case interrupted:
		clean()
		return nil, clean, errKilled
	case err != nil:
		clean()
		return nil, clean, fmt.Errorf("build the sample application: %w\n%s\nrun this in a checkout of weaverkit, or name a configuration: multi deploy weaver.toml", err, out)
	}
	if app, err = envelopekit.LoadBinary(binary); err != nil {
		clean()
	}
	return app, clean, err
}

// logWriter returns what shows the log to "multi logs".
func logWriter(logs *logbuffer.Buffer[*protos.LogEntry]) func(context.Context, io.Writer, int, bool) error {
	return func(ctx context.Context, w io.Writer, tail int, follow bool) error {
		printer := logging.NewPrettyPrinter(false)
		r := logs.Tail(tail)
		defer r.Close()
		read := func(dst []*protos.LogEntry) (int, uint64, error) { return r.Read(ctx, dst) }
		if !follow {
			read = r.TryRead
		}
		entries := make([]*protos.LogEntry, 256)
		for {
			n, missed, err := read(entries)
			if err != nil || n == 0 {
				return err
			}
			var b strings.Builder
			if missed > 0 {
				fmt.Fprintf(&b, "... %d entries came too fast to be shown\n", missed)
			}
			for _, e := range entries[:n] {
				b.WriteString(printer.Format(e) + "\n")
			}
			if _, err := io.WriteString(w, b.String()); err != nil {
				return err
			}
		}
	}
}
