package rollout_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/rollout"
)

func TestRollout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, rollout.Options{})
		p := plan("v2", rollout.Canary(rollout.SetWeight(5), rollout.Bake(10*time.Second), rollout.SetWeight(50), rollout.Bake(time.Minute)))
		p.Drain = time.Minute
		require.NoError(t, b.Submit(t.Context(), p))
		s := b.wait(rollout.Succeeded)
		assert.Equal(t, "v2", s.Stable.ID)
		assert.Equal(t, []string{
			"0s start v2",
			"0s v2 5 %, v1 95 % at api",
			"10s v2 50 %, v1 50 % at api",
			"1m10s v2 100 %, v1 0 % at api",
			"1m10s v2 100 % at api",
			"1m10s stop v1, drain 30s", // which is v1's
		}, slices.DeleteFunc(b.f.since(), resync))
		assert.Contains(t, b.Why(), "version v2 was rolled out")
		b.stop()
	})
}

// resync reports whether the call only repeats, after a minute, what was said
// before.
func resync(call string) bool { return strings.HasPrefix(call, "1m0") }

// The first version has nothing to shift from: it gets everything when it is
// ready, whatever its plan.
func TestFirstVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newFake(), rollout.Options{})
		b.submit("v1", rollout.Canary(rollout.SetWeight(1), rollout.Bake(time.Hour), rollout.Pause()))
		b.wait(rollout.Succeeded)
		assert.Equal(t, []string{"0s start v1", "0s v1 100 % at api"}, b.f.since())
		b.stop()
	})
}

func TestBadVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, rollout.Options{})
		b.f.set(func() {
			b.f.traffic = func(v string) rollout.Traffic {
				n := uint64(time.Since(b.f.began).Seconds() * 100)
				if v == "v2" {
					return rollout.Traffic{Requests: n / 10, Failures: n / 50}
				}
				return rollout.Traffic{Requests: n, Failures: n / 1000}
			}
		})
		p := rollout.Canary(rollout.SetWeight(10), rollout.Bake(time.Hour))
		p.Watch = &rollout.Analysis{}
		b.submit("v2", p)
		s := b.wait(rollout.RolledBack)
		assert.Contains(t, s.Reason, "fail: 20 % of the new version's requests failed, 0")
		assert.Equal(t, rollout.Fail, s.Judgement.Verdict)
		log := b.f.since()
		assert.Equal(t, []string{"v1 100 % at api", "stop v2, drain 30s"}, []string{cut(log[len(log)-2]), cut(log[len(log)-1])}, "weights first, in one call")
		assert.Less(t, time.Since(b.f.began), time.Minute)

		// Retried, it is better.
		b.f.set(func() { b.f.traffic = nil })
		require.NoError(t, b.Retry(t.Context()))
		require.NoError(t, b.Retry(t.Context()), "once more is once")
		assert.Equal(t, 2, b.Status().State.Attempt)
		b.wait(rollout.Succeeded)
		b.stop()
	})
}

func cut(call string) string {
	_, rest, _ := strings.Cut(call, " ")
	return rest
}

// A new version that answers to nothing, and ignores contexts, does not keep a
// rollback, a pause or a question waiting.
func TestHungVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, rollout.Options{CallTimeout: 5 * time.Second, AskTimeout: time.Second})
		b.submit("v2", rollout.Canary(rollout.SetWeight(50), rollout.Bake(time.Hour)))
		time.Sleep(10 * time.Second)
		require.Equal(t, 5000, b.Status().State.Weights.Most("v2"))
		b.f.failing(nil, "ready v2", "stop v2", "start v2", "stats")
		time.Sleep(2500 * time.Millisecond) // a call that was about to begin may have been good
		b.f.since()

		before := time.Now()
		require.NoError(t, b.Pause(t.Context(), "coffee"))
		require.NoError(t, b.Pause(t.Context(), "tea"))
		assert.Contains(t, b.Why(), "by the user for 0s: coffee")
		assert.Contains(t, b.Why(), "ready v2")
		require.NoError(t, b.Abort(t.Context(), "it hangs"))
		synctest.Wait()
		assert.Equal(t, before, time.Now(), "it took time")
		assert.Equal(t, "v1 100 % at api", cut(b.f.since()[0]))
		assert.Equal(t, rollout.Whole, b.Status().State.Weights.Most("v1"))

		s := b.wait(rollout.RolledBack)
		assert.Equal(t, "it hangs", s.Reason)
		assert.Less(t, time.Since(before), 5*time.Minute)
		assert.Contains(t, b.Why(), "left over: version v2 must stop")
		require.ErrorContains(t, b.Submit(t.Context(), plan("v2", rollout.AllAtOnce())), "runs already")

		// Another rollout is not kept waiting by what is left over.
		b.submit("v3", rollout.AllAtOnce())
		require.Eventually(t, func() bool { return b.Status().State.Stable.ID == "v3" }, time.Hour, time.Second)

		time.Sleep(time.Hour)
		hung := 0
		for _, c := range b.Status().Calls {
			if c.Hung {
				hung++
			}
		}
		assert.LessOrEqual(t, hung, 3*4, "four for each purpose")
		assert.Less(t, runtime.NumGoroutine(), 40)
		assert.NotZero(t, counter(b, "rollout.runner.withheld", ""))
		b.end()
		assert.ErrorContains(t, b.ended(), "calls that ignore that their context has ended: [")
		time.Sleep(2 * time.Hour)
	})
}

func counter(b *runnerBench, name, call string) uint64 {
	for _, c := range b.Counters() {
		if c.Name == name && c.Call == call {
			return c.Value
		}
	}
	b.t.Errorf("there is no counter %q", name)
	return 0
}

// While the store is away nothing goes forward; the way back is free.
func TestStoreIsAway(t *testing.T) {
	for name, err := range map[string]error{"fails": errors.New("disk full"), "hangs": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := running(t, rollout.Options{})
				b.submit("v2", rollout.Canary(rollout.SetWeight(50), rollout.Bake(time.Minute)))
				time.Sleep(10 * time.Second)
				b.f.failing(err, "store", "load")
				b.f.since()
				time.Sleep(5 * time.Minute)
				assert.Empty(t, slices.DeleteFunc(b.f.since(), func(c string) bool { return strings.Contains(c, "v2 50 %") }), "it goes forward")
				assert.Contains(t, b.Why(), "the last change is not recorded, so nothing goes forward: store the state: ")
				assert.True(t, b.Status().Unrecorded)

				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				assert.ErrorContains(t, b.Abort(ctx, ""), "it is not recorded yet")
				cancel()
				assert.Equal(t, []string{"v1 100 % at api"}, []string{cut(b.f.since()[0])})
				assert.Equal(t, rollout.Whole, b.f.applied().Most("v1"))

				b.f.set(func() { b.f.hook = nil })
				time.Sleep(2 * time.Hour) // those that hang return
				b.wait(rollout.RolledBack)
				b.stop()
			})
		})
	}
}

