package rollout

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Bounds of a plan: it is stored as a whole with every change.
const (
	maxSteps  = 1000
	maxPlaces = 1000
)

// Validate reports everything that is wrong with the plan, naming the step;
// steps are counted from 1. It has at most 1,000 of them, and listeners times
// locations are at most as many. The version must not be one of those that exist
// already.
func (p Plan) Validate(existing ...string) error {
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("plan of version %q: "+format, append([]any{p.Version}, args...)...))
	}
	if p.Version == "" {
		fail("it names no version: set Plan.Version")
	}
	if slices.Contains(existing, p.Version) {
		fail("a version of that name runs already, or is being stopped: versions need names of their own")
	}
	for _, l := range []struct {
		field string
		names []string
	}{{"Listeners", p.Listeners}, {"Locations", p.Locations}} {
		for i, name := range l.names {
			switch {
			case name == "":
				fail("Plan.%s[%d] is empty", l.field, i)
			case slices.Contains(l.names[:i], name):
				fail("Plan.%s names %q twice", l.field, name)
			}
		}
	}
	for _, name := range p.Drops {
		if slices.Contains(p.Listeners, name) || slices.Contains(p.Locations, name) {
			fail("Plan.Drops names %q, which the plan has", name)
		}
	}
	if n := len(p.places()); n > maxPlaces {
		fail("%d listeners in all locations: at most %d are possible", n, maxPlaces)
	}
	if p.Watch != nil {
		if err := p.Watch.Validate(); err != nil {
			fail("Plan.Watch: %w", err)
		}
	}
	switch n := len(p.Steps); {
	case n == 0:
		fail("it has no steps: use a constructor such as Canary")
		return errors.Join(errs...)
	case n > maxSteps:
		fail("it has %d steps: at most %d are possible", n, maxSteps)
		return errors.Join(errs...)
	}
	errs = append(errs, p.validateSteps()...)
	return errors.Join(errs...)
}

func (p Plan) validateSteps() []error {
	var errs []error
	seen := map[Kind]int{} // how many there were so far
	weights := map[Place]int{}
	whole := -1     // the first step that gives it everything, everywhere
	shared := false // time passes while both versions have traffic
	for i, s := range p.Steps {
		fail := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("plan of version %q: step %d (%s): "+format, append([]any{p.Version, i + 1, s}, args...)...))
		}
		if s.Kind == KindStart != (i == 0) {
			fail("StartVersion must be the first step, and no other")
		}
		if s.Kind == KindStopOld != (i == len(p.Steps)-1) {
			fail("StopOld must be the last step, and no other")
		}
		if s.For < 0 {
			fail("its time is negative")
		}
		if seen[KindPromote] > 0 && s.Kind != KindStopOld && s.Kind != KindBake && s.Kind != KindPause {
			fail("only Bake, Pause and StopOld may follow Promote")
		}
		if seen[KindWaitReady] == 0 && s.Kind != KindStart && s.Kind != KindWaitReady {
			fail("WaitReady must come before it: nothing else can be done with a version that is not ready")
			seen[KindWaitReady]++ // once is enough
		}
		switch s.Kind {
		case KindStart, KindWaitReady, KindPause, KindStopOld:
		case KindSetWeight:
			p.validateWeight(s, weights, fail)
		case KindBake:
			if s.For == 0 {
				fail("it has no duration")
			}
		case KindAnalyze, KindGate:
			if s.For == 0 {
				fail("it has no time limit: without one it could wait for ever")
			}
			if s.Kind == KindGate && s.Gate == "" {
				fail("it names no gate")
			}
			for _, rule := range []Rule{s.OnFail, s.OnInconclusive} {
				if rule < 0 || rule > ThenRollBack {
					fail("it has rule %d, which is unknown: use ThenContinue, ThenPause or ThenRollBack", int(rule))
				}
			}
			if s.Kind == KindAnalyze && s.Analysis == nil && p.Watch == nil {
				fail("it has no analysis, and Plan.Watch is nil")
			}
			if s.Analysis != nil {
				if err := s.Analysis.Validate(); err != nil {
					fail("%w", err)
				}
			}
			if s.Kind == KindAnalyze && p.Preview == "" && !hasWeight(weights) {
				fail("the version has no traffic yet: put a SetWeight before it")
			}
			part, all := p.shares(weights)
			if a := cmp.Or(s.Analysis, p.Watch); s.Kind == KindAnalyze && a != nil && !a.LimitsOnly && !part && hasWeight(weights) {
				where := "where the new one has traffic the old one has none"
				if all {
					where = "the old one has no traffic any more"
				}
				fail("it compares the versions, but %s: put it before the step that gives the new one 100 %%, or use limits alone (LimitsOnly)", where)
			}
		case KindPromote:
			if seen[KindPromote] > 0 {
				fail("there can be only one")
			}
		default:
			fail("the kind is unknown")
		}
		part, all := p.shares(weights)
		if p.compares(s) != "" && seen[KindPromote] == 0 {
			shared = shared || part
		}
		if whole < 0 && (all || s.Kind == KindPromote) {
			whole = i
		}
		seen[s.Kind]++
	}
	uneven := p.uneven(true)
	if uneven != nil {
		errs = append(errs, uneven)
	}
	if w := p.Watch; w != nil && !w.LimitsOnly && len(p.places()) > 0 && whole >= 0 && !shared && uneven == nil {
		errs = append(errs, fmt.Errorf("plan of version %q: Plan.Watch compares the versions, but until step %d (%s) gives the new one everything there is no time in which both have traffic: "+
			"bake at a smaller weight first, or use limits alone (LimitsOnly)", p.Version, whole+1, p.Steps[whole]))
	}
	if seen[KindPromote] == 0 {
		errs = append(errs, fmt.Errorf("plan of version %q: no step promotes it: put a Promote before the StopOld at the end", p.Version))
	}
	return errs
}

