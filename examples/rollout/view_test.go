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

// A small terminal shows the beginning, the end and the keys.
func TestFit(t *testing.T) {
	text := "\n" + view(canary()) + "\n"
	for rows := range 40 {
		for _, cols := range []int{1, 20, 60, 80, 200} {
			lines := fit(text, keyHelp+"\n", rows, cols)
			assert.LessOrEqual(t, len(lines), max(1, rows))
			for _, line := range lines {
				assert.LessOrEqual(t, columns(line), max(2, cols))
			}
		}
	}
	got := fit(text, keyHelp+"\nrefused\n", 15, 60)
	assert.Len(t, got, 15)
	assert.Contains(t, got[1], "shop: version v2 after v1")
	assert.Contains(t, got, "…")
	assert.Contains(t, strings.Join(got, "\n"), "why       it waits: 4s of 10s have passed")
	assert.Equal(t, []string{"n next  b broken next  p pause  r resume  P promote  a abort", "t retry  q quit", "refused"}, got[12:])
}

func TestHeadline(t *testing.T) {
	st := canary()
	st.Rollout.State.Phase = rollout.RolledBack
	left, right := headline(st)
	assert.Equal(t, "shop: version v1 runs; v2 was rolled back", left)
	assert.Equal(t, "rolled back", right)

	st = canary()
	st.Stopped = true
	text := view(st)
	assert.Contains(t, text, "stopped in step 4 of 8\n")
	assert.Contains(t, text, "why       stopped; the next deploy goes on here\n")
	assert.NotContains(t, text, "ends ")
}

// All that can be done about a blue-green pause is there to read.
func TestWhyOfAPause(t *testing.T) {
	st := canary()
	plan := rollout.BlueGreen("header Weaverkit-Version: v2", time.Minute, time.Minute)
	plan.Version = "v2"
	s := &st.Rollout.State
	s.Plan, s.Phase, s.Step, s.PausedBy, s.Since, s.Reason = &plan, rollout.Paused, 3, rollout.PausedByPlan, st.Now, "the plan has a pause here"
	s.Weights.Preview, s.Weights.PreviewVersion = plan.Preview, "v2"
	st.Rollout.Why = s.Why(st.Now.Add(83456 * time.Millisecond))
	assert.Contains(t, strings.Join(strings.Fields(view(st)), " "), "Resume goes on, Promote skips the rest, Abort goes back")
}

// A verdict is told once, and not again as the reason of what follows from it.
func TestTell(t *testing.T) {
	reason := ""
	var lines []string
	for _, e := range []rollout.Event{
		{Kind: rollout.VerdictGiven, Version: "v2", Reason: "fail: 5 % failed; then: roll back"},
		{Kind: rollout.PhaseChanged, Version: "v2", Phase: rollout.RollingBack, Reason: "fail: 5 % failed"},
		{Kind: rollout.WeightsApplied, Reason: "v1 100 %"},
		{Kind: rollout.PhaseChanged, Version: "v2", Phase: rollout.RolledBack, Reason: "fail: 5 % failed"},
		{Kind: rollout.PhaseChanged, Version: "v2", Phase: rollout.Advancing, Reason: "somebody retried it"},
	} {
		var line string
		line, reason = tell(e, reason)
		_, line, _ = strings.Cut(line, " ")
		lines = append(lines, line)
	}
	assert.Equal(t, []string{
		"v2: verdict: fail: 5 % failed; then: roll back",
		"v2: rolling back",
		"weights applied: v1 100 %",
		"v2: rolled back",
		"v2: advancing: somebody retried it",
	}, lines)
}
