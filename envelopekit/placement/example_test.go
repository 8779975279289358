package placement_test

import (
	"fmt"
	"log"

	"github.com/weaverkit/weaverkit/envelopekit/placement"
)

// app is what LoadApp finds in the binary of a small shop.
var app = placement.Input{
	Components: []string{placement.Main, "example.com/shop/Cart", "example.com/shop/Cache", "example.com/shop/Catalog"},
	Edges: []placement.Edge{
		{From: placement.Main, To: "example.com/shop/Cart"},
		{From: placement.Main, To: "example.com/shop/Catalog"},
		{From: "example.com/shop/Cart", To: "example.com/shop/Cache"},
	},
}

func ExamplePerComponent() {
	plan, err := placement.PerComponent(app)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(plan)
	// Output:
	// GROUP         REPLICAS  COMPONENTS
	// main          1         weaver.Main
	// shop.Cache    1         shop.Cache
	// shop.Cart     1         shop.Cart
	// shop.Catalog  1         shop.Catalog
}

func ExampleTogether() {
	plan, err := placement.Together(app)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(plan)
	// Output:
	// GROUP  REPLICAS  COMPONENTS
	// main   1         shop.Cache, shop.Cart, shop.Catalog, weaver.Main
}

func ExampleColocated() {
	in := app
	in.Colocate = [][]string{{"example.com/shop/Cart", "example.com/shop/Cache"}}
	in.Replicas = 2
	in.ReplicasOf = map[string]int{"main": 1, "example.com/shop/Cache": 3}
	plan, err := placement.Colocated(in)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(plan)
	// Output:
	// GROUP         REPLICAS  COMPONENTS
	// main          1         weaver.Main
	// shop.Cache    3         shop.Cache, shop.Cart
	// shop.Catalog  2         shop.Catalog
}

func ExampleByCallGraph() {
	in := app
	in.Calls = map[placement.Edge]float64{
		{From: placement.Main, To: "example.com/shop/Cart"}:           400,
		{From: placement.Main, To: "example.com/shop/Catalog"}:        20,
		{From: "example.com/shop/Cart", To: "example.com/shop/Cache"}: 5000,
	}
	// A pair that exchanges a tenth of all calls belongs together.
	plan, err := placement.ByCallGraph(placement.CallGraphOptions{MinShare: 0.1})(in)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(plan)
	// Output:
	// GROUP         REPLICAS  COMPONENTS
	// main          1         weaver.Main
	// shop.Cache    1         shop.Cache, shop.Cart
	// shop.Catalog  1         shop.Catalog
}

// A team's own policy is a function. This one takes what Colocated makes, and
// gives the main group resources.
func ExamplePolicy() {
	policy := placement.Policy(func(in placement.Input) (placement.Plan, error) {
		in.ResourcesOf = map[string]placement.Resources{placement.MainGroup: {CPU: 0.5, Memory: 256 << 20}}
		return placement.Colocated(in)
	})
	plan, err := policy.Place(app)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(plan)
	// Output:
	// GROUP         REPLICAS  RESOURCES              COMPONENTS
	// main          1         cpu=0.5,memory=256MiB  weaver.Main
	// shop.Cache    1         -                      shop.Cache
	// shop.Cart     1         -                      shop.Cart
	// shop.Catalog  1         -                      shop.Catalog
}

func ExamplePlan_Diff() {
	before, err := placement.PerComponent(app)
	if err != nil {
		log.Fatal(err)
	}
	in := app
	in.Colocate = [][]string{{"example.com/shop/Cart", "example.com/shop/Cache"}}
	in.ReplicasOf = map[string]int{"shop.Catalog": 4}
	after, err := placement.Colocated(in)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(before.Diff(after))
	// Output:
	// - group shop.Cart
	// > shop.Cart: shop.Cart -> shop.Cache
	// ~ group shop.Catalog: replicas 1 -> 4
}
