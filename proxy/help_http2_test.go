package proxy_test

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// What tests need of HTTP/2 to be a peer that net/http would not be.

// The types and flags of frames, and codes of errors: RFC 9113.
const (
	h2Data         = 0x0
	h2Headers      = 0x1
	h2Reset        = 0x3
	h2Settings     = 0x4
	h2Ping         = 0x6
	h2GoAway       = 0x7
	h2Continuation = 0x9

	h2Ack        = 0x1
	h2EndStream  = 0x1
	h2EndHeaders = 0x4

	h2ProtocolError = 0x1
	h2InternalError = 0x2
	h2RefusedStream = 0x7
)

type h2Frame struct {
	kind, flags byte
	stream      uint32
	payload     []byte
}

func (f h2Frame) bytes() []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(f.payload))<<8|uint32(f.kind))
	b = append(b, f.flags)
	b = binary.BigEndian.AppendUint32(b, f.stream)
	return append(b, f.payload...)
}

func readFrame(r io.Reader) (f h2Frame, err error) {
	var h [9]byte
	if _, err = io.ReadFull(r, h[:]); err != nil {
		return f, err
	}
	size := binary.BigEndian.Uint32(h[:]) >> 8
	f = h2Frame{h[3], h[4], binary.BigEndian.Uint32(h[5:]), make([]byte, size)}
	_, err = io.ReadFull(r, f.payload)
	return f, err
}

// h2Fields encodes header fields, names and values, each by its letters.
func h2Fields(fields ...string) (b []byte) {
	for i, s := range fields {
		if i%2 == 0 {
			b = append(b, 0) // a literal, whose name follows
		}
		if len(s) < 127 {
			b = append(b, byte(len(s)))
		} else { // RFC 7541, section 5.1
			b = append(b, 127)
			n := len(s) - 127
			for ; n >= 128; n >>= 7 {
				b = append(b, byte(n)|0x80)
			}
			b = append(b, byte(n))
		}
		b = append(b, s...)
	}
	return b
}

func h2Uints(n ...uint32) (b []byte) {
	for _, n := range n {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}

// h2Head is the head of a request without a body.
func h2Head(stream uint32, fields ...string) []byte {
	return h2Frame{h2Headers, h2EndHeaders | h2EndStream, stream, h2Fields(fields...)}.bytes()
}

// openHTTP2 opens a connection of cleartext HTTP/2 to a proxy.
func openHTTP2(t testing.TB, addr string) (*net.TCPConn, *bufio.Reader) {
	t.Helper()
	c, br := open(t, addr)
	say(t, c, "%s%s", preface, h2Frame{kind: h2Settings}.bytes())
	return c, br
}

// hearHTTP2 returns the next frame of a stream, or one that ends the connection.
func hearHTTP2(t testing.TB, br *bufio.Reader, stream uint32) h2Frame {
	t.Helper()
	for {
		f, err := readFrame(br)
		require.NoError(t, err)
		if f.stream == stream || f.kind == h2GoAway {
			return f
		}
	}
}

// h2OK begins the head of a response with status 200.
const h2OK = 0x88

// newHTTP2Origin is a backend of HTTP/2 that answers what it gets on a stream as f
// says: with the bytes of frames, after which it ends the connection if end is set.
func newHTTP2Origin(t testing.TB, f func(stream uint32) (b []byte, end bool)) string {
	t.Helper()
	return newRawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		if _, err := io.ReadFull(br, make([]byte, len(preface))); err != nil {
			return
		}
		c.Write(h2Frame{kind: h2Settings}.bytes())
		for {
			got, err := readFrame(br)
			switch {
			case err != nil:
				return
			case got.kind == h2Settings && got.flags&h2Ack == 0:
				c.Write(h2Frame{kind: h2Settings, flags: h2Ack}.bytes())
			case got.kind == h2Headers:
				b, end := f(got.stream)
				c.Write(b)
				if end { // not before the proxy has read it: what is sent meanwhile would reset the connection
					c.CloseWrite()
					io.Copy(io.Discard, br)
					return
				}
			}
		}
	})
}
