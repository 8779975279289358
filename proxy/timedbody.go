package proxy

import (
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// A reading is what reads the body of a request, until the handler returns.
type reading struct {
	mu      sync.Mutex               // guards the following
	control *http.ResponseController // nil after end
}

// interrupt lets reading fail.
func (r *reading) interrupt() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.control != nil {
		_ = r.control.SetReadDeadline(longAgo) // a server that cannot do that has no such limit
	}
}

// end is to be called before the handler returns: then there is nothing to
// interrupt any more.
func (r *reading) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.control = nil
}

// A timedBody gives a client of HTTP/2 a time limit for a body, as screened does
// for HTTP/1.
type timedBody struct {
	io.ReadCloser
	timeout time.Duration
	rate    int  // bytes a second; not positive if any will do
	open    bool // its length is unknown

	waited  time.Duration // for the client
	passed  int64
	late    *time.Timer
	settled atomic.Bool
}

func newTimedBody(body io.ReadCloser, reads *reading, timeout time.Duration, rate int, open bool) *timedBody {
	b := &timedBody{ReadCloser: body, timeout: timeout, rate: rate, open: open}
	b.late = time.AfterFunc(timeout, reads.interrupt)
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
	if b.settled.Load() {
		b.late.Stop()
	}
	n, err := b.ReadCloser.Read(p)
	b.late.Stop()
	b.waited += time.Since(began)
	b.passed += int64(n)
	return n, err
}

// answered is called when the response begins: what is open may rest from then
// on, as it may be one side of a conversation.
func (b *timedBody) answered() {
	if b.open {
		b.settled.Store(true)
		b.late.Stop()
	}
}
