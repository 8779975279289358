package proxy

import (
	"bytes"
	"io"
	"sync/atomic"
)

// A requestBody is the body of a request, which may have to be sent again.
type requestBody struct {
	io.ReadCloser
	touched atomic.Bool
	err     atomic.Pointer[error]
	copy    []byte
	whole   bool        // it was read before, and is in copy
	to      *backend    // of the attempt
	mirror  *mirrorCopy // nil if there is none
}

// keep reads the body, which is small.
func (b *requestBody) keep() {
	buf, err := io.ReadAll(b.ReadCloser)
	if err == nil {
		b.copy, b.whole = buf, true
		return
	}
	b.touched.Store(true)
	b.err.Store(&err)
	b.ReadCloser = failedBody{err}
}

// A failedBody is one that the client did not send.
type failedBody struct{ err error }

func (b failedBody) Read([]byte) (int, error) { return 0, b.err }
func (b failedBody) Close() error             { return nil }

// attempt returns the body for an attempt on a backend.
func (b *requestBody) attempt(to *backend) io.ReadCloser {
	if b.whole {
		return &requestBody{ReadCloser: io.NopCloser(bytes.NewReader(b.copy)), to: to}
	}
	b.to = to
	return b
}

func (b *requestBody) replayable() bool { return b.whole || !b.touched.Load() }

func (b *requestBody) failed() error {
	if e := b.err.Load(); e != nil {
		return *e
	}
	return nil
}

func (b *requestBody) Read(p []byte) (int, error) {
	b.touched.Store(true)
	n, err := b.ReadCloser.Read(p)
	b.to.bytesIn.Add(uint64(n))
	if b.mirror != nil {
		b.mirror.add(p[:n])
		if err == io.EOF {
			b.mirror.send()
		}
	}
	if err != nil && err != io.EOF {
		b.err.Store(&err)
	}
	return n, err
}

// Close does nothing: a transport closes the body of every attempt, and the
// server closes the body itself.
func (b *requestBody) Close() error { return nil }
