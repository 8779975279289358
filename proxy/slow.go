package proxy

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// A slowPath serves requests with net/http: what the fast path does not, and
// all if the proxy is the handler of somebody's server.
type slowPath struct {
	proxy      *Proxy
	reverse    httputil.ReverseProxy
	transports [protocols]http.Transport
	quiet      *log.Logger

	mu     sync.Mutex // guards the following
	closed bool
	conns  map[*notifyConn]struct{} // to backends
}

func (s *slowPath) init(p *Proxy) {
	s.proxy = p
	s.conns = map[*notifyConn]struct{}{}
	s.quiet = log.New(io.Discard, "", 0)
	s.initTransports()
	s.reverse = httputil.ReverseProxy{
		Rewrite:        s.rewrite,
		Transport:      s,
		FlushInterval:  -1,
		ErrorLog:       s.quiet,
		BufferPool:     bodyBuffers{},
		ModifyResponse: s.modify,
		ErrorHandler:   s.fail,
	}
}

// server returns the server for connections that the fast path hands over.
func (s *slowPath) server(owner *server) *http.Server {
	opts := &s.proxy.opts
	srv := &http.Server{
		Handler:                      owner,
		ReadHeaderTimeout:            opts.HeaderTimeout,
		IdleTimeout:                  opts.IdleTimeout,
		MaxHeaderBytes:               opts.MaxHeaderBytes,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     s.quiet,
		Protocols:                    new(http.Protocols),
		// A client that is gone without a word is found out. The answer to a ping
		// may take a while: there may be much on the way before it.
		HTTP2:       &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
		BaseContext: func(net.Listener) context.Context { return owner.ctx },
		ConnState: func(c net.Conn, state http.ConnState) {
			if s, ok := c.(interface{ noteState(http.ConnState) }); ok {
				s.noteState(state)
			}
		},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if f, ok := c.(framed); ok {
				return context.WithValue(ctx, tlsStateKey{}, f.state)
			}
			return ctx
		},
	}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetHTTP2(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	return srv
}

// A request is what the slow path knows of one.
type request struct {
	exchange
	upgrade bool
	grpc    bool
	peer    netip.Addr
	body    *requestBody // nil if there is none
	reads   *reading     // of body
	timed   *timedBody   // below body; nil if that has no time limit of its own
	tracked *trackedBody // that of the response; nil until there is one

	bodiless bool          // the response has a head only
	deadline time.Duration // of a client of gRPC, from the start; 0 if there is none
	timeout  *time.Timer   // nil if there is none

	mirror *mirror     // nil if it is not mirrored
	copy   *mirrorCopy // nil if it is not, or not any more
}

type requestKey struct{}

// ServeHTTP passes a request to a backend, and its response back. It is for
// those who have a server of their own; [Proxy.Serve] costs far less.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := &request{exchange: exchange{p: p, start: p.now()}}
	if a, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		q.peer = a.Addr().Unmap()
	}
	if status, text := p.unserved(r); status != 0 {
		p.refused.Add(1)
		q.status = status
		if r.ProtoMajor == 1 {
			w.Header().Set("Connection", "close")
		}
		http.Error(w, text, status)
		q.concludeFor(r)
		return
	}
	q.upgrade = slices.ContainsFunc(r.Header["Upgrade"], func(v string) bool { return !isH2C(v) })
	q.grpc = r.ProtoMajor == 2 && isGRPC(r)
	if q.grpc {
		q.deadline = grpcTimeout(r.Header.Get("Grpc-Timeout"))
	}
	ctx, cancel := context.WithCancelCause(context.WithValue(r.Context(), requestKey{}, q))
	defer cancel(nil)
	if limit := p.opts.MaxBodyBytes; limit > 0 {
		r.Body = http.MaxBytesReader(w, r.Body, limit)
	}
	q.exchange.route.stream = q.upgrade
	p.slow.route(q, r)
	if !q.upgrade {
		q.mirror = p.mirrored(q.route.pool)
	}
	out := r.WithContext(ctx)
	if r.ContentLength != 0 && r.Body != nil && r.Body != http.NoBody {
		q.reads = &reading{control: http.NewResponseController(w)}
		defer q.reads.end()
		if d := p.opts.BodyTimeout; d > 0 && r.ProtoMajor == 2 && !q.grpc {
			q.timed = newTimedBody(r.Body, q.reads, d, p.opts.MinBodyRate, r.ContentLength < 0)
			defer q.timed.late.Stop()
			r.Body = q.timed
		}
		q.body = &requestBody{ReadCloser: r.Body, trailer: r.Trailer}
		out.Body = q.body.attempt(nil, nil) // RoundTrip gives each backend its own
		// Without it net/http would read the whole body before the response.
		_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/2 always does that
	}
	if d := p.opts.RequestTimeout; d > 0 {
		q.timeout = time.AfterFunc(d, func() { q.expire(cancel) })
		defer q.timeout.Stop()
	}
	recorder := &statusWriter{ResponseWriter: w, q: q, old: !r.ProtoAtLeast(1, 1)}
	defer func() {
		if q.tracked != nil {
			q.tracked.end() // that of an upgrade is closed by somebody else, later
		}
		if q.b != nil { // the reverse proxy panicked with http.ErrAbortHandler, or forgot
			q.lose(p.now(), Canceled, errClientGone)
		}
		if q.status == 0 {
			q.status = recorder.status
		}
		if q.copy != nil {
			q.copy.drop() // its body did not come as a whole
		}
		q.concludeFor(r)
	}()
	p.slow.reverse.ServeHTTP(recorder, out)
}

