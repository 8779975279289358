package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/weaverkit/weaverkit/proxy"
)

var soakTime = flag.Duration("soak", 4*time.Second, "how long TestSoak takes")

// content is what belongs to a seed: every byte of it tells whose it is and where.
func content(seed uint64, n int) []byte {
	b := make([]byte, 0, n+8)
	for len(b) < n {
		b = binary.LittleEndian.AppendUint64(b, seed)
		seed += 0x9e3779b97f4a7c15
	}
	return b[:n:n]
}

// soakBackend answers with the content that is asked for, or with what it got.
func soakBackend(w http.ResponseWriter, r *http.Request) {
	seed, _ := strconv.ParseUint(r.FormValue("seed"), 10, 64)
	n, _ := strconv.Atoi(r.FormValue("n"))
	w.Header().Set("X-Seed", r.FormValue("seed"))
	control := http.NewResponseController(w)
	switch r.URL.Path {
	case "/length":
		w.Header().Set("Content-Length", strconv.Itoa(n))
		_, _ = w.Write(content(seed, n)) // the client tells
	case "/chunks":
		for b := content(seed, n); len(b) > 0; {
			k := min(1+rand.IntN(40_000), len(b))
			_, _ = w.Write(b[:k]) // the client tells
			_ = control.Flush()
			b = b[k:]
		}
	case "/echo":
		_ = control.EnableFullDuplex() // HTTP/2 always does that
		_, _ = io.Copy(w, r.Body)      // the client tells
	case "/upgrade":
		c, rw, err := control.Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.Copy(c, rw) // until the client has ended it
	}
}

// soak is what the clients of TestSoak share.
type soak struct {
	plain, encrypted, stream string // addresses
	roots                    *x509.CertPool
	ctx                      context.Context
	done                     [16]atomic.Int64 // of each kind
}

// TestSoak has clients of all kinds ask for some time, while backends are
// replaced, and compares every byte of every answer with what it must be. None
// may fail, and nothing may be left behind.
func TestSoak(t *testing.T) {
	if testing.Short() {
		*soakTime = time.Second
	}
	newListener(t).Close() // the first one has the runtime open files of its own
	goroutines, files := runtime.NumGoroutine(), len(openFiles())
	t.Run("mix", testSoak)
	if !comesTrue(func() bool { return runtime.NumGoroutine() <= goroutines }) {
		assert.Fail(t, "goroutines are left")
		_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
	}
	assert.True(t, comesTrue(func() bool { return len(openFiles()) <= files }), "files are left open")
}

// comesTrue waits until it is so, without a goroutine of its own.
func comesTrue(so func() bool) bool {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if so() {
			return true
		}
	}
	return false
}

func testSoak(t *testing.T) {
	cert, roots := certificate(t)
	// To connect may take a while if the machine is busy, and is tried again: that
	// is no failure, but would be counted.
	stream := newStreamRig(t, proxy.Options{DialTimeout: patience}) // first: it looks for what is left when the others have ended
	f := serve(t, proxy.Options{DialTimeout: patience})
	p := f.Proxy
	tlsProxy := serve(t, proxy.Options{DialTimeout: patience, GetCertificate: cert})
	ctx, cancel := context.WithTimeout(context.Background(), *soakTime)
	defer cancel()
	s := &soak{plain: f.addr, encrypted: tlsProxy.addr, stream: stream.addr, roots: roots, ctx: ctx}

	var wg sync.WaitGroup
	first := make(chan struct{})
	wg.Go(func() { replaceBackends(t, ctx, first, p, tlsProxy.Proxy, stream.Proxy) })
	<-first
	kinds := []func(*soak, *rand.Rand) error{
		(*soak).keepAlive, (*soak).keepAlive, (*soak).keepAlive, (*soak).slowPath, (*soak).encryptedHTTP1,
		(*soak).http2, (*soak).encryptedHTTP2, (*soak).uploads, (*soak).upgrade, (*soak).pipelines, (*soak).leaves, (*soak).attacks,
		(*soak).streams,
	}
	for i, kind := range kinds {
		for range 2 {
			wg.Go(func() {
				random := rand.New(rand.NewPCG(uint64(i), rand.Uint64()))
				for ctx.Err() == nil {
					if err := kind(s, random); err != nil {
						assert.NoError(t, err, "kind %d, at %v", i, time.Now())
						cancel()
						return
					}
					s.done[i].Add(1)
				}
			})
		}
	}
	wg.Wait()
	rounds := make([]int64, len(kinds))
	for i := range kinds {
		rounds[i] = s.done[i].Load()
		assert.NotZero(t, rounds[i], "kind %d did nothing", i)
	}
	t.Logf("rounds of each kind: %v", rounds)
	defer func() {
		if t.Failed() {
			t.Logf("the proxies say: %s%s", f.log, tlsProxy.log)
		}
	}()
	for _, p := range []*proxy.Proxy{p, tlsProxy.Proxy, stream.Proxy} {
		var errs uint64
		for kind, n := range p.Status().Pools[0].Errors {
			// A machine that is busy may be too slow to connect in time.
			if k := proxy.ErrorKind(kind); k != proxy.Canceled && k != proxy.DialFailed {
				errs += n
			}
		}
		assert.Zero(t, errs, "%v", p.Status().Pools[0].Errors)
		assert.Eventually(t, func() bool {
			for _, b := range p.Status().Pools[0].Backends {
				if b.InFlight != 0 {
					return false
				}
			}
			return true
		}, patience, time.Millisecond, "requests are left")
	}
}

