package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"syscall"
	"time"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/proxy"
)

// exporter returns what opens a proxy at the address that the configuration
// gives the listener, or at a free port of the loopback interface. A request
// waits for as long as a replica may take to be replaced.
func exporter(listeners envelopekit.ListenerConfig, problems *slog.Logger) func(context.Context, string) (envelopekit.Frontend, error) {
	return func(_ context.Context, name string) (envelopekit.Frontend, error) {
		address := listeners[name].Address
		if address == "" {
			address = "127.0.0.1:0"
		}
		l, err := net.Listen("tcp", address)
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("address %s is in use: stop what uses it, or change listeners.%s in section [%s]", address, name, deployerName)
		} else if err != nil {
			return nil, fmt.Errorf("%w: change listeners.%s in section [%s]", err, name, deployerName)
		}
		return proxy.Start(l, proxy.Options{HoldTimeout: 10 * time.Second, ErrorLog: problems.With("listener", name)})
	}
}
