package routing

import (
	"math"
	"slices"
	"sort"

	"github.com/ServiceWeaver/weaver/runtime/protos"
)

// How reports become loads.
//
// A weavelet counts requests over a window of unknown length and reports the
// rate. A rate alone does not say how sure it is; the number of requests does.
// The collector betrays it: it makes 2, 4, 5, 10 or 20 splits from 10, 50, 100,
// 250 or 500 requests on, and its Size is at most the number of requests. So
// every slice of a report gives a lower bound of the window, and the largest of
// them is close to the truth.
//
// With a window, loads of successive reports are pooled like counts: evidence
// is the time observed, and (load·evidence + rate·window) / (evidence+window)
// is the best estimate as long as nothing changed. That something changed shows
// in a difference that chance does not explain, of one slice or of all that a
// replica reported; what was remembered is then forgotten at once.

const (
	fading      = 0.7    // of evidence, from one report to the next
	surprise    = 9      // square of the standard errors that chance explains
	systematic  = 0.01   // change of a replica's load that is not worth forgetting for
	staleTrust  = 0.5    // weight of a report about another version
	sampleSize  = 1000   // requests behind the splits of one slice
	floorLoad   = 0.02   // least load of a slice, as a fraction of that of average density
	driftSample = 1024   // slices that the change of the overall rate is measured on
	driftCount  = 30     // requests a slice must have seen to be among them
	minDrift    = 1. / 8 // bounds of that change
	maxDrift    = 8
)

// observations are what the reports of one step say about each seg.
type observations struct {
	sum    []float64 // load, summed over the holders who reported
	cover  []float64 // how many did
	window []float64 // seconds, summed over them
	by     []int32   // the last that did, plus one
	forget []bool    // what is remembered is out of date
	best   []*protos.LoadReport_SliceLoad
	bestBy []int32 // who reported best

	// The same from reports about other versions; who covers a part of a seg
	// counts in part.
	stale, staleCover, staleWindow []float64

	reports []*protos.LoadReport_ComponentLoad // by replica
	seconds []float64                          // window of the report
	now     []float64                          // load in the report
}

func (o *observations) reset(segs, replicas int) {
	o.sum = grow(o.sum, segs)
	o.cover = grow(o.cover, segs)
	o.window = grow(o.window, segs)
	o.by = grow(o.by, segs)
	o.stale = grow(o.stale, segs)
	o.staleCover = grow(o.staleCover, segs)
	o.staleWindow = grow(o.staleWindow, segs)
	o.forget = grow(o.forget, segs)
	o.best = grow(o.best, segs)
	o.bestBy = grow(o.bestBy, segs)
	o.reports = grow(o.reports, replicas)
	o.seconds = grow(o.seconds, replicas)
	o.now = grow(o.now, replicas)
}

// release lets go of the reports.
func (o *observations) release() {
	clear(o.best)
	clear(o.reports)
}

// observe updates the loads of segs from reports.
func (s *step) observe(loads map[string]*protos.LoadReport_ComponentLoad) {
	o := &s.obs
	o.reset(len(s.segs), len(s.names))
	current := s.version - 1
	any := false
	if len(loads) > 0 {
		s.held.index(s.segs, len(s.names))
		for r, name := range s.names {
			rep := loads[name]
			if rep == nil {
				continue
			}
			o.reports[r] = rep
			if rep.Version == current {
				s.count(int32(r), rep)
			} else {
				o.seconds[r] = window(rep)
			}
			any = any || o.seconds[r] > 0
		}
	}
	if any {
		s.settleWindows()
		for r, rep := range o.reports {
			switch {
			case rep == nil:
			case rep.Version != current:
				s.project(int32(r), rep)
			default:
				for _, i := range s.held.of(int32(r)) {
					o.window[i] += o.seconds[r]
				}
			}
		}
		s.drift()
		s.surprises()
		s.pool()
	}
	s.fill()
}

// requests returns how many requests the collector must have seen in a slice at
// least.
func requests(sl *protos.LoadReport_SliceLoad) float64 {
	n := 1.0
	switch k := len(sl.Splits); {
	case k > 10:
		n = 500
	case k > 5:
		n = 250
	case k == 5:
		n = 100
	case k > 2:
		n = 50
	case k == 2:
		n = 10
	}
	// The sketch behind Size has an error of 3 %.
	return max(n, 0.9*float64(sl.Size))
}

// A span finds the seconds that a report must span at least.
type span struct {
	seconds float64
	sized   bool
}

