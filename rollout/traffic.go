package rollout

import (
	"math"
	"slices"
)

// sameSplit is by how much of itself the new version's share of the requests may
// differ between two windows, besides by chance, for their counts to be added up.
const sameSplit = 0.1

// enoughTimed is how many requests of the old version must have been timed for
// its slowest hundredth to be told.
const enoughTimed = 1000

// Traffic is what a version's traffic was, counted since the version began to
// get any. Counters only rise; the zero value is no traffic.
//
// The total of several replicas must only rise as well: keep what a replica that
// ended has counted, and add up what each counted [Traffic.Since] it was last
// asked. A total that falls when one of ten replicas restarts looks like ten
// that did.
type Traffic struct {
	// Requests is how many requests have ended, well or badly. Those in flight
	// are not in it.
	Requests uint64 `json:"requests"`

	// Failures is how many of them failed, by whatever the deployer calls a
	// failure. Requests that the client is to blame for are best left out.
	Failures uint64 `json:"failures,omitempty"`

	// Latency has how long they took, or those of them that were timed.
	Latency Histogram `json:"latency,omitzero"`

	// Restarts is how often a process of this version had to be started again.
	Restarts uint64 `json:"restarts,omitempty"`

	// Places has the same requests by the place where they arrived, each place
	// once, if the deployer tells them apart; see Options.ByPlace. Then they are
	// what counts, and not the sums of them above.
	Places []PlaceTraffic `json:"places,omitempty"`
}

// PlaceTraffic is the traffic of a version at one place. Restarts and Places of it
// mean nothing.
type PlaceTraffic struct {
	Place
	Traffic
}

// Since returns what was counted after earlier was taken from the same source.
//
// Where a counter is lower than it was the source has begun anew, and what it
// shows has all been counted since. Requests, failures and latency have one
// source; restarts, which are counted by whoever restarts, have another.
func (t Traffic) Since(earlier Traffic) Traffic {
	since := Traffic{
		Requests: t.Requests - earlier.Requests,
		Failures: t.Failures - earlier.Failures,
		Restarts: t.Restarts - earlier.Restarts,
	}
	var ok bool
	since.Latency, ok = t.Latency.Since(earlier.Latency)
	if !ok || t.Requests < earlier.Requests || t.Failures < earlier.Failures {
		since.Requests, since.Failures, since.Latency = t.Requests, t.Failures, t.Latency.Clone()
	}
	if t.Restarts < earlier.Restarts {
		since.Restarts = t.Restarts
	}
	for _, p := range t.Places {
		if i := earlier.find(p.Place); i >= 0 {
			p.Traffic = p.Traffic.Since(earlier.Places[i].Traffic)
		} else {
			p.Latency = p.Latency.Clone()
		}
		since.Places = append(since.Places, p)
	}
	return since
}

// Add returns the traffic of both.
func (t Traffic) Add(other Traffic) Traffic {
	sum := Traffic{
		Requests: saturating(t.Requests, other.Requests),
		Failures: saturating(t.Failures, other.Failures),
		Latency:  t.Latency.Merge(other.Latency),
		Restarts: saturating(t.Restarts, other.Restarts),
		Places:   slices.Clone(t.Places),
	}
	for _, p := range other.Places {
		if i := sum.find(p.Place); i >= 0 {
			sum.Places[i].Traffic = sum.Places[i].Add(p.Traffic)
		} else {
			sum.Places = append(sum.Places, p)
		}
	}
	return sum
}

// find returns the index of the place, or -1.
func (t Traffic) find(p Place) int {
	return slices.IndexFunc(t.Places, func(q PlaceTraffic) bool { return q.Place == p })
}

// byPlace reports whether it is known where all of it arrived.
func (t Traffic) byPlace() bool { return len(t.Places) > 0 || t.Requests == 0 }

// split returns the traffic at the places in question, and that at all others.
func (t Traffic) split(at []Place) (there, apart Traffic) {
	for _, p := range t.Places {
		p.Restarts, p.Places = 0, nil
		if slices.Contains(at, p.Place) {
			there = there.Add(p.Traffic)
		} else {
			apart = apart.Add(p.Traffic)
		}
	}
	return there, apart
}

// total returns the requests without their places, and without restarts.
func (t Traffic) total() Traffic {
	if len(t.Places) == 0 {
		t.Restarts = 0
		return t
	}
	_, all := t.split(nil)
	return all
}

// at returns the requests at a place, without latencies.
func (t Traffic) at(p Place) Traffic {
	if i := t.find(p); i >= 0 {
		return Traffic{Requests: t.Places[i].Requests, Failures: t.Places[i].Failures}
	}
	return Traffic{}
}

// SuccessRate returns the share of the requests that did not fail, 1 if there
// were none.
func (t Traffic) SuccessRate() float64 { return 1 - share(t.Failures, t.Requests) }

// share returns part/whole from 0 to 1, 0 of nothing.
func share(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return min(1, float64(part)/float64(whole))
}

// Window is the traffic of both versions over the same stretch of time, in which
// the weights did not change.
type Window struct {
	Old Traffic `json:"old"`
	New Traffic `json:"new"`

	// Apart is what the new version had besides at places where it is not to be
	// compared with the old one, as it has another share of the traffic there, or
	// all of it. It counts for the limits.
	Apart Traffic `json:"apart,omitzero"`

	// Index counts the windows that were judged together, from 0. It matters
	// where the first of them were left out; see [Analysis.Judge].
	Index int `json:"index,omitempty"`

	// Peak is the largest share of the requests that the new version had at any
	// time in the window, as far as that was not chance. Failures of the new version
	// are taken to be so likely all the time: it takes longer to be found bad, but
	// an outage of both versions at that time says nothing against it. Zero means
	// that the share did not move.
	Peak float64 `json:"peak,omitempty"`

	// Places has the requests and failures of Old and New, and Peak, by place, each
	// place once, in the same order in all windows: a version is then found worse by
	// what happened at each place, so that it does not matter if its share of the
	// requests differs from place to place, as where sessions stick. And only windows
	// of the same places are added up. Places may be added up for others, as one of no
	// name.
	Places []PlaceWindow `json:"places,omitempty"`
}

