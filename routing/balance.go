package routing

import (
	"math"
	"slices"
)

const (
	hotIdle      = 1.5  // of Options.HotShare: what makes a slice hot while all is well
	copyShare    = 0.75 // of Options.HotShare: what each copy of a hot slice should have
	maxTolerance = 0.08
	noiseErrors  = 3.0   // standard errors of a replica's load that are put down to chance
	settle       = 0.4   // of the tolerance: where moving stops
	lateAbove    = 1.2   // of the tolerance: where moving begins right after replicas left
	spaceWeight  = 0.1   // load that a replica with twice its share of the key space counts as having more
	narrow       = 1.25  // of the nominal width of a slice: what costs little key space to copy
	maxThin      = 4     // copies of a piece that finds no room, as a multiple of what it needs
	roomTries    = 8     // replicas that are tried for a copy if capacities differ
	joinSpace    = 0.7   // of its share of the key space: what a joiner should get at least
	crowded      = 1.5   // slices, as a multiple of what is aimed at, from which cold ones merge
	uncrowded    = 1.25  // the same, at which merging ends
	sliver       = 0.125 // of the nominal width of a slice: what merging moves without need
	mergeChurn   = 0.2   // of Options.Churn: what merging may use
)

// balance turns the previous assignment, with its loads, into the next.
//
// The moves are those of Slicer (Adya et al., OSDI 2016): from the hottest
// replica to the coldest, within a budget of key space, what brings most load
// for its key space first.
func (s *step) balance() {
	s.budget = max(s.opts.Churn, 0)
	s.want, s.cls = s.want[:0], s.cls[:0]
	s.measure()
	s.weigh()
	tolerance := s.tolerance()
	s.top = 1 + tolerance
	busy := s.hottest() > s.top
	s.cutSlices(busy)
	s.adopt(busy)
	s.weigh()
	s.cool()
	s.place()
	s.join()
	s.level()
	if s.drain() {
		s.late = true
		s.level()
	}
	s.merge()
}

// level moves load away from replicas that have too much. Right after replicas
// came or went it moves no more than has to be: enough has moved already.
func (s *step) level() {
	above, stop := s.top, 1+settle*(s.top-1)
	if s.late {
		above, stop = 1+lateAbove*(s.top-1), s.top
	}
	if s.hottest() <= above {
		return
	}
	s.list()
	s.shift(Overloaded, stop, false)
	if s.opts.Bound > 1 && s.hottest() > s.opts.Bound {
		s.shift(Overloaded, s.opts.Bound, true)
	}
}

// measure sums up the loads and sets each replica's share.
func (s *step) measure() {
	s.total = 0
	for i := range s.segs {
		s.total += s.segs[i].load
	}
	s.mean = s.total / float64(s.active)
	variance := 0.0
	for i := range s.segs {
		if x := &s.segs[i]; x.evid > minEvid {
			variance += x.load / (x.evid * float64(max(len(x.holders), 1)))
		}
	}
	s.noise = 0
	if s.mean > 0 {
		s.noise = math.Sqrt(variance/float64(s.active)) / s.mean
	}
	for r := range s.target {
		s.target[r] = s.total * s.capacity[r] / s.capSum
	}
}

// weigh sums up the load of each replica. A seg that is to have more holders
// than it has counts for those it has by what they will carry.
func (s *step) weigh() {
	s.space = grow(s.space, len(s.names))
	clear(s.sum)
	for i := range s.segs {
		x := &s.segs[i]
		n := len(x.holders)
		if len(s.want) == len(s.segs) {
			n = max(n, int(s.want[i]))
		}
		share, w := x.load/float64(n), s.segWidth(i)/float64(n)
		for _, h := range x.holders {
			s.sum[h] += share
			s.space[h] += w
		}
	}
}

// coldness orders replicas that might get something. Of two that are about
// equally loaded the one with less key space comes first: else key space would
// pile up on some, and much of it had to move when one of them leaves.
func (s *step) coldness(r int32) float64 {
	return s.used(r) + spaceWeight*max(0, s.space[r]*s.capSum/s.capacity[r]-1)
}

