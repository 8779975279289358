package rollout

import (
	"slices"
	"time"
)

// Canary returns a plan that starts the version, waits until it is ready,
// carries out the steps, promotes it and stops the old one.
func Canary(steps ...Step) Plan {
	return Plan{Steps: slices.Concat(
		[]Step{StartVersion(), WaitReady()}, steps, []Step{Promote(), StopOld(0)})}
}

// BlueGreen returns a plan that starts the new version without traffic, where
// preview says how to reach it, waits for somebody to try it and resume,
// switches all traffic at once, bakes, and stops the old version after keep.
// Until then, Abort switches back at once.
//
// The two versions never have traffic at the same time, so they cannot be compared:
// if the plan gets a Watch it must be LimitsOnly.
func BlueGreen(preview string, bake, keep time.Duration) Plan {
	p := Plan{Preview: preview, Steps: []Step{StartVersion(), WaitReady(), SetWeight(0), Pause(), SetWeight(100)}}
	if bake > 0 {
		p.Steps = append(p.Steps, Bake(bake))
	}
	p.Steps = append(p.Steps, Promote(), StopOld(keep))
	return p
}

// Linear returns a plan that raises the weight by the percentage after every
// interval, until it is 100.
func Linear(percent float64, interval time.Duration) Plan {
	var steps []Step
	add := func(s Step) {
		if steps = append(steps, s); interval > 0 {
			steps = append(steps, Bake(interval))
		}
	}
	// A percentage that cannot work, or would make too many steps, is left for
	// Validate to refuse.
	if !(percent*maxSteps/2 > 100) {
		return Canary(SetWeight(-1))
	}
	for n := 1; float64(n)*percent < 100; n++ {
		add(SetWeight(float64(n) * percent))
	}
	add(SetWeight(100))
	return Canary(steps...)
}

// AllAtOnce returns a plan that gives the version all traffic as soon as it is
// ready. There is no time for a Watch.
func AllAtOnce() Plan { return Canary() }

// waveWeights is what each location of a wave gets in turn, in percent.
var waveWeights = [...]float64{10, 25, 50, 75, 100}

const maxWaves = 4

// Waves returns a plan that goes through the locations in at most four waves.
// The first location, the canary, is a wave of its own; the others are dealt to
// the waves that remain in turn. All waves take the same time, of which
// waitShare, from 0 to 0.8, is a wait at the end; in the rest each location of
// the wave gets 10, 25, 50, 75 and 100 % of its traffic for a fifth of it each.
// Without locations there is one wave.
//
// As the weights differ by location the versions can be compared on the way only if
// traffic is counted by location, see Options.ByPlace: then they are in the locations
// of the wave under way. If it is not a Watch must be LimitsOnly, unless there is but
// one location.
//
// This is what the setting rollout = "5m" meant to Service Weaver's deployer
// for GKE (weaver-gke's basicRolloutProcessor).
func Waves(total time.Duration, waitShare float64, locations ...string) Plan {
	if total <= 0 {
		p := AllAtOnce()
		p.Locations = locations
		return p
	}
	if !(waitShare >= 0 && waitShare <= 0.8) {
		p := Canary(Bake(-1)) // for Validate to refuse
		p.Locations = locations
		return p
	}
	waves := make([][]string, max(1, min(maxWaves, len(locations))))
	for i, l := range locations {
		w := 0
		if i > 0 {
			w = 1 + (i-1)%(len(waves)-1)
		}
		waves[w] = append(waves[w], l)
	}
	if len(locations) == 0 {
		waves[0] = []string{""}
	}
	var steps []Step
	bake := func(d time.Duration) {
		if d > 0 {
			steps = append(steps, Bake(d))
		}
	}
	for i, wave := range waves {
		// By differences, so that the parts sum up to the whole.
		n := time.Duration(len(waves))
		length := total*time.Duration(i+1)/n - total*time.Duration(i)/n
		wait := time.Duration(float64(length) * waitShare)
		apply := length - wait
		fifths := time.Duration(len(waveWeights))
		for j, w := range waveWeights {
			for _, l := range wave {
				steps = append(steps, SetWeight(w).In(l))
			}
			j := time.Duration(j)
			bake(apply*(j+1)/fifths - apply*j/fifths)
		}
		bake(wait)
	}
	p := Canary(steps...)
	p.Locations = locations
	return p
}

// FromDuration returns the plan that Service Weaver's setting
// rollout = "5m" stands for: [Waves] over the locations, a fifth of the time of
// each being a wait at its end.
func FromDuration(total time.Duration, locations ...string) Plan {
	return Waves(total, 0.2, locations...)
}
