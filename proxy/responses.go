package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
)

// A responseScan goes over what a backend of HTTP/1 sends to net/http, which
// accepts heads that others read differently, such as those with both
// Content-Length and Transfer-Encoding. What the fast path refuses does not pass
// here, either, and a head passes when there is all of it.
type responseScan struct {
	mu        sync.Mutex // guards the following
	state     responseState
	announced bool         // a request is to be written next
	toHead    bool         // it is a HEAD, and the response to it has no body
	interim   int          // responses before the last one
	left      int64        // of a body that has a length
	chunks    chunkScanner // of one that has chunks
}

type responseState int

const (
	betweenResponses responseState = iota
	atResponse
	inResponseBody
	inResponseChunks
	responseOpen // all passes, to the end of the connection
	responseUnasked
)

// errUnasked says that a backend has said what nobody asked for.
var errUnasked = errors.New("a response that nobody asked for")

// announce says which request is to be written next.
func (s *responseScan) announce(method string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.announced, s.toHead = true, method == http.MethodHead
}

// writing is called when something is about to be written. With the first of it a
// request begins.
func (s *responseScan) writing() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.announced && s.state == betweenResponses {
		s.announced, s.state, s.interim = false, atResponse, 0
	}
}

// rests reports whether all that was asked for has come, and nothing else.
func (s *responseScan) rests() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state == betweenResponses
}

// scan returns how many of the bytes that come next may pass. The others are the
// beginning of a head, and are to be scanned again together with what follows;
// unless there is an error: then nothing passes after those.
func (s *responseScan) scan(b []byte) (passes int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for passes < len(b) {
		next := b[passes:]
		n := len(next)
		switch s.state {
		case betweenResponses, responseUnasked:
			s.state = responseUnasked
			return passes, errUnasked
		case atResponse:
			if n, err = s.headLocked(next[:min(n, maxResponseHead)]); err != nil {
				return 0, err
			} else if n == 0 {
				return passes, nil
			}
		case inResponseBody:
			n = int(min(int64(n), s.left))
			if s.left -= int64(n); s.left == 0 {
				s.state = betweenResponses
			}
		case inResponseChunks:
			var ok bool
			if n, ok = s.chunks.scan(next); !ok {
				return 0, errBadChunk
			}
			if s.chunks.done {
				s.state = betweenResponses
			}
		}
		passes += n
	}
	return passes, nil
}

// headLocked returns the size of the head that b begins with, or 0 if there is only a
// part of it or none.
func (s *responseScan) headLocked(b []byte) (int, error) {
	h := new(responseHead)
	switch parseResponse(b, h) {
	case unusual:
		return 0, malformedHead(b)
	case incomplete:
		if len(b) == maxResponseHead {
			return 0, largeHead(len(b))
		}
		return 0, nil
	}
	if h.status < 200 && h.status != http.StatusSwitchingProtocols {
		if s.interim++; s.interim > maxInterim {
			return 0, fmt.Errorf("%w: status %d", errMalformed, h.status)
		}
		return h.size, nil
	}
	switch kind := h.body(s.toHead); {
	case kind == bodyUntilEnd, h.status == http.StatusSwitchingProtocols:
		s.state = responseOpen
	case kind == bodyChunked:
		s.state, s.chunks = inResponseChunks, chunkScanner{}
	case kind == bodyLength && h.length > 0:
		s.state, s.left = inResponseBody, h.length
	default:
		s.state = betweenResponses
	}
	return h.size, nil
}
