package proxy

import "time"

// restOfPreface is what follows preface, which looks like the head of a request.
const restOfPreface = "SM\r\n\r\n"

// A frameScan follows the frames of HTTP/2 as they pass by, after the preface: to
// see whether a client has stopped within one, or within a head, which may be of
// several.
type frameScan struct {
	preface string  // what is left of it
	header  [9]byte // of a frame
	have    int     // of header
	left    int     // of the frame
	size    int     // of the frame
	data    bool    // it is of a body
	inHead  bool    // the frame, or the next one, belongs to a head that it does not end
}

// The types of frames that have an end of a head, and the flag that says so.
const (
	dataFrame         = 0x0
	headersFrame      = 0x1
	continuationFrame = 0x9
	endHeaders        = 0x4
)

// scan goes over what has come. rested is whether there is a place in it, its
// beginning and its end included, that is not within anything; ok is false if it
// is not the preface.
func (f *frameScan) scan(b []byte) (rested, ok bool) {
	rested = !f.within()
	for len(b) > 0 {
		switch {
		case f.preface != "":
			n := min(len(b), len(f.preface))
			if string(b[:n]) != f.preface[:n] {
				return rested, false
			}
			f.preface, b = f.preface[n:], b[n:]
		case f.left > 0:
			n := min(len(b), f.left)
			f.left -= n
			b = b[n:]
		default:
			n := copy(f.header[f.have:], b)
			f.have += n
			b = b[n:]
			if f.have == len(f.header) {
				f.begin()
			}
		}
		rested = rested || !f.within()
	}
	return rested, true
}

// begin reads the header of a frame.
func (f *frameScan) begin() {
	h := &f.header
	f.have = 0
	f.size = int(h[0])<<16 | int(h[1])<<8 | int(h[2])
	f.left = f.size
	f.data = h[3] == dataFrame
	if h[3] == headersFrame || h[3] == continuationFrame {
		f.inHead = h[4]&endHeaders == 0
	}
}

// within reports whether the client has begun what it has not ended.
func (f *frameScan) within() bool {
	return f.preface != "" || f.have > 0 || f.left > 0 || f.inHead
}

// limit returns until when more must come of what was begun then; zero is never.
func (f *frameScan) limit(began, now time.Time, opts *Options) time.Time {
	if !f.data || f.left == 0 || f.inHead {
		return began.Add(opts.HeaderTimeout)
	}
	return bodyLimit(began, now, int64(f.size-f.left), opts)
}

// bodyLimit returns until when more must come of a body, or of a part of it, that
// was begun then; zero is never.
func bodyLimit(began, now time.Time, passed int64, opts *Options) time.Time {
	d := opts.BodyTimeout
	if d <= 0 {
		return time.Time{}
	}
	limit := now.Add(d)
	if rate := opts.MinBodyRate; rate > 0 {
		slowest := began.Add(d + time.Duration(float64(passed)/float64(rate)*float64(time.Second)))
		if slowest.Before(limit) {
			limit = slowest
		}
	}
	return limit
}
