package envelopetest

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

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/envelopekit/placement"
)

// startTime bounds what is started for real; answerTime what is to happen soon.
const (
	startTime  = time.Minute
	answerTime = 10 * time.Second
)

// A LauncherTest says what [TestLauncher] tests.
type LauncherTest struct {
	// Launcher to test. It is shared by all subtests.
	Launcher envelopekit.Launcher

	// App to start weavelets of. Its main component must refer to another,
	// and must not end by itself.
	App *envelopekit.App

	// Hang lets a weavelet answer nothing any more, for instance by SIGSTOP.
	// Nil skips the tests of that.
	Hang func(envelopekit.Weavelet) error
}

// TestLauncher checks that a launcher keeps the promises of
// [envelopekit.Launcher] and [envelopekit.Weavelet].
func TestLauncher(t *testing.T, test LauncherTest) {
	lt := &launcherTest{LauncherTest: test}
	for _, e := range test.App.Calls {
		if e.From == placement.Main {
			lt.callee = e.To
		}
	}
	if lt.callee == "" {
		t.Fatal("LauncherTest.App: its main component refers to no other")
	}
	t.Run("Answers", lt.answers)
	t.Run("Handler", lt.handler)
	t.Run("Refuses", lt.refuses)
	t.Run("StopGracefully", lt.stopGracefully)
	t.Run("StopByForce", lt.stopByForce)
	t.Run("EndsUnderCalls", lt.endsUnderCalls)
	t.Run("TwoAtOnce", lt.twoAtOnce)
	t.Run("CancelledStart", lt.cancelledStart)
	t.Run("OutlivesStart", lt.outlivesStart)
	if test.Hang != nil {
		t.Run("Hang", lt.hang)
	}
}

type launcherTest struct {
	LauncherTest
	callee string // a component that main refers to

	mu     sync.Mutex
	number int
}

// spec returns the spec of a new weavelet.
func (lt *launcherTest) spec(runMain bool) envelopekit.Spec {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	lt.number++
	return envelopekit.Spec{
		Config: lt.App.Config,
		Args: &protos.WeaveletArgs{
			App:             lt.App.Name,
			DeploymentId:    "conformance",
			Id:              fmt.Sprintf("weavelet-%d", lt.number),
			RunMain:         runMain,
			InternalAddress: "127.0.0.1:0",
		},
		Group:   "conformance",
		Replica: lt.number,
	}
}

// launch starts a weavelet that is stopped when the test ends.
func (lt *launcherTest) launch(t *testing.T, runMain bool, h envelope.EnvelopeHandler) envelopekit.Weavelet {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	w, err := lt.Launcher.Launch(ctx, lt.spec(runMain), h)
	if err != nil {
		t.Fatalf("Launch: %v", err)
	}
	t.Cleanup(func() {
		if err := w.Stop(ended()); err != nil {
			t.Errorf("Stop at the end: %v", err)
		}
	})
	return w
}

// ended returns a context that has ended.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	t.Cleanup(cancel)
	return ctx
}

func isDone(w envelopekit.Weavelet) bool {
	select {
	case <-w.Done():
		return true
	default:
		return false
	}
}

// await fails the test unless the weavelet ends soon.
func await(t *testing.T, w envelopekit.Weavelet) {
	t.Helper()
	select {
	case <-w.Done():
	case <-time.After(answerTime):
		t.Fatal("Done is not closed, although the weavelet should have ended")
	}
}

