package routing

import (
	"math"

	"github.com/ServiceWeaver/weaver/runtime/protos"
)

const (
	cutBusy    = 2.0 // grains above which a slice is cut while load has to move
	cutIdle    = 5.0 // of Options.HotShare: what each holder may have of a slice while all is well; cutting alone is hardly a reason to publish
	maxGrowth  = 4   // slices per replica, as a multiple of Options.SlicesPerReplica
	partQuanta = 4   // of a report's splits in a part at least: the end of each is uncertain by about half of one
	keyQuanta  = 2.5 // above which a split counts as one key
	hotQuanta  = 5.5 // the same in a slice whose load has to move at once
	blindCuts  = 16  // pieces of a range that nothing more is known about
)

// A part is a piece of a slice that is cut.
type part struct {
	start uint64
	load  float64
	evid  float64
}

// cutSlices cuts slices that hold too much to balance with.
func (s *step) cutSlices(busy bool) {
	if s.active < 2 {
		return
	}
	grain := s.mean / float64(s.opts.SlicesPerReplica)
	room := maxGrowth*s.opts.SlicesPerReplica*s.active - len(s.segs)
	first := true
	out := s.spare[:0]
	for i := range s.segs {
		x := s.segs[i]
		limit := cutBusy * grain
		if !busy {
			limit = cutIdle * s.opts.HotShare * s.mean * float64(len(x.holders))
		}
		if x.load <= limit || room <= 0 && x.load <= s.opts.HotShare*s.mean {
			if !first {
				out = append(out, x)
			}
			continue
		}
		parts := s.partsOf(i, grain, s.urgent(i))
		if len(parts) < 2 {
			if !first {
				out = append(out, x)
			}
			continue
		}
		if first {
			// Most steps cut nothing; only now is a copy needed.
			out = append(out, s.segs[:i]...)
			first = false
		}
		room -= len(parts) - 1
		why := s.note(i, Change{Action: Split, Reason: Coarse, Parts: len(parts)})
		for k, p := range parts {
			y := seg{start: p.start, load: p.load, evid: p.evid, holders: x.holders, why: why}
			if k > 0 {
				n := len(s.arena)
				s.arena = append(s.arena, x.holders...)
				y.holders = s.arena[n:len(s.arena):len(s.arena)]
			}
			out = append(out, y)
		}
	}
	if !first {
		s.spare, s.segs = s.segs, out
	}
}

// urgent reports whether seg i is too hot for its holders and is better given
// to more of them first, whole, than cut: its load is known, but that of the
// parts only roughly. The parts are told apart by the next report, when nothing
// has to move any more. Only hot keys are isolated at once.
func (s *step) urgent(i int) bool {
	x := &s.segs[i]
	n := len(x.holders)
	if n == 0 || x.load/float64(n) <= s.opts.HotShare*s.mean {
		return false
	}
	need := s.copies(x.load)
	return s.segWidth(i)*float64(need-n)/float64(need) <= s.budget/8
}

// partsOf returns the pieces that seg i is to be cut into, at least two if at
// all.
func (s *step) partsOf(i int, grain float64, urgent bool) []part {
	x := &s.segs[i]
	end := s.segEnd(i)
	if end-x.start < 2 {
		return nil
	}
	s.part = s.part[:0]
	nominal := 1 / float64(s.opts.SlicesPerReplica*s.active)
	sl := s.obs.best[i]
	if sl == nil || len(sl.Splits) < 2 {
		if s.segWidth(i) >= 2*nominal && !urgent {
			// Nothing is known of its inside. What is as narrow as a slice
			// should be is left alone until a report says more: cutting on and
			// on in search of a single key would never end.
			s.blind(part{start: x.start, load: x.load, evid: x.evid}, end, grain, nominal)
		}
		return s.part
	}
	sum, ok := splitSum(sl)
	if !ok {
		return nil
	}
	s.pieces(i, sum, grain, nominal, urgent)
	// A hot key whose position is lost leaves one large piece again and again;
	// cutting slivers off it ends when they are too small to matter.
	var largest, total float64
	for _, p := range s.part {
		largest = max(largest, p.load)
		total += p.load
	}
	if total-largest < grain {
		return nil
	}
	return s.part
}

