package proxy

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
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
	after screenState // of a body: atHead, or open
	head  headScan

	err   error
	fresh bool // HTTP/2's preface may come

	// lastWord is set once net/http has read what it refuses: what it then
	// writes is the last.
	lastWord atomic.Bool

	unlimit func()      // is called when the client may take its time: after an upgrade
	unread  atomic.Bool // the client may have sent what nobody reads, after what was refused

	mu           sync.Mutex // guards the following
	theirs, ours time.Time  // limits for reading: net/http's, and that of a head or a body
	serving      bool       // net/http has a request
	reading      bool       // the head of one
	ending       bool       // there is to be no request but what has been sent
	looked       bool       // for that

	headBy time.Time    // when the head must be there; zero before it has begun
	left   int64        // of a body that has a length
	chunks chunkScanner // of one that has chunks
	frames frameScan    // of HTTP/2
	within bool         // of a frame, or a head of several, which has a time limit
	began  time.Time    // the body, or the frame
	got    int64        // of the body
}

type screenState int

const (
	atHead screenState = iota
	inBody
	inChunks
	inFrames // of HTTP/2
	open     // all passes: another protocol, or what is not to be followed by a request
	refusing // nothing passes any more
)

// newScreened returns a screened of which some has been read: if that is a part of
// a head, the rest must come by headBy. fresh is whether it may be of HTTP/2: there
// was no request, and no other protocol was agreed on.
func newScreened(p *Proxy, c net.Conn, unlimit func(), read []byte, headBy time.Time, fresh bool) *screened {
	return &screened{Conn: c, proxy: p, unlimit: unlimit, raw: read, headBy: headBy, fresh: fresh}
}

// Write writes. The client gets the answer to what was refused even if it is
// still sending: to close a connection that has not been read to its end is to
// reset it.
func (s *screened) Write(p []byte) (int, error) {
	n, err := s.Conn.Write(p)
	if err == nil && s.lastWord.Load() && s.CloseWrite() == nil {
		readAll(s.Conn)
	}
	return n, err
}

// switched is called when the connection has been hijacked.
func (s *screened) switched() {
	s.unread.Store(false)
	s.unlimit()
}

// Close closes the connection, or has it closed in a while: the client gets what
// was written last. net/http may close many, one after the other, so it does not
// wait; the server does, for the connection.
func (s *screened) Close() error {
	if !s.unread.CompareAndSwap(true, false) || s.CloseWrite() != nil {
		return s.Conn.Close()
	}
	go func() {
		readAll(s.Conn)
		s.Conn.Close()
	}()
	return nil
}

// noteState is told what state the connection has for net/http.
func (s *screened) noteState(state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serving = state == http.StateActive
}

// end ends the connection once it rests, but not before what has been sent is
// served. That net/http's own Shutdown drops it is why that is not used.
func (s *screened) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ending = true
	s.wakeLocked()
}

// wakeLocked has a head that is waited for looked for once more: see lastLook. What
// net/http reads while it serves a request is to find out whether the client is
// there.
func (s *screened) wakeLocked() {
	if s.ending && s.reading && !s.serving && !s.looked {
		s.ours = longAgo
		_ = s.setLimitLocked() // if it fails so does reading
	}
}

// setReading says whether a head is read.
func (s *screened) setReading(reading bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reading = reading
	s.wakeLocked()
}

// lastLook reports whether what a read of a head failed by is that serving is to
// end, and whether to read once more.
func (s *screened) lastLook() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ending || s.serving || s.looked {
		return false
	}
	s.looked = true
	if s.ours = s.headBy; s.ours.IsZero() {
		if raw := socketOf(s.Conn); raw != nil && silent(raw) {
			return false
		}
		s.ours = time.Now().Add(lookTime)
	}
	return s.setLimitLocked() == nil
}

// SetReadDeadline sets the limit that net/http wants, beside which there may be
// one from here. net/http also uses it to interrupt a read.
func (s *screened) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.theirs = t
	return s.setLimitLocked()
}

