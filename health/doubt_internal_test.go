package health

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const ms = time.Millisecond

// A rig is a core whose clock a test moves. What is due starts at once, and ends
// when the test says so.
type rig struct {
	*core
	t   *testing.T
	now instant
}

// newRig returns a core that watches n targets, which are ready and have their
// places in the period.
func newRig(t *testing.T, opts Options, n int, policy Policy) *rig {
	t.Helper()
	opts, err := opts.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{core: newCore(opts, 1), t: t, now: time.Second}
	for i := range n {
		err := r.add(Target{ID: fmt.Sprint(i), Check: func(context.Context) (Result, error) { return Result{}, nil }, Policy: policy}, r.now)
		if err != nil {
			t.Fatal(err)
		}
	}
	for began := r.now; r.now < began+2*policy.Period; {
		for _, k := range r.sleep() {
			r.finish(k, passed, "", r.now)
		}
	}
	return r
}

// sleep moves the clock to when Run would wake up.
func (r *rig) sleep() []*target {
	wait, ok := r.plan(r.now)
	if !ok {
		r.t.Fatal("nothing will ever be due")
	}
	return r.wakeAfter(wait)
}

// oversleep moves the clock to late after when Run would wake up.
func (r *rig) oversleep(late time.Duration) {
	wait, _ := r.plan(r.now)
	r.wakeAfter(wait + late)
}

func (r *rig) wakeAfter(d time.Duration) []*target {
	r.now += d
	r.wake(r.now)
	var started []*target
	for k := r.start(r.now); k != nil; k = r.start(r.now) {
		started = append(started, k)
	}
	return started
}

// check sleeps until a check of a target starts. Those of others pass.
func (r *rig) check(k *target) {
	r.t.Helper()
	for range 10_000 {
		found := false
		for _, s := range r.sleep() {
			if s == k {
				found = true
				continue
			}
			r.finish(s, passed, "", r.now)
		}
		if found {
			return
		}
	}
	r.t.Fatal("it is never checked")
}

func one(period, timeout time.Duration) Policy {
	return Policy{Period: period, Timeout: timeout, SuccessThreshold: 1, FailureThreshold: 1, LivenessThreshold: 3}
}

// A check that ran out of time counts for nothing if it was the prober that was
// away, for so long that the target had less than half of the timeout.
func TestExcuse(t *testing.T) {
	for _, c := range []struct {
		stall time.Duration
		want  State
	}{{90 * ms, NotReady}, {450 * ms, NotReady}, {600 * ms, Ready}, {5 * time.Second, Ready}} {
		r := newRig(t, Options{MaxUnready: 1}, 1, one(10*time.Second, time.Second))
		k := r.targets["0"]
		r.check(k)
		deadline := r.deadline(k)
		r.oversleep(c.stall) // it would have looked at the clock after a pulse
		for r.now < deadline {
			r.sleep()
		}
		r.finish(k, failed, "deadline exceeded", r.now)
		if k.state != c.want || (k.last == doubtful) != (c.want == Ready) {
			t.Errorf("stall of %v: it is %v: %s", c.stall, k.state, k.reason)
		}
	}
}

// A check that was started while Run slept for something else, and then stalled,
// is excused, too: Run must look at the clock from when it knows that a check is
// to start, not only from when one has.
func TestStallWhileSleeping(t *testing.T) {
	r := newRig(t, Options{MaxUnready: 1}, 1, one(10*time.Second, time.Second))
	k := r.targets["0"]
	r.now = k.due
	r.wake(r.now)
	// Something else is due before the check's deadline.
	r.sweep = r.now + 900*ms
	if wait, _ := r.plan(r.now); wait > pulse {
		t.Fatalf("it sleeps for %v while a check starts", wait)
	}
	r.start(r.now)
	if r.early() {
		t.Fatal("it is woken for a deadline that is later than what it sleeps for")
	}
	r.wakeAfter(880 * ms) // stopped
	for r.now < r.started(k)+time.Second {
		r.sleep()
	}
	r.finish(k, failed, "deadline exceeded", r.now)
	if k.state != Ready || k.last != doubtful {
		t.Errorf("it is %v: %s", k.state, k.reason)
	}
}

func (r *rig) started(k *target) instant { return k.started }

