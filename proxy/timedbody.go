package proxy

import (
	"io"
	"net/http"
	"sync"
	"time"
)

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