// expire ends a request that has taken too long, and what waits for its body.
func (q *request) expire(cancel context.CancelCauseFunc) {
	if q.body == nil || q.body.whole() {
		cancel(errTimeout)
		return
	}
	if q.body.waiting.Load() {
		cancel(errSlowBody) // by the client's doing
	} else {
		cancel(errTimeout)
	}
	q.reads.interrupt()
}

// unserved returns how to answer a request that no backend is to see; the status
// is 0 for others. What screened lets pass is looked at again: HTTP/2 does not
// come through it, nor what somebody else's server reads.
func (p *Proxy) unserved(r *http.Request) (status int, text string) {
	switch limit := p.opts.MaxBodyBytes; {
	case r.Method == http.MethodConnect, r.Method == "PRI":
		return http.StatusMethodNotAllowed, "this is no forward proxy"
	case !isMethod(r.Method):
		return http.StatusBadRequest, "the method has a character that it cannot have"
	case !validHost(r.Host):
		return http.StatusBadRequest, "the host has a character that it cannot have"
	case !validTarget(r):
		return http.StatusBadRequest, "the target has a character that it cannot have"
	case r.ProtoMajor == 2 && !agrees(r):
		return http.StatusBadRequest, "the request does not agree with itself"
	case r.ProtoMajor == 2 && headSize(r) > p.opts.MaxHeaderBytes:
		return http.StatusRequestHeaderFieldsTooLarge, "the head is too large"
	case limit > 0 && r.ContentLength > limit:
		return http.StatusRequestEntityTooLarge, "the body is too large"
	}
	return 0, ""
}

// validTarget reports whether a target can be written into the first line of a
// request of HTTP/1. What came in such a line, and was read, is one with nothing
// that ends it. HTTP/2 has no line: there it must have no more than what browsers
// leave as it is, which is more than RFC 3986 has.
func validTarget(r *http.Request) bool {
	for _, c := range []byte(r.URL.RequestURI()) {
		if c <= ' ' || c == 0x7f {
			return false
		}
	}
	if r.ProtoMajor != 2 {
		return true
	}
	for _, c := range []byte(r.RequestURI) {
		if !isTarget[c] && strings.IndexByte("[]{}|^`\\", c) < 0 {
			return false
		}
	}
	return strings.HasPrefix(r.RequestURI, "/") || r.RequestURI == "*" && r.Method == http.MethodOptions
}

// agrees reports whether a request of HTTP/2 says the same of its host, and of its
// length, wherever it does: RFC 9113, sections 8.1.1 and 8.3.1.
func agrees(r *http.Request) bool {
	for _, host := range r.Header["Host"] {
		if host != r.Host {
			return false
		}
	}
	lengths := r.Header["Content-Length"]
	return len(lengths) == 0 || len(lengths) == 1 && parseLength([]byte(lengths[0])) == r.ContentLength
}

// headSize returns how long the head of a request of HTTP/2 is, as one of HTTP/1.
func headSize(r *http.Request) int {
	n := len(r.Method) + len(r.RequestURI) + len("  HTTP/1.1\r\nHost: \r\n\r\n") + len(r.Host)
	for name, values := range r.Header {
		for _, v := range values {
			n += len(name) + len(v) + len(": \r\n")
		}
	}
	return n
}

// concludeFor is conclude.
func (q *request) concludeFor(r *http.Request) {
	q.conclude(r.Method, r.Host, r.URL.RequestURI(), q.p.clientOf(q.peer, r), r.Proto)
}

var (
	errTimeout  = errors.New("the request took too long")
	errSlowBody = errors.New("the request took too long: its body did not come")
	errSilent   = errors.New("the body of the response ceased: timed out")
)

// route chooses the pool of a request.
func (s *slowPath) route(q *request, r *http.Request) {
	opts := &s.proxy.opts
	client := string(clientKey(s.proxy.clientOf(q.peer, r)))
	value := func(k Key) []byte {
		if v := k.of(r, client); v != "" {
			return []byte(v)
		}
		return nil
	}
	stick := s.proxy.sticky()
	sticky := value(stick)
	if sticky == nil && stick.kind == issuedCookie {
		q.issued = newKey()
		sticky = []byte(q.issued)
	}
	s.proxy.choose(&q.exchange.route, sticky, value(opts.Override))
	if opts.Balance == Hash {
		if key := value(opts.HashBy); key != nil {
			q.exchange.route.key, q.exchange.route.hashed = hashKey(0, key), true
		}
	}
	if opts.Span != nil {
		q.trace = s.proxy.newTrace(r.Header.Get("Traceparent"), len(r.Header["Traceparent"]))
	}
}

