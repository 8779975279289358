package proxy

import (
	"encoding/hex"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"time"
)

// A Span is a request as a span of a trace, for an exporter of traces.
type Span struct {
	TraceID  [16]byte
	SpanID   [8]byte
	ParentID [8]byte // zero if the trace began here
	Start    time.Time
	End      time.Time
	Method   string
	Host     string
	Target   string
	Client   netip.Addr
	Pool     string
	Backend  string // the last one that was tried; "" if none was
	Status   int
	Attempts int
}

// A trace is the trace that a request belongs to. W3C Trace Context, level 1.
type trace struct {
	on      bool
	sampled bool
	flags   byte
	id      [16]byte
	parent  [8]byte
	span    [8]byte
}

// newTrace continues the trace of a traceparent, of which there are n, or starts
// one.
func (p *Proxy) newTrace(traceparent string, n int) trace {
	t := trace{on: true}
	if n != 1 || !t.parse(traceparent) {
		for t.id == [16]byte{} {
			putUint64(t.id[:8], rand.Uint64())
			putUint64(t.id[8:], rand.Uint64())
		}
		t.flags = 0
		if share := p.opts.TraceShare; share > 0 && rand.Float64() < share {
			t.flags = 1
		}
	}
	t.sampled = t.flags&1 != 0
	for t.span == [8]byte{} {
		putUint64(t.span[:], rand.Uint64())
	}
	return t
}

// begins reports whether the trace begins here. Then a tracestate that came
// without a valid traceparent is not of it.
func (t *trace) begins() bool { return t.parent == [8]byte{} }

// trace is newTrace for the request in c.w.req.
func (c *conn) trace() trace {
	w := c.w
	value, n := "", 0
	if w.req.has(traceparentField) {
		for i := range w.req.n {
			if f := &w.req.fields[i]; f.kind == traceparentField {
				value = string(f.val(w.buf[w.r:]))
				n++
			}
		}
	}
	return c.server.proxy.newTrace(value, n)
}

// parse reads 00-TRACEID-PARENTID-FLAGS. Later versions may have more after it.
func (t *trace) parse(s string) bool {
	if len(s) < 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' || s[:2] == "ff" ||
		len(s) > 55 && (s[:2] == "00" || s[55] != '-') {
		return false
	}
	var version, flags [1]byte
	for _, part := range []struct {
		to   []byte
		from string
	}{{version[:], s[:2]}, {t.id[:], s[3:35]}, {t.parent[:], s[36:52]}, {flags[:], s[53:55]}} {
		for i := range len(part.from) {
			if c := part.from[i]; c >= 'A' && c <= 'F' {
				return t.reset() // they are lower case
			}
		}
		if _, err := hex.Decode(part.to, []byte(part.from)); err != nil {
			return t.reset()
		}
	}
	t.flags = flags[0]
	if t.id == [16]byte{} || t.parent == [8]byte{} {
		return t.reset()
	}
	return true
}

func (t *trace) reset() bool {
	t.id, t.parent = [16]byte{}, [8]byte{}
	return false
}

// append appends the traceparent that the backend gets.
func (t *trace) append(out []byte) []byte {
	out = append(out, "00-"...)
	out = hex.AppendEncode(out, t.id[:])
	out = append(out, '-')
	out = hex.AppendEncode(out, t.span[:])
	out = append(out, '-')
	return hex.AppendEncode(out, []byte{t.flags & 1})
}

func putUint64(b []byte, n uint64) {
	for i := range 8 {
		b[i] = byte(n >> (8 * i))
	}
}

// wanted reports whether anybody is to be told of the request.
func (x *exchange) wanted() (log, span bool) {
	opts := &x.p.opts
	log = opts.AccessLog != nil && (opts.AccessLogShare == 1 || rand.Float64() < opts.AccessLogShare)
	return log, x.trace.sampled && opts.Span != nil
}

// conclude tells of a request that has ended.
func (x *exchange) conclude(method, host, target string, client netip.Addr, proto string) {
	if log, span := x.wanted(); log || span {
		x.report(log, span, method, host, target, client, proto)
	}
}

func (x *exchange) report(log, span bool, method, host, target string, client netip.Addr, proto string) {
	end := time.Now()
	took := time.Duration(x.p.now() - x.start)
	pool := ""
	if x.route.pool != nil { // it is, if the request was refused before
		pool = x.route.pool.name
	}
	if span {
		x.p.opts.Span(Span{
			TraceID: x.trace.id, SpanID: x.trace.span, ParentID: x.trace.parent,
			Start: end.Add(-took), End: end,
			Method: method, Host: host, Target: target, Client: client,
			Pool: pool, Backend: x.last, Status: x.status, Attempts: x.attempts,
		})
	}
	if log {
		attrs := []any{
			slog.String("client", client.String()), slog.String("method", method), slog.String("host", host),
			slog.String("target", target), slog.String("proto", proto), slog.Int("status", x.status),
			slog.Int64("bytes", x.received), slog.Duration("took", took), slog.String("pool", pool),
			slog.String("backend", x.last), slog.Int("attempts", x.attempts),
		}
		if x.trace.on {
			attrs = append(attrs, slog.String("trace", hex.EncodeToString(x.trace.id[:])))
		}
		x.p.opts.AccessLog.Info("request", attrs...)
	}
}

// conclude ends the request in c.w.req.
func (c *conn) conclude() {
	c.limit = 0
	w := c.w
	x := &w.x
	if x.b != nil {
		panic("the request has ended, but its attempt has not")
	}
	if log, span := x.wanted(); log || span {
		x.report(log, span, string(w.req.method), string(w.req.host), string(w.req.target), c.client(), "HTTP/1.1")
	}
}
