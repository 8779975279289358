package envelopekit

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/bin"

	"github.com/weaverkit/weaverkit/envelopekit/placement"
)

// A Status is a snapshot of a deployment. It shares nothing with it.
type Status struct {
	App        string           `json:"app"`
	Deployment string           `json:"deployment"`
	Versions   bin.Versions     `json:"versions"`
	Started    time.Time        `json:"started"`
	Stopping   bool             `json:"stopping"`
	Groups     []GroupStatus    `json:"groups"`    // in the plan's order
	Listeners  []ListenerStatus `json:"listeners"` // sorted by name

	// What was dropped because nobody took it in time, and failed exports.
	LogsDropped  uint64 `json:"logs_dropped"`
	SpansDropped uint64 `json:"spans_dropped"`
	SpanErrors   uint64 `json:"span_errors"`
}

// A GroupStatus is the status of a group.
type GroupStatus struct {
	Name       string            `json:"name"`
	Main       bool              `json:"main"`
	Wanted     int               `json:"wanted"`  // replicas
	Started    bool              `json:"started"` // one of its components has been activated
	Components []ComponentStatus `json:"components"`
	Replicas   []ReplicaStatus   `json:"replicas"` // in the order of their numbers
}

// A ComponentStatus is the status of a component.
type ComponentStatus struct {
	Name       string `json:"name"`
	Active     bool   `json:"active"` // something uses it
	Routed     bool   `json:"routed"`
	Assignment uint64 `json:"assignment,omitempty"` // the version of its assignment
	Slices     int    `json:"slices,omitempty"`     // of its assignment
}

// A ReplicaStatus is the status of a replica. Its process, if there is one,
// has a WeaveletID, an Address and on most launchers a Pid.
type ReplicaStatus struct {
	Number     int       `json:"number"` // unique in the group
	State      State     `json:"state"`
	Reason     string    `json:"reason"` // for the state, in words
	Since      time.Time `json:"since"`  // the state was entered
	Restarts   int       `json:"restarts"`
	WeaveletID string    `json:"weavelet_id,omitempty"`
	Pid        int       `json:"pid,omitempty"`
	Address    string    `json:"address,omitempty"`
	InRouting  bool      `json:"in_routing"`
	Problem    string    `json:"problem,omitempty"` // the last call to it, if that failed
}

// A ListenerStatus is the status of a listener.
type ListenerStatus struct {
	Name      string   `json:"name"`
	Component string   `json:"component"`         // that has the listener
	Address   string   `json:"address,omitempty"` // for clients; empty if the listener is not exported
	Backends  []string `json:"backends"`          // where replicas serve it, sorted
}

// Status returns a snapshot of the deployment.
func (d *Deployment) Status() Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	st := Status{
		App:        d.app.Name,
		Deployment: d.opts.ID,
		Versions:   d.app.Versions,
		Started:    d.started,
		Stopping:   d.stopping,
		SpanErrors: d.spanErrors.Load(),
	}
	if d.logs != nil {
		st.LogsDropped = d.logs.dropped.Load()
	}
	if d.spans != nil {
		st.SpansDropped = d.spans.dropped.Load()
	}
	for _, g := range d.groups {
		st.Groups = append(st.Groups, d.groupStatusLocked(g))
	}
	for _, info := range d.app.Listeners {
		l := ListenerStatus{Name: info.Name, Component: info.Component, Backends: d.backendsLocked(info.Name)}
		if f := d.frontends[info.Name]; f != nil && f.f != nil {
			l.Address = f.addr
		}
		st.Listeners = append(st.Listeners, l)
	}
	return st
}

func (d *Deployment) groupStatusLocked(g *group) GroupStatus {
	st := GroupStatus{Name: g.Name, Main: g.Main, Wanted: g.want, Started: g.started}
	for _, name := range g.Components {
		c := d.components[name]
		st.Components = append(st.Components, ComponentStatus{
			Name:       name,
			Active:     c.active,
			Routed:     c.routed,
			Assignment: c.assignment.GetVersion(),
			Slices:     len(c.assignment.GetSlices()),
		})
	}
	for _, s := range g.slots {
		rs := ReplicaStatus{Number: s.number, State: s.state, Reason: s.reason, Since: s.since, Restarts: s.restarts}
		if r := s.replica; r != nil {
			rs.WeaveletID, rs.Pid, rs.Address = r.id, r.pid, r.address
			rs.InRouting, rs.Problem = r.routed, r.problem
		}
		st.Replicas = append(st.Replicas, rs)
	}
	return st
}

// Serving returns how many replicas of the group serve.
func (g GroupStatus) Serving() int {
	n := 0
	for _, r := range g.Replicas {
		if r.State == Serving {
			n++
		}
	}
	return n
}

// Ready reports whether every group that is in use has all its replicas
// serving.
func (st Status) Ready() bool {
	return !st.Stopping && !slices.ContainsFunc(st.Groups, func(g GroupStatus) bool {
		return g.Main && !g.Started || g.Started && g.Serving() < g.Wanted
	})
}

// String returns the status as a table of groups and replicas, followed by a
// line for each routed component.
func (st Status) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "GROUP\tREPLICA\tSTATE\tPID\tRESTARTS\tCOMPONENTS")
	for _, g := range st.Groups {
		var components []string
		for _, c := range g.Components {
			components = append(components, placement.Shorten(c.Name))
		}
		names := strings.Join(components, ", ")
		if len(g.Replicas) == 0 {
			state := "unused"
			if g.Started {
				state = "scaled to 0"
			}
			fmt.Fprintf(w, "%s\t-\t%s\t-\t-\t%s\n", g.Name, state, names)
		}
		for i, r := range g.Replicas {
			name := g.Name
			if i > 0 {
				name, names = "", ""
			}
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%d\t%s\n", name, r.Number, r.State, orDash(r.Pid), r.Restarts, names)
		}
	}
	w.Flush()
	for _, g := range st.Groups {
		for _, c := range g.Components {
			if c.Routed {
				fmt.Fprintf(&b, "routed %s: assignment %d, %d slices\n", placement.Shorten(c.Name), c.Assignment, c.Slices)
			}
		}
	}
	return b.String()
}

func orDash(n int) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}
