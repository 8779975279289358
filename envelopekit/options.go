package envelopekit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/envelope"
	"github.com/ServiceWeaver/weaver/runtime/protos"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/weaverkit/weaverkit/envelopekit/placement"
)

// A Placement decides which components live together, how many replicas of
// each group there are, and what they ask of their hosts. It is called once,
// by [New]. A [placement.Policy] is one.
type Placement interface {
	Place(placement.Input) (placement.Plan, error)
}

// A Frontend is where clients reach a listener of the application: typically a
// proxy in front of the replicas that serve it.
//
// A Frontend may also have a method Drained(ctx, address) error that returns
// when no request is in flight to a backend that was removed, or ctx ends. A
// replica that is drained then waits for it.
type Frontend interface {
	// Addr is the address that clients use, as the application is told it.
	Addr() string

	// SetBackends sets the addresses to which requests go. It is always the
	// whole set, sorted, and possibly empty. After it has returned no new
	// request goes to an address that is not in the set. Calls do not overlap.
	SetBackends(addresses []string)

	// Close stops accepting requests, waits until those in flight have ended
	// or ctx has, and closes all connections.
	Close(ctx context.Context) error
}

// Options configure a [Deployment]. The zero value is good for use: each
// component as the configuration colocates it, one replica of each group, as
// processes of this machine, without mTLS, reached at the weavelets' own
// addresses.
type Options struct {
	// ID of the deployment, which weavelets see as their version. Empty means
	// a new UUID.
	ID string

	// Placement makes the plan. Nil means [placement.Colocated].
	Placement Placement

	// Replicas is the replica count of groups that ReplicasOf does not name,
	// by group or component. Zero means 1. ResourcesOf names resources alike.
	Replicas    int
	ReplicasOf  map[string]int
	ResourcesOf map[string]placement.Resources

	// CallCounts are calls between components, as [CallCounts] finds them in
	// the metrics of an earlier deployment; for placements that use them.
	CallCounts map[placement.Edge]float64

	// Launcher starts weavelets. Nil means a new [ProcessLauncher].
	Launcher Launcher

	// Assigner makes the assignments of routed components. Nil means
	// [EqualSplit].
	Assigner Assigner

	// Members, if not nil, is told the replicas of a routed component, by
	// address, sorted, when they change; and then there is no Assigner: the
	// assignments are those that [Deployment.PublishAssignment] is given, and
	// callers of a component wait for its first one. This is for load-driven
	// controllers such as package routing's. It is not called concurrently for
	// one component, but concurrently for several.
	Members func(component string, replicas []string)

	// Export opens the frontend of a listener, once for each listener of the
	// binary, when Run begins; an error fails Run. Nil exports nothing: clients
	// use the addresses of the weavelets, which [Status] lists.
	Export func(ctx context.Context, listener string) (Frontend, error)

	// ListenOn returns the address on which weavelets open a listener. It may
	// be called concurrently. Nil means a free port of the loopback interface.
	ListenOn func(listener string) (string, error)

	// InternalAddress is where weavelets listen for each other. It must be
	// reachable for all of them. Empty means a free port of the loopback
	// interface.
	InternalAddress string

	// Identity switches mTLS between weavelets on. Nil means off.
	Identity Identity

	// Log is called with every log entry and line of output of the weavelets,
	// one at a time. Up to 16,384 entries, or 16 MiB of messages, wait for it;
	// then new ones are dropped and counted. It may keep the entry. Run waits
	// for it to return. Nil discards entries.
	Log func(*protos.LogEntry)

	// Spans gets the weavelets' trace spans, one batch at a time. Up to 16,384
	// spans wait for it; then new batches are dropped and counted. Its context
	// ends after ten seconds, and one second after the end of the deployment.
	// The deployment does not shut it down. Nil discards spans.
	Spans sdktrace.SpanExporter

	// WrapHandler, if not nil, is called for each weavelet before it starts
	// and returns what answers it, usually something that embeds h. It may be
	// called concurrently.
	WrapHandler func(h *Handler) envelope.EnvelopeHandler

	// Restart says when replicas that failed are started again.
	Restart Restart

	// Liveness says when a weavelet counts as hung.
	Liveness Liveness

	// StartTimeout is how long a weavelet may take to initialize, not counting
	// the Init methods of its components, which may take as long as they like.
	// Zero means 30 s.
	StartTimeout time.Duration

	// DrainDelay is how long a replica that is scaled away or replaced goes on
	// after its callers were told, for the calls that are under way. Zero
	// means 1 s.
	DrainDelay time.Duration

	// StopGrace is how long a weavelet may take to end after SIGTERM, before
	// it is killed; and how long requests that are in flight at a frontend may
	// take when the frontend is closed or a replica drained. Zero means 10 s.
	StopGrace time.Duration

	// StopTimeout bounds a stop that nobody else bounds: when Run's context has
	// ended, the application has, or it has failed. Zero means 20 s.
	StopTimeout time.Duration

	// Prestart starts the processes of all groups at once, instead of each
	// when one of its components is first used. Their components still
	// initialize on first use. Applications with many components come up
	// faster.
	Prestart bool

	// MaxStarting is how many weavelets start at the same time; one that takes
	// longer than two seconds does not count. Zero means four for each
	// processor.
	MaxStarting int

	// MaxReplicas is the most replicas a group can be scaled to. Zero means
	// 1000.
	MaxReplicas int

	// EventLimit is how many events are kept for readers. Zero means 4096.
	EventLimit int
}

