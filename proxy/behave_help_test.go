package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// longest is how long what must come may take. Nothing that passes takes as long.
const longest = 20 * time.Second

// soon requires that something becomes true.
func soon(t testing.TB, is func() bool, what ...any) {
	t.Helper()
	require.Eventually(t, is, longest, 2*time.Millisecond, what...)
}

// A rig is a proxy that serves listeners for as long as a test takes. When it has
// ended there must be no goroutine and no file more than before.
type rig struct {
	*proxy.Proxy
	t        testing.TB
	addr     string
	listener net.Listener
	notes    *notes
	cancel   context.CancelFunc
	served   chan error
	ended    sync.Once
	clients  map[way]*http.Client
}

// newRig serves one listener: with TLS if opts has a certificate. Without an
// ErrorLog problems go to the rig's notes.
func newRig(t testing.TB, opts proxy.Options, backends ...string) *rig {
	t.Helper()
	leavesNothing(t)
	return newRigOn(t, newListener(t), opts, backends...)
}

// newRigOn is newRig for a listener.
func newRigOn(t testing.TB, l net.Listener, opts proxy.Options, backends ...string) *rig {
	t.Helper()
	r := &rig{t: t, notes: &notes{}, served: make(chan error, 1)}
	if opts.ErrorLog == nil {
		opts.ErrorLog = slog.New(slog.NewTextHandler(r.notes, nil))
	}
	p, err := proxy.New(opts)
	require.NoError(t, err)
	r.Proxy = p
	p.SetBackends(backends)
	r.addr, r.listener = l.Addr().String(), l
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(context.Background())
	serve := p.Serve
	if opts.GetCertificate != nil {
		serve = p.ServeTLS
	}
	go func() { r.served <- serve(ctx, l) }()
	t.Cleanup(r.close)
	return r
}

// close ends the rig at once.
func (r *rig) close() {
	r.ended.Do(func() {
		r.cancel()
		r.Proxy.Close()
		select {
		case err := <-r.served:
			assert.NoError(r.t, err)
		case <-time.After(longest):
			assert.Fail(r.t, "Serve does not return", stacks())
		}
	})
	if r.t.Failed() {
		r.t.Log(r.notes)
	}
}

func (r *rig) url(path string) string { return "http://" + r.addr + path }

// pool returns the status of a pool.
func (r *rig) pool(name string) proxy.PoolStatus {
	r.t.Helper()
	for _, p := range r.Status().Pools {
		if p.Name == name {
			return p
		}
	}
	require.Fail(r.t, "no pool "+name)
	return proxy.PoolStatus{}
}

// backend returns the status of a backend of the default pool.
func (r *rig) backend(addr string) proxy.BackendStatus {
	r.t.Helper()
	for _, b := range r.pool(proxy.DefaultPool).Backends {
		if b.Addr == addr && !b.Draining {
			return b
		}
	}
	require.Fail(r.t, "no backend "+addr)
	return proxy.BackendStatus{}
}

func stacks() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

// leavesNothing requires that at the end of the test there is no goroutine and no
// open file that is not there now.
func leavesNothing(t testing.TB) {
	t.Helper()
	goroutines, files := runtime.NumGoroutine(), openFiles()
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		ok := assert.Eventually(t, func() bool {
			return runtime.NumGoroutine() <= goroutines+1 && len(openFiles()) <= len(files) // Eventually has one
		}, longest, 5*time.Millisecond)
		if !ok {
			t.Logf("goroutines: %d before, %d after; files: %v before, %v after\n%s", goroutines, runtime.NumGoroutine(), files, openFiles(), stacks())
		}
	})
}

// openFiles returns what is open, if the system tells; but for pipes, of which
// package net keeps some for splicing.
func openFiles() (files []string) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.HasPrefix(to, "pipe:") {
			files = append(files, to)
		}
	}
	return files
}

func newListener(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return l
}

// A wrapping listener has connections that are not those of package net: opaque
// ones do not say what is below.
type wrapping struct {
	net.Listener
	opaque bool
}

func (l wrapping) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if l.opaque {
		return opaqueConn{c}, nil
	}
	return wrappedConn{opaqueConn{c}}, nil
}

