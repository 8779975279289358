package rollout_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/rollout"
)

// transitions are those of the diagram in the package comment.
var transitions = map[[2]rollout.Phase]bool{
	{rollout.Idle, rollout.Advancing}:          true,
	{rollout.Advancing, rollout.Paused}:        true,
	{rollout.Paused, rollout.Advancing}:        true,
	{rollout.Advancing, rollout.RollingBack}:   true,
	{rollout.Paused, rollout.RollingBack}:      true,
	{rollout.RollingBack, rollout.RolledBack}:  true,
	{rollout.RolledBack, rollout.Advancing}:    true,
	{rollout.Advancing, rollout.Succeeded}:     true,
	{rollout.Succeeded, rollout.Advancing}:     true,
	{rollout.RollingBack, rollout.RollingBack}: true,
	{rollout.Advancing, rollout.Advancing}:     true, // by Promote
	{rollout.RollingBack, rollout.Advancing}:   true, // by Promote, if the stable version is not up, and another waits
}

// A script drives the core with arbitrary outcomes, commands, times and
// restarts, and checks it against what must hold, and a slow model of baking.
type script struct {
	t      *testing.T
	data   []byte
	config rollout.Config
	state  rollout.State
	now    time.Time
	calls  []rollout.Action // wanted by the last step
	late   []rollout.Action // left behind
	begun  []rollout.Action

	counting bool          // a bake step ran, with weights applied and a version that is ready
	baked    time.Duration // the model's count for this step
	aborted  bool
	most     int // of the new version, since it was aborted
	ready    map[string]bool
	last     time.Time
	served   [6]rollout.Traffic
	trace    []string
}

func (s *script) byte() int {
	if len(s.data) == 0 {
		return 0
	}
	b := s.data[0]
	s.data = s.data[1:]
	return int(b)
}

func FuzzStep(f *testing.F) {
	for seed := range 20 {
		rng := rand.New(rand.NewPCG(uint64(seed), 5))
		data := make([]byte, 120)
		for i := range data {
			data[i] = byte(rng.IntN(256))
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) { runScript(t, data) })
}

