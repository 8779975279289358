package health_test

import (
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/weaverkit/weaverkit/health"
)

func TestRestartWaits(t *testing.T) {
	r := health.Restart{Base: time.Second, Max: 10 * time.Second, Factor: 3, Healthy: time.Minute, Limit: 100}
	var h health.RestartHistory
	now := time.Unix(0, 0)
	for i, step := range []struct {
		healthy time.Duration
		random  float64
		want    time.Duration
	}{
		{0, 0.5, time.Second}, {0, 0.5, 3 * time.Second}, {time.Minute - 1, 0.5, 9 * time.Second},
		{0, 0.5, 10 * time.Second}, {0, 0, 8 * time.Second}, {0, 0.75, 10 * time.Second}, // never more than Max

		{time.Minute, 0.5, time.Second}, {0, 0.5, 3 * time.Second},
	} {
		var wait time.Duration
		var err error
		h, wait, err = r.Next(h, now, step.healthy, step.random)
		if d := wait - step.want; err != nil || d < -time.Microsecond || d > time.Microsecond {
			t.Errorf("step %d: %v, %v, want %v", i, wait, err, step.want)
		}
		now = now.Add(time.Second)
	}
}

func TestRestartDefaults(t *testing.T) {
	var h health.RestartHistory
	now := time.Unix(0, 0)
	for i := range 10 {
		var err error
		var wait time.Duration
		if h, wait, err = (health.Restart{}).Next(h, now, 0, rand.Float64()); err != nil || wait <= 0 || wait > 30*time.Second {
			t.Fatalf("restart %d: %v, %v", i, wait, err)
		}
		now = now.Add(wait)
	}
	if _, _, err := (health.Restart{}).Next(h, now, 0, 0); !errors.Is(err, health.ErrGaveUp) || !strings.Contains(err.Error(), "restarted 10 times within 10m0s") {
		t.Errorf("the eleventh: %v", err)
	}
	if _, _, err := (health.Restart{}).Next(h, now.Add(11*time.Minute), 0, 0); err != nil {
		t.Errorf("after the window: %v", err)
	}
}

func TestRestartWithoutLimit(t *testing.T) {
	r := health.Restart{Limit: -1}
	var h health.RestartHistory
	for i := range 1000 {
		var err error
		if h, _, err = r.Next(h, time.Unix(int64(i), 0), 0, 0.5); err != nil {
			t.Fatal(err)
		}
	}
	if h.Streak != 1000 || len(h.Recent) != 0 {
		t.Errorf("%d in a row, %d remembered", h.Streak, len(h.Recent))
	}
}

// The longest times there are do not overflow.
func TestRestartLongWaits(t *testing.T) {
	const longest = time.Duration(math.MaxInt64)
	for _, r := range []health.Restart{{Base: longest}, {Max: longest, Factor: 1e300}, {Base: longest - 1, Max: longest, Jitter: 1}} {
		var h health.RestartHistory
		for i := range 5 {
			var wait time.Duration
			var err error
			h, wait, err = r.Next(h, time.Unix(0, 0), 0, 0.999)
			if err != nil || wait <= 0 || i > 2 && wait != longest {
				t.Errorf("%+v: restart %d waits %v, %v", r, i, wait, err)
			}
		}
	}
}

// A history that was stored goes on where it was.
func TestRestartHistoryIsStored(t *testing.T) {
	r := health.Restart{Base: time.Second, Limit: 3, Window: time.Minute}
	now := time.Unix(1000, 0)
	var h health.RestartHistory
	for i := range 4 {
		stored, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		h = health.RestartHistory{}
		if err := json.Unmarshal(stored, &h); err != nil {
			t.Fatal(err)
		}
		var wait time.Duration
		h, wait, err = r.Next(h, now, 0, 0.5)
		if errors.Is(err, health.ErrGaveUp) != (i == 3) || err == nil && wait != time.Second<<i {
			t.Errorf("restart %d: %v, %v", i, wait, err)
		}
		now = now.Add(time.Second)
	}
}

// A clock that was wrong, and is set back, does not keep a target down until the time
// that it showed.
func TestRestartAfterAWrongClock(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var h health.RestartHistory
	for range 10 {
		h.Recent = append(h.Recent, now.AddDate(5, 0, 0))
	}
	h, _, err := health.Restart{}.Next(h, now, 0, 0.5)
	if !errors.Is(err, health.ErrGaveUp) {
		t.Errorf("ten restarts of late: %v", err)
	}
	if _, _, err = (health.Restart{}).Next(h, now.Add(11*time.Minute), 0, 0.5); err != nil {
		t.Errorf("a window later: %v", err)
	}
}

// Two futures of one history do not affect each other.
func TestRestartHistoryIsAValue(t *testing.T) {
	r := health.Restart{Limit: 4, Window: time.Hour}
	now := time.Unix(0, 0)
	var h health.RestartHistory
	for range 3 {
		h, _, _ = r.Next(h, now, 0, 0)
	}
	a, _, errA := r.Next(h, now, 0, 0)
	_, _, errB := r.Next(h, now.Add(-2*time.Hour), 0, 0)
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	if _, _, err := r.Next(a, now.Add(time.Minute), 0, 0); !errors.Is(err, health.ErrGaveUp) {
		t.Errorf("the first future allows a fifth: %v", err)
	}
}

func TestRestartBadInput(t *testing.T) {
	for field, r := range map[string]health.Restart{
		"Base": {Base: -1}, "Max": {Max: -1}, "Factor": {Factor: 0.5}, "Jitter": {Jitter: 2},
		"Healthy": {Healthy: -1}, "Window": {Window: -1},
	} {
		if _, _, err := r.Next(health.RestartHistory{}, time.Now(), 0, 0); err == nil || !strings.Contains(err.Error(), "Restart."+field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// However the target behaves, there are never more than Limit restarts within
// Window, and waits stay within their bounds.
func FuzzRestart(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 0))
		r := health.Restart{
			Base: time.Duration(1 + rng.IntN(1e9)), Max: time.Duration(1e9 + rng.IntN(1e10)), Factor: 1 + 3*rng.Float64(),
			Jitter: rng.Float64(), Healthy: time.Second, Limit: 1 + rng.IntN(6), Window: time.Duration(1e9 + rng.IntN(1e11)),
		}
		var h health.RestartHistory
		var restarts []time.Time
		now := time.Unix(0, 0)
		for range 200 {
			now = now.Add(time.Duration(rng.IntN(2e10)))
			recent := 0
			for _, at := range restarts {
				if now.Sub(at) < r.Window {
					recent++
				}
			}
			next, wait, err := r.Next(h, now, time.Duration(rng.IntN(2e9)), rng.Float64())
			if gaveUp := errors.Is(err, health.ErrGaveUp); gaveUp != (recent >= r.Limit) {
				t.Fatalf("%+v: %d restarts within the window, error %v", r, recent, err)
			}
			if err == nil {
				restarts = append(restarts, now)
				if low, high := float64(r.Base)*(1-r.Jitter)-1, float64(max(r.Max, r.Base)); float64(wait) < low || float64(wait) > high {
					t.Fatalf("%+v: waits %v", r, wait)
				}
			}
			h = next
		}
	})
}