// clientOf returns the address of the client, which may be behind the peer.
func (p *Proxy) clientOf(peer netip.Addr, r *http.Request) netip.Addr {
	return p.client(peer, joinValues(r.Header["X-Forwarded-For"]))
}

// rewrite makes the request what a backend gets.
func (s *slowPath) rewrite(r *httputil.ProxyRequest) {
	q := r.In.Context().Value(requestKey{}).(*request)
	h := r.Out.Header
	r.Out.URL.Scheme = "http"
	r.Out.URL.Host = r.In.Host // RoundTrip chooses the backend
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	stripTrailers(r.Out.Trailer, r.In.Header["Connection"])
	if up := withoutH2C(strings.Join(r.In.Header["Upgrade"], ",")); q.upgrade && up != "" && h.Get("Upgrade") != "" {
		h.Set("Upgrade", up)
	} else {
		h.Del("Connection")
		h.Del("Upgrade")
	}
	h.Del("Http2-Settings")
	scheme := "http"
	if r.In.TLS != nil {
		scheme = "https"
	}
	prior, forwarded := "", ""
	if s.proxy.trusted(q.peer) {
		prior, forwarded = joinValues(r.In.Header["X-Forwarded-For"]), joinValues(r.In.Header["Forwarded"])
		for _, name := range []string{"X-Forwarded-Host", "X-Forwarded-Proto"} {
			if v, ok := r.In.Header[name]; ok {
				h[name] = v
			}
		}
	} else {
		for name := range h {
			if strings.HasPrefix(name, "X-Forwarded-") {
				delete(h, name)
			}
		}
	}
	h.Set("X-Forwarded-For", prior+string(appendAddr(nil, q.peer)))
	if h.Get("X-Forwarded-Host") == "" {
		h.Set("X-Forwarded-Host", r.In.Host)
	}
	if h.Get("X-Forwarded-Proto") == "" {
		h.Set("X-Forwarded-Proto", scheme)
	}
	h.Set("Forwarded", forwarded+string(appendForwarded(nil, q.peer, r.In.Host, scheme)))
	if q.trace.on {
		h.Set("Traceparent", string(q.trace.append(nil)))
		if q.trace.begins() {
			h.Del("Tracestate")
		}
	}
}

// modify changes the response before the client gets it.
func (s *slowPath) modify(resp *http.Response) error {
	q := resp.Request.Context().Value(requestKey{}).(*request)
	if q.issued != "" {
		resp.Header.Add("Set-Cookie", s.proxy.cookie(q.issued))
	}
	q.bodiless = resp.ContentLength == 0
	if resp.StatusCode == http.StatusSwitchingProtocols {
		// The reverse proxy wants what was asked for, which may have been a choice.
		resp.Request.Header.Set("Upgrade", resp.Header.Get("Upgrade"))
	}
	if q.upgrade && resp.StatusCode != http.StatusSwitchingProtocols {
		// What the client sends next may be of the other protocol.
		resp.Header.Set("Connection", "close")
	}
	return nil
}

// fail answers in place of a backend.
func (s *slowPath) fail(w http.ResponseWriter, r *http.Request, err error) {
	q := r.Context().Value(requestKey{}).(*request)
	kind := Broken
	var be *backendError
	if errors.As(err, &be) {
		kind = be.kind
	}
	status, text := q.refusal(kind, err)
	var tooLarge *http.MaxBytesError
	var unsendable *unsendableError
	switch {
	case errors.As(err, &unsendable):
		status, text = http.StatusBadRequest, "the request cannot be passed on"
		s.proxy.refused.Add(1)
	case errors.Is(context.Cause(r.Context()), errTimeout):
		status, text = http.StatusGatewayTimeout, "the request took too long"
	case errors.Is(context.Cause(r.Context()), errSlowBody):
		status, text = http.StatusRequestTimeout, "the body came too slowly"
	case q.body != nil && errors.As(q.body.failed(), &tooLarge):
		status, text = http.StatusRequestEntityTooLarge, "the body is too large"
		s.proxy.refused.Add(1)
	case q.body != nil && errors.Is(q.body.failed(), os.ErrDeadlineExceeded):
		status, text = http.StatusRequestTimeout, "the body came too slowly"
	case q.body != nil && q.body.failed() != nil:
		status, text = http.StatusBadRequest, "the body is malformed"
	}
	q.status = status
	if r.Context().Err() == nil {
		q.refused(err)
	}
	if r.ProtoMajor == 1 && (q.body != nil || q.upgrade) {
		w.Header().Set("Connection", "close")
	}
	if q.grpc {
		q.failGRPC(w, status, text)
		return
	}
	http.Error(w, text, status)
}
