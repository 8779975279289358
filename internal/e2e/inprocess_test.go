//go:build linux

package e2e_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/protos"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/envelopekit/identity"
	"github.com/weaverkit/weaverkit/envelopekit/placement"
)

// A running is a deployment in this process.
type running struct {
	*envelopekit.Deployment
	ended chan error
}

// runHere runs the application in this process.
func runHere(t *testing.T, app string, opts envelopekit.Options) running {
	t.Helper()
	loaded, err := envelopekit.LoadBinary(program(t, app))
	if err != nil {
		t.Fatal(err)
	}
	dir := newHome(t).tmp
	opts.Launcher = &envelopekit.ProcessLauncher{Dir: dir}
	d, err := envelopekit.New(loaded, opts)
	if err != nil {
		t.Fatal(err)
	}
	r := running{d, make(chan error, 1)}
	go func() { r.ended <- d.Run(context.Background()) }()
	t.Cleanup(func() { r.stops(t) })
	return r
}

func (r running) stops(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := r.Stop(ctx); err != nil {
		t.Errorf("stop: %v", err)
	}
	select {
	case err := <-r.ended:
		if err != nil {
			t.Errorf("run: %v", err)
		}
		r.ended <- err
	case <-time.After(patience):
		t.Error("Run does not return")
	}
}

// serves waits until everything serves, and returns a backend of the listener.
func (r running) serves(t *testing.T) string {
	t.Helper()
	eventually(t, "it serves", func() bool {
		st := r.Status()
		return st.Ready() && len(st.Listeners[0].Backends) > 0
	})
	return "http://" + r.Status().Listeners[0].Backends[0]
}

// TestGoroutines leaves none behind. It is not parallel, so that there are no
// others that come and go.
func TestGoroutines(t *testing.T) {
	full(t)
	program(t, "collatz") // built before anything is counted
	for _, mtls := range []bool{false, true} {
		t.Run(fmt.Sprintf("mtls=%t", mtls), func(t *testing.T) {
			before := stacks()
			var opts envelopekit.Options
			opts.Replicas = 2
			opts.Log = func(*protos.LogEntry) {}
			if mtls {
				ca, err := identity.New(identity.Options{})
				if err != nil {
					t.Fatal(err)
				}
				opts.Identity = ca
			}
			d := runHere(t, "collatz", opts)
			collatzWorks(t, d.serves(t))
			if _, err := d.Metrics(t.Context()); err != nil {
				t.Error(err)
			}
			if err := d.Scale("collatz.Odd", 1); err != nil {
				t.Error(err)
			}
			d.stops(t)
			var left []string
			for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
				left = left[:0]
				for _, s := range stacks() {
					if !slices.ContainsFunc(before, func(b string) bool { return id(b) == id(s) }) {
						left = append(left, s)
					}
				}
				if len(left) == 0 {
					return
				}
			}
			t.Errorf("%d goroutines are left behind:\n%s", len(left), strings.Join(left, "\n\n"))
		})
	}
}

// stacks returns the stacks of all goroutines but this one, and those of idle
// connections of the test's own HTTP client.
func stacks() []string {
	b := make([]byte, 4<<20)
	b = b[:runtime.Stack(b, true)]
	all := strings.Split(strings.TrimSpace(string(b)), "\n\n")
	return slices.DeleteFunc(all[1:], func(s string) bool { return strings.Contains(s, "net/http.(*persistConn)") })
}

// id returns a stack's goroutine, "goroutine 42".
func id(stack string) string {
	id, _, _ := strings.Cut(stack, " [")
	return id
}

