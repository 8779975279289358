package envelopekit

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ServiceWeaver/weaver/runtime/envelope"
	"github.com/ServiceWeaver/weaver/runtime/protos"

	"github.com/weaverkit/weaverkit/envelopekit/placement"
)

// A Launcher starts weavelets, on this machine or on another.
//
// Launch may be called from several goroutines. It returns once the weavelet
// has initialized and says at which address others reach it, or has failed, or
// ctx has ended; in the last two cases nothing is left running. Ending ctx
// later does not end the weavelet.
//
// What the weavelet asks of its deployer is answered by h, from the moment the
// weavelet starts, possibly before Launch returns, and from several goroutines.
// What it prints goes to h.LogBatch too, a line an entry.
//
// Package envelopetest has a conformance suite for launchers.
type Launcher interface {
	Launch(ctx context.Context, spec Spec, h envelope.EnvelopeHandler) (Weavelet, error)
}

// A Spec says what a Launcher is to start.
type Spec struct {
	// Config is the application: binary, arguments, environment, sections.
	Config *protos.AppConfig

	// Args are what the weavelet is told about itself. The launcher fills in
	// ControlSocket and Redirects, and does not modify the message it is given.
	Args *protos.WeaveletArgs

	// Group and Replica say what the weavelet is for. Replica numbers are
	// unique in a group and not used again.
	Group   string
	Replica int

	// Resources the replica asks for. A launcher may ignore them.
	Resources placement.Resources
}

// A Weavelet is a handle on a running weavelet. Its methods may be called from
// several goroutines. All that take a context return soon after it ends, also
// when the weavelet hangs, and soon after the weavelet has ended.
type Weavelet interface {
	// Address at which other weavelets reach it, "tcp://host:port" or
	// "mtls://tcp://host:port".
	Address() string

	// Pid is its process id on its host, if it is a process.
	Pid() (pid int, ok bool)

	// UpdateComponents tells it which components to host. The set only grows:
	// leaving one out does not stop it.
	UpdateComponents(ctx context.Context, components []string) error

	// UpdateRouting tells it where the replicas of a component are.
	UpdateRouting(ctx context.Context, routing *protos.RoutingInfo) error

	// Health asks which components have initialized.
	Health(ctx context.Context) (*protos.GetHealthReply, error)

	// Load returns the load since the last call of Load. There should be one
	// caller.
	Load(ctx context.Context) (*protos.LoadReport, error)

	// Metrics returns what has changed since the last call of Metrics. There
	// should be one caller, which must not lose an update: see
	// [Deployment.Metrics].
	Metrics(ctx context.Context) (*protos.MetricUpdate, error)

	// Profile takes a profile, which for a CPU profile lasts as long as the
	// request says.
	Profile(ctx context.Context, req *protos.GetProfileRequest) ([]byte, error)

	// Stop asks the weavelet to end (SIGTERM to a process) and, if it has not
	// ended when ctx does, ends it by force. With a ctx that has already ended
	// it is ended by force at once. Stop returns when the weavelet has ended;
	// the error is about stopping, not about how the weavelet ended.
	Stop(ctx context.Context) error

	// Done is closed when the weavelet has ended.
	Done() <-chan struct{}

	// Err says, after Done is closed, how it ended: nil for exit status 0, or
	// an error, which is an *[ExitError] for a process. It waits for the rest
	// of the output, for a second at most.
	Err() error
}

// ErrEnded is the error of a call to a weavelet that has ended.
var ErrEnded = errors.New("the weavelet has ended")

// ErrUnanswered is the error of a call that was not made because the weavelet
// has left too many others unanswered.
var ErrUnanswered = errors.New("the weavelet does not answer")

// An ExitError says how a weavelet's process ended, and what it printed last.
type ExitError struct {
	Pid    int
	Status int      // exit status; -1 if a signal ended it
	Signal string   // name of the signal that ended it, else ""
	Killed bool     // the signal was SIGKILL or SIGTERM: somebody's wish, not a crash
	Output []string // the last lines it printed, oldest first
}

// Error returns the status in one line, without the output.
func (e *ExitError) Error() string {
	if e.Signal != "" {
		return fmt.Sprintf("process %d was ended by a signal: %s", e.Pid, e.Signal)
	}
	return fmt.Sprintf("process %d exited with status %d", e.Pid, e.Status)
}

// Detail returns the status, followed by the last output, indented.
func (e *ExitError) Detail() string {
	if len(e.Output) == 0 {
		return e.Error() + " and printed nothing"
	}
	return e.Error() + "; its last output:\n    " + strings.Join(e.Output, "\n    ")
}