func (w *span) add(sl *protos.LoadReport_SliceLoad) {
	if x := sl.Load; x > 0 && x <= maxLoad {
		w.seconds = max(w.seconds, requests(sl)/x)
		w.sized = w.sized || sl.Size > 0
	}
}

// done returns the seconds, 0 if the report has no load. A report without sizes
// does not come from the collector and is taken at its word, as if it were
// long.
func (w span) done() float64 {
	switch {
	case w.seconds == 0:
		return 0
	case !w.sized:
		return maxWindow
	}
	return min(max(w.seconds, minWindow), maxWindow)
}

func window(rep *protos.LoadReport_ComponentLoad) float64 {
	var w span
	for _, sl := range rep.Load {
		if sl != nil {
			w.add(sl)
		}
	}
	return w.done()
}

// settleWindows gives reports that say little about their window, or nothing
// because nothing was asked of the replica, what the others have: all are asked
// in one round.
func (s *step) settleWindows() {
	o := &s.obs
	t := s.tmp[:0]
	for _, x := range o.seconds {
		if x > 0 {
			t = append(t, x)
		}
	}
	s.tmp = t
	m := median(t)
	for r, rep := range o.reports {
		if rep != nil {
			o.seconds[r] = max(o.seconds[r], m/2)
		}
	}
}

// median reorders xs.
func median(xs []float64) float64 {
	slices.Sort(xs)
	return xs[len(xs)/2]
}

// valid says whether a load can be counted.
func valid(x float64) bool { return x >= 0 && !math.IsInf(x, 1) }

// count takes in a report about the previous assignment. Slices of the replica
// that it leaves out had no requests. Slices that it does not hold, or of
// another extent, are ignored, as are those that come twice.
func (s *step) count(r int32, rep *protos.LoadReport_ComponentLoad) {
	o := &s.obs
	own := s.held.of(r)
	for _, i := range own {
		o.cover[i]++
	}
	var w span
	j := 0 // the collector's slices are in order, so the next is the likely one
	for _, sl := range rep.Load {
		if sl == nil {
			continue
		}
		if j == len(own) || s.segs[own[j]].start != sl.Start {
			// Some had no requests, or it is unknown, or not in order after all.
			j = sort.Search(len(own), func(k int) bool { return s.segs[own[k]].start >= sl.Start })
			if j == len(own) || s.segs[own[j]].start != sl.Start {
				continue
			}
		}
		i := own[j]
		j++
		if s.segEnd(int(i)) != sl.End || o.by[i] == r+1 {
			continue
		}
		o.by[i] = r + 1
		if !valid(sl.Load) {
			o.cover[i]--
			continue
		}
		w.add(sl)
		o.sum[i] += min(sl.Load, maxLoad)
		o.now[r] += min(sl.Load, maxLoad)
		if b := o.best[i]; b == nil || sl.Load > b.Load {
			o.best[i], o.bestBy[i] = sl, r
		}
	}
	o.seconds[r] = w.done()
}

// project spreads a report about another version over segs by position. It
// counts for less, and only where there is no current one; it says nothing about
// slices that it leaves out. Ranges that overlap an earlier one are ignored.
func (s *step) project(r int32, rep *protos.LoadReport_ComponentLoad) {
	o := &s.obs
	var at uint64
	i := 0
	for _, sl := range rep.Load {
		if sl == nil || sl.Start < at || sl.End <= sl.Start || !valid(sl.Load) {
			continue
		}
		at = sl.End
		load := min(sl.Load, maxLoad)
		if d := sort.Search(len(s.segs)-i, func(k int) bool { return s.segs[i+k].start > sl.Start }); d > 0 {
			i += d - 1
		}
		sum, ok := splitSum(sl)
		if !ok {
			s.spread(&i, sl.Start, sl.End, load, o.seconds[r])
			continue
		}
		for k, sp := range sl.Splits {
			from, to := sp.Start, sl.End
			if k == 0 {
				from = sl.Start
			}
			if k+1 < len(sl.Splits) {
				to = sl.Splits[k+1].Start
			}
			s.spread(&i, from, to, load*sp.Load/sum, o.seconds[r])
		}
	}
}

// spread gives load on [from, to) to the segs there, the first of which is *i
// or comes after it.
func (s *step) spread(i *int, from, to uint64, load, seconds float64) {
	o := &s.obs
	all := width(from, to)
	for from < to {
		for s.segEnd(*i) <= from {
			if *i+1 == len(s.segs) {
				return
			}
			*i++
		}
		end := min(to, s.segEnd(*i))
		w := width(from, end)
		part := w / s.segWidth(*i)
		o.stale[*i] += load * w / all
		o.staleCover[*i] += part
		o.staleWindow[*i] += staleTrust * seconds * part
		from = end
	}
}

