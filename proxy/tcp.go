package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// ServeTCP accepts connections and passes what comes on them to backends, and
// back, as it is. A connection whose backend cannot be reached is tried on
// others. Splits, stickiness by client address, holding, and health are those of
// requests; each connection counts as one. It returns as [Proxy.Serve] does.
func (p *Proxy) ServeTCP(ctx context.Context, l net.Listener) error {
	t := &tcpServer{proxy: p}
	t.ctx, t.abort = context.WithCancel(context.WithoutCancel(ctx))
	defer t.abort()
	a := acceptor{proxy: p, places: make(chan struct{}, p.opts.MaxConns)}
	err := a.run(ctx, l, func(c net.Conn) {
		t.wg.Go(func() {
			defer a.leave()
			t.serve(c)
		})
	})
	done := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Go(func() {
		t.wg.Wait()
		close(done)
	})
	timeout := time.NewTimer(p.opts.DrainTimeout)
	defer timeout.Stop()
	select {
	case <-done:
	case <-timeout.C:
		t.abort()
	case <-p.ended.Done():
		t.abort()
	}
	waiting.Wait()
	return err
}

type tcpServer struct {
	proxy *Proxy
	ctx   context.Context // ends when connections must
	abort context.CancelFunc
	wg    sync.WaitGroup
}

// serve passes one connection on until it ends.
func (t *tcpServer) serve(client net.Conn) {
	defer client.Close()
	p := t.proxy
	x := &exchange{p: p, start: p.now()}
	peer := peerOf(client)
	defer func() { x.conclude("", "", "", peer, "TCP") }()
	t.route(x, peer)
	for {
		b, now, err := p.next(t.ctx, &x.route, p.now())
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				x.refused(err)
			}
			return
		}
		x.try(b, now)
		server, err := p.dial(b.ctx, b.addr)
		if err != nil {
			x.lose(p.now(), DialFailed, err)
			x.route.failed(b)
			continue
		}
		x.connected(p.now())
		x.received = t.join(b, client, server)
		x.finish()
		return
	}
}

func (t *tcpServer) route(x *exchange, peer netip.Addr) {
	p := t.proxy
	x.route.stream = true
	client := clientKey(peer)
	var sticky []byte
	if p.sticky().kind == clientAddr {
		sticky = client
	}
	p.choose(&x.route, sticky, nil)
	if p.opts.Balance == Hash && p.opts.HashBy.kind == clientAddr && client != nil {
		x.route.key, x.route.hashed = hashKey(0, client), true
	}
}

// join copies both ways until both ends have ended, or must. It returns how much
// the client got. What one end has ended is ended at the other.
func (t *tcpServer) join(b *backend, client, server net.Conn) (received int64) {
	defer server.Close()
	interrupt := func() {
		client.SetDeadline(longAgo)
		server.SetDeadline(longAgo)
	}
	for _, ctx := range []context.Context{t.ctx, b.ctx} {
		stop := context.AfterFunc(ctx, interrupt)
		defer stop()
	}
	var up sync.WaitGroup
	up.Go(func() {
		n, err := io.Copy(server, client) // splices
		b.bytesIn.Add(uint64(n))
		if err != nil || closeWrite(server) != nil {
			interrupt()
		}
	})
	received, err := io.Copy(client, server)
	if err != nil || closeWrite(client) != nil {
		interrupt()
	}
	up.Wait()
	return received
}

func closeWrite(c net.Conn) error {
	if cw, ok := c.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}
