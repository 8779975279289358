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
//	err = p.SetSplit(proxy.Share{Pool: "v2", Weight: 500}, proxy.Share{Pool: "v1", Weight: 9500}) // 5 %
//
// A [Frontend], made by [Start], is a proxy with its listener, in the form in
// which package envelopekit exports listeners.
//
// It speaks HTTP/1.1, HTTP/2 over TLS and with prior knowledge, gRPC,
// WebSockets and other upgrades, server-sent events, trailers and interim
// responses; see [Options] for limits, retries, stickiness, logs and traces. Trace
// headers are passed on as they are, and traces continued only if Options.Span is
// set. It is an [http.Handler], too, for a server of your own.
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
//     tried again by one request at a time; five responses in a row with 502, 503
//     or 504, or malformed ones, are a failure, too. What is answered with 5xx does
//     not count as fast. One that owes answers and gives none loses weight by the
//     millisecond; a single one is forgiven after 250 ms, since it may be about what
//     takes long, but who owes more is avoided after a second, or ten times what it
//     usually takes, whatever Options.Balance; after 10 s, 20 s, 40 s and so on one
//     request finds out. What has failed once on its way goes to where nothing
//     fails. If all of a pool are avoided it fails open, and says so:
//     [PoolStatus.FailingOpen], and when that begins and ends, Options.ErrorLog.
//   - Bytes. What cannot be read in one way only is refused, and its connection
//     closed: requests with 400, responses with 502. No response has bytes of
//     another; one that breaks off does not look whole, but for one that ends
//     with its connection. Of a request's trailers those pass that were announced;
//     none is what must be known before the body, as X-Forwarded-For or Cookie.
//   - Bounds. A connection of the fast path has some 50 KiB while it has a request,
//     and under 6 KiB while it has none, or 2 KiB if there are thousands; at rest
//     one with TLS has up to 16 KiB, one of net/http up to 27 KiB. Bodies pass
//     through buffers, or the kernel's own; nothing is held but the first 16 KiB of
//     a request and the head of a response, of up to 64 KiB, and copies for mirrors,
//     256 at most of 256 KiB each. Every wait has a limit, except that for the head
//     of a response of gRPC, for more of a response without Content-Length or of a
//     body of gRPC, raw TCP and what is upgraded, for as long as neither end has
//     ended it, and over HTTP/2 that for a body without Content-Length whose
//     response has begun, or for the client to want more of a response: these end
//     with the client, or with their backend.
//   - Clients that leave. A client that closes its connection, or its sending half,
//     has left, and its request is canceled: as soon as this is seen, which is
//     within about a second. Behind a listener that wraps connections of package
//     net it is seen if these have a method NetConn, or embed them, or else when the
//     client is written to. A client of HTTP/2 that is gone without a word is found out by
//     pings.
//   - A clean end. Serve returns when all its connections have ended. A request
//     that has come on one is served before that, even if nobody has read it yet.
//
// # How it works
//
// HTTP/1.1 requests that are plain enough, which is nearly all, take a fast
// path: one goroutine for each connection, a strict parser, pooled buffers and
// connections, five system calls a request, no allocation. Under load a thread offers
// its processor to others every few requests (on Linux). There, too, bodies of more
// than 16 KiB whose length is known are spliced, between connections of TCP without
// TLS; others are copied. All else goes, with what has been read of it, to
// net/http's server and [net/http/httputil.ReverseProxy]: chunked requests,
// upgrades, Expect, HTTP/1.0, HTTP/2, all that is for backends of HTTP/2, and
// anything odd. A connection that went there stays there. Both share backends,
// choice, limits and counters; each keeps connections to backends of its own.
// Before net/http reads requests of HTTP/1, or responses, they are screened for what
// it accepts and others read differently.
//
// # Where others do better
//
//	                 this package           ReverseProxy        Caddy               nginx, haproxy        Envoy
//	is               a Go package           a handler in Go     a server, or        a server              a server
//	                                                            modules in Go
//	changes of       a call; nothing        yours to do         API; reloads        reload, or haproxy's  xDS; nothing
//	backends         reconnects                                                     runtime API           reconnects
//	CPU a request,   0.9 to 1               3                   not measured        1; 1.1 to 1.2         not measured
//	times nginx's
//	splits           exact, sticky          –                   weights             weights; by hash in    weights, sticky
//	                                                                                nginx, sticky in
//	                                                                                haproxy (cookies,
//	                                                                                stick tables)
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