// While the prober is late, answers get more time, at most twice as much.
func TestStretch(t *testing.T) {
	for _, c := range []struct{ late, least, most time.Duration }{
		{0, 0, 0}, {90 * ms, 0, 0}, {110 * ms, 0, 0}, // a tenth of the timeout is nothing
		{400 * ms, 300 * ms, 400 * ms}, {5 * time.Second, 1200 * ms, 1200 * ms},
	} {
		r := newRig(t, Options{}, 1, one(10*time.Second, 1200*ms))
		k := r.targets["0"]
		r.oversleep(c.late)
		for k.phase != running {
			r.sleep()
		}
		if more := r.deadline(k) - k.started - 1200*ms; more < c.least || more > c.most {
			t.Errorf("%v late: a timeout of 1.2 s takes %v more, want %v to %v", c.late, more, c.least, c.most)
		}
	}
}

// What fails right after a stall may be what the prober has not read yet.
func TestSettling(t *testing.T) {
	for _, c := range []struct {
		stall, after time.Duration
		want         verdict
	}{{5 * time.Second, 0, doubtful}, {5 * time.Second, 90 * ms, doubtful}, {5 * time.Second, 110 * ms, failed}, {240 * ms, 0, failed}} {
		r := newRig(t, Options{MaxUnready: 1}, 1, one(10*time.Second, time.Second))
		k := r.targets["0"]
		r.oversleep(0)
		r.finish(k, passed, "", r.now)
		k.due = r.now + time.Second + c.stall + c.after // is due when the stall is over, or soon after
		r.heap.set(k, r.now+time.Second+c.stall+c.after)
		r.lag.planned = r.now + time.Second
		r.wakeAfter(time.Second + c.stall)
		if c.after > 0 {
			r.lag.planned = 0
			r.wakeAfter(c.after)
		}
		if k.phase != running {
			t.Fatalf("%+v: it is not checked", c)
		}
		r.finish(k, failed, "no heartbeat", r.now+ms)
		if k.last != c.want {
			t.Errorf("%v after a stall of %v: verdict %d (%s), want %d", c.after, c.stall, k.last, k.reason, c.want)
		}
	}
}

// A prober that is late checks sooner by as much, at most a quarter of the period.
func TestLateCheckSooner(t *testing.T) {
	for _, c := range []struct{ late, least, most time.Duration }{
		{0, 9200 * ms, 9800 * ms}, {time.Second, 8200 * ms, 8900 * ms}, {5 * time.Second, 6700 * ms, 7300 * ms},
	} {
		r := newRig(t, Options{}, 1, one(10*time.Second, time.Second))
		k := r.targets["0"]
		was := k.due
		r.oversleep(c.late)
		if k.phase != running {
			t.Fatal("it is not checked")
		}
		if next := k.due - was; next < c.least || next > c.most {
			t.Errorf("%v late: the next check comes %v after the last, want %v to %v", c.late, next, c.least, c.most)
		}
	}
}

// After a check that told nothing the next comes at once.
func TestDoubtRepeats(t *testing.T) {
	r := newRig(t, Options{}, 1, one(10*time.Second, time.Second))
	k := r.targets["0"]
	r.check(k)
	r.oversleep(5 * time.Second)
	r.finish(k, failed, "deadline exceeded", r.now)
	if k.last != doubtful || r.doubtful != 1 {
		t.Fatalf("verdict %d: %s", k.last, k.reason)
	}
	back := r.now
	r.check(k)
	if r.now > back+2*grace {
		t.Errorf("it is checked again after %v", r.now-back)
	}
}

// That a check hangs still counts for nothing if the prober looks too late: it
// may have been the prober that did not let it return.
func TestHangingInDoubt(t *testing.T) {
	for _, c := range []struct {
		late time.Duration
		want verdict
	}{{0, failed}, {90 * ms, failed}, {240 * ms, failed}, {260 * ms, doubtful}, {time.Hour, doubtful}} {
		r := newRig(t, Options{MaxUnready: 1}, 1, one(10*time.Second, time.Second))
		k := r.targets["0"]
		r.check(k)
		for k.phase != hung {
			r.sleep()
		}
		before := k.errors
		r.oversleep(c.late)
		if k.last != c.want || (k.errors == before) != (c.want == doubtful) {
			t.Errorf("%v late: verdict %d (%s), want %d", c.late, k.last, k.reason, c.want)
		}
	}
}