type opaqueConn struct{ net.Conn }

type wrappedConn struct{ opaqueConn }

func (c wrappedConn) NetConn() net.Conn { return c.Conn }

// newListenerOf returns a listener for connections of a kind: "tcp", "unix", or of
// TCP but "wrapped", "embedded", or "opaque".
func newListenerOf(t testing.TB, kind string) net.Listener {
	t.Helper()
	if kind != "unix" {
		l := newListener(t)
		switch kind {
		case "wrapped", "opaque":
			l = wrapping{l, kind == "opaque"}
		case "embedded":
			l = veiledListener{l, 0}
		}
		return l
	}
	dir, err := os.MkdirTemp("", "") // that of t may be too long for a socket
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", dir+"/s")
	require.NoError(t, err)
	return l
}

// notes keep what is logged.
type notes struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (n *notes) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.buf.Write(p)
}

func (n *notes) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.buf.String()
}

// An origin is a backend of net/http, which speaks HTTP/1.1 and HTTP/2 in
// cleartext.
type origin struct {
	addr string
	hits atomic.Int64
	srv  *http.Server
}

// newOrigin serves with h, or answers with its name if h is nil.
func newOrigin(t testing.TB, name string, h http.HandlerFunc) *origin {
	t.Helper()
	return newOriginAt(t, "127.0.0.1:0", name, h)
}

func newOriginAt(t testing.TB, addr, name string, h http.HandlerFunc) *origin {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	if h == nil {
		h = func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			io.WriteString(w, name)
		}
	}
	o := &origin{addr: l.Addr().String()}
	o.srv = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			o.hits.Add(1)
			h(w, r)
		}),
		Protocols: new(http.Protocols),
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	o.srv.Protocols.SetHTTP1(true)
	o.srv.Protocols.SetUnencryptedHTTP2(true)
	serveHTTP(t, l, o.srv)
	return o
}

// serveHTTP serves a listener for as long as the test takes.
func serveHTTP(t testing.TB, l net.Listener, srv *http.Server) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		srv.Serve(l) // until Close
	}()
	t.Cleanup(func() {
		srv.Close()
		<-ended
	})
}

// newRawOrigin is a backend that gives each connection to f, and closes it when
// f returns.
func newRawOrigin(t testing.TB, f func(c *net.TCPConn, br *bufio.Reader)) string {
	t.Helper()
	l := newListener(t)
	var mu sync.Mutex
	var wg sync.WaitGroup
	ended := false
	conns := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			if ended { // it was accepted just before
				c.Close()
			}
			mu.Unlock()
			wg.Go(func() {
				f(c.(*net.TCPConn), bufio.NewReader(c))
				c.Close()
				mu.Lock()
				delete(conns, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		ended = true
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

// closedAddr returns an address at which nobody listens, until somebody does.
func closedAddr(t testing.TB) string {
	t.Helper()
	l := newListener(t)
	defer l.Close()
	return l.Addr().String()
}

// deadAddr returns an address at which nobody listens, and nobody will while the
// test runs: that of the client's end of a connection.
func deadAddr(t testing.TB) string {
	t.Helper()
	l := newListener(t)
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() {
		c.Close()
		l.Close()
	})
	return c.LocalAddr().String()
}

// A way is one of the ways of a request through the proxy.
type way string

const (
	fastWay way = "fast" // HTTP/1.1
	slowWay way = "slow" // HTTP/1.1 that goes through net/http
	h2Way   way = "h2"   // cleartext HTTP/2
)

var ways = []way{fastWay, slowWay, h2Way}

// eachWay runs a test for each way.
func eachWay(t *testing.T, f func(t *testing.T, w way)) {
	for _, w := range ways {
		t.Run(string(w), func(t *testing.T) { f(t, w) })
	}
}

// client returns a client whose requests go that way. Its redirects are none.
func (w way) client(t testing.TB) *http.Client {
	t.Helper()
	tr := &http.Transport{Protocols: new(http.Protocols), MaxIdleConnsPerHost: 64, DisableCompression: true}
	if w == h2Way {
		tr.Protocols.SetUnencryptedHTTP2(true)
	} else {
		tr.Protocols.SetHTTP1(true)
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: onWay{tr: tr, way: w}, Timeout: longest}
}

// sharedClient returns the rig's client for that way.
func (w way) sharedClient(t testing.TB, r *rig) *http.Client {
	t.Helper()
	if r.clients == nil {
		r.clients = map[way]*http.Client{}
	}
	if r.clients[w] == nil {
		r.clients[w] = w.client(t)
	}
	return r.clients[w]
}

type onWay struct {
	tr    *http.Transport
	way   way
	again bool // it may try again by itself
}

func (o onWay) RoundTrip(r *http.Request) (*http.Response, error) {
	if o.way == slowWay {
		r = r.Clone(r.Context())
		r.Header.Set("Te", "trailers") // the fast path knows nothing of it
	}
	return o.tr.RoundTrip(r)
}

func (o onWay) CloseIdleConnections() { o.tr.CloseIdleConnections() }

// An answer is a response with its body.
type answer struct {
	status int
	header http.Header
	body   string
}

// fetch sends a request and reads the answer. header has names and values.
func fetch(c *http.Client, method, url, body string, header ...string) (answer, error) {
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, url, r)
	if err != nil {
		return answer{}, err
	}
	if o, ok := c.Transport.(onWay); !ok || !o.again {
		req.GetBody = nil // so that the client does not try again by itself
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	return whole(c.Do(req))
}

// whole reads an answer to its end, if the client got one.
func whole(resp *http.Response, err error) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(b)}, err
}

// get requires that a GET succeeds, and returns the body.
func get(t testing.TB, c *http.Client, url string, header ...string) string {
	t.Helper()
	a, err := fetch(c, "GET", url, "", header...)
	require.NoError(t, err)
	require.Equal(t, 200, a.status, a.body)
	return a.body
}

// open opens a connection to a proxy.
func open(t testing.TB, addr string) (*net.TCPConn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(longest))
	return c.(*net.TCPConn), bufio.NewReader(c)
}

