package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// An acceptor accepts connections of a listener, but no more than there are
// places.
type acceptor struct {
	proxy  *Proxy
	places chan struct{}
}

// leave gives the place of a connection back, which has ended.
func (a *acceptor) leave() {
	a.proxy.clients.Add(-1)
	<-a.places
}

// run calls start for each connection until ctx ends, or accepting fails for
// good. It closes the listener.
func (a *acceptor) run(ctx context.Context, l net.Listener, start func(net.Conn)) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer l.Close()
	defer stop()
	var delay time.Duration
	for {
		select {
		case a.places <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := l.Accept()
		if err == nil {
			delay = 0
			a.proxy.clients.Add(1)
			start(c)
			continue
		}
		<-a.places
		if ctx.Err() != nil {
			return nil
		}
		var temporary interface{ Temporary() bool }
		if !errors.As(err, &temporary) || !temporary.Temporary() {
			return fmt.Errorf("serve %s: %w", l.Addr(), err)
		}
		// For instance too many open files: it may get better.
		delay = min(max(5*time.Millisecond, 2*delay), time.Second)
		a.proxy.problem("accepting a connection failed", "error", err, "again in", delay)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
	}
}
