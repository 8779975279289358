package proxy

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"time"
)

// A screened is a connection that net/http serves, through which pass only
// HTTP/1.1 requests about whose limits nobody can disagree: net/http accepts
// some that others read differently, such as both Content-Length and
// Transfer-Encoding. In place of others it reads one that net/http refuses.
//
// It also gives the client of a body a time limit, which net/http would give to
// all of it or none.
type screened struct {
	net.Conn
	proxy *Proxy

	raw   []byte // read, not yet looked at
	ready []byte // passed
	state screenState

	opened atomic.Bool // all passes; for Write
	err    error

	left    int64        // of a body that has a length
	chunks  chunkScanner // of one that has chunks
	limit   time.Time    // of a head that has begun
	began   time.Time    // the body
	passed  int64        // of it
	scratch []byte
}

type screenState int

const (
	atHead screenState = iota
	inBody
	inChunks
	isOpen // all passes: another protocol, or what is not to be followed by a request
)

func newScreened(p *Proxy, c net.Conn, read []byte) *screened {
	return &screened{Conn: c, proxy: p, raw: read}
}

// A screenedTLS lets net/http know the state of TLS.
type screenedTLS struct {
	*screened
	tls *tls.Conn
}

func (s screenedTLS) ConnectionState() tls.ConnectionState { return s.tls.ConnectionState() }

// Read reads what passes. After an error that was a timeout it can go on.
func (s *screened) Read(p []byte) (int, error) {
	for {
		if len(s.ready) > 0 {
			n := copy(p, s.ready)
			s.ready = s.ready[n:]
			return n, nil
		}
		if s.err != nil {
			return 0, s.err
		}
		if len(p) == 0 {
			return 0, nil
		}
		switch s.state {
		case isOpen:
			if len(s.raw) > 0 {
				n := copy(p, s.raw)
				s.raw = s.raw[n:]
				return n, nil
			}
			return s.Conn.Read(p)
		case inBody:
			n, err := s.readBody(p[:min(int64(len(p)), s.left)])
			s.left -= int64(n)
			if s.left == 0 {
				s.state = atHead
			}
			return n, err
		case inChunks:
			n, err := s.readBody(p)
			k, ok := s.chunks.scan(p[:n])
			if !ok {
				s.err = fmt.Errorf("%w: bad chunk", errBadRequest)
				s.refused(s.err)
				return k, s.err
			}
			if s.chunks.done {
				s.state = atHead
				s.raw = append(append([]byte(nil), p[k:n]...), s.raw...)
			}
			return k, err
		case atHead:
			if err := s.readHead(); err != nil {
				return 0, err
			}
		}
	}
}

// Write writes a part of a response, which the client must accept in time unless
// all passes.
func (s *screened) Write(p []byte) (int, error) {
	if d := s.proxy.opts.BodyTimeout; d > 0 && !s.opened.Load() {
		s.Conn.SetWriteDeadline(time.Now().Add(d))
	}
	return s.Conn.Write(p)
}

// CloseWrite lets the client have an end, whatever it still sends.
func (s *screened) CloseWrite() error { return closeWrite(s.Conn) }

// open lets all pass.
func (s *screened) open(ready, raw []byte) {
	s.state, s.ready, s.raw = isOpen, ready, raw
	s.opened.Store(true)
	s.Conn.SetWriteDeadline(time.Time{})
}

// readBody reads a part of a body, for which the client has a time limit.
func (s *screened) readBody(p []byte) (int, error) {
	if len(s.raw) > 0 {
		n := copy(p, s.raw)
		s.raw = s.raw[n:]
		s.passed += int64(n)
		return n, nil
	}
	if d := s.proxy.opts.BodyTimeout; d > 0 {
		limit := time.Now().Add(d)
		if rate := s.proxy.opts.MinBodyRate; rate > 0 {
			if slowest := s.began.Add(d + time.Duration(float64(s.passed)/float64(rate)*float64(time.Second))); slowest.Before(limit) {
				limit = slowest
			}
		}
		s.Conn.SetReadDeadline(limit)
		defer s.Conn.SetReadDeadline(time.Time{})
	}
	n, err := s.Conn.Read(p)
	s.passed += int64(n)
	return n, err
}