// Of two Runners the one that came later wins.
func TestTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, rollout.Options{})
		second := start(t, b.f, rollout.Options{})
		time.Sleep(5 * time.Second)
		assert.Equal(t, "v1", second.Status().State.Stable.ID)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		err := b.Submit(ctx, plan("v2", rollout.AllAtOnce()))
		require.ErrorIs(t, err, rollout.ErrStopped)
		require.ErrorIs(t, b.ended(), rollout.ErrTakenOver)
		for _, call := range b.f.since() {
			assert.NotContains(t, call, "v2")
		}
		second.submit("v2", rollout.AllAtOnce())
		second.wait(rollout.Succeeded)
		second.stop()
	})
}

func TestCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		refused := func(err error, why string) {
			t.Helper()
			require.ErrorIs(t, err, rollout.ErrRefused)
			require.ErrorContains(t, err, why)
		}
		b := start(t, newFake(), rollout.Options{})
		refused(b.Pause(ctx, ""), "pause: refused: nothing was submitted yet")
		b.submit("v1", rollout.AllAtOnce())
		b.wait(rollout.Succeeded)
		refused(b.Abort(ctx, ""), "the rollout of v1 has ended: succeeded")
		refused(b.Resume(ctx), "has ended")
		refused(b.Retry(ctx), "has ended")
		refused(b.Pause(ctx, ""), "has ended")
		require.NoError(t, b.Promote(ctx), "it is")

		steps := rollout.Canary(rollout.SetWeight(10), rollout.Bake(time.Minute), rollout.Pause(), rollout.SetWeight(50), rollout.Bake(time.Minute))
		steps.Steps[len(steps.Steps)-1].For = time.Minute
		b.submit("v2", steps)
		b.submit("v2", steps) // is the same
		refused(b.Retry(ctx), "the rollout of v2 has not failed")
		require.NoError(t, b.Resume(ctx), "it goes on anyway")
		time.Sleep(30 * time.Second)

		// Nothing counts while it is paused.
		require.NoError(t, b.Pause(ctx, "lunch"))
		time.Sleep(time.Hour)
		assert.InDelta(t, 30, b.Status().State.Held.Seconds(), 1)
		require.NoError(t, b.Resume(ctx))
		time.Sleep(28 * time.Second)
		assert.Equal(t, rollout.Advancing, b.Status().State.Phase)
		time.Sleep(4 * time.Second)
		assert.Equal(t, rollout.PausedByPlan, b.Status().State.PausedBy)
		time.Sleep(time.Hour)
		assert.Equal(t, 1000, b.Status().State.Weights.Most("v2"))
		require.NoError(t, b.Resume(ctx))
		time.Sleep(5 * time.Second)
		assert.Equal(t, 5000, b.Status().State.Weights.Most("v2"))

		require.NoError(t, b.Promote(ctx))
		require.NoError(t, b.Promote(ctx))
		time.Sleep(5 * time.Second)
		assert.Equal(t, rollout.Whole, b.Status().State.Weights.Most("v2"))
		assert.Equal(t, "v1", b.Status().State.Stable.ID)

		// The old version is there for another minute: there is a way back.
		require.NoError(t, b.Abort(ctx, "second thoughts"))
		require.NoError(t, b.Abort(ctx, ""))
		s := b.wait(rollout.RolledBack)
		assert.Equal(t, "second thoughts", s.Reason)
		require.NoError(t, b.Abort(ctx, ""))
		refused(b.Resume(ctx), "the rollout of v2 has ended: rolled back, second thoughts")
		refused(b.Promote(ctx), "has ended")

		// And none once it is being stopped.
		b.f.failing(errors.New("busy"), "stop v1")
		require.NoError(t, b.Retry(ctx))
		require.NoError(t, b.Promote(ctx))
		time.Sleep(65 * time.Second)
		refused(b.Abort(ctx, ""), "the old version is being stopped: submit a rollout of it to go back")
		refused(b.Pause(ctx, ""), "all that is left is to stop the old version")
		b.f.set(func() { b.f.hook = nil })
		b.wait(rollout.Succeeded)
		b.stop()
		require.ErrorIs(t, b.Pause(ctx, ""), rollout.ErrStopped)
		require.ErrorIs(t, b.Submit(ctx, plan("v3", rollout.AllAtOnce())), rollout.ErrStopped)
		require.ErrorContains(t, b.Run(ctx), "Run was called before")
	})
}

// A command that says what it is meant for does nothing to what came after that.
func TestCommandsThatAreMeantForSomething(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		b := running(t, rollout.Options{})
		pauses := rollout.Canary(rollout.SetWeight(5), rollout.Pause(), rollout.SetWeight(50), rollout.Pause(), rollout.SetWeight(90), rollout.Bake(time.Hour))
		b.submit("v2", pauses)
		time.Sleep(5 * time.Second)
		seen := b.Status().State.At()
		assert.Equal(t, rollout.At{Version: "v2", Number: 2, Attempt: 1, Step: 4}, seen)
		require.NoError(t, b.Resume(ctx, seen))
		time.Sleep(5 * time.Second)
		err := b.Resume(ctx, seen) // sent twice
		require.ErrorIs(t, err, rollout.ErrRefused)
		assert.EqualError(t, err, "resume: refused: it was meant for version v2, step 4, but now it would be about version v2, step 6")
		assert.Equal(t, rollout.Paused, b.Status().State.Phase)
		require.ErrorIs(t, b.Promote(ctx, seen), rollout.ErrRefused)
		require.ErrorIs(t, b.Pause(ctx, "", rollout.At{Version: "v3"}), rollout.ErrRefused)
		require.ErrorIs(t, b.Resume(ctx, seen, seen), rollout.ErrRefused)

		// What is meant for v2 does not drop v3.
		b.f.failing(errors.New("busy"), "stop v2")
		b.submit("v3", pauses)
		err = b.Abort(ctx, "", rollout.At{Version: "v2"})
		require.ErrorIs(t, err, rollout.ErrRefused)
		assert.ErrorContains(t, err, "it was meant for version v2, but now it would be about version v3")
		assert.Equal(t, "v3", b.Status().State.Next.Version)
		assert.Equal(t, rollout.At{Version: "v3"}, b.Status().State.At())
		require.NoError(t, b.Abort(ctx, "", b.Status().State.At()))
		assert.Nil(t, b.Status().State.Next)
		b.f.set(func() { b.f.hook = nil })
		b.wait(rollout.RolledBack)

		// One retry, not two.
		back := b.Status().State.At()
		require.NoError(t, b.Retry(ctx, back))
		require.NoError(t, b.Abort(ctx, "", rollout.At{Version: "v2", Attempt: 2}))
		b.wait(rollout.RolledBack)
		assert.ErrorContains(t, b.Retry(ctx, back), "meant for version v2, but now it would be about version v2, attempt 2")
		b.stop()
	})
}

