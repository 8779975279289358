package placement

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Main is the full name of the main component of every application.
const Main = "github.com/ServiceWeaver/weaver/Main"

// MainGroup is the name that the provided policies give the group of [Main].
const MainGroup = "main"

// A Plan says which groups an application consists of. Every component is in
// exactly one group. The provided policies sort the groups by name, the main
// group first, and the components within a group.
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
// group, a duplicate name, negative replicas or resources, a Main mark on the
// wrong group. A plan from one of the provided policies is always valid.
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
		// The negation catches a CPU that is not a number, too.
		if !(g.Resources.CPU >= 0) || math.IsInf(g.Resources.CPU, 0) || g.Resources.Memory < 0 {
			errs = append(errs, fmt.Errorf("group %q asks for impossible resources: cpu=%g, memory=%d bytes", g.Name, g.Resources.CPU, g.Resources.Memory))
		}
		for _, c := range g.Components {
			switch before, dup := placed[c]; {
			case !known[c]:
				errs = append(errs, fmt.Errorf("group %q holds component %q, which the application does not have", g.Name, c))
			case dup && before == g.Name:
				errs = append(errs, fmt.Errorf("component %q is in group %q twice", c, g.Name))
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

// String returns the plan as a table, a line a group. It has a column for
// resources if a group asks for some.
func (p Plan) String() string {
	resources := slices.ContainsFunc(p.Groups, func(g Group) bool { return g.Resources != Resources{} })
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(group, replicas, asked, components string) {
		if resources {
			replicas += "\t" + asked
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", group, replicas, components)
	}
	row("GROUP", "REPLICAS", "RESOURCES", "COMPONENTS")
	for _, g := range p.Groups {
		short := make([]string, len(g.Components))
		for i, c := range g.Components {
			short[i] = Shorten(c)
		}
		row(g.Name, strconv.Itoa(g.Replicas), g.Resources.String(), strings.Join(short, ", "))
	}
	w.Flush()
	return b.String()
}

// String prints the resources as "cpu=0.5,memory=256MiB", "-" for none.
func (r Resources) String() string {
	var parts []string
	if r.CPU != 0 {
		parts = append(parts, fmt.Sprintf("cpu=%g", r.CPU))
	}
	if r.Memory != 0 {
		parts = append(parts, "memory="+bytesString(r.Memory))
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, ",")
}

// bytesString prints a number of bytes exactly, in the largest unit that
// allows it.
func bytesString(n int64) string {
	for _, unit := range []struct {
		shift int
		name  string
	}{{40, "TiB"}, {30, "GiB"}, {20, "MiB"}, {10, "KiB"}} {
		if n>>unit.shift<<unit.shift == n {
			return fmt.Sprintf("%d%s", n>>unit.shift, unit.name)
		}
	}
	return fmt.Sprintf("%dB", n)
}

// sort puts the groups into the order that a Plan promises.
func (p Plan) sort() {
	slices.SortFunc(p.Groups, func(a, b Group) int {
		if a.Main != b.Main {
			if a.Main {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
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