func (lt *launcherTest) answers(t *testing.T) {
	w := lt.launch(t, false, &envelopekit.Handler{})
	if a := w.Address(); !strings.HasPrefix(a, "tcp://") {
		t.Errorf("Address() = %q, want one that begins with tcp://", a)
	}
	if pid, ok := w.Pid(); ok && pid <= 0 {
		t.Errorf("Pid() = %d, true", pid)
	}
	if isDone(w) {
		t.Error("Done is closed while the weavelet runs")
	}
	if err := w.Err(); err != nil {
		t.Errorf("Err() = %v while the weavelet runs, want nil", err)
	}
	ctx := soon(t)
	if err := w.UpdateComponents(ctx, []string{lt.callee}); err != nil {
		t.Errorf("UpdateComponents: %v", err)
	}
	for i := range 3 {
		r := &protos.RoutingInfo{Component: lt.callee, Replicas: []string{fmt.Sprintf("tcp://127.0.0.1:%d", i+1)}}
		if err := w.UpdateRouting(ctx, r); err != nil {
			t.Errorf("UpdateRouting: %v", err)
		}
	}
	for {
		health, err := w.Health(ctx)
		if err != nil {
			t.Fatalf("Health: %v", err)
		}
		if slices.Contains(health.HealthyComponents, lt.callee) {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if _, err := w.Load(ctx); err != nil {
		t.Errorf("Load: %v", err)
	}
	if _, err := w.Metrics(ctx); err != nil {
		t.Errorf("Metrics: %v", err)
	}
	if _, err := w.Profile(ctx, &protos.GetProfileRequest{ProfileType: protos.ProfileType_Heap}); err != nil {
		t.Errorf("Profile: %v", err)
	}
}

func (lt *launcherTest) handler(t *testing.T) {
	activated := make(chan string, 100)
	logged := make(chan string, 100)
	put := func(c chan string, s string) {
		select {
		case c <- s:
		default:
		}
	}
	h := &envelopekit.Handler{
		Activate: func(_ context.Context, component string, _ bool) error {
			put(activated, component)
			return nil
		},
		Log: func(e *protos.LogEntry) { put(logged, e.Node) },
	}
	w := lt.launch(t, true, h)
	ctx := soon(t)
	// Every weavelet logs that it was told something.
	if err := w.UpdateRouting(ctx, &protos.RoutingInfo{Component: placement.Main, Local: true}); err != nil {
		t.Errorf("UpdateRouting: %v", err)
	}
	select {
	case node := <-logged:
		if !strings.HasPrefix(node, "weavelet-") {
			t.Errorf("a log entry is of weavelet %q, want the id that the launcher was given", node)
		}
	case <-ctx.Done():
		t.Error("what the weavelet logs does not reach the handler")
	}
	select {
	case c := <-activated:
		if !slices.Contains(lt.App.Components, c) {
			t.Errorf("the weavelet activates %q, which the application does not have", c)
		}
	case <-ctx.Done():
		t.Error("main activates no component: its calls do not reach the handler")
	}
}

func (lt *launcherTest) refuses(t *testing.T) {
	w := lt.launch(t, false, &envelopekit.Handler{})
	if err := w.UpdateComponents(soon(t), []string{"no/such/Component"}); err == nil {
		t.Error("UpdateComponents accepts a component that the binary does not have")
	}
	if err := w.UpdateRouting(soon(t), &protos.RoutingInfo{Component: lt.callee, Local: true}); err != nil {
		t.Errorf("UpdateRouting: %v", err)
	}
	if err := w.UpdateRouting(soon(t), &protos.RoutingInfo{Component: lt.callee, Replicas: []string{"tcp://127.0.0.1:1"}}); err == nil {
		t.Error("UpdateRouting accepts that a component that was local is not any more")
	}
	if isDone(w) {
		t.Error("the weavelet has ended because of what it refused")
	}
}

func (lt *launcherTest) stopGracefully(t *testing.T) {
	w := lt.launch(t, false, &envelopekit.Handler{})
	before := time.Now()
	var wg sync.WaitGroup
	for range 3 { // whoever asks, and however often
		wg.Go(func() {
			if err := w.Stop(soon(t)); err != nil {
				t.Errorf("Stop: %v", err)
			}
		})
	}
	wg.Wait()
	if took := time.Since(before); took > answerTime/2 {
		t.Errorf("Stop took %v, although the weavelet could end at once", took)
	}
	lt.checkEnded(t, w)
	if err := w.Stop(soon(t)); err != nil {
		t.Errorf("Stop of a weavelet that has ended: %v", err)
	}
}

func (lt *launcherTest) stopByForce(t *testing.T) {
	w := lt.launch(t, false, &envelopekit.Handler{})
	if err := w.Stop(ended()); err != nil {
		t.Errorf("Stop: %v", err)
	}
	lt.checkEnded(t, w)
	var exit *envelopekit.ExitError
	if err := w.Err(); errors.As(err, &exit) && !exit.Killed {
		t.Errorf("Err() = %v, which does not say that it was killed", err)
	} else if err == nil {
		t.Error("Err() = nil after the weavelet was ended by force")
	}
}

// checkEnded checks a weavelet that has ended.
func (lt *launcherTest) checkEnded(t *testing.T, w envelopekit.Weavelet) {
	t.Helper()
	if !isDone(w) {
		t.Fatal("Done is not closed after Stop has returned")
	}
	before := time.Now()
	for what, err := range lt.callAll(soon(t), w) {
		if !errors.Is(err, envelopekit.ErrEnded) {
			t.Errorf("%s of a weavelet that has ended: %v, want ErrEnded", what, err)
		}
	}
	if took := time.Since(before); took > answerTime/2 {
		t.Errorf("calls to a weavelet that has ended took %v", took)
	}
}

// callAll makes every call and returns the errors.
func (lt *launcherTest) callAll(ctx context.Context, w envelopekit.Weavelet) map[string]error {
	errs := map[string]error{}
	errs["UpdateComponents"] = w.UpdateComponents(ctx, []string{lt.callee})
	errs["UpdateRouting"] = w.UpdateRouting(ctx, &protos.RoutingInfo{Component: lt.callee})
	_, errs["Health"] = w.Health(ctx)
	_, errs["Load"] = w.Load(ctx)
	_, errs["Metrics"] = w.Metrics(ctx)
	_, errs["Profile"] = w.Profile(ctx, &protos.GetProfileRequest{ProfileType: protos.ProfileType_Heap})
	return errs
}

func (lt *launcherTest) endsUnderCalls(t *testing.T) {
	w := lt.launch(t, false, &envelopekit.Handler{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for !isDone(w) {
				_, _ = w.Health(soon(t))
			}
		})
	}
	if err := w.Stop(ended()); err != nil {
		t.Errorf("Stop: %v", err)
	}
	await(t, w)
	wg.Wait()
}

func (lt *launcherTest) twoAtOnce(t *testing.T) {
	var a, b envelopekit.Weavelet
	var errA, errB error
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { a, errA = lt.Launcher.Launch(ctx, lt.spec(false), &envelopekit.Handler{}) })
	wg.Go(func() { b, errB = lt.Launcher.Launch(ctx, lt.spec(false), &envelopekit.Handler{}) })
	wg.Wait()
	for _, w := range []envelopekit.Weavelet{a, b} {
		if w != nil {
			defer func() { _ = w.Stop(ended()) }()
		}
	}
	if errA != nil || errB != nil {
		t.Fatalf("Launch: %v, %v", errA, errB)
	}
	if a.Address() == b.Address() {
		t.Errorf("two weavelets have the address %s", a.Address())
	}
	if err := a.Stop(ended()); err != nil {
		t.Errorf("Stop: %v", err)
	}
	if _, err := b.Health(soon(t)); err != nil {
		t.Errorf("Health of one weavelet after another has ended: %v", err)
	}
}