// TestStepScripts runs the scripts of many seeds, of which fuzzing has time for
// few in CI.
func TestStepScripts(t *testing.T) {
	for seed := range 250 {
		rng := rand.New(rand.NewPCG(uint64(seed), 6))
		data := make([]byte, 400)
		for i := range data {
			data[i] = byte(rng.IntN(256))
		}
		runScript(t, data)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func runScript(t *testing.T, data []byte) {
	s := &script{t: t, data: data, now: time.Unix(1e9, 0), ready: map[string]bool{},
		config: rollout.Config{Interval: time.Second, StopWithin: 10 * time.Second}}
	s.state = rollout.State{}.TakeOver("first", s.now)
	version := 0
	for len(s.data) > 0 {
		before := s.state
		switch op := s.byte(); {
		case op < 222: // an outcome, or none, after some time
			s.step(s.outcomes(), time.Duration(s.byte())*10*time.Millisecond)
		case op < 226: // the clock jumps, or nobody looked
			s.step(nil, time.Duration(s.byte()-100)*time.Minute+2*time.Second+1)
		case op < 230: // a restart: what is stored is all that is left
			var stored rollout.State
			data, err := json.Marshal(s.state)
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(data, &stored))
			again, err := json.Marshal(stored)
			require.NoError(t, err)
			require.JSONEq(t, string(data), string(again))
			s.state = stored.TakeOver(fmt.Sprint(s.state.Epoch), s.now)
			s.calls, s.late, s.ready, s.counting = nil, nil, map[string]bool{}, false
			s.last = time.Time{}
			s.trace = append(s.trace, "restart")
		case op < 240:
			version++
			p := s.plan(fmt.Sprintf("v%d", 1+version%5))
			s.command(rollout.Command{Kind: rollout.CommandSubmit, Plan: &p})
		case op < 242:
			s.command(rollout.Command{Kind: rollout.CommandAbort})
		default:
			s.command(rollout.Command{Kind: []rollout.CommandKind{rollout.CommandPause, rollout.CommandResume,
				rollout.CommandPromote, rollout.CommandRetry}[op%4]})
		}
		s.check(before)
		if t.Failed() {
			for _, line := range s.trace[max(0, len(s.trace)-40):] {
				t.Log(line)
			}
			t.FailNow()
		}
	}
}

func (s *script) plan(version string) rollout.Plan {
	bake := time.Duration(1+s.byte()) * 50 * time.Millisecond
	p := []rollout.Plan{
		rollout.Canary(rollout.SetWeight(10), rollout.Bake(bake), rollout.SetWeight(50).At("b"), rollout.Bake(bake), rollout.Pause()),
		rollout.BlueGreen("there", bake, bake),
		rollout.AllAtOnce(),
		rollout.Canary(rollout.SetWeight(30), rollout.Analyze(&rollout.Analysis{}, bake), rollout.Gate("g", bake), rollout.Bake(bake)),
	}[s.byte()%4]
	p.Version = version
	p.Listeners = [][]string{{"b", "c"}, {"a", "b"}, {"b"}, nil}[s.byte()%4]
	if p.Listeners == nil {
		p = rollout.AllAtOnce()
		p.Version = version
	}
	p.Drops = slices.DeleteFunc([]string{"a", "b", "c"}, func(l string) bool { return slices.Contains(p.Listeners, l) })
	if s.byte()%2 == 0 {
		p.Watch = &rollout.Analysis{}
	}
	if p.Validate() != nil { // its weights differ by listener
		p.Watch = &rollout.Analysis{LimitsOnly: true, MinSuccess: 0.9}
	}
	p.ProgressDeadline = time.Minute
	return p
}

func (s *script) command(c rollout.Command) {
	next, err := s.config.Control(s.state, c, s.now)
	again, err2 := s.config.Control(next, c, s.now)
	dropped := c.Kind == rollout.CommandAbort && s.state.Next != nil // and another Abort is about what runs
	if err == nil && c.Kind != rollout.CommandRetry && !dropped {
		require.NoError(s.t, err2, "%v twice", c)
		require.Equal(s.t, next.Seq, again.Seq, "%v twice is not once", c)
	}
	if err != nil {
		require.Equal(s.t, s.state.Seq, next.Seq)
		return
	}
	s.trace = append(s.trace, string(c.Kind))
	switch c.Kind {
	case rollout.CommandAbort:
		s.aborted = next.Phase == rollout.RollingBack || next.Phase == rollout.RolledBack
		s.most = s.newest(s.state)
	case rollout.CommandRetry, rollout.CommandSubmit:
		s.aborted = false
	case rollout.CommandPromote:
		s.counting = false
		s.baked = 1 << 60
	}
	if next.Step != s.state.Step || next.Attempt != s.state.Attempt || next.Number != s.state.Number {
		if s.baked < 1<<60 {
			s.baked = 0
		}
		s.counting = false
	}
	s.state = next
}

func (s *script) newest(st rollout.State) int {
	if st.Plan == nil {
		return 0
	}
	return st.Weights.Most(st.Plan.Version)
}

// outcomes ends some of the calls that are wanted, or were.
func (s *script) outcomes() []rollout.Outcome {
	var outcomes []rollout.Outcome
	for range s.byte() % 8 {
		late := s.byte()%8 == 0
		from := &s.calls
		if late {
			from = &s.late
		}
		if len(*from) == 0 {
			continue
		}
		i := s.byte() % len(*from)
		o := rollout.Outcome{Action: (*from)[i], Late: late}
		if !late {
			s.begun = append(s.begun, o.Action)
		}
		*from = slices.Delete(slices.Clone(*from), i, i+1)
		switch b := s.byte(); {
		case b < 20:
			o.Err, o.Permanent = "failed", b < 2
		case b < 30 && !late:
			o.Err, o.Hung = "hung", true
			s.late = append(s.late, o.Action)
		}
		ok := s.byte()
		o.Readiness = rollout.Readiness{Ready: ok > 16, Failed: ok < 1, Reason: "not yet"}
		o.Traffic = map[string]rollout.Traffic{}
		for v := range 6 {
			s.served[v].Requests += uint64(ok * 20)
			s.served[v].Failures += uint64(ok % (1 + v))
			t := s.served[v]
			if ok%4 == 0 { // by place, now and then
				third := rollout.Traffic{Requests: t.Requests / 3, Failures: t.Failures / 3}
				for _, l := range []string{"a", "b", "c"} {
					t.Places = append(t.Places, rollout.PlaceTraffic{Place: rollout.Place{Listener: l}, Traffic: third})
				}
			}
			o.Traffic[fmt.Sprintf("v%d", v)] = t
		}
		o.Judgement = rollout.Judgement{Verdict: rollout.Verdict(ok % 3)}
		outcomes = append(outcomes, o)
	}
	return outcomes
}

func (s *script) step(outcomes []rollout.Outcome, d time.Duration) {
	s.now = s.now.Add(d)
	gap := s.now.Sub(s.last)
	if !s.last.IsZero() && gap >= 0 && gap <= 2*s.config.Interval && s.counting && s.baked < 1<<60 {
		s.baked += gap
	}
	s.last = s.now

	obs := rollout.Observation{Begun: s.begun, Outcomes: outcomes}
	s.begun = nil
	frozen, err := json.Marshal(s.state)
	require.NoError(s.t, err)
	next, actions := s.config.Step(s.state, obs, s.now)
	twice, actionsTwice := s.config.Step(s.state, obs, s.now)
	require.Equal(s.t, next, twice, "Step depends on something else")
	require.Equal(s.t, actions, actionsTwice)
	after, err := json.Marshal(s.state)
	require.NoError(s.t, err)
	require.Equal(s.t, string(frozen), string(after), "Step has changed its argument")

	for _, o := range outcomes {
		if o.Action.Kind == rollout.ActReady && o.Err == "" && !o.Late {
			s.ready[o.Action.Version] = o.Readiness.Ready
		}
		s.trace = append(s.trace, fmt.Sprintf("  %s: err=%q late=%v hung=%v %+v", o.Action, o.Err, o.Late, o.Hung, o.Readiness))
	}
	s.trace = append(s.trace, fmt.Sprintf("%v: %s step %d held %v, weights %s applied %v retired %v", s.now.Sub(time.Unix(1e9, 0)),
		next.Phase, next.Step, next.Held, next.Weights, next.Applied == next.Weights.Revision, next.Retired))

	moved := next.Step != s.state.Step || next.Number != s.state.Number || next.Attempt != s.state.Attempt || next.Phase == rollout.RollingBack
	if moved && next.Phase != rollout.RollingBack && next.Number == s.state.Number && next.Attempt == s.state.Attempt {
		step := s.state.Plan.Steps[s.state.Step]
		if step.Kind == rollout.KindBake && s.state.Stable != nil {
			require.GreaterOrEqual(s.t, s.baked, step.For, "the bake was too short")
		}
	}
	if moved && s.baked < 1<<60 || next.Number != s.state.Number || next.Attempt != s.state.Attempt {
		s.baked = 0
	}
	s.state, s.calls = next, actions
	s.counting = false
	if next.Phase == rollout.Advancing && next.Step < len(next.Plan.Steps) && next.Plan.Steps[next.Step].Kind == rollout.KindBake {
		s.counting = next.Applied == next.Weights.Revision && s.ready[next.Plan.Version]
	}
	s.checkActions()
}

func (s *script) checkActions() {
	st := s.state
	for _, a := range s.calls {
		switch a.Kind {
		case rollout.ActStop:
			require.Zero(s.t, st.Weights.Most(a.Version), "%s is stopped with weight", a.Version)
			require.Equal(s.t, st.Weights.Revision, st.Applied, "%s is stopped before the weights are applied", a.Version)
			require.True(s.t, slices.ContainsFunc(st.Retired, func(r rollout.Retirement) bool { return r.Version.ID == a.Version }))
		case rollout.ActStart:
			require.False(s.t, slices.ContainsFunc(st.Retired, func(r rollout.Retirement) bool { return r.Version.ID == a.Version }))
			if st.Stable == nil || st.Stable.ID != a.Version {
				require.Contains(s.t, []rollout.Phase{rollout.Advancing, rollout.Paused}, st.Phase, "start of %s", a.Version)
				require.Equal(s.t, st.Plan.Version, a.Version)
			}
		case rollout.ActSetWeights:
			require.Equal(s.t, st.Weights, a.Weights)
			require.Equal(s.t, st.Epoch, a.Weights.Revision>>32, "weights of an earlier runner")
		}
	}
}

func (s *script) check(before rollout.State) {
	st, t := s.state, s.t
	require.GreaterOrEqual(t, st.Seq, before.Seq)
	require.GreaterOrEqual(t, st.EventSeq, before.EventSeq)
	require.GreaterOrEqual(t, st.Weights.Revision, before.Weights.Revision)
	require.LessOrEqual(t, len(st.Events), 64+32)
	require.LessOrEqual(t, len(st.Windows), 24)
	if before.Phase != "" && before.Phase != st.Phase {
		// A step may do several transitions in a row; each has an event.
		phase := before.Phase
		for _, e := range st.Events {
			if e.Seq > before.EventSeq && e.Kind == rollout.PhaseChanged {
				require.True(t, transitions[[2]rollout.Phase{phase, e.Phase}], "from %s to %s", phase, e.Phase)
				phase = e.Phase
			}
		}
		require.Equal(t, st.Phase, phase)
	}
	for _, split := range st.Weights.Splits {
		sum := 0
		for _, share := range split.Shares {
			sum += share.Weight
			require.GreaterOrEqual(t, share.Weight, 0)
		}
		require.Equal(t, rollout.Whole, sum)
		require.LessOrEqual(t, len(split.Shares), 2)
	}
	if s.aborted {
		require.LessOrEqual(t, s.newest(st), s.most, "aborted, and it goes forward")
		s.most = min(s.most, s.newest(st))
	}
	if st.Plan != nil && !st.Final && before.Weights.Revision != st.Weights.Revision && len(st.Weights.Splits) > 0 && st.Weights.Most(st.Plan.Version) > 0 {
		require.True(t, s.ready[st.Plan.Version], "weights for %s, which is not ready", st.Plan.Version)
	}
	require.NotEmpty(t, st.Why(s.now))
	st.Schedule(s.now)
	if s.state.Step != before.Step && st.Plan != nil && st.Step < len(st.Plan.Steps) && st.Plan.Steps[st.Step].Kind != rollout.KindBake {
		s.counting = false
	}
}
