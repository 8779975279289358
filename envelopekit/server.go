package envelopekit

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/codegen"
	"github.com/ServiceWeaver/weaver/runtime/envelope"
	"go.opentelemetry.io/otel/trace"
)

// deployerControl is the component through which a weavelet calls its
// deployer; the constant is internal upstream.
const deployerControl = "github.com/ServiceWeaver/weaver/deployerControl"

// Types of messages, see upstream's internal/net/call/msg.go. A message is an
// id (8 bytes), a type (1 byte), a length (7 bytes), and that many bytes. All
// numbers are little-endian.
const (
	versionMessage = iota
	requestMessage
	responseMessage
	responseError
	cancelMessage
)

const (
	// maxCallSize is upstream's bound.
	maxCallSize = 100 << 20

	// maxRequests bounds the requests of one connection that are being
	// answered. Further ones are not read: the weavelet waits.
	maxRequests = 64
)

// A server answers the calls of one weavelet to its deployer. Upstream's
// (runtime/deployers) leaves a goroutine behind for good each time it is used,
// and does not say when the last call has been answered.
type server struct {
	methods map[[16]byte]method
	conns   sync.WaitGroup // connections, and what they have to answer

	mu   sync.Mutex // guards the following
	open map[net.Conn]bool
	done bool
}

// A method is one that a weavelet can call, by the hash of its name.
type method = func(ctx context.Context, args []byte) ([]byte, error)

func newServer(h envelope.EnvelopeHandler) (*server, error) {
	reg, ok := codegen.Find(deployerControl)
	if !ok {
		return nil, fmt.Errorf("component %s is not linked in", deployerControl)
	}
	s := &server{methods: map[[16]byte]method{}, open: map[net.Conn]bool{}}
	stub := reg.ServerStubFn(h, func(uint64, float64) {})
	for i := range reg.Iface.NumMethod() {
		name := reg.Iface.Method(i).Name
		hash := sha256.Sum256([]byte(deployerControl + "." + name))
		s.methods[[16]byte(hash[:16])] = stub.GetStubFn(name)
	}
	return s, nil
}

// serve accepts connections until the listener is closed.
func (s *server) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.done {
			s.mu.Unlock()
			c.Close()
			return
		}
		s.open[c] = true
		s.conns.Go(func() {
			s.serveConn(c)
			c.Close()
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.open, c)
		})
		s.mu.Unlock()
	}
}

// finish waits until the connections have ended by themselves, for at most the
// given time, then closes them, and returns when all calls have been answered.
func (s *server) finish(most time.Duration) {
	s.mu.Lock()
	s.done = true
	s.mu.Unlock()
	cut := time.AfterFunc(most, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for c := range s.open {
			c.Close()
		}
	})
	defer cut.Stop()
	s.conns.Wait()
}

// A request is one that is being answered.
type requests struct {
	conn  net.Conn
	slots chan struct{}
	wg    sync.WaitGroup

	write sync.Mutex // one message at a time

	mu      sync.Mutex // guards the following
	cancels map[uint64]context.CancelFunc
}

// serveConn answers the requests of one connection until it ends.
func (s *server) serveConn(c net.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	rs := &requests{conn: c, slots: make(chan struct{}, maxRequests), cancels: map[uint64]context.CancelFunc{}}
	defer rs.wg.Wait()
	defer cancel()
	r := bufio.NewReader(c)
	for {
		id, kind, data, err := readMessage(r)
		if err != nil {
			return
		}
		switch kind {
		case versionMessage: // there is only version 0
			err = rs.send(0, versionMessage, make([]byte, 4))
		case requestMessage:
			rs.slots <- struct{}{}
			reqCtx := rs.begin(ctx, id)
			rs.wg.Go(func() {
				defer func() { <-rs.slots }()
				defer rs.end(id)
				result, err := s.call(reqCtx, data)
				kind := responseMessage
				if err != nil {
					kind, result = responseError, encodeError(err)
				}
				if rs.send(id, kind, result) != nil {
					c.Close()
				}
			})
		case cancelMessage:
			rs.end(id)
		default:
			err = fmt.Errorf("message of unknown type %d", kind)
		}
		if err != nil {
			return
		}
	}
}

// call calls the method that a request asks for.
func (s *server) call(ctx context.Context, data []byte) (result []byte, err error) {
	// The header has its length (4 bytes), a key (16 bytes), a time-out in
	// microseconds (8 bytes) and what concerns tracing.
	const least = 16 + 8
	if len(data) < 4 {
		return nil, errors.New("incomplete request")
	}
	size := uint64(binary.LittleEndian.Uint32(data))
	if size < least || size > uint64(len(data)-4) {
		return nil, errors.New("incomplete request")
	}
	header, args := data[4:4+size], data[4+size:]
	key := [16]byte(header[:16])
	if micros := int64(binary.LittleEndian.Uint64(header[16:24])); micros > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(micros)*time.Microsecond)
		defer cancel()
	}
	if span := spanOf(header[24:]); span.IsValid() {
		ctx = trace.ContextWithRemoteSpanContext(ctx, span)
	}
	m, ok := s.methods[key]
	if !ok {
		return nil, errors.New("unknown method")
	}
	return m(ctx, args)
}

// spanOf returns the span of a call: a flag, the ids of trace and span, flags.
func spanOf(header []byte) trace.SpanContext {
	if len(header) < 1+16+8+1 || header[0] == 0 {
		return trace.SpanContext{}
	}
	return trace.NewSpanContext(trace.SpanContextConfig{
		TraceID:    trace.TraceID(header[1:17]),
		SpanID:     trace.SpanID(header[17:25]),
		TraceFlags: trace.TraceFlags(header[25]),
		Remote:     true,
	})
}

func (rs *requests) begin(ctx context.Context, id uint64) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.cancels[id] = cancel
	return ctx
}

func (rs *requests) end(id uint64) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if cancel, ok := rs.cancels[id]; ok {
		cancel()
		delete(rs.cancels, id)
	}
}

func (rs *requests) send(id uint64, kind int, data []byte) error {
	msg := encodeMessage(id, kind, data)
	rs.write.Lock()
	defer rs.write.Unlock()
	_, err := rs.conn.Write(msg)
	return err
}

// encodeMessage returns a message with the given parts one after the other.
func encodeMessage(id uint64, kind int, parts ...[]byte) []byte {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	msg := make([]byte, 16, 16+size)
	binary.LittleEndian.PutUint64(msg, id)
	binary.LittleEndian.PutUint64(msg[8:], uint64(kind)|uint64(size)<<8)
	for _, p := range parts {
		msg = append(msg, p...)
	}
	return msg
}

func readMessage(r io.Reader) (id uint64, kind int, data []byte, err error) {
	var header [16]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, 0, nil, err
	}
	word := binary.LittleEndian.Uint64(header[8:])
	if word>>8 > maxCallSize {
		return 0, 0, nil, fmt.Errorf("message of %d bytes", word>>8)
	}
	data = make([]byte, word>>8)
	_, err = io.ReadFull(r, data)
	return binary.LittleEndian.Uint64(header[:]), int(word & 0xff), data, err
}

func encodeError(err error) []byte {
	e := codegen.NewEncoder()
	e.Error(err)
	return e.Data()
}
