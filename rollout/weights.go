package rollout

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// A Version is what the rollout knows of a version of the application.
type Version struct {
	ID        string        `json:"id"`
	Listeners []string      `json:"listeners,omitempty"`
	Locations []string      `json:"locations,omitempty"`
	Drain     time.Duration `json:"drain,omitempty"`
}

// A Place is where traffic arrives: a listener, in a location if the plan has
// locations.
type Place struct {
	Listener string `json:"listener"`
	Location string `json:"location,omitempty"`
}

// String returns " at LISTENER in LOCATION", or less.
func (p Place) String() string {
	s := ""
	if p.Listener != "" {
		s = " at " + p.Listener
	}
	if p.Location != "" {
		s += " in " + p.Location
	}
	return s
}

func (v Version) places() []Place {
	locations := v.Locations
	if len(locations) == 0 {
		locations = []string{""}
	}
	places := make([]Place, 0, len(v.Listeners)*len(locations))
	for _, l := range v.Listeners {
		for _, loc := range locations {
			places = append(places, Place{l, loc})
		}
	}
	return places
}

// Weights say which version gets how much of the traffic, everywhere. They are
// whole: a place that is not in Splits has no traffic to give.
type Weights struct {
	// Revision rises with every change, over restarts of the Runner too. Who
	// applies weights must ignore those with a revision below the highest it
	// has seen: a call that was held up must not undo a later one.
	Revision uint64 `json:"revision"`

	// Sticky and Preview are those of the plan. PreviewVersion may be reached
	// through Preview whatever its weight; it is empty if there is none.
	Sticky         bool   `json:"sticky,omitempty"`
	Preview        string `json:"preview,omitempty"`
	PreviewVersion string `json:"previewVersion,omitempty"`

	Splits []Split `json:"splits"` // sorted by listener and location
}

// A Split is how the traffic of a place is divided.
type Split struct {
	Place
	Shares []Share `json:"shares"` // newest version first; weights sum up to Whole
}

// A Share is what a version gets at a place. It may be 0: the version is there,
// and can be reached if somebody asks for it by name.
type Share struct {
	Version string `json:"version"`
	Weight  int    `json:"weight"` // in 1/10,000
}

// String returns the revision and all shares in a line.
func (w Weights) String() string {
	return fmt.Sprintf("%s: %s", revision(w.Revision), describe(w.Splits))
}

// Of returns the weight of the version at the place.
func (w Weights) Of(version string, place Place) int {
	for _, s := range w.Splits {
		if s.Place == place {
			return s.of(version)
		}
	}
	return 0
}

// String returns the shares and the place: "v2 10 %, v1 90 % at api".
func (s Split) String() string {
	var b strings.Builder
	for i, share := range s.Shares {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s %s", share.Version, asPercent(share.Weight))
	}
	return b.String() + s.Place.String()
}

func (s Split) of(version string) int {
	for _, share := range s.Shares {
		if share.Version == version {
			return share.Weight
		}
	}
	return 0
}

// Most returns the highest weight that the version has anywhere.
func (w Weights) Most(version string) int {
	most := 0
	for _, s := range w.Splits {
		most = max(most, s.of(version))
	}
	return most
}

// shared returns the places where the traffic of the version and that of others can
// be compared, as it has the same weight at all of them: those at which others are,
// too; or, where weights differ, those at which it and others have traffic. Even says
// that weights do not differ. There are none if some of these differ as well.
func (w Weights) shared(version string) (at []Place, even bool) {
	even = true
	var all, part []Place
	every, some, two := -1, -1, false
	for _, s := range w.Splits {
		if len(s.Shares) < 2 {
			continue // it is all one's own
		}
		weight := s.of(version)
		even = even && (every < 0 || weight == every)
		every, all = weight, append(all, s.Place)
		if weight > 0 && weight < Whole {
			two = two || some >= 0 && weight != some
			some, part = weight, append(part, s.Place)
		}
	}
	switch {
	case even:
		return all, true
	case two:
		return nil, false
	}
	return part, false
}

func (w Weights) equal(v Weights) bool {
	return w.Sticky == v.Sticky && w.Preview == v.Preview && w.PreviewVersion == v.PreviewVersion &&
		slices.EqualFunc(w.Splits, v.Splits, func(a, b Split) bool {
			return a.Place == b.Place && slices.Equal(a.Shares, b.Shares)
		})
}

// A Claim is what a version wants of the places where it is.
type Claim struct {
	Version Version
	Weights map[Place]int // in 1/10,000; what is missing is 0
}

// Cascade divides the traffic of every place at which any of the versions is,
// newest version first: each takes what it claims of what newer ones have left,
// and the oldest that is there takes the rest. A version that does not export a
// listener takes no part there, so a listener that only the newest exports is
// all its own, and one that it does not export stays with the older ones.
//
//	claims, newest first    v3: 40 %    v2: 40 %    v1
//	at a (v2, v1)                       40          60
//	at b (v3, v2)           40          60
//	at c (all)              40          40          20
//
// The scheme is that of weaver-gke's CascadeTraffic.
func Cascade(claims []Claim) []Split {
	splits := map[Place][]Share{}
	left := map[Place]int{}
	for _, c := range claims {
		for _, p := range c.Version.places() {
			if _, ok := left[p]; !ok {
				left[p] = Whole
			}
			w := min(max(0, c.Weights[p]), left[p])
			left[p] -= w
			splits[p] = append(splits[p], Share{c.Version.ID, w})
		}
	}
	result := make([]Split, 0, len(splits))
	for _, p := range slices.SortedFunc(maps.Keys(splits), comparePlaces) {
		shares := splits[p]
		shares[len(shares)-1].Weight += left[p]
		result = append(result, Split{p, shares})
	}
	return result
}

// describe writes splits in a line, those that are the same once.
func describe(splits []Split) string {
	if len(splits) == 0 {
		return "nobody has traffic"
	}
	same := !slices.ContainsFunc(splits, func(s Split) bool { return !slices.Equal(s.Shares, splits[0].Shares) })
	if same && len(splits) > 1 {
		return Split{Shares: splits[0].Shares}.String() + " everywhere"
	}
	const most = 4
	var lines []string
	for _, s := range splits[:min(most, len(splits))] {
		lines = append(lines, s.String())
	}
	if n := len(splits) - most; n > 0 {
		lines = append(lines, fmt.Sprintf("and %d more places", n))
	}
	return strings.Join(lines, "; ")
}

func comparePlaces(a, b Place) int {
	return cmp.Or(cmp.Compare(a.Listener, b.Listener), cmp.Compare(a.Location, b.Location))
}
