package envelopekit_test

import (
	"context"
	"fmt"

	"github.com/ServiceWeaver/weaver/runtime/envelope"
	"github.com/ServiceWeaver/weaver/runtime/protos"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/envelopekit/envelopetest"
	"github.com/weaverkit/weaverkit/envelopekit/placement"
)

// exampleApp stands for what LoadApp returns, and the launcher for processes.
func exampleApp() (*envelopekit.App, *envelopetest.Launcher) {
	calls := []placement.Edge{
		{From: placement.Main, To: "example.com/shop/Cart"},
		{From: "example.com/shop/Cart", To: "example.com/shop/Stock"},
	}
	return envelopetest.App("shop", calls...), &envelopetest.Launcher{Calls: calls}
}

// A deployment knows its plan before anything runs.
func ExampleNew() {
	app, launcher := exampleApp()
	d, err := envelopekit.New(app, envelopekit.Options{
		Launcher:   launcher,
		ReplicasOf: map[string]int{"shop.Cart": 3},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(d.Plan())
	// Output:
	// GROUP       REPLICAS  COMPONENTS
	// main        1         weaver.Main
	// shop.Cart   3         shop.Cart
	// shop.Stock  1         shop.Stock
}

// Run, watch until all is ready, stop.
func ExampleDeployment_Run() {
	app, launcher := exampleApp()
	d, err := envelopekit.New(app, envelopekit.Options{Launcher: launcher})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for range d.Events(ctx, 0) {
			if d.Status().Ready() {
				cancel()
			}
		}
	}()
	fmt.Println("stopped:", d.Run(ctx))
	// Output: stopped: <nil>
}

func ExampleDeployment_Why() {
	app, launcher := exampleApp()
	d, err := envelopekit.New(app, envelopekit.Options{Launcher: launcher})
	if err != nil {
		fmt.Println(err)
		return
	}
	why, err := d.Why("shop.Stock")
	fmt.Println(why, err)
	_, err = d.Why("shop.Stick")
	fmt.Println(err)
	// Output:
	// group shop.Stock: not started, since Run was not called
	//  <nil>
	// why: no group "shop.Stick" (did you mean "shop.Stock"?); there are: main, shop.Cart, shop.Stock
}

// auditing notes which groups use which components, and leaves the rest to the
// Handler that it embeds.
type auditing struct {
	*envelopekit.Handler
}

func (a auditing) ActivateComponent(ctx context.Context, req *protos.ActivateComponentRequest) (*protos.ActivateComponentReply, error) {
	fmt.Printf("%s uses %s\n", a.Group, placement.Shorten(req.Component))
	return a.Handler.ActivateComponent(ctx, req)
}

// A Handler can be wrapped: override one method, keep the rest.
func ExampleHandler() {
	opts := envelopekit.Options{
		WrapHandler: func(h *envelopekit.Handler) envelope.EnvelopeHandler { return auditing{h} },
	}
	h := opts.WrapHandler(&envelopekit.Handler{Group: "main"})
	_, err := h.ActivateComponent(context.Background(), &protos.ActivateComponentRequest{Component: "example.com/shop/Cart"})
	fmt.Println(err)
	// Output:
	// main uses shop.Cart
	// <nil>
}
