//go:build linux

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// requestTimeout is when the load gives a request up.
const requestTimeout = 10 * time.Second

// An openLoop sends requests at a rate, whatever becomes of earlier ones, with
// a mix of methods. It writes them itself: net/http's client tries requests
// again where a connection breaks, which is what the subject is to do.
type openLoop struct {
	address string
	rate    int
	stopc   chan struct{}
	wg      sync.WaitGroup

	mu      sync.Mutex // guards the following
	idle    []*clientConn
	records []*record // by number
}

type clientConn struct {
	net.Conn
	in *bufio.Reader
}

// A record is what became of a request. It may be read after stop.
type record struct {
	id     int
	method string
	began  time.Time
	took   time.Duration
	err    error
}

func startOpenLoop(address string, rate int) *openLoop {
	l := &openLoop{address: address, rate: rate, stopc: make(chan struct{})}
	l.wg.Go(l.run)
	return l
}

func (l *openLoop) run() {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	start := time.Now()
	for sent := 0; ; {
		select {
		case <-tick.C:
		case <-l.stopc:
			return
		}
		for due := int(time.Since(start).Seconds() * float64(l.rate)); sent < due; sent++ {
			r := &record{id: sent, method: method(), began: time.Now()}
			l.mu.Lock()
			l.records = append(l.records, r)
			l.mu.Unlock()
			l.wg.Go(func() {
				r.err = l.do(r)
				r.took = time.Since(r.began)
			})
		}
	}
}

// stop ends the load, waits for the requests under way, and returns what
// became of all.
func (l *openLoop) stop() []*record {
	close(l.stopc)
	l.wg.Wait()
	for _, c := range l.idle {
		c.Close()
	}
	l.idle = nil
	return l.records
}

// method draws a method: 40 % GET, 15 % each of the others.
func method() string {
	switch n := rand.IntN(20); {
	case n < 3:
		return http.MethodHead
	case n < 6:
		return http.MethodPut
	case n < 9:
		return http.MethodDelete
	case n < 12:
		return http.MethodPost
	default:
		return http.MethodGet
	}
}

var requestBody = bytes.Repeat([]byte("b"), 100)

func (l *openLoop) do(r *record) error {
	c, err := l.conn()
	if err != nil {
		return err
	}
	keep := false
	defer func() {
		if !keep {
			c.Close()
			return
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.idle = append(l.idle, c)
	}()
	_ = c.SetDeadline(r.began.Add(requestTimeout))
	out := fmt.Appendf(nil, "%s /work HTTP/1.1\r\nHost: bench.test\r\n%s: %d\r\n", r.method, idHeader, r.id)
	if r.method == http.MethodPut || r.method == http.MethodPost {
		out = fmt.Appendf(out, "Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", len(requestBody), requestBody)
	} else {
		out = append(out, "\r\n"...)
	}
	if _, err := c.Write(out); err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.in, &http.Request{Method: r.method})
	if err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	if got := resp.Header.Get(idHeader); got != strconv.Itoa(r.id) {
		return fmt.Errorf("request %d got the answer to %q", r.id, got)
	}
	if r.method != http.MethodHead && n != smallSize {
		return fmt.Errorf("answered with %d bytes", n)
	}
	keep = !resp.Close
	return nil
}

// conn returns a connection that is open, or a new one. The one used last
// comes first, so that there are as few as it takes.
func (l *openLoop) conn() (*clientConn, error) {
	l.mu.Lock()
	if n := len(l.idle); n > 0 {
		c := l.idle[n-1]
		l.idle = l.idle[:n-1]
		l.mu.Unlock()
		return c, nil
	}
	l.mu.Unlock()
	c, err := net.DialTimeout("tcp", l.address, requestTimeout)
	if err != nil {
		return nil, err
	}
	return &clientConn{Conn: c, in: bufio.NewReaderSize(c, 1024)}, nil
}
