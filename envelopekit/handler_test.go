package envelopekit_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/envelope"
	"github.com/ServiceWeaver/weaver/runtime/protos"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/protobuf/proto"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/envelopekit/placement"
)

// wantError checks that err says all of want.
func wantError(t *testing.T, err error, want ...string) {
	t.Helper()
	for _, w := range want {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("got error %v, want one with %q", err, w)
		}
	}
}

// The zero Handler answers everything: it activates nothing, lets the weavelet
// choose its ports, and has no certificates.
func TestZeroHandler(t *testing.T) {
	h, ctx := &envelopekit.Handler{}, t.Context()
	if _, err := h.ActivateComponent(ctx, &protos.ActivateComponentRequest{Component: "c"}); err != nil {
		t.Error(err)
	}
	if reply, err := h.GetListenerAddress(ctx, &protos.GetListenerAddressRequest{Name: "web"}); err != nil || reply.Address != "127.0.0.1:0" {
		t.Errorf("got address %v, error %v", reply, err)
	}
	if reply, err := h.ExportListener(ctx, &protos.ExportListenerRequest{Listener: "web", Address: "127.0.0.1:80"}); err != nil || reply.ProxyAddress != "127.0.0.1:80" || reply.Error != "" {
		t.Errorf("got reply %v, error %v", reply, err)
	}
	const off = "mTLS is off"
	_, err := h.GetSelfCertificate(ctx, &protos.GetSelfCertificateRequest{})
	wantError(t, err, off)
	_, err = h.VerifyClientCertificate(ctx, &protos.VerifyClientCertificateRequest{})
	wantError(t, err, off)
	_, err = h.VerifyServerCertificate(ctx, &protos.VerifyServerCertificateRequest{})
	wantError(t, err, off)
	if err := h.LogBatch(ctx, &protos.LogEntryBatch{Entries: []*protos.LogEntry{{Msg: "x"}}}); err != nil {
		t.Error(err)
	}
	if err := h.HandleTraceSpans(ctx, &protos.TraceSpans{Span: []*protos.Span{{}}}); err != nil {
		t.Error(err)
	}
}

func TestHandlerActivate(t *testing.T) {
	var got []string
	h := &envelopekit.Handler{Activate: func(_ context.Context, component string, routed bool) error {
		if got = append(got, fmt.Sprint(component, " ", routed)); component == "bad" {
			return errors.New("no room")
		}
		return nil
	}}
	for _, req := range []*protos.ActivateComponentRequest{{Component: "a"}, {Component: "b", Routed: true}, {Component: "a"}} {
		if reply, err := h.ActivateComponent(t.Context(), req); err != nil || reply == nil {
			t.Errorf("%v: got %v, %v", req, reply, err)
		}
	}
	_, err := h.ActivateComponent(t.Context(), &protos.ActivateComponentRequest{Component: "bad"})
	wantError(t, err, "activate component bad: no room")
	for _, req := range []*protos.ActivateComponentRequest{nil, {}} {
		_, err := h.ActivateComponent(t.Context(), req)
		wantError(t, err, "the request names none")
	}
	if want := []string{"a false", "b true", "a false", "bad false"}; !slices.Equal(got, want) {
		t.Errorf("activated %q, want %q", got, want)
	}
}

func TestHandlerListeners(t *testing.T) {
	full := errors.New("address in use")
	h := &envelopekit.Handler{
		ListenOn: func(listener string) (string, error) {
			if listener == "bad" {
				return "", full
			}
			return listener + ":0", nil
		},
		Export: func(_ context.Context, listener, address string) (string, error) {
			if listener == "bad" {
				return "", full
			}
			return "proxy for " + listener + " at " + address, nil
		},
	}
	if reply, err := h.GetListenerAddress(t.Context(), &protos.GetListenerAddressRequest{Name: "web"}); err != nil || reply.Address != "web:0" {
		t.Errorf("got %v, %v", reply, err)
	}
	_, err := h.GetListenerAddress(t.Context(), &protos.GetListenerAddressRequest{Name: "bad"})
	wantError(t, err, "address of listener bad: address in use")
	_, err = h.GetListenerAddress(t.Context(), nil)
	wantError(t, err, "the request names none")

	if reply, err := h.ExportListener(t.Context(), &protos.ExportListenerRequest{Listener: "web", Address: "a:1"}); err != nil || reply.Error != "" || reply.ProxyAddress != "proxy for web at a:1" {
		t.Errorf("got %v, %v", reply, err)
	}
	// A returned error would be tried again for ever: it is in the reply.
	for want, req := range map[string]*protos.ExportListenerRequest{
		"export listener bad: address in use":                                  {Listener: "bad", Address: "a:1"},
		`export listener: the request lacks a name or an address: "" at "a:1"`: {Address: "a:1"},
		`export listener: the request lacks a name or an address: "web" at ""`: {Listener: "web"},
	} {
		if reply, err := h.ExportListener(t.Context(), req); err != nil || reply.Error != want || reply.ProxyAddress != "" {
			t.Errorf("got %v, %v, want %q", reply, err, want)
		}
	}
}

