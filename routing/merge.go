package routing

import "slices"

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
