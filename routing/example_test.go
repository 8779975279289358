package routing_test

import (
	"context"
	"fmt"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/protos"
	"github.com/weaverkit/weaverkit/routing"
)

func Example() {
	g, err := routing.NewGenerator(routing.Options{SlicesPerReplica: 4, Churn: 0.2})
	if err != nil {
		fmt.Println(err)
		return
	}
	replicas := []string{"tcp://a:1", "tcp://b:1"}
	first, err := g.Generate(nil, replicas, nil)
	if err != nil {
		fmt.Println(err)
		return
	}

	// a has three times the load of b.
	loads := map[string]*protos.LoadReport_ComponentLoad{}
	for i, s := range first.Slices {
		end := ^uint64(0)
		if i+1 < len(first.Slices) {
			end = first.Slices[i+1].Start
		}
		r, rate := s.Replicas[0], 10.0
		if r == "tcp://a:1" {
			rate = 30
		}
		if loads[r] == nil {
			loads[r] = &protos.LoadReport_ComponentLoad{Version: first.Version}
		}
		loads[r].Load = append(loads[r].Load, &protos.LoadReport_SliceLoad{Start: s.Start, End: end, Load: rate})
	}
	if _, err := g.Generate(first, replicas, loads); err != nil {
		fmt.Println(err)
		return
	}
	for _, c := range g.Explain() {
		fmt.Println(c)
	}
	// Output:
	// v2 move [0000000000000000, 2000000000000000) (overloaded, 30/s) from tcp://a:1 at 1.500 to tcp://b:1 at 0.500
}

func ExampleTable() {
	t, err := routing.NewTable(&protos.Assignment{Version: 3, Slices: []*protos.Assignment_Slice{
		{Start: 0, Replicas: []string{"tcp://a:1"}},
		{Start: 1 << 63, Replicas: []string{"tcp://b:1", "tcp://c:1"}},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(t.Lookup(42), t.Lookup(1<<63+42))
	// Output: [tcp://a:1] [tcp://b:1 tcp://c:1]
}

// printer publishes to standard output.
type printer struct{}

func (printer) PublishAssignment(_ context.Context, component string, a *protos.Assignment) error {
	fmt.Printf("%s: version %d, %d slices\n", component, a.Version, len(a.Slices))
	return nil
}

func ExampleController() {
	c, err := routing.NewController(printer{}, routing.ControllerOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	c.SetSource("tcp://a:1", func(context.Context) (*protos.LoadReport, error) {
		return &protos.LoadReport{}, nil // usually Envelope.GetLoad
	})
	c.SetMembers("shop/Cart", []routing.Member{{Addr: "tcp://a:1"}, {Addr: "tcp://b:1", Weight: 2}})
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	fmt.Println(c.Run(ctx))
	// Output:
	// shop/Cart: version 1, 100 slices
	// context deadline exceeded
}