// A newer submission supersedes: the rollout that runs goes back first.
func TestSupersede(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, rollout.Options{})
		b.submit("v2", rollout.Canary(rollout.SetWeight(50), rollout.Bake(time.Hour)))
		time.Sleep(5 * time.Second)
		b.f.since()
		b.f.failing(errors.New("busy"), "stop v2")
		b.submit("v3", rollout.AllAtOnce())
		time.Sleep(5 * time.Second)
		b.submit("v4", rollout.Canary(rollout.SetWeight(7), rollout.Bake(time.Second))) // v3 never begins
		assert.Contains(t, b.Why(), "version v2 goes back for 5s: version v3 was submitted")
		assert.Contains(t, b.Why(), "version v4 comes next")
		b.f.set(func() { b.f.hook = nil })
		s := b.wait(rollout.Succeeded)
		assert.Equal(t, "v4", s.Stable.ID)
		var calls []string
		for _, c := range b.f.since() {
			if c = cut(c); len(calls) == 0 || calls[len(calls)-1] != c {
				calls = append(calls, c)
			}
		}
		assert.Equal(t, []string{
			"v1 100 % at api", "stop v2, drain 30s",
			"start v4", "v4 7 %, v1 93 % at api", "v4 100 %, v1 0 % at api", "v4 100 % at api", "stop v1, drain 30s",
		}, calls)
		assert.EqualValues(t, 2, s.Counters.Superseded)

		// When the old version is being stopped already, it is finished first.
		b.f.failing(errors.New("busy"), "stop v4")
		b.submit("v5", rollout.AllAtOnce())
		time.Sleep(2 * time.Second)
		b.submit("v6", rollout.AllAtOnce())
		require.NoError(t, b.Abort(t.Context(), "not v6"), "what waits is dropped")
		assert.Nil(t, b.Status().State.Next)
		b.submit("v7", rollout.AllAtOnce())
		b.f.set(func() { b.f.hook = nil })
		assert.Equal(t, "v7", b.wait(rollout.Succeeded).Stable.ID)
		b.stop()
	})
}

func TestPreview(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, rollout.Options{})
		p := rollout.BlueGreen("http://localhost:9090", 0, time.Minute)
		p.Sticky = true
		b.submit("v2", p)
		time.Sleep(5 * time.Second)
		w := b.f.applied()
		assert.Equal(t, "v2", w.PreviewVersion)
		assert.Equal(t, "http://localhost:9090", w.Preview)
		assert.True(t, w.Sticky)
		assert.Equal(t, []rollout.Share{{Version: "v2"}, {Version: "v1", Weight: rollout.Whole}}, w.Splits[0].Shares)
		assert.Contains(t, b.Why(), "it can be tried: http://localhost:9090")
		require.NoError(t, b.Resume(t.Context()))
		b.wait(rollout.Succeeded)
		assert.Empty(t, b.f.applied().PreviewVersion)
		b.stop()
	})
}

// A version that ceases to be ready loses its traffic at once, and gets it back;
// the time in between does not count.
func TestUnready(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, rollout.Options{})
		b.submit("v2", rollout.Canary(rollout.SetWeight(50), rollout.Bake(time.Minute)))
		time.Sleep(30 * time.Second)
		b.f.since()
		b.f.set(func() { b.f.ready["v2"] = rollout.Readiness{Reason: "no replica"} })
		time.Sleep(2 * time.Second)
		assert.Equal(t, []string{"v1 100 % at api"}, []string{cut(b.f.since()[0])})
		time.Sleep(5 * time.Minute)
		assert.Contains(t, b.Why(), "it waits: version v2 must be ready: no replica")
		assert.Regexp(t, `if it does not get on within 4m5\ds it goes back`, b.Why())
		b.f.set(func() { delete(b.f.ready, "v2") })
		time.Sleep(25 * time.Second)
		assert.Equal(t, 5000, b.f.applied().Most("v2"))
		assert.Equal(t, rollout.Advancing, b.Status().State.Phase)
		time.Sleep(10 * time.Second)
		b.wait(rollout.Succeeded)
		b.stop()
	})
}

func TestGoesBackBecause(t *testing.T) {
	for _, test := range []struct {
		name   string
		break_ func(*fake)
		within time.Duration
		reason string
	}{
		{"it cannot start", func(f *fake) { f.failing(fmt.Errorf("no such file: %w", rollout.ErrPermanent), "start v2") },
			time.Second, "it cannot be started: no such file: trying again is of no use"},
		{"it does not start", func(f *fake) { f.failing(errors.New("no room"), "start v2") },
			11 * time.Minute, "in step 1 of 6 (start): version v2 must start; start v2 failed "},
		{"it is never ready", func(f *fake) { f.ready["v2"] = rollout.Readiness{Reason: "warming up"} },
			11 * time.Minute, "in step 2 of 6 (wait ready): version v2 must be ready: warming up"},
		{"it has failed", func(f *fake) { f.ready["v2"] = rollout.Readiness{Failed: true, Reason: "exit status 1"} },
			time.Second, "it has failed: exit status 1"},
		{"it does not answer", func(f *fake) { f.failing(errors.New("refused"), "ready v2") },
			11 * time.Minute, "in step 2 of 6 (wait ready): version v2 must be ready: no answer: refused"},
		{"weights cannot be set", func(f *fake) { f.failing(errors.New("no proxy"), "v2 50 %") },
			11 * time.Minute, "in step 3 of 6 (set weight 50 %): the weights must be applied (v2 50 %, v1 50 % at api); that failed "},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := running(t, rollout.Options{})
				test.break_(b.f)
				before := time.Now()
				b.submit("v2", rollout.Canary(rollout.SetWeight(50), rollout.Bake(time.Minute)))
				s := b.wait(rollout.RolledBack)
				assert.Contains(t, s.Reason, test.reason)
				assert.LessOrEqual(t, time.Since(before), test.within)
				b.stop()
			})
		})
	}
}

