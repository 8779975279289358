package proxy

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"
)

// Options configure a [Proxy]. The zero value is good for use. A duration that
// is negative switches the limit off where its comment says so.
type Options struct {
	// Balance is how the backend of a request is chosen within a pool. Zero
	// means PeakEWMA.
	Balance Balance

	// HashBy is what Balance hashes if it is Hash; then it must be set, and not to
	// ByIssuedCookie.
	HashBy Key

	// Sticky is what keeps a client in one pool while traffic is split, see
	// [Proxy.SetSplit]. A request that does not have it is decided by itself;
	// zero means that each is.
	Sticky Key

	// Override names the header or the cookie of the application (ByHeader or
	// ByCookie) through which a request says
	// the name of the pool that it wants, whatever the split. An unknown name
	// is ignored, and so is that of a pool that has no backends and is not in
	// the split, not even with share 0. Anybody can set it, so it is no protection. Zero means that
	// there is no such way.
	Override Key

	// BackendProtocol is what backends speak. Zero means Auto.
	BackendProtocol Protocol

	// HoldTimeout is how long a request waits for a backend while there is
	// none. From when a backend could not be reached, further ones are tried for
	// as long, or for DialTimeout if that is more; the last one may then take its
	// DialTimeout. Zero means 2 s; negative means not at all.
	HoldTimeout time.Duration

	// DialTimeout is how long it may take to connect to a backend. Zero means
	// 1 s.
	DialTimeout time.Duration

	// ResponseTimeout is how long a backend may take from the request to the
	// head of its response, and how long it may then be silent within a body
	// whose length it has announced; one that it has not may rest. It does not
	// apply to gRPC. Zero means 60 s; negative means for ever.
	ResponseTimeout time.Duration

	// RequestTimeout is how long a request may take as a whole, retries and
	// bodies included. It does not apply to upgraded connections. If it is the
	// client that is waited for, that is not held against the backend. Zero and
	// negative mean for ever.
	RequestTimeout time.Duration

	// HeaderTimeout is how long a client may take to send the head of a
	// request, and over HTTP/2 any frame that is not of a body. Zero means 8 s.
	HeaderTimeout time.Duration

	// BodyTimeout is how long a client may send nothing of a body that it owes,
	// and the head start of the rate that MinBodyRate demands, and how long it
	// may accept nothing of a response. Over HTTP/2, where streams may rest, it
	// does not apply to bodies of gRPC, nor, once the response has begun, to
	// those without Content-Length, except within a frame; and it is how long a
	// connection may take nothing of what is sent on it. Zero means 8 s; negative
	// means for ever.
	BodyTimeout time.Duration

	// MinBodyRate is the least average rate at which a client must send a body,
	// in bytes a second. Zero means 240; negative means any.
	MinBodyRate int

	// IdleTimeout is how long a connection of a client may rest between
	// requests. Zero means 2 min.
	IdleTimeout time.Duration

	// BackendIdleTimeout is how long a connection to a backend is kept for
	// further requests. It should be less than what the backends allow. Zero
	// means 30 s.
	BackendIdleTimeout time.Duration

	// DrainTimeout is how long requests may go on whose backend has been
	// removed, or whose proxy is to stop. When one end of an upgraded
	// connection, or of one of ServeTCP, has ended, it is for how long the other
	// may be silent. Zero means 30 s.
	DrainTimeout time.Duration

	// MaxHeaderBytes is the largest head of a request, which over HTTP/2 counts
	// as it would be in HTTP/1; a larger one is answered with 431. From 1 KiB to
	// 1 MiB; zero means 64 KiB.
	MaxHeaderBytes int

	// MaxBodyBytes is the largest body of a request; a larger one is answered
	// with 413. Zero means any.
	MaxBodyBytes int64

	// MaxConns is how many connections of clients there may be at once;
	// further ones wait in the listener's backlog. It is counted for each
	// listener. Zero means 65,536.
	MaxConns int

	// MaxIdleConns is how many idle connections are kept to each backend: by the
	// fast path, and as many by net/http, see the package's documentation. Zero
	// means 256.
	MaxIdleConns int

	// MaxAttempts is how often a request may be sent. Each time it is to
	// another backend, as long as there is one. Those that could not be reached
	// do not count. Zero means 3.
	MaxAttempts int

	// RetryBudget bounds the retries of requests that a backend may have seen:
	// as a share of the requests of the last ten seconds. A hundred are always
	// allowed. At most 1; zero means 0.2; negative means none at all.
	RetryBudget float64

	// TrustedProxies are peers whose X-Forwarded-… and Forwarded headers are
	// kept and added to. Those of others are replaced.
	TrustedProxies []netip.Prefix

	// GetCertificate returns the certificate for a handshake of ServeTLS. It
	// may be called concurrently, and is called for every handshake, so a
	// certificate can be replaced at any time. See [CertificateFiles].
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	// Outcome is told how every request to a backend ended, attempts that were
	// retried included. It is called by the goroutine of the request and must
	// not block. Nil means nobody.
	Outcome func(Outcome)

	// ErrorLog is told, as warnings, why requests failed by the proxy's or a
	// backend's doing or were refused, and when a pool begins or ceases to fail
	// open, and, as information, what failed but may
	// be tried elsewhere; at most ten times a second of each; the rest is
	// counted. Nil means nobody.
	ErrorLog *slog.Logger

	// AccessLog is told of requests once they have ended. Nil means nobody.
	AccessLog *slog.Logger

	// AccessLogShare is the share of requests that AccessLog is told of. Zero
	// means 1.
	AccessLogShare float64

	// Span is told of each request whose trace is sampled, once it has ended;
	// the proxy then is a span of the trace, which it continues or, if the
	// request has no valid traceparent, starts. It is called by the goroutine
	// of the request and must not block. Nil means that trace headers are
	// passed on as they are.
	Span func(Span)

	// TraceShare is the share of the traces started here that are sampled.
	// Zero means none: only traces that others started are.
	TraceShare float64
}

