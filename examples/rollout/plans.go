package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
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
		s.Custom, err = parsePlan(data)
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
	if len(p.Locations) > 0 {
		return p, fmt.Errorf("plan of version %q: it names locations %q, and there are none here: everything runs on one host", version, p.Locations)
	}
	return p, p.Validate()
}

// parsePlan reads a plan as a person writes it: beside what encoding/json makes of
// a rollout.Plan, times may be strings such as "10s", and weights such as "5 %". A
// field that there is not is refused.
func parsePlan(data []byte) (*rollout.Plan, error) {
	var written any
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	switch err := dec.Decode(&written); {
	case err == io.EOF || err == nil && written == nil:
		return nil, errors.New("it holds no plan")
	case err != nil:
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("something follows the plan")
	}
	if err := plain(written, "the plan"); err != nil {
		return nil, err
	}
	data, err := json.Marshal(written)
	if err != nil {
		return nil, err
	}
	var p *rollout.Plan
	dec = json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	return p, dec.Decode(&p)
}

// plain replaces times and weights that are strings by the numbers they stand for.
func plain(value any, at string) error {
	switch v := value.(type) {
	case []any:
		for i, e := range v {
			if err := plain(e, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
	case map[string]any:
		for key, e := range v {
			at := at + "." + key
			text, ok := e.(string)
			if !ok {
				if err := plain(e, at); err != nil {
					return err
				}
				continue
			}
			switch key {
			case "for", "drain", "progressDeadline", "maxP99":
				d, err := time.ParseDuration(text)
				if err != nil {
					return fmt.Errorf("%s is %q: write a time such as \"10s\"", at, text)
				}
				v[key] = int64(d)
			case "weight":
				number, found := strings.CutSuffix(text, "%")
				percent, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
				if err != nil || !found || math.IsNaN(percent) || math.Abs(percent) > 1000 {
					return fmt.Errorf("%s is %q: write a share such as \"5 %%\"", at, text)
				}
				v[key] = math.Round(percent * rollout.Whole / 100)
			}
		}
	}
	return nil
}
