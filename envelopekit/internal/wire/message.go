package wire

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"reflect"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/codegen"
	"go.opentelemetry.io/otel/trace"
)

// The kinds of messages.
const (
	kindVersion  = 0
	kindRequest  = 1
	kindResponse = 2
	kindError    = 3
	kindCancel   = 4
)

const (
	prefixSize = 16
	maxMessage = 100 << 20 // as upstream's
)

// A message is what is sent in either direction.
type message struct {
	id      uint64
	kind    byte
	payload []byte
}

func readMessage(r io.Reader) (message, error) {
	var prefix [prefixSize]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return message{}, err
	}
	word := binary.LittleEndian.Uint64(prefix[8:])
	size := word >> 8
	if size > maxMessage {
		return message{}, fmt.Errorf("message of %d bytes", size)
	}
	m := message{id: binary.LittleEndian.Uint64(prefix[:]), kind: byte(word), payload: make([]byte, size)}
	_, err := io.ReadFull(r, m.payload)
	return m, err
}

// frame returns the bytes of a message whose payload is the given parts.
func frame(id uint64, kind byte, parts ...[]byte) []byte {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	b := make([]byte, prefixSize, prefixSize+size)
	binary.LittleEndian.PutUint64(b, id)
	binary.LittleEndian.PutUint64(b[8:], uint64(kind)|uint64(size)<<8)
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// versionFrame is the message that either side begins with.
func versionFrame() []byte { return frame(0, kindVersion, make([]byte, 4)) }

func checkVersion(m message) error {
	if m.kind != kindVersion || m.id != 0 || len(m.payload) < 4 {
		return fmt.Errorf("message of kind %d with %d bytes, where a version was expected", m.kind, len(m.payload))
	}
	return nil
}

// A methodKey names a method of a component.
type methodKey [16]byte

func keyOf(component, method string) methodKey {
	sum := sha256.Sum256([]byte(component + "." + method))
	return methodKey(sum[:16])
}

// methods returns the methods of a component in the order of their indices.
func methods(reg *codegen.Registration) []reflect.Method {
	var ms []reflect.Method
	for i := range reg.Iface.NumMethod() {
		ms = append(ms, reg.Iface.Method(i))
	}
	return ms
}

// encodeHeader returns the header of a request, with its length before it.
func encodeHeader(ctx context.Context, key methodKey) []byte {
	enc := codegen.NewEncoder()
	copy(enc.Grow(len(key)), key[:])
	var micros int64
	if deadline, ok := ctx.Deadline(); ok {
		micros = max(1, time.Until(deadline).Microseconds()) // 0 would be none
	}
	enc.Int64(micros)
	span := trace.SpanContextFromContext(ctx)
	enc.Bool(span.IsValid())
	if span.IsValid() {
		traceID, spanID := span.TraceID(), span.SpanID()
		copy(enc.Grow(len(traceID)), traceID[:])
		copy(enc.Grow(len(spanID)), spanID[:])
		enc.Byte(byte(span.TraceFlags()))
	}
	enc.Bool(false) // no metadata
	header := enc.Data()
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(header))), header...)
}

// A request is a decoded request.
type request struct {
	key     methodKey
	timeout time.Duration // 0 for none
	span    trace.SpanContext
	args    []byte
}

func decodeRequest(payload []byte) (r request, err error) {
	defer func() {
		if x := codegen.CatchPanics(recover()); x != nil {
			err = x
		}
	}()
	if len(payload) < 4 {
		return r, fmt.Errorf("request of %d bytes", len(payload))
	}
	size := int64(binary.LittleEndian.Uint32(payload))
	if size > int64(len(payload)-4) {
		return r, fmt.Errorf("request of %d bytes with a header of %d", len(payload), size)
	}
	dec := codegen.NewDecoder(payload[4 : 4+size])
	copy(r.key[:], dec.Read(len(r.key)))
	r.timeout = time.Duration(dec.Int64()) * time.Microsecond
	if dec.Bool() {
		var c trace.SpanContextConfig
		copy(c.TraceID[:], dec.Read(len(c.TraceID)))
		copy(c.SpanID[:], dec.Read(len(c.SpanID)))
		c.TraceFlags = trace.TraceFlags(dec.Byte())
		c.Remote = true
		r.span = trace.NewSpanContext(c)
	}
	r.args = payload[4+size:]
	return r, nil
}

func encodeError(err error) []byte {
	enc := codegen.NewEncoder()
	enc.Error(err)
	return enc.Data()
}

// decodeError returns the error that a message holds.
func decodeError(payload []byte) (err error) {
	defer func() {
		if x := codegen.CatchPanics(recover()); x != nil {
			err = fmt.Errorf("unreadable error: %w", x)
		}
	}()
	return codegen.NewDecoder(payload).Error()
}