// readHead reads the head of a request, and looks whether it may pass.
func (s *screened) readHead() error {
	for {
		// Some clients send an empty line after a body.
		for len(s.raw) >= 2 && s.raw[0] == '\r' && s.raw[1] == '\n' {
			s.raw = s.raw[2:]
		}
		size, next, err := s.screen(s.raw)
		switch {
		case err != nil:
			s.refused(err)
			s.open([]byte("?\r\n\r\n"), nil) // is answered with 400
			return nil
		case size > 0:
			s.ready, s.raw, s.state = s.raw[:size:size], s.raw[size:], next
			if next == isOpen {
				s.open(s.ready, s.raw)
			}
			s.began, s.passed, s.limit = time.Now(), 0, time.Time{}
			return nil
		case len(s.raw) > s.proxy.opts.MaxHeaderBytes+8<<10:
			s.open(nil, s.raw) // is answered with 431
			return nil
		}
		if s.scratch == nil {
			s.scratch = make([]byte, 4<<10)
		}
		if len(s.raw) > 0 && s.limit.IsZero() {
			// net/http sees nothing of it before it is there as a whole.
			s.limit = time.Now().Add(s.proxy.opts.HeaderTimeout)
			s.Conn.SetReadDeadline(s.limit)
		}
		n, err := s.Conn.Read(s.scratch)
		s.raw = append(s.raw, s.scratch[:n]...)
		if n == 0 && err != nil {
			return err
		}
	}
}

func (s *screened) refused(err error) {
	s.proxy.refused.Add(1)
	s.proxy.problem("refused a request", "peer", s.RemoteAddr(), "error", err)
}

var errBadRequest = fmt.Errorf("bad request")

const preface = "PRI * HTTP/2.0\r\n\r\n"

// screen looks at a request. It returns the size of its head, 0 if that is not
// there yet, and what follows it.
func (s *screened) screen(b []byte) (size int, next screenState, err error) {
	bad := func(format string, args ...any) (int, screenState, error) {
		return 0, atHead, fmt.Errorf("%w: "+format, append([]any{errBadRequest}, args...)...)
	}
	if bytes.HasPrefix(b, []byte("PRI ")) {
		if len(b) < len(preface) && strings.HasPrefix(preface, string(b)) {
			return 0, atHead, nil
		}
		if bytes.HasPrefix(b, []byte(preface)) {
			return len(preface), isOpen, nil
		}
	}
	var (
		hosts, lengths, codings int
		length                  int64
		upgrade                 bool
		old                     bool // HTTP/1.0
		connect                 bool
	)
	for at, line := 0, 0; ; line++ {
		eol := bytes.IndexByte(b[at:], '\n')
		if eol < 0 {
			return 0, atHead, nil
		}
		if eol == 0 || b[at+eol-1] != '\r' {
			return bad("a line ends without carriage return")
		}
		text := b[at : at+eol-1]
		at += eol + 1
		for _, c := range text {
			if !isValue[c] {
				return bad("a control character in its head")
			}
		}
		if line == 0 {
			method, rest, _ := bytes.Cut(text, []byte(" "))
			target, proto, ok := bytes.Cut(rest, []byte(" "))
			if !ok || len(method) == 0 || len(target) == 0 || string(proto) != "HTTP/1.1" && string(proto) != "HTTP/1.0" {
				return bad("its first line is malformed")
			}
			old = string(proto) == "HTTP/1.0"
			connect = string(method) == "CONNECT"
			continue
		}
		if len(text) == 0 {
			size = at
			break
		}
		name, value, ok := bytes.Cut(text, []byte(":"))
		if !ok || len(name) == 0 {
			return bad("a header field without a name, or a folded one")
		}
		for _, c := range name {
			if !isToken[c] {
				return bad("the name of a header field has a character that it cannot have")
			}
		}
		value = bytes.Trim(value, " \t")
		switch kindOf(name) {
		case hostField:
			hosts++
		case lengthField:
			lengths++
			if length = parseLength(value); length < 0 {
				return bad("Content-Length is no number")
			}
		case codingField:
			codings++
			if !equalFold(value, "chunked") {
				return bad("Transfer-Encoding is not chunked")
			}
		case upgradeField:
			upgrade = upgrade || !isH2C(string(value))
		}
	}
	switch {
	case hosts > 1 || hosts == 0 && !old:
		return bad("it has %d Host fields", hosts)
	case lengths > 1:
		return bad("it has %d Content-Length fields", lengths)
	case codings > 1:
		return bad("it has %d Transfer-Encoding fields", codings)
	case codings == 1 && lengths == 1:
		return bad("it has both Content-Length and Transfer-Encoding")
	case codings == 1 && old:
		return bad("Transfer-Encoding in HTTP/1.0")
	case upgrade || connect:
		return size, isOpen, nil // no request follows: see isLast
	case codings == 1:
		s.chunks = chunkScanner{}
		return size, inChunks, nil
	case length > 0:
		s.left = length
		return size, inBody, nil
	}
	return size, atHead, nil
}

// isH2C reports whether an Upgrade is to cleartext HTTP/2, which is not passed
// on: this proxy speaks it by itself.
func isH2C(upgrade string) bool {
	return strings.EqualFold(strings.TrimSpace(upgrade), "h2c")
}

var _ io.Reader = (*screened)(nil)
