// Command rollout runs a Service Weaver application on this machine, and rolls
// out further versions of it, next to the one that runs and without a failed
// request.
//
//	rollout deploy [flags] [weaver.toml | binary]   # without a file: builds and runs the sample shop
//	rollout submit VERSION [weaver.toml | binary]   # from another terminal
//	rollout status | why | pause | resume | promote | abort | retry | events [-f] | stop
//
// It is an example to copy: this file is the command line, deploy.go puts the
// kit together, deployer.go starts, stops and weighs versions, running.go keeps
// one running, proxies.go has the proxies and what they count, versions.go what
// belongs to a version, plans.go the plans, apps.go the sample; control.go and
// screen.go are for people.
// See README.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/weaverkit/weaverkit/rollout"
)

const usage = `rollout runs a Service Weaver application and rolls out versions of it.

usage:
  rollout deploy [flags] [weaver.toml | binary]  run an application, as version v1; without a file, the sample shop
  rollout submit [flags] VERSION [weaver.toml | binary]
                                                 roll out a version; without a file, the sample under that name
  rollout status                                 show how the rollout gets on
  rollout why                                    explain what it waits for
  rollout pause [REASON]                         stay where it is
  rollout resume                                 go on
  rollout promote                                skip the rest: all traffic to the new version
  rollout abort [REASON]                         go back to the old version
  rollout retry                                  try once more what was rolled back
  rollout events [-f]                            list what has happened, and with -f what happens
  rollout stop                                   stop the deployer; the next deploy goes on where it was

"rollout COMMAND -h" shows the flags of a command. All take -state DIR, the
directory of the deployer that is meant, for when there are several. With -at v2:6
pause, resume, promote, abort and retry are refused if it is not version v2, in
step 6, that is rolled out when they come.

exit status: 0 done; 1 something failed, was refused, or was rolled back;
2 bad command line or configuration; 130 stopped at once
`

// The exit statuses.
const (
	exitOK      = 0
	exitFailed  = 1
	exitUsage   = 2
	exitStopped = 130
)

// answerTime bounds the commands that only ask for something.
const answerTime = 10 * time.Second

// errUsage marks errors of the command line and the configuration.
var errUsage = errors.New("usage")

func main() {
	err := run(os.Args[1:])
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		os.Exit(exitOK)
	case errors.Is(err, errKilled):
		os.Exit(exitStopped)
	}
	fmt.Fprintln(os.Stderr, "rollout:", strings.TrimPrefix(err.Error(), errUsage.Error()+": "))
	if errors.Is(err, errUsage) {
		os.Exit(exitUsage)
	}
	os.Exit(exitFailed)
}

func run(args []string) error {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return fmt.Errorf("%w: name a command, for instance deploy", errUsage)
	}
	name, rest := args[0], args[1:]
	switch name {
	case "deploy":
		return deployCommand(rest)
	case "submit":
		return submitCommand(rest)
	case "status", "why":
		return statusCommand(name, rest)
	case "events":
		return eventsCommand(rest)
	case "pause", "abort":
		return command(name, rest, 1)
	case "resume", "promote", "retry":
		return command(name, rest, 0)
	case "stop":
		return stopCommand(rest)
	case "help", "-h", "-help", "--help":
		fmt.Print(usage)
		return nil
	}
	return fmt.Errorf("%w: unknown command %q; there are deploy, submit, status, why, pause, resume, promote, abort, retry, events and stop", errUsage, name)
}

// newFlags returns the flags of a command, with -state.
func newFlags(name string) (flags *flag.FlagSet, state *string) {
	flags = flag.NewFlagSet(name, flag.ContinueOnError)
	return flags, flags.String("state", defaultState(), "the `directory` that has the state of the rollouts, and the deployer's socket")
}

// defaultState returns the usual state directory of the user.
func defaultState() string {
	dir := os.Getenv("XDG_STATE_HOME")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			home = os.TempDir()
		}
		dir = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(dir, "weaverkit-rollout")
}

// planFlags adds the flags that say how to roll out.
func planFlags(flags *flag.FlagSet, s *planSpec) {
	flags.StringVar(&s.Name, "plan", "canary", "how to roll out: `plan` canary, bluegreen, linear, all, a duration such as 5m, or a file with a plan as JSON (plan.json)")
	flags.DurationVar(&s.Bake, "bake", 10*time.Second, "how long to watch after each change of weights")
	flags.DurationVar(&s.Drain, "drain", 10*time.Second, "how long requests in flight may take when the version is stopped")
	flags.BoolVar(&s.Sticky, "sticky", false, "keep a session on one version, by a cookie")
}

// parse parses flags and refuses more than most arguments, or fewer than least.
func parse(flags *flag.FlagSet, args []string, least, most int, what string) error {
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Printf("usage: rollout %s [flags] %s\n", flags.Name(), what)
		flags.SetOutput(os.Stdout)
		flags.PrintDefaults()
		return err
	case err != nil:
		return fmt.Errorf("%w: rollout %s: %v", errUsage, flags.Name(), err)
	}
	if flags.NArg() < least || flags.NArg() > most {
		return fmt.Errorf("%w: usage: rollout %s [flags] %s", errUsage, flags.Name(), what)
	}
	return nil
}