// compares says by what the versions are compared while that step takes its
// time, "" if they are not.
func (p Plan) compares(s Step) string {
	switch s.Kind {
	case KindAnalyze:
		if s.Analysis != nil && !s.Analysis.LimitsOnly {
			return "its analysis"
		}
	case KindBake, KindPause, KindGate:
	default:
		return ""
	}
	if p.Watch != nil && !p.Watch.LimitsOnly {
		return "Plan.Watch"
	}
	return ""
}

// shares reports whether both versions have traffic somewhere under the weights,
// and whether the new one has all of it.
func (p Plan) shares(weights map[Place]int) (part, all bool) {
	places := p.places()
	all = len(places) > 0
	for _, place := range places {
		w := weights[place]
		part = part || w > 0 && w < Whole
		all = all && w == Whole
	}
	return part, all
}

// uneven returns an error if versions are compared while the new one has other
// weights at some places than at others: if one place has more failures than
// another, so has the version that gets more of its traffic there. Where traffic is
// counted by place only those count at which both versions have some.
func (p Plan) uneven(byPlace bool) error {
	weights := map[Place]int{}
	for i, s := range p.Steps {
		if s.Kind == KindPromote {
			break
		}
		p.weigh(s, weights)
		what := p.compares(s)
		if what == "" {
			continue
		}
		first, found := Place{}, false
		for _, place := range p.places() {
			a, b := weights[first], weights[place]
			switch {
			case byPlace && (b == 0 || b == Whole):
			case !found:
				first, found = place, true
			case a != b:
				remedy := "let Stats tell Traffic.Places (Options.ByPlace), or give all places the same weight"
				if byPlace {
					remedy = "where both versions have traffic give the new one the same weight"
				}
				return fmt.Errorf("plan of version %q: step %d (%s): %s compares the versions, but the new one has %s of the traffic%s and %s%s, and places differ: %s, or use limits alone (LimitsOnly)",
					p.Version, i+1, s, what, asPercent(a), first, asPercent(b), place, remedy)
			}
		}
	}
	return nil
}

func (p Plan) validateWeight(s Step, weights map[Place]int, fail func(string, ...any)) {
	if s.Weight < 0 || s.Weight > Whole {
		fail("weights are from 0 to 100 %%")
		return
	}
	if s.Listener != "" && !slices.Contains(p.Listeners, s.Listener) {
		fail("the version has no listener %q; Plan.Listeners has %q", s.Listener, p.Listeners)
		return
	}
	if s.Location != "" && !slices.Contains(p.Locations, s.Location) {
		fail("the plan has no location %q; Plan.Locations has %q", s.Location, p.Locations)
		return
	}
	falls := false
	for _, place := range p.places() {
		if !s.covers(place) {
			continue
		}
		if was := weights[place]; s.Weight < was && !falls {
			falls = true
			fail("the weight falls from %s%s: a rollout goes forward, or back as a whole", asPercent(was), place)
		}
		weights[place] = s.Weight
	}
}

func hasWeight(weights map[Place]int) bool {
	for _, w := range weights {
		if w > 0 {
			return true
		}
	}
	return false
}

// lacks reports what the version that runs has and the plan neither has nor drops.
func (p Plan) lacks(stable *Version) error {
	if stable == nil {
		return nil
	}
	for _, l := range []struct {
		what       string
		had, names []string
	}{{"listener", stable.Listeners, p.Listeners}, {"location", stable.Locations, p.Locations}} {
		for _, name := range l.had {
			if !slices.Contains(l.names, name) && !slices.Contains(p.Drops, name) {
				return fmt.Errorf("plan of version %q: it lacks the %s %q of version %s, which runs: add it, or name it in Plan.Drops if it is to end",
					p.Version, l.what, name, stable.ID)
			}
		}
	}
	return nil
}

// fits reports whether the gates, listeners and locations that the plan names are
// there, and the figures that it compares.
func (p Plan) fits(o Options) error {
	gates := slices.Sorted(maps.Keys(o.Gates))
	for i, s := range p.Steps {
		if s.Kind == KindGate && !slices.Contains(gates, s.Gate) {
			return fmt.Errorf("plan of version %q: step %d (%s): there is no such gate; Options.Gates has %q", p.Version, i+1, s, gates)
		}
	}
	for _, l := range []struct {
		field        string
		names, known []string
	}{{"Listeners", p.Listeners, o.Listeners}, {"Locations", p.Locations, o.Locations}} {
		for i, name := range l.names {
			if len(l.known) > 0 && !slices.Contains(l.known, name) {
				return fmt.Errorf("plan of version %q: Plan.%s[%d] is %q, which is unknown; Options.%[2]s has %[5]q", p.Version, l.field, i, name, l.known)
			}
		}
	}
	if !o.ByPlace {
		return p.uneven(false)
	}
	return nil
}
