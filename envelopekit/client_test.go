package envelopekit_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/deployers"
	"github.com/ServiceWeaver/weaver/runtime/envelope"
	"github.com/ServiceWeaver/weaver/runtime/protos"
	"go.opentelemetry.io/otel/trace"

	"github.com/weaverkit/weaverkit/envelopekit"
)

const deployerControl = "github.com/ServiceWeaver/weaver/deployerControl"

// An answering answers some of the calls; the others panic.
type answering struct {
	envelope.EnvelopeHandler
	activate func(context.Context, *protos.ActivateComponentRequest) (*protos.ActivateComponentReply, error)
	log      func(context.Context, *protos.LogEntryBatch) error
}

func (d *answering) ActivateComponent(ctx context.Context, req *protos.ActivateComponentRequest) (*protos.ActivateComponentReply, error) {
	return d.activate(ctx, req)
}

func (d *answering) LogBatch(ctx context.Context, b *protos.LogEntryBatch) error {
	return d.log(ctx, b)
}

// caller is what a stub of deployerControl has, as far as it is used here.
type caller interface {
	ActivateComponent(context.Context, *protos.ActivateComponentRequest) (*protos.ActivateComponentReply, error)
	LogBatch(context.Context, *protos.LogEntryBatch) error
}

// servers are this package's and upstream's, which the client must not tell
// apart.
var servers = map[string]func(context.Context, net.Listener, *answering) error{
	"own": func(ctx context.Context, l net.Listener, d *answering) error { return envelopekit.Serve(ctx, l, d) },
	"upstream": func(ctx context.Context, l net.Listener, d *answering) error {
		return deployers.ServeComponents(ctx, l, slog.New(slog.DiscardHandler), map[string]any{deployerControl: d})
	},
}

// connect returns a client of a server that answers with d.
func connect(t *testing.T, serve func(context.Context, net.Listener, *answering) error, d *answering) (caller, net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = serve(ctx, l, d) })
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	stub, read := envelopekit.Caller(conn)
	wg.Go(func() { _ = read() })
	t.Cleanup(func() {
		cancel()
		conn.Close()
		wg.Wait()
	})
	return stub.(caller), conn
}

func forEachServer(t *testing.T, f func(t *testing.T, serve func(context.Context, net.Listener, *answering) error)) {
	for name, serve := range servers {
		t.Run(name, func(t *testing.T) { f(t, serve) })
	}
}

func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(30 * time.Second):
		t.Fatal("nothing comes")
		panic("unreachable")
	}
}

func TestClientCalls(t *testing.T) {
	forEachServer(t, func(t *testing.T, serve func(context.Context, net.Listener, *answering) error) {
		var d answering
		d.activate = func(_ context.Context, req *protos.ActivateComponentRequest) (*protos.ActivateComponentReply, error) {
			if req.Routed {
				return nil, errors.New("no " + req.Component)
			}
			return &protos.ActivateComponentReply{}, nil
		}
		var got int
		d.log = func(_ context.Context, b *protos.LogEntryBatch) error {
			got = len(b.Entries[0].Msg)
			return nil
		}
		c, _ := connect(t, serve, &d)
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				if _, err := c.ActivateComponent(t.Context(), &protos.ActivateComponentRequest{Component: "a"}); err != nil {
					t.Error(err)
				}
				_, err := c.ActivateComponent(t.Context(), &protos.ActivateComponentRequest{Component: "b", Routed: true})
				if err == nil || !strings.Contains(err.Error(), "no b") {
					t.Errorf("error %v", err)
				}
			})
		}
		wg.Wait()
		big := &protos.LogEntryBatch{Entries: []*protos.LogEntry{{Msg: strings.Repeat("x", 20<<20)}}}
		if err := c.LogBatch(t.Context(), big); err != nil || got != 20<<20 {
			t.Errorf("a big entry: %d bytes, %v", got, err)
		}
	})
}

// TestClientContext checks that deadline, cancellation and span reach the other side.
func TestClientContext(t *testing.T) {
	forEachServer(t, func(t *testing.T, serve func(context.Context, net.Listener, *answering) error) {
		type seen struct {
			deadline bool
			trace    trace.TraceID
		}
		began, ended := make(chan seen, 1), make(chan error, 1)
		d := answering{activate: func(ctx context.Context, _ *protos.ActivateComponentRequest) (*protos.ActivateComponentReply, error) {
			_, ok := ctx.Deadline()
			began <- seen{ok, trace.SpanContextFromContext(ctx).TraceID()}
			<-ctx.Done()
			ended <- ctx.Err()
			return nil, ctx.Err()
		}}
		c, _ := connect(t, serve, &d)
		call := func(ctx context.Context) error {
			_, err := c.ActivateComponent(ctx, &protos.ActivateComponentRequest{Component: "a"})
			return err
		}

		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		if s := receive(t, began); !s.deadline {
			t.Error("the deadline was lost")
		}
		if err := receive(t, ended); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("over there: %v", err)
		}

		id := trace.TraceID{1, 2, 3}
		span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: trace.SpanID{4}}) // not sampled: upstream would print it
		ctx, cancel = context.WithCancel(trace.ContextWithSpanContext(t.Context(), span))
		result := make(chan error, 1)
		go func() { result <- call(ctx) }()
		if s := receive(t, began); s.deadline || s.trace != id {
			t.Errorf("over there: %+v", s)
		}
		cancel()
		if err := receive(t, result); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		if err := receive(t, ended); !errors.Is(err, context.Canceled) {
			t.Errorf("over there: %v", err)
		}
	})
}

// TestClientClosed ends the connection under a call.
func TestClientClosed(t *testing.T) {
	forEachServer(t, func(t *testing.T, serve func(context.Context, net.Listener, *answering) error) {
		began := make(chan struct{}, 1)
		d := answering{activate: func(ctx context.Context, _ *protos.ActivateComponentRequest) (*protos.ActivateComponentReply, error) {
			began <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		c, conn := connect(t, serve, &d)
		result := make(chan error, 1)
		call := func() error {
			_, err := c.ActivateComponent(t.Context(), &protos.ActivateComponentRequest{Component: "a"})
			return err
		}
		go func() { result <- call() }()
		receive(t, began)
		conn.Close()
		if err := receive(t, result); !errors.Is(err, envelopekit.ErrHangUp) {
			t.Errorf("error %v", err)
		}
		if err := call(); !errors.Is(err, envelopekit.ErrHangUp) {
			t.Errorf("the next call: %v", err)
		}
	})
}
