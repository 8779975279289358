package placement_test

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/weaverkit/weaverkit/envelopekit/placement"
)

// shop is an application of five components: main calls all others, the
// frontend's pages ask catalog and cart, and the cart asks its cache a lot.
func shop() placement.Input {
	const pkg = "example.com/shop/"
	return placement.Input{
		Components: []string{placement.Main, pkg + "cart/T", pkg + "cart/Cache", pkg + "Catalog", pkg + "Orders"},
		Edges: []placement.Edge{
			{From: placement.Main, To: pkg + "cart/T"},
			{From: placement.Main, To: pkg + "Catalog"},
			{From: placement.Main, To: pkg + "Orders"},
			{From: pkg + "cart/T", To: pkg + "cart/Cache"},
		},
	}
}

// groups renders a plan as "name:component+component ...", in plan order.
func groups(p placement.Plan) string {
	var parts []string
	for _, g := range p.Groups {
		short := make([]string, len(g.Components))
		for i, c := range g.Components {
			short[i] = placement.Shorten(c)
		}
		parts = append(parts, g.Name+":"+strings.Join(short, "+"))
	}
	return strings.Join(parts, " ")
}

func TestPolicies(t *testing.T) {
	const pkg = "example.com/shop/"
	byCalls := placement.ByCallGraph(placement.CallGraphOptions{})
	for _, test := range []struct {
		name   string
		policy placement.Policy
		change func(*placement.Input)
		want   string
	}{
		{"one each", placement.PerComponent, nil,
			"main:weaver.Main cart.Cache:cart.Cache cart.T:cart.T shop.Catalog:shop.Catalog shop.Orders:shop.Orders"},
		{"one each, colocate is not for it", placement.PerComponent, func(in *placement.Input) { in.Colocate = [][]string{{pkg + "Catalog", pkg + "Orders"}} },
			"main:weaver.Main cart.Cache:cart.Cache cart.T:cart.T shop.Catalog:shop.Catalog shop.Orders:shop.Orders"},
		{"all in one", placement.Together, nil,
			"main:shop.Catalog+shop.Orders+cart.Cache+cart.T+weaver.Main"},
		{"colocated, no lists", placement.Colocated, nil,
			"main:weaver.Main cart.Cache:cart.Cache cart.T:cart.T shop.Catalog:shop.Catalog shop.Orders:shop.Orders"},
		{"colocated", placement.Colocated, func(in *placement.Input) {
			in.Colocate = [][]string{{}, {pkg + "Orders", placement.Main}, {pkg + "cart/T", pkg + "cart/Cache"}}
		},
			"main:shop.Orders+weaver.Main cart.Cache:cart.Cache+cart.T shop.Catalog:shop.Catalog"},
		{"by references", byCalls, nil,
			"main:shop.Catalog+shop.Orders+cart.T+weaver.Main cart.Cache:cart.Cache"},
		{"by calls", byCalls, func(in *placement.Input) {
			in.Calls = map[placement.Edge]float64{
				{From: pkg + "cart/T", To: pkg + "cart/Cache"}: 900,
				{From: placement.Main, To: pkg + "cart/T"}:     60,
				{From: placement.Main, To: pkg + "Catalog"}:    30,
				{From: placement.Main, To: pkg + "Orders"}:     10,
			}
		},
			"main:cart.Cache+cart.T+weaver.Main shop.Catalog:shop.Catalog shop.Orders:shop.Orders"},
		{"by calls, both directions count", byCalls, func(in *placement.Input) {
			in.Calls = map[placement.Edge]float64{
				{From: placement.Main, To: pkg + "Catalog"}:     40,
				{From: pkg + "Orders", To: pkg + "Catalog"}:     30,
				{From: pkg + "Catalog", To: pkg + "Orders"}:     30,
				{From: pkg + "cart/T", To: placement.Main}:      0,
				{From: pkg + "cart/T", To: pkg + "cart/T"}:      1e9,
				{From: pkg + "cart/T", To: "example.com/Gone"}:  1e9,
				{From: pkg + "cart/T", To: pkg + "cart/Cache"}:  math.NaN(),
				{From: pkg + "cart/T", To: pkg + "Orders"}:      math.Inf(1),
				{From: pkg + "cart/Cache", To: pkg + "Catalog"}: -5,
			}
		},
			"main:shop.Catalog+shop.Orders+weaver.Main cart.Cache:cart.Cache cart.T:cart.T"},
		{"by calls, at most two", placement.ByCallGraph(placement.CallGraphOptions{MaxComponents: 2, MinShare: 0.001}), nil,
			"main:shop.Catalog+weaver.Main cart.Cache:cart.Cache+cart.T shop.Orders:shop.Orders"},
		{"by calls, a list beyond the limit stays together", placement.ByCallGraph(placement.CallGraphOptions{MaxComponents: 1}), func(in *placement.Input) {
			in.Colocate = [][]string{{pkg + "Catalog", pkg + "Orders"}}
		},
			"main:weaver.Main cart.Cache:cart.Cache cart.T:cart.T shop.Catalog:shop.Catalog+shop.Orders"},
		{"by calls, all of them", placement.ByCallGraph(placement.CallGraphOptions{MinShare: 1}), func(in *placement.Input) {
			in.Calls = map[placement.Edge]float64{{From: pkg + "cart/T", To: pkg + "cart/Cache"}: 7}
		},
			"main:weaver.Main cart.Cache:cart.Cache+cart.T shop.Catalog:shop.Catalog shop.Orders:shop.Orders"},
		{"names that collide stay whole", placement.PerComponent, func(in *placement.Input) {
			in.Components = []string{placement.Main, "a/shop/Cart", "b/shop/Cart", "c/other/weaver/Main", "x/shop/Catalog"}
		},
			"main:weaver.Main a/shop/Cart:shop.Cart b/shop/Cart:shop.Cart shop.Catalog:shop.Catalog weaver.Main:weaver.Main"},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := shop()
			if test.change != nil {
				test.change(&in)
			}
			plan, err := test.policy.Place(in)
			if err != nil {
				t.Fatal(err)
			}
			if got := groups(plan); got != test.want {
				t.Errorf("got\n%s, want\n%s", got, test.want)
			}
			if err := plan.Validate(in); err != nil {
				t.Errorf("the plan is not valid: %v", err)
			}
		})
	}
}

