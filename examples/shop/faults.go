package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Faults is misbehaviour to order. It is a component's section of the
// configuration file, keyed by the component's full name; without one the
// component behaves:
//
//	["github.com/weaverkit/weaverkit/examples/shop/Catalog"]
//	error_percent = 5
//	latency = "50ms"
//	after = "30s"
type Faults struct {
	ErrorPercent float64       `toml:"error_percent"` // share of calls that fail, 0 to 100
	Latency      time.Duration `toml:"latency"`       // added to every call
	After        time.Duration `toml:"after"`         // time the process behaves before all this begins
}

// processStart is what Faults.After counts from.
var processStart = time.Now()

// Validate is called by the runtime on the parsed section.
func (f *Faults) Validate() error {
	switch {
	case !(f.ErrorPercent >= 0 && f.ErrorPercent <= 100): // NaN too
		return fmt.Errorf("error_percent = %v: want 0 to 100", f.ErrorPercent)
	case f.Latency < 0:
		return fmt.Errorf("latency = %v: want none or a positive duration", f.Latency)
	case f.After < 0:
		return fmt.Errorf("after = %v: want none or a positive duration", f.After)
	}
	return nil
}

var errInjected = errors.New("injected fault")

// begun reports whether the component has stopped behaving.
func (f *Faults) begun() bool { return f.After == 0 || time.Since(processStart) >= f.After }

// strike is the first thing a method of component does: it delays the call and
// fails it, as configured.
func (f *Faults) strike(ctx context.Context, component string) error {
	if f.ErrorPercent == 0 && f.Latency == 0 || !f.begun() {
		return nil
	}
	if f.Latency > 0 {
		select {
		case <-time.After(f.Latency):
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", component, ctx.Err())
		}
	}
	if rand.Float64()*100 < f.ErrorPercent {
		return fmt.Errorf("%s: %w", component, errInjected)
	}
	return nil
}
