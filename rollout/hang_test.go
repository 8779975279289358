package rollout_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/rollout"
)

var hangSeeds = flag.Uint64("hang-seeds", 3000, "seeds of TestCallsThatHang")

// A hanger is a core whose calls to start and to stop versions hang, are left behind,
// and return in any order, with their effect at any time before that.
type hanger struct {
	config  rollout.Config
	state   rollout.State
	now     time.Time
	dice    *rand.Rand
	inbox   rollout.Observation
	calls   map[string]*hangingCall // under way, by what they are for
	left    []*hangingCall          // left behind
	running map[string]bool         // versions
	weights rollout.Weights         // in the proxies
	aborted bool
	log     []string
	wrong   string
}

type hangingCall struct {
	rollout.Action
	done  bool // it has had its effect
	ready bool // what a call to Ready has seen
}

func (h *hanger) logf(format string, args ...any) {
	h.log = append(h.log, fmt.Sprintf(format, args...))
}

func callName(a rollout.Action) string {
	return strings.TrimSpace(fmt.Sprint(a.Kind, " ", a.Version, " ", a.Weights.Revision))
}

// take lets a call have its effect.
func (h *hanger) take(c *hangingCall) {
	if c.done {
		return
	}
	c.done = true
	switch c.Kind {
	case rollout.ActStart:
		h.running[c.Version] = true
		h.logf("%s runs", c.Version)
	case rollout.ActStop:
		if h.weights.Most(c.Version) > 0 && h.running[c.Version] {
			h.wrong = fmt.Sprintf("%s was stopped, and has weight %d", c.Version, h.weights.Most(c.Version))
		}
		h.running[c.Version] = false
		h.logf("%s does not run", c.Version)
	case rollout.ActSetWeights:
		if c.Weights.Revision >= h.weights.Revision {
			h.weights = c.Weights
		}
	case rollout.ActReady:
		c.ready = h.running[c.Version]
	}
}

// look takes a step, and carries out what is wanted. Calls to start and to stop hang
// with the given chance.
func (h *hanger) look(chance float64) {
	h.now = h.now.Add(time.Second)
	phase := h.state.Phase
	next, wanted := h.config.Step(h.state, h.inbox, h.now)
	h.state, h.inbox = next, rollout.Observation{}
	if h.state.Phase != phase {
		h.logf("%s, was %s: %s", h.state.Phase, phase, h.state.Reason)
		if h.aborted && h.state.Phase == rollout.Advancing {
			h.wrong = "it was aborted, and goes forward"
		}
	}
	for _, name := range sortedKeys(h.calls) {
		if !slices.ContainsFunc(wanted, func(a rollout.Action) bool { return callName(a) == name }) {
			h.logf("cancelled: %s", name)
			h.left = append(h.left, h.calls[name])
			delete(h.calls, name)
		}
	}
	for _, a := range wanted {
		name := callName(a)
		alike := slices.DeleteFunc(slices.Clone(h.left), func(c *hangingCall) bool { return callName(c.Action) != name })
		if a.Kind == rollout.ActStats || h.calls[name] != nil || len(alike) >= 4 {
			continue
		}
		if a.Kind == rollout.ActStart && slices.ContainsFunc(h.left, func(c *hangingCall) bool { return c.Kind == rollout.ActStop && c.Version == a.Version }) {
			h.wrong = a.Version + " is started while it is being stopped"
		}
		h.logf("begun: %s", name)
		h.calls[name] = &hangingCall{Action: a}
		h.inbox.Begun = append(h.inbox.Begun, a)
		if h.dice.IntN(3) == 0 {
			h.take(h.calls[name])
		}
	}
	for _, name := range sortedKeys(h.calls) {
		c, o := h.calls[name], rollout.Outcome{Action: h.calls[name].Action}
		if r := h.dice.Float64() / chance; c.Kind == rollout.ActStart || c.Kind == rollout.ActStop {
			switch {
			case r < 0.5:
				h.left = append(h.left, c)
				o.Err, o.Hung = "it hangs", true
			case r < 1:
				continue // it takes its time
			case r < 1.1:
				o.Err = "failed"
			}
		}
		delete(h.calls, name)
		if o.Err == "" {
			h.take(c)
			o.Readiness = rollout.Readiness{Ready: c.ready, Reason: "it does not run"}
		}
		h.logf("returned: %s %s", name, o.Err)
		h.inbox.Outcomes = append(h.inbox.Outcomes, o)
	}
	h.left = slices.DeleteFunc(h.left, func(c *hangingCall) bool {
		if chance > 0 && h.dice.Float64() > 0.08 {
			return false
		}
		o := rollout.Outcome{Action: c.Action, Late: true}
		if h.dice.IntN(2) == 0 {
			o.Err = "its context has ended"
		}
		if o.Err == "" || h.dice.IntN(2) == 0 {
			h.take(c)
		}
		o.Readiness = rollout.Readiness{Ready: c.ready, Reason: "it did not run"}
		h.logf("late: %s %s", callName(c.Action), o.Err)
		h.inbox.Outcomes = append(h.inbox.Outcomes, o)
		return true
	})
}

