package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

var (
	// errMalformed says that a backend's response is none, or not clear.
	errMalformed = errors.New("malformed response")
	errBadChunk  = fmt.Errorf("%w: bad chunk", errMalformed)
)

func malformedHead(b []byte) error { return fmt.Errorf("%w: %.80q", errMalformed, b) }

func largeHead(n int) error {
	return fmt.Errorf("%w: its head has more than %d bytes", errMalformed, n)
}

const (
	maxInterim      = 16       // responses before the last one
	maxResponseHead = 64 << 10 // bytes
)

// readHead reads until there is the whole head of the response, of which there
// are n bytes, and passes interim responses on. It returns how much there is
// then.
func (c *conn) readHead(bc *backendConn, n int) (int, ErrorKind, error) {
	w := c.w
	for interim := 0; ; {
		switch parseResponse(w.resp[:n], &w.res) {
		case unusual:
			return n, BadResponse, malformedHead(w.resp[:n])
		case incomplete:
			if n == len(w.resp) {
				if n >= maxResponseHead {
					return n, BadResponse, largeHead(n)
				}
				w.grow()
			}
			m, err := bc.conn.Read(w.resp[n:])
			if m == 0 && err != nil {
				return n, c.kindOf(bc, err), err
			}
			n += m
			continue
		}
		if w.res.status >= 200 {
			if !w.frame(n) {
				return n, BadResponse, errBadChunk
			}
			return n, NoError, nil
		}
		if interim++; w.res.status == http.StatusSwitchingProtocols || interim > maxInterim {
			return n, BadResponse, fmt.Errorf("%w: status %d", errMalformed, w.res.status)
		}
		h, same := w.appendResponse(w.head[:0], false, "")
		w.head = h
		if same {
			h = w.resp[:w.res.size]
		}
		if _, err := c.rwc.Write(h); err != nil {
			return n, Canceled, err
		}
		n = copy(w.resp, w.resp[w.res.size:n])
	}
}

// respond passes the response on, whose head is in w.res and of which n bytes
// are in w.resp, and ends the attempt.
func (c *conn) respond(bc *backendConn, n int, uploading bool) action {
	w := c.w
	x := &w.x
	res := &w.res
	c.tick()
	now := c.clock
	c.waiting.Store(0)
	x.answer(now, res.status)

	have := w.resp[res.size : res.size+w.body.have]
	whole := w.body.whole
	clean := res.size+w.body.have == n // nothing comes after it
	kind := w.body.kind
	closing := c.closing() || kind == bodyUntilEnd || uploading
	h, same := w.appendResponse(w.head[:0], closing, x.issued)
	w.head = h
	first := w.resp[:res.size+len(have)]
	if !same {
		first = append(h, have...)
		w.head = first
	}
	x.received += int64(len(have))
	if kind == bodyChunked {
		x.received = int64(w.body.chunks.bytes)
	}

	if whole {
		if clean && !res.close && !uploading && c.letGo() {
			bc.b.conns.put(bc, now)
			bc = nil
		}
		x.finish()
		good := c.write(first)
		if bc != nil {
			c.backend.Store(nil)
			bc.close()
		}
		if !good || closing {
			return hangUp
		}
		return readMore
	}
	if !c.pass(first) {
		return c.broken(bc, Canceled, errClientGone)
	}
	var failed ErrorKind
	var err error
	switch kind {
	case bodyLength:
		failed, err = c.copyLength(bc, res.length-int64(len(have)))
	case bodyChunked:
		clean, failed, err = c.copyChunks(bc, &w.body.chunks)
	case bodyUntilEnd:
		failed, err = c.copyUntilEnd(bc)
	}
	if err != nil {
		return c.broken(bc, failed, err)
	}
	c.tick()
	if c.letGo() && clean && !res.close && !uploading && kind != bodyUntilEnd {
		bc.b.conns.put(bc, c.clock)
	} else {
		bc.close()
	}
	x.finish()
	if closing {
		return hangUp
	}
	return readMore
}

// bodyKind says how the end of a body is found.
type bodyKind int

const (
	bodyNone bodyKind = iota
	bodyLength
	bodyChunked
	bodyUntilEnd
)

// body returns that of the body after the head of a response, to a HEAD or not.
func (h *responseHead) body(toHead bool) bodyKind {
	switch {
	case toHead || h.status == http.StatusNoContent || h.status == http.StatusNotModified:
		return bodyNone
	case h.chunked:
		return bodyChunked
	case h.length >= 0:
		return bodyLength
	}
	return bodyUntilEnd
}

