package proxy_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// patience is how long what must come may take.
const patience = 15 * time.Second

// A front is a proxy that serves a listener.
type front struct {
	*proxy.Proxy
	addr string
	log  *notes
	stop func() // waits until it has ended
}

// serve serves with a proxy for as long as the test takes: with TLS if opts has
// a certificate.
func serve(t testing.TB, opts proxy.Options, backends ...string) *front {
	t.Helper()
	return serveOn(t, "127.0.0.1:0", opts, backends...)
}

// serveOn is serve at an address. The test is skipped if this host has none such,
// as without IPv6.
func serveOn(t testing.TB, addr string, opts proxy.Options, backends ...string) *front {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) {
		t.Skipf("cannot listen: %v", err)
	}
	require.NoError(t, err)
	return serveListener(t, l, opts, backends...)
}

// serveListener is serve for a listener.
func serveListener(t testing.TB, l net.Listener, opts proxy.Options, backends ...string) *front {
	t.Helper()
	log := &notes{}
	if opts.ErrorLog == nil {
		opts.ErrorLog = slog.New(slog.NewTextHandler(log, nil))
	}
	p, err := proxy.New(opts)
	require.NoError(t, err)
	p.SetBackends(backends)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		if opts.GetCertificate != nil {
			served <- p.ServeTLS(ctx, l)
		} else {
			served <- p.Serve(ctx, l)
		}
	}()
	f := &front{Proxy: p, addr: l.Addr().String(), log: log}
	f.stop = sync.OnceFunc(func() {
		cancel()
		p.Close()
		select {
		case err := <-served:
			assert.NoError(t, err)
		case <-time.After(patience):
			assert.Fail(t, "Serve does not return")
		}
	})
	t.Cleanup(f.stop)
	return f
}

// only returns the status of the only backend.
func (f *front) only(t testing.TB) proxy.BackendStatus {
	t.Helper()
	for _, pool := range f.Status().Pools {
		if pool.Name == proxy.DefaultPool {
			require.Len(t, pool.Backends, 1)
			return pool.Backends[0]
		}
	}
	require.Fail(t, "no pool")
	return proxy.BackendStatus{}
}

// httpBackend serves h, HTTP/1.1 and HTTP/2 without TLS, until the test ends. It
// returns its address.
func httpBackend(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	return newOrigin(t, "", h).addr
}

// dial connects to the proxy. All that is done on the connection must be done in
// time.
func dial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	return c.(*net.TCPConn)
}

func send(t testing.TB, c net.Conn, s string) {
	t.Helper()
	_, err := io.WriteString(c, s)
	require.NoError(t, err)
}

// A response is one that has been read whole.
type response struct {
	*http.Response
	body string
}

// readResponse reads a response to a request of that method.
func readResponse(br *bufio.Reader, method string) (response, error) {
	resp, err := http.ReadResponse(br, &http.Request{Method: method})
	if err != nil {
		return response{}, err
	}
	body, err := io.ReadAll(resp.Body)
	return response{resp, string(body)}, err
}

// ask sends a request and reads the response.
func ask(t testing.TB, c net.Conn, br *bufio.Reader, request string) response {
	t.Helper()
	send(t, c, request)
	method, _, _ := strings.Cut(request, " ")
	resp, err := readResponse(br, method)
	require.NoError(t, err, "response to %.60q", request)
	return resp
}