func (lt *launcherTest) cancelledStart(t *testing.T) {
	before := time.Now()
	w, err := lt.Launcher.Launch(ended(), lt.spec(false), &envelopekit.Handler{})
	if err == nil {
		_ = w.Stop(ended())
		t.Fatal("Launch succeeds, although its context has ended")
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Launch: %v, want an error that is context.Canceled", err)
	}
	if took := time.Since(before); took > answerTime {
		t.Errorf("Launch took %v, although its context has ended", took)
	}
}

func (lt *launcherTest) outlivesStart(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	w, err := lt.Launcher.Launch(ctx, lt.spec(false), &envelopekit.Handler{})
	cancel()
	if err != nil {
		t.Fatalf("Launch: %v", err)
	}
	defer func() { _ = w.Stop(ended()) }()
	time.Sleep(100 * time.Millisecond)
	if _, err := w.Health(soon(t)); err != nil {
		t.Errorf("Health after the context of Launch has ended: %v", err)
	}
}

func (lt *launcherTest) hang(t *testing.T) {
	w := lt.launch(t, false, &envelopekit.Handler{})
	if err := lt.Hang(w); err != nil {
		t.Fatalf("Hang: %v", err)
	}
	const deadline = 200 * time.Millisecond
	before := time.Now()
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), deadline)
			defer cancel()
			// Much more than what fits into a socket.
			r := &protos.RoutingInfo{Component: lt.callee, Replicas: make([]string, 2000)}
			for i := range r.Replicas {
				r.Replicas[i] = "tcp://127.0.0.1:1"
			}
			if err := w.UpdateRouting(ctx, r); err == nil {
				t.Error("UpdateRouting of a weavelet that hangs returns no error")
			}
		})
	}
	wg.Wait()
	if took := time.Since(before); took > answerTime {
		t.Errorf("calls with a deadline of %v to a weavelet that hangs took %v", deadline, took)
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	if err := w.Stop(ctx); err != nil {
		t.Errorf("Stop of a weavelet that hangs: %v", err)
	}
	lt.checkEnded(t, w)
}

