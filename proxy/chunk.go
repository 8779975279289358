package proxy

// A chunkScanner finds the end of a chunked body as it passes by. It is strict:
// no extensions beyond visible characters, no bare line feeds.
type chunkScanner struct {
	state chunkState
	left  int64 // of the chunk's data
	count int   // of digits, or of bytes of an extension or the trailers
	done  bool
	bytes uint64 // of data
}

type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkPad
	chunkExtension
	chunkSizeLF
	chunkData
	chunkDataCR
	chunkDataLF
	trailerStart
	trailerName
	trailerLine
	trailerLF
	trailerEndLF
)

const (
	maxChunkDigits = 15
	maxExtension   = 4000 // net/http's limit is of 4096 for the line
	maxTrailer     = 16 << 10
)

// scan goes over bytes of a body, and returns how many of them belong to it.
// They are all, unless the scanner is done then, or ok is false: the body is
// not well-formed.
func (s *chunkScanner) scan(b []byte) (n int, ok bool) {
	for n < len(b) {
		c := b[n]
		switch s.state {
		case chunkSize:
			switch {
			case isHex[c] && s.count < maxChunkDigits:
				digit := int64(c - '0')
				if c > '9' {
					digit = int64(c|0x20-'a') + 10
				}
				s.left = s.left<<4 | digit
				s.count++
			case s.count == 0:
				return n, false
			case c == ';':
				s.state, s.count = chunkExtension, 0
			case c == ' ' || c == '\t':
				s.state, s.count = chunkPad, 0
			case c == '\r':
				s.state = chunkSizeLF
			default:
				return n, false
			}
		case chunkPad: // some servers fill the line up
			s.count++
			switch {
			case c == '\r':
				s.state = chunkSizeLF
			case c != ' ' && c != '\t' || s.count > maxExtension:
				return n, false
			}
		case chunkExtension:
			s.count++
			switch {
			case c == '\r':
				s.state = chunkSizeLF
			case !isValue[c] || s.count > maxExtension:
				return n, false
			}
		case chunkSizeLF:
			if c != '\n' {
				return n, false
			}
			s.state, s.count = chunkData, 0
			if s.left == 0 {
				s.state = trailerStart
			}
		case chunkData:
			k := int(min(s.left, int64(len(b)-n)))
			s.bytes += uint64(k)
			n += k
			if s.left -= int64(k); s.left == 0 {
				s.state = chunkDataCR
			}
			continue
		case chunkDataCR:
			if c != '\r' {
				return n, false
			}
			s.state = chunkDataLF
		case chunkDataLF:
			if c != '\n' {
				return n, false
			}
			s.state = chunkSize
		case trailerStart:
			switch {
			case c == '\r':
				s.state = trailerEndLF
			case isToken[c]:
				s.state = trailerName
			default:
				return n, false
			}
		case trailerName:
			switch {
			case c == ':':
				s.state = trailerLine
			case !isToken[c]:
				return n, false
			}
		case trailerLine:
			switch {
			case c == '\r':
				s.state = trailerLF
			case !isValue[c]:
				return n, false
			}
		case trailerLF:
			if c != '\n' {
				return n, false
			}
			s.state = trailerStart
		case trailerEndLF:
			if c != '\n' {
				return n, false
			}
			s.done = true
			return n + 1, true
		}
		if s.state >= trailerStart {
			if s.count++; s.count > maxTrailer {
				return n, false
			}
		}
		n++
	}
	return n, true
}
