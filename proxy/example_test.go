package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/weaverkit/weaverkit/proxy"
)

// replica starts a server that answers with its name.
func replica(name string) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, name)
	}))
}

func address(s *httptest.Server) string { return s.Listener.Addr().String() }

func body(url string) string {
	resp, err := http.Get(url)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// The shortest use: one listener, and the replicas behind it, which may change at
// any time.
func Example() {
	one, two := replica("one"), replica("two")
	defer one.Close()
	defer two.Close()

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	front, err := proxy.Start(l, proxy.Options{})
	if err != nil {
		panic(err)
	}
	defer front.Close(context.Background())

	front.SetBackends([]string{address(one)})
	fmt.Println(body("http://" + front.Addr()))
	front.SetBackends([]string{address(two)})
	fmt.Println(body("http://" + front.Addr()))
	// Output:
	// one
	// two
}

// A canary gets a tenth of the requests, exactly; and all of those that ask for
// it.
func ExampleProxy_SetSplit() {
	v1, v2 := replica("v1"), replica("v2")
	defer v1.Close()
	defer v2.Close()

	p, err := proxy.New(proxy.Options{Override: proxy.ByHeader("X-Version")})
	if err != nil {
		panic(err)
	}
	defer p.Close()
	p.Pool("v1").SetBackends([]string{address(v1)})
	p.Pool("v2").SetBackends([]string{address(v2)})
	if err := p.SetSplit(proxy.Share{Pool: "v2", Weight: 1000}, proxy.Share{Pool: "v1", Weight: 9000}); err != nil {
		panic(err)
	}

	server := httptest.NewServer(p) // or p.Serve, which costs less
	defer server.Close()
	counts := map[string]int{}
	for range 100 {
		counts[body(server.URL)]++
	}
	fmt.Println(counts)

	preview, err := http.NewRequest("GET", server.URL, nil)
	if err != nil {
		panic(err)
	}
	preview.Header.Set("X-Version", "v2")
	resp, err := http.DefaultClient.Do(preview)
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	io.Copy(fmtWriter{}, resp.Body)
	// Output:
	// map[v1:90 v2:10]
	// v2
}

// fmtWriter prints what is written to it.
type fmtWriter struct{}

func (fmtWriter) Write(b []byte) (int, error) {
	fmt.Println(string(b))
	return len(b), nil
}

// Before a replica is stopped it is drained: it gets no new request, and those
// that it has are waited for.
func ExamplePool_Drain() {
	arrived := make(chan bool)
	old := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrived <- true
		time.Sleep(50 * time.Millisecond)
		fmt.Fprint(w, "old")
	}))
	defer old.Close()
	successor := replica("new")
	defer successor.Close()

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	front, err := proxy.Start(l, proxy.Options{})
	if err != nil {
		panic(err)
	}
	defer front.Close(context.Background())
	front.SetBackends([]string{address(old)})

	slow := make(chan string)
	go func() { slow <- body("http://" + front.Addr()) }()
	<-arrived
	if err := front.Add(proxy.Backend{Addr: address(successor)}); err != nil {
		panic(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := front.Drain(ctx, address(old)); err != nil {
		panic(err)
	}
	fmt.Println("was in flight:", <-slow)
	fmt.Println("since then:", body("http://"+front.Addr()))
	// Output:
	// was in flight: old
	// since then: new
}