// TestHandler checks that what wrap makes of a Handler answers a weavelet as
// package envelopekit relies on: it passes on what it is asked, reports the
// errors of a listener in the reply, keeps nothing that it does not own, and
// can be called concurrently. Pass a func that returns its argument to test a
// Handler itself.
func TestHandler(t *testing.T, wrap func(*envelopekit.Handler) envelope.EnvelopeHandler) {
	t.Run("PassesOn", func(t *testing.T) { handlerPassesOn(t, wrap) })
	t.Run("Errors", func(t *testing.T) { handlerErrors(t, wrap) })
	t.Run("KeepsNothing", func(t *testing.T) { handlerKeepsNothing(t, wrap) })
	t.Run("Concurrent", func(t *testing.T) { handlerConcurrent(t, wrap) })
	t.Run("Certificates", func(t *testing.T) { handlerCertificates(t, wrap) })
}

func handlerPassesOn(t *testing.T, wrap func(*envelopekit.Handler) envelope.EnvelopeHandler) {
	var activated, exported, logged []string
	var spans int
	h := wrap(&envelopekit.Handler{
		Activate: func(_ context.Context, c string, routed bool) error {
			activated = append(activated, fmt.Sprint(c, " ", routed))
			return nil
		},
		ListenOn: func(l string) (string, error) { return l + ":1", nil },
		Export: func(_ context.Context, l, a string) (string, error) {
			exported = append(exported, l+" "+a)
			return "proxy:80", nil
		},
		Log:   func(e *protos.LogEntry) { logged = append(logged, e.Msg) },
		Spans: func(s []sdktrace.ReadOnlySpan) { spans += len(s) },
	})
	ctx := t.Context()
	for range 2 { // a weavelet may ask again
		if _, err := h.ActivateComponent(ctx, &protos.ActivateComponentRequest{Component: "a/B", Routed: true}); err != nil {
			t.Errorf("ActivateComponent: %v", err)
		}
		reply, err := h.ExportListener(ctx, &protos.ExportListenerRequest{Listener: "web", Address: "10.0.0.1:80"})
		if err != nil || reply.Error != "" || reply.ProxyAddress != "proxy:80" {
			t.Errorf("ExportListener: %v, %v", reply, err)
		}
	}
	if reply, err := h.GetListenerAddress(ctx, &protos.GetListenerAddressRequest{Name: "web"}); err != nil || reply.Address != "web:1" {
		t.Errorf("GetListenerAddress: %v, %v", reply, err)
	}
	if err := h.LogBatch(ctx, &protos.LogEntryBatch{Entries: []*protos.LogEntry{{Msg: "one"}, {Msg: "two"}}}); err != nil {
		t.Errorf("LogBatch: %v", err)
	}
	if err := h.HandleTraceSpans(ctx, &protos.TraceSpans{Span: []*protos.Span{{Name: "s"}}}); err != nil {
		t.Errorf("HandleTraceSpans: %v", err)
	}
	if !slices.Contains(activated, "a/B true") {
		t.Errorf("activated %q, want a/B true", activated)
	}
	if !slices.Contains(exported, "web 10.0.0.1:80") {
		t.Errorf("exported %q, want web 10.0.0.1:80", exported)
	}
	if !slices.Equal(logged, []string{"one", "two"}) {
		t.Errorf("logged %q, want one, two", logged)
	}
	if spans != 1 {
		t.Errorf("got %d spans, want 1", spans)
	}
}