// SetDeadline is SetReadDeadline, and SetWriteDeadline.
func (s *screened) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.Conn.SetWriteDeadline(t))
}

// limitRead sets the limit from here; zero is none.
func (s *screened) limitRead(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t != s.ours {
		s.ours = t
		_ = s.setLimitLocked() // if it fails so does reading
	}
}

func (s *screened) setLimitLocked() error {
	t := s.theirs
	if t.IsZero() || !s.ours.IsZero() && s.ours.Before(t) {
		t = s.ours
	}
	return s.Conn.SetReadDeadline(t)
}

// CloseWrite ends one direction before the other.
func (s *screened) CloseWrite() error { return closeWrite(s.Conn) }

// A screenedTLS lets net/http know the state of TLS.
type screenedTLS struct {
	*screened
	tls *tls.Conn
}

func (s screenedTLS) ConnectionState() tls.ConnectionState { return s.tls.ConnectionState() }

// newFramed returns a screened for what is to be HTTP/2 only. To net/http it looks
// like a connection without TLS, since it takes HTTP/2 with TLS only from a
// tls.Conn itself; server.ServeHTTP says what it is.
func newFramed(p *Proxy, t *tls.Conn, read []byte) framed {
	s := newScreened(p, t, func() {}, read, time.Time{}, false)
	s.state, s.began = inFrames, time.Now()
	s.frames.preface = preface + restOfPreface
	state := t.ConnectionState()
	return framed{s, &state}
}

type framed struct {
	*screened
	state *tls.ConnectionState
}

// tlsStateKey is for the state of TLS of a connection that is framed.
type tlsStateKey struct{}

// Read reads what passes. After an error that was a timeout it can go on.
func (s *screened) Read(p []byte) (int, error) {
	for {
		if len(s.ready) > 0 {
			n := copy(p, s.ready)
			if s.ready = s.ready[n:]; len(s.ready) == 0 {
				s.ready = nil
				if len(s.raw) == 0 {
					s.raw = nil // it has the same memory
				}
			}
			if s.state == refusing && len(s.ready) == 0 {
				s.lastWord.Store(true)
			}
			return n, nil
		}
		if s.err != nil {
			return 0, s.err
		}
		if len(p) == 0 {
			return 0, nil
		}
		switch s.state {
		case refusing:
			return 0, io.EOF
		case open:
			if len(s.raw) > 0 {
				n := copy(p, s.raw)
				s.raw = s.raw[n:]
				return n, nil
			}
			return s.Conn.Read(p)
		case inFrames:
			return s.readFrames(p)
		case inBody:
			n, err := s.readBody(p[:min(int64(len(p)), s.left)])
			s.left -= int64(n)
			if s.left == 0 {
				s.state = s.after
			}
			return n, err
		case inChunks:
			n, err := s.readBody(p)
			k, ok := s.chunks.scan(p[:n])
			if !ok {
				s.err = fmt.Errorf("%w: bad chunk", errBadRequest)
				s.unread.Store(true)
				s.refused(s.err)
				return k, s.err
			}
			if s.chunks.done {
				s.state = s.after
				s.raw = append(append([]byte(nil), p[k:n]...), s.raw...)
			}
			return k, err
		case atHead:
			if err := s.readHead(p); err != nil {
				return 0, err
			}
		}
	}
}

// readBody reads a part of a body, for which the client has a time limit.
func (s *screened) readBody(p []byte) (int, error) {
	if len(s.raw) > 0 {
		n := copy(p, s.raw)
		s.raw = s.raw[n:]
		s.got += int64(n)
		return n, nil
	}
	if limit := bodyLimit(s.began, time.Now(), s.got, &s.proxy.opts); !limit.IsZero() {
		s.limitRead(limit)
		defer s.limitRead(time.Time{})
	}
	n, err := s.Conn.Read(p)
	s.got += int64(n)
	return n, err
}

