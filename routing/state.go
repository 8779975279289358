package routing

import (
	"math"
	"math/bits"
	"slices"
)

// A State is what a [Generator] remembers between steps: the load of every
// slice of the assignment it last made. It is a plain value, made to be saved
// in any encoding beside the assignment and handed to [Generator.Restore] after
// a restart.
type State struct {
	Slices []SliceState `json:"slices"` // sorted by Start
}

// A SliceState is the remembered load of the keys from Start to the next
// slice's Start.
type SliceState struct {
	Start uint64  `json:"start"`
	Load  float64 `json:"load"` // requests per second, by all callers together
	// Evidence is the time of observation behind Load, in seconds; older
	// observations count for less. Zero: a guess.
	Evidence float64 `json:"evidence"`
}

// memory is State in columns, with the reason of each slice's place.
type memory struct {
	start []uint64
	load  []float64
	evid  []float64
	why   []int32
}

func (m *memory) end(i int) uint64 {
	if i+1 < len(m.start) {
		return m.start[i+1]
	}
	return math.MaxUint64
}

// reset forgets everything.
func (m *memory) reset() {
	m.start, m.load, m.evid, m.why = m.start[:0], m.load[:0], m.evid[:0], m.why[:0]
}

// grow makes room for n slices more.
func (m *memory) grow(n int) {
	m.start = slices.Grow(m.start, n)
	m.load = slices.Grow(m.load, n)
	m.evid = slices.Grow(m.evid, n)
	m.why = slices.Grow(m.why, n)
}

func (m *memory) add(start uint64, load, evid float64, why int32) {
	m.start = append(m.start, start)
	m.load = append(m.load, load)
	m.evid = append(m.evid, evid)
	m.why = append(m.why, why)
}

// restore replaces m by s, without what makes no sense: slices out of order,
// and loads that are not finite or negative.
func (m *memory) restore(s State) {
	m.reset()
	m.grow(len(s.Slices))
	for _, x := range s.Slices {
		if n := len(m.start); n > 0 && x.Start <= m.start[n-1] || x.Start == math.MaxUint64 {
			continue
		}
		if len(m.start) == 0 && x.Start != 0 {
			m.add(0, 0, 0, -1)
		}
		m.add(x.Start, sane(x.Load), min(sane(x.Evidence), maxWindow), -1)
	}
}

func (m *memory) state() State {
	if len(m.start) == 0 {
		return State{}
	}
	s := State{Slices: make([]SliceState, len(m.start))}
	for i := range m.start {
		s.Slices[i] = SliceState{Start: m.start[i], Load: m.load[i], Evidence: m.evid[i]}
	}
	return s
}

const (
	minLoad   = 1e-12 // splits that sum up to less say nothing, requests per second
	maxLoad   = 1e15  // what a report may claim for a slice, and what is remembered, requests per second
	minWindow = 1e-9  // seconds
	maxWindow = 1e12  // seconds
	minEvid   = 1e-12 // below this a memory is a guess
)

// sane returns x, or what is nearest to it among the loads that one can
// compute with: NaN and negative loads are 0 and no load is above maxLoad.
func sane(x float64) float64 {
	if !(x > 0) {
		return 0
	}
	return min(x, maxLoad)
}

// liveNames returns the distinct non-empty addresses, sorted.
func liveNames(replicas []string) []string {
	names := make([]string, 0, len(replicas))
	for _, r := range replicas {
		if r != "" {
			names = append(names, r)
		}
	}
	if !slices.IsSorted(names) {
		slices.Sort(names)
	}
	return slices.Compact(names)
}

// mulDiv64 returns i * 2^64 / n, for i < n.
func mulDiv64(i, n uint64) uint64 {
	q, _ := bits.Div64(i, 0, n)
	return q
}