func TestPolicyErrors(t *testing.T) {
	const cart = "example.com/shop/cart/T"
	for _, test := range []struct {
		name   string
		policy placement.Policy
		change func(*placement.Input)
		want   string // the whole message
	}{
		{"unknown component", placement.Colocated, func(in *placement.Input) { in.Colocate = [][]string{{cart, "example.com/shop/Carts"}} },
			`colocate list 1 names component "example.com/shop/Carts", which the application does not have`},
		{"in two lists", placement.Colocated, func(in *placement.Input) { in.Colocate = [][]string{{cart}, {placement.Main, cart}} },
			`component "example.com/shop/cart/T" is in colocate lists 1 and 2`},
		{"twice in a list", placement.ByCallGraph(placement.CallGraphOptions{}), func(in *placement.Input) { in.Colocate = [][]string{{cart, cart}} },
			`component "example.com/shop/cart/T" is in colocate list 1 twice`},
		{"several mistakes", placement.Colocated, func(in *placement.Input) { in.Colocate = [][]string{{"x"}, {"y"}} },
			"colocate list 1 names component \"x\", which the application does not have\ncolocate list 2 names component \"y\", which the application does not have"},
		{"no main", placement.Together, func(in *placement.Input) { in.Components = []string{cart} },
			"the application has no main component, github.com/ServiceWeaver/weaver/Main"},
		{"nothing", placement.Together, func(in *placement.Input) { in.Components = nil },
			"the application has no main component, github.com/ServiceWeaver/weaver/Main"},
		{"component listed twice", placement.PerComponent, func(in *placement.Input) { in.Components = append(in.Components, cart) },
			`component "example.com/shop/cart/T" is in group "cart.T" twice`},
		{"negative replicas", placement.PerComponent, func(in *placement.Input) { in.ReplicasOf = map[string]int{"main": -1} },
			`group "main" has -1 replicas`},
		{"impossible resources", placement.PerComponent, func(in *placement.Input) {
			in.ResourcesOf = map[string]placement.Resources{"main": {CPU: math.NaN(), Memory: 1}}
		},
			`group "main" asks for impossible resources: cpu=NaN, memory=1 bytes`},
		{"options", placement.ByCallGraph(placement.CallGraphOptions{MaxComponents: -1, MinShare: 2}), nil,
			"placement by call graph: MaxComponents -1 must be at least 1 and MinShare 2 within [0,1]"},
		{"not a share", placement.ByCallGraph(placement.CallGraphOptions{MinShare: math.NaN()}), nil,
			"placement by call graph: MaxComponents 4 must be at least 1 and MinShare NaN within [0,1]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := shop()
			if test.change != nil {
				test.change(&in)
			}
			plan, err := test.policy(in)
			if err == nil {
				t.Fatalf("got plan\n%s, want an error", plan)
			}
			if err.Error() != test.want {
				t.Errorf("got  %v\nwant %v", err, test.want)
			}
			if len(plan.Groups) != 0 {
				t.Errorf("got a plan beside the error:\n%s", plan)
			}
		})
	}
}

