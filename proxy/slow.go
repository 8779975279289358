package proxy

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A slowPath serves requests with net/http: what the fast path does not, and
// all if the proxy is the handler of somebody's server.
type slowPath struct {
	proxy   *Proxy
	reverse httputil.ReverseProxy
	http1   http.Transport
	h2c     http.Transport
	grpc    http.Transport // h2c without a limit for the response to begin
	quiet   *log.Logger

	mu    sync.Mutex // guards the following
	conns map[*notifyConn]struct{}
}

func (s *slowPath) init(p *Proxy) {
	s.proxy = p
	s.conns = map[*notifyConn]struct{}{}
	s.quiet = log.New(io.Discard, "", 0)
	s.http1 = http.Transport{
		DialContext:            s.dial,
		MaxIdleConnsPerHost:    p.opts.MaxIdleConns,
		IdleConnTimeout:        p.opts.BackendIdleTimeout,
		DisableCompression:     true,
		ResponseHeaderTimeout:  max(p.opts.ResponseTimeout, 0),
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		Protocols:              new(http.Protocols),
	}
	s.http1.Protocols.SetHTTP1(true)
	for _, t := range []*http.Transport{&s.h2c, &s.grpc} {
		*t = http.Transport{
			DialContext:            s.dial,
			IdleConnTimeout:        p.opts.BackendIdleTimeout,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 64 << 10,
			Protocols:              new(http.Protocols),
			// A backend that is dead without a word is found out.
			HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second},
		}
		t.Protocols.SetUnencryptedHTTP2(true)
	}
	s.h2c.ResponseHeaderTimeout = max(p.opts.ResponseTimeout, 0)
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
	}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetHTTP2(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	return srv
}

type bodyBuffers struct{}

func (bodyBuffers) Get() []byte  { return copyBuffers.Get().(*[32 << 10]byte)[:] }
func (bodyBuffers) Put(b []byte) { copyBuffers.Put((*[32 << 10]byte)(b)) }

// A request is what the slow path knows of one.
type request struct {
	exchange
	upgrade bool
	grpc    bool
	peer    netip.Addr
	body    *requestBody // nil if there is none
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
	if d := p.opts.RequestTimeout; d > 0 {
		q.timeout = time.AfterFunc(d, func() { cancel(errTimeout) })
		defer q.timeout.Stop()
	}
	if limit := p.opts.MaxBodyBytes; limit > 0 {
		r.Body = http.MaxBytesReader(w, r.Body, limit)
	}
	p.slow.route(q, r)
	if !q.upgrade {
		q.mirror = p.mirrored(q.route.pool)
	}
	out := r.WithContext(ctx)
	if d := p.opts.BodyTimeout; d > 0 && r.ProtoMajor == 2 && r.ContentLength > 0 && !q.grpc {
		timed := newTimedBody(r.Body, http.NewResponseController(w), d, p.opts.MinBodyRate)
		defer timed.end()
		r.Body = timed
	}
	if r.ContentLength != 0 && r.Body != nil && r.Body != http.NoBody {
		q.body = &requestBody{ReadCloser: r.Body}
		if r.ContentLength > 0 && r.ContentLength <= bufferSize && isIdempotent(r.Method) {
			q.body.keep()
		}
		out.Body = q.body
		// Without it net/http would read the whole body before the response.
		_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/2 always does that
	}
	recorder := &statusWriter{ResponseWriter: w, q: q}
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
	case limit > 0 && r.ContentLength > limit:
		return http.StatusRequestEntityTooLarge, "the body is too large"
	}
	return 0, ""
}

// concludeFor is conclude.
func (q *request) concludeFor(r *http.Request) {
	q.conclude(r.Method, r.Host, r.URL.RequestURI(), q.p.clientOf(q.peer, r), r.Proto)
}

var (
	errTimeout = errors.New("the request took too long")
	errSilent  = errors.New("the body of the response ceased: timed out")
)