// A listener that only one of the versions exports is all its own.
func TestListeners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newFake(), rollout.Options{})
		one := rollout.AllAtOnce()
		one.Version, one.Listeners = "v1", []string{"admin", "api"}
		require.NoError(t, b.Submit(t.Context(), one))
		b.wait(rollout.Succeeded)
		two := rollout.Canary(rollout.SetWeight(10), rollout.Bake(time.Second))
		two.Version, two.Listeners = "v2", []string{"api", "web"}
		require.ErrorContains(t, b.Submit(t.Context(), two), `it lacks the listener "admin" of version v1, which runs: add it, or name it in Plan.Drops`)
		two.Drops = []string{"admin"}
		b.f.since()
		require.NoError(t, b.Submit(t.Context(), two))
		b.wait(rollout.Succeeded)
		var calls []string
		for _, c := range b.f.since() {
			calls = append(calls, cut(c))
		}
		assert.Equal(t, []string{
			"start v2",
			"v1 100 % at admin; v2 10 %, v1 90 % at api; v2 100 % at web",
			"v1 100 % at admin; v2 100 %, v1 0 % at api; v2 100 % at web",
			"v2 100 % everywhere",
			"stop v1, drain 30s",
		}, calls)
		located := plan("v3", rollout.FromDuration(time.Hour, "eu"))
		assert.ErrorContains(t, b.Submit(t.Context(), located), "name locations in both or in none")
		b.stop()
	})
}

// What is not there is refused before anything starts.
func TestUnknownPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newFake(), rollout.Options{Listeners: []string{"api"}, Locations: []string{"eu", "us"}})
		one := rollout.AllAtOnce()
		one.Version, one.Listeners, one.Locations = "v1", []string{"api", "wep"}, []string{"eu", "us"}
		require.ErrorContains(t, b.Submit(t.Context(), one), `plan of version "v1": Plan.Listeners[1] is "wep", which is unknown; Options.Listeners has ["api"]`)
		one.Listeners, one.Locations = []string{"api"}, []string{"mars"}
		require.ErrorContains(t, b.Submit(t.Context(), one), `Plan.Locations[0] is "mars", which is unknown; Options.Locations has ["eu" "us"]`)
		one.Locations = []string{"eu", "us"}
		require.NoError(t, b.Submit(t.Context(), one))
		b.wait(rollout.Succeeded)
		two := one
		two.Version, two.Locations = "v2", []string{"eu"}
		require.ErrorContains(t, b.Submit(t.Context(), two), `it lacks the location "us" of version v1`)
		two.Drops = []string{"us"}
		require.NoError(t, b.Submit(t.Context(), two))
		b.wait(rollout.Succeeded)
		b.stop()
	})
}

func TestGates(t *testing.T) {
	for _, test := range []struct {
		name string
		gate func(asked int) (rollout.Judgement, error)
		want rollout.Phase
		why  string
	}{
		{"passes in the end", func(n int) (rollout.Judgement, error) {
			if n < 3 {
				return rollout.Judgement{}, errors.New("not reachable")
			}
			return rollout.Judgement{Verdict: rollout.Pass, Reason: "looks good"}, nil
		}, rollout.Succeeded, ""},
		{"fails", func(int) (rollout.Judgement, error) {
			return rollout.Judgement{Verdict: rollout.Fail, Reason: "looks bad"}, nil
		}, rollout.RolledBack, "fail: looks bad"},
		{"talks nonsense", func(int) (rollout.Judgement, error) {
			return rollout.Judgement{Verdict: 7, Reason: strings.Repeat("x", 1<<20), AtMost: math.NaN()}, nil
		}, rollout.Paused, "inconclusive: xxx"},
		{"does not know", func(int) (rollout.Judgement, error) { return rollout.Judgement{Reason: "who knows"}, nil },
			rollout.Paused, "inconclusive: who knows, after 1m0s"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				b := running(t, rollout.Options{Gates: map[string]rollout.GateFunc{
					"person": func(_ context.Context, s rollout.State) (rollout.Judgement, error) {
						assert.Equal(t, "v2", s.Plan.Version)
						asked++
						return test.gate(asked)
					},
				}})
				b.submit("v2", rollout.Canary(rollout.SetWeight(50), rollout.Gate("person", time.Minute)))
				time.Sleep(65 * time.Second)
				s := b.Status().State
				require.Equal(t, test.want, s.Phase)
				assert.Contains(t, s.Reason, test.why)
				if s.Phase == rollout.Paused {
					assert.Equal(t, rollout.PausedByVerdict, s.PausedBy)
					require.NoError(t, b.Resume(t.Context())) // a person knows
					b.wait(rollout.Succeeded)
				}
				err := b.Submit(t.Context(), plan("v3", rollout.Canary(rollout.Gate("oracle", time.Minute))))
				assert.ErrorContains(t, err, `step 3 (gate oracle): there is no such gate; Options.Gates has ["person"]`)
				b.stop()
			})
		})
	}
}

// A verdict that pauses: who resumes has decided otherwise, and what was seen
// does not count again.
func TestVerdictPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, rollout.Options{})
		bad := true
		var v2 rollout.Traffic
		b.f.set(func() {
			b.f.traffic = func(v string) rollout.Traffic {
				if v != "v2" {
					return rollout.Traffic{Requests: uint64(time.Since(b.f.began).Seconds() * 100)}
				}
				v2.Requests += 100
				if bad {
					v2.Failures += 30
				}
				return v2
			}
		})
		p := rollout.Canary(rollout.SetWeight(50), rollout.Bake(10*time.Minute))
		p.Watch = &rollout.Analysis{OnFail: rollout.ThenPause}
		b.submit("v2", p)
		time.Sleep(time.Minute)
		require.Equal(t, rollout.PausedByWatch, b.Status().State.PausedBy)
		b.f.set(func() { bad = false })
		require.NoError(t, b.Resume(t.Context()))
		b.wait(rollout.Succeeded)
		b.stop()
	})
}