func TestReplicasAndResources(t *testing.T) {
	const cart, cache = "example.com/shop/cart/T", "example.com/shop/cart/Cache"
	in := shop()
	in.Colocate = [][]string{{cart, cache}}
	in.Replicas = 2
	in.ReplicasOf = map[string]int{
		"main":                      1,
		placement.Main:              9, // the group's name wins
		cart:                        3, // the largest wins
		cache:                       5,
		"example.com/shop/Orders":   0, // zero is a number, too
		"example.com/shop/Nonsense": 8, // not there
	}
	in.ResourcesOf = map[string]placement.Resources{
		"cart.Cache": {CPU: 1},
		cart:         {CPU: 8, Memory: 8 << 30},
		"example.com/shop/Catalog": {
			Memory: 64 << 20,
		},
	}
	plan, err := placement.Colocated(in)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]placement.Group{
		"main":         {Replicas: 1},
		"cart.Cache":   {Replicas: 5, Resources: placement.Resources{CPU: 1}},
		"shop.Catalog": {Replicas: 2, Resources: placement.Resources{Memory: 64 << 20}},
		"shop.Orders":  {Replicas: 0},
	} {
		got, ok := plan.Group(name)
		if !ok || got.Replicas != want.Replicas || got.Resources != want.Resources {
			t.Errorf("group %s: got %d replicas, %v (there: %t), want %d, %v", name, got.Replicas, got.Resources, ok, want.Replicas, want.Resources)
		}
	}
	in.ResourcesOf = map[string]placement.Resources{cart: {CPU: 2, Memory: 1 << 20}, cache: {CPU: 1, Memory: 2 << 20}}
	plan, err = placement.Colocated(in)
	if err != nil {
		t.Fatal(err)
	}
	if g, _ := plan.GroupOf(cart); g.Resources != (placement.Resources{CPU: 2, Memory: 2 << 20}) {
		t.Errorf("got %v, want the largest of each", g.Resources)
	}
}

// A policy must not change its input, nor hand out parts of it.
func TestInputIsNotTouched(t *testing.T) {
	for _, policy := range []placement.Policy{
		placement.PerComponent, placement.Together, placement.Colocated, placement.ByCallGraph(placement.CallGraphOptions{}),
	} {
		in, before := shop(), shop()
		in.Colocate = [][]string{{"example.com/shop/Orders", "example.com/shop/Catalog"}}
		before.Colocate = [][]string{{"example.com/shop/Orders", "example.com/shop/Catalog"}}
		plan, err := policy(in)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range plan.Groups {
			for i := range g.Components {
				g.Components[i] = "overwritten"
			}
		}
		if !reflect.DeepEqual(in, before) {
			t.Errorf("the input has become %v", in)
		}
	}
}

// modelByCallGraph is ByCallGraph as its comment says it: a partition, and the
// best of all pairs of its sets, found anew each time.
func modelByCallGraph(in placement.Input, maxSize int, minShare float64) [][]string {
	var parts [][]string
	for _, c := range in.Components {
		if !slices.ContainsFunc(in.Colocate, func(l []string) bool { return slices.Contains(l, c) }) {
			parts = append(parts, []string{c})
		}
	}
	for _, l := range in.Colocate {
		if len(l) > 0 {
			parts = append(parts, slices.Clone(l))
		}
	}
	calls := in.Calls
	if len(calls) == 0 {
		calls = map[placement.Edge]float64{}
		for _, e := range in.Edges {
			calls[e] = 1
		}
	}
	total := 0.0
	for e, n := range calls {
		if e.From != e.To {
			total += n
		}
	}
	for {
		for i := range parts {
			slices.Sort(parts[i])
		}
		slices.SortFunc(parts, func(a, b []string) int { return cmp.Compare(a[0], b[0]) })
		bestI, bestJ, best := 0, 0, 0.0
		for i := range parts {
			for j := i + 1; j < len(parts); j++ {
				n := 0.0
				for e, c := range calls {
					if slices.Contains(parts[i], e.From) && slices.Contains(parts[j], e.To) ||
						slices.Contains(parts[j], e.From) && slices.Contains(parts[i], e.To) {
						n += c
					}
				}
				if n > best && len(parts[i])+len(parts[j]) <= maxSize {
					bestI, bestJ, best = i, j, n
				}
			}
		}
		if best == 0 || best/total < minShare {
			return parts
		}
		parts[bestI] = append(parts[bestI], parts[bestJ]...)
		parts = slices.Delete(parts, bestJ, bestJ+1)
	}
}

