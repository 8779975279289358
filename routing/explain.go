package routing

import (
	"fmt"
	"strings"
)

// An Action is what a step did to a slice.
type Action uint8

const (
	Place       Action = iota + 1 // a slice, or one copy of it, that nobody held was given to To
	Move                          // From → To
	Split                         // cut into Parts slices
	Merge                         // joined with the slice before it
	Replicate                     // To holds it as well
	Dereplicate                   // From, and perhaps others of the most loaded, hold it no longer
	Repair                        // the previous assignment was invalid here
)

var actionNames = [...]string{"none", "place", "move", "split", "merge", "replicate", "dereplicate", "repair"}

func (a Action) String() string { return nameOf(actionNames[:], int(a)) }

// MarshalText returns the action's name.
func (a Action) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// A Reason is why a step did it.
type Reason uint8

const (
	Started    Reason = iota + 1 // there was no assignment
	Left                         // the holder is no longer a replica
	Joined                       // To holds nothing yet
	Draining                     // From is to be emptied
	Overloaded                   // From had more than its share
	HotKey                       // too much for one replica, and not divisible: one key
	Coarse                       // too much load in one slice to balance with
	Cooled                       // no longer hot
	Invalid                      // the previous assignment broke a rule
)

var reasonNames = [...]string{"none", "started", "left", "joined", "draining", "overloaded", "hot key", "coarse", "cooled", "invalid"}

func (r Reason) String() string { return nameOf(reasonNames[:], int(r)) }

// MarshalText returns the reason's name.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

func nameOf(names []string, i int) string {
	if i < len(names) {
		return names[i]
	}
	return fmt.Sprintf("%d", i)
}

// A Change is one thing that a step did to the keys in [Start, End), and why,
// with the figures it was decided on.
type Change struct {
	Version  uint64  `json:"version"` // of the assignment that brought it
	Action   Action  `json:"action"`
	Reason   Reason  `json:"reason"`
	Start    uint64  `json:"start"`
	End      uint64  `json:"end"`
	From     string  `json:"from,omitempty"`
	To       string  `json:"to,omitempty"`
	Parts    int     `json:"parts,omitempty"`    // Split: how many; Replicate and Dereplicate: holders afterwards
	Load     float64 `json:"load"`               // of the slice, requests per second
	FromUsed float64 `json:"fromUsed,omitempty"` // load of From before, 1 being its share
	ToUsed   float64 `json:"toUsed,omitempty"`   // load of To before, 1 being its share
}

// String returns the change as one line for people.
func (c Change) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "v%d %s [%016x, %016x) (%s", c.Version, c.Action, c.Start, c.End, c.Reason)
	if c.Load > 0 {
		fmt.Fprintf(&b, ", %.4g/s", c.Load)
	}
	b.WriteString(")")
	if c.From != "" {
		fmt.Fprintf(&b, " from %s at %.3f", c.From, c.FromUsed)
	}
	if c.To != "" {
		fmt.Fprintf(&b, " to %s at %.3f", c.To, c.ToUsed)
	}
	if c.Parts > 0 {
		unit := "holders"
		if c.Action == Split {
			unit = "parts"
		}
		fmt.Fprintf(&b, ", %d %s", c.Parts, unit)
	}
	return b.String()
}

// A history is the changes that still explain some slice, plus those of the
// last step. Slices refer to their last change by number.
type history struct {
	log  []Change
	last int // where the last step's changes begin
}

// begin starts a step on segs. It forgets changes that explain no slice any
// more once they are the larger part.
func (h *history) begin(segs []seg) {
	h.last = len(h.log)
	if len(h.log) < 2*len(segs)+1024 {
		return
	}
	to := make([]int32, len(h.log))
	for i := range segs {
		if w := segs[i].why; w >= 0 {
			to[w] = 1
		}
	}
	kept := int32(0)
	for i, used := range to {
		if used == 1 {
			h.log[kept] = h.log[i]
			to[i] = kept
			kept++
		}
	}
	clear(h.log[kept:])
	h.log = h.log[:kept]
	h.last = len(h.log)
	for i := range segs {
		if w := segs[i].why; w >= 0 {
			segs[i].why = to[w]
		}
	}
}

// reset forgets all changes.
func (h *history) reset() {
	clear(h.log)
	h.log, h.last = h.log[:0], 0
}

func (h *history) add(c Change) int32 {
	h.log = append(h.log, c)
	return int32(len(h.log) - 1)
}