// Liveness says when a weavelet counts as hung. It is asked again and again for
// its health, and every fifth time to take over routing that it need not act
// upon: a weavelet whose log is stuck claims to be healthy, but cannot do that. A
// question that remains unanswered does not count if the deployer itself was
// held up.
//
// It judges each weavelet by itself. A deployer that watches its weavelets in
// another way, and knows more, such as that most of them are silent at once, calls
// [Deployment.Restart] itself, and sets Failures so high that this is the last
// resort: 20 are about a minute.
type Liveness struct {
	// Period between questions, which is lengthened by up to a twentieth so
	// that many weavelets are asked together. Zero means 2 s.
	Period time.Duration

	// Timeout of a question, and of every other call to a weavelet. Zero means
	// 2 s.
	Timeout time.Duration

	// Failures is how many questions or calls in a row must remain unanswered.
	// Zero means 3.
	Failures int
}

const (
	logQueue  = 16384    // entries
	logBytes  = 16 << 20 // of their messages
	spanQueue = 16384    // spans
)

func (o Options) withDefaults() (Options, error) {
	for _, f := range []struct {
		name string
		bad  bool
	}{
		{"Replicas", o.Replicas < 0},
		{"StartTimeout", o.StartTimeout < 0},
		{"DrainDelay", o.DrainDelay < 0},
		{"StopGrace", o.StopGrace < 0},
		{"StopTimeout", o.StopTimeout < 0},
		{"MaxStarting", o.MaxStarting < 0},
		{"MaxReplicas", o.MaxReplicas < 0},
		{"EventLimit", o.EventLimit < 0},
		{"Liveness.Period", o.Liveness.Period < 0},
		{"Liveness.Timeout", o.Liveness.Timeout < 0},
		{"Liveness.Failures", o.Liveness.Failures < 0},
	} {
		if f.bad {
			return o, fmt.Errorf("negative Options.%s", f.name)
		}
	}
	if err := o.Restart.validate(); err != nil {
		return o, err
	}
	if o.Placement == nil {
		o.Placement = placement.Policy(placement.Colocated)
	}
	if o.Launcher == nil {
		o.Launcher = &ProcessLauncher{}
	}
	if o.Assigner != nil && o.Members != nil {
		return o, errors.New("both Options.Assigner and Options.Members are set: choose who makes assignments")
	}
	if o.Assigner == nil {
		o.Assigner = AssignerFunc(EqualSplit)
	}
	o.InternalAddress = cmp.Or(o.InternalAddress, loopback)
	o.Restart = o.Restart.withDefaults()
	o.Liveness.Period = cmp.Or(o.Liveness.Period, 2*time.Second)
	o.Liveness.Timeout = cmp.Or(o.Liveness.Timeout, 2*time.Second)
	o.Liveness.Failures = cmp.Or(o.Liveness.Failures, 3)
	o.StartTimeout = cmp.Or(o.StartTimeout, 30*time.Second)
	o.DrainDelay = cmp.Or(o.DrainDelay, time.Second)
	o.StopGrace = cmp.Or(o.StopGrace, 10*time.Second)
	o.StopTimeout = cmp.Or(o.StopTimeout, 20*time.Second)
	o.MaxStarting = cmp.Or(o.MaxStarting, 4*runtime.GOMAXPROCS(0))
	o.MaxReplicas = cmp.Or(o.MaxReplicas, 1000)
	o.EventLimit = cmp.Or(o.EventLimit, 4096)
	return o, nil
}