// readFrames reads of HTTP/2, whose client has a time limit for what it has begun.
func (s *screened) readFrames(p []byte) (n int, err error) {
	if n = copy(p, s.raw); n > 0 {
		s.raw = s.raw[n:]
	} else {
		within := s.frames.within()
		if within {
			s.limitRead(s.frames.limit(s.began, time.Now(), &s.proxy.opts))
		} else if s.within {
			s.limitRead(time.Time{})
		}
		s.within = within
		n, err = s.Conn.Read(p)
	}
	rested, ok := s.frames.scan(p[:n])
	if rested {
		s.began = time.Now()
	}
	if !ok {
		s.err = fmt.Errorf("%w: it is not of HTTP/2", errBadRequest)
		s.refused(s.err)
		return 0, s.err
	}
	return n, err
}

// readHead reads the head of a request, and looks whether it may pass. It reads
// with the buffer that is to be filled, so as to have none while the client rests.
func (s *screened) readHead(p []byte) error {
	for {
		// Some clients send an empty line after a body.
		for len(s.raw) >= 2 && s.raw[0] == '\r' && s.raw[1] == '\n' {
			s.raw, s.head = s.raw[2:], headScan{}
		}
		size, next, err := s.screen(s.raw)
		switch {
		case err != nil:
			s.refused(err)
			s.state, s.raw = refusing, nil
			s.ready = []byte("?\r\n\r\n") // is answered with 400
			return nil
		case size > s.proxy.opts.MaxHeaderBytes, size == 0 && len(s.raw) > s.proxy.opts.MaxHeaderBytes:
			s.refused(errLargeHead)
			// It is given more than it takes, which it answers with 431.
			s.ready = append(s.raw[:s.proxy.opts.MaxHeaderBytes-2:s.proxy.opts.MaxHeaderBytes-2], bytes.Repeat([]byte("x"), 12<<10)...)
			s.state, s.raw = refusing, nil
			s.unread.Store(true)
			return nil
		case size > 0:
			s.ready, s.raw, s.state, s.fresh = s.raw[:size:size], s.raw[size:], next, false
			s.head = headScan{}
			s.began, s.got = time.Now(), 0
			s.headBy = time.Time{}
			s.limitRead(time.Time{})
			return nil
		}
		if len(s.raw) > 0 {
			// net/http sees nothing of it before it is there as a whole.
			if s.headBy.IsZero() {
				s.headBy = time.Now().Add(s.proxy.opts.HeaderTimeout)
			}
			s.limitRead(s.headBy)
		}
		s.setReading(true)
		n, err := s.Conn.Read(p)
		s.setReading(false)
		s.raw = append(s.raw, p[:n]...)
		if n == 0 && err != nil {
			if s.lastLook() {
				continue
			}
			return err
		}
	}
}

func (s *screened) refused(err error) {
	s.proxy.refused.Add(1)
	s.proxy.problem("refused a request", "peer", s.RemoteAddr(), "error", err)
}

var (
	errBadRequest = errors.New("bad request")
	errLargeHead  = fmt.Errorf("%w: its head is too large", errBadRequest)
)

// isHostHeader is what net/http accepts, more than isHost.
var isHostHeader = charTable(func(c byte) bool { return alnum(c) || bytes.IndexByte([]byte("!$%&'()*+,-.:;=[]_~"), c) >= 0 })

func validHost[T ~string | ~[]byte](host T) bool {
	for i := range len(host) {
		if !isHostHeader[host[i]] {
			return false
		}
	}
	return true
}

func isMethod[T ~string | ~[]byte](method T) bool {
	for i := range len(method) {
		if !isToken[method[i]] {
			return false
		}
	}
	return len(method) > 0
}

const preface = "PRI * HTTP/2.0\r\n\r\n"

// A headScan is what has been seen of a head that may come in pieces. None is
// looked at twice.
type headScan struct {
	line     int // where the first line begins that has no end yet
	searched int // up to where its end was looked for

	hosts, lengths, codings int
	length                  int64
	upgrade                 bool
	old                     bool // HTTP/1.0
	connect                 bool
}