// tolerance returns how far above its share a replica may be: as asked, or more
// if the loads are too uncertain to tell.
func (s *step) tolerance() float64 {
	t := s.opts.Tolerance
	return max(t, min(noiseErrors*s.noise, maxTolerance))
}

// hottest returns the load of the most loaded replica, 1 being its share.
func (s *step) hottest() float64 {
	top := 0.0
	for r := range s.live {
		if s.target[r] > 0 {
			top = max(top, s.sum[r]/s.target[r])
		}
	}
	return top
}

// fillCold puts all active replicas into the heap of the coldest.
func (s *step) fillCold() {
	s.cold.reset(len(s.names))
	for r := range int32(s.live) {
		if s.capacity[r] > 0 {
			s.cold.set(r, s.coldness(r))
		}
	}
}

// fillHot puts all active replicas into the heap of the hottest.
func (s *step) fillHot() {
	s.hot.reset(len(s.names))
	for r := range int32(s.live) {
		if s.capacity[r] > 0 {
			s.hot.set(r, -s.used(r))
		}
	}
}

// list prepares the lists of what each replica holds, for sorted. Segs come in
// classes of density, each four times as dense as the one below. Within a class
// they count as equal: choosing the very densest would choose those whose load
// is overestimated by chance.
func (s *step) list() {
	if len(s.cls) > 0 {
		return
	}
	s.held.index(s.segs, len(s.names))
	s.cls = grow(s.cls, len(s.segs))
	for i := range s.segs {
		d := s.segs[i].load / (s.total * max(s.segWidth(i), 0x1p-64))
		c := 0.0
		if d > 0 && !math.IsInf(d, 1) {
			c = math.Floor((math.Log2(d) + 1) / 2)
		}
		s.cls[i] = int16(c)
	}
}

// sorted returns the segs of r, densest class first. What has moved away since
// is -1 or is not held by r any more.
func (s *step) sorted(r int32) []int32 {
	own := s.held.of(r)
	if s.held.sorted[r] {
		return own
	}
	s.held.sorted[r] = true
	slices.SortFunc(own, func(a, b int32) int {
		if s.cls[a] != s.cls[b] {
			return int(s.cls[b]) - int(s.cls[a])
		}
		return int(a) - int(b)
	})
	return own
}

// pick chooses what from gives to to: the densest that carries at most want, or
// else the lightest at all if even that leaves to cooler than from is. With
// wide set it is the least dense instead. It returns where in from's list that
// is, or -1.
func (s *step) pick(from, to int32, want float64, free, wide bool) int {
	own := s.sorted(from)
	over := -1
	var overShare float64
	for k := range own {
		if wide {
			k = len(own) - 1 - k
		}
		i := own[k]
		if i < 0 {
			continue
		}
		x := &s.segs[i]
		share := x.load / float64(len(x.holders))
		if share > want && over >= 0 && share >= overShare || share <= 0 {
			continue
		}
		if !free && s.cost(i) > s.budget || slices.Contains(x.holders, to) {
			continue
		}
		if share <= want {
			return k
		}
		over, overShare = k, share
	}
	if over >= 0 {
		now := s.used(from)
		if after := (s.sum[to] + overShare) / s.target[to]; after < now-(now-1)/8 {
			return over
		}
	}
	return -1
}

// cost returns the share of the key space that moves if one holder of seg i is
// replaced.
func (s *step) cost(i int32) float64 {
	return s.segWidth(int(i)) / float64(len(s.segs[i].holders))
}

// hand moves the k-th of from's list to to.
func (s *step) hand(from, to int32, k int, reason Reason) {
	own := s.held.of(from)
	i := own[k]
	own[k] = -1
	x := &s.segs[i]
	s.note(int(i), Change{Action: Move, Reason: reason, From: s.names[from], FromUsed: s.used(from), To: s.names[to], ToUsed: s.used(to)})
	x.holders[slices.Index(x.holders, from)] = to
	s.moved = true
	share := x.load / float64(len(x.holders))
	s.sum[from] -= share
	s.sum[to] += share
	s.hot.update(from, -s.used(from))
	s.hot.update(to, -s.used(to))
	s.space[from] -= s.cost(i)
	s.space[to] += s.cost(i)
	s.cold.update(to, s.coldness(to))
	s.cold.update(from, s.coldness(from))
}

