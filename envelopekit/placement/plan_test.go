package placement_test

import (
	"math"
	"strings"
	"testing"

	"github.com/weaverkit/weaverkit/envelopekit/placement"
)

func TestPlanLookup(t *testing.T) {
	plan, err := placement.PerComponent(shop())
	if err != nil {
		t.Fatal(err)
	}
	if g, ok := plan.Group("cart.T"); !ok || g.Components[0] != "example.com/shop/cart/T" || g.Main {
		t.Errorf("Group: got %+v, %t", g, ok)
	}
	if g, ok := plan.GroupOf(placement.Main); !ok || g.Name != placement.MainGroup || !g.Main {
		t.Errorf("GroupOf: got %+v, %t", g, ok)
	}
	if g, ok := plan.Group("nobody"); ok {
		t.Errorf("Group of an unknown name: got %+v", g)
	}
	if g, ok := plan.GroupOf("nobody"); ok {
		t.Errorf("GroupOf an unknown component: got %+v", g)
	}
}

func TestValidate(t *testing.T) {
	in := placement.Input{Components: []string{placement.Main, "a/A", "a/B"}}
	good := func() placement.Plan {
		return placement.Plan{Groups: []placement.Group{
			{Name: "main", Main: true, Components: []string{placement.Main}, Replicas: 1},
			{Name: "ab", Components: []string{"a/A", "a/B"}, Replicas: 2},
		}}
	}
	if err := good().Validate(in); err != nil {
		t.Fatalf("a good plan: %v", err)
	}
	for _, test := range []struct {
		name   string
		change func(p *placement.Plan)
		want   []string // the lines
	}{
		{"missing component", func(p *placement.Plan) { p.Groups[1].Components = []string{"a/B"} }, []string{`component "a/A" is in no group`}},
		{"unknown component", func(p *placement.Plan) { p.Groups[1].Components = []string{"a/A", "a/B", "a/C"} }, []string{`group "ab" holds component "a/C", which the application does not have`}},
		{"placed twice", func(p *placement.Plan) { p.Groups[0].Components = []string{placement.Main, "a/A"} }, []string{`component "a/A" is in groups "main" and "ab"`}},
		{"twice in a group", func(p *placement.Plan) { p.Groups[1].Components = []string{"a/A", "a/A", "a/B"} }, []string{`component "a/A" is in group "ab" twice`}},
		{"no name", func(p *placement.Plan) { p.Groups[1].Name = "" }, []string{`a group with components a/A, a/B has no name`}},
		{"same name", func(p *placement.Plan) { p.Groups[1].Name = "main" }, []string{`two groups are named "main"`}},
		{"empty group", func(p *placement.Plan) { p.Groups = append(p.Groups, placement.Group{Name: "x"}) }, []string{`group "x" has no components`}},
		{"replicas", func(p *placement.Plan) { p.Groups[0].Replicas = -3 }, []string{`group "main" has -3 replicas`}},
		{"memory", func(p *placement.Plan) { p.Groups[0].Resources.Memory = -1 }, []string{`group "main" asks for impossible resources: cpu=0, memory=-1 bytes`}},
		{"cpu", func(p *placement.Plan) { p.Groups[0].Resources.CPU = math.Inf(1) }, []string{`group "main" asks for impossible resources: cpu=+Inf, memory=0 bytes`}},
		{"main not marked", func(p *placement.Plan) { p.Groups[0].Main = false }, []string{`group "main": Main is false, but it hosts the main component: true`}},
		{"wrong one marked", func(p *placement.Plan) { p.Groups[1].Main = true }, []string{`group "ab": Main is true, but it hosts the main component: false`}},
		{"everything", func(p *placement.Plan) { p.Groups = nil }, []string{
			`component "github.com/ServiceWeaver/weaver/Main" is in no group`,
			`component "a/A" is in no group`,
			`component "a/B" is in no group`,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			plan := good()
			test.change(&plan)
			err := plan.Validate(in)
			if err == nil {
				t.Fatal("got no error")
			}
			if want := strings.Join(test.want, "\n"); err.Error() != want {
				t.Errorf("got\n%v\nwant\n%v", err, want)
			}
		})
	}
}

func TestResourcesString(t *testing.T) {
	for _, test := range []struct {
		r    placement.Resources
		want string
	}{
		{placement.Resources{}, "-"},
		{placement.Resources{CPU: 0.25}, "cpu=0.25"},
		{placement.Resources{Memory: 1}, "memory=1B"},
		{placement.Resources{Memory: 1000}, "memory=1000B"},
		{placement.Resources{Memory: 512 << 10}, "memory=512KiB"},
		{placement.Resources{CPU: 2, Memory: 1536 << 20}, "cpu=2,memory=1536MiB"},
		{placement.Resources{Memory: 3 << 30}, "memory=3GiB"},
		{placement.Resources{Memory: 1 << 40}, "memory=1TiB"},
	} {
		if got := test.r.String(); got != test.want {
			t.Errorf("%+v: got %q, want %q", test.r, got, test.want)
		}
	}
}

func TestShorten(t *testing.T) {
	for in, want := range map[string]string{
		"":                     "",
		"Main":                 "Main",
		"shop/Cart":            "shop.Cart",
		"example.com/a/b/Cart": "b.Cart",
		placement.Main:         "weaver.Main",
	} {
		if got := placement.Shorten(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