// play lets time pass, with each wake-up so late. What answers says becomes of a
// target's check: it passes, or fails at once, or is silent.
func (r *rig) play(d, late time.Duration, answers func(k *target) verdict, until func() bool) {
	const silent = doubtful
	open := map[*target]bool{}
	for end := r.now + d; r.now < end && !until(); {
		wait, _ := r.plan(r.now)
		for _, k := range r.wakeAfter(wait + late) {
			if v := answers(k); v != silent {
				r.finish(k, v, "refused", r.now)
			} else {
				open[k] = true
			}
		}
		for k := range open {
			if k.phase > running || r.now >= r.deadline(k) {
				delete(open, k)
				r.finish(k, failed, "deadline exceeded", r.now)
			}
		}
	}
}

// failBelow lets the checks of targets fail whose number is less than n, as it is then.
func failBelow(n *int) func(*target) verdict {
	return func(k *target) verdict {
		if i, _ := strconv.Atoi(k.id); i < *n {
			return failed
		}
		return passed
	}
}

// A prober that is held up again and again finds out all the same: a few failures are
// forgiven, not all.
func TestDoubtEnds(t *testing.T) {
	for _, late := range []time.Duration{95 * ms, 130 * ms, 150 * ms, 260 * ms, 400 * ms} {
		for _, how := range []verdict{failed, doubtful} {
			policy := Policy{Period: time.Second, Timeout: 500 * ms, SuccessThreshold: 1, FailureThreshold: 3}
			r := newRig(t, Options{MaxUnready: 1}, 20, policy)
			k := r.targets["7"]
			began := r.now
			r.play(time.Minute, late, func(c *target) verdict {
				if c == k {
					return how
				}
				return passed
			}, func() bool { return k.state != Ready })
			if took := r.now - began; k.state == Ready || took > 3*(policy.Timeout+3*policy.Period) {
				t.Errorf("each time %v late, and silent %v: %v after %v: %s", late, how == doubtful, k.state, took, policy.why(k.standing))
			}
			for _, c := range r.targets {
				if c != k && c.state != Ready {
					t.Errorf("each time %v late: %s is %v", late, c.id, c.state)
				}
			}
		}
	}
}

// What was seen in panic mode is no evidence when it is over.
func TestPanicLeavesNothing(t *testing.T) {
	policy := Policy{Period: time.Second, Timeout: 500 * ms, SuccessThreshold: 1, FailureThreshold: 3, LivenessThreshold: 6}
	r := newRig(t, Options{MaxUnready: 1}, 12, policy)
	cutOff := 7
	answers := failBelow(&cutOff)
	r.play(30*time.Second, 0, answers, func() bool { return false })
	if !r.inPanic || r.out > 0 {
		t.Fatalf("panic: %v, %d are out", r.inPanic, r.out)
	}
	cutOff = 6
	r.play(3*time.Second, 0, answers, func() bool { return !r.inPanic })
	over := r.now
	r.play(time.Minute, 0, answers, func() bool { return r.out > 0 })
	if after := r.now - over; r.out == 0 || after < time.Second {
		t.Errorf("%d are out %v after the panic: a single failure is enough", r.out, after)
	}
	r.play(time.Minute, 0, answers, func() bool {
		for _, k := range r.targets {
			if k.state == Dead {
				return true
			}
		}
		return false
	})
	// One check may have failed before there was panic.
	if after := r.now - over; after < 4*920*ms {
		t.Errorf("one is dead %v after the panic, before five more checks have failed", after)
	}
}

// Targets that go one after the other are no panic, however many.
func TestAttrition(t *testing.T) {
	policy := Policy{Period: time.Second, Timeout: 500 * ms, SuccessThreshold: 1, FailureThreshold: 3}
	for _, opts := range []Options{{MaxUnready: 1}, {}} {
		r := newRig(t, opts, 10, policy)
		for gone := 1; gone <= 10; gone++ {
			r.play(time.Minute, 0, failBelow(&gone), func() bool { return false })
			want := gone
			if opts.MaxUnready == 0 {
				want = min(gone, 3) // the others are held by the cap, and by that alone
			}
			if r.inPanic || r.out != want {
				t.Errorf("%d are gone, and %d are out, panic: %v", gone, r.out, r.inPanic)
			}
		}
	}
}

// Those that are down for long are not left in the count, but do not switch panic off
// for the others.
func TestPanicBesideThoseThatAreDown(t *testing.T) {
	policy := Policy{Period: time.Second, Timeout: 500 * ms, SuccessThreshold: 1, FailureThreshold: 3}
	r := newRig(t, Options{MaxUnready: 1}, 7, policy)
	down := 3
	answers := failBelow(&down)
	r.play(time.Minute, 0, answers, func() bool { return false })
	down = 7
	r.play(time.Minute, 0, answers, func() bool { return false })
	if !r.inPanic || r.out != 3 {
		t.Errorf("%d are out, panic: %v", r.out, r.inPanic)
	}
}