// fakeIdentity takes a group's name for its certificate.
type fakeIdentity struct{}

func (fakeIdentity) Certificate(group string) (cert, key []byte, err error) {
	if group == "" {
		return nil, nil, errors.New("no name")
	}
	return []byte("cert " + group), []byte("key " + group), nil
}

func (fakeIdentity) Verify(chain [][]byte) (string, error) {
	if len(chain) != 1 {
		return "", errors.New("bad chain")
	}
	return string(chain[0]), nil
}

func TestHandlerIdentity(t *testing.T) {
	h := &envelopekit.Handler{
		Group: "cart",
		Plan: placement.Plan{Groups: []placement.Group{
			{Name: "main", Components: []string{placement.Main, "Web"}, Main: true},
			{Name: "cart", Components: []string{"Cart", "Cache"}},
			{Name: "stock", Components: []string{"Stock"}},
		}},
		Calls: []placement.Edge{
			{From: placement.Main, To: "Web"}, {From: "Web", To: "Stock"}, {From: placement.Main, To: "Cart"},
			{From: "Web", To: "Cart"}, {From: "Cart", To: "Cache"}, {From: "Cart", To: "Stock"},
		},
		Identity: fakeIdentity{},
	}
	reply, err := h.GetSelfCertificate(t.Context(), &protos.GetSelfCertificateRequest{})
	if err != nil || string(reply.Cert) != "cert cart" || string(reply.Key) != "key cart" {
		t.Errorf("got %v, %v", reply, err)
	}
	_, err = (&envelopekit.Handler{Identity: fakeIdentity{}}).GetSelfCertificate(t.Context(), nil)
	wantError(t, err, "no name")

	// A client may call what its group refers to, and nothing else.
	for client, want := range map[string][]string{
		"main":  {"Cart", "Stock", "Web"},
		"cart":  {"Cache", "Stock"},
		"stock": nil,
	} {
		reply, err := h.VerifyClientCertificate(t.Context(), &protos.VerifyClientCertificateRequest{CertChain: [][]byte{[]byte(client)}})
		if err != nil || !slices.Equal(reply.Components, want) {
			t.Errorf("client %s: got %v, %v, want %q", client, reply, err, want)
		}
	}
	_, err = h.VerifyClientCertificate(t.Context(), &protos.VerifyClientCertificateRequest{CertChain: [][]byte{[]byte("thief")}})
	wantError(t, err, `verify a client of group cart: it is of group "thief", which is not in the plan`)
	_, err = h.VerifyClientCertificate(t.Context(), nil)
	wantError(t, err, "verify a client of group cart: bad chain")

	server := func(group, component string) error {
		_, err := h.VerifyServerCertificate(t.Context(), &protos.VerifyServerCertificateRequest{CertChain: [][]byte{[]byte(group)}, TargetComponent: component})
		return err
	}
	if err := errors.Join(server("stock", "Stock"), server("main", placement.Main), server("cart", "Cache")); err != nil {
		t.Error(err)
	}
	wantError(t, server("main", "Stock"), `verify the server of Stock: it is of group "main", want "stock"`)
	wantError(t, server("stock", "Nothing"), "verify the server of Nothing: no group of the plan hosts it")
	_, err = h.VerifyServerCertificate(t.Context(), &protos.VerifyServerCertificateRequest{TargetComponent: "Stock"})
	wantError(t, err, "verify the server of Stock: bad chain")
}

