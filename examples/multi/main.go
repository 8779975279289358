// Command multi deploys a Service Weaver application on this machine, each
// group of components in processes of its own, and keeps it running.
//
//	multi deploy [flags] [weaver.toml]   # without a file: builds and deploys the sample shop
//	multi status | why GROUP | logs [-f] | scale GROUP N | stop
//
// It is an example to copy: this file is the command line, deploy.go the
// wiring of the kit, frontend.go the proxies, health.go what replaces the dead,
// screen.go what is shown.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/weaverkit/weaverkit/envelopekit/admin"
	"github.com/weaverkit/weaverkit/envelopekit/placement"
)

const usage = `multi deploys a Service Weaver application on this machine.

usage:
  multi deploy [flags] [weaver.toml]  deploy an application; without a file, the sample shop
  multi status                        show groups, replicas and listeners
  multi why GROUP                     explain what a group is waiting for
  multi logs [-f] [-n LINES]          show the newest log entries, and with -f those that come
  multi scale GROUP N                 set the number of replicas of a group
  multi stop                          stop the deployment

"multi COMMAND -h" shows the flags of a command. All but deploy take
-d DEPLOYMENT, the name of an application or the beginning of a deployment's
id, for when several are running.

exit status: 0 stopped as asked, or the application has finished;
1 something failed; 2 bad command line or configuration; 130 stopped at once
`

// The exit statuses.
const (
	exitOK      = 0
	exitFailed  = 1
	exitUsage   = 2
	exitStopped = 130
)

// errUsage marks errors of the command line and the configuration.
var errUsage = errors.New("usage")

func main() {
	err := run(os.Args[1:])
	switch {
	case err == nil:
		os.Exit(exitOK)
	case errors.Is(err, flag.ErrHelp):
		os.Exit(exitOK)
	case errors.Is(err, errKilled):
		os.Exit(exitStopped)
	}
	fmt.Fprintln(os.Stderr, "multi:", strings.TrimPrefix(err.Error(), errUsage.Error()+": "))
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
	commands := map[string]func([]string) error{
		"deploy": deployCommand,
		"status": statusCommand,
		"why":    whyCommand,
		"logs":   logsCommand,
		"scale":  scaleCommand,
		"stop":   stopCommand,
	}
	switch command, ok := commands[args[0]]; {
	case ok:
		return command(args[1:])
	case args[0] == "help" || args[0] == "-h" || args[0] == "-help" || args[0] == "--help":
		fmt.Print(usage)
		return nil
	default:
		return fmt.Errorf("%w: unknown command %q; there are deploy, status, why, logs, scale and stop", errUsage, args[0])
	}
}

// parse parses flags and refuses more than most arguments, or fewer than least.
func parse(flags *flag.FlagSet, args []string, least, most int, what string) error {
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Printf("usage: multi %s %s\n", flags.Name(), what)
		flags.SetOutput(os.Stdout)
		flags.PrintDefaults()
		return err
	case err != nil:
		return fmt.Errorf("%w: multi %s: %v", errUsage, flags.Name(), err)
	}
	if flags.NArg() < least || flags.NArg() > most {
		return fmt.Errorf("%w: usage: multi %s %s", errUsage, flags.Name(), what)
	}
	return nil
}

func deployCommand(args []string) error {
	var c config
	flags := flag.NewFlagSet("deploy", flag.ContinueOnError)
	flags.IntVar(&c.replicas, "replicas", 1, "how many replicas of every group: a `number`")
	policy := flags.String("placement", "colocated", "what shares a process: `policy` colocated (as the configuration says), component, together or callgraph")
	flags.BoolVar(&c.mtls, "mtls", false, "encrypt and authenticate calls between processes, whatever the configuration says")
	level := flags.String("log-level", "info", "the lowest `level` of the entries that are shown: debug, info, warn, error or off")
	if err := parse(flags, args, 0, 1, "[flags] [weaver.toml]"); err != nil {
		return err
	}
	c.file = flags.Arg(0)
	if c.replicas < 1 {
		return fmt.Errorf("%w: -replicas must be at least 1, not %d", errUsage, c.replicas)
	}
	policies := map[string]placement.Policy{
		"colocated": placement.Colocated,
		"component": placement.PerComponent,
		"together":  placement.Together,
		"callgraph": placement.ByCallGraph(placement.CallGraphOptions{}),
	}
	var ok bool
	if c.placement, ok = policies[*policy]; !ok {
		return fmt.Errorf("%w: -placement %q is unknown; there are colocated, component, together and callgraph", errUsage, *policy)
	}
	if *level == "off" {
		c.level = slog.LevelError + 1
	} else if err := c.level.UnmarshalText([]byte(*level)); err != nil {
		return fmt.Errorf("%w: -log-level %q is unknown; there are debug, info, warn, error and off", errUsage, *level)
	}
	return deploy(c)
}

// client parses the arguments of a command that talks to a running deployer,
// and finds that.
func client(ctx context.Context, flags *flag.FlagSet, args []string, n int, what string) (*admin.Client, error) {
	id := flags.String("d", "", "the `deployment`: an application's name, or the beginning of an id")
	if err := parse(flags, args, n, n, what); err != nil {
		return nil, err
	}
	return admin.Find(ctx, admin.Dir(deployerName), *id)
}

// answerTime bounds the commands that only ask for something.
const answerTime = 10 * time.Second

func statusCommand(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	c, err := client(ctx, flag.NewFlagSet("status", flag.ContinueOnError), args, 0, "[-d DEPLOYMENT]")
	if err != nil {
		return err
	}
	st, err := c.Status(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("%s, deployment %s, running for %v\n", st.App, st.Deployment, time.Since(st.Started).Round(time.Second))
	fmt.Print(summary(st))
	return nil
}

func whyCommand(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	flags := flag.NewFlagSet("why", flag.ContinueOnError)
	c, err := client(ctx, flags, args, 1, "[-d DEPLOYMENT] GROUP")
	if err != nil {
		return err
	}
	why, err := c.Why(ctx, flags.Arg(0))
	fmt.Print(why)
	return err
}

func logsCommand(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	flags := flag.NewFlagSet("logs", flag.ContinueOnError)
	follow := flags.Bool("f", false, "go on with entries as they come")
	tail := flags.Int("n", 100, "how many `lines` of the past to show")
	c, err := client(ctx, flags, args, 0, "[-d DEPLOYMENT] [-f] [-n LINES]")
	if err != nil {
		return err
	}
	if *tail < 0 {
		return fmt.Errorf("%w: -n must not be negative", errUsage)
	}
	return c.Logs(ctx, os.Stdout, *tail, *follow)
}

func scaleCommand(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	flags := flag.NewFlagSet("scale", flag.ContinueOnError)
	c, err := client(ctx, flags, args, 2, "[-d DEPLOYMENT] GROUP N")
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(flags.Arg(1))
	if err != nil {
		return fmt.Errorf("%w: multi scale: the number of replicas must be a number, not %q", errUsage, flags.Arg(1))
	}
	return c.Scale(ctx, flags.Arg(0), n)
}

func stopCommand(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := client(ctx, flag.NewFlagSet("stop", flag.ContinueOnError), args, 0, "[-d DEPLOYMENT]")
	if err != nil {
		return err
	}
	if err := c.Stop(ctx); err != nil {
		return err
	}
	for _, err := range c.Events(ctx, 0) { // they end with the deployment
		if err != nil {
			break
		}
	}
	return ctx.Err()
}
