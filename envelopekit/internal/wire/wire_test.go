package wire_test

import (
	"bytes"
	"context"
	"errors"
	"io"
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

	"github.com/weaverkit/weaverkit/envelopekit/internal/wire"
)

const deployerControl = "github.com/ServiceWeaver/weaver/deployerControl"

// A deployer answers some of the calls; the others panic.
type deployer struct {
	envelope.EnvelopeHandler
	activate func(context.Context, *protos.ActivateComponentRequest) (*protos.ActivateComponentReply, error)
	log      func(context.Context, *protos.LogEntryBatch) error
}

func (d *deployer) ActivateComponent(ctx context.Context, req *protos.ActivateComponentRequest) (*protos.ActivateComponentReply, error) {
	return d.activate(ctx, req)
}

func (d *deployer) LogBatch(ctx context.Context, b *protos.LogEntryBatch) error { return d.log(ctx, b) }

// caller is what a stub of deployerControl has, as far as it is used here.
type caller interface {
	ActivateComponent(context.Context, *protos.ActivateComponentRequest) (*protos.ActivateComponentReply, error)
	LogBatch(context.Context, *protos.LogEntryBatch) error
}

// servers are this package's and upstream's, which must not differ.
var servers = map[string]func(context.Context, net.Listener, *deployer) error{
	"own": func(ctx context.Context, l net.Listener, d *deployer) error {
		s, err := wire.NewServer(deployerControl, d)
		if err != nil {
			return err
		}
		return s.Serve(ctx, l)
	},
	"upstream": func(ctx context.Context, l net.Listener, d *deployer) error {
		return deployers.ServeComponents(ctx, l, slog.New(slog.DiscardHandler), map[string]any{deployerControl: d})
	},
}

// connect returns a client of a server that answers with d.
func connect(t *testing.T, serve func(context.Context, net.Listener, *deployer) error, d *deployer) (caller, net.Conn) {
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
	client := wire.NewClient(conn)
	wg.Go(func() { _ = client.Run() })
	t.Cleanup(func() {
		cancel()
		conn.Close()
		wg.Wait()
	})
	stub, err := client.Component(deployerControl)
	if err != nil {
		t.Fatal(err)
	}
	return stub.(caller), conn
}

func forEachServer(t *testing.T, f func(t *testing.T, serve func(context.Context, net.Listener, *deployer) error)) {
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

func TestCalls(t *testing.T) {
	forEachServer(t, func(t *testing.T, serve func(context.Context, net.Listener, *deployer) error) {
		var d deployer
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

// TestContext checks that deadline, cancellation and span reach the other side.
func TestContext(t *testing.T) {
	forEachServer(t, func(t *testing.T, serve func(context.Context, net.Listener, *deployer) error) {
		type seen struct {
			deadline bool
			trace    trace.TraceID
		}
		began, ended := make(chan seen, 1), make(chan error, 1)
		d := deployer{activate: func(ctx context.Context, _ *protos.ActivateComponentRequest) (*protos.ActivateComponentReply, error) {
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
		span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: trace.SpanID{4}, TraceFlags: trace.FlagsSampled})
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

// TestClosed ends the connection under a call.
func TestClosed(t *testing.T) {
	forEachServer(t, func(t *testing.T, serve func(context.Context, net.Listener, *deployer) error) {
		began := make(chan struct{}, 1)
		d := deployer{activate: func(ctx context.Context, _ *protos.ActivateComponentRequest) (*protos.ActivateComponentReply, error) {
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
		if err := receive(t, result); !errors.Is(err, wire.ErrClosed) {
			t.Errorf("error %v", err)
		}
		if err := call(); !errors.Is(err, wire.ErrClosed) {
			t.Errorf("the next call: %v", err)
		}
	})
}

// FuzzServer sends garbage after a handshake and instead of one. The server
// must hang up or answer, and go on serving others.
func FuzzServer(f *testing.F) {
	version := []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	f.Add(version)
	f.Add([]byte{})
	f.Add(append(bytes.Clone(version), 1, 0, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255))
	f.Add(append(bytes.Clone(version), 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 255))
	f.Add(append(bytes.Clone(version), append([]byte{1, 0, 0, 0, 0, 0, 0, 0, 1, 30, 0, 0, 0, 0, 0, 0, 26, 0, 0, 0}, make([]byte, 26)...)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := wire.NewServer(deployerControl, &deployer{activate: func(context.Context, *protos.ActivateComponentRequest) (*protos.ActivateComponentReply, error) {
			return &protos.ActivateComponentReply{}, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		here, there := net.Pipe()
		l := &oneConn{conn: there, closed: make(chan struct{})}
		served := make(chan error, 1)
		go func() { served <- s.Serve(context.Background(), l) }()
		go func() {
			_, _ = here.Write(b)
			here.Close()
		}()
		_, _ = io.Copy(io.Discard, here)
		l.Close()
		select {
		case <-served:
		case <-time.After(10 * time.Second):
			t.Fatal("Serve does not return")
		}
	})
}

// A oneConn is a listener that has one connection to accept.
type oneConn struct {
	conn   net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if conn := l.conn; conn != nil {
		l.conn = nil
		return conn, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *oneConn) Addr() net.Addr { return &net.UnixAddr{} }