// screen looks at a request, of which there may be more than when it was called
// before. It returns the size of its head, 0 if that is not there yet, and what
// follows it.
func (s *screened) screen(b []byte) (size int, next screenState, err error) {
	bad := func(format string, args ...any) (int, screenState, error) {
		return 0, atHead, fmt.Errorf("%w: "+format, append([]any{errBadRequest}, args...)...)
	}
	if s.fresh && bytes.HasPrefix(b, []byte("PRI ")) {
		if len(b) < len(preface) && strings.HasPrefix(preface, string(b)) {
			return 0, atHead, nil
		}
		if bytes.HasPrefix(b, []byte(preface)) {
			s.frames = frameScan{preface: restOfPreface}
			return len(preface), inFrames, nil
		}
	}
	h := &s.head
	for {
		eol := bytes.IndexByte(b[h.searched:], '\n')
		if eol < 0 {
			h.searched = len(b)
			return 0, atHead, nil
		}
		eol += h.searched
		if eol == h.line || b[eol-1] != '\r' {
			return bad("a line ends without carriage return")
		}
		text := b[h.line : eol-1]
		first := h.line == 0
		h.line = eol + 1
		h.searched = h.line
		for _, c := range text {
			if !isValue[c] {
				return bad("a control character in its head")
			}
		}
		if first {
			method, rest, _ := bytes.Cut(text, []byte(" "))
			target, proto, ok := bytes.Cut(rest, []byte(" "))
			if !ok || len(target) == 0 || string(proto) != "HTTP/1.1" && string(proto) != "HTTP/1.0" {
				return bad("its first line is malformed")
			}
			h.old = string(proto) == "HTTP/1.0"
			h.connect = string(method) == "CONNECT"
			if string(method) == "PRI" || !isMethod(method) {
				return bad("its method is HTTP/2's, or none")
			}
			if _, err := url.ParseRequestURI(string(target)); err != nil && !h.connect {
				return bad("its target is none")
			}
			continue
		}
		if len(text) == 0 {
			size = h.line
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
		switch fieldKindOf(name) {
		case hostField:
			h.hosts++
			if !validHost(value) {
				return bad("Host has a character that it cannot have")
			}
		case lengthField:
			h.lengths++
			if h.length = parseLength(value); h.length < 0 {
				return bad("Content-Length is no number")
			}
		case codingField:
			h.codings++
			if !equalFold(value, "chunked") {
				return bad("Transfer-Encoding is not chunked")
			}
		case trailerField:
			for name := range bytes.SplitSeq(value, []byte(",")) {
				if !mayTrail(bytes.Trim(name, " \t")) {
					return bad("it announces a trailer that cannot be one")
				}
			}
		case upgradeField:
			h.upgrade = h.upgrade || !isH2C(string(value))
		}
	}
	switch {
	case h.hosts > 1 || h.hosts == 0 && !h.old:
		return bad("it has %d Host fields", h.hosts)
	case h.lengths > 1:
		return bad("it has %d Content-Length fields", h.lengths)
	case h.codings > 1:
		return bad("it has %d Transfer-Encoding fields", h.codings)
	case h.codings == 1 && h.lengths == 1:
		return bad("it has both Content-Length and Transfer-Encoding")
	case h.codings == 1 && h.old:
		return bad("Transfer-Encoding in HTTP/1.0")
	}
	s.after = atHead
	if h.upgrade || h.connect {
		s.after = open // no request follows: see ServeHTTP
		s.unread.Store(true)
	}
	switch {
	case h.codings == 1:
		s.chunks = chunkScanner{}
		return size, inChunks, nil
	case h.length > 0:
		s.left = h.length
		return size, inBody, nil
	}
	return size, s.after, nil
}

// withoutH2C returns the protocols of an Upgrade that may be passed on.
func withoutH2C(upgrade string) string {
	protocols := slices.DeleteFunc(strings.Split(upgrade, ","), isH2C)
	return strings.TrimSpace(strings.Join(protocols, ","))
}

// isH2C reports whether an Upgrade is to cleartext HTTP/2, which is not passed
// on: this proxy speaks it by itself.
func isH2C(upgrade string) bool {
	return strings.EqualFold(strings.TrimSpace(upgrade), "h2c")
}

var _ io.Reader = (*screened)(nil)
