package health_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weaverkit/weaverkit/health"
)

// tenReplicas starts a prober with ten targets that are ready.
func tenReplicas(t *testing.T, o health.Outlier) *harness {
	h := start(t, health.Options{Outlier: o})
	for i := range 10 {
		h.add(fmt.Sprint(i), newPatient(well), second())
	}
	time.Sleep(2 * time.Second)
	return h
}

func TestConsecutive5xx(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := tenReplicas(t, health.Outlier{})
		defer h.end()
		for range 4 {
			h.Observe("3", health.ServerError, 0)
		}
		h.Observe("3", health.Success, 0) // which begins the count anew
		for range 4 {
			h.Observe("3", health.GatewayFailure, 0)
		}
		h.want("3", health.Ready, "")
		h.Observe("3", health.ServerError, 0)
		h.want("3", health.NotReady, "ejected because of its traffic: for 30s, since 5 requests in a row failed")
		// A tenth of ten may be ejected: nobody else.
		for range 50 {
			h.Observe("4", health.ServerError, 0)
		}
		h.want("4", health.Ready, "")
		time.Sleep(29 * time.Second)
		h.want("3", health.NotReady, "")
		time.Sleep(2 * time.Second)
		h.want("3", health.Ready, "its checks pass")
		if h.Observe("nobody", health.Success, 0) {
			t.Error("there is somebody called nobody")
		}
	})
}

// What requests see that were under way at an ejection does not count, neither
// meanwhile nor afterwards.
func TestFailuresWhileEjected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := tenReplicas(t, health.Outlier{ConsecutiveGatewayFailure: 5, FailurePercentageThreshold: 50, FailurePercentageMinimumHosts: 1, BaseEjectionTime: 3 * time.Second})
		defer h.end()
		for range 5 {
			h.Observe("3", health.ServerError, 0)
		}
		h.want("3", health.NotReady, "ejected")
		for range 100 {
			h.Observe("3", health.GatewayFailure, 0)
		}
		time.Sleep(5 * time.Second)
		h.want("3", health.Ready, "its checks pass")
		for range 4 {
			h.Observe("3", health.GatewayFailure, 0)
		}
		time.Sleep(20 * time.Second) // the end of the interval
		h.want("3", health.Ready, "its checks pass")
		if s, _ := h.Status("3"); s.Ejections != 0 {
			t.Errorf("%d ejections of late, want none", s.Ejections)
		}
		h.Observe("3", health.GatewayFailure, 0)
		h.want("3", health.NotReady, "5 requests in a row")
	})
}

// Each ejection is longer than the last; intervals without one make it shorter.
func TestEjectionTimeGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := tenReplicas(t, health.Outlier{MaxEjectionTime: 75 * time.Second})
		defer h.end()
		eject := func() time.Duration {
			t.Helper()
			for range 5 {
				h.Observe("3", health.ServerError, 0)
			}
			h.want("3", health.NotReady, "ejected")
			began := time.Now()
			for {
				time.Sleep(100 * time.Millisecond)
				if s, _ := h.Status("3"); s.State == health.Ready {
					return time.Since(began)
				}
			}
		}
		for i, want := range []time.Duration{30 * time.Second, 60 * time.Second, 75 * time.Second} {
			if got := eject(); got < want || got > want+1100*time.Millisecond {
				t.Errorf("ejection %d took %v, want %v", i, got, want)
			}
		}
		if s, _ := h.Status("3"); s.Ejections != 3 {
			t.Errorf("%d ejections, want 3", s.Ejections)
		}
		time.Sleep(31 * time.Second)
		if got := eject(); got > 32*time.Second {
			t.Errorf("an ejection after a good time took %v", got)
		}
	})
}

func TestGatewayFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := tenReplicas(t, health.Outlier{Consecutive5xx: -1, ConsecutiveGatewayFailure: 3})
		defer h.end()
		for range 100 {
			h.Observe("1", health.ServerError, 0)
		}
		h.Observe("1", health.GatewayFailure, 0)
		h.Observe("1", health.GatewayFailure, 0)
		h.Observe("1", health.ServerError, 0)
		h.Observe("1", health.GatewayFailure, 0)
		h.want("1", health.Ready, "")
		h.Observe("1", health.GatewayFailure, 0)
		h.Observe("1", health.GatewayFailure, 0)
		h.want("1", health.NotReady, "3 requests in a row met a gateway failure")
	})
}