// splitSum returns the sum of the split loads, and whether the splits can be
// used at all: in order, within the slice, with loads that are numbers and sum up
// to one that can be divided by. What they do not sum up to is put right by the
// caller, who scales them.
func splitSum(sl *protos.LoadReport_SliceLoad) (float64, bool) {
	sum := 0.0
	last := sl.Start
	for k, sp := range sl.Splits {
		if sp == nil || !valid(sp.Load) || sp.Load > maxLoad {
			return 0, false
		}
		if k > 0 && (sp.Start <= last || sp.Start >= sl.End) {
			return 0, false
		}
		if k > 0 {
			last = sp.Start
		}
		sum += sp.Load
	}
	return sum, sum > minLoad
}

// rate returns the load of seg i that was observed and the evidence for it, 0 if
// there is none.
func (s *step) rate(i int) (load, evid float64) {
	o, x := &s.obs, &s.segs[i]
	if c := o.cover[i]; c > 0 {
		// Holders share requests evenly: those who did not report had as many.
		h := float64(len(x.holders))
		return o.sum[i] * h / c, o.window[i] / h
	}
	if c := o.staleCover[i]; c > 0 {
		// Several who held the same keys then held them together. Who holds
		// them now does not matter.
		return o.stale[i] + max(0, 1-c)*x.load, o.staleWindow[i] / max(1, c)
	}
	return 0, 0
}

// drift scales memory by how much the overall rate changed, so that slices
// without a report keep their place among the others. The median over slices is
// not moved by a range that became hot or cold.
func (s *step) drift() {
	t := s.tmp[:0]
	stride := len(s.segs)/driftSample + 1
	for i := 0; i < len(s.segs); i += stride {
		x := &s.segs[i]
		if s.obs.cover[i] > 0 && x.load*x.evid >= driftCount {
			load, _ := s.rate(i)
			t = append(t, load/x.load)
		}
	}
	s.tmp = t
	if len(t) < 16 {
		return
	}
	d := min(max(median(t), minDrift), maxDrift)
	for i := range s.segs {
		s.segs[i].load *= d
		s.segs[i].evid /= d
	}
}

// surprises finds the replicas whose load is not what their slices had before:
// differences too small to show in one slice show in all of them.
func (s *step) surprises() {
	o := &s.obs
	for r, rep := range o.reports {
		if rep == nil || rep.Version != s.version-1 {
			continue
		}
		var before, variance float64
		now := o.now[r]
		own := s.held.of(int32(r))
		for _, i := range own {
			x := &s.segs[i]
			h := float64(len(x.holders))
			before += x.load / h
			if x.evid > minEvid {
				variance += x.load / (h * h * x.evid)
			}
		}
		variance += max(now, before) / o.seconds[r]
		tolerated := systematic * before
		if d := now - before; d*d > surprise*(variance+tolerated*tolerated) {
			for _, i := range own {
				o.forget[i] = true
			}
		}
	}
}

// pool combines what was observed with what is remembered.
func (s *step) pool() {
	o := &s.obs
	for i := range s.segs {
		x := &s.segs[i]
		x.evid *= fading
		load, evid := s.rate(i)
		if evid <= 0 {
			continue
		}
		x.seen = true
		if x.evid <= minEvid || o.forget[i] {
			x.load, x.evid = load, evid
			continue
		}
		d := load - x.load
		if d*d > surprise*(x.load/x.evid+max(x.load, load)/evid) {
			x.load, x.evid = load, evid
			continue
		}
		x.load = (x.load*x.evid + load*evid) / (x.evid + evid)
		x.evid = min(x.evid+evid, maxWindow)
	}
}

// fill guesses the loads of segs that nothing is known about from those that
// are known, or from their extent, and lifts very cold ones: no report means
// few requests, not none for ever.
func (s *step) fill() {
	var load, known float64
	for i := range s.segs {
		if x := &s.segs[i]; x.evid > minEvid {
			load += x.load
			known += s.segWidth(i)
		}
	}
	density := 1.0
	if load > 0 && known > 0 {
		density = load / known
	}
	for i := range s.segs {
		x := &s.segs[i]
		even := density * s.segWidth(i)
		if x.evid > minEvid {
			x.load = max(x.load, floorLoad*even)
		} else {
			x.load, x.evid = even, 0
		}
	}
}