// replaceBackends has three backends at any time, and puts a new one in place of
// the oldest again and again. It is ready when the first three are there.
func replaceBackends(t *testing.T, ctx context.Context, ready chan<- struct{}, proxies ...*proxy.Proxy) {
	type server struct {
		*http.Server
		addr string
		done chan struct{}
	}
	start := func() *server {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if !assert.NoError(t, err) {
			runtime.Goexit()
		}
		s := &server{Server: &http.Server{Handler: http.HandlerFunc(soakBackend)}, addr: l.Addr().String(), done: make(chan struct{})}
		go func() {
			defer close(s.done)
			_ = s.Serve(l) // ends by Close
		}()
		return s
	}
	stop := func(s *server) {
		s.Close()
		<-s.done
	}
	var servers []*server
	for set := false; ctx.Err() == nil; set = true {
		for len(servers) < 3 {
			servers = append(servers, start())
		}
		var addrs []string
		for _, s := range servers {
			addrs = append(addrs, s.addr)
		}
		for _, p := range proxies {
			p.SetBackends(addrs)
		}
		if !set {
			close(ready)
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
		if ctx.Err() != nil {
			break
		}
		oldest := servers[0]
		next := start()
		servers = append(servers[1:], next)
		addrs = append(addrs[1:], next.addr)
		for _, p := range proxies {
			p.SetBackends(addrs)
		}
		for _, p := range proxies {
			drained, cancel := context.WithTimeout(context.Background(), patience)
			assert.NoError(t, p.Pool(proxy.DefaultPool).Drained(drained, oldest.addr))
			cancel()
		}
		stop(oldest)
	}
	// The clients may still ask: those that are left go when the test ends.
	t.Cleanup(func() {
		for _, s := range servers {
			stop(s)
		}
	})
}

func (s *soak) dial() (net.Conn, *bufio.Reader, error) { return s.dialAt(s.plain) }

func (s *soak) dialAt(addr string) (net.Conn, *bufio.Reader, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	_ = c.SetDeadline(time.Now().Add(2 * patience)) // or what follows fails
	return c, bufio.NewReader(c), nil
}

func size(random *rand.Rand) int {
	switch random.IntN(10) {
	case 0:
		return random.IntN(2 << 20)
	case 1, 2:
		return random.IntN(100 << 10)
	case 3:
		return 0
	}
	return random.IntN(10_000)
}

// target returns what to ask for, and the seed and the length of the answer.
func target(random *rand.Rand) (string, uint64, int) {
	path := []string{"/length", "/chunks"}[random.IntN(2)]
	seed, n := random.Uint64(), size(random)
	return fmt.Sprintf("%s?seed=%d&n=%d", path, seed, n), seed, n
}

func same(got, want []byte, what string) error {
	if bytes.Equal(got, want) {
		return nil
	}
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	return fmt.Errorf("%s: %d bytes instead of %d, the first different one is at %d: %.40q", what, len(got), len(want), at, got[at:])
}

// raw asks some times on one connection, with these header fields.
func (s *soak) raw(random *rand.Rand, addr, fields string) error {
	c, br, err := s.dialAt(addr)
	if err != nil {
		return err
	}
	defer c.Close()
	for range 1 + random.IntN(20) {
		target, seed, n := target(random)
		if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: h\r\n%s\r\n", target, fields); err != nil {
			return err
		}
		resp, err := readResponse(br, "GET")
		if err != nil {
			return fmt.Errorf("%s: %w", target, err)
		}
		if resp.StatusCode != 200 {
			return fmt.Errorf("%s: %s: %s", target, resp.Status, resp.body)
		}
		if err := same([]byte(resp.body), content(seed, n), target); err != nil {
			return err
		}
	}
	return nil
}

func (s *soak) keepAlive(random *rand.Rand) error { return s.raw(random, s.plain, "") }
func (s *soak) slowPath(random *rand.Rand) error  { return s.raw(random, s.plain, "TE: trailers\r\n") }

// streams speaks HTTP with a backend through a proxy that does not know.
func (s *soak) streams(random *rand.Rand) error { return s.raw(random, s.stream, "") }

