package proxy

import "bytes"

// This file reads heads of HTTP/1.1 messages, strictly: what it accepts, every
// other reader accepts, too, and reads the same. All that is less common or less
// clear is left to net/http.

// A field is a header field within a head: its name is head[start:colon], its
// value head[value:end], and the next one begins at next.
type field struct {
	start, colon, value, end, next uint16 // no head is larger than 64 KiB
	kind                           fieldKind
}

func (f *field) val(head []byte) []byte { return head[f.value:f.end] }

const maxFields = 100 // of a request; a response may have more

// A fieldKind tells fields that matter to a proxy from others.
type fieldKind uint8

const (
	otherField fieldKind = iota
	hostField
	lengthField
	connectionField
	keepAliveField
	forwardedForField
	forwardedProtoField
	forwardedHostField
	forwardedField
	forwardedOtherField // X-Forwarded-Port and the like
	cookieField
	traceparentField
	tracestateField
	codingField // Transfer-Encoding
	trailerField
	upgradeField
	hopField // what else ends at the next hop
)

// A head is the head of a message, as offsets into the buffer that it was read
// from.
type head struct {
	size   int // the empty line included
	line   int // of the first line, CRLF included
	length int64
	kinds  uint32 // a bit for each fieldKind that is there
	close  bool   // Connection: close
	n      int
	fields []field // n of them; few, unless there are more
	few    [maxFields]field
}

func (h *head) has(kind fieldKind) bool { return h.kinds&(1<<kind) != 0 }

// A requestHead is the head of a request.
type requestHead struct {
	head
	method     []byte
	target     []byte
	host       []byte
	idempotent bool
	isHead     bool
}

// A responseHead is that of a response.
type responseHead struct {
	head
	status  int
	chunked bool
	named   bool // Connection names fields
}

// A parsed says what became of a head.
type parsed int

const (
	incomplete parsed = iota // there must come more
	complete
	unusual // left to net/http, or refused
)