// A Balance is a way to choose a backend.
type Balance int

const (
	// PeakEWMA is the better of two backends chosen at random, by their
	// requests in flight and their latency, which is a moving average that
	// rises at once and falls slowly; a backend that owes two or more answers,
	// and has given none since, counts as that slow. After Finagle's balancer of that name.
	// Connections of ServeTCP and requests to upgrade, which may go on for any
	// time, go to the one of two that has fewer requests in flight for its
	// weight, upgraded ones and connections included: how soon these begin
	// says nothing about a backend.
	PeakEWMA Balance = iota

	// RoundRobin takes turns, as often as weights say.
	RoundRobin

	// Hash sends requests with the same Options.HashBy to the same backend, as
	// long as that is there and well; then to another, and the requests of
	// others stay where they are (weighted rendezvous hashing). Requests
	// without it are balanced as by PeakEWMA.
	Hash
)

// A Protocol is what backends speak, in cleartext.
type Protocol int

const (
	// Auto is HTTP/1.1, but HTTP/2 for gRPC.
	Auto Protocol = iota
	HTTP1
	// H2C is HTTP/2 for every request, upgrades excepted. All take the way
	// through net/http then, which costs more.
	H2C
)

// Durations that are zero take these.
const (
	defaultHold            = 2 * time.Second
	defaultDial            = time.Second
	defaultResponse        = 60 * time.Second
	defaultHeader          = 8 * time.Second
	defaultBody            = 8 * time.Second
	defaultIdle            = 2 * time.Minute
	defaultBackendIdle     = 30 * time.Second
	defaultDrain           = 30 * time.Second
	defaultMaxHeaderBytes  = 64 << 10
	defaultMaxConns        = 65536
	defaultMaxIdleConns    = 256
	defaultMaxAttempts     = 3
	defaultRetryBudget     = 0.2
	defaultMinBodyRate     = 240
	leastHeaderBytes       = 1 << 10
	greatestAllowedHeaders = 1 << 20
)