// TestRotation has certificates that expire while the application runs. New
// replicas take part when the first ones have long expired.
func TestRotation(t *testing.T) {
	full(t)
	t.Parallel()
	const lifetime = 3 * time.Second
	ca, err := identity.New(identity.Options{Lifetime: lifetime})
	if err != nil {
		t.Fatal(err)
	}
	d := runHere(t, "shop", envelopekit.Options{Identity: ca, Prestart: true})
	address := d.serves(t)
	shopWorks(t, address)
	first, _, err := ca.Certificate("shop.Cart")
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(lifetime + lifetime/2)
	shopWorks(t, address) // over the connections that are there
	if again, _, err := ca.Certificate("shop.Cart"); err != nil || string(again) == string(first) {
		t.Fatalf("the certificate was not rotated: %v", err)
	}

	for _, g := range []string{"shop.Cart", "shop.Catalog", "shop.Checkout"} {
		if err := d.Scale(g, 3); err != nil {
			t.Fatal(err)
		}
	}
	d.serves(t)
	// All of them answer.
	pids := map[string]map[int]bool{}
	for n := 0; ; n++ {
		var replicas []struct {
			Component string
			PID       int
		}
		body := get(t, fmt.Sprintf("%s/api/replicas?user=u%d", address, n))
		if err := json.Unmarshal([]byte(body), &replicas); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		for _, r := range replicas {
			if pids[r.Component] == nil {
				pids[r.Component] = map[int]bool{}
			}
			pids[r.Component][r.PID] = true
		}
		if len(pids["Cart"]) == 3 && len(pids["Catalog"]) == 3 && len(pids["Checkout"]) == 3 {
			break
		}
		if n == 2000 {
			t.Fatalf("some replicas were never reached: %v", pids)
		}
	}
	shopWorks(t, address)
}

// TestAuthorization checks who may call whom in the shop.
func TestAuthorization(t *testing.T) {
	app, err := envelopekit.LoadBinary(program(t, "shop"))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := placement.PerComponent(app.PlacementInput())
	if err != nil {
		t.Fatal(err)
	}
	ca, err := identity.New(identity.Options{})
	if err != nil {
		t.Fatal(err)
	}
	const shop = "github.com/weaverkit/weaverkit/examples/shop/"
	ask := func(group string) []string {
		t.Helper()
		h := &envelopekit.Handler{Group: "shop.Payment", Plan: plan, Calls: app.Calls, Identity: ca}
		reply, err := h.VerifyClientCertificate(t.Context(), &protos.VerifyClientCertificateRequest{CertChain: chain(t, ca, group)})
		if err != nil {
			t.Fatal(err)
		}
		return reply.Components
	}
	if got := ask("shop.Checkout"); !slices.Contains(got, shop+"Payment") || slices.Contains(got, shop+"Recommender") {
		t.Errorf("Checkout may call %v", got)
	}
	if got := ask("main"); slices.Contains(got, shop+"Payment") || !slices.Contains(got, shop+"Cart") {
		t.Errorf("main may call %v", got)
	}
	if got := ask("shop.Catalog"); len(got) != 0 {
		t.Errorf("Catalog, which calls nobody, may call %v", got)
	}

	h := &envelopekit.Handler{Group: "main", Plan: plan, Calls: app.Calls, Identity: ca}
	for group, ok := range map[string]bool{"shop.Cart": true, "shop.Catalog": false, "main": false} {
		_, err := h.VerifyServerCertificate(t.Context(), &protos.VerifyServerCertificateRequest{
			TargetComponent: shop + "Cart", CertChain: chain(t, ca, group)})
		if (err == nil) != ok {
			t.Errorf("group %s may answer for Cart: %v", group, err)
		}
	}
	other, err := identity.New(identity.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.VerifyClientCertificate(t.Context(), &protos.VerifyClientCertificateRequest{CertChain: chain(t, other, "main")}); err == nil {
		t.Error("a certificate of another deployment is accepted")
	}
}

// chain returns the certificate of a group as a peer sees it.
func chain(t *testing.T, ca *identity.Authority, group string) [][]byte {
	t.Helper()
	cert, _, err := ca.Certificate(group)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(cert)
	return [][]byte{block.Bytes}
}