var (
	isToken  = charTable(func(c byte) bool { return alnum(c) || bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), c) >= 0 })
	isValue  = charTable(func(c byte) bool { return c == '\t' || c >= ' ' && c != 0x7f })
	isTarget = charTable(func(c byte) bool { return alnum(c) || bytes.IndexByte([]byte("-._~/?!$&'()*+,;=:@%"), c) >= 0 })
	isHost   = charTable(func(c byte) bool { return alnum(c) || bytes.IndexByte([]byte("-._:[]"), c) >= 0 })
	isHex    = charTable(func(c byte) bool { return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f' })
)

func charTable(is func(byte) bool) (t [256]bool) {
	for c := range t {
		t[c] = is(byte(c))
	}
	return t
}

func alnum(c byte) bool {
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}

// equalFold compares with a lower-case ASCII string.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// parseRequest reads the head of a request from the beginning of buf.
func parseRequest(buf []byte, h *requestHead) parsed {
	eol := bytes.IndexByte(buf, '\n')
	if eol < 0 {
		return incompleteOr(buf)
	}
	if eol < 14 || buf[eol-1] != '\r' || string(buf[eol-9:eol-1]) != "HTTP/1.1" || buf[eol-10] != ' ' {
		return unusual
	}
	space := bytes.IndexByte(buf[:eol-10], ' ')
	if space < 0 {
		return unusual
	}
	h.method = buf[:space]
	h.isHead = false
	switch string(h.method) {
	case "GET", "OPTIONS", "PUT", "DELETE":
		h.idempotent = true
	case "HEAD":
		h.idempotent, h.isHead = true, true
	case "POST", "PATCH":
		h.idempotent = false
	default:
		return unusual
	}
	h.target = buf[space+1 : eol-10]
	if len(h.target) == 0 || h.target[0] != '/' {
		return unusual
	}
	for i, c := range h.target {
		if !isTarget[c] || c == '%' && (i+2 >= len(h.target) || !isHex[h.target[i+1]] || !isHex[h.target[i+2]]) {
			return unusual
		}
	}
	if p := h.parseFields(buf, eol+1, maxFields); p != complete {
		return p
	}
	const refused = 1<<codingField | 1<<trailerField | 1<<upgradeField | 1<<hopField
	if h.kinds&refused != 0 || !h.has(hostField) {
		return unusual
	}
	h.length = max(h.length, 0)
	once := true
	for i := range h.n {
		switch f := &h.fields[i]; f.kind {
		case hostField:
			h.host = f.val(buf)
			for _, c := range h.host {
				if !isHost[c] {
					return unusual
				}
			}
			if len(h.host) == 0 {
				return unusual
			}
		case connectionField:
			if v := f.val(buf); !once {
				return unusual
			} else if equalFold(v, "close") {
				h.close = true
			} else if !equalFold(v, "keep-alive") {
				return unusual
			}
			once = false
		}
	}
	return complete
}

// incompleteOr says that a head is incomplete, unless it can be none: HTTP/2's
// preface, TLS and garbage need not be waited for.
func incompleteOr(buf []byte) parsed {
	for i, c := range buf {
		if c == ' ' && i > 0 {
			break
		}
		if c < 'A' || c > 'Z' {
			return unusual
		}
	}
	return incomplete
}

// parseResponse reads the head of a response from the beginning of buf.
func parseResponse(buf []byte, h *responseHead) parsed {
	eol := bytes.IndexByte(buf, '\n')
	if eol < 0 {
		return incomplete
	}
	// HTTP/1.1 200 OK
	if eol < 13 || buf[eol-1] != '\r' || string(buf[:7]) != "HTTP/1." || buf[8] != ' ' ||
		buf[7] != '0' && buf[7] != '1' || eol > 13 && buf[12] != ' ' {
		return unusual
	}
	h.status = 0
	for _, c := range buf[9:12] {
		if c < '0' || c > '9' {
			return unusual
		}
		h.status = 10*h.status + int(c-'0')
	}
	if h.status < 100 || h.status > 599 {
		return unusual
	}
	for _, c := range buf[12 : eol-1] {
		if !isValue[c] {
			return unusual
		}
	}
	if p := h.parseFields(buf, eol+1, maxResponseHead); p != complete {
		return p
	}
	h.chunked, h.named = false, false
	ends, stays := false, false
	for i := range h.n {
		switch f := &h.fields[i]; f.kind {
		case codingField:
			if h.chunked || !equalFold(f.val(buf), "chunked") || buf[7] == '0' {
				return unusual
			}
			h.chunked = true
		case connectionField:
			if v := f.val(buf); equalFold(v, "close") {
				ends = true
			} else if equalFold(v, "keep-alive") {
				stays = true
			} else {
				h.named = true
				ends = ends || hasToken(v, []byte("close"))
				stays = stays || hasToken(v, []byte("keep-alive"))
			}
		}
	}
	h.close = ends || buf[7] == '0' && !stays
	if h.chunked && h.length >= 0 {
		return unusual // which of them is it?
	}
	return complete
}

// parseFields reads the fields of a head, which begin at buf[at:], and the empty
// line after them; there may be so many. A length that is not there is -1.
func (h *head) parseFields(buf []byte, at, most int) parsed {
	if h.fields == nil {
		h.fields = h.few[:]
	}
	h.line, h.n, h.length, h.kinds, h.close = at, 0, -1, 0, false
	for {
		rest := buf[at:]
		eol := bytes.IndexByte(rest, '\n')
		if eol < 0 {
			return incomplete
		}
		if eol == 0 || rest[eol-1] != '\r' {
			return unusual
		}
		if eol == 1 {
			h.size = at + 2
			return complete
		}
		if h.n == len(h.fields) {
			if h.n >= most {
				return unusual
			}
			h.fields = append(h.fields, make([]field, h.n)...)
		}
		f := &h.fields[h.n]
		h.n++
		colon := 0
		for isToken[rest[colon]] {
			colon++ // the LF is no token
		}
		if colon == 0 || rest[colon] != ':' {
			return unusual
		}
		value, end := colon+1, eol-1
		for value < end && (rest[value] == ' ' || rest[value] == '\t') {
			value++
		}
		for end > value && (rest[end-1] == ' ' || rest[end-1] == '\t') {
			end--
		}
		for _, c := range rest[value:end] {
			if !isValue[c] {
				return unusual
			}
		}
		f.start, f.colon, f.value, f.end, f.next = uint16(at), uint16(at+colon), uint16(at+value), uint16(at+end), uint16(at+eol+1)
		f.kind = fieldKindOf(rest[:colon])
		if f.kind != otherField {
			if h.has(f.kind) && (f.kind == hostField || f.kind == lengthField) {
				return unusual
			}
			h.kinds |= 1 << f.kind
			if f.kind == lengthField {
				if h.length = parseLength(rest[value:end]); h.length < 0 || bytes.IndexByte(rest[colon:eol], '\t') >= 0 {
					return unusual
				}
			}
		}
		at += eol + 1
	}
}

// parseLength returns the value of a Content-Length, or -1.
func parseLength(v []byte) int64 {
	if len(v) == 0 || len(v) > 18 {
		return -1
	}
	var n int64
	for _, c := range v {
		if c < '0' || c > '9' {
			return -1
		}
		n = 10*n + int64(c-'0')
	}
	return n
}

// fieldKindOf returns the kind of a field, by its name in any case.
func fieldKindOf(name []byte) fieldKind {
	switch len(name) {
	case 2:
		if equalFold(name, "te") {
			return hopField
		}
	case 4:
		if equalFold(name, "host") {
			return hostField
		}
	case 6:
		switch {
		case equalFold(name, "cookie"):
			return cookieField
		case equalFold(name, "expect"):
			return hopField
		}
	case 7:
		switch {
		case equalFold(name, "upgrade"):
			return upgradeField
		case equalFold(name, "trailer"):
			return trailerField
		}
	case 9:
		if equalFold(name, "forwarded") {
			return forwardedField
		}
	case 10:
		switch {
		case equalFold(name, "connection"):
			return connectionField
		case equalFold(name, "keep-alive"):
			return keepAliveField
		case equalFold(name, "tracestate"):
			return tracestateField
		}
	case 11:
		if equalFold(name, "traceparent") {
			return traceparentField
		}
	case 14:
		switch {
		case equalFold(name, "content-length"):
			return lengthField
		case equalFold(name, "http2-settings"):
			return hopField
		}
	case 15:
		if equalFold(name, "x-forwarded-for") {
			return forwardedForField
		}
	case 16:
		switch {
		case equalFold(name, "x-forwarded-host"):
			return forwardedHostField
		case equalFold(name, "proxy-connection"):
			return hopField
		}
	case 17:
		switch {
		case equalFold(name, "x-forwarded-proto"):
			return forwardedProtoField
		case equalFold(name, "transfer-encoding"):
			return codingField
		}
	case 18:
		if equalFold(name, "proxy-authenticate") {
			return hopField
		}
	case 19:
		if equalFold(name, "proxy-authorization") {
			return hopField
		}
	}
	if len(name) > 12 && equalFold(name[:12], "x-forwarded-") {
		return forwardedOtherField
	}
	return otherField
}