func (o Options) withDefaults() (Options, error) {
	var errs []error
	bad := func(field string, value any, must string) {
		errs = append(errs, fmt.Errorf("field Options.%s is %v: it must %s", field, value, must))
	}
	for _, f := range []struct {
		name     string
		value    *time.Duration
		zero     time.Duration
		negative bool // has a meaning
	}{
		{"HoldTimeout", &o.HoldTimeout, defaultHold, true},
		{"DialTimeout", &o.DialTimeout, defaultDial, false},
		{"ResponseTimeout", &o.ResponseTimeout, defaultResponse, true},
		{"RequestTimeout", &o.RequestTimeout, -1, true},
		{"HeaderTimeout", &o.HeaderTimeout, defaultHeader, false},
		{"BodyTimeout", &o.BodyTimeout, defaultBody, true},
		{"IdleTimeout", &o.IdleTimeout, defaultIdle, false},
		{"BackendIdleTimeout", &o.BackendIdleTimeout, defaultBackendIdle, false},
		{"DrainTimeout", &o.DrainTimeout, defaultDrain, false},
	} {
		*f.value = cmp.Or(*f.value, f.zero)
		if *f.value < 0 && !f.negative {
			bad(f.name, *f.value, "not be negative")
		}
	}
	for _, f := range []struct {
		name  string
		value *int
		zero  int
		least int
	}{
		{"MaxHeaderBytes", &o.MaxHeaderBytes, defaultMaxHeaderBytes, leastHeaderBytes},
		{"MaxConns", &o.MaxConns, defaultMaxConns, 1},
		{"MaxIdleConns", &o.MaxIdleConns, defaultMaxIdleConns, 1},
		{"MaxAttempts", &o.MaxAttempts, defaultMaxAttempts, 1},
	} {
		*f.value = cmp.Or(*f.value, f.zero)
		if *f.value < f.least {
			bad(f.name, *f.value, fmt.Sprintf("be at least %d", f.least))
		}
	}
	if o.MaxHeaderBytes > greatestAllowedHeaders {
		bad("MaxHeaderBytes", o.MaxHeaderBytes, fmt.Sprintf("be at most %d", greatestAllowedHeaders))
	}
	if o.MaxBodyBytes < 0 {
		bad("MaxBodyBytes", o.MaxBodyBytes, "not be negative")
	}
	o.MinBodyRate = cmp.Or(o.MinBodyRate, defaultMinBodyRate)
	o.RetryBudget = cmp.Or(o.RetryBudget, defaultRetryBudget)
	o.AccessLogShare = cmp.Or(o.AccessLogShare, 1)
	for name, share := range map[string]float64{"AccessLogShare": o.AccessLogShare, "TraceShare": o.TraceShare} {
		if !(share >= 0 && share <= 1) {
			bad(name, share, "be between 0 and 1")
		}
	}
	if !(o.RetryBudget <= 1) {
		bad("RetryBudget", o.RetryBudget, "be at most 1")
	}
	if o.Balance < PeakEWMA || o.Balance > Hash {
		bad("Balance", int(o.Balance), "be PeakEWMA, RoundRobin or Hash")
	}
	if o.Balance == Hash && o.HashBy == (Key{}) {
		bad("HashBy", "empty", "be set if Options.Balance is Hash")
	}
	if o.BackendProtocol < Auto || o.BackendProtocol > H2C {
		bad("BackendProtocol", int(o.BackendProtocol), "be Auto, HTTP1 or H2C")
	}
	for _, f := range []struct {
		name string
		key  Key
	}{{"HashBy", o.HashBy}, {"Sticky", o.Sticky}, {"Override", o.Override}} {
		if err := f.key.check(); err != nil {
			errs = append(errs, fmt.Errorf("field Options.%s: %w", f.name, err))
		}
	}
	if o.HashBy.kind == issuedCookie {
		bad("HashBy", o.HashBy, "be of another kind: only Options.Sticky issues cookies")
	}
	if o.Override.kind == issuedCookie || o.Override.kind == clientAddr {
		bad("Override", o.Override, "be of another kind, which can name a pool: a header, or a cookie of the application")
	}
	return o, errors.Join(errs...)
}
