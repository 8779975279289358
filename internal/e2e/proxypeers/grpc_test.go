package proxypeers_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weaverkit/weaverkit/proxy"
)

// The service under test, without generated code: its messages are wrapped
// bytes and numbers.
var (
	uploadDesc = grpc.StreamDesc{StreamName: "Upload", ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
		var total int64
		for {
			var m wrapperspb.BytesValue
			switch err := s.RecvMsg(&m); {
			case errors.Is(err, io.EOF):
				return s.SendMsg(wrapperspb.Int64(total))
			case err != nil:
				return err
			}
			total += int64(len(m.Value))
		}
	}}
	countDesc = grpc.StreamDesc{StreamName: "Count", ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
		var n wrapperspb.Int64Value
		if err := s.RecvMsg(&n); err != nil {
			return err
		}
		s.SetTrailer(metadata.Pairs("counted", fmt.Sprint(n.Value)))
		for i := range n.Value {
			if err := s.SendMsg(wrapperspb.Int64(i)); err != nil {
				return err
			}
		}
		return nil
	}}
	echoDesc = grpc.StreamDesc{StreamName: "Echo", ClientStreams: true, ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
		if err := s.SendHeader(metadata.Pairs("hello", "there")); err != nil {
			return err
		}
		for {
			var m wrapperspb.BytesValue
			switch err := s.RecvMsg(&m); {
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				return err
			}
			if err := s.SendMsg(&m); err != nil {
				return err
			}
		}
	}}
)

// A grpcServer is the backend.
type grpcServer struct {
	canceled chan struct{} // gets one when Wait is
}

func (g *grpcServer) start(t *testing.T) string {
	unary := func(name string, f func(ctx context.Context, m *wrapperspb.BytesValue) (any, error)) grpc.MethodDesc {
		return grpc.MethodDesc{MethodName: name, Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			m := new(wrapperspb.BytesValue)
			if err := decode(m); err != nil {
				return nil, err
			}
			return f(ctx, m)
		}}
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(16 << 20))
	s.RegisterService(&grpc.ServiceDesc{ServiceName: "test.Test", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{
		unary("Same", func(ctx context.Context, m *wrapperspb.BytesValue) (any, error) {
			md, _ := metadata.FromIncomingContext(ctx)
			err := grpc.SetHeader(ctx, metadata.Pairs("seen", strings.Join(md.Get("ask"), ","), "seen-bin", strings.Join(md.Get("ask-bin"), ",")))
			_ = grpc.SetTrailer(ctx, metadata.Pairs("after", "all")) // the client misses it
			return m, err
		}),
		unary("Fail", func(context.Context, *wrapperspb.BytesValue) (any, error) {
			s, err := status.New(codes.FailedPrecondition, "no: \n and % and é").WithDetails(&errdetails.ErrorInfo{Reason: "because"})
			if err != nil {
				return nil, err
			}
			return nil, s.Err()
		}),
		unary("Wait", func(ctx context.Context, _ *wrapperspb.BytesValue) (any, error) {
			<-ctx.Done()
			g.canceled <- struct{}{}
			return nil, ctx.Err()
		}),
	}, Streams: []grpc.StreamDesc{uploadDesc, countDesc, echoDesc}}, nil)
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	l := listen(t)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		require.NoError(t, <-done)
	})
	return l.Addr().String()
}

func TestGRPC(t *testing.T) {
	g := &grpcServer{canceled: make(chan struct{}, 10)}
	// Two backends are two addresses of streams, and one connection each.
	for _, protocol := range []proxy.Protocol{proxy.Auto, proxy.H2C} {
		f := serve(t, proxy.Options{BackendProtocol: protocol}, g.start(t), g.start(t))
		for name, dial := range map[string]func() (*grpc.ClientConn, error){
			"h2c": func() (*grpc.ClientConn, error) {
				return grpc.NewClient("passthrough:///"+f.plain, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
			},
			"TLS": func() (*grpc.ClientConn, error) {
				return grpc.NewClient("passthrough:///"+f.tls, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: "127.0.0.1"})), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
			},
		} {
			t.Run(fmt.Sprintf("%s/protocol=%d", name, protocol), func(t *testing.T) {
				conn, err := dial()
				require.NoError(t, err)
				defer conn.Close()
				testGRPC(t, g, conn)
				require.Eventually(t, func() bool {
					for _, b := range f.Status().Pools[0].Backends {
						if b.InFlight != 0 {
							return false
						}
					}
					return true
				}, patience, 5*time.Millisecond, "requests are left")
				counts := f.Status().Pools[0].Counts
				require.Zero(t, counts.Errors[proxy.Broken]+counts.Errors[proxy.TimedOut]+counts.Errors[proxy.BadResponse], "a deadline is not the backend's failure: %v", counts.Errors)
			})
		}
	}
}

