package routing

import (
	"cmp"
	"math"
	"slices"
)

// An orphan is a copy of a slice that nobody holds.
type orphan struct {
	seg    int32
	share  float64 // load of this copy
	action Action
	reason Reason
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