// route chooses the pool of a request.
func (s *slowPath) route(q *request, r *http.Request) {
	opts := &s.proxy.opts
	client := s.proxy.clientOf(q.peer, r).String()
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
	r.Out.Trailer = r.In.Trailer // filled when the body has been read; a copy is not
	if up := withoutH2C(h.Get("Upgrade")); q.upgrade && up != "" {
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
	neverReplay(r.Out)
}

// transport returns what a request of a kind is sent with.
func (s *slowPath) transport(grpc, upgrade bool) *http.Transport {
	switch speaks := s.proxy.opts.Backends; {
	case grpc && speaks != HTTP1:
		return &s.grpc
	case speaks == H2C && !upgrade:
		return &s.h2c
	}
	return &s.http1
}

// isGRPC reports whether a request is one of gRPC; gRPC-Web is not.
func isGRPC(r *http.Request) bool {
	rest, ok := strings.CutPrefix(r.Header.Get("Content-Type"), "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// RoundTrip has a backend answer the request. It implements [http.RoundTripper]
// for the reverse proxy.
func (s *slowPath) RoundTrip(req *http.Request) (*http.Response, error) {
	q := req.Context().Value(requestKey{}).(*request)
	transport := s.transport(q.grpc, q.upgrade)
	q.mirrorTo(req)
	for {
		b, now, err := s.proxy.next(req.Context(), &q.exchange.route, s.proxy.now())
		if err != nil {
			return nil, err
		}
		q.try(b, now)
		ctx, cancel := context.WithCancelCause(req.Context())
		stop := context.AfterFunc(b.ctx, func() { cancel(errGone) })
		sent := sending{q: q, b: b, cancel: cancel, counted: transport == &s.http1}
		out := req.WithContext(sent.trace(ctx))
		url := *req.URL
		url.Host = urlHost(b.addr)
		out.URL = &url
		if q.body != nil {
			out.Body = q.body.attempt(b)
		}
		resp, err := transport.RoundTrip(out)
		if err == nil {
			if err = check(resp, out); err == nil {
				q.answer(s.proxy.now(), resp.StatusCode)
				resp.Body = q.track(resp, req.Context(), ctx, func(cause error) { stop(); cancel(cause) })
				return resp, nil
			}
			resp.Body.Close()
		} else if ctx.Err() == nil && sent.unsendable(err) {
			err = &unsendableError{err}
		}
		stop()
		kind := q.kindOf(req.Context(), ctx, err)
		cancel(nil)
		q.lose(s.proxy.now(), kind, err)
		if kind == Canceled || q.body != nil && !q.body.replayable() ||
			!s.proxy.mayRetry(&q.exchange.route, b, kind != DialFailed || sent.wrote.Load(), isIdempotent(req.Method) && (kind == Broken || kind == DialFailed)) {
			return nil, &backendError{kind, err}
		}
	}
}

// A sending is what is seen of one attempt within a transport, which may send a
// request twice by itself: if it is idempotent, and a connection that was kept
// turns out to be closed. Over HTTP/2 it does so only if the backend said that it
// did not look at the request.
type sending struct {
	q       *request
	b       *backend
	cancel  context.CancelCauseFunc
	counted bool // what is sent again may have been seen

	asked  atomic.Bool // for a connection
	wrote  atomic.Bool // the head: the backend may have seen it
	denied atomic.Bool
}

var errNotAgain = errors.New("the connection broke, and the request may not be sent again")

// trace returns a context by which a transport tells.
func (s *sending) trace(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) {
			s.asked.Store(true)
			if !s.wrote.Load() {
				return
			}
			if s.counted && !s.q.mayResend(s.b) {
				s.denied.Store(true)
				s.cancel(errNotAgain)
				return
			}
			s.wrote.Store(false)
		},
		GotConn: func(c httptrace.GotConnInfo) {
			if s.denied.Load() {
				c.Conn.Close() // it came before it was noticed that the attempt is over
			}
		},
		WroteHeaders: func() { s.wrote.Store(true) },
	})
}

// mayResend is mayRetry for a request that may have been seen by a backend, and is
// to be sent to it once more. If that cannot be reached it has not been, and may
// be sent to another in place of it.
func (q *request) mayResend(b *backend) bool {
	r := &q.exchange.route
	if r.sent+1 >= q.p.opts.MaxAttempts || !q.p.budget.retry(q.p.now()) {
		return false
	}
	r.sent++
	q.attempts++
	b.requests.Add(1)
	b.retries.Add(1)
	b.errors[Broken].Add(1)
	return true
}

