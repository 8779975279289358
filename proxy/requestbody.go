package proxy

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// A requestBody is the body of a request, which may have to be sent again: its
// beginning is kept as it passes, until there is too much of it, or a response.
type requestBody struct {
	io.ReadCloser
	err     atomic.Pointer[error]
	waiting atomic.Bool // for the client
	mirror  *mirrorCopy // nil if there is none
	trailer http.Header // net/http fills it when the body has been read

	turn sync.Mutex // to read on: an attempt that is over may still be at it

	mu      sync.Mutex // guards the following
	current *attemptBody
	kept    []byte
	settled bool // no more is kept
	lost    bool // more has passed than was kept
	ended   bool
}

// attempt returns the body for an attempt on a backend. When that has been read the
// trailer has the values of the names that are in it.
func (b *requestBody) attempt(to *backend, trailer http.Header) *attemptBody {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.current = &attemptBody{of: b, to: to, trailer: trailer}
	return b.current
}

// replayable reports whether the body can be sent from its beginning.
func (b *requestBody) replayable() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.lost && b.failed() == nil
}

// whole reports whether the client has sent all of it.
func (b *requestBody) whole() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ended
}

// settle is called when there is a response: the body is not sent again.
func (b *requestBody) settle() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settled = true
}

func (b *requestBody) failed() error {
	if e := b.err.Load(); e != nil {
		return *e
	}
	return nil
}

// next reads what comes next from the client, for an attempt, and keeps it.
func (b *requestBody) next(a *attemptBody, p []byte) (int, error) {
	b.waiting.Store(true)
	n, err := b.ReadCloser.Read(p)
	b.waiting.Store(false)
	if err != nil && err != io.EOF {
		b.err.Store(&err)
	}
	b.mu.Lock()
	switch {
	case n == 0:
	case a != b.current: // which is to have it
		b.kept = append(b.kept, p[:n]...)
	case !b.settled && len(b.kept)+n <= bufferSize:
		b.kept = append(b.kept, p[:n]...)
	default:
		b.settled, b.lost, b.kept = true, true, nil
	}
	b.ended = b.ended || err == io.EOF
	b.mu.Unlock()
	if b.mirror != nil {
		b.mirror.add(p[:n])
		if err == io.EOF {
			b.mirror.send()
		}
	}
	return n, err
}

// again reads what an attempt has not had yet of what was kept. over says why
// there is nothing to read for it any more.
func (b *requestBody) again(a *attemptBody, p []byte) (n int, over error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case a != b.current:
		return 0, errAttemptOver
	case a.pos < len(b.kept):
		n = copy(p, b.kept[a.pos:])
		a.pos += n
		return n, nil
	case b.ended:
		return 0, io.EOF
	}
	return 0, b.failed()
}

var errAttemptOver = errors.New("the request is being sent elsewhere")

// An attemptBody is a requestBody as one attempt sends it.
type attemptBody struct {
	of      *requestBody
	to      *backend
	pos     int         // in what is kept
	trailer http.Header // no other attempt's: one that is over may still be at it
}

// rewind lets it begin anew, if it can.
func (a *attemptBody) rewind() bool {
	a.pos = 0
	return a.of.replayable()
}

func (a *attemptBody) Read(p []byte) (n int, err error) {
	if n, err = a.of.again(a, p); n == 0 && err == nil {
		a.of.turn.Lock() // an attempt that is over may have to come to its end
		if n, err = a.of.again(a, p); n == 0 && err == nil {
			n, err = a.of.next(a, p)
			a.pos += n
		}
		a.of.turn.Unlock()
	}
	if err == io.EOF {
		for name := range a.trailer {
			a.trailer[name] = a.of.trailer[name]
		}
	}
	a.to.bytesIn.Add(uint64(n))
	return n, err
}

// Close does nothing: net/http closes the body of every attempt, and the server
// closes the body itself.
func (a *attemptBody) Close() error { return nil }