// What a weavelet passes is valid only during the call.
func TestHandlerRetainsNothing(t *testing.T) {
	var entries []*protos.LogEntry
	var spans []sdktrace.ReadOnlySpan
	h := &envelopekit.Handler{
		Log:   func(e *protos.LogEntry) { entries = append(entries, e) },
		Spans: func(s []sdktrace.ReadOnlySpan) { spans = append(spans, s...) },
	}
	timed := &protos.LogEntry{Msg: "one", TimeMicros: 5, Attrs: []string{"k", "v"}}
	untimed := &protos.LogEntry{Msg: "two"}
	batch := &protos.LogEntryBatch{Entries: []*protos.LogEntry{timed, untimed}}
	before := time.Now().UnixMicro()
	if err := h.LogBatch(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	if untimed.TimeMicros != 0 {
		t.Error("the weavelet's own entry was changed")
	}
	want := proto.CloneOf(timed)
	timed.Msg, timed.Attrs[0], untimed.Msg, batch.Entries[0] = "x", "x", "x", nil
	if len(entries) != 2 || !proto.Equal(entries[0], want) || entries[1].Msg != "two" {
		t.Errorf("got %v", entries)
	}
	if stamp := entries[1].TimeMicros; stamp < before || stamp > time.Now().UnixMicro() {
		t.Errorf("it was stamped %d", stamp)
	}

	span := &protos.Span{Name: "call", TraceId: make([]byte, 16), SpanId: make([]byte, 8)}
	if err := h.HandleTraceSpans(t.Context(), &protos.TraceSpans{Span: []*protos.Span{span}}); err != nil {
		t.Fatal(err)
	}
	span.Name = "x"
	if len(spans) != 1 || spans[0].Name() != "call" {
		t.Errorf("got %d spans", len(spans))
	}
	for _, none := range []*protos.TraceSpans{nil, {}} {
		if err := h.HandleTraceSpans(t.Context(), none); err != nil || len(spans) != 1 {
			t.Errorf("nothing became %d spans, error %v", len(spans), err)
		}
	}
	if err := h.LogBatch(t.Context(), nil); err != nil || len(entries) != 2 {
		t.Errorf("nothing became %d entries, error %v", len(entries), err)
	}
}

// One weavelet calls from many goroutines.
func TestHandlerConcurrency(t *testing.T) {
	var mu sync.Mutex
	calls := map[string]int{}
	count := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		calls[what]++
	}
	h := &envelopekit.Handler{
		Group:    "main",
		Plan:     placement.Plan{Groups: []placement.Group{{Name: "main", Components: []string{placement.Main}, Main: true}}},
		Identity: fakeIdentity{},
		Activate: func(context.Context, string, bool) error { count("activate"); return nil },
		ListenOn: func(string) (string, error) { count("listen"); return ":0", nil },
		Export:   func(context.Context, string, string) (string, error) { count("export"); return "x", nil },
		Log:      func(*protos.LogEntry) { count("log") },
		Spans:    func([]sdktrace.ReadOnlySpan) { count("spans") },
	}
	ctx, chain := t.Context(), [][]byte{[]byte("main")}
	batch := &protos.LogEntryBatch{Entries: []*protos.LogEntry{{Msg: "shared"}}}
	spans := &protos.TraceSpans{Span: []*protos.Span{{}}}
	var wg sync.WaitGroup
	const n = 50
	for range n {
		wg.Go(func() {
			_, err1 := h.ActivateComponent(ctx, &protos.ActivateComponentRequest{Component: "c"})
			_, err2 := h.GetListenerAddress(ctx, &protos.GetListenerAddressRequest{Name: "l"})
			_, err3 := h.ExportListener(ctx, &protos.ExportListenerRequest{Listener: "l", Address: "a"})
			_, err4 := h.GetSelfCertificate(ctx, nil)
			_, err5 := h.VerifyClientCertificate(ctx, &protos.VerifyClientCertificateRequest{CertChain: chain})
			_, err6 := h.VerifyServerCertificate(ctx, &protos.VerifyServerCertificateRequest{CertChain: chain, TargetComponent: placement.Main})
			if err := errors.Join(err1, err2, err3, err4, err5, err6, h.LogBatch(ctx, batch), h.HandleTraceSpans(ctx, spans)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, what := range []string{"activate", "listen", "export", "log", "spans"} {
		if calls[what] != n {
			t.Errorf("%s: %d calls, want %d", what, calls[what], n)
		}
	}
}

// overriding replaces one method and keeps the rest, as the Handler's comment
// says.
type overriding struct {
	*envelopekit.Handler
	activated *[]string
}

func (a overriding) ActivateComponent(ctx context.Context, req *protos.ActivateComponentRequest) (*protos.ActivateComponentReply, error) {
	*a.activated = append(*a.activated, req.Component)
	return a.Handler.ActivateComponent(ctx, req)
}

func TestHandlerEmbedded(t *testing.T) {
	var activated []string
	var h envelope.EnvelopeHandler = overriding{&envelopekit.Handler{}, &activated}
	if _, err := h.ActivateComponent(t.Context(), &protos.ActivateComponentRequest{Component: "c"}); err != nil || len(activated) != 1 {
		t.Errorf("activated %q, error %v", activated, err)
	}
	if _, err := h.GetListenerAddress(t.Context(), &protos.GetListenerAddressRequest{Name: "l"}); err != nil {
		t.Error(err)
	}
}