// A panic that comes and goes, as one target fails now and then, delays those that are
// dead, but they are found out.
func TestPanicThatComesAndGoes(t *testing.T) {
	for _, c := range []struct {
		n, dead, flapping int
		policy            Policy
		most              time.Duration
	}{
		{10, 5, 1, Policy{Period: time.Second, Timeout: 500 * ms, SuccessThreshold: 1, FailureThreshold: 3, LivenessThreshold: 6}, 30 * time.Second},
		{6, 3, 1, Policy{Period: 2 * time.Second, Timeout: time.Second, SuccessThreshold: 1, FailureThreshold: 1, LivenessThreshold: 3}, 30 * time.Second},
		{100, 45, 20, Policy{Period: 2 * time.Second, Timeout: time.Second, SuccessThreshold: 1, FailureThreshold: 1, LivenessThreshold: 3}, 2 * time.Minute},
	} {
		r := newRig(t, Options{MaxUnready: 1}, c.n, c.policy)
		turns := map[*target]int{}
		r.play(c.most, 0, func(k *target) verdict {
			n, _ := strconv.Atoi(k.id)
			turns[k]++
			if n < c.dead || n < c.dead+c.flapping && turns[k]%2 == 0 {
				return failed
			}
			return passed
		}, func() bool { return false })
		for id, k := range r.targets {
			if n, _ := strconv.Atoi(id); (n < c.dead) != (k.state == Dead) {
				t.Errorf("%d of %d are dead: %s is %v: %s", c.dead, c.n, id, k.state, c.policy.why(k.standing))
			}
		}
	}
}

// A prober that is starved so much that it hardly hears any answer knows nothing of
// all targets, and must not take them for dead.
func TestMostInDoubt(t *testing.T) {
	for _, c := range []struct {
		stall, cycle, latency, timeout time.Duration
		failures                       int
	}{
		{1200 * ms, 1298 * ms, 125 * ms, 500 * ms, 1}, {1717 * ms, 1829 * ms, 109 * ms, 500 * ms, 1},
		{555 * ms, 674 * ms, 152 * ms, 300 * ms, 2}, {2118 * ms, 2235 * ms, 151 * ms, 500 * ms, 2},
	} {
		for seed := range uint64(5) {
			f := simulation{
				policy: Policy{Period: time.Second, Timeout: c.timeout, SuccessThreshold: 1, FailureThreshold: c.failures, LivenessThreshold: 2 * c.failures}, seed: seed,
				answers: func(int, instant) (bool, time.Duration) { return true, c.latency },
				stalled: func(at instant) bool { return at > 30*time.Second && at < 60*time.Second && at%c.cycle < c.stall },
				length:  80 * time.Second,
			}.run(t)
			if len(f.unready) > 0 || len(f.dead) > 0 {
				t.Errorf("%+v, seed %d: %d are called not ready, and %d dead", c, seed, len(f.unready), len(f.dead))
			}
		}
	}
}

// With a timeout as long as the period the next check waits for the last one, and
// what the prober is late must not add up.
func TestLatenessDoesNotAddUp(t *testing.T) {
	for _, late := range []time.Duration{0, 3 * ms, 20 * ms, 45 * ms} {
		policy := Policy{Period: time.Second, Timeout: time.Second, SuccessThreshold: 1, FailureThreshold: 20}
		r := newRig(t, Options{MaxUnready: 1}, 1, policy)
		k := r.targets["0"]
		began := r.now
		r.play(time.Minute, late, func(*target) verdict { return doubtful }, func() bool { return k.state != Ready })
		if took := r.now - began; took > 21*time.Second+late+10*ms {
			t.Errorf("each time %v late: found after %v", late, took)
		}
	}
}

// After a pause what a hanging check has missed is not made up for.
func TestHangingOverAPause(t *testing.T) {
	r := newRig(t, Options{Concurrency: 1000}, 500, one(100*ms, 100*ms))
	hang := func() {
		for range 200 {
			r.sleep() // none ever ends
		}
	}
	hang()
	before := r.doubtful
	r.oversleep(time.Hour)
	if n := r.doubtful - before; n > 1000 {
		t.Errorf("%d doubtful checks of 500 that hang", n)
	}
	before = r.checks
	hang()
	if r.checks != before {
		t.Error("a check was started while the last one hangs")
	}
}