// A framing is what of a body has come together with its head.
type framing struct {
	kind   bodyKind
	have   int  // bytes
	whole  bool // it is all of it
	chunks chunkScanner
}

// frame looks at what follows the head in w.res, up to w.resp[n]. It reports
// false if that is malformed.
func (w *workspace) frame(n int) bool {
	res := &w.res
	w.body = framing{kind: res.body(w.req.isHead), have: n - res.size}
	b := &w.body
	switch b.kind {
	case bodyNone:
		b.have, b.whole = 0, true
	case bodyChunked:
		k, ok := b.chunks.scan(w.resp[res.size:n])
		b.have, b.whole = k, b.chunks.done
		return ok
	case bodyLength:
		b.have = int(min(int64(b.have), res.length))
		b.whole = int64(b.have) == res.length
	}
	return true
}

var errClientGone = errors.New("the client is gone")

// broken ends an attempt whose response has begun. The client must not take what
// it got for all.
func (c *conn) broken(bc *backendConn, kind ErrorKind, err error) action {
	c.backend.Store(nil)
	bc.close()
	c.w.x.lose(c.server.proxy.now(), kind, err)
	if kind != Canceled {
		c.w.x.refused(err)
	}
	if t, ok := c.rwc.(*net.TCPConn); ok && kind != Canceled {
		_ = t.SetLinger(0)
	}
	return hangUp
}

// appendResponse appends the head of the response as the client gets it. same is
// true if that is what the backend sent, and then nothing is appended.
func (w *workspace) appendResponse(out []byte, closing bool, issued string) (_ []byte, same bool) {
	res := &w.res
	drop := uint32(1<<connectionField | 1<<keepAliveField | 1<<upgradeField | 1<<hopField)
	bodiless := res.status == http.StatusNoContent || res.status < 200
	if bodiless {
		drop |= 1<<lengthField | 1<<codingField
	}
	if res.kinds&drop == 0 && !closing && issued == "" && w.resp[7] == '1' {
		return out, true
	}
	buf := w.resp
	start := len(out)
	from := 0
	for i := range res.n {
		if f := &res.fields[i]; drop&(1<<f.kind) != 0 || res.named && res.isNamed(buf, f) {
			out = append(out, buf[from:f.start]...)
			from = int(f.next)
		}
	}
	out = append(out, buf[from:res.size-2]...)
	out[start+7] = '1' // of HTTP/1.1
	if closing {
		out = append(out, "Connection: close\r\n"...)
	}
	if issued != "" {
		out = append(append(append(out, "Set-Cookie: "...), w.x.p.cookie(issued)...), "\r\n"...)
	}
	return append(out, "\r\n"...), false
}

// isNamed reports whether Connection names the field.
func (h *responseHead) isNamed(buf []byte, f *field) bool {
	if f.kind == lengthField || f.kind == codingField {
		return false // without these the body would have no end
	}
	for i := range h.n {
		if o := &h.fields[i]; o.kind == connectionField && hasToken(o.val(buf), buf[f.start:f.colon]) {
			return true
		}
	}
	return false
}

// hasToken reports whether a comma-separated list has a token, in any case.
func hasToken(list, token []byte) bool {
	for len(list) > 0 {
		end := 0
		for end < len(list) && list[end] != ',' {
			end++
		}
		item := list[:end]
		list = list[min(end+1, len(list)):]
		for len(item) > 0 && (item[0] == ' ' || item[0] == '\t') {
			item = item[1:]
		}
		for len(item) > 0 && (item[len(item)-1] == ' ' || item[len(item)-1] == '\t') {
			item = item[:len(item)-1]
		}
		if len(item) == len(token) {
			same := true
			for i := range item {
				same = same && toLower(item[i]) == toLower(token[i])
			}
			if same {
				return true
			}
		}
	}
	return false
}

func toLower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

const (
	spliceFrom = 16 << 10 // bodies of less are copied
	firstPiece = 64 << 10
	lastPiece  = 1 << 20
)

// copyLength passes n bytes on. The kernel does that where it can, in pieces: of
// each the client must take its part in time, and the pieces grow while it does
// so fast.
func (c *conn) copyLength(bc *backendConn, n int64) (ErrorKind, error) {
	x := &c.w.x
	_, fromTCP := bc.conn.(*net.TCPConn)
	to, toTCP := c.rwc.(*net.TCPConn)
	if !canSplice || !fromTCP || !toTCP || n < spliceFrom {
		return c.copyBuffered(bc, n)
	}
	c.passing.Store(splicing)
	defer c.passing.Store(notPassing)
	src := io.LimitedReader{R: bc.conn}
	for piece := int64(firstPiece); n > 0; {
		src.N = min(piece, n)
		began := c.pieceDeadline(src.N)
		m, err := to.ReadFrom(&src)
		n -= m
		x.received += m
		if err != nil {
			return c.copyError(bc, err)
		}
		if src.N > 0 {
			return Broken, io.ErrUnexpectedEOF
		}
		if x.p.now()-began < instant(100*time.Millisecond) {
			piece = min(2*piece, lastPiece)
		} else {
			piece = firstPiece
		}
	}
	return NoError, nil
}