// Rules over an interval: who fares worse than its group is ejected when the
// interval ends.
func TestIntervals(t *testing.T) {
	for _, c := range []struct {
		name    string
		outlier health.Outlier
		volume  int
		fail    func(target, request int) bool
		latency func(target int) time.Duration
		out     string // the one that is ejected
		why     string
	}{
		{"success rate", health.Outlier{Consecutive5xx: -1}, 100,
			func(i, n int) bool { return i == 5 && n%2 == 0 }, nil, "5", "only 50.0 % of its requests succeeded, of 95.0 % in its group"},
		{"success rate, too few requests", health.Outlier{Consecutive5xx: -1}, 99,
			func(i, n int) bool { return i == 5 && n%2 == 0 }, nil, "", ""},
		{"success rate, all alike", health.Outlier{Consecutive5xx: -1}, 100,
			func(i, n int) bool { return n%2 == 0 }, nil, "", ""},
		{"success rate, off", health.Outlier{Consecutive5xx: -1, SuccessRateStdevFactor: -1}, 100,
			func(i, n int) bool { return i == 5 }, nil, "", ""},
		{"failure percentage", health.Outlier{Consecutive5xx: -1, SuccessRateStdevFactor: -1, FailurePercentageThreshold: 85}, 60,
			func(i, n int) bool { return i == 5 && n >= 9 }, nil, "5", "51 of 60 requests failed"},
		{"failure percentage, just below", health.Outlier{Consecutive5xx: -1, SuccessRateStdevFactor: -1, FailurePercentageThreshold: 85}, 60,
			func(i, n int) bool { return i == 5 && n >= 10 }, nil, "", ""},
		{"latency", health.Outlier{LatencyFactor: 3}, 100, nil,
			func(i int) time.Duration { return time.Duration(10+i/9*25) * time.Millisecond }, "9", "its requests take 35ms, of 10ms in its group"},
		{"latency, bearable", health.Outlier{LatencyFactor: 3}, 100, nil,
			func(i int) time.Duration { return time.Duration(10+i/9*19) * time.Millisecond }, "", ""},
		{"latency, off", health.Outlier{}, 100, nil,
			func(i int) time.Duration { return time.Duration(10+i/9*1000) * time.Millisecond }, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := tenReplicas(t, c.outlier)
				defer h.end()
				for i := range 10 {
					for n := range c.volume {
						outcome, latency := health.Success, time.Millisecond
						if c.fail != nil && c.fail(i, n) {
							outcome = health.ServerError
						}
						if c.latency != nil {
							latency = c.latency(i)
						}
						h.Observe(fmt.Sprint(i), outcome, latency)
					}
				}
				time.Sleep(11 * time.Second)
				synctest.Wait()
				found := ""
				for _, s := range h.Snapshot().Targets {
					if s.State != health.Ready {
						found += s.ID
						if !strings.Contains(s.Why, c.why) {
							t.Errorf("%s is out: %q, want %q", s.ID, s.Why, c.why)
						}
					}
				}
				if found != c.out {
					t.Errorf("ejected are %q, want %q", found, c.out)
				}
			})
		})
	}
}

// An ejected target whose checks fail, too, is still found dead; one that is
// removed no longer counts.
func TestEjectedAndDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, health.Options{})
		defer h.end()
		p := newPatient(well)
		h.add("a", p, second())
		h.add("b", newPatient(well), second())
		time.Sleep(2 * time.Second)
		for range 5 {
			h.Observe("a", health.GatewayFailure, 0)
			h.Observe("b", health.GatewayFailure, 0)
		}
		h.want("a", health.NotReady, "ejected")
		h.want("b", health.Ready, "") // the cap
		p.mode.Store(broken)
		time.Sleep(7 * time.Second)
		h.want("a", health.Dead, "checks failed in a row: it is broken")
		h.Remove("a")
		h.Observe("b", health.GatewayFailure, 0)
		h.want("b", health.NotReady, "ejected")
		h.Remove("b")
		if n := len(h.Snapshot().Targets); n != 0 {
			t.Errorf("%d targets left", n)
		}
	})
}
