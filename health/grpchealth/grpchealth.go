// Package grpchealth checks gRPC servers for package health, by the standard
// health protocol, grpc.health.v1. It is a module of its own, so that who does
// not need it does not pay for gRPC.
//
//	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds))
//	...
//	prober.Add(health.Target{ID: address, Check: grpchealth.Check(conn, "")})
//
// The connection is the caller's, to configure and, once the target has been
// removed, to close. While the server cannot be reached each check has it try to
// connect at once, so that the period of the checks is what counts, not the time
// for which gRPC backs off, which grows to two minutes: a server that is back is
// seen by the second check after that at the latest. Others who use the connection
// feel that, too. But a connection that was lost without a word, as by a NAT that has
// forgotten it, goes on to be used until gRPC's keepalive or the kernel notices, and its
// server counts as failing for so long: where that may happen, dial with
// grpc.WithKeepaliveParams, and a Time that the server allows.
package grpchealth

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/weaverkit/weaverkit/health"
)

// Check returns a check of a service of a gRPC server; the empty service is the
// server as a whole. SERVING means ready, and NOT_SERVING that it lives but is
// not ready. All else is a failure, also that the server does not know the
// service or does not speak the protocol.
func Check(conn grpc.ClientConnInterface, service string) health.CheckFunc {
	client := healthpb.NewHealthClient(conn)
	back, _ := conn.(interface{ ResetConnectBackoff() }) // as *grpc.ClientConn is
	return func(ctx context.Context) (health.Result, error) {
		if back != nil {
			back.ResetConnectBackoff()
		}
		reply, err := client.Check(ctx, &healthpb.HealthCheckRequest{Service: service})
		switch status.Code(err) {
		case codes.OK:
		case codes.Unimplemented:
			return health.Result{}, fmt.Errorf("the server does not offer %s: %w", healthpb.Health_ServiceDesc.ServiceName, err)
		case codes.NotFound:
			return health.Result{}, fmt.Errorf("the server does not know service %q: %w", service, err)
		default:
			return health.Result{}, err
		}
		switch reply.GetStatus() {
		case healthpb.HealthCheckResponse_SERVING:
			return health.Result{}, nil
		case healthpb.HealthCheckResponse_NOT_SERVING:
			return health.Result{NotReady: true, Reason: reply.GetStatus().String()}, nil
		}
		return health.Result{}, fmt.Errorf("service %q is %v", service, reply.GetStatus())
	}
}
