package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/rollout"
)

// A planSpec says how to roll out, as flags do.
type planSpec struct {
	Name   string        // canary, bluegreen, linear, all, or a duration
	Custom *rollout.Plan // goes before Name
	Bake   time.Duration // after each change of weights
	Drain  time.Duration
	Sticky bool
}

// check reads the plan from the file that the flag names, if it does.
func (s *planSpec) check() error {
	if s.Bake < 0 || s.Drain < 0 {
		return fmt.Errorf("%w: -bake and -drain must not be negative", errUsage)
	}
	if !strings.HasSuffix(s.Name, ".json") {
		return nil
	}
	data, err := os.ReadFile(s.Name)
	if err == nil {
		err = json.Unmarshal(data, &s.Custom)
	}
	if err != nil {
		return fmt.Errorf("%w: read plan %s: %w", errUsage, s.Name, err)
	}
	return nil
}

// plan returns the plan for a version of the application, if that is possible.
func (s planSpec) plan(version string, app *envelopekit.App) (rollout.Plan, error) {
	var p rollout.Plan
	watch := &rollout.Analysis{}
	switch total, err := time.ParseDuration(s.Name); {
	case s.Custom != nil:
		p, watch = *s.Custom, s.Custom.Watch
	case s.Name == "canary":
		p = rollout.Canary(
			rollout.SetWeight(5), rollout.Bake(s.Bake),
			rollout.SetWeight(25), rollout.Bake(s.Bake),
			rollout.SetWeight(50), rollout.Bake(s.Bake),
			rollout.Analyze(nil, max(time.Minute, 5*s.Bake)),
		)
	case s.Name == "bluegreen":
		p = rollout.BlueGreen(fmt.Sprintf("header %s: %s", versionHeader, version), s.Bake, s.Bake)
		watch = &rollout.Analysis{LimitsOnly: true, MinSuccess: 0.98} // the old version has no traffic to compare
	case s.Name == "linear":
		p = rollout.Linear(20, s.Bake)
	case s.Name == "all":
		p, watch = rollout.AllAtOnce(), nil
	case err == nil && total > 0:
		p = rollout.FromDuration(total)
	default:
		return p, fmt.Errorf("plan %q is unknown; there are canary, bluegreen, linear, all, a duration such as 5m, and files with a plan as JSON (plan.json)", s.Name)
	}
	p.Version, p.Watch = version, watch
	p.Sticky = p.Sticky || s.Sticky
	if p.Drain == 0 {
		p.Drain = s.Drain
	}
	p.Listeners = nil
	for _, l := range app.Listeners {
		p.Listeners = append(p.Listeners, l.Name)
	}
	return p, p.Validate()
}