func testGRPC(t *testing.T, g *grpcServer, conn *grpc.ClientConn) {
	ctx := within(t, 3*patience)
	big := wrapperspb.Bytes(make([]byte, 3<<20))
	for i := range big.Value {
		big.Value[i] = byte(i * 3)
	}

	t.Run("health", func(t *testing.T) {
		r, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		require.NoError(t, err)
		require.Equal(t, grpc_health_v1.HealthCheckResponse_SERVING, r.Status)
	})
	t.Run("unary, metadata", func(t *testing.T) {
		var header, trailer metadata.MD
		var got wrapperspb.BytesValue
		err := conn.Invoke(metadata.AppendToOutgoingContext(ctx, "ask", "a", "ask", "b", "ask-bin", "\x00\xff"), "/test.Test/Same", wrapperspb.Bytes([]byte("hallo")), &got, grpc.Header(&header), grpc.Trailer(&trailer))
		require.NoError(t, err)
		require.Equal(t, "hallo", string(got.Value))
		require.Equal(t, []string{"a,b"}, header.Get("seen"))
		require.Equal(t, []string{"\x00\xff"}, header.Get("seen-bin"))
		require.Equal(t, []string{"all"}, trailer.Get("after"))
	})
	t.Run("unary, big", func(t *testing.T) {
		var got wrapperspb.BytesValue
		require.NoError(t, conn.Invoke(ctx, "/test.Test/Same", big, &got))
		require.Equal(t, string(big.Value), string(got.Value))
	})
	t.Run("status and details", func(t *testing.T) {
		err := conn.Invoke(ctx, "/test.Test/Fail", wrapperspb.Bytes(nil), new(wrapperspb.BytesValue))
		s := status.Convert(err)
		require.Equal(t, codes.FailedPrecondition, s.Code(), "%v", err)
		require.Equal(t, "no: \n and % and é", s.Message())
		require.Len(t, s.Details(), 1)
		require.Equal(t, "because", s.Details()[0].(*errdetails.ErrorInfo).Reason)
	})
	t.Run("no such method", func(t *testing.T) {
		err := conn.Invoke(ctx, "/test.Test/None", wrapperspb.Bytes(nil), new(wrapperspb.BytesValue))
		require.Equal(t, codes.Unimplemented, status.Code(err), "%v", err)
	})
	t.Run("deadline", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		err := conn.Invoke(ctx, "/test.Test/Wait", wrapperspb.Bytes(nil), new(wrapperspb.BytesValue))
		require.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)
		await(t, g.canceled)
	})
	t.Run("cancel", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(100*time.Millisecond, cancel)
		err := conn.Invoke(ctx, "/test.Test/Wait", wrapperspb.Bytes(nil), new(wrapperspb.BytesValue))
		require.Equal(t, codes.Canceled, status.Code(err))
		await(t, g.canceled)
	})
	t.Run("client streams", func(t *testing.T) {
		s, err := conn.NewStream(ctx, &uploadDesc, "/test.Test/Upload")
		require.NoError(t, err)
		for range 20 {
			require.NoError(t, s.SendMsg(big))
		}
		require.NoError(t, s.CloseSend())
		var total wrapperspb.Int64Value
		require.NoError(t, s.RecvMsg(&total))
		require.Equal(t, int64(20*len(big.Value)), total.Value)
	})
	t.Run("server streams", func(t *testing.T) {
		s, err := conn.NewStream(ctx, &countDesc, "/test.Test/Count")
		require.NoError(t, err)
		require.NoError(t, s.SendMsg(wrapperspb.Int64(5000)))
		require.NoError(t, s.CloseSend())
		for i := range int64(5000) {
			var n wrapperspb.Int64Value
			require.NoError(t, s.RecvMsg(&n))
			require.Equal(t, i, n.Value)
		}
		require.ErrorIs(t, s.RecvMsg(new(wrapperspb.Int64Value)), io.EOF)
		require.Equal(t, []string{"5000"}, s.Trailer().Get("counted"))
	})
	t.Run("both stream, in turn, many at once", func(t *testing.T) {
		var wg sync.WaitGroup
		errs := make(chan error, 100)
		for k := range 50 {
			wg.Go(func() { errs <- pingPong(ctx, conn, k) })
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			require.NoError(t, err)
		}
	})
}

func pingPong(ctx context.Context, conn *grpc.ClientConn, k int) error {
	s, err := conn.NewStream(ctx, &echoDesc, "/test.Test/Echo")
	if err != nil {
		return err
	}
	if md, err := s.Header(); err != nil || len(md.Get("hello")) != 1 { // before anything was sent
		return fmt.Errorf("header %v: %w", md, err)
	}
	for i := range 20 {
		want := fmt.Sprintf("%d %d", k, i)
		if err := s.SendMsg(wrapperspb.Bytes([]byte(want))); err != nil {
			return err
		}
		var got wrapperspb.BytesValue
		if err := s.RecvMsg(&got); err != nil {
			return err
		}
		if string(got.Value) != want {
			return fmt.Errorf("got %q instead of %q", got.Value, want)
		}
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	if err := s.RecvMsg(new(wrapperspb.BytesValue)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("at the end: %w", err)
	}
	return nil
}

func await(t *testing.T, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		require.Fail(t, "it does not come")
	}
}

// TestGRPCWithoutBackend checks that a client learns in gRPC's words that there
// is none.
func TestGRPCWithoutBackend(t *testing.T) {
	f := serve(t, proxy.Options{HoldTimeout: 50 * time.Millisecond})
	conn, err := grpc.NewClient("passthrough:///"+f.plain, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	err = conn.Invoke(within(t, patience), "/test.Test/Same", wrapperspb.Bytes(nil), new(wrapperspb.BytesValue))
	require.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
	require.Equal(t, "no backend is available", status.Convert(err).Message())
}

// TestGRPCThroughHandler checks that the proxy is good as a handler, too.
func TestGRPCThroughHandler(t *testing.T) {
	g := &grpcServer{canceled: make(chan struct{}, 10)}
	p, err := proxy.New(proxy.Options{})
	require.NoError(t, err)
	defer p.Close()
	p.SetBackends([]string{g.start(t)})
	addr := backend(t, http.HandlerFunc(p.ServeHTTP))
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	require.NoError(t, err)
	defer conn.Close()
	testGRPC(t, g, conn)
}
