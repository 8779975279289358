//go:build linux

package main

import (
	"context"
	"net"

	"github.com/weaverkit/weaverkit/proxy"
)

// A proxyFront is package proxy as it is without options.
type proxyFront struct{ p *proxy.Proxy }

func newProxy() (front, error) {
	p, err := proxy.New(proxy.Options{})
	if err != nil {
		return nil, err
	}
	return proxyFront{p}, nil
}

func (f proxyFront) serve(l net.Listener) error { return f.p.Serve(context.Background(), l) }

// set leaves out the backends of weight 0: one that is to be drained is no
// backend of the pool any more.
func (f proxyFront) set(backends []backend) error {
	var all []proxy.Backend
	for _, b := range backends {
		if b.weight > 0 {
			all = append(all, proxy.Backend{Addr: b.address, Weight: b.weight})
		}
	}
	return f.p.Pool(proxy.DefaultPool).Set(all)
}

func (f proxyFront) drained(ctx context.Context, address string) error {
	return f.p.Pool(proxy.DefaultPool).Drained(ctx, address)
}
