package placement

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
)

// Main is the full name of the main component of every application.
const Main = "github.com/ServiceWeaver/weaver/Main"

// MainGroup is the name that the provided policies give the group of [Main].
const MainGroup = "main"

// A Plan says which groups an application consists of. Every component is in
// exactly one group. Groups are sorted by name, the main group first;
// components within a group are sorted.
type Plan struct {
	Groups []Group
}

// A Group is a set of components that share a process (a colocation group).
// Each of its replicas hosts all of its components.
type Group struct {
	Name       string
	Components []string
	Main       bool // hosts the main component
	Replicas   int
	Resources  Resources
}

// Resources is what a replica of a group asks of its host. Zero means
// unspecified. Placement only carries it: launchers decide what it means to
// them.
type Resources struct {
	CPU    float64 // cores
	Memory int64   // bytes
}

// Group returns the group of the given name.
func (p Plan) Group(name string) (Group, bool) {
	for _, g := range p.Groups {
		if g.Name == name {
			return g, true
		}
	}
	return Group{}, false
}

// GroupOf returns the group that hosts the component.
func (p Plan) GroupOf(component string) (Group, bool) {
	for _, g := range p.Groups {
		if slices.Contains(g.Components, component) {
			return g, true
		}
	}
	return Group{}, false
}

// Validate reports everything that makes the plan unfit for the input: a
// component that is missing, unknown or placed twice, an empty or nameless
// group, a duplicate name, a negative replica count, a Main mark on the wrong
// group. A plan from one of the provided policies is always valid.
func (p Plan) Validate(in Input) error {
	var errs []error
	known := make(map[string]bool, len(in.Components))
	for _, c := range in.Components {
		known[c] = true
	}
	names := map[string]bool{}
	placed := map[string]string{}
	for _, g := range p.Groups {
		if g.Name == "" {
			errs = append(errs, fmt.Errorf("a group with components %s has no name", strings.Join(g.Components, ", ")))
		}
		if names[g.Name] {
			errs = append(errs, fmt.Errorf("two groups are named %q", g.Name))
		}
		names[g.Name] = true
		if len(g.Components) == 0 {
			errs = append(errs, fmt.Errorf("group %q has no components", g.Name))
		}
		if g.Replicas < 0 {
			errs = append(errs, fmt.Errorf("group %q has %d replicas", g.Name, g.Replicas))
		}
		for _, c := range g.Components {
			switch before, dup := placed[c]; {
			case !known[c]:
				errs = append(errs, fmt.Errorf("group %q holds component %q, which the application does not have", g.Name, c))
			case dup:
				errs = append(errs, fmt.Errorf("component %q is in groups %q and %q", c, before, g.Name))
			}
			placed[c] = g.Name
		}
		if hosts := slices.Contains(g.Components, Main); hosts != g.Main {
			errs = append(errs, fmt.Errorf("group %q: Main is %t, but it hosts the main component: %t", g.Name, g.Main, hosts))
		}
	}
	for _, c := range in.Components {
		if _, ok := placed[c]; !ok {
			errs = append(errs, fmt.Errorf("component %q is in no group", c))
		}
	}
	return errors.Join(errs...)
}

// String returns the plan as a table.
func (p Plan) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "GROUP\tREPLICAS\tCOMPONENTS")
	for _, g := range p.Groups {
		short := make([]string, len(g.Components))
		for i, c := range g.Components {
			short[i] = Shorten(c)
		}
		fmt.Fprintf(w, "%s\t%d\t%s\n", g.Name, g.Replicas, strings.Join(short, ", "))
	}
	w.Flush()
	return b.String()
}

// clone returns a copy that shares nothing with p.
func (p Plan) clone() Plan {
	groups := slices.Clone(p.Groups)
	for i := range groups {
		groups[i].Components = slices.Clone(groups[i].Components)
	}
	return Plan{Groups: groups}
}

// normalize sorts components and groups, the main group first.
func (p Plan) normalize() Plan {
	p = p.clone()
	for i := range p.Groups {
		slices.Sort(p.Groups[i].Components)
	}
	slices.SortFunc(p.Groups, func(a, b Group) int {
		if a.Main != b.Main {
			if a.Main {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return p
}

// Shorten returns the last two parts of a component's full name, the form
// people use: "example.com/shop/Cart" becomes "shop.Cart".
func Shorten(component string) string {
	parts := strings.Split(component, "/")
	if len(parts) < 2 {
		return component
	}
	return strings.Join(parts[len(parts)-2:], ".")
}
