package routing

import (
	"math"
	"slices"

	"github.com/ServiceWeaver/weaver/runtime/protos"
)

// A seg is a slice in the making.
type seg struct {
	start   uint64
	load    float64 // estimated requests per second of all callers together
	evid    float64 // seconds of observation behind load; 0: a guess
	holders []int32 // replicas, by number; below step.live they are alive
	why     int32   // last change, in the history
	seen    bool    // load was reported in this step, for this very seg
}

// A step is the work of one call of Generate. All of its slices are scratch
// that the next step uses again.
type step struct {
	opts    Options
	hist    *history
	version uint64 // of the assignment to be made
	changed bool
	broken  bool // prev was invalid

	// Replicas by number: the live ones in order of address, then those which
	// the previous assignment names and which are gone.
	names    []string
	index    map[string]int32
	live     int
	active   int       // live and not draining
	capacity []float64 // weight; 0 if draining or gone
	capSum   float64
	weighted bool      // capacities of active replicas differ
	joined   []bool    // live and held nothing
	sum      []float64 // load
	space    []float64 // share of the key space
	target   []float64 // load that the replica should have

	segs    []seg
	spare   []seg   // the other buffer for segs
	arena   []int32 // backs holders
	guess   []int32 // the holders in the order of the last assignment that was read
	held    csr     // replica → segs
	total   float64
	mean    float64 // share of an average active replica
	noise   float64 // standard error of a replica's load, as a fraction of mean
	top     float64 // load above which a replica has too much, 1 being its share
	orphans []orphan
	late    bool // replicas left, or drain
	moved   bool // a slice went from one replica to another
	budget  float64

	obs  observations
	hot  loadHeap
	cold loadHeap
	want []int32   // holders each seg is to have
	cls  []int16   // density class of each seg
	tmp  []float64 // for medians
	skip []int32   // replicas set aside
	part []part
}

// begin sorts out the replicas.
func (s *step) begin(g *Generator, prev *protos.Assignment, replicas []string) {
	s.opts, s.hist = g.opts, &g.hist
	s.version = prev.GetVersion() + 1
	s.changed, s.broken, s.moved = false, false, false
	s.names = append(s.names[:0], replicas...)
	s.names = slices.DeleteFunc(s.names, func(r string) bool { return r == "" })
	if !slices.IsSorted(s.names) {
		slices.Sort(s.names)
	}
	s.names = slices.Compact(s.names)
	s.live = len(s.names)
	if s.index == nil {
		s.index = make(map[string]int32, s.live)
	}
	// If all replicas drain, none does.
	all := true
	for _, r := range s.names {
		all = all && g.draining[r]
	}
	s.capacity = s.capacity[:0]
	s.active, s.capSum, s.weighted = 0, 0, false
	for i, r := range s.names {
		s.index[r] = int32(i)
		w := 1.0
		if x, ok := g.weights[r]; ok {
			w = x
		}
		if g.draining[r] && !all {
			w = 0
		} else {
			s.weighted = s.weighted || s.active > 0 && w != s.capSum/float64(s.active)
			s.active++
			s.capSum += w
		}
		s.capacity = append(s.capacity, w)
	}
}

// end lets go of what belongs to the caller.
func (s *step) end() {
	clear(s.names)
	clear(s.index)
	s.obs.release()
	s.hist = nil
}

// number returns the number of a replica that prev names.
func (s *step) number(name string) int32 {
	n, ok := s.index[name]
	if !ok {
		n = int32(len(s.names))
		s.index[name] = n
		s.names = append(s.names, name)
		s.capacity = append(s.capacity, 0)
	}
	return n
}

// parse reads prev into segs, repairing what is invalid. Holders that are gone
// stay listed until place.
func (s *step) parse(prev *protos.Assignment) {
	n := len(prev.Slices)
	s.segs = slices.Grow(s.segs[:0], n)
	s.arena = slices.Grow(s.arena[:0], 2*n)
	s.guess = slices.Grow(s.guess, max(2*n-len(s.guess), 0))
	sorted := true
	broken := false // a rule is broken, to be said and mended
	for _, p := range prev.Slices {
		if p == nil || p.Start == keySpaceEnd {
			broken = true
			continue
		}
		if n := len(s.segs); n > 0 && p.Start <= s.segs[n-1].start {
			sorted = false
		}
		from := len(s.arena)
		for _, r := range p.Replicas {
			if r == "" {
				broken = true
				continue
			}
			// Most likely it is who was there last time. Equal strings mostly
			// share their bytes, which makes that quicker to see than in a map.
			at := len(s.arena)
			if at == len(s.guess) {
				s.guess = append(s.guess, -1)
			}
			num := s.guess[at]
			if num < 0 || int(num) >= len(s.names) || s.names[num] != r {
				num = s.number(r)
				s.guess[at] = num
			}
			s.arena = append(s.arena, num)
		}
		n := len(s.arena)
		if n-from > 1 {
			own := s.arena[from:n]
			if !slices.IsSorted(own) {
				slices.Sort(own)
			}
			if kept := slices.Compact(own); len(kept) < len(own) {
				broken = true
				s.arena = s.arena[:from+len(kept)]
				n = len(s.arena)
			}
		}
		if n == from {
			broken = true
		}
		s.segs = append(s.segs, seg{start: p.Start, holders: s.arena[from:n:n], why: -1})
	}
	if !sorted {
		broken = true
		slices.SortStableFunc(s.segs, func(a, b seg) int {
			switch {
			case a.start < b.start:
				return -1
			case a.start > b.start:
				return 1
			}
			return 0
		})
		s.segs = slices.CompactFunc(s.segs, func(a, b seg) bool { return a.start == b.start })
	}
	if len(s.segs) == 0 {
		broken = true
		s.segs = append(s.segs, seg{why: -1})
	}
	if s.segs[0].start != 0 {
		broken = true
		s.segs[0].start = 0
	}
	s.broken = broken
	n = len(s.names)
	s.sum = grow(s.sum, n)
	s.target = grow(s.target, n)
	s.joined = grow(s.joined, n)
	for i := range s.joined {
		s.joined[i] = i < s.live
	}
	for i := range s.segs {
		for _, h := range s.segs[i].holders {
			s.joined[h] = false
		}
	}
}

