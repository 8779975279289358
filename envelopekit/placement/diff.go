package placement

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// A Change is one difference between two plans.
type Change struct {
	Kind      ChangeKind
	Group     string // the group that changed; for Moved, where the component is now
	Component string // Moved; Added and Removed if it is not the whole group
	From      string // Moved: the group it was in; Replicas, Resources: the old value
	To        string // Replicas, Resources: the new value
}

// ChangeKind says what a [Change] is about.
type ChangeKind string

// The kinds of change.
const (
	Removed  ChangeKind = "removed"   // the group, or the Component in it, is gone
	Added    ChangeKind = "added"     // the group, or the Component in it, is new
	Moved    ChangeKind = "moved"     // a component changed groups
	Replicas ChangeKind = "replicas"  // the group's replica count changed
	Resized  ChangeKind = "resources" // the group's resources changed
)

// String describes the change in one line.
func (c Change) String() string {
	switch {
	case c.Kind == Added && c.Component == "":
		return fmt.Sprintf("+ group %s", c.Group)
	case c.Kind == Added:
		return fmt.Sprintf("+ %s in group %s", Shorten(c.Component), c.Group)
	case c.Kind == Removed && c.Component == "":
		return fmt.Sprintf("- group %s", c.Group)
	case c.Kind == Removed:
		return fmt.Sprintf("- %s in group %s", Shorten(c.Component), c.Group)
	case c.Kind == Moved:
		return fmt.Sprintf("> %s: %s -> %s", Shorten(c.Component), c.From, c.Group)
	default:
		return fmt.Sprintf("~ group %s: %s %s -> %s", c.Group, c.Kind, c.From, c.To)
	}
}

// A Diff lists what differs between two plans: removed groups, added groups,
// then components that are gone from a group, new in one, or moved, then
// changed replica counts and resources; each sorted by name. A component that
// came or went with its whole group is not listed by itself. The order of
// groups, and of the components within one, is no difference.
type Diff []Change

// String prints one change a line, or "no changes".
func (d Diff) String() string {
	if len(d) == 0 {
		return "no changes\n"
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
	for _, name := range slices.Sorted(maps.Keys(was)) {
		if _, ok := is[name]; !ok {
			diff = append(diff, Change{Kind: Removed, Group: name})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(is)) {
		if _, ok := was[name]; !ok {
			diff = append(diff, Change{Kind: Added, Group: name})
		}
	}
	before, after := groupByComponent(p), groupByComponent(next)
	for _, c := range slices.Sorted(maps.Keys(before)) {
		if _, there := after[c]; !there {
			if _, stays := is[before[c]]; stays {
				diff = append(diff, Change{Kind: Removed, Group: before[c], Component: c})
			}
		}
	}
	for _, c := range slices.Sorted(maps.Keys(after)) {
		if _, there := before[c]; !there {
			if _, stayed := was[after[c]]; stayed {
				diff = append(diff, Change{Kind: Added, Group: after[c], Component: c})
			}
		}
	}
	for _, c := range slices.Sorted(maps.Keys(after)) {
		if from, ok := before[c]; ok && from != after[c] {
			diff = append(diff, Change{Kind: Moved, Group: after[c], Component: c, From: from})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(is)) {
		a, ok := was[name]
		if !ok {
			continue
		}
		b := is[name]
		if a.Replicas != b.Replicas {
			diff = append(diff, Change{Kind: Replicas, Group: name, From: strconv.Itoa(a.Replicas), To: strconv.Itoa(b.Replicas)})
		}
		if a.Resources != b.Resources {
			diff = append(diff, Change{Kind: Resized, Group: name, From: a.Resources.String(), To: b.Resources.String()})
		}
	}
	return diff
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
