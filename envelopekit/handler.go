package envelopekit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/envelope"
	"github.com/ServiceWeaver/weaver/runtime/protomsg"
	"github.com/ServiceWeaver/weaver/runtime/protos"
	"github.com/ServiceWeaver/weaver/runtime/traces"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/weaverkit/weaverkit/envelopekit/placement"
)

// An Identity issues and checks the certificates with which groups prove to
// each other who they are. [github.com/weaverkit/weaverkit/envelopekit/identity]
// has one. Its methods may be called from several goroutines.
type Identity interface {
	// Certificate returns the PEM blocks of a certificate that names the
	// group, and of its private key. It is asked at each new handshake, so
	// answering with another one rotates it.
	Certificate(group string) (certPEM, keyPEM []byte, err error)

	// Verify checks a chain of DER certificates and returns the group it names.
	Verify(chain [][]byte) (group string, err error)
}

// A Handler answers what one weavelet asks of its deployer: it is an
// [envelope.EnvelopeHandler]. A [Deployment] makes one for each weavelet. On
// its own it is a base for other deployers, to be used as it is or embedded:
//
//	type auditing struct {
//		*envelopekit.Handler
//	}
//
//	func (a auditing) ActivateComponent(ctx context.Context, req *protos.ActivateComponentRequest) (*protos.ActivateComponentReply, error) {
//		slog.Info("activate", "group", a.Group, "component", req.Component)
//		return a.Handler.ActivateComponent(ctx, req)
//	}
//
// Values that a weavelet passes are valid only during a call; a Handler copies
// what it hands on. Its functions may be called from several goroutines. They
// must return soon and must not wait for a call to the same weavelet. Fields
// must not change once the Handler is in use.
type Handler struct {
	// Group is the name of the weavelet's group.
	Group string

	// Plan and Calls say who is in which group and who refers to whom. They
	// are needed with an Identity only, to decide who may call whom.
	Plan  placement.Plan
	Calls []placement.Edge

	// Activate is told that the weavelet uses a component, perhaps several
	// times: the component is to run somewhere, and the weavelet to be told
	// where. An error makes the weavelet ask again. Nil activates nothing.
	Activate func(ctx context.Context, component string, routed bool) error

	// ListenOn returns the address on which the weavelet is to open a
	// listener. Nil lets it choose a port of the loopback interface.
	ListenOn func(listener string) (string, error)

	// Export is told that the weavelet serves a listener at an address, and
	// returns the address at which clients reach it. An error is final: it
	// fails the component that has the listener. Nil returns the same address.
	Export func(ctx context.Context, listener, address string) (string, error)

	// Identity is asked for certificates. Nil is for weavelets without mTLS.
	Identity Identity

	// Log takes log entries, each with its time set. Nil discards them.
	Log func(*protos.LogEntry)

	// Spans takes finished trace spans. Nil discards them.
	Spans func([]sdktrace.ReadOnlySpan)
}

var _ envelope.EnvelopeHandler = (*Handler)(nil)

// ActivateComponent implements [envelope.EnvelopeHandler].
func (h *Handler) ActivateComponent(ctx context.Context, req *protos.ActivateComponentRequest) (*protos.ActivateComponentReply, error) {
	if req.GetComponent() == "" {
		return nil, errors.New("activate component: the request names none")
	}
	if h.Activate != nil {
		if err := h.Activate(ctx, req.Component, req.Routed); err != nil {
			return nil, fmt.Errorf("activate component %s: %w", req.Component, err)
		}
	}
	return &protos.ActivateComponentReply{}, nil
}

// GetListenerAddress implements [envelope.EnvelopeHandler].
func (h *Handler) GetListenerAddress(_ context.Context, req *protos.GetListenerAddressRequest) (*protos.GetListenerAddressReply, error) {
	if req.GetName() == "" {
		return nil, errors.New("address of a listener: the request names none")
	}
	if h.ListenOn == nil {
		return &protos.GetListenerAddressReply{Address: loopback}, nil
	}
	address, err := h.ListenOn(req.Name)
	if err != nil {
		return nil, fmt.Errorf("address of listener %s: %w", req.Name, err)
	}
	return &protos.GetListenerAddressReply{Address: address}, nil
}

// loopback asks the operating system for a free port of the loopback interface.
const loopback = "127.0.0.1:0"