// join fills the replicas that hold nothing yet up to their share, from the
// hottest ones. It is not held to the budget: it moves no more than the joiners'
// share.
func (s *step) join() {
	s.cold.reset(len(s.names))
	for r := range int32(s.live) {
		if s.joined[r] && s.capacity[r] > 0 && s.used(r) < 1 {
			s.cold.set(r, s.coldness(r))
		}
	}
	if s.cold.top() < 0 {
		return
	}
	s.list()
	s.fillHot()
	grain := s.mean / float64(s.opts.SlicesPerReplica)
	for r := range int32(s.live) {
		switch {
		case s.joined[r]:
			s.hot.remove(r)
		case s.capacity[r] == 0 && s.sum[r] > 0:
			s.hot.set(r, math.Inf(-1)) // what drains has to go anyway
		}
	}
	for {
		to := s.cold.top()
		if to < 0 || s.used(to) >= 1 {
			return
		}
		from := s.hot.top()
		if from < 0 {
			return
		}
		room := s.target[to] - s.sum[to]
		spare := s.sum[from] - s.target[from]
		k := -1
		if s.used(from) > s.used(to) || s.target[from] == 0 {
			// Densest first, but not only: else all key space stays with the old.
			wide := s.space[to]*s.capSum/s.capacity[to] < joinSpace*s.used(to)
			k = s.pick(from, to, min(max(spare, 0)+s.opts.HotShare*s.mean, room+grain/2), true, wide)
		}
		if k < 0 {
			s.hot.remove(from)
			continue
		}
		s.hand(from, to, k, Joined)
		if s.target[from] == 0 {
			s.hot.set(from, math.Inf(-1))
		}
	}
}

// shift moves load from replicas above stop to the coldest ones.
func (s *step) shift(reason Reason, stop float64, free bool) {
	s.fillHot()
	s.fillCold()
	for {
		from, to := s.hot.top(), s.cold.top()
		if from < 0 || s.used(from) <= stop || from == to {
			return
		}
		want := min(s.sum[from]-s.target[from], stop*s.target[to]-s.sum[to])
		k := s.pick(from, to, want, free, false)
		if k < 0 && !s.moved && s.opts.Churn > 0 && s.budget >= s.opts.Churn {
			// Slices wider than the whole budget must not stay for ever.
			k = s.pick(from, to, want, true, false)
		}
		if k < 0 {
			s.hot.remove(from)
			continue
		}
		if !free {
			s.budget -= s.cost(s.held.of(from)[k])
		}
		s.hand(from, to, k, reason)
	}
}

// drain empties draining replicas as far as the budget goes, and by one slice
// at least. It reports whether there was anything to move.
func (s *step) drain() bool {
	first := true
	for r := range int32(s.live) {
		if s.capacity[r] > 0 || s.joined[r] {
			continue
		}
		if first {
			s.list()
			s.hot.reset(len(s.names))
			s.fillCold()
		}
		for k, i := range s.sorted(r) {
			if i < 0 {
				continue
			}
			cost := s.cost(i)
			if cost > s.budget && !first {
				continue
			}
			x := &s.segs[i]
			to, least := int32(-1), math.Inf(1)
			if len(x.holders) == 1 {
				to = s.cold.top()
			} else {
				for c := range int32(s.live) {
					if s.capacity[c] > 0 && s.used(c) < least && !slices.Contains(x.holders, c) {
						to, least = c, s.used(c)
					}
				}
			}
			if to < 0 {
				// All others hold it already.
				s.note(int(i), Change{Action: Dereplicate, Reason: Draining, From: s.names[r], FromUsed: s.used(r), Parts: len(x.holders) - 1})
				at := slices.Index(x.holders, r)
				s.sum[r] -= x.load / float64(len(x.holders))
				x.holders = slices.Delete(x.holders, at, at+1)
				for _, h := range x.holders {
					n := float64(len(x.holders))
					s.sum[h] += x.load/n - x.load/(n+1)
					s.cold.update(h, s.coldness(h))
				}
				s.held.of(r)[k] = -1
				continue
			}
			s.budget = max(s.budget-cost, 0)
			s.hand(r, to, k, Draining)
			first = false
		}
	}
	return !first
}