// requireEnd requires that the proxy closes the connection, and sends no more.
func requireEnd(t testing.TB, br *bufio.Reader) {
	t.Helper()
	rest, err := io.ReadAll(br)
	require.False(t, errors.Is(err, context.DeadlineExceeded) || isTimeout(err), "the connection is still open")
	require.Empty(t, string(rest))
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// A seen is a request as a backend got it.
type seen struct {
	head   string // raw, the empty line included
	method string
	target string
	fields []proxy.Field
	body   string
}

func (s *seen) values(name string) (values []string) {
	for _, f := range s.fields {
		if strings.EqualFold(f.Name, name) {
			values = append(values, f.Value)
		}
	}
	return values
}

// A recorder is a backend that keeps every request that it gets, and reads them
// as strictly as can be: what is not clear to it is an error. It answers with
// the request's target and body.
type recorder struct {
	addr string

	mu   sync.Mutex
	seen []seen
	odd  []error // what it could not read
	cut  int     // requests that ended early
}

func newRecorder(t testing.TB) *recorder {
	r := &recorder{}
	r.addr = newRawOrigin(t, r.serve)
	return r
}

func (r *recorder) serve(c *net.TCPConn, br *bufio.Reader) {
	for {
		s, err := readStrictly(br)
		r.mu.Lock()
		switch {
		case err == nil:
			r.seen = append(r.seen, s)
		case errors.Is(err, errUnclear):
			r.odd = append(r.odd, err)
		case s.head != "":
			r.cut++
		}
		r.mu.Unlock()
		if err != nil {
			return
		}
		body := s.body
		if s.method == "HEAD" {
			body = ""
		}
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nX-Target: %s\r\nContent-Length: %d\r\n\r\n%s", s.target, len(s.body), body)
	}
}

// take returns what was recorded, and forgets it.
func (r *recorder) take() (seen []seen, cut int, odd []error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen, cut, odd = r.seen, r.cut, r.odd
	r.seen, r.cut, r.odd = nil, 0, nil
	return seen, cut, odd
}

var errUnclear = errors.New("unclear request")

// readStrictly reads a request in the one way that RFC 9112 has for senders.
func readStrictly(br *bufio.Reader) (s seen, err error) {
	line := func() (string, error) {
		l, err := br.ReadString('\n')
		if err != nil {
			return "", err
		}
		text, ok := strings.CutSuffix(l, "\r\n")
		if !ok || strings.ContainsAny(text, "\r\x00") {
			return "", fmt.Errorf("%w: line %q", errUnclear, l)
		}
		s.head += l
		return text, nil
	}
	first, err := line()
	if err != nil {
		return s, err
	}
	parts := strings.Split(first, " ")
	if len(parts) != 3 || parts[0] == "" || parts[1] == "" || parts[2] != "HTTP/1.1" {
		return s, fmt.Errorf("%w: request line %q", errUnclear, first)
	}
	s.method, s.target = parts[0], parts[1]
	for {
		l, err := line()
		if err != nil {
			return s, err
		}
		if l == "" {
			break
		}
		name, value, ok := strings.Cut(l, ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			return s, fmt.Errorf("%w: field %q", errUnclear, l)
		}
		s.fields = append(s.fields, proxy.Field{Name: name, Value: strings.Trim(value, " ")})
	}
	lengths, codings := s.values("Content-Length"), s.values("Transfer-Encoding")
	switch {
	case len(s.values("Host")) != 1:
		return s, fmt.Errorf("%w: Host %q", errUnclear, s.values("Host"))
	case len(lengths)+len(codings) > 1:
		return s, fmt.Errorf("%w: Content-Length %q, Transfer-Encoding %q", errUnclear, lengths, codings)
	case len(lengths) == 1:
		n, err := strconv.ParseUint(lengths[0], 10, 32)
		if err != nil {
			return s, fmt.Errorf("%w: Content-Length %q", errUnclear, lengths[0])
		}
		body := make([]byte, n)
		m, err := io.ReadFull(br, body)
		s.body = string(body[:m])
		return s, err
	case len(codings) == 1:
		if codings[0] != "chunked" {
			return s, fmt.Errorf("%w: Transfer-Encoding %q", errUnclear, codings[0])
		}
		head := s.head
		defer func() { s.head = head }()
		for {
			l, err := line()
			if err != nil {
				return s, err
			}
			n, err := strconv.ParseUint(l, 16, 32)
			if err != nil {
				return s, fmt.Errorf("%w: chunk size %q", errUnclear, l)
			}
			if n == 0 {
				break
			}
			data := make([]byte, n)
			if _, err := io.ReadFull(br, data); err != nil {
				return s, err
			}
			s.body += string(data)
			if l, err := line(); err != nil || l != "" {
				return s, fmt.Errorf("%w: after a chunk: %q, %w", errUnclear, l, err)
			}
		}
		for { // trailers
			if l, err := line(); err != nil || l == "" {
				return s, err
			}
		}
	}
	return s, nil
}

// certificate returns one for 127.0.0.1, and the pool that trusts it.
func certificate(t testing.TB) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	pair := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair, nil }, pool
}

// toSlowPath moves a new connection to net/http: its first request is chunked.
func toSlowPath(t testing.TB, c net.Conn, br *bufio.Reader) {
	t.Helper()
	resp := ask(t, c, br, "POST /warm HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n")
	require.Equal(t, 200, resp.StatusCode)
}

// inParallel calls f for each of n numbers, many at once: tests that wait more
// than they work.
func inParallel(n int, f func(int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range min(n, 32) {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}