func TestAnalyze(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, rollout.Options{})
		b.f.set(func() {
			b.f.traffic = func(string) rollout.Traffic {
				return rollout.Traffic{Requests: uint64(time.Since(b.f.began).Seconds() * 1000)}
			}
		})
		b.submit("v2", rollout.Canary(rollout.SetWeight(50), rollout.Analyze(&rollout.Analysis{}, time.Hour)))
		s := b.wait(rollout.Succeeded)
		assert.Equal(t, rollout.Pass, s.Judgement.Verdict)
		assert.Less(t, time.Since(b.f.began), time.Minute, "as soon as it is known")
		share, n := s.Measured()
		assert.Zero(t, n+uint64(share))

		b.f.set(func() { b.f.traffic = nil })
		b.submit("v3", rollout.Canary(rollout.SetWeight(50), rollout.Analyze(&rollout.Analysis{OnInconclusive: rollout.ThenRollBack}, time.Minute)))
		s = b.wait(rollout.RolledBack)
		assert.Contains(t, s.Reason, "after 1m0s")
		b.stop()
	})
}

func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, rollout.Options{})
		assert.Contains(t, b.Why(), "version v1 was rolled out 0s ago")
		b.f.set(func() {
			b.f.traffic = func(v string) rollout.Traffic {
				n := uint64(time.Since(b.f.began).Seconds() * 10)
				if v == "v2" {
					return rollout.Traffic{Requests: n}
				}
				return rollout.Traffic{Requests: 3 * n}
			}
		})
		b.submit("v2", rollout.Canary(rollout.SetWeight(25), rollout.Bake(time.Minute), rollout.Pause(), rollout.SetWeight(50), rollout.Bake(time.Hour)))
		time.Sleep(20*time.Second + time.Millisecond)
		st := b.Status()
		assert.InDelta(t, 0.25, st.Measured, 0.01)
		assert.NotZero(t, st.Requests)
		assert.Equal(t, "bake 1m0s", st.State.Plan.Steps[st.State.Step].String())
		assert.InDelta(t, (time.Hour + 40*time.Second).Seconds(), st.Remaining.Seconds(), 2)
		assert.False(t, st.Certain, "there is a pause")
		var got []string
		for _, p := range st.Schedule {
			got = append(got, fmt.Sprintf("%s %v %v", p.Step, p.End.Sub(b.f.began).Round(5*time.Second), p.Uncertain))
		}
		assert.Equal(t, []string{"bake 1m0s 1m0s false", "pause 1m0s true", "set weight 50 % 1m0s true", "bake 1h0m0s 1h1m0s true",
			"promote 1h1m0s true", "stop old 1h1m0s true"}, got)
		assert.Contains(t, b.Why(), "version v2 is rolled out for 20.001s: step 4 of 9 (bake 1m0s), for 20.001s\nit waits: 20")
		assert.Equal(t, st.Schedule, b.Schedule())
		require.NoError(t, b.Abort(t.Context(), ""))
		b.wait(rollout.RolledBack)
		assert.Empty(t, b.Schedule())
		b.stop()
	})
}

// Readers resume where they were, over restarts too.
func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, rollout.Options{})
		b.submit("v2", rollout.Canary(rollout.SetWeight(50), rollout.Pause()))
		var got []string
		var last uint64
		for e := range b.Events(t.Context(), 0) {
			require.Equal(t, last+1, e.Seq)
			last = e.Seq
			got = append(got, e.String())
			if e.Phase == rollout.Paused {
				break
			}
		}
		b.stop()
		for e := range b.Events(t.Context(), last) {
			t.Errorf("an event after the end: %v", e)
		}
		second := start(t, b.f, rollout.Options{})
		time.Sleep(time.Second)
		require.NoError(t, second.Resume(t.Context()))
		for e := range second.Events(t.Context(), last) {
			require.Equal(t, last+1, e.Seq)
			last = e.Seq
			if e.Phase == rollout.Paused && e.Kind != rollout.TakenOver {
				continue // they get ready in any order
			}
			got = append(got, e.String())
			if e.Phase == rollout.Succeeded {
				break
			}
		}
		second.stop()
		assert.Equal(t, []string{
			"v1: submitted",
			"v1: advancing: version v1 was submitted",
			"v1: step 1 of 4: start",
			"v1: step 2 of 4: wait ready",
			"v1: ready",
			"v1: step 3 of 4: promote",
			"weights applied: v1 100 % at api",
			"v1: step 4 of 4: stop old",
			"v1: stable",
			"v1: succeeded: all steps are done",
			"v2: submitted",
			"v2: advancing: version v2 was submitted",
			"v2: step 1 of 6: start",
			"v2: step 2 of 6: wait ready",
			"v2: ready",
			"v2: step 3 of 6: set weight 50 %",
			"weights applied: v2 50 %, v1 50 % at api",
			"v2: step 4 of 6: pause",
			"v2: paused: the plan has a pause here",
			"taken over: what is to run is started again if need be",
			"v2: advancing: somebody resumed it",
			"v2: step 5 of 6: promote",
			"weights applied: v2 100 %, v1 0 % at api",
			"v2: step 6 of 6: stop old",
			"v2: stable",
			"weights applied: v2 100 % at api",
			"v1: stopped",
			"v2: succeeded: all steps are done",
		}, got)
		assert.EqualValues(t, 2, counter(second, "rollout.begun", ""))
		assert.NotZero(t, counter(second, "rollout.runner.calls", "set weights"))
	})
}

// A restart in the middle starts what is to run, waits for it, sets the weights,
// and goes on where it was. The bake that was under way does not begin anew when
// the end was orderly.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, rollout.Options{})
		b.submit("v2", rollout.Canary(rollout.SetWeight(50), rollout.Bake(time.Minute)))
		time.Sleep(40 * time.Second)
		b.stop()
		b.f.since()
		time.Sleep(time.Hour) // does not count
		f := b.f
		f.set(func() {
			f.began = time.Now()
			f.ready["v1"] = rollout.Readiness{Reason: "restarting"}
		})
		b = start(t, f, rollout.Options{})
		state, err := b.State(t.Context())
		require.NoError(t, err)
		assert.Equal(t, "v1", state.Stable.ID)
		assert.InDelta(t, 40, state.Held.Seconds(), 1)
		time.Sleep(10 * time.Second)
		started := f.since()
		slices.Sort(started)
		assert.Equal(t, []string{"0s start v1", "0s start v2"}, started)
		assert.Contains(t, b.Why(), "version v1, which is stable, must be ready again first (or be replaced by Promote): restarting")
		f.set(func() { delete(f.ready, "v1") })
		b.wait(rollout.Succeeded)
		assert.InDelta(t, 30, time.Since(f.began).Seconds(), 3, "10 s to come up, and 20 s that were left")
		assert.Equal(t, "v2 50 %, v1 50 % at api", cut(f.since()[0]))
		b.stop()
	})
}