// pieces groups the splits of a report into parts of about a grain each, with
// hot keys on their own.
//
// The collector cuts its sorted sample of keys at n equidistant ranks. A key
// that fills k ≥ 2 ranks gives one split of k quanta that starts at this key: so
// it is known. On average half a quantum of the split before belongs to it, and
// half a quantum of its own split to the keys behind it.
func (s *step) pieces(i int, sum, grain, nominal float64, urgent bool) {
	x, sl, end := &s.segs[i], s.obs.best[i], s.segEnd(i)
	scale := x.load / sum
	quantum := sum / float64(splitCount(sl, sum, s.obs.seconds[s.obs.bestBy[i]]))
	size, key := max(grain, partQuanta*quantum*scale), keyQuanta*quantum
	if urgent {
		size, key = x.load, hotQuanta*quantum
	}
	// Keys that are not the start of a split lie between; without any, nothing
	// is left of a split but its key.
	n := len(sl.Splits)
	between := min(1, max(0, (0.97*float64(sl.Size)-float64(n))/float64(n)))
	evid := x.evid
	if x.load > 0 {
		evid = min(evid, sampleSize/x.load)
	}
	open := part{start: x.start}
	emit := func(next uint64) {
		if open.start < next {
			s.part = append(s.part, open)
		}
	}
	for k, sp := range sl.Splits {
		from, to := sp.Start, end
		if k == 0 {
			from = x.start
		}
		if k+1 < n {
			to = sl.Splits[k+1].Start
		}
		load := sp.Load * scale
		// The first split starts where the slice does: no key is known there.
		single := k > 0 && sp.Load > key && load >= grain
		if single && open.start < from && open.load > 0 {
			open.load -= min(between*quantum*scale/2, open.load*3/4)
		}
		if single {
			emit(from)
			s.part = append(s.part, part{start: from, load: load, evid: evid})
			open = part{start: from + 1, evid: evid}
			if from+1 < to {
				open.load = between * quantum * scale / 2
			} else {
				open.start = to
			}
			continue
		}
		blind := !urgent && load > s.opts.HotShare*s.mean/2 && k > 0 && sp.Load <= key
		if open.start < from && (blind || open.load > 0 && open.load+load > 1.25*size) {
			emit(from)
			open = part{start: from}
		}
		open.load += load
		open.evid = evid
		if blind {
			s.blind(part{start: from, load: open.load, evid: evid}, to, grain, nominal/8)
			open = part{start: to, evid: evid}
		}
	}
	emit(end)
	// Half quanta were given and taken: bring the sum back to the load.
	got := 0.0
	for _, p := range s.part {
		got += p.load
	}
	if got > 0 {
		for k := range s.part {
			s.part[k].load *= x.load / got
		}
	}
}

// splitCount returns the number of ranks at which the collector cut the slice,
// before it joined those of one key: the smallest that fits the splits and the
// number of requests.
func splitCount(sl *protos.LoadReport_SliceLoad, sum, seconds float64) int {
	count := sl.Load * seconds
	for _, c := range [...]struct {
		n     int
		limit float64 // requests from which there are more splits
	}{{2, 50}, {4, 100}, {5, 250}, {10, 500}} {
		// The window is a lower bound, and so is the count.
		if len(sl.Splits) > c.n || count >= c.limit {
			continue
		}
		fits := true
		for _, sp := range sl.Splits {
			k := sp.Load / sum * float64(c.n)
			if math.Abs(k-math.Round(k)) > 1e-3 || k < 0.5 {
				fits = false
				break
			}
		}
		if fits {
			return c.n
		}
	}
	return 20
}

// blind cuts the range from p.start to end into equal pieces of a grain each
// that are no narrower than least, as if load were even in it. The next report
// tells.
func (s *step) blind(p part, end uint64, grain, least float64) {
	n := int(min(math.Ceil(p.load/grain), width(p.start, end)/least, blindCuts))
	if n < 2 {
		s.part = append(s.part, p)
		return
	}
	load := p.load / float64(n)
	evid := min(p.evid, 1/load)
	step := (end - p.start) / uint64(n)
	for k := range n {
		s.part = append(s.part, part{start: p.start + uint64(k)*step, load: load, evid: evid})
	}
}