// unsendable reports whether an error of a transport says that it cannot send such
// a request, which is not the backend's fault.
func (s *sending) unsendable(err error) bool {
	return !s.asked.Load() || strings.Contains(err.Error(), tooLargeForPeer)
}

// tooLargeForPeer is what net/http says of a head that is larger than a backend of
// HTTP/2 wants.
const tooLargeForPeer = "request header list larger than peer's advertised limit"

// An unsendableError says that a request cannot be sent to a backend.
type unsendableError struct{ error }

func (e *unsendableError) Unwrap() error { return e.error }

// mirrorTo has the request, as a backend gets it, mirrored: at once, if there is
// all of it, or once its body has passed. The body is not read ahead: the client
// may wait for an answer to a part of it.
func (q *request) mirrorTo(req *http.Request) {
	if q.mirror == nil {
		return
	}
	if req.ContentLength > maxMirrored {
		q.p.mirrors.dropped.Add(1)
		return
	}
	c := q.mirror.begin(req)
	switch {
	case c == nil:
	case q.body == nil:
		c.send()
	case q.body.whole:
		c.body = q.body.copy
		c.send()
	default:
		q.copy, q.body.mirror = c, c
	}
}

// neverReplay keeps a transport from sending a POST twice: it takes one that has
// no body, but one of these fields, for one that may be. It looks for them as it
// would write them itself; in other letters they say the same.
func neverReplay(r *http.Request) {
	if isIdempotent(r.Method) {
		return
	}
	for _, name := range []string{"Idempotency-Key", "X-Idempotency-Key"} {
		if v, ok := r.Header[name]; ok {
			delete(r.Header, name)
			r.Header[strings.ToLower(name)] = v
		}
	}
}

// A backendError is why the last backend did not answer.
type backendError struct {
	kind ErrorKind
	err  error
}

func (e *backendError) Error() string { return e.err.Error() }
func (e *backendError) Unwrap() error { return e.err }

func isIdempotent(method string) bool {
	return slices.Contains([]string{"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"}, method)
}

// check looks at the head of a response for what net/http lets pass.
func check(resp *http.Response, req *http.Request) error {
	switch up := req.Header.Get("Upgrade"); {
	case resp.ProtoMajor != 1 && resp.ProtoMajor != 2, resp.StatusCode < 100, resp.StatusCode > 599:
		return fmt.Errorf("%w: %s %s", errMalformed, resp.Proto, resp.Status)
	case resp.StatusCode == http.StatusSwitchingProtocols && (up == "" || !strings.EqualFold(up, resp.Header.Get("Upgrade"))):
		return fmt.Errorf("%w: status 101, to %q instead of %q", errMalformed, resp.Header.Get("Upgrade"), up)
	}
	return nil
}

// kindOf says what an error of a transport means. client is the request's
// context, ctx the attempt's.
func (q *request) kindOf(client, ctx context.Context, err error) ErrorKind {
	var dial *dialError
	var timeout net.Error
	var unsendable *unsendableError
	switch {
	case q.body != nil && q.body.failed() != nil, errors.As(err, &unsendable):
		return Canceled // by the client
	case errors.As(err, &dial):
		return DialFailed
	case errors.Is(context.Cause(client), errTimeout):
		return TimedOut
	case client.Err() != nil, q.pastDeadline():
		return Canceled
	case errors.Is(context.Cause(ctx), errSilent):
		return TimedOut
	case ctx.Err() != nil:
		return Broken // its time to drain is over
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return TimedOut
	case isBadResponse(err):
		return BadResponse
	}
	return Broken
}

// isBadResponse reports whether a transport could not read a response, or its
// body, for what it says. net/http has no errors to tell that by.
func isBadResponse(err error) bool {
	var op *net.OpError
	switch {
	case errors.Is(err, errMalformed):
		return true
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &op):
		return false
	}
	for _, word := range []string{"malformed", "invalid", "exceeded", "too many 1xx", "Content-Length", "unsupported transfer", "chunk"} {
		if strings.Contains(err.Error(), word) {
			return true
		}
	}
	return false
}