// While a check is to start, or runs, the prober looks at the clock; otherwise it
// sleeps.
func TestPulse(t *testing.T) {
	r := newRig(t, Options{}, 1, one(time.Minute, 30*time.Second))
	k := r.targets["0"]
	if wait, _ := r.plan(r.now); wait < 10*time.Second {
		t.Errorf("it sleeps for %v only, though nothing is to do", wait)
	}
	r.now = k.due
	r.wake(r.now)
	if wait, _ := r.plan(r.now); wait > pulse {
		t.Errorf("it sleeps for %v while a check is to start", wait)
	}
	r.start(r.now)
	if wait, _ := r.plan(r.now); wait > pulse {
		t.Errorf("it sleeps for %v while a check runs", wait)
	}
	r.finish(k, passed, "", r.now)
	if wait, _ := r.plan(r.now); wait < 10*time.Second {
		t.Errorf("it sleeps for %v only after the check", wait)
	}
}

// places returns the longest time in which none of the targets is due, and the
// number of those due in the fullest hundredth of a period.
func (r *rig) places(period time.Duration) (gap time.Duration, most int) {
	var due []instant
	for _, k := range r.targets {
		due = append(due, k.due)
	}
	slices.Sort(due)
	for i := 1; i < len(due); i++ {
		gap = max(gap, due[i]-due[i-1])
	}
	j := 0
	for i := range due {
		for due[i]-due[j] > period/100 {
			j++
		}
		most = max(most, i-j+1)
	}
	return gap, most
}

// Targets that were added together lie all over the period after their first
// checks.
func TestPlacing(t *testing.T) {
	const period = 10 * time.Second
	r := newRig(t, Options{Concurrency: 1000}, 1000, one(period, time.Second))
	gap, most := r.places(period)
	if gap > period/40 || most > 40 {
		t.Errorf("nothing is due for %v, and %d of 1,000 are in a hundredth of the period", gap, most)
	}
}

// When Run begins late, or the prober was away for longer than the period,
// everything is due. It is not done all at once.
func TestNoHerdAfterAStall(t *testing.T) {
	const n, period = 20_000, 10 * time.Second
	check := func(name string, r *rig) {
		t.Helper()
		var started [21]int // in half seconds
		for began := r.now; r.now < began+10*time.Second; {
			for _, k := range r.sleep() {
				started[min(20, (r.now-began)/(500*ms))]++
				r.finish(k, passed, "", r.now)
			}
		}
		total := 0
		for i, s := range started[:] {
			total += s
			if s > 3*n/20 {
				t.Errorf("%s: %d checks in half second %d", name, s, i)
			}
		}
		if total < n*9/10 {
			t.Errorf("%s: only %d checks in a period", name, total)
		}
	}
	r := newRig(t, Options{Concurrency: n}, n, one(period, time.Second))
	wait, _ := r.plan(r.now)
	r.now += wait + 25*time.Second
	check("after a stall", r)

	opts, err := Options{Concurrency: n}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	for _, late := range []time.Duration{5 * time.Second, 30 * time.Second} {
		r = &rig{core: newCore(opts, 1), t: t}
		for i := range n {
			if err := r.add(Target{ID: fmt.Sprint(i), Check: func(context.Context) (Result, error) { return Result{}, nil }}, 0); err != nil {
				t.Fatal(err)
			}
		}
		r.now = late
		r.wake(r.now)
		check(fmt.Sprint("Run ", late, " after Add"), r)
	}

	// A few are checked at once.
	r = newRig(t, Options{}, 10, one(period, time.Second))
	wait, _ = r.plan(r.now)
	r.now += wait + 25*time.Second
	began, before := r.now, r.checks
	for r.wakeAfter(0); r.now < began+100*ms; r.sleep() {
	}
	if n := r.checks - before; n != 10 {
		t.Errorf("%d of 10 are checked soon after a stall", n)
	}
}