// remember gives segs the loads of m, by position where the slices differ.
func (s *step) remember(m *memory) {
	if len(m.start) == 0 {
		return
	}
	same := len(m.start) == len(s.segs)
	for i := 0; same && i < len(s.segs); i++ {
		same = m.start[i] == s.segs[i].start
	}
	if same {
		for i := range s.segs {
			x := &s.segs[i]
			x.load, x.evid, x.why = m.load[i], m.evid[i], m.why[i]
		}
		return
	}
	j := 0
	for i := range s.segs {
		x := &s.segs[i]
		end := s.segEnd(i)
		for j+1 < len(m.start) && m.start[j+1] <= x.start {
			j++
		}
		x.why = m.why[j]
		x.evid = math.Inf(1)
		for at, k := x.start, j; at < end; k++ {
			to := min(end, m.end(k))
			x.load += m.load[k] * width(at, to) / width(m.start[k], m.end(k))
			x.evid = min(x.evid, m.evid[k])
			at = to
		}
	}
}

// save keeps the loads for the next step, within the bounds that a restored State
// is held to: who goes on and who begins anew with it must come to the same.
func (s *step) save(m *memory) {
	m.reset()
	m.grow(len(s.segs))
	for i := range s.segs {
		x := &s.segs[i]
		m.add(x.start, min(x.load, maxLoad), min(x.evid, maxWindow), x.why)
	}
}

func (s *step) segEnd(i int) uint64 {
	if i+1 < len(s.segs) {
		return s.segs[i+1].start
	}
	return keySpaceEnd
}

func (s *step) segWidth(i int) float64 { return width(s.segs[i].start, s.segEnd(i)) }

// note records a change to seg i and returns its number.
func (s *step) note(i int, c Change) int32 {
	c.Version = s.version
	c.Start, c.End = s.segs[i].start, s.segEnd(i)
	c.Load = s.segs[i].load
	n := s.hist.add(c)
	s.segs[i].why = n
	s.changed = true
	return n
}

// used returns the load of replica r, 1 being its share.
func (s *step) used(r int32) float64 {
	if s.target[r] > 0 {
		return s.sum[r] / s.target[r]
	}
	return 0
}

// build makes the assignment of segs.
func (s *step) build() *protos.Assignment {
	holders := 0
	for i := range s.segs {
		holders += len(s.segs[i].holders)
	}
	b := newAssignment(s.version, len(s.segs), holders)
	for i := range s.segs {
		x := &s.segs[i]
		if len(x.holders) > 1 && !slices.IsSorted(x.holders) {
			slices.Sort(x.holders)
		}
		p := b.open(x.start)
		for _, h := range x.holders {
			b.name(p, s.names[h])
		}
	}
	return b.Assignment
}

// grow returns a slice of n zeros, in old's memory if that is large enough.
func grow[T any](old []T, n int) []T {
	if cap(old) < n {
		return make([]T, n, n+n/4)
	}
	old = old[:n]
	clear(old)
	return old
}

// A csr lists the segs of every replica: segs[off[r]:off[r+1]].
type csr struct {
	off    []int32
	segs   []int32
	sorted []bool // the replica's segs are not in order of start any more
}

// index fills c from the holders of segs.
func (c *csr) index(segs []seg, replicas int) {
	c.off = grow(c.off, replicas+1)
	c.sorted = grow(c.sorted, replicas)
	n := 0
	for i := range segs {
		for _, h := range segs[i].holders {
			c.off[h+1]++
			n++
		}
	}
	for r := range replicas {
		c.off[r+1] += c.off[r]
	}
	if cap(c.segs) < n {
		c.segs = make([]int32, n, n+n/4)
	}
	c.segs = c.segs[:n]
	// off[r] moves up while r's segs are written and is shifted back after.
	for i := range segs {
		for _, h := range segs[i].holders {
			c.segs[c.off[h]] = int32(i)
			c.off[h]++
		}
	}
	for r := replicas; r > 0; r-- {
		c.off[r] = c.off[r-1]
	}
	c.off[0] = 0
}

func (c *csr) of(r int32) []int32 { return c.segs[c.off[r]:c.off[r+1]] }

// repair says what parse mended.
func (s *step) repair() {
	if s.broken {
		s.changed = true
		s.hist.add(Change{Version: s.version, Action: Repair, Reason: Invalid, End: keySpaceEnd})
	}
}