// say sends a text.
func say(t testing.TB, c net.Conn, format string, args ...any) {
	t.Helper()
	_, err := fmt.Fprintf(c, format, args...)
	require.NoError(t, err)
}

// hear reads a response.
func hear(t testing.TB, br *bufio.Reader) answer {
	t.Helper()
	a, err := whole(http.ReadResponse(br, nil))
	require.NoError(t, err)
	return a
}

// closes requires that the peer closes the connection, and says nothing more.
func closes(t testing.TB, br *bufio.Reader) {
	t.Helper()
	require.Empty(t, toEnd(t, br))
}

// toEnd requires that the peer closes the connection, and returns what it says
// before.
func toEnd(t testing.TB, br *bufio.Reader) string {
	t.Helper()
	b, err := io.ReadAll(br)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "it does not end")
	return string(b)
}

// A crowd is clients that send requests until it is stopped.
type crowd struct {
	stop   chan struct{}
	wg     sync.WaitGroup
	done   atomic.Int64
	failed atomic.Int64
	first  atomic.Pointer[string]
}

// newCrowd has n clients call ask, again and again, until halt.
func newCrowd(t testing.TB, n int, ask func(client int) error) *crowd {
	c := &crowd{stop: make(chan struct{})}
	for i := range n {
		c.wg.Go(func() {
			for {
				select {
				case <-c.stop:
					return
				default:
				}
				if err := ask(i); err != nil {
					c.failed.Add(1)
					s := err.Error()
					c.first.CompareAndSwap(nil, &s)
				} else {
					c.done.Add(1)
				}
			}
		})
	}
	t.Cleanup(c.halt)
	return c
}

func (c *crowd) halt() {
	select {
	case <-c.stop:
	default:
		close(c.stop)
	}
	c.wg.Wait()
}

// content requires that all requests succeeded, and that there were some.
func (c *crowd) content(t testing.TB) {
	t.Helper()
	c.halt()
	if s := c.first.Load(); s != nil {
		assert.Fail(t, "a request failed", *s)
	}
	assert.Zero(t, c.failed.Load(), "of %d", c.done.Load())
	assert.NotZero(t, c.done.Load())
}
