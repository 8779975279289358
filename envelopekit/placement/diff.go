package placement

import (
	"fmt"
	"slices"
	"strings"
)

// A Change is one difference between two plans.
type Change struct {
	Kind      ChangeKind
	Group     string // the group that changed; for Moved, where the component is now
	Component string // Moved only
	From      string // Moved: the group it was in; Replicas, Resources: the old value
	To        string // Replicas, Resources: the new value
}

// ChangeKind says what a [Change] is about.
type ChangeKind string

// The kinds of change.
const (
	Added     ChangeKind = "added"     // the group is new
	Removed   ChangeKind = "removed"   // the group is gone
	Moved     ChangeKind = "moved"     // a component changed groups
	Replicas  ChangeKind = "replicas"  // the group's replica count changed
	Resized   ChangeKind = "resources" // the group's resources changed
	noChanges            = "no changes"
)

// String describes the change in one line.
func (c Change) String() string {
	switch c.Kind {
	case Added:
		return fmt.Sprintf("+ group %s", c.Group)
	case Removed:
		return fmt.Sprintf("- group %s", c.Group)
	case Moved:
		return fmt.Sprintf("> %s: %s -> %s", Shorten(c.Component), c.From, c.Group)
	default:
		return fmt.Sprintf("~ group %s: %s %s -> %s", c.Group, c.Kind, c.From, c.To)
	}
}

// A Diff lists what differs between two plans: removed groups, added groups,
// moved components, changed replica counts and resources, in this order, each
// sorted by name. A component that only one of the plans has is told by the
// group that was added or removed with it, or not at all.
type Diff []Change

// String prints one change a line.
func (d Diff) String() string {
	if len(d) == 0 {
		return noChanges + "\n"
	}
	var b strings.Builder
	for _, c := range d {
		fmt.Fprintln(&b, c)
	}
	return b.String()
}

// Diff returns what has to change to get from p to next.
func (p Plan) Diff(next Plan) Diff {
	was, is := index(p), index(next)
	var diff Diff
	for _, name := range sortedKeys(was) {
		if _, ok := is[name]; !ok {
			diff = append(diff, Change{Kind: Removed, Group: name})
		}
	}
	for _, name := range sortedKeys(is) {
		if _, ok := was[name]; !ok {
			diff = append(diff, Change{Kind: Added, Group: name})
		}
	}
	before := groupByComponent(p)
	after := groupByComponent(next)
	for _, c := range sortedKeys(after) {
		if from, ok := before[c]; ok && from != after[c] {
			diff = append(diff, Change{Kind: Moved, Group: after[c], Component: c, From: from})
		}
	}
	for _, name := range sortedKeys(is) {
		a, ok := was[name]
		if !ok {
			continue
		}
		b := is[name]
		if a.Replicas != b.Replicas {
			diff = append(diff, Change{Kind: Replicas, Group: name, From: fmt.Sprint(a.Replicas), To: fmt.Sprint(b.Replicas)})
		}
		if a.Resources != b.Resources {
			diff = append(diff, Change{Kind: Resized, Group: name, From: a.Resources.String(), To: b.Resources.String()})
		}
	}
	return diff
}

// String prints the resources, "-" for none.
func (r Resources) String() string {
	var parts []string
	if r.CPU != 0 {
		parts = append(parts, fmt.Sprintf("cpu=%g", r.CPU))
	}
	if r.Memory != 0 {
		parts = append(parts, fmt.Sprintf("memory=%dMiB", r.Memory>>20))
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, ",")
}

func index(p Plan) map[string]Group {
	m := make(map[string]Group, len(p.Groups))
	for _, g := range p.Groups {
		m[g.Name] = g
	}
	return m
}

func groupByComponent(p Plan) map[string]string {
	m := map[string]string{}
	for _, g := range p.Groups {
		for _, c := range g.Components {
			m[c] = g.Name
		}
	}
	return m
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
