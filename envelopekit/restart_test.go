package envelopekit_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/weaverkit/weaverkit/envelopekit"
)

func TestRestartDelays(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct {
		name    string
		restart envelopekit.Restart
		want    []time.Duration // after the first failure, the second, ...; without variation
	}{
		{"defaults", envelopekit.Restart{}, []time.Duration{0, 100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 3200 * ms, 6400 * ms, 10_000 * ms, 10_000 * ms}},
		{"a multiple", envelopekit.Restart{Base: 10 * ms, Max: 40 * ms}, []time.Duration{0, 10 * ms, 20 * ms, 40 * ms, 40 * ms}},
		{"Base above Max", envelopekit.Restart{Base: time.Minute, Max: time.Second}, []time.Duration{0, time.Second, time.Second}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := test.restart.WithDefaults()
			var c envelopekit.Failures
			for i, want := range test.want {
				c = c.After(r, 0, true)
				if got := c.Delay(r, 0.5); got.Round(time.Microsecond) != want {
					t.Errorf("after failure %d: got %v, want %v", i+1, got, want)
				}
			}
		})
	}
	if got := (envelopekit.Failures{}).Delay(envelopekit.Restart{}.WithDefaults(), 0.9); got != 0 {
		t.Errorf("without a failure: got %v", got)
	}
}

// Whatever the options, a delay is within a fifth of the exact one, which
// doubles from Base to Max and does not overflow.
func TestRestartDelayBounds(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	durations := []time.Duration{1, 2, 3, time.Microsecond, time.Second, time.Hour, 1 << 40, 1 << 61, math.MaxInt64/2 - 1, math.MaxInt64/2 + 1, math.MaxInt64 - 1, math.MaxInt64}
	for _, base := range durations {
		for _, maximum := range durations {
			r := envelopekit.Restart{Base: base, Max: maximum}.WithDefaults()
			var c envelopekit.Failures
			exact := min(float64(base), float64(maximum))
			for failure := 1; failure <= 200; failure++ {
				c = c.After(r, 0, false)
				random := []float64{0, 0.5, rnd.Float64(), math.Nextafter(1, 0)}[rnd.IntN(4)]
				got := c.Delay(r, random)
				if failure == 1 {
					if got != 0 {
						t.Fatalf("the first restart waits %v", got)
					}
					continue
				}
				want := min(exact, math.MaxInt64/2)
				if low, high := 0.8*want-1, 1.2*want+1; float64(got) < low || float64(got) > high {
					t.Fatalf("Base %d, Max %d, failure %d: got %d, want within %g and %g", base, maximum, failure, got, low, high)
				}
				exact = min(2*exact, float64(maximum))
			}
		}
	}
}

func TestFailureCount(t *testing.T) {
	r := envelopekit.Restart{Stable: time.Second}.WithDefaults()
	type failure struct {
		served time.Duration
		fault  bool
	}
	for _, test := range []struct {
		name             string
		past             []failure
		failures, faults int
	}{
		{"none", nil, 0, 0},
		{"faults", []failure{{0, true}, {0, true}}, 2, 2},
		{"kills are no faults", []failure{{0, true}, {0, false}, {0, true}}, 3, 2},
		{"not quite stable", []failure{{0, true}, {time.Second - 1, true}}, 2, 2},
		{"stable", []failure{{0, true}, {0, true}, {time.Second, false}}, 1, 0},
		{"stable, then not", []failure{{0, true}, {time.Hour, true}, {0, false}}, 2, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			var c envelopekit.Failures
			for _, f := range test.past {
				c = c.After(r, f.served, f.fault)
			}
			if failures, faults := c.Counts(); failures != test.failures || faults != test.faults {
				t.Errorf("got %d failures, %d faults, want %d and %d", failures, faults, test.failures, test.faults)
			}
		})
	}
}

func TestIsFault(t *testing.T) {
	for _, test := range []struct {
		err  error
		want bool
	}{
		{nil, true}, // it returned where it should have served
		{errors.New("no answer"), true},
		{&envelopekit.ExitError{Status: 2}, true},
		{&envelopekit.ExitError{Status: -1, Signal: "segmentation fault"}, true},
		{&envelopekit.ExitError{Status: -1, Signal: "killed", Killed: true}, false},
		{errors.Join(errors.New("start"), &envelopekit.ExitError{Killed: true}), false},
	} {
		if got := envelopekit.IsFault(test.err); got != test.want {
			t.Errorf("%v: got %t", test.err, got)
		}
	}
}

func TestRestartValidate(t *testing.T) {
	for want, r := range map[string]envelopekit.Restart{
		"":                                       {},
		"negative Options.Restart.Base":          {Base: -1},
		"negative Options.Restart.Max":           {Max: -1},
		"negative Options.Restart.Stable":        {Stable: -1},
		"negative Options.Restart.StartAttempts": {StartAttempts: -1},
		"negative Options.Restart.GiveUp":        {GiveUp: -1},
	} {
		err := r.Validate()
		if (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Errorf("%+v: got %v, want %q", r, err, want)
		}
	}
}