// A restart on the way back: the stable version must be up before it gets what the
// new one still serves, and before it counts as rolled back.
func TestRestartOnTheWayBack(t *testing.T) {
	for name, lost := range map[string]bool{"it comes up": false, "it is lost": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := running(t, rollout.Options{})
				b.submit("v2", rollout.Canary(rollout.SetWeight(50), rollout.Bake(time.Hour)))
				time.Sleep(10 * time.Second)
				b.f.failing(errors.New("no"), "v1 100", "stop")
				require.NoError(t, b.Abort(t.Context(), "it is bad"))
				time.Sleep(time.Second)
				b.stop()
				f := b.f
				f.set(func() {
					f.hook = nil
					f.began = time.Now()
					f.ready["v1"] = rollout.Readiness{Reason: "restarting"}
				})
				f.since()
				b = start(t, f, rollout.Options{})
				time.Sleep(time.Hour)
				assert.Equal(t, []string{"0s start v1"}, f.since())
				assert.Equal(t, rollout.RollingBack, b.Status().State.Phase)
				assert.Contains(t, b.Why(), "it waits: version v1, which is stable, must be ready again first (or be replaced: Submit another and Promote it): restarting\n")
				assert.Contains(t, b.Why(), "the weights stay as they are")
				if lost {
					f.set(func() { f.began = time.Now() })
					b.submit("v3", rollout.AllAtOnce())
					time.Sleep(time.Second)
					assert.Contains(t, b.Why(), "version v1, which is stable, must be ready again first (or be replaced by Promote of version v3)")
					require.NoError(t, b.Promote(t.Context(), b.Status().State.At()))
					b.wait(rollout.Succeeded)
					calls := f.since()
					assert.Equal(t, []string{"1s start v3", "1s v3 100 %, v1 0 % at api"}, calls[:2])
					assert.Subset(t, calls, []string{"1s stop v2, drain 30s", "1s stop v1, drain 30s"})
				} else {
					f.set(func() { f.ready = map[string]rollout.Readiness{}; f.began = time.Now() })
					s := b.wait(rollout.RolledBack)
					assert.Equal(t, "it is bad", s.Reason)
					var calls []string
					for _, c := range f.since() {
						calls = append(calls, cut(c))
					}
					assert.Equal(t, []string{"v1 100 % at api", "stop v2, drain 30s"}, calls)
				}
				b.stop()
			})
		})
	}
}

// After a restart the old version does not come up any more: whoever knows that
// the new one is good can promote it.
func TestOldVersionIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, rollout.Options{})
		b.submit("v2", rollout.Canary(rollout.SetWeight(50), rollout.Bake(time.Hour)))
		time.Sleep(10 * time.Second)
		b.stop()
		b.f.failing(errors.New("no such file"), "start v1")
		b.f.since()
		b = start(t, b.f, rollout.Options{})
		time.Sleep(time.Hour)
		assert.Contains(t, b.Why(), "version v1, which is stable, must start again first (or be replaced by Promote); start v1 failed")
		for _, call := range b.f.since() {
			assert.Contains(t, call, "start")
		}
		require.NoError(t, b.Promote(t.Context()))
		assert.Equal(t, "v2", b.wait(rollout.Succeeded).Stable.ID)
		assert.Equal(t, rollout.Whole, b.f.applied().Most("v2"))
		b.stop()
	})
}

func TestNew(t *testing.T) {
	_, err := rollout.New(nil, rollout.Options{})
	assert.ErrorContains(t, err, "no deployer")
	_, err = rollout.New(newFake(), rollout.Options{CallTimeout: -1, MaxHung: -2, Config: rollout.Config{Interval: -1},
		Gates: map[string]rollout.GateFunc{"x": nil}})
	for _, field := range []string{"Options.CallTimeout is -1", "Options.MaxHung is -2", "Config.Interval is -1ns", `Options.Gates["x"]`} {
		assert.ErrorContains(t, err, field)
	}
}

// Commands from many goroutines at once leave a state that makes sense.
func TestConcurrentCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, rollout.Options{})
		b.submit("v2", rollout.Canary(rollout.SetWeight(50), rollout.Bake(time.Minute)))
		var wg sync.WaitGroup
		errs := map[string]int{}
		var mu sync.Mutex
		for range 8 {
			for name, do := range map[string]func() error{
				"pause":  func() error { return b.Pause(t.Context(), "") },
				"resume": func() error { return b.Resume(t.Context()) },
				"abort":  func() error { return b.Abort(t.Context(), "") },
				"why":    func() error { b.Why(); b.Counters(); b.Schedule(); return nil },
			} {
				wg.Go(func() {
					err := do()
					mu.Lock()
					defer mu.Unlock()
					if err != nil {
						require.ErrorIs(t, err, rollout.ErrRefused)
						errs[name]++
					}
				})
			}
		}
		wg.Wait()
		b.wait(rollout.RolledBack)
		assert.Zero(t, errs["abort"])
		assert.Subset(t, []string{"pause", "resume"}, slices.Collect(maps.Keys(errs)))
		b.stop()
	})
}

// What cannot be understood is left as it is, and Why says what to do.
func TestStoredByOthers(t *testing.T) {
	for name, stored := range map[string]struct{ value, why string }{
		"garbage":      {"{", "what is stored is not a state"},
		"a later form": {`{"format":2}`, "it is of format 2, and this program knows 1"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newFake()
				_, err := store.CompareAndSwap(t.Context(), "app", 0, []byte(stored.value))
				require.NoError(t, err)
				b := start(t, store, rollout.Options{})
				time.Sleep(time.Minute)
				assert.Contains(t, b.Why(), stored.why)
				value, _, err := store.Load(t.Context(), "app")
				require.NoError(t, err)
				assert.Equal(t, stored.value, string(value))
				b.stop()
			})
		})
	}
}

// A version that crashes every 20 s, and is back 3 s later, is seldom looked at
// when it is ready: its restarts count all the same.
func TestCrashLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, rollout.Options{})
		began := time.Now()
		up := func() (restarts uint64, is bool) {
			const cycle = 20*time.Second + 137*time.Millisecond
			age := time.Since(began)
			return uint64(age / cycle), age%cycle >= 3*time.Second
		}
		b.f.set(func() {
			b.f.hook = func(_ context.Context, call string) error {
				_, is := up()
				b.f.set(func() { b.f.ready["v2"] = rollout.Readiness{Ready: is, Reason: "it has crashed"} })
				return nil
			}
			b.f.traffic = func(v string) rollout.Traffic {
				n := rollout.Traffic{Requests: uint64(time.Since(began).Seconds() * 50)}
				if v == "v2" {
					n.Restarts, _ = up()
				}
				return n
			}
		})
		p := rollout.Canary(rollout.SetWeight(25), rollout.Bake(5*time.Minute))
		p.Watch = &rollout.Analysis{}
		b.submit("v2", p)
		s := b.wait(rollout.RolledBack)
		assert.Contains(t, s.Reason, "the new version was restarted 4 times, at most 3 are forgiven")
		assert.Less(t, time.Since(began), 2*time.Minute)
		b.stop()
	})
}

