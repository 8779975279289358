package proxy

import (
	"net"
	"time"
)

// For tests of what reads messages.

// A Field is a header field.
type Field struct{ Name, Value string }

// A Parsed is a head as the fast path's parser reads it.
type Parsed struct {
	Complete, Incomplete bool
	Size                 int
	Method, Target, Host string
	Status               int
	Length               int64
	Close, Chunked       bool
	Idempotent           bool
	Fields               []Field
}

func (h *head) export(buf []byte, p parsed) Parsed {
	if p != complete {
		return Parsed{Incomplete: p == incomplete}
	}
	out := Parsed{Complete: true, Size: h.size, Length: h.length, Close: h.close}
	for i := range h.n {
		f := &h.fields[i]
		out.Fields = append(out.Fields, Field{string(buf[f.start:f.colon]), string(f.val(buf))})
	}
	return out
}

// ParseRequest is parseRequest.
func ParseRequest(buf []byte) Parsed {
	var h requestHead
	out := h.export(buf, parseRequest(buf, &h))
	if out.Complete {
		out.Method, out.Target, out.Host = string(h.method), string(h.target), string(h.host)
		out.Idempotent = h.idempotent
	}
	return out
}

// ParseResponse is parseResponse.
func ParseResponse(buf []byte) Parsed {
	var h responseHead
	p := parseResponse(buf, &h)
	out := h.export(buf, p)
	if out.Complete {
		out.Status, out.Chunked = h.status, h.chunked
	}
	return out
}

// A ChunkScanner is a chunkScanner.
type ChunkScanner struct{ s chunkScanner }

// Scan is chunkScanner.scan.
func (s *ChunkScanner) Scan(b []byte) (n int, ok bool) { return s.s.scan(b) }

// Done reports whether the body has ended.
func (s *ChunkScanner) Done() bool { return s.s.done }

// Bytes returns how much data the body had.
func (s *ChunkScanner) Bytes() uint64 { return s.s.bytes }

// Screen returns the connection as net/http is to read it.
func (p *Proxy) Screen(c net.Conn) net.Conn {
	return newScreened(p, c, func() {}, nil, time.Time{}, true)
}

// ScreenState says what the screen takes what comes next for: "head", "body" of
// that length, "chunks", or "open".
func ScreenState(c net.Conn) (state string, length int64) {
	s := c.(*screened)
	switch s.state {
	case inBody:
		return "body", s.left
	case inChunks:
		return "chunks", 0
	case open, inFrames:
		return "open", 0
	case refusing:
		return "refusing", 0
	}
	return "head", 0
}

// ScreenResponses returns a connection to a backend of HTTP/1 as net/http is to read
// it when a request of that method has been written.
func (p *Proxy) ScreenResponses(c net.Conn, method string) net.Conn {
	s := new(responseScan)
	s.announce(method)
	s.writing()
	return &transportConn{notifyConn: &notifyConn{Conn: c}, slow: &p.slow, responses: s}
}

// ErrMalformed is errMalformed.
var ErrMalformed = errMalformed

// GRPCTimeout is grpcTimeout.
var GRPCTimeout = grpcTimeout

// A FrameScan is a frameScan, of a client that begins with HTTP/2's preface.
type FrameScan struct{ s frameScan }

// NewFrameScan returns one of which nothing was seen.
func NewFrameScan() *FrameScan { return &FrameScan{frameScan{preface: preface + restOfPreface}} }

// Scan is frameScan.scan.
func (f *FrameScan) Scan(b []byte) (rested, ok bool) { return f.s.scan(b) }

// Within is frameScan.within.
func (f *FrameScan) Within() bool { return f.s.within() }