// Targets that keep their slots until the timeout do not take them all, and if
// they make others wait, the prober says so.
func TestShortOfSlots(t *testing.T) {
	const period = time.Second
	r := newRig(t, Options{Concurrency: 16, MaxUnready: 1}, 200, one(period, time.Second))
	if doubt := r.doubts(r.now); doubt != "" {
		t.Fatalf("doubt %q with slots enough", doubt)
	}
	// 90 of 200 are silent: they would need 90 slots.
	silent := func(k *target) bool { n, _ := strconv.Atoi(k.id); return n < 90 }
	for began := r.now; r.now < began+30*time.Second; {
		for _, k := range r.sleep() {
			if !silent(k) {
				r.finish(k, passed, "", r.now)
			}
		}
		for _, k := range r.targets {
			if k.phase >= running && r.now >= k.started+time.Second {
				r.finish(k, failed, "deadline exceeded", r.now)
			}
		}
	}
	doubt := r.doubts(r.now)
	if !strings.Contains(doubt, "late for want of slots: raise Options.Concurrency, which is 16") {
		t.Errorf("doubt %q", doubt)
	}
	for _, k := range r.targets {
		if !silent(k) && (k.state != Ready || r.now > k.due+100*ms) {
			t.Errorf("%s is well, and was to be checked %v ago: %v", k.id, r.now-k.due, k.state)
		}
	}
	if r.active > 14 {
		t.Errorf("%d of 16 slots are taken by targets that are silent", r.active)
	}
}

// Checks that start late though there are slots enough, since the machine is busy,
// are no reason to ask for more.
func TestLateWithSlots(t *testing.T) {
	r := newRig(t, Options{}, 1, one(10*time.Second, time.Second))
	r.now = r.targets["0"].due
	r.wake(r.now)
	r.now += 300 * ms
	if r.start(r.now) == nil {
		t.Fatal("it is not checked")
	}
	if doubt := r.doubts(r.now); doubt != "" {
		t.Errorf("doubt %q", doubt)
	}
}

// That the prober was late is told, for a while.
func TestDoubtOfLate(t *testing.T) {
	r := newRig(t, Options{}, 1, one(10*time.Second, time.Second))
	if doubt := r.doubts(r.now); doubt != "" {
		t.Fatal(doubt)
	}
	r.oversleep(400 * ms)
	if doubt := r.doubts(r.now); doubt != "the prober itself was held up for 400ms of late" {
		t.Errorf("doubt %q", doubt)
	}
	if doubt := r.doubts(r.now + 9*time.Second); !strings.Contains(doubt, "held up") {
		t.Errorf("doubt %q after 9 s", doubt)
	}
	if doubt := r.doubts(r.now + 11*time.Second); doubt != "" {
		t.Errorf("doubt %q after 11 s", doubt)
	}
}

// In panic mode requests eject nobody: if the prober is cut off, so may the proxy
// be.
func TestNoEjectionInPanic(t *testing.T) {
	r := newRig(t, Options{MaxUnready: 1}, 10, one(time.Second, 500*ms))
	eject := func() State {
		for range 5 {
			r.observe("9", GatewayFailure, 0, func() instant { return r.now })
		}
		return r.targets["9"].state
	}
	for i := range 6 {
		k := r.targets[fmt.Sprint(i)]
		r.apply(k, k.policy.Value(), observation{verdict: failed, reason: "silence", hold: "a test"}, r.now)
	}
	if !r.inPanic {
		t.Fatal("no panic")
	}
	if s := eject(); s != Ready {
		t.Errorf("it is %v in panic mode", s)
	}
	k := r.targets["0"]
	r.apply(k, k.policy.Value(), observation{verdict: passed}, r.now)
	if s := eject(); r.inPanic || s != NotReady {
		t.Errorf("it is %v after the panic", s)
	}
}

// Requests to a target that is out are no part of what the group is compared with,
// and those before do not count against it when it is back, for whatever reason it
// was out.
func TestTrafficStartsAnew(t *testing.T) {
	r := newRig(t, Options{MaxUnready: 1}, 10, one(time.Second, 500*ms))
	k := r.targets["9"]
	observe := func(n int) {
		for range n {
			r.observe("9", ServerError, 0, func() instant { return r.now })
		}
	}
	observe(4)
	r.apply(k, k.policy.Value(), observation{verdict: failed, reason: "silence"}, r.now)
	observe(100)
	if k.state != NotReady || k.traffic.requests != 4 {
		t.Errorf("it is %v, and had %d requests, want 4", k.state, k.traffic.requests)
	}
	r.apply(k, k.policy.Value(), observation{verdict: passed}, r.now)
	observe(4)
	if k.state != Ready || k.traffic.requests != 4 {
		t.Errorf("it is %v, and had %d requests, want 4", k.state, k.traffic.requests)
	}
	observe(1)
	if k.state != NotReady {
		t.Errorf("it is %v after five failures", k.state)
	}
}