// track ends the attempt, whose context is ctx, when the body has been read or
// closed. client is the context of the request.
func (q *request) track(resp *http.Response, client, ctx context.Context, cancel func(error)) io.ReadCloser {
	t := &trackedBody{ReadCloser: resp.Body, q: q, client: client, ctx: ctx, cancel: cancel}
	q.tracked = t
	if d := q.p.opts.ResponseTimeout; d > 0 && resp.ContentLength > 0 {
		t.limit = d
		t.silent = time.AfterFunc(d, func() { cancel(errSilent) })
	}
	rw, ok := resp.Body.(io.ReadWriteCloser)
	if resp.StatusCode != http.StatusSwitchingProtocols || !ok {
		return t
	}
	q.upgraded = true
	q.b.upgraded()
	if q.timeout != nil {
		q.timeout.Stop()
	}
	t.stop = context.AfterFunc(q.b.ctx, func() { rw.Close() })
	return &upgradedBody{trackedBody: t, w: rw, to: q.b}
}

type trackedBody struct {
	io.ReadCloser
	q        *request
	client   context.Context // of the request
	ctx      context.Context // of the attempt
	cancel   func(error)
	stop     func() bool
	limit    time.Duration // for more of the body
	silent   *time.Timer   // ends the attempt after limit; nil if there is none
	received atomic.Int64
	failed   atomic.Pointer[error]
	whole    atomic.Bool // all of it was read
	once     sync.Once
}

func (t *trackedBody) Read(p []byte) (int, error) {
	if t.silent != nil {
		t.silent.Reset(t.limit)
	}
	n, err := t.ReadCloser.Read(p)
	if t.silent != nil {
		t.silent.Stop() // the client may take its time
	}
	t.received.Add(int64(n))
	if err == io.EOF {
		t.whole.Store(true)
	} else if err != nil {
		t.failed.Store(&err)
	}
	return n, err
}

func (t *trackedBody) Close() error {
	err := t.ReadCloser.Close()
	t.end()
	return err
}

// end ends the attempt.
func (t *trackedBody) end() {
	t.once.Do(func() {
		t.q.received = t.received.Load()
		if t.stop != nil {
			t.stop()
		}
		if failed := t.failed.Load(); failed != nil && !t.q.upgraded {
			err, kind := *failed, t.q.kindOf(t.client, t.ctx, *failed)
			if cause := context.Cause(t.ctx); cause != nil {
				err = cause
			}
			t.q.lose(t.q.p.now(), kind, err)
		} else if !t.whole.Load() && !t.q.upgraded {
			t.q.lose(t.q.p.now(), Canceled, errClientGone)
		} else {
			t.q.finish()
		}
		if t.silent != nil {
			t.silent.Stop()
		}
		t.cancel(nil)
	})
}

// An upgradedBody is that of a response that switches protocols.
type upgradedBody struct {
	*trackedBody
	w  io.Writer
	to *backend
}

func (u *upgradedBody) Write(p []byte) (int, error) {
	n, err := u.w.Write(p)
	u.to.bytesIn.Add(uint64(n))
	return n, err
}