// A watch that sees nothing lets nothing pass: time does not count, Why and Status
// say so, and in the end the rollout goes back.
func TestBlindWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, rollout.Options{})
		p := rollout.Canary(rollout.SetWeight(10), rollout.Bake(time.Minute), rollout.SetWeight(50), rollout.Bake(5*time.Minute), rollout.Pause())
		p.Watch = &rollout.Analysis{MinSuccess: 0.9}
		b.submit("v2", p)
		time.Sleep(30 * time.Second)
		require.Zero(t, b.Status().BlindSince)
		require.NotContains(t, b.Why(), "blind")
		b.f.failing(errors.New("metrics are away"), "stats")
		blind := time.Now()
		time.Sleep(2 * time.Minute)
		st := b.Status()
		assert.InDelta(t, 30, st.State.Held.Seconds(), 2)
		assert.WithinDuration(t, blind, st.BlindSince, 2*time.Second)
		assert.Regexp(t, `it waits: Plan.Watch must see the traffic first; .* of 1m0s have passed; stats failed \d+ times in a row, .*: metrics are away\n`, st.Why)
		assert.Regexp(t, `\nPlan.Watch is blind for [12]m`, st.Why)
		assert.Contains(t, st.Why, "if it does not get on within")
		require.NoError(t, b.Pause(t.Context(), ""))
		assert.Regexp(t, `Plan.Watch is blind for [12]m.*: metrics are away`, b.Why(), "in a pause too")
		require.NoError(t, b.Resume(t.Context()))

		b.f.set(func() { b.f.hook = nil })
		time.Sleep(time.Minute + 30*time.Second)
		assert.Zero(t, b.Status().BlindSince)
		assert.Equal(t, 5000, b.f.applied().Most("v2"), "it goes on")

		b.f.failing(errors.New("metrics are away"), "stats")
		s := b.wait(rollout.RolledBack)
		assert.Regexp(t, `^no progress for 10m.* in step 6 of 9 \(bake 5m0s\): Plan.Watch must see the traffic first.*: metrics are away`, s.Reason)
		b.stop()
	})
}

// A panic in what others have written is an error of the call, and says where it
// was; the process lives on.
func TestPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		b := running(t, rollout.Options{Gates: map[string]rollout.GateFunc{
			"person": func(context.Context, rollout.State) (rollout.Judgement, error) {
				if asked++; asked < 3 {
					var nobody *rollout.Judgement
					return *nobody, nil
				}
				return rollout.Judgement{Verdict: rollout.Pass}, nil
			},
		}})
		for _, call := range []string{"start v2", "ready v2", "v2 50 %", "stats", "load", "store", "stop v1"} {
			b.f.mu.Lock()
			last, before := b.f.hook, 0
			b.f.hook = func(ctx context.Context, name string) error {
				b.f.mu.Lock()
				panics := strings.HasPrefix(name, call) && before < 2
				if panics {
					before++
				}
				b.f.mu.Unlock()
				if panics {
					panic("no " + call)
				}
				if last != nil {
					return last(ctx, name)
				}
				return nil
			}
			b.f.mu.Unlock()
		}
		b.submit("v2", rollout.Canary(rollout.SetWeight(50), rollout.Bake(time.Minute), rollout.Gate("person", time.Minute)))
		b.wait(rollout.Succeeded)
		problems := map[string]string{}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for e := range b.Events(ctx, 0) {
			if call, reason, ok := strings.Cut(e.Reason, " failed, 1 in a row: "); e.Kind == rollout.Problem && ok {
				problems[call] = reason
			}
		}
		for call, want := range map[string]string{
			"start v2":    "it panicked: no start v2, in rollout_test.TestPanics.func1.",
			"ready v2":    "it panicked: no ready v2, in ",
			"stats":       "called by rollout_test.(*fake).call (fake_test.go:",
			"stop v1":     "it panicked: no stop v1, in ",
			"gate person": "it panicked: runtime error: invalid memory address or nil pointer dereference, in rollout_test.TestPanics.func1.1 (runner_test.go:",
		} {
			assert.Contains(t, problems[call], want)
		}
		assert.NotContains(t, problems["start v2"], "\n")
		assert.GreaterOrEqual(t, counter(b, "rollout.runner.store.errors", ""), uint64(2))
		b.stop()
	})
}

// A write that is under way when Run ends, and whose time is not up, is not said to
// ignore it.
func TestStopsWhileTheStoreIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, rollout.Options{AskTimeout: time.Minute})
		b.f.set(func() {
			b.f.hook = func(_ context.Context, call string) error {
				if call == "store" {
					time.Sleep(50 * time.Second)
				}
				return nil
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorContains(t, b.Submit(ctx, plan("v2", rollout.AllAtOnce())), "not recorded yet")
		b.end()
		require.EqualError(t, b.ended(), "the store takes its time: store the state")
		time.Sleep(time.Minute)
	})
}

// A program that submits its plan each time it starts does not begin anew what has
// gone back.
func TestSubmittedAtEachStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, rollout.Options{})
		p := rollout.Canary(rollout.SetWeight(50), rollout.Bake(time.Hour))
		again := func() error {
			b.stop()
			b = start(t, b.f, rollout.Options{})
			return b.Submit(t.Context(), plan("v2", p))
		}
		require.NoError(t, again())
		require.NoError(t, again())
		require.Equal(t, 2, b.Status().State.Number)
		time.Sleep(10 * time.Second)
		b.f.failing(errors.New("busy"), "stop v2")
		require.NoError(t, b.Abort(t.Context(), "it is bad"))
		require.ErrorContains(t, again(), "submit: refused: the rollout of v2 is rolling back: it is bad; Retry tries it again once it is rolled back")
		b.f.set(func() { b.f.hook = nil })
		b.wait(rollout.RolledBack)
		err := again()
		require.ErrorIs(t, err, rollout.ErrRefused)
		require.ErrorContains(t, err, "the rollout of v2 is rolled back: it is bad")
		b.wait(rollout.RolledBack)
		require.NoError(t, b.Retry(t.Context()))
		require.NoError(t, b.Promote(t.Context()))
		b.wait(rollout.Succeeded)
		require.NoError(t, again())
		b.wait(rollout.Succeeded)

		// Another plan for it is another rollout.
		p.Sticky = true
		require.ErrorContains(t, again(), "runs already")
		b.stop()
	})
}

