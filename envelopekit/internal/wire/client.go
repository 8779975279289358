package wire

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/ServiceWeaver/weaver/runtime/codegen"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// ErrClosed is the error of calls on a connection that has ended.
var ErrClosed = errors.New("the connection is closed")

// A Client makes calls over one connection. Its methods may be called from
// several goroutines.
type Client struct {
	conn net.Conn

	wmu     sync.Mutex // held while a message is written; guards greeted
	greeted bool       // the version was sent, which comes first

	mu     sync.Mutex // guards the following
	last   uint64
	calls  map[uint64]chan<- message
	closed bool
}

// NewClient returns a client of the connection. Calls are answered while Run
// runs.
func NewClient(conn net.Conn) *Client {
	return &Client{conn: conn, calls: map[uint64]chan<- message{}}
}

// Run reads answers until the connection ends, which it closes then. The error
// says how; it is never nil.
func (c *Client) Run() error {
	err := c.run()
	c.conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for id, call := range c.calls {
		delete(c.calls, id)
		close(call)
	}
	return err
}

func (c *Client) run() error {
	if err := c.write(nil); err != nil {
		return err
	}
	r := bufio.NewReaderSize(c.conn, 1<<10)
	m, err := readMessage(r)
	if err == nil {
		err = checkVersion(m)
	}
	for err == nil {
		if m, err = readMessage(r); err != nil {
			break
		}
		if m.kind != kindResponse && m.kind != kindError {
			return fmt.Errorf("message of kind %d, where an answer was expected", m.kind)
		}
		c.mu.Lock()
		call, ok := c.calls[m.id]
		delete(c.calls, m.id)
		c.mu.Unlock()
		if ok { // else nobody waits any more
			call <- m
		}
	}
	return err
}

// write writes a whole message. It blocks while the other side does not read.
func (c *Client) write(b []byte) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if !c.greeted {
		c.greeted = true
		b = append(versionFrame(), b...)
	}
	_, err := c.conn.Write(b)
	return err
}

// call makes a call and waits for its answer, until ctx ends. It does not obey
// ctx while it writes.
func (c *Client) call(ctx context.Context, key methodKey, args []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	answer := make(chan message, 1)
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, ErrClosed
	}
	c.last++
	id := c.last
	c.calls[id] = answer
	c.mu.Unlock()
	if err := c.write(frame(id, kindRequest, encodeHeader(ctx, key), args)); err != nil {
		c.forget(id)
		c.conn.Close() // part of a message may have been written
		return nil, fmt.Errorf("%w: %w", ErrClosed, err)
	}
	select {
	case m, ok := <-answer:
		switch {
		case !ok:
			return nil, ErrClosed
		case m.kind == kindError:
			return nil, decodeError(m.payload)
		}
		return m.payload, nil
	case <-ctx.Done():
		c.forget(id)
		if errors.Is(ctx.Err(), context.Canceled) { // the other side knows the deadline
			if err := c.write(frame(id, kindCancel)); err != nil {
				c.conn.Close()
			}
		}
		return nil, ctx.Err()
	}
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.calls, id)
}

// Component returns upstream's stub of a component at the other end: a value
// that has the component's methods.
func (c *Client) Component(name string) (any, error) {
	reg, ok := codegen.Find(name)
	if !ok {
		return nil, fmt.Errorf("component %s is not linked into this program", name)
	}
	s := &stub{client: c}
	for _, m := range methods(reg) {
		s.keys = append(s.keys, keyOf(name, m.Name))
	}
	return reg.ClientStubFn(s, "deployer"), nil
}

// A stub implements [codegen.Stub].
type stub struct {
	client *Client
	keys   []methodKey
}

func (s *stub) Tracer() trace.Tracer { return noop.NewTracerProvider().Tracer("") }

func (s *stub) Run(ctx context.Context, method int, args []byte, _ uint64) ([]byte, error) {
	return s.client.call(ctx, s.keys[method], args)
}