func FuzzByCallGraph(f *testing.F) {
	f.Add(uint64(1), uint8(5), uint8(8), uint8(3), uint8(10))
	f.Add(uint64(2), uint8(12), uint8(40), uint8(4), uint8(0))
	f.Add(uint64(3), uint8(9), uint8(0), uint8(2), uint8(200))
	f.Fuzz(func(t *testing.T, seed uint64, components, edges, maxSize, share uint8) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		in := placement.Input{Components: []string{placement.Main}}
		for i := range int(components % 16) {
			in.Components = append(in.Components, fmt.Sprintf("app/pkg%d/T%d", i%3, i))
		}
		rnd.Shuffle(len(in.Components), func(i, j int) {
			in.Components[i], in.Components[j] = in.Components[j], in.Components[i]
		})
		pick := func() string { return in.Components[rnd.IntN(len(in.Components))] }
		if edges%2 == 0 {
			in.Calls = map[placement.Edge]float64{}
		}
		for range edges % 64 {
			e := placement.Edge{From: pick(), To: pick()}
			in.Edges = append(in.Edges, e)
			if in.Calls != nil {
				in.Calls[e] = float64(1 + rnd.IntN(8)) // whole numbers: sums are exact
			}
		}
		if at := rnd.IntN(len(in.Components)); at > 1 {
			in.Colocate = [][]string{slices.Clone(in.Components[:at/2]), slices.Clone(in.Components[at/2 : at])}
		}
		opts := placement.CallGraphOptions{MaxComponents: 1 + int(maxSize%8), MinShare: (float64(share) + 1) / 256}

		plan, err := placement.ByCallGraph(opts)(in)
		if err != nil {
			t.Fatal(err)
		}
		var got [][]string
		for _, g := range plan.Groups {
			got = append(got, g.Components)
		}
		slices.SortFunc(got, func(a, b []string) int { return cmp.Compare(a[0], b[0]) })
		if want := modelByCallGraph(in, opts.MaxComponents, opts.MinShare); !reflect.DeepEqual(got, want) {
			t.Errorf("input %+v, options %+v:\ngot  %v\nwant %v", in, opts, got, want)
		}
	})
}

// Sums of floats depend on their order, and maps have none.
func TestByCallGraphIsDeterministic(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	in := placement.Input{Components: []string{placement.Main}, Calls: map[placement.Edge]float64{}}
	for i := range 60 {
		in.Components = append(in.Components, fmt.Sprintf("app/T%02d", i))
	}
	for _, a := range in.Components {
		for _, b := range in.Components {
			// Every component exchanges the same amounts, in another order.
			in.Calls[placement.Edge{From: a, To: b}] = []float64{0.1, 0.2, 0.3, 0.7, 1e9}[rnd.IntN(5)]
		}
	}
	policy := placement.ByCallGraph(placement.CallGraphOptions{MaxComponents: 20, MinShare: 1e-12})
	first, err := policy(in)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		shuffled := in
		shuffled.Calls = maps.Clone(in.Calls)
		shuffled.Components = slices.Clone(in.Components)
		rnd.Shuffle(len(shuffled.Components), func(i, j int) {
			shuffled.Components[i], shuffled.Components[j] = shuffled.Components[j], shuffled.Components[i]
		})
		again, err := policy(shuffled)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(first, again) {
			t.Fatalf("the same input gave two plans:\n%s\n%s", first, again)
		}
	}
}

// How long does the most expensive policy take? Applications have some dozens
// of components; a thousand is there to show how it grows.
func BenchmarkByCallGraph(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("components=%d", n), func(b *testing.B) {
			rnd := rand.New(rand.NewPCG(1, 2))
			in := placement.Input{Components: []string{placement.Main}, Calls: map[placement.Edge]float64{}}
			for i := range n - 1 {
				in.Components = append(in.Components, fmt.Sprintf("app/T%04d", i))
			}
			for range 10 * n {
				in.Calls[placement.Edge{From: in.Components[rnd.IntN(n)], To: in.Components[rnd.IntN(n)]}] = float64(rnd.IntN(1000))
			}
			policy := placement.ByCallGraph(placement.CallGraphOptions{MinShare: 1e-9})
			b.ReportAllocs()
			for b.Loop() {
				if _, err := policy(in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