// client asks some times with net/http's client.
func (s *soak) client(random *rand.Rand, url string, http2 bool) error {
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.roots}, Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP1(!http2)
	transport.Protocols.SetHTTP2(http2)
	transport.Protocols.SetUnencryptedHTTP2(http2)
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 2 * patience}
	var wg sync.WaitGroup
	errs := make(chan error, 4)
	for range cap(errs) {
		seed := random.Uint64()
		wg.Go(func() {
			random := rand.New(rand.NewPCG(seed, 1))
			for range 5 {
				if err := once(client, url, random); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

// once sends a request of some kind with net/http's client.
func once(client *http.Client, url string, random *rand.Rand) error {
	target, seed, n := target(random)
	want := content(seed, n)
	var resp *http.Response
	var err error
	if random.IntN(2) == 0 {
		resp, err = client.Get(url + target)
	} else {
		target = "/echo"
		var body io.Reader = bytes.NewReader(want)
		if random.IntN(2) == 0 {
			body = io.MultiReader(body)
		}
		resp, err = client.Post(url+target, "", body)
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%s: %w", target, err)
	}
	if resp.StatusCode != 200 {
		return fmt.Errorf("%s: %s: %s", target, resp.Status, got)
	}
	return same(got, want, target)
}

func (s *soak) encryptedHTTP1(random *rand.Rand) error {
	return s.client(random, "https://"+s.encrypted, false)
}
func (s *soak) encryptedHTTP2(random *rand.Rand) error {
	return s.client(random, "https://"+s.encrypted, true)
}
func (s *soak) http2(random *rand.Rand) error   { return s.client(random, "http://"+s.plain, true) }
func (s *soak) uploads(random *rand.Rand) error { return s.client(random, "http://"+s.plain, false) }

// upgrade talks over a connection that switches protocols.
func (s *soak) upgrade(random *rand.Rand) error {
	c, br, err := s.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET /upgrade HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 101 {
		return fmt.Errorf("upgrade: %v, %w", resp, err)
	}
	for range 10 {
		want := content(random.Uint64(), random.IntN(20_000))
		if _, err := c.Write(want); err != nil {
			return err
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(br, got); err != nil {
			return err
		}
		if err := same(got, want, "upgrade"); err != nil {
			return err
		}
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	rest, err := io.ReadAll(br)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("upgrade: %.40q at the end", rest)
	}
	return err
}

// pipelines sends requests without waiting for answers.
func (s *soak) pipelines(random *rand.Rand) error {
	c, br, err := s.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	var requests strings.Builder
	var wants [][]byte
	for range 20 {
		n, seed := random.IntN(3000), random.Uint64()
		want := content(seed, n)
		switch random.IntN(8) {
		case 0, 1:
			fmt.Fprintf(&requests, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", n, want)
		case 2:
			fmt.Fprintf(&requests, "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", n+1, append(want, 'x'))
			want = append(want, 'x')
		default:
			fmt.Fprintf(&requests, "GET /length?seed=%d&n=%d HTTP/1.1\r\nHost: h\r\n\r\n", seed, n)
		}
		wants = append(wants, want)
	}
	if _, err := io.WriteString(c, requests.String()); err != nil {
		return err
	}
	for i, want := range wants {
		resp, err := readResponse(br, "GET")
		if err != nil || resp.StatusCode != 200 {
			return fmt.Errorf("pipelined %d: %v: %w", i, resp.Response, err)
		}
		if err := same([]byte(resp.body), want, "pipelined"); err != nil {
			return err
		}
	}
	return nil
}

// leaves does so in the midst of a response, an upload, or a head.
func (s *soak) leaves(random *rand.Rand) error {
	c, br, err := s.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	target, _, _ := target(random)
	switch random.IntN(4) {
	case 0:
		_, err = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHo", target)
	case 1:
		_, err = fmt.Fprintf(c, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n%s", content(1, 50_000))
	case 2:
		_, err = fmt.Fprintf(c, "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n10000\r\n%s", content(1, 50_000))
	case 3:
		if _, err = io.WriteString(c, "GET /length?seed=1&n=1000000 HTTP/1.1\r\nHost: h\r\n\r\n"); err == nil {
			_, err = io.CopyN(io.Discard, br, int64(random.IntN(100_000)))
		}
	}
	return err
}

// attacks sends what must be refused.
func (s *soak) attacks(random *rand.Rand) error {
	for {
		all := attacks()
		a := all[random.IntN(len(all))]
		if len(a.passes) > 0 || len(a.raw) > 4096 {
			continue
		}
		c, br, err := s.dial()
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := io.WriteString(c, a.raw); err != nil {
			return err
		}
		resp, err := readFinal(br, "GET")
		if err != nil || resp.StatusCode < 400 {
			return fmt.Errorf("%s: %v: %w", a.name, resp.Response, err)
		}
		if _, err := br.ReadByte(); err == nil || isTimeout(err) {
			return errors.New(a.name + ": it goes on")
		}
		return nil
	}
}
