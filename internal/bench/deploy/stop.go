//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/envelope"
	"github.com/ServiceWeaver/weaver/runtime/protomsg"
	"github.com/ServiceWeaver/weaver/runtime/protos"

	"github.com/weaverkit/weaverkit/envelopekit"
)

const (
	stopBlocks = 20                     // of each kind
	stopRounds = 25                     // in a block
	stopPause  = 10 * time.Millisecond  // between rounds
	stopSettle = 100 * time.Millisecond // after SIGSTOP and SIGCONT
)

// A hearing is how long things took while one weavelet was stopped, or while
// none was.
type hearing struct {
	Activation sample // a weavelet asks for a component
	Routing    sample // from a new assignment until one more weavelet has it
	Status     sample // Deployment.Status
}

func (h *hearing) add(other hearing) {
	h.Activation = append(h.Activation, other.Activation...)
	h.Routing = append(h.Routing, other.Routing...)
	h.Status = append(h.Status, other.Status...)
}

// stop compares what happens to the others while a weavelet is stopped with
// SIGSTOP, in many short blocks in turn.
func (b *bench) stop() error {
	var with, without hearing
	for range b.runs {
		var r [2]hearing
		if err := b.child(&r, "stop", b.path("shop")); err != nil {
			return err
		}
		without.add(r[0])
		with.add(r[1])
	}
	rows := [][]string{{"one of 24 weavelets stopped", "none: p50", "p99", "one: p50", "p99", "p99, with / without"}}
	for _, x := range []struct {
		what          string
		without, with sample
	}{
		{"activation", without.Activation, with.Activation},
		{"routing", without.Routing, with.Routing},
		{"status", without.Status, with.Status},
	} {
		ratio := float64(x.with.quantile(0.99)) / float64(x.without.quantile(0.99))
		rows = append(rows, []string{
			fmt.Sprintf("%s (%d, %d)", x.what, len(x.without), len(x.with)),
			short(x.without.median()), short(x.without.quantile(0.99)),
			short(x.with.median()), short(x.with.quantile(0.99)),
			fmt.Sprintf("%.2f", ratio),
		})
		b.reach("one under SIGSTOP: "+x.what+" of the others, p99", "within 10 %", fmt.Sprintf("%.2f ×", ratio), ratio <= 1.1)
	}
	table("A weavelet under SIGSTOP", rows)
	return nil
}

// stopHere deploys the shop in this process, three replicas each, and measures
// alternately with and without one of main's replicas stopped.
func stopHere(binary string) (r [2]hearing, err error) {
	app, err := envelopekit.LoadBinary(binary)
	if err != nil {
		return r, err
	}
	w := &watch{heard: make(chan string, 1024), handlers: map[string]*envelopekit.Handler{}}
	d, err := envelopekit.New(app, envelopekit.Options{
		Replicas:    3,
		Prestart:    true,
		Log:         w.log,
		WrapHandler: w.wrap,
		Liveness:    envelopekit.Liveness{Failures: 1 << 30}, // it is to stay
	})
	if err != nil {
		return r, err
	}
	ended := make(chan error, 1)
	go func() { ended <- d.Run(context.Background()) }()
	defer func() {
		ctx, cancel := within(patience)
		defer cancel()
		err = errors.Join(err, d.Stop(ctx), <-ended)
	}()
	for begin := time.Now(); !d.Status().Ready(); time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > patience {
			return r, errors.New("the shop is not ready")
		}
	}
	time.Sleep(time.Second)

	st := d.Status()
	victim := st.Groups[0].Replicas[2]
	var callers []string // weavelets that are told where Cart is, but the victim
	for _, g := range st.Groups {
		if g.Name == "main" || g.Name == "shop.Cart" || g.Name == "shop.Checkout" {
			for _, x := range g.Replicas {
				if x.WeaveletID != victim.WeaveletID {
					callers = append(callers, x.WeaveletID)
				}
			}
		}
	}
	defer func() { _ = syscall.Kill(victim.Pid, syscall.SIGCONT) }()
	for block := range 2 * stopBlocks {
		stopped := block % 2
		sig := syscall.SIGCONT
		if stopped == 1 {
			sig = syscall.SIGSTOP
		}
		if err := syscall.Kill(victim.Pid, sig); err != nil {
			return r, err
		}
		time.Sleep(stopSettle)
		for range stopRounds {
			if err := w.round(d, callers, &r[stopped]); err != nil {
				return r, err
			}
			time.Sleep(stopPause)
		}
	}
	return r, nil
}

const cart = "github.com/weaverkit/weaverkit/examples/shop/Cart"

// A watch hears what weavelets do.
type watch struct {
	heard chan string // who has taken over routing of Cart

	mu       sync.Mutex // guards the following
	handlers map[string]*envelopekit.Handler
}

func (w *watch) wrap(h *envelopekit.Handler) envelope.EnvelopeHandler {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.handlers[h.Group] = h
	return h
}

func (w *watch) log(e *protos.LogEntry) {
	if e.Msg == "Updated routing info" && slices.Contains(e.Attrs, "shop.Cart") {
		w.heard <- e.Node
	}
}

// round measures everything once.
func (w *watch) round(d *envelopekit.Deployment, callers []string, h *hearing) error {
	ctx, cancel := within(patience)
	defer cancel()
	for len(w.heard) > 0 {
		<-w.heard
	}

	// New routing: the slices go round.
	next := protomsg.Clone(d.Assignments()[cart])
	first := next.Slices[0].Replicas
	for i, s := range next.Slices[1:] {
		next.Slices[i].Replicas = s.Replicas
	}
	next.Slices[len(next.Slices)-1].Replicas = first
	begin := time.Now()
	if err := d.PublishAssignment(ctx, cart, next); err != nil {
		return err
	}
	waiting := slices.Clone(callers)
	for len(waiting) > 0 {
		select {
		case node := <-w.heard:
			i := slices.IndexFunc(waiting, func(id string) bool { return strings.HasPrefix(id, node) || strings.HasPrefix(node, id) })
			if i >= 0 {
				waiting = slices.Delete(waiting, i, i+1)
				h.Routing = append(h.Routing, time.Since(begin))
			}
		case <-ctx.Done():
			return fmt.Errorf("%d weavelets were not told", len(waiting))
		}
	}

	w.mu.Lock()
	handlers := []*envelopekit.Handler{w.handlers["main"], w.handlers["shop.Checkout"]}
	w.mu.Unlock()
	for _, x := range handlers {
		begin = time.Now()
		if _, err := x.ActivateComponent(ctx, &protos.ActivateComponentRequest{Component: cart, Routed: true}); err != nil {
			return err
		}
		h.Activation = append(h.Activation, time.Since(begin))
	}
	for range 4 {
		begin = time.Now()
		d.Status()
		h.Status = append(h.Status, time.Since(begin))
	}
	return nil
}
