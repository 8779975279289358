package proxy

import (
	"net/netip"
	"strings"
)

// appendRequest appends the head of the request in c.w.req as a backend gets it:
// without fields that end here, and with those that say where it came from.
func (c *conn) appendRequest(out []byte) []byte {
	w := c.w
	buf := w.buf[w.r:]
	from := 0 // of what is still to be copied
	drop := uint32(1<<connectionField | 1<<keepAliveField | 1<<forwardedForField | 1<<forwardedField)
	if !c.trust {
		drop |= 1<<forwardedProtoField | 1<<forwardedHostField | 1<<forwardedOtherField
	}
	if w.x.trace.on {
		drop |= 1 << traceparentField
		if w.x.trace.begins() {
			drop |= 1 << tracestateField
		}
	}
	if w.req.kinds&drop != 0 {
		for i := range w.req.n {
			if f := &w.req.fields[i]; drop&(1<<f.kind) != 0 {
				out = append(out, buf[from:f.start]...)
				from = int(f.next)
			}
		}
	}
	out = append(out, buf[from:w.req.size-2]...)

	out = append(out, "X-Forwarded-For: "...)
	if c.trust {
		out = w.req.join(buf, forwardedForField, out)
	}
	out = appendAddr(out, c.peer)
	if !c.trust || !w.req.has(forwardedHostField) {
		out = append(append(out, "\r\nX-Forwarded-Host: "...), w.req.host...)
	}
	if !c.trust || !w.req.has(forwardedProtoField) {
		out = append(append(out, "\r\nX-Forwarded-Proto: "...), c.server.scheme...)
	}
	out = append(out, "\r\nForwarded: "...)
	if c.trust {
		out = w.req.join(buf, forwardedField, out)
	}
	out = appendForwarded(out, c.peer, w.req.host, c.server.scheme)
	if w.x.trace.on {
		out = append(out, "\r\nTraceparent: "...)
		out = w.x.trace.append(out)
	}
	return append(out, "\r\n\r\n"...)
}

// appendForwarded appends an element of a Forwarded field, RFC 7239.
func appendForwarded[T ~string | ~[]byte](out []byte, peer netip.Addr, host T, scheme string) []byte {
	out = append(out, "for="...)
	switch {
	case !peer.IsValid():
		out = append(out, "unknown"...)
	case peer.Is6():
		out = append(out, `"[`...)
		out = peer.AppendTo(out)
		out = append(out, `]"`...)
	default:
		out = peer.AppendTo(out)
	}
	out = append(out, `;host="`...)
	for i := range len(host) {
		if host[i] == '"' || host[i] == '\\' {
			out = append(out, '\\')
		}
		out = append(out, host[i])
	}
	return append(append(out, `";proto=`...), scheme...)
}

// appendAddr appends an address, or "unknown".
func appendAddr(out []byte, a netip.Addr) []byte {
	if !a.IsValid() {
		return append(out, "unknown"...)
	}
	return a.AppendTo(out)
}

// join appends the values of all fields of a kind to out, each followed by ", ".
func (h *head) join(buf []byte, kind fieldKind, out []byte) []byte {
	if !h.has(kind) {
		return out
	}
	for i := range h.n {
		if f := &h.fields[i]; f.kind == kind && f.value < f.end {
			out = append(append(out, f.val(buf)...), ", "...)
		}
	}
	return out
}

// joinValues is join for fields of net/http.
func joinValues(values []string) string {
	var b strings.Builder
	for _, v := range values {
		if v != "" {
			b.WriteString(v + ", ")
		}
	}
	return b.String()
}