func handlerErrors(t *testing.T, wrap func(*envelopekit.Handler) envelope.EnvelopeHandler) {
	refused := errors.New("refused")
	h := wrap(&envelopekit.Handler{
		Activate: func(context.Context, string, bool) error { return refused },
		ListenOn: func(string) (string, error) { return "", refused },
		Export:   func(context.Context, string, string) (string, error) { return "", refused },
	})
	if _, err := h.ActivateComponent(t.Context(), &protos.ActivateComponentRequest{Component: "a/B"}); err == nil {
		t.Error("ActivateComponent returns no error, although the deployer has refused")
	}
	if _, err := h.GetListenerAddress(t.Context(), &protos.GetListenerAddressRequest{Name: "web"}); err == nil {
		t.Error("GetListenerAddress returns no error, although the deployer has refused")
	}
	reply, err := h.ExportListener(t.Context(), &protos.ExportListenerRequest{Listener: "web", Address: "a:1"})
	if err != nil {
		t.Errorf("ExportListener returns the error %v, which a weavelet answers by asking again for ever; it belongs into the reply", err)
	}
	if err == nil && reply.GetError() == "" {
		t.Error("the reply of ExportListener has no error, although the deployer has refused")
	}
}

func handlerKeepsNothing(t *testing.T, wrap func(*envelopekit.Handler) envelope.EnvelopeHandler) {
	var entries []*protos.LogEntry
	var spans []sdktrace.ReadOnlySpan
	h := wrap(&envelopekit.Handler{
		Log:   func(e *protos.LogEntry) { entries = append(entries, e) },
		Spans: func(s []sdktrace.ReadOnlySpan) { spans = append(spans, s...) },
	})
	entry := &protos.LogEntry{}
	batch := &protos.LogEntryBatch{Entries: []*protos.LogEntry{entry}}
	span := &protos.Span{}
	for i := range 3 { // as an envelope does: the same message again and again
		entry.Msg, span.Name = fmt.Sprint(i), fmt.Sprint(i)
		if err := h.LogBatch(t.Context(), batch); err != nil {
			t.Errorf("LogBatch: %v", err)
		}
		if err := h.HandleTraceSpans(t.Context(), &protos.TraceSpans{Span: []*protos.Span{span}}); err != nil {
			t.Errorf("HandleTraceSpans: %v", err)
		}
	}
	entry.Msg, span.Name = "reused", "reused"
	for i, e := range entries {
		if e.Msg != fmt.Sprint(i) {
			t.Errorf("log entry %d says %q: it was kept, not copied", i, e.Msg)
		}
		if e.TimeMicros == 0 {
			t.Errorf("log entry %d has no time", i)
		}
	}
	for i, s := range spans {
		if s.Name() != fmt.Sprint(i) {
			t.Errorf("span %d has the name %q: it was kept, not copied", i, s.Name())
		}
	}
	if len(entries) != 3 || len(spans) != 3 {
		t.Errorf("got %d log entries and %d spans, want 3 and 3", len(entries), len(spans))
	}
}

