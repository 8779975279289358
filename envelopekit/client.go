package envelopekit

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/codegen"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// weaveletControl is the component through which a deployer calls a weavelet;
// the constant is internal upstream.
const weaveletControl = "github.com/ServiceWeaver/weaver/weaveletControl"

// errHangUp is the error of calls on a connection that has ended.
var errHangUp = errors.New("the connection to the weavelet has ended")

// A client makes the deployer's calls to one weavelet, over a connection that
// somebody else has made. Upstream's can only be had with an envelope around
// it, which invents the path of the socket and dials it too early. The protocol
// is in server.go.
type client struct {
	conn net.Conn

	write   sync.Mutex // held while a message is written; guards greeted
	greeted bool       // the version was sent, which comes first

	mu    sync.Mutex // guards the following
	last  uint64
	calls map[uint64]chan<- answer
	ended bool
}

// An answer is what a call returns.
type answer struct {
	data []byte
	err  error
}

func newClient(conn net.Conn) *client {
	return &client{conn: conn, calls: map[uint64]chan<- answer{}}
}

// control returns upstream's stub of the weavelet's control component.
func (c *client) control() (control, error) {
	reg, ok := codegen.Find(weaveletControl)
	if !ok {
		return nil, fmt.Errorf("component %s is not linked in", weaveletControl)
	}
	return reg.ClientStubFn(newStub(c, weaveletControl, reg), "deployer").(control), nil
}

// run reads answers until the connection ends, which it closes then, and ends
// all calls.
func (c *client) run() error {
	err := c.read()
	c.conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	for id, call := range c.calls {
		delete(c.calls, id)
		call <- answer{err: errHangUp}
	}
	return err
}

func (c *client) read() error {
	if err := c.send(nil); err != nil { // greets
		return err
	}
	r := bufio.NewReaderSize(c.conn, 1<<10)
	for first := true; ; first = false {
		id, kind, data, err := readMessage(r)
		if err != nil {
			return err
		}
		a := answer{data: data}
		switch {
		case first && kind == versionMessage:
			continue
		case first || kind != responseMessage && kind != responseError:
			return fmt.Errorf("message of unexpected type %d", kind)
		case kind == responseError:
			a.err = decodeError(data)
		}
		c.mu.Lock()
		call, ok := c.calls[id]
		delete(c.calls, id)
		c.mu.Unlock()
		if ok { // else nobody waits any more
			call <- a
		}
	}
}

// send writes whole messages. It blocks while the weavelet does not read.
func (c *client) send(messages []byte) error {
	c.write.Lock()
	defer c.write.Unlock()
	if !c.greeted {
		c.greeted = true
		messages = append(encodeMessage(0, versionMessage, make([]byte, 4)), messages...)
	}
	_, err := c.conn.Write(messages)
	if err != nil {
		c.conn.Close() // a part may have been written
	}
	return err
}

// call makes a call and waits for its answer, until ctx ends. It does not obey
// ctx while it writes.
func (c *client) call(ctx context.Context, key [16]byte, args []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	answers := make(chan answer, 1)
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return nil, errHangUp
	}
	c.last++
	id := c.last
	c.calls[id] = answers
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.calls, id)
	}()

	if err := c.send(encodeMessage(id, requestMessage, encodeHeader(ctx, key), args)); err != nil {
		return nil, fmt.Errorf("%w: %w", errHangUp, err)
	}
	select {
	case a := <-answers:
		return a.data, a.err
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) { // the weavelet knows the deadline
			_ = c.send(encodeMessage(id, cancelMessage)) // it cannot end more than the connection
		}
		return nil, ctx.Err()
	}
}

// encodeHeader returns the header of a request, with its length before it.
func encodeHeader(ctx context.Context, key [16]byte) []byte {
	e := codegen.NewEncoder()
	copy(e.Grow(len(key)), key[:])
	var micros int64
	if deadline, ok := ctx.Deadline(); ok {
		micros = max(1, time.Until(deadline).Microseconds()) // 0 would be none
	}
	e.Int64(micros)
	span := trace.SpanContextFromContext(ctx)
	e.Bool(span.IsValid())
	if span.IsValid() {
		traceID, spanID := span.TraceID(), span.SpanID()
		copy(e.Grow(len(traceID)), traceID[:])
		copy(e.Grow(len(spanID)), spanID[:])
		e.Byte(byte(span.TraceFlags()))
	}
	e.Bool(false) // no metadata
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(e.Data()))), e.Data()...)
}

// decodeError returns the error that a message holds.
func decodeError(data []byte) (err error) {
	defer func() {
		if x := codegen.CatchPanics(recover()); x != nil {
			err = fmt.Errorf("unreadable error: %w", x)
		}
	}()
	return codegen.NewDecoder(data).Error()
}

// A stub implements [codegen.Stub].
type stub struct {
	client *client
	keys   [][16]byte // of the component's methods
}

func newStub(c *client, component string, reg *codegen.Registration) *stub {
	s := &stub{client: c}
	for i := range reg.Iface.NumMethod() {
		hash := sha256.Sum256([]byte(component + "." + reg.Iface.Method(i).Name))
		s.keys = append(s.keys, [16]byte(hash[:16]))
	}
	return s
}

// Tracer implements [codegen.Stub]. It is used when a context has a span.
func (s *stub) Tracer() trace.Tracer { return noop.NewTracerProvider().Tracer("") }

// Run implements [codegen.Stub].
func (s *stub) Run(ctx context.Context, method int, args []byte, _ uint64) ([]byte, error) {
	return s.client.call(ctx, s.keys[method], args)
}
