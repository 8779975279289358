package proxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// What does it cost to read a head? A browser's, and the shortest; net/http's
// reader for comparison.
func BenchmarkParse(b *testing.B) {
	for _, bench := range []struct{ name, head string }{
		{"short", "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"},
		{"browser", "GET /path/to/page?q=1 HTTP/1.1\r\nHost: example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n" +
			"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n" +
			"Connection: keep-alive\r\nCookie: session=0123456789abcdef; theme=dark\r\nUpgrade-Insecure-Requests: 1\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\n" +
			"Sec-Fetch-Site: none\r\nSec-Fetch-User: ?1\r\nPriority: u=0, i\r\n\r\n"},
	} {
		b.Run(bench.name, func(b *testing.B) {
			parse := proxy.NewParser()
			head := []byte(bench.head)
			b.ReportAllocs()
			b.SetBytes(int64(len(head)))
			for b.Loop() {
				if !parse(head) {
					b.Fatal("it is not plain")
				}
			}
		})
		b.Run(bench.name+"/net-http", func(b *testing.B) {
			from := strings.NewReader(bench.head)
			br := bufio.NewReader(from)
			b.ReportAllocs()
			b.SetBytes(int64(len(bench.head)))
			for b.Loop() {
				from.Reset(bench.head)
				br.Reset(from)
				if _, err := http.ReadRequest(br); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What does it cost to choose a backend, and does it depend on how many there
// are? One request at a time, and all processors at once.
func BenchmarkPick(b *testing.B) {
	for _, balance := range []struct {
		name string
		opts proxy.Options
		key  string
	}{
		{"PeakEWMA", proxy.Options{}, ""},
		{"RoundRobin", proxy.Options{Balance: proxy.RoundRobin}, ""},
		{"Hash", proxy.Options{Balance: proxy.Hash, HashBy: proxy.ByHeader("X")}, "key"},
	} {
		for _, n := range []int{2, 10, 100} {
			b.Run(fmt.Sprintf("%s/backends=%d", balance.name, n), func(b *testing.B) {
				bal := newBalancer(b, balance.opts, addrs(n)...)
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					now := time.Second
					for pb.Next() {
						now += time.Microsecond
						k, ok := bal.Pick(now, balance.key)
						if !ok {
							b.Fatal("there is none")
						}
						k.Answer(now, time.Millisecond)
					}
				})
			})
		}
	}
}

// What does it cost to choose a pool: when each request is decided by itself, and
// when clients stay?
func BenchmarkSplit(b *testing.B) {
	for _, n := range []int{1, 2, 5} {
		var shares []proxy.Share
		for i := range n {
			shares = append(shares, proxy.Share{Pool: fmt.Sprint(i), Weight: proxy.Whole / n})
		}
		for _, key := range []string{"", "c0ffee-c0ffee"} {
			b.Run(fmt.Sprintf("pools=%d/sticky=%v", n, key != ""), func(b *testing.B) {
				p := newProxy(b, proxy.Options{Sticky: proxy.ByCookie("user")})
				require.NoError(b, p.SetSplit(shares...))
				b.ReportAllocs()
				for b.Loop() {
					p.Choose(key, "")
				}
			})
		}
	}
}

// A plainClient is one that sends a request and reads what comes, without any
// allocation of its own.
type plainClient struct {
	c       net.Conn
	request []byte
	buf     []byte
	size    int // of the answer
}

func newPlainClient(t testing.TB, addr string) *plainClient {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	p := &plainClient{c: c, request: []byte("GET /path HTTP/1.1\r\nHost: example.com\r\nUser-Agent: plain\r\n\r\n"), buf: make([]byte, 4096)}
	_, err = c.Write(p.request)
	require.NoError(t, err)
	c.SetReadDeadline(time.Now().Add(longest))
	br := bufio.NewReader(io.TeeReader(c, countInto{&p.size}))
	resp, err := http.ReadResponse(br, nil)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	c.SetReadDeadline(time.Time{})
	return p
}

type countInto struct{ n *int }

func (c countInto) Write(b []byte) (int, error) {
	*c.n += len(b)
	return len(b), nil
}

func (p *plainClient) ask() error {
	if _, err := p.c.Write(p.request); err != nil {
		return err
	}
	_, err := io.ReadFull(p.c, p.buf[:p.size])
	return err
}

// newPlainOrigin is a backend that answers each request with 64 bytes, without
// any allocation.
func newPlainOrigin(t testing.TB) string {
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n" + strings.Repeat("x", 64))
	return newRawOrigin(t, func(c *net.TCPConn, _ *bufio.Reader) {
		buf := make([]byte, 4096)
		for {
			if _, err := c.Read(buf); err != nil { // a request comes in one piece
				return
			}
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	})
}

// How long does a small request take, client and backend included; and how much
// of that is the proxy's? With a bare ReverseProxy, and without anything between,
// for comparison.
func BenchmarkRequest(b *testing.B) {
	origin := newPlainOrigin(b)
	run := func(addr string) func(*testing.B) {
		return func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				c := newPlainClient(b, addr)
				for pb.Next() {
					if err := c.ask(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
	}
	b.Run("direct", run(origin))
	for _, serve := range []struct {
		name string
		with func(p *proxy.Proxy, ctx context.Context, l net.Listener) error
	}{
		{"proxy", func(p *proxy.Proxy, ctx context.Context, l net.Listener) error { return p.Serve(ctx, l) }},
		{"handler", func(p *proxy.Proxy, ctx context.Context, l net.Listener) error {
			srv := &http.Server{Handler: p}
			stop := context.AfterFunc(ctx, func() { srv.Close() })
			defer stop()
			return srv.Serve(l)
		}},
		{"ReverseProxy", func(_ *proxy.Proxy, ctx context.Context, l net.Listener) error {
			to := &url.URL{Scheme: "http", Host: origin}
			srv := &http.Server{Handler: &httputil.ReverseProxy{
				Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to); r.SetXForwarded() },
				Transport: &http.Transport{MaxIdleConnsPerHost: 256},
			}}
			stop := context.AfterFunc(ctx, func() { srv.Close() })
			defer stop()
			return srv.Serve(l)
		}},
	} {
		p := newProxy(b, proxy.Options{})
		p.SetBackends([]string{origin})
		l := newListener(b)
		ctx, cancel := context.WithCancel(context.Background())
		served := make(chan struct{})
		go func() {
			defer close(served)
			_ = serve.with(p, ctx, l)
		}()
		b.Run(serve.name, run(l.Addr().String()))
		cancel()
		<-served
	}
}