// PlaceWindow is a window of the traffic at one place. Apart, Index and Places of it
// mean nothing.
type PlaceWindow struct {
	Place
	Window
}

// maxPlaceWindows is how many places a Runner tells apart in a window, which is
// stored; the rest counts as one.
const maxPlaceWindows = 16

// windowAt returns the window of the traffic at those places.
func windowAt(old, new Traffic, at []Place) Window {
	var w Window
	w.New, w.Apart = new.split(at)
	w.Old, _ = old.split(at)
	w.Places = placeWindows(old, new, at)
	return w
}

// placeWindows returns the windows of the traffic of both versions at those places.
func placeWindows(old, new Traffic, at []Place) []PlaceWindow {
	if len(at) == 0 {
		return nil
	}
	places := make([]PlaceWindow, min(len(at), maxPlaceWindows))
	for i, place := range at {
		w := Window{Old: old.at(place), New: new.at(place)}
		if i >= maxPlaceWindows-1 && len(at) > maxPlaceWindows {
			rest := &places[maxPlaceWindows-1]
			rest.Window = rest.plus(w)
			continue
		}
		places[i] = PlaceWindow{place, w}
	}
	return places
}

// plus adds up two windows of the same places. Index is that of w.
func (w Window) plus(v Window) Window {
	sum := Window{Old: w.Old.Add(v.Old), New: w.New.Add(v.New), Apart: w.Apart.Add(v.Apart),
		Index: w.Index, Peak: max(w.Peak, v.Peak)}
	switch {
	case w.Old.Requests+w.New.Requests == 0:
		sum.Places = v.Places
	case v.Old.Requests+v.New.Requests == 0:
		sum.Places = w.Places
	case samePlaces(w, v): // else a part of it was not told by place
		sum.Places = slices.Clone(w.Places)
		for i := range sum.Places {
			sum.Places[i].Window = w.Places[i].plus(v.Places[i].Window)
		}
	}
	return sum
}

func samePlaces(w, v Window) bool {
	return slices.EqualFunc(w.Places, v.Places, func(p, q PlaceWindow) bool { return p.Place == q.Place })
}

// raise makes the peaks at least what the shares in a part of the window were.
func (w *Window) raise(part Window) {
	w.Peak = max(w.Peak, failures(part).leastShare())
	if samePlaces(*w, part) {
		w.Places = slices.Clone(w.Places)
		for i := range w.Places {
			w.Places[i].raise(part.Places[i].Window)
		}
	}
}

// failures counts requests that failed as bad, at each place.
func (w Window) failures() []tally {
	if len(w.Places) == 0 {
		return []tally{failures(w)}
	}
	tallies := make([]tally, len(w.Places))
	for i, p := range w.Places {
		tallies[i] = failures(p.Window)
	}
	return tallies
}

// odd returns a place at which the new version's share of the requests is another
// than elsewhere, though not by chance: what is added up there says nothing.
func (w Window) odd() (at PlaceWindow, found bool) {
	for _, p := range w.Places {
		if t := failures(p.Window); t.oldAll+t.newAll > 0 && !sameShare(t, failures(w), len(w.Places)) {
			return p, true
		}
	}
	return at, false
}

// all returns all traffic of the new version.
func (w Window) all() Traffic {
	if w.Apart.Requests == 0 {
		return w.New
	}
	return w.New.Add(w.Apart)
}

// failures counts requests that failed as bad.
func failures(w Window) tally {
	return tally{
		oldAll: w.Old.Requests, oldBad: min(w.Old.Failures, w.Old.Requests),
		newAll: w.New.Requests, newBad: min(w.New.Failures, w.New.Requests),
		peak: w.Peak,
	}
}

// slow counts requests as bad that took longer than 99 of 100 of the old
// version's did. By symmetry the next request above a quantile of the old version
// is the new one's with a chance of its share, if both are as fast.
func slow(w Window) tally {
	t := tally{oldAll: w.Old.Latency.Count(), newAll: w.New.Latency.Count(), peak: w.Peak}
	if t.oldAll < enoughTimed {
		return tally{}
	}
	p99 := w.Old.Latency.Quantile(0.99)
	t.oldBad, t.newBad = w.Old.Latency.Above(p99), w.New.Latency.Above(p99)
	return t
}

// alike reports whether the new version may have had the same share in both, of the
// traffic of the same places.
func alike(a, b Window) bool {
	x, y := failures(a), failures(b)
	return x.comparable() && y.comparable() && sameShare(x, y, 1) && samePlaces(a, b)
}

// sameShare reports whether the new version may have had the same share of both, if
// that is asked of so many.
func sameShare(x, y tally, asked int) bool {
	s := x.plus(y).newShare()
	chance := math.Sqrt(9+2*math.Log(float64(asked))) * math.Sqrt(s*(1-s)*(1/(float64(x.oldAll)+float64(x.newAll))+1/(float64(y.oldAll)+float64(y.newAll))))
	return math.Abs(x.newShare()-y.newShare()) <= sameSplit*s+chance
}
