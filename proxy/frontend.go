package proxy

import (
	"context"
	"net"
)

// A Frontend is a proxy that serves one listener. It has the methods by which
// deployers export listeners: Addr, SetBackends, Drained and Close.
type Frontend struct {
	*Pool // DefaultPool

	proxy    *Proxy
	listener net.Listener
	stop     context.CancelFunc
	served   chan struct{}
	err      error // of Serve, once served is closed
}

// Start makes a proxy and serves the listener with it, with TLS if
// Options.GetCertificate is set, until Close is called. If it returns an error
// the listener is left as it is.
func Start(l net.Listener, opts Options) (*Frontend, error) {
	p, err := New(opts)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	f := &Frontend{Pool: p.Pool(DefaultPool), proxy: p, listener: l, stop: stop, served: make(chan struct{})}
	serve := p.Serve
	if opts.GetCertificate != nil {
		serve = p.ServeTLS
	}
	go func() {
		defer close(f.served)
		f.err = serve(ctx, l)
	}()
	return f, nil
}

// Proxy returns the proxy, for its pools, splits and status.
func (f *Frontend) Proxy() *Proxy { return f.proxy }

// Addr returns the address of the listener.
func (f *Frontend) Addr() string { return f.listener.Addr().String() }

// Done returns a channel that is closed once serving has ended: by Close, or
// because accepting failed for good. Who exports a listener should watch it.
func (f *Frontend) Done() <-chan struct{} { return f.served }

// Err returns the error for which serving has ended by itself. It is nil before
// Done is closed, and if Close ended it.
func (f *Frontend) Err() error {
	select {
	case <-f.served:
		return f.err
	default:
		return nil
	}
}

// Close stops accepting, waits until requests in flight have ended, for
// Options.DrainTimeout at most, and ends those that remain when ctx ends. It
// returns ctx's error then, or else the error for which serving had ended
// before. The proxy is closed, too.
func (f *Frontend) Close(ctx context.Context) error {
	f.stop()
	defer f.proxy.Close()
	select {
	case <-f.served:
		return f.err
	case <-ctx.Done():
	}
	f.proxy.Close()
	<-f.served
	return ctx.Err()
}
