package grpchealth_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	grpchealthserver "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/weaverkit/weaverkit/health/grpchealth"
)

// serve starts a gRPC server and returns a connection to it.
func serve(t *testing.T, register func(*grpc.Server)) *grpc.ClientConn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	register(s)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return conn
}

func TestCheck(t *testing.T) {
	server := grpchealthserver.NewServer()
	conn := serve(t, func(s *grpc.Server) { healthpb.RegisterHealthServer(s, server) })
	server.SetServingStatus("up", healthpb.HealthCheckResponse_SERVING)
	server.SetServingStatus("down", healthpb.HealthCheckResponse_NOT_SERVING)
	server.SetServingStatus("odd", healthpb.HealthCheckResponse_UNKNOWN)
	for _, c := range []struct {
		service  string
		notReady bool
		err      string
	}{
		{"", false, ""},
		{"up", false, ""},
		{"down", true, ""},
		{"odd", false, `service "odd" is UNKNOWN`},
		{"other", false, `the server does not know service "other"`},
	} {
		result, err := grpchealth.Check(conn, c.service)(t.Context())
		if result.NotReady != c.notReady || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: %+v, %v", c.service, result, err)
		}
	}
}

func TestCheckOfAServerWithoutIt(t *testing.T) {
	conn := serve(t, func(*grpc.Server) {})
	_, err := grpchealth.Check(conn, "")(t.Context())
	if err == nil || !strings.Contains(err.Error(), "does not offer grpc.health.v1.Health") {
		t.Errorf("got %v", err)
	}
}

// A server that was away for long is seen soon when it is back.
func TestCheckSeesThatItIsBack(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	// A connection that waits an hour before it tries again.
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: time.Hour, Multiplier: 1, MaxDelay: time.Hour}}))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	check := grpchealth.Check(conn, "")
	if _, err := check(t.Context()); err == nil {
		t.Fatal("no error of a server that is not there")
	}
	if l, err = net.Listen("tcp", address); err != nil {
		t.Skip("another has taken the address: ", err)
	}
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, grpchealthserver.NewServer())
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	defer func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		_, err := check(t.Context())
		if err == nil {
			return
		}
		if time.Since(began) > 30*time.Second {
			t.Fatalf("it is not seen: %v", err)
		}
	}
}

func TestCheckObeysItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // which accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := grpchealth.Check(conn, "")(ctx); err == nil {
		t.Error("no error of a server that says nothing")
	}
}
