package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/weaverkit/weaverkit/rollout"
)

// canary is the status in the middle of a rollout.
func canary() status {
	plan := rollout.Canary(rollout.SetWeight(5), rollout.Bake(10*time.Second), rollout.SetWeight(50), rollout.Bake(10*time.Second))
	plan.Version = "v2"
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local)
	s := rollout.State{
		Phase: rollout.Advancing, Plan: &plan, Step: 3, Entered: now, Held: 4 * time.Second,
		Stable:    &rollout.Version{ID: "v1"},
		Judgement: &rollout.Judgement{Verdict: rollout.Inconclusive, Reason: "too little traffic to say, " + strings.Repeat("and more of it, ", 20)},
	}
	st := status{App: "shop", Now: now, Rollout: rollout.Status{
		State: s, Schedule: s.Schedule(now), Remaining: 16 * time.Second, Certain: true,
		Why: "version v2 is rolled out\nit waits: 4s of 10s have passed\n",
	}}
	st.Listeners = []listenerStatus{{Name: "shop", Address: "127.0.0.1:9000", Rows: []row{
		{Version: "v2", Serving: 8, Wanted: 8, Weight: 500, Requests: 50, Share: 0.05, Rate: 10, Success: 0.98, P99: 5120 * time.Microsecond},
		{Version: "v1", Serving: 8, Wanted: 8, Weight: 9500, Requests: 950, Share: 0.95, Rate: 190, Success: 1, P99: 123 * time.Millisecond},
		{Version: "a-version-with-a-long-name", Weight: -1},
	}}}
	st.Load = &loadStatus{Rate: 200, OK: 1000, Failed: 1}
	return st
}

func TestView(t *testing.T) {
	got := view(canary())
	want := `shop: version v2 after v1                               advancing, step 4 of 8
━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━─────────────────────────────────────────────
now       bake 10s, 6s left
next      set weight 50 %, bake 10s, promote, stop old
ends      in 16s, at 12:00:16

shop      http://127.0.0.1:9000
  version      replicas    weight  measured    req/s   success       p99
  v2             8 of 8       5 %     5.0 %     10.0   98.00 %   5.12 ms
  v1             8 of 8      95 %    95.0 %    190.0  100.00 %    123 ms
  a-version-w…   0 of 0         –         –        –         –         –

load      200 requests/s of our own: 1000 answered, 1 failed

verdict   inconclusive: too little traffic to say, and more of it, and more of
          it, and more of it, and more of it, and more of it, and more of it,
          and more of it, and more of it, and more of it, and more of it …
why       it waits: 4s of 10s have passed
`
	assert.Equal(t, want, got)
}

// Whatever the phase, the view fits a terminal of 80 columns.
func TestViewFits(t *testing.T) {
	for _, phase := range []rollout.Phase{rollout.Idle, rollout.Advancing, rollout.Paused, rollout.RollingBack, rollout.RolledBack, rollout.Succeeded} {
		for step := range 9 { // all of them, and the end
			st := canary()
			st.Rollout.State.Phase, st.Rollout.State.Step = phase, step
			st.Rollout.Why = strings.Repeat("x", 200) + "\n" + strings.Repeat("ö ", 200)
			for _, line := range strings.Split(view(st), "\n") {
				assert.LessOrEqual(t, columns(line), width, line)
			}
		}
	}
	assert.Contains(t, view(status{App: "shop", Rollout: rollout.Status{State: rollout.State{Phase: rollout.Idle}}}), "shop")
}