// A restart keeps the newest events and, of those before, the changes of phase.
func TestStoredEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, rollout.Options{})
		read := func() (all, phases []rollout.Event) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			for e := range b.Events(ctx, 0) {
				if all = append(all, e); e.Kind == rollout.PhaseChanged {
					phases = append(phases, e)
				}
			}
			return all, phases
		}
		for i := range 22 {
			b.submit(fmt.Sprint("v", i+2), rollout.Linear(20, time.Second))
			b.wait(rollout.Succeeded)
		}
		all, phases := read()
		require.Len(t, all, int(all[len(all)-1].Seq), "all are there, while there are no more than EventLimit")
		require.Greater(t, len(phases), 40)
		b.stop()
		b = start(t, b.f, rollout.Options{})
		time.Sleep(time.Second)
		kept, keptPhases := read()
		// What was stored ends with the take-over; what comes after that adds to it.
		n := 1 + slices.IndexFunc(kept, func(e rollout.Event) bool { return e.Seq > all[len(all)-1].Seq })
		require.Equal(t, 64+32, n)
		require.Equal(t, rollout.TakenOver, kept[n-1].Kind)
		for i, e := range kept[n-64 : n] {
			require.Equal(t, kept[n-1].Seq-63+uint64(i), e.Seq)
		}
		for _, e := range kept[:n-64] {
			require.Equal(t, rollout.PhaseChanged, e.Kind)
		}
		for i, e := range phases[len(phases)-len(keptPhases):] {
			require.Equal(t, e.Seq, keptPhases[i].Seq, "the newest")
		}
		assert.Zero(t, counter(b, "rollout.runner.events.missed", ""), "they were published")
		b.stop()
	})
}

// A stop has the version's drain, and CallTimeout beyond it, before it is left behind.
func TestStopHasItsDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, rollout.Options{CallTimeout: 10 * time.Second})
		p := plan("v2", rollout.Canary(rollout.SetWeight(50), rollout.Bake(time.Hour)))
		p.Drain = 5 * time.Minute
		require.NoError(t, b.Submit(t.Context(), p))
		time.Sleep(5 * time.Second)
		b.f.set(func() {
			b.f.hook = func(ctx context.Context, call string) error {
				if !strings.HasPrefix(call, "stop") {
					return nil
				}
				select {
				case <-time.After(5*time.Minute + 5*time.Second): // a connection took all of its time
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		})
		b.f.since()
		require.NoError(t, b.Abort(t.Context(), ""))
		began := time.Now()
		b.wait(rollout.RolledBack)
		assert.Equal(t, 5*time.Minute+5*time.Second, time.Since(began))
		stops := slices.DeleteFunc(b.f.since(), func(c string) bool { return !strings.Contains(c, "stop") })
		assert.Len(t, stops, 1, "it was not left behind")
		b.stop()
	})
}

// Weights that are applied are sent again every Resync, unchanged: a proxy may have
// lost them.
func TestResync(t *testing.T) {
	for resync, want := range map[time.Duration]int{0: 60, 10 * time.Minute: 6, -1: 0} {
		synctest.Test(t, func(t *testing.T) {
			b := running(t, rollout.Options{Config: rollout.Config{Resync: resync}})
			before := b.f.applied()
			time.Sleep(time.Hour + 30*time.Second)
			assert.InDelta(t, want, len(b.f.since()), 1)
			assert.Equal(t, before, b.f.applied())
			b.stop()
		})
	}
}

// Two stops of a version hang while a call to start it does. None of them counts
// that had begun before the start returned, however they return.
func TestStopsThatDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, rollout.Options{})
		release := map[string]chan struct{}{}
		calls := map[string]int{}
		running := false // v2
		b.f.set(func() {
			b.f.hook = func(_ context.Context, call string) error {
				name, ok := "", false
				for _, n := range []string{"start v2", "stop v2"} {
					if strings.HasPrefix(call, n) {
						name, ok = n, true
					}
				}
				if !ok {
					return nil
				}
				b.f.mu.Lock()
				calls[name]++
				wait := release[name]
				n := calls[name]
				b.f.mu.Unlock()
				if wait != nil && (name == "start v2" || n <= 2) {
					<-wait
				}
				b.f.set(func() { running = name == "start v2" || running && n <= 2 })
				return nil
			}
			release["start v2"], release["stop v2"] = make(chan struct{}), make(chan struct{})
		})
		b.submit("v2", rollout.Canary(rollout.SetWeight(10), rollout.Bake(time.Minute)))
		time.Sleep(time.Second)
		require.NoError(t, b.Abort(t.Context(), ""))
		time.Sleep(2 * time.Minute) // the first stop is left behind, and a second begins
		b.f.mu.Lock()
		require.Equal(t, 2, calls["stop v2"])
		b.f.mu.Unlock()
		close(release["start v2"])
		time.Sleep(time.Second)
		close(release["stop v2"])
		time.Sleep(10 * time.Minute)
		b.f.mu.Lock()
		defer b.f.mu.Unlock()
		require.False(t, running, "v2 runs for ever")
		require.GreaterOrEqual(t, calls["stop v2"], 3)
		b.f.mu.Unlock()
		b.stop()
		b.f.mu.Lock()
	})
}

// A version may be given all the time there is to finish what is in flight.
func TestDrainWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newFake(), rollout.Options{CallTimeout: math.MaxInt64})
		p := plan("v1", rollout.AllAtOnce())
		p.Drain = math.MaxInt64
		require.NoError(t, b.Submit(t.Context(), p))
		b.wait(rollout.Succeeded)
		b.f.set(func() {
			b.f.hook = func(ctx context.Context, call string) error {
				if !strings.HasPrefix(call, "stop v1") {
					return nil
				}
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(time.Hour):
					return nil
				}
			}
		})
		b.submit("v2", rollout.AllAtOnce())
		time.Sleep(30 * time.Minute)
		require.Equal(t, rollout.Advancing, b.Status().State.Phase, b.Status().State.Reason)
		require.Empty(t, b.wait(rollout.Succeeded).Retired)
		b.stop()
	})
}