func handlerConcurrent(t *testing.T, wrap func(*envelopekit.Handler) envelope.EnvelopeHandler) {
	var mu sync.Mutex
	calls := 0
	count := func() { mu.Lock(); defer mu.Unlock(); calls++ }
	h := wrap(&envelopekit.Handler{
		Activate: func(context.Context, string, bool) error { count(); return nil },
		Export:   func(_ context.Context, _, a string) (string, error) { count(); return a, nil },
		Log:      func(*protos.LogEntry) { count() },
	})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				_, _ = h.ActivateComponent(t.Context(), &protos.ActivateComponentRequest{Component: "a/B"})
				_, _ = h.ExportListener(t.Context(), &protos.ExportListenerRequest{Listener: "web", Address: "a:1"})
				_ = h.LogBatch(t.Context(), &protos.LogEntryBatch{Entries: []*protos.LogEntry{{Msg: "m"}}})
			}
		})
	}
	wg.Wait()
	if calls != 2400 {
		t.Errorf("of 2400 calls %d were passed on", calls)
	}
}

// groups is an Identity whose certificates are the groups' names.
type groups struct{}

func (groups) Certificate(group string) (cert, key []byte, err error) {
	return []byte(group), []byte("key"), nil
}

func (groups) Verify(chain [][]byte) (string, error) {
	if len(chain) != 1 || len(chain[0]) == 0 {
		return "", errors.New("no certificate")
	}
	return string(chain[0]), nil
}

func handlerCertificates(t *testing.T, wrap func(*envelopekit.Handler) envelope.EnvelopeHandler) {
	plan := placement.Plan{Groups: []placement.Group{
		{Name: "main", Main: true, Components: []string{placement.Main}},
		{Name: "cart", Components: []string{"a/Cart", "a/Stock"}},
		{Name: "mail", Components: []string{"a/Mail"}},
	}}
	h := wrap(&envelopekit.Handler{
		Group:    "cart",
		Plan:     plan,
		Calls:    []placement.Edge{{From: placement.Main, To: "a/Cart"}, {From: "a/Cart", To: "a/Mail"}},
		Identity: groups{},
	})
	ctx := t.Context()
	self, err := h.GetSelfCertificate(ctx, &protos.GetSelfCertificateRequest{})
	if err != nil || string(self.Cert) != "cart" {
		t.Errorf("GetSelfCertificate: %v, %v", self, err)
	}
	client := func(name string) ([]string, error) {
		reply, err := h.VerifyClientCertificate(ctx, &protos.VerifyClientCertificateRequest{CertChain: [][]byte{[]byte(name)}})
		return reply.GetComponents(), err
	}
	if callable, err := client("main"); err != nil || !slices.Equal(callable, []string{"a/Cart"}) {
		t.Errorf("group main may call %q (%v), want a/Cart: what it refers to", callable, err)
	}
	if callable, err := client("mail"); err != nil || len(callable) != 0 {
		t.Errorf("group mail may call %q (%v), want nothing", callable, err)
	}
	for _, bad := range []string{"", "strangers"} {
		if callable, err := client(bad); err == nil {
			t.Errorf("a client with the certificate %q is let in and may call %q", bad, callable)
		}
	}
	server := func(component, name string) error {
		_, err := h.VerifyServerCertificate(ctx, &protos.VerifyServerCertificateRequest{
			TargetComponent: component,
			CertChain:       [][]byte{[]byte(name)},
		})
		return err
	}
	if err := server("a/Mail", "mail"); err != nil {
		t.Errorf("the group of a/Mail is not taken for its server: %v", err)
	}
	for _, bad := range [][2]string{{"a/Mail", "main"}, {"a/Mail", ""}, {"a/Nobody", "mail"}} {
		if server(bad[0], bad[1]) == nil {
			t.Errorf("group %q is taken for the server of %s", bad[1], bad[0])
		}
	}
	off := wrap(&envelopekit.Handler{})
	if _, err := off.GetSelfCertificate(ctx, &protos.GetSelfCertificateRequest{}); err == nil {
		t.Error("GetSelfCertificate returns no error without an Identity")
	}
	if _, err := off.VerifyClientCertificate(ctx, &protos.VerifyClientCertificateRequest{}); err == nil {
		t.Error("VerifyClientCertificate lets anybody in without an Identity")
	}
}
