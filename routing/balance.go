package routing

import (
	"cmp"
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

// An orphan is a copy of a slice that nobody holds.
type orphan struct {
	seg    int32
	share  float64 // load of this copy
	action Action
	reason Reason
}

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

// copies returns how many holders a seg needs that cannot be cut any more.
func (s *step) copies(load float64) int {
	if load <= s.opts.HotShare*s.mean || s.mean <= 0 {
		return 1
	}
	n := math.Ceil(load / (copyShare * s.opts.HotShare * s.mean))
	return int(min(n, float64(s.active)))
}

// adopt takes out the holders that are gone and lists the copies that have to
// be placed: of segs that nobody holds, and of hot ones with too few holders.
func (s *step) adopt(busy bool) {
	s.orphans, s.late = s.orphans[:0], false
	s.want = grow(s.want, len(s.segs))
	hot := s.opts.HotShare * s.mean
	hotter := hot
	if !busy {
		hotter *= hotIdle
	}
	for i := range s.segs {
		x := &s.segs[i]
		had := len(x.holders)
		n := 0
		for _, h := range x.holders {
			if int(h) < s.live {
				x.holders[n] = h
				n++
			}
		}
		x.holders = x.holders[:n]
		lost := had - n
		if lost > 0 {
			s.changed, s.late = true, true
		}
		need := 1
		if x.load > hot {
			need = s.copies(x.load)
		}
		o := orphan{seg: int32(i), action: Place, reason: Left}
		switch {
		case n == 0 && had == 0:
			o.reason = Invalid
		case n == 0:
		case lost > 0 && x.load/float64(n)-x.load/float64(had) <= (s.top-1)*s.mean/4:
			need = n // the others carry it
		case lost > 0:
			need = min(max(need, n), had)
		case x.load/float64(n) > hotter && need > n:
			o.action, o.reason = Replicate, HotKey
			// Each of need holders gets an equal part of the requests, so this
			// is the share of keys that reach a new holder.
			w := s.segWidth(i)
			cost := w * float64(need-n) / float64(need)
			if cost > s.budget {
				need = n
				continue
			}
			s.budget -= cost
		default:
			need = n
		}
		if o.reason == Left && need > n {
			need = s.thin(i, need)
		}
		s.want[i] = int32(max(need, n))
		o.share = x.load / float64(max(need, n))
		for range need - n {
			s.orphans = append(s.orphans, o)
		}
	}
}

// thin returns how many holders seg i, which lost some and should have need of
// them, gets. Right after a leave all replicas are about full: a large piece
// would push its new holder over the top, and that had to make room by giving
// cold keys away, many of them. If the piece is narrow, some more copies of it
// are cheaper.
func (s *step) thin(i, need int) int {
	small := (s.top - 1) * s.mean
	if x := &s.segs[i]; x.load <= 2*small || s.segWidth(i)*float64(s.active*s.opts.SlicesPerReplica) > narrow {
		return need
	}
	n := math.Ceil(s.segs[i].load / small)
	return int(min(max(n, float64(need)), float64(maxThin*need), float64(s.active)))
}

// cool takes holders from segs that are not hot any more, the most loaded ones.
// It waits until half of them would do, so that a load that wavers does not come
// and go, and for a report: the load of a seg that was just cut is an estimate,
// and what is wrong with it does no harm as long as many share it.
func (s *step) cool() {
	if s.mean <= 0 {
		return
	}
	for i := range s.segs {
		x := &s.segs[i]
		n := len(x.holders)
		if n < 2 || !x.seen || int(s.want[i]) > n {
			continue
		}
		need := math.Ceil(x.load / (copyShare * s.opts.HotShare * s.mean))
		if 2*need > float64(n) {
			continue
		}
		keep := max(1, int(need))
		slices.SortFunc(x.holders, func(a, b int32) int {
			return cmp.Or(cmp.Compare(s.rank(a), s.rank(b)), cmp.Compare(a, b))
		})
		gone := x.holders[n-1]
		s.note(i, Change{Action: Dereplicate, Reason: Cooled, From: s.names[gone], FromUsed: s.used(gone), Parts: keep})
		for k, h := range x.holders {
			s.sum[h] -= x.load / float64(n)
			if k < keep {
				s.sum[h] += x.load / float64(keep)
			}
		}
		x.holders = x.holders[:keep]
		s.want[i] = int32(keep)
	}
}

// rank orders replicas by load, those that drain above all others.
func (s *step) rank(r int32) float64 {
	if s.target[r] > 0 {
		return s.sum[r] / s.target[r]
	}
	return math.Inf(1)
}

// place gives every orphan to the coldest replica that does not hold it yet,
// the biggest first.
func (s *step) place() {
	if len(s.orphans) == 0 {
		return
	}
	slices.SortFunc(s.orphans, func(a, b orphan) int {
		return cmp.Or(cmp.Compare(b.share, a.share), cmp.Compare(a.seg, b.seg))
	})
	s.fillCold()
	for left := s.orphans; len(left) > 0; {
		// All copies of one seg at once: their holders are set aside meanwhile,
		// since none may get two.
		o, n := left[0], 1
		for n < len(left) && left[n].seg == o.seg {
			n++
		}
		left = left[n:]
		s.placeCopies(o, n)
	}
}

// placeCopies gives n copies of a seg to the coldest replicas without one.
func (s *step) placeCopies(o orphan, n int) {
	x := &s.segs[o.seg]
	for _, h := range x.holders {
		s.cold.remove(h)
	}
	if total := len(x.holders) + n; cap(x.holders) < total {
		at := len(s.arena)
		s.arena = append(s.arena, x.holders...)
		s.arena = append(s.arena, make([]int32, n)...)
		x.holders = s.arena[at : at+len(x.holders) : len(s.arena)]
	}
	w := s.segWidth(int(o.seg)) / float64(s.want[o.seg])
	for range n {
		r := s.roomiest(o.share)
		if r < 0 {
			break
		}
		c := Change{Action: o.action, Reason: o.reason, To: s.names[r], ToUsed: s.used(r)}
		if len(x.holders) > 0 {
			c.Parts = len(x.holders) + 1
		}
		s.note(int(o.seg), c)
		s.cold.remove(r)
		x.holders = append(x.holders, r)
		s.sum[r] += o.share
		s.space[r] += w
	}
	for _, r := range x.holders {
		if s.capacity[r] > 0 {
			s.cold.set(r, s.coldness(r))
		}
	}
}

// roomiest returns the coldest replica, or, if capacities differ, one of the
// coldest that share does not push over the top: a small replica may be cold
// and yet have no room.
func (s *step) roomiest(share float64) int32 {
	best := s.cold.top()
	if best < 0 || !s.weighted {
		return best
	}
	after := func(r int32) float64 { return (s.sum[r] + share) / s.target[r] }
	s.skip = s.skip[:0]
	for range roomTries {
		r := s.cold.top()
		if r < 0 {
			break
		}
		if after(r) < after(best) {
			best = r
		}
		if after(best) <= s.top {
			break
		}
		s.skip = append(s.skip, r)
		s.cold.remove(r)
	}
	for _, r := range s.skip {
		s.cold.set(r, s.coldness(r))
	}
	return best
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

// merge joins cold neighbours once there are too many slices, so that ranges
// that were hot once do not stay cut for ever. The narrower one moves, if it is
// a sliver; wider ones do only when there are very many slices. It waits while
// there are more urgent moves.
func (s *step) merge() {
	aim := float64(s.opts.SlicesPerReplica * s.active)
	if s.late || float64(len(s.segs)) <= crowded*aim {
		return
	}
	m := merger{step: s, aim: aim, widest: sliver / aim, budget: min(s.budget, s.opts.Churn*mergeChurn)}
	if float64(len(s.segs)) > maxGrowth*aim {
		m.widest = 1
	}
	enough := int(uncrowded * aim)
	grain := s.mean / float64(s.opts.SlicesPerReplica)
	for _, limit := range [...]float64{grain / 16, grain / 4, grain / 2} {
		m.limit = limit
		out := s.segs[:1]
		left := len(s.segs)
		for i := 1; i < len(s.segs); i++ {
			x := s.segs[i]
			end := s.segEnd(i)
			if left > enough && m.absorb(&out[len(out)-1], &x, end) {
				left--
			} else {
				out = append(out, x)
			}
		}
		s.segs = out
		if left <= enough {
			return
		}
	}
}

// A merger knows what may be merged.
type merger struct {
	*step
	aim    float64 // slices there should be
	limit  float64 // load of both
	widest float64 // share of the key space that moves
	budget float64 // left for all merging
}

// absorb merges x, which ends at end, into a, the slice before it, if both are
// cold enough and it costs little.
func (s *merger) absorb(a, x *seg, end uint64) bool {
	wa, wx := width(a.start, x.start), width(x.start, end)
	if a.load+x.load > s.limit || (wa+wx)*s.aim > 2 {
		return false
	}
	keep := a.holders
	if !slices.Equal(a.holders, x.holders) {
		if len(a.holders) > 1 || len(x.holders) > 1 {
			return false
		}
		cost, load, goes := wx, x.load, x.holders[0]
		if wx > wa {
			cost, load, goes, keep = wa, a.load, a.holders[0], x.holders
		}
		stay := keep[0]
		if cost > s.budget || cost > s.widest || s.target[stay] <= 0 || s.sum[stay]+load > s.target[stay]*(1+settle*(s.top-1)) {
			return false
		}
		s.budget -= cost
		s.sum[goes] -= load
		s.sum[stay] += load
	}
	if sum := a.load + x.load; sum > 0 {
		a.evid = (a.evid*a.load + x.evid*x.load) / sum
	}
	a.load += x.load
	a.holders = keep
	a.why = s.hist.add(Change{Version: s.version, Action: Merge, Reason: Cooled, Start: a.start, End: end, To: s.names[keep[0]], ToUsed: s.used(keep[0]), Load: a.load})
	s.changed = true
	return true
}