func (h *hanger) command(kind rollout.CommandKind) {
	c := rollout.Command{Kind: kind}
	if kind == rollout.CommandSubmit {
		p := plan([]string{"v2", "v3"}[h.dice.IntN(2)], rollout.Canary(rollout.SetWeight(10), rollout.Bake(time.Minute), rollout.Pause()))
		p.Drain, p.ProgressDeadline = -1, time.Duration(20+h.dice.IntN(100))*time.Second
		if h.dice.IntN(2) == 0 {
			p.ProgressDeadline = -1 // what gets stuck stays so
		}
		c.Plan = &p
	}
	next, err := h.config.Control(h.state, c, h.now)
	if err != nil || next.Seq == h.state.Seq {
		return
	}
	h.logf("command: %s", kind)
	switch kind {
	case rollout.CommandAbort:
		h.aborted = next.Next == nil && next.Phase == rollout.RollingBack
	case rollout.CommandPause:
	default:
		h.aborted = false
	}
	h.state = next
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// However calls to start and to stop hang, and in whatever order they return: no
// version is stopped that has a weight, none starts while it is being stopped, and
// when all have returned what is wanted runs, and nothing else.
func TestCallsThatHang(t *testing.T) {
	seeds := []uint64{21_293} // a start hangs, and is not wanted any more before it is known that it has begun
	for seed := range *hangSeeds {
		seeds = append(seeds, seed)
	}
	for _, seed := range seeds {
		h := &hanger{dice: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1e9, 0), calls: map[string]*hangingCall{}, running: map[string]bool{}}
		h.config.StopWithin = time.Duration(5+h.dice.IntN(200)) * time.Second
		h.state = rollout.State{}.TakeOver("me", h.now)
		first := plan("v1", rollout.AllAtOnce())
		state, err := h.config.Control(h.state, rollout.Command{Kind: rollout.CommandSubmit, Plan: &first}, h.now)
		require.NoError(t, err)
		h.state = state
		for i := range 420 {
			chance := 0.5
			if i < 20 || i >= 220 {
				chance = 0
			} else if h.dice.IntN(8) == 0 {
				kinds := []rollout.CommandKind{rollout.CommandSubmit, rollout.CommandSubmit, rollout.CommandAbort, rollout.CommandAbort,
					rollout.CommandPause, rollout.CommandResume, rollout.CommandPromote, rollout.CommandRetry}
				h.command(kinds[h.dice.IntN(len(kinds))])
			}
			if h.look(chance); h.wrong != "" {
				break
			}
		}
		check := func(when string) {
			wanted := map[string]bool{h.state.Stable.ID: true}
			if !h.state.Phase.Ended() && h.state.Phase != rollout.RollingBack {
				wanted[h.state.Plan.Version] = true
			}
			for _, v := range []string{"v1", "v2", "v3"} {
				if h.wrong == "" && h.running[v] != wanted[v] {
					h.wrong = fmt.Sprintf("%s runs: %v; wanted: %v, %s", v, h.running[v], wanted[v], when)
				}
			}
		}
		check("in the end")
		// The process ends, and all versions with it.
		h.logf("another process")
		h.state = h.state.TakeOver("another", h.now)
		h.calls, h.left, h.inbox = map[string]*hangingCall{}, nil, rollout.Observation{}
		clear(h.running)
		for range 60 {
			if h.wrong == "" {
				h.look(0)
			}
		}
		check("after a restart")
		if h.wrong != "" {
			t.Fatalf("seed %d: %s\n%s", seed, h.wrong, strings.Join(h.log[max(0, len(h.log)-80):], "\n"))
		}
	}
}
