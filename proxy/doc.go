// Package proxy is what a deployer runs in front of the replicas that share a
// listener: a reverse proxy for HTTP and TCP whose backends come and go.
//
//	p, err := proxy.New(proxy.Options{})
//	...
//	p.SetBackends([]string{"127.0.0.1:9001", "127.0.0.1:9002"}) // at any time, as a whole
//	err = p.Serve(ctx, listener)                                // until ctx ends, and requests have
//
// Two versions of an application are two pools, and a rollout moves shares of
// the traffic between them:
//
//	p.Pool("v1").SetBackends(old)
//	p.Pool("v2").SetBackends(new)
//	p.SetSplit(proxy.Share{"v2", 500}, proxy.Share{"v1", 9500}) // 5 %
//
// A [Frontend], made by [Start], is a proxy with its listener, in the form in
// which package envelopekit exports listeners.
//
// It speaks HTTP/1.1, HTTP/2 over TLS and with prior knowledge, gRPC,
// WebSockets and other upgrades, server-sent events, trailers and interim
// responses; see [Options] for limits, retries, stickiness, logs and traces. It
// is an [http.Handler], too, for a server of your own.
//
// # Guarantees
//
//   - Backends. Once SetBackends, Remove or SetSplit has returned, no request is
//     assigned to what it took out. Requests that were assigned before end in
//     their own time, at most Options.DrainTimeout; what is upgraded, too.
//     Connections to others notice nothing. While there is no backend requests
//     wait, Options.HoldTimeout at most.
//   - Retries. A request that was not sent is tried elsewhere, as is one that a
//     backend of HTTP/2 says it did not look at; one that was sent, if its method
//     is idempotent and the connection broke before the head of a response,
//     within a budget. Each attempt is counted. POST and PATCH are never sent
//     twice, and nothing is of whose body more than 16 KiB have been passed on.
//   - Choice. A backend that fails is avoided at once, for longer and longer, and
//     tried again by one request at a time. One that is silent loses weight by
//     the millisecond. If all of a pool are avoided it fails open:
//     [PoolStatus.FailingOpen].
//   - Bytes. What cannot be read in one way only is refused, and its connection
//     closed: requests with 400, responses with 502. No response has bytes of
//     another; one that breaks off does not look whole, but for one that ends
//     with its connection.
//   - Bounds. A connection has some 50 KiB while it has a request, and under
//     6 KiB while it has none, or 2 KiB if there are thousands; but some 20 KiB
//     if net/http has it. Bodies pass through buffers, or the kernel's own;
//     nothing is held but the first 16 KiB of a request and the head of a
//     response, and copies for mirrors, 256 at most of 256 KiB each. Every wait
//     has a limit, except that for the head of a response of gRPC, for more of a
//     response without Content-Length or of a body of gRPC, raw TCP and what is
//     upgraded, and over HTTP/2 that for a body without Content-Length whose
//     response has begun, or for the client to want more of a response: these end
//     with the client, or with their backend. A client of HTTP/2 that is gone
//     without a word is found out by pings.
//   - A clean end. Serve returns when all its connections have ended.
//
// # How it works
//
// HTTP/1.1 requests that are plain enough, which is nearly all, take a fast
// path: one goroutine for each connection, a strict parser, pooled buffers and
// connections, six system calls a request, no allocation. Bodies of more than
// 16 KiB are spliced on Linux. All else goes, with what has been read of it, to
// net/http's server and [net/http/httputil.ReverseProxy]: chunked requests,
// upgrades, Expect, HTTP/1.0, HTTP/2, and anything odd. A connection that went
// there stays there. Both share backends, choice, limits and counters; each keeps
// connections to backends of its own. Before net/http reads requests of HTTP/1
// they are screened for what it accepts and others read differently.
//
// # Where others do better
//
//	                 this package           ReverseProxy        Caddy               nginx, haproxy        Envoy
//	is               a Go package           a handler in Go     a server, or        a server              a server
//	                                                            modules in Go
//	changes of       a call; nothing        yours to do         API; reloads        reload, or haproxy's  xDS; nothing
//	backends         reconnects                                                     runtime API           reconnects
//	CPU a request    like nginx             3 to 4 times that   not measured        the same              not measured
//	splits           exact, sticky          –                   weights             weights               weights, sticky
//	retries          with a budget          –                   by time             by number             with a budget
//	slow backends    avoided at once        –                   least connections   least connections     outlier detection
//	HTTP/3           no                     no                  yes                 yes                   yes
//	caching, rate    no                     no                  modules             yes                   filters
//	limits, auth
//	certificates     by a func              yours to do         ACME, by itself     files                 SDS
//	use it when      a Go program decides   a handler among     you want a server   you want a server     you have a mesh
//	                 who the backends are   others, low rates   that needs no care  that all know
//
// # What is left to you
//
// Active health checks: tell the verdict with [Pool.SetHealthy], and learn what
// requests saw from Options.Outcome. Who may ask what. HTTP/3. Backends speak
// cleartext.
//
// BENCHMARKS.md next to the source holds measured figures.
package proxy
