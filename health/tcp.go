package health

import (
	"context"
	"net"
)

// TCP returns a check that connects to an address, such as "10.0.0.1:6379", and
// hangs up. Mind that the kernel accepts connections on behalf of a process
// that is stopped, until its backlog is full.
func TCP(address string) CheckFunc {
	return func(ctx context.Context) (Result, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return Result{}, err
		}
		return Result{}, conn.Close()
	}
}