// CloseWrite lets one direction end before the other.
func (u *upgradedBody) CloseWrite() error {
	if c, ok := u.w.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// modify changes the response before the client gets it.
func (s *slowPath) modify(resp *http.Response) error {
	q := resp.Request.Context().Value(requestKey{}).(*request)
	if q.issued != "" {
		resp.Header.Add("Set-Cookie", s.proxy.cookie(q.issued))
	}
	q.bodiless = resp.ContentLength == 0
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

// A dialError says that there was no connection.
type dialError struct{ error }

func (e *dialError) Unwrap() error { return e.error }

func (s *slowPath) dial(ctx context.Context, _, host string) (net.Conn, error) {
	conn, err := s.proxy.dial(ctx, backendAddr(host))
	if err != nil {
		return nil, &dialError{err}
	}
	n := &notifyConn{Conn: conn}
	forget := func() {
		s.mu.Lock()
		delete(s.conns, n)
		s.mu.Unlock()
	}
	n.onClose.Store(&forget)
	s.mu.Lock()
	s.conns[n] = struct{}{}
	s.mu.Unlock()
	return n, nil
}

// close closes all connections to backends. The transports could close only
// those that rest, and take a while to notice which do.
func (s *slowPath) close() {
	s.mu.Lock()
	conns := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
	s.http1.CloseIdleConnections()
	s.h2c.CloseIdleConnections()
	s.grpc.CloseIdleConnections()
}

const unixHost = ".unix.invalid:80"

// urlHost returns an address as the host of a URL, which tells the transports
// which connections they can use again; backendAddr returns the address.
func urlHost(addr string) string {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		return hex.EncodeToString([]byte(path)) + unixHost
	}
	return addr
}

func backendAddr(host string) string {
	if path, ok := strings.CutSuffix(host, unixHost); ok {
		if b, err := hex.DecodeString(path); err == nil {
			return "unix:" + string(b)
		}
	}
	return host
}

// A requestBody is the body of a request, which may have to be sent again.
type requestBody struct {
	io.ReadCloser
	touched atomic.Bool
	err     atomic.Pointer[error]
	copy    []byte
	whole   bool        // it was read before, and is in copy
	to      *backend    // of the attempt
	mirror  *mirrorCopy // nil if there is none
}

// keep reads the body, which is small.
func (b *requestBody) keep() {
	buf, err := io.ReadAll(b.ReadCloser)
	if err == nil {
		b.copy, b.whole = buf, true
		return
	}
	b.touched.Store(true)
	b.err.Store(&err)
	b.ReadCloser = failedBody{err}
}

// A timedBody gives a client of HTTP/2 a time limit for a body, as screened does
// for HTTP/1.
type timedBody struct {
	io.ReadCloser
	timeout time.Duration
	rate    int // bytes a second; not positive if any will do

	waited time.Duration // for the client
	passed int64
	late   *time.Timer

	mu    sync.Mutex               // guards the following
	reads *http.ResponseController // nil after end
}

func newTimedBody(body io.ReadCloser, reads *http.ResponseController, timeout time.Duration, rate int) *timedBody {
	b := &timedBody{ReadCloser: body, timeout: timeout, rate: rate, reads: reads}
	b.late = time.AfterFunc(timeout, b.interrupt)
	b.late.Stop() // until there is somebody who reads
	return b
}

func (b *timedBody) Read(p []byte) (int, error) {
	limit := b.timeout
	if b.rate > 0 {
		limit = min(limit, limit+time.Duration(float64(b.passed)/float64(b.rate)*float64(time.Second))-b.waited)
	}
	began := time.Now()
	b.late.Reset(limit)
	n, err := b.ReadCloser.Read(p)
	b.late.Stop()
	b.waited += time.Since(began)
	b.passed += int64(n)
	return n, err
}

// interrupt lets reading fail.
func (b *timedBody) interrupt() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reads != nil {
		_ = b.reads.SetReadDeadline(longAgo) // a server that cannot do that has no such limit
	}
}

// end is to be called before the handler returns: then there is nothing to
// interrupt any more.
func (b *timedBody) end() {
	b.mu.Lock()
	b.reads = nil
	b.mu.Unlock()
	b.late.Stop()
}

// A failedBody is one that the client did not send.
type failedBody struct{ err error }

func (b failedBody) Read([]byte) (int, error) { return 0, b.err }
func (b failedBody) Close() error             { return nil }

// attempt returns the body for an attempt on a backend.
func (b *requestBody) attempt(to *backend) io.ReadCloser {
	if b.whole {
		return &requestBody{ReadCloser: io.NopCloser(bytes.NewReader(b.copy)), to: to}
	}
	b.to = to
	return b
}

func (b *requestBody) replayable() bool { return b.whole || !b.touched.Load() }

func (b *requestBody) failed() error {
	if e := b.err.Load(); e != nil {
		return *e
	}
	return nil
}

func (b *requestBody) Read(p []byte) (int, error) {
	b.touched.Store(true)
	n, err := b.ReadCloser.Read(p)
	b.to.bytesIn.Add(uint64(n))
	if b.mirror != nil {
		b.mirror.add(p[:n])
		if err == io.EOF {
			b.mirror.send()
		}
	}
	if err != nil && err != io.EOF {
		b.err.Store(&err)
	}
	return n, err
}

// Close does nothing: a transport closes the body of every attempt, and the
// server closes the body itself.
func (b *requestBody) Close() error { return nil }