func deployCommand(args []string) error {
	var c config
	flags, state := newFlags("deploy")
	flags.BoolVar(&c.fresh, "fresh", false, "forget the versions and rollouts that the state directory has, and begin with v1")
	flags.StringVar(&c.log, "log", "", "append the log entries of all versions to a `file`")
	flags.IntVar(&c.rate, "load", 0, "send `N` requests a second to the first listener")
	flags.StringVar(&c.path, "path", "", "the path that -load asks for; %d is the number of the request")
	planFlags(flags, &c.plan)
	if err := parse(flags, args, 0, 1, "[weaver.toml | binary]"); err != nil {
		return err
	}
	c.file, c.state = flags.Arg(0), *state
	if c.rate < 0 || c.rate > 100_000 {
		return fmt.Errorf("%w: -load must be between 0 and 100000, not %d", errUsage, c.rate)
	}
	if c.path == "" && c.file == "" {
		c.path = "/api/visit?user=u%d"
	}
	if !strings.HasPrefix(c.path, "/") {
		c.path = "/" + c.path
	}
	if err := c.plan.check(); err != nil {
		return err
	}
	return deploy(c)
}

func submitCommand(args []string) error {
	var s submission
	flags, state := newFlags("submit")
	planFlags(flags, &s.Plan)
	flags.Float64Var(&s.Errors, "errors", 0, "let this `percentage` of the sample's requests fail")
	wait := flags.Bool("wait", false, "wait until the rollout has ended; the exit status is 1 if it was rolled back")
	if err := parse(flags, args, 1, 2, "VERSION [weaver.toml | binary]"); err != nil {
		return err
	}
	if err := s.Plan.check(); err != nil {
		return err
	}
	s.Version = flags.Arg(0)
	if flags.NArg() == 2 {
		file, err := filepath.Abs(flags.Arg(1))
		if err != nil {
			return fmt.Errorf("%w: %w", errUsage, err)
		}
		s.File = file
	}
	c, err := connect(*state)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := c.submit(ctx, s); err != nil || !*wait {
		return err
	}
	paused := ""
	for {
		st, err := c.status(ctx)
		if err != nil {
			return err
		}
		state := st.Rollout.State
		switch {
		case state.Phase == rollout.Paused && state.Reason != paused:
			paused = state.Reason
			fmt.Fprintf(os.Stderr, "version %s is paused, and waited for: %s\n", state.Plan.Version, paused)
		case state.Plan == nil || state.Plan.Version != s.Version:
			if state.Next == nil || state.Next.Version != s.Version {
				return fmt.Errorf("version %s was superseded", s.Version)
			}
		case state.Phase == rollout.Succeeded:
			return nil
		case state.Phase == rollout.RolledBack:
			return fmt.Errorf("version %s was rolled back: %s", s.Version, state.Reason)
		}
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *client) submit(ctx context.Context, s submission) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	return c.command(ctx, "submit", nil, s)
}

func statusCommand(name string, args []string) error {
	flags, state := newFlags(name)
	if err := parse(flags, args, 0, 0, ""); err != nil {
		return err
	}
	c, err := connect(*state)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	st, err := c.status(ctx)
	if err != nil {
		return err
	}
	if name == "why" {
		fmt.Print(st.Rollout.Why)
	} else {
		fmt.Print(view(st))
	}
	return nil
}

// command sends a command, with a reason if it takes an argument. It is about what
// the flag says, or what is there now: nothing is done to what comes in between.
func command(name string, args []string, most int) error {
	flags, state := newFlags(name)
	var at rollout.At
	flags.Func("at", "do it only if this `VERSION` is rolled out, or VERSION:STEP, as rollout status shows; else about what is rolled out now", func(text string) (err error) {
		at, err = parseAt(text)
		return err
	})
	if err := parse(flags, args, 0, most, strings.Repeat("[REASON]", most)); err != nil {
		return err
	}
	c, err := connect(*state)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	if at == (rollout.At{}) {
		st, err := c.status(ctx)
		if err != nil {
			return err
		}
		s := st.Rollout.State
		at = seen{s.At(), s.Phase == rollout.Paused}.where()
	}
	text, err := json.Marshal(at)
	if err != nil {
		return err
	}
	return c.command(ctx, name, url.Values{"reason": {flags.Arg(0)}, "at": {string(text)}}, nil)
}

// parseAt reads VERSION or VERSION:STEP.
func parseAt(text string) (at rollout.At, err error) {
	version, step, found := strings.Cut(text, ":")
	at.Version = version
	if found {
		at.Step, err = strconv.Atoi(step)
	}
	if err != nil || version == "" || found && at.Step < 1 {
		return at, errors.New("write VERSION, or VERSION:STEP, such as v2:6")
	}
	return at, nil
}

func eventsCommand(args []string) error {
	flags, state := newFlags("events")
	follow := flags.Bool("f", false, "go on with events as they come")
	if err := parse(flags, args, 0, 0, ""); err != nil {
		return err
	}
	c, err := connect(*state)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if !*follow {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, answerTime)
		defer cancel()
	}
	err = c.events(ctx, 0, *follow, func(e rollout.Event) bool {
		fmt.Printf("%4d %s %v\n", e.Seq, e.Time.Local().Format("15:04:05.000"), e)
		return true
	})
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil
	}
	return err
}

func stopCommand(args []string) error {
	flags, state := newFlags("stop")
	if err := parse(flags, args, 0, 0, ""); err != nil {
		return err
	}
	c, err := connect(*state)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := c.command(ctx, "stop", nil, nil); err != nil {
		return err
	}
	// The store is closed last.
	for {
		if _, err := connect(*state); err != nil {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("the deployer was asked to stop, but has not ended: %w", ctx.Err())
		}
	}
}