// pass is write for a part of a body that has more of them. The kernel lets go of
// a writer only when much of what it holds has been taken, so a client that is
// slow is not one that takes nothing: the reaper tells, see stuck, or else sock.
func (c *conn) pass(b []byte) bool {
	if !canSplice { // nor can the reaper tell
		return c.write(b)
	}
	c.expect(0)
	c.waiting.Store(int64(c.clock))
	c.passing.Store(writing)
	_, err := c.rwc.Write(b)
	c.passing.Store(notPassing)
	c.waiting.Store(0)
	return err == nil
}

// What of a body is under way to the client.
const (
	notPassing int32 = iota
	writing          // from a buffer
	splicing         // from the backend's connection
)

// pieceDeadline gives time for one piece of a body: for each buffer of it as
// much as for one that is written alone, but not less than a backend may take.
// One end that does nothing at all is found out before: see stuck.
func (c *conn) pieceDeadline(n int64) instant {
	now := c.server.proxy.now()
	d, most := c.server.proxy.opts.BodyTimeout, c.server.proxy.opts.ResponseTimeout
	if d > 0 {
		d = max(d*time.Duration(n/bufferSize+1), most)
	}
	if most <= 0 {
		d = 0 // the backend may take for ever
	}
	c.expectFrom(now, d)
	c.waiting.Store(int64(now))
	return now
}

// copyError tells whose fault an error is of splice, which reports those of both
// ends alike.
func (c *conn) copyError(bc *backendConn, err error) (ErrorKind, error) {
	// If there is more from the backend, it was the client that did not take it.
	if c.left.Load() || c.clientGone() || errors.Is(err, os.ErrDeadlineExceeded) && bc.stale() {
		return Canceled, errClientGone
	}
	return c.kindOf(bc, err), err
}

// copyBuffered passes n bytes on, through a buffer.
func (c *conn) copyBuffered(bc *backendConn, n int64) (ErrorKind, error) {
	w := c.w
	for n > 0 {
		m, kind, err := c.readBody(bc, n, w.x.p.opts.ResponseTimeout)
		if err != nil {
			return kind, err
		}
		n -= int64(m)
	}
	return NoError, nil
}

// readBody reads up to n bytes of a body, and passes them on at once.
func (c *conn) readBody(bc *backendConn, n int64, timeout time.Duration) (int, ErrorKind, error) {
	m, kind, err := c.readPiece(bc, n, timeout)
	if err != nil {
		return 0, kind, err
	}
	if !c.pass(c.w.resp[:m]) {
		return m, Canceled, errClientGone
	}
	c.w.x.received += int64(m)
	return m, NoError, nil
}

func (c *conn) readPiece(bc *backendConn, n int64, timeout time.Duration) (int, ErrorKind, error) {
	c.tick()
	c.expect(timeout)
	c.waiting.Store(int64(c.clock))
	m, err := bc.conn.Read(c.w.resp[:min(n, bufferSize)])
	c.waiting.Store(0)
	c.tick()
	if m == 0 {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, c.kindOf(bc, err), err
	}
	return m, NoError, nil
}

// copyChunks passes a chunked body on, as it comes, for as long as it takes.
// clean is set if nothing comes after it.
func (c *conn) copyChunks(bc *backendConn, chunks *chunkScanner) (clean bool, kind ErrorKind, err error) {
	for !chunks.done {
		m, kind, err := c.readPiece(bc, bufferSize, 0)
		if err != nil {
			return false, kind, err
		}
		k, ok := chunks.scan(c.w.resp[:m])
		if !ok {
			return false, BadResponse, errBadChunk
		}
		if !c.pass(c.w.resp[:k]) {
			return false, Canceled, errClientGone
		}
		c.w.x.received = int64(chunks.bytes)
		clean = k == m
	}
	return clean, NoError, nil
}

// copyUntilEnd passes a body on that ends with its connection.
func (c *conn) copyUntilEnd(bc *backendConn) (ErrorKind, error) {
	for {
		_, kind, err := c.readBody(bc, bufferSize, 0)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return NoError, nil
		}
		if err != nil {
			return kind, err
		}
	}
}
