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
)

// maxHandling bounds the requests of one connection that are handled at the
// same time. When there are more, the next is not read.
const maxHandling = 64

// A Server answers the calls of a component's methods.
type Server struct {
	handlers map[methodKey]func(context.Context, []byte) ([]byte, error)
}

// NewServer returns a server that answers with the methods of impl, which must
// implement the component's interface.
func NewServer(component string, impl any) (*Server, error) {
	reg, ok := codegen.Find(component)
	if !ok {
		return nil, fmt.Errorf("component %s is not linked into this program", component)
	}
	s := &Server{handlers: map[methodKey]func(context.Context, []byte) ([]byte, error){}}
	server := reg.ServerStubFn(impl, func(uint64, float64) {})
	for _, m := range methods(reg) {
		s.handlers[keyOf(component, m.Name)] = server.GetStubFn(m.Name)
	}
	return s, nil
}

// Serve answers requests on the connections that l accepts, until ctx ends or
// l fails. It returns when all connections are closed and all handlers have
// returned; their contexts end with their connections.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return err
		}
		wg.Go(func() { s.serve(ctx, conn) })
	}
}

// A session is one connection.
type session struct {
	server *Server
	conn   net.Conn

	wmu sync.Mutex // held while a message is written

	mu      sync.Mutex // guards the following
	cancels map[uint64]context.CancelFunc
}

func (s *Server) serve(ctx context.Context, conn net.Conn) {
	ss := &session{server: s, conn: conn, cancels: map[uint64]context.CancelFunc{}}
	ctx, cancel := context.WithCancel(ctx)
	var handling sync.WaitGroup
	// Requests that came before the connection ended are still handled, with
	// contexts that have ended: the last words of a process are not lost.
	defer conn.Close()
	defer handling.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	r := bufio.NewReaderSize(conn, 4<<10)
	turns := make(chan struct{}, maxHandling)
	for first := true; ; first = false {
		m, err := readMessage(r)
		if err != nil {
			return
		}
		switch {
		case first:
			if checkVersion(m) != nil || ss.write(versionFrame()) != nil {
				return
			}
		case m.kind == kindCancel:
			ss.cancel(m.id)
		case m.kind == kindRequest:
			req, err := decodeRequest(m.payload)
			if err != nil {
				return
			}
			turns <- struct{}{}
			ctx := ss.begin(ctx, m.id, req)
			handling.Go(func() {
				defer func() { <-turns }()
				defer ss.cancel(m.id)
				ss.handle(ctx, m.id, req)
			})
		default:
			return
		}
	}
}

// begin returns the context of a request.
func (ss *session) begin(ctx context.Context, id uint64, req request) context.Context {
	var cancel context.CancelFunc
	if req.timeout != 0 {
		ctx, cancel = context.WithTimeout(ctx, req.timeout)
	} else {
		ctx, cancel = context.WithCancel(ctx)
	}
	if req.span.IsValid() {
		ctx = trace.ContextWithRemoteSpanContext(ctx, req.span)
	}
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.cancels[id] = cancel
	return ctx
}

func (ss *session) cancel(id uint64) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if cancel, ok := ss.cancels[id]; ok {
		delete(ss.cancels, id)
		cancel()
	}
}

func (ss *session) handle(ctx context.Context, id uint64, req request) {
	var result []byte
	err := errors.New("unknown method")
	if h, ok := ss.server.handlers[req.key]; ok {
		result, err = h(ctx, req.args)
	}
	answer := frame(id, kindResponse, result)
	if err != nil {
		answer = frame(id, kindError, encodeError(err))
	}
	if ss.write(answer) != nil {
		ss.conn.Close()
	}
}

func (ss *session) write(b []byte) error {
	ss.wmu.Lock()
	defer ss.wmu.Unlock()
	_, err := ss.conn.Write(b)
	return err
}