// ExportListener implements [envelope.EnvelopeHandler]. Its errors are in the
// reply: a weavelet would repeat the call for ever if it returned one.
func (h *Handler) ExportListener(ctx context.Context, req *protos.ExportListenerRequest) (*protos.ExportListenerReply, error) {
	if req.GetListener() == "" || req.GetAddress() == "" {
		return &protos.ExportListenerReply{Error: fmt.Sprintf("export listener: the request lacks a name or an address: %q at %q", req.GetListener(), req.GetAddress())}, nil
	}
	if h.Export == nil {
		return &protos.ExportListenerReply{ProxyAddress: req.Address}, nil
	}
	address, err := h.Export(ctx, req.Listener, req.Address)
	if err != nil {
		return &protos.ExportListenerReply{Error: fmt.Sprintf("export listener %s: %v", req.Listener, err)}, nil
	}
	return &protos.ExportListenerReply{ProxyAddress: address}, nil
}

var errNoIdentity = errors.New("mTLS is off: this deployer has no identities")

// GetSelfCertificate implements [envelope.EnvelopeHandler].
func (h *Handler) GetSelfCertificate(context.Context, *protos.GetSelfCertificateRequest) (*protos.GetSelfCertificateReply, error) {
	if h.Identity == nil {
		return nil, errNoIdentity
	}
	cert, key, err := h.Identity.Certificate(h.Group)
	if err != nil {
		return nil, fmt.Errorf("certificate of group %s: %w", h.Group, err)
	}
	return &protos.GetSelfCertificateReply{Cert: cert, Key: key}, nil
}

// VerifyClientCertificate implements [envelope.EnvelopeHandler]. The client
// may call the components that a component of its group refers to.
func (h *Handler) VerifyClientCertificate(_ context.Context, req *protos.VerifyClientCertificateRequest) (*protos.VerifyClientCertificateReply, error) {
	if h.Identity == nil {
		return nil, errNoIdentity
	}
	name, err := h.Identity.Verify(req.GetCertChain())
	if err != nil {
		return nil, fmt.Errorf("verify a client of group %s: %w", h.Group, err)
	}
	client, ok := h.Plan.Group(name)
	if !ok {
		return nil, fmt.Errorf("verify a client of group %s: it is of group %q, which is not in the plan", h.Group, name)
	}
	// All that it may call, not only what this group hosts: with less, some
	// applications never come up.
	var callable []string
	for _, e := range h.Calls {
		if slices.Contains(client.Components, e.From) {
			callable = append(callable, e.To)
		}
	}
	slices.Sort(callable)
	return &protos.VerifyClientCertificateReply{Components: slices.Compact(callable)}, nil
}

// VerifyServerCertificate implements [envelope.EnvelopeHandler]. The server
// must be of the group that hosts the component.
func (h *Handler) VerifyServerCertificate(_ context.Context, req *protos.VerifyServerCertificateRequest) (*protos.VerifyServerCertificateReply, error) {
	if h.Identity == nil {
		return nil, errNoIdentity
	}
	name, err := h.Identity.Verify(req.GetCertChain())
	if err != nil {
		return nil, fmt.Errorf("verify the server of %s: %w", req.GetTargetComponent(), err)
	}
	want, ok := h.Plan.GroupOf(req.GetTargetComponent())
	if !ok {
		return nil, fmt.Errorf("verify the server of %s: no group of the plan hosts it", req.GetTargetComponent())
	}
	if want.Name != name {
		return nil, fmt.Errorf("verify the server of %s: it is of group %q, want %q", req.GetTargetComponent(), name, want.Name)
	}
	return &protos.VerifyServerCertificateReply{}, nil
}

// LogBatch implements [envelope.EnvelopeHandler].
func (h *Handler) LogBatch(_ context.Context, batch *protos.LogEntryBatch) error {
	if h.Log == nil {
		return nil
	}
	for _, e := range batch.GetEntries() {
		e = protomsg.Clone(e)
		if e.TimeMicros == 0 {
			e.TimeMicros = time.Now().UnixMicro()
		}
		h.Log(e)
	}
	return nil
}

// HandleTraceSpans implements [envelope.EnvelopeHandler].
func (h *Handler) HandleTraceSpans(_ context.Context, spans *protos.TraceSpans) error {
	if h.Spans == nil || len(spans.GetSpan()) == 0 {
		return nil
	}
	read := make([]sdktrace.ReadOnlySpan, len(spans.Span))
	for i, s := range spans.Span {
		read[i] = &traces.ReadSpan{Span: protomsg.Clone(s)}
	}
	h.Spans(read)
	return nil
}
