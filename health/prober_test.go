package health_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weaverkit/weaverkit/health"
)

// A patient is a target whose behaviour a test sets.
type patient struct {
	mode   atomic.Int32
	checks atomic.Int32
	at     atomic.Int64 // the start of the newest check
	free   chan struct{}
}

const (
	well = iota
	notReady
	broken
	silent // until the context ends
	stuck  // whatever the context says
	panics
)

func newPatient(mode int32) *patient {
	p := &patient{free: make(chan struct{})}
	p.mode.Store(mode)
	return p
}

func (p *patient) check(ctx context.Context) (health.Result, error) {
	p.checks.Add(1)
	p.at.Store(time.Now().UnixNano())
	switch p.mode.Load() {
	case notReady:
		return health.Result{NotReady: true, Reason: "warming up"}, nil
	case broken:
		return health.Result{}, errors.New("it is broken")
	case silent:
		<-ctx.Done()
		return health.Result{}, ctx.Err()
	case stuck:
		<-p.free
	case panics:
		panic("ouch")
	}
	return health.Result{}, nil
}

// second is a policy of one check a second.
func second() health.Policy {
	return health.Policy{
		Period: time.Second, Timeout: 500 * time.Millisecond,
		SuccessThreshold: 1, FailureThreshold: 3, LivenessThreshold: 6, StartupThreshold: 5,
	}
}

type harness struct {
	*health.Prober
	t    *testing.T
	stop context.CancelFunc
	done chan error
}

func start(t *testing.T, opts health.Options) *harness {
	t.Helper()
	p, err := health.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	h := &harness{Prober: p, t: t, stop: cancel, done: make(chan error, 1)}
	go func() { h.done <- p.Run(ctx) }()
	return h
}

func (h *harness) end() error {
	h.stop()
	return <-h.done
}

func (h *harness) add(id string, p *patient, policy health.Policy) {
	h.t.Helper()
	if err := h.Add(health.Target{ID: id, Check: p.check, Policy: policy}); err != nil {
		h.t.Fatal(err)
	}
}

// checked waits for n more checks of a target, the last one to its end.
func (h *harness) checked(p *patient, n int32) {
	for want := p.checks.Load() + n; p.checks.Load() < want; {
		time.Sleep(time.Millisecond)
	}
	if p.mode.Load() == silent {
		time.Sleep(second().Timeout)
	}
	synctest.Wait()
}

func (h *harness) want(id string, state health.State, why string) {
	h.t.Helper()
	synctest.Wait()
	s, ok := h.Status(id)
	if !ok || s.State != state || !strings.Contains(s.Why, why) {
		h.t.Errorf("%s is %v (%q), want %v with %q", id, s.State, s.Why, state, why)
	}
}

func TestLifeOfATarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, health.Options{})
		defer h.end()
		p := newPatient(broken)
		policy := second()
		policy.InitialDelay = 2 * time.Second
		policy.SuccessThreshold = 2
		h.add("a", p, policy)
		h.want("a", health.Unknown, "not checked yet")
		time.Sleep(2*time.Second - 1)
		if n := p.checks.Load(); n != 0 {
			t.Errorf("%d checks before InitialDelay", n)
		}
		time.Sleep(time.Nanosecond)
		h.want("a", health.Starting, "1 of 5 checks failed: it is broken")
		for _, step := range []struct {
			mode   int32
			checks int32
			state  health.State
			why    string
		}{
			{well, 1, health.Starting, "1 of 2 checks passed so far"},
			{well, 1, health.Ready, "its checks pass"},
			{broken, 2, health.Ready, "2 checks failed in a row, of 3"},
			{broken, 1, health.NotReady, "3 checks failed in a row: it is broken"},
			{notReady, 1, health.NotReady, "it answers, but is not ready: warming up"},
			{silent, 5, health.NotReady, "9 checks failed in a row: no answer within 500ms"},
			{silent, 1, health.Dead, "6 checks failed in a row: no answer within 500ms"},
			{well, 1, health.Dead, "1 of 2 checks passed so far"},
			{well, 1, health.Ready, "its checks pass"},
			{panics, 3, health.NotReady, "its check panicked: ouch"},
			{well, 1, health.NotReady, "1 of 2 checks passed so far"},
			{notReady, 1, health.NotReady, "it answers"},
			{well, 2, health.Ready, "its checks pass"},
		} {
			p.mode.Store(step.mode)
			h.checked(p, step.checks)
			h.want("a", step.state, step.why)
		}
		if s := h.Snapshot(); s.Panics < 3 {
			t.Errorf("%d panics counted, want at least 3", s.Panics)
		}
	})
}

func TestStartup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, health.Options{})
		defer h.end()
		for id, n := range map[string]int{"five": 5, "any": 0} {
			policy := second()
			policy.StartupThreshold = n
			h.add(id, newPatient(broken), policy)
		}
		time.Sleep(2700 * time.Millisecond)
		h.want("five", health.Starting, "no answer yet")
		time.Sleep(time.Second + time.Second/2)
		h.want("five", health.Dead, "it never answered: ")
		time.Sleep(time.Minute)
		h.want("any", health.Starting, "no answer yet")
	})
}

// A target that ceases to answer must be found out within
// Timeout + FailureThreshold × Period, whenever it does so, whether its check
// obeys its context, and whatever the relation of Timeout and Period.
func TestDetectionTime(t *testing.T) {
	for _, timeout := range []time.Duration{100 * time.Millisecond, 500 * time.Millisecond, time.Second} {
		for _, mode := range []int32{silent, stuck} {
			t.Run(fmt.Sprintf("timeout=%v/mode=%d", timeout, mode), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := start(t, health.Options{MaxUnready: 1})
					policy := second()
					policy.Timeout = timeout
					var patients []*patient
					for i := range 100 {
						p := newPatient(well)
						patients = append(patients, p)
						h.add(fmt.Sprint(i), p, policy)
					}
					time.Sleep(10 * time.Second)
					died := map[string]time.Time{}
					for i := range 25 {
						time.Sleep(37 * time.Millisecond)
						patients[i].mode.Store(mode)
						died[fmt.Sprint(i)] = time.Now()
					}
					bad, dead := 0, 0
					ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
					defer cancel()
					for c := range h.Subscribe(ctx) {
						at, ok := died[c.ID]
						if took := c.Since.Sub(at); ok && c.State == health.NotReady {
							bad++
							if took > timeout+3*time.Second || took < 1840*time.Millisecond {
								t.Errorf("%s was not ready after %v", c.ID, took)
							}
						} else if ok && c.State == health.Dead {
							dead++
							if took > timeout+6*time.Second {
								t.Errorf("%s was dead after %v", c.ID, took)
							}
						} else if c.State != health.Ready {
							t.Errorf("%s is %v: %s", c.ID, c.State, c.Why)
						}
					}
					if bad != 25 || dead != 25 {
						t.Errorf("%d and %d of 25 found", bad, dead)
					}
					for _, p := range patients {
						close(p.free)
					}
					if err := h.end(); err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}

func TestPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, health.Options{})
		defer h.end()
		p := newPatient(well)
		h.add("a", p, second())
		synctest.Wait()
		last, n := p.at.Load(), 0
		for range 200_000 {
			time.Sleep(time.Millisecond)
			if at := p.at.Load(); at != last {
				gap := time.Duration(at - last)
				n++
				if n > 1 && gap < 915*time.Millisecond || gap > time.Second {
					t.Errorf("%v between checks", gap)
				}
				last = at
			}
		}
		if n < 200 || n > 217 {
			t.Errorf("%d checks in 200 s", n)
		}
	})
}

// A check that hangs must not be started again, must count as a failure each
// period, and must not keep others from being checked.
func TestHangingChecks(t *testing.T) {
	for _, maxHung := range []int{1, 100} {
		synctest.Test(t, func(t *testing.T) {
			h := start(t, health.Options{Concurrency: 8, MaxHung: maxHung, MaxUnready: 1})
			var hanging, fine []*patient
			for i := range 6 {
				hanging = append(hanging, newPatient(stuck))
				h.add(fmt.Sprint("hanging", i), hanging[i], second())
			}
			for i := range 100 {
				fine = append(fine, newPatient(well))
				h.add(fmt.Sprint("fine", i), fine[i], second())
			}
			time.Sleep(100 * time.Second)
			for i, p := range hanging {
				if n := p.checks.Load(); n != 1 {
					t.Errorf("a hanging check was started %d times", n)
				}
				h.want(fmt.Sprint("hanging", i), health.Dead, "its check ignores its context and has been hanging for")
			}
			for _, p := range fine {
				if n := p.checks.Load(); n < 100 || n > 110 {
					t.Errorf("another was checked %d times in 100 s", n)
				}
			}
			if s := h.Snapshot(); s.Hung != 6 || s.Running != 0 || s.Waiting != 0 {
				t.Errorf("hung %d, running %d, waiting %d", s.Hung, s.Running, s.Waiting)
			}
			// Once it returns it is checked again.
			hanging[0].mode.Store(well)
			close(hanging[0].free)
			time.Sleep(2 * time.Second)
			h.want("hanging0", health.Ready, "")
			if !h.Remove("hanging1") {
				t.Error("there is no hanging1")
			}

			err := h.end()
			if err == nil || !strings.Contains(err.Error(), "5 checks ignore their context and still run: hanging1 (removed), hanging2, hanging3, hanging4, hanging5") {
				t.Errorf("Run returned %v", err)
			}
			for _, p := range hanging[1:] {
				close(p.free)
			}
		})
	}
}

func TestAllSlotsHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, health.Options{Concurrency: 2, MaxHung: 1, MaxUnready: 1})
		fine := newPatient(well)
		h.add("fine", fine, second())
		time.Sleep(5 * time.Second)
		patients := []*patient{}
		for i := range 3 {
			patients = append(patients, newPatient(stuck))
			h.add(fmt.Sprint("hanging", i), patients[i], second())
		}
		time.Sleep(10 * time.Second)
		before := fine.checks.Load()
		time.Sleep(10 * time.Second)
		if n := fine.checks.Load(); n != before {
			t.Errorf("checked %d times without a slot", n-before)
		}
		h.want("fine", health.Ready, "") // no news are no bad news
		if s := h.Snapshot(); !strings.Contains(s.Doubt, "all 2 slots hang") || s.Waiting == 0 {
			t.Errorf("doubt: %q, waiting %d", s.Doubt, s.Waiting)
		}
		for _, p := range patients {
			close(p.free)
		}
		time.Sleep(2 * time.Second)
		if n := fine.checks.Load(); n == before {
			t.Error("no check after the slots came free")
		}
		if err := h.end(); err != nil {
			t.Error(err)
		}
	})
}

// Targets that are removed while their checks hang give their slots back.
func TestRemoveWhileHanging(t *testing.T) {
	for _, after := range []time.Duration{0, 510 * time.Millisecond, 5 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			h := start(t, health.Options{Concurrency: 2, MaxHung: 2})
			var patients []*patient
			for i := range 2 {
				patients = append(patients, newPatient(stuck))
				h.add(fmt.Sprint(i), patients[i], second())
			}
			time.Sleep(5*time.Millisecond + after)
			h.Remove("0")
			h.Remove("1")
			p := newPatient(well)
			h.add("well", p, second())
			time.Sleep(10 * time.Second)
			if n := p.checks.Load(); n < 9 || n > 13 {
				t.Errorf("removed after %v: %d checks in 10 s", after, n)
			}
			// With no place for those that hang they keep their slots, and give
			// them back when they return.
			for i := range 2 {
				patients = append(patients, newPatient(stuck))
				h.add(fmt.Sprint(i), patients[2+i], second())
			}
			time.Sleep(5*time.Millisecond + after)
			h.Remove("0")
			h.Remove("1")
			time.Sleep(10 * time.Second)
			if s := h.Snapshot(); s.Hung != 4 || s.Doubt == "" {
				t.Errorf("hung %d, doubt %q", s.Hung, s.Doubt)
			}
			before := p.checks.Load()
			for _, p := range patients {
				close(p.free)
			}
			time.Sleep(5 * time.Second)
			if s := h.Snapshot(); s.Hung != 0 || s.Running != 0 || p.checks.Load() < before+4 {
				t.Errorf("hung %d, running %d, %d checks", s.Hung, s.Running, p.checks.Load()-before)
			}
			if err := h.end(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRemoveCancels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, health.Options{})
		policy := second()
		policy.Period, policy.Timeout = time.Hour, time.Hour
		ended := make(chan time.Time, 1)
		if err := h.Add(health.Target{ID: "a", Policy: policy, Check: func(ctx context.Context) (health.Result, error) {
			<-ctx.Done()
			ended <- time.Now()
			return health.Result{}, ctx.Err()
		}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		now := time.Now()
		if !h.Remove("a") || h.Remove("a") {
			t.Error("Remove did not tell whether it was there")
		}
		if at := <-ended; !at.Equal(now) {
			t.Errorf("cancelled %v later", at.Sub(now))
		}
		if _, ok := h.Status("a"); ok {
			t.Error("it has a status still")
		}
		p := newPatient(silent)
		h.add("a", p, policy) // the ID can be used again
		time.Sleep(time.Second)
		if err := h.end(); err != nil { // and Run cancels what runs
			t.Error(err)
		}
		if s, _ := h.Status("a"); s.State != health.Unknown {
			t.Errorf("a cancelled check made it %v", s.State)
		}
		if err := h.Run(t.Context()); !errors.Is(err, health.ErrRan) {
			t.Errorf("the second Run returned %v", err)
		}
	})
}

func TestNoHerd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 20_000
		h := start(t, health.Options{Concurrency: n})
		defer h.end()
		began := time.Now()
		var buckets [300]atomic.Int32
		check := func(context.Context) (health.Result, error) {
			buckets[time.Since(began)/(100*time.Millisecond)].Add(1)
			return health.Result{}, nil
		}
		for i := range n {
			if err := h.Add(health.Target{ID: fmt.Sprint(i), Check: check}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(30*time.Second - 1)
		synctest.Wait()
		// 20,000 in 10 s are 200 in a tenth of a second.
		for i := range buckets {
			if got := buckets[i].Load(); got > n/100*5/2 {
				t.Errorf("%d checks in tenth %d", got, i)
			}
		}
		if s := h.Snapshot(); s.Checks < 3*n-n/10 || s.Checks > 4*n {
			t.Errorf("%d checks in 30 s", s.Checks)
		}
	})
}

func TestFirstCheckOfOneIsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, health.Options{})
		defer h.end()
		for i := range 5 {
			time.Sleep(time.Second)
			p := newPatient(well)
			h.add(fmt.Sprint(i), p, health.Policy{})
			time.Sleep(2 * time.Millisecond)
			h.want(fmt.Sprint(i), health.Ready, "")
		}
	})
}

// The cap holds back what the prober concludes, not what a target says itself.
func TestOwnWordIsNotHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, health.Options{})
		defer h.end()
		a, b, c := newPatient(well), newPatient(well), newPatient(well)
		h.add("a", a, second())
		h.add("b", b, second())
		h.add("c", c, second())
		time.Sleep(3 * time.Second)
		a.mode.Store(notReady)
		b.mode.Store(notReady)
		time.Sleep(4 * time.Second)
		h.want("a", health.NotReady, "it answers, but is not ready: warming up")
		h.want("b", health.NotReady, "it answers, but is not ready: warming up")
		c.mode.Store(broken)
		time.Sleep(10 * time.Second)
		h.want("c", health.Ready, "it stays: 2 of 3 of its group are out already")
		c.mode.Store(notReady)
		time.Sleep(2 * time.Second)
		h.want("c", health.NotReady, "it answers, but is not ready")
	})
}

// A check that ends its goroutine is a failure, and costs nothing but that.
func TestGoexit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, health.Options{Concurrency: 2, MaxHung: 1, MaxUnready: 1})
		for i := range 5 {
			err := h.Add(health.Target{ID: fmt.Sprint("exit", i), Policy: second(), Check: func(context.Context) (health.Result, error) {
				runtime.Goexit()
				return health.Result{}, nil
			}})
			if err != nil {
				t.Fatal(err)
			}
		}
		p := newPatient(well)
		h.add("well", p, second())
		time.Sleep(60 * time.Second)
		if n := p.checks.Load(); n < 59 {
			t.Errorf("%d checks in 60 s", n)
		}
		for i := range 5 {
			h.want(fmt.Sprint("exit", i), health.Dead, "its check ended its goroutine")
		}
		if s := h.Snapshot(); s.Running != 0 || s.Hung != 0 || s.Doubt != "" {
			t.Errorf("running %d, hung %d, doubt %q", s.Running, s.Hung, s.Doubt)
		}
		if err := h.end(); err != nil {
			t.Error(err)
		}
	})
}

// What the end of Run does to checks says nothing about their targets; and what
// is known from then on is old.
func TestAfterRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, health.Options{})
		p, gone := newPatient(well), newPatient(stuck)
		h.add("a", p, second())
		h.add("gone", gone, second())
		time.Sleep(3 * time.Second)
		h.Remove("gone")
		p.mode.Store(silent)
		h.checked(p, 1)
		for before := p.checks.Load(); p.checks.Load() == before; {
			time.Sleep(time.Millisecond)
		}
		if err := h.end(); err == nil || !strings.Contains(err.Error(), "1 checks ignore their context and still run: gone (removed)") {
			t.Errorf("Run returned %v", err)
		}
		h.want("a", health.Ready, "1 check failed in a row, of 3 that it takes: no answer within 500ms")
		if s := h.Snapshot(); s.Doubt != "the prober has ended: nothing is checked any more" {
			t.Errorf("doubt %q", s.Doubt)
		}
		close(gone.free)
	})
}

// A snapshot of many targets lets others at the prober meanwhile, and has each
// target once.
func TestSnapshotOfMany(t *testing.T) {
	p, err := health.New(health.Options{})
	if err != nil {
		t.Fatal(err)
	}
	h := &harness{Prober: p, t: t}
	check := newPatient(well)
	const n = 10_000
	for i := range n {
		h.add(fmt.Sprint(i), check, health.Policy{})
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			p.Remove(fmt.Sprint("more", i-10))
			_ = p.Add(health.Target{ID: fmt.Sprint("more", i), Check: check.check})
		}
	})
	for range 20 {
		seen := map[string]bool{}
		for _, s := range p.Snapshot().Targets {
			if seen[s.ID] {
				t.Errorf("%s is there twice", s.ID)
			}
			seen[s.ID] = true
		}
		for i := range n {
			if !seen[fmt.Sprint(i)] {
				t.Fatalf("%d is missing", i)
			}
		}
	}
	close(stop)
	wg.Wait()
}

func TestPanicMode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, health.Options{MaxUnready: 1})
		defer h.end()
		var patients []*patient
		for i := range 10 {
			patients = append(patients, newPatient(well))
			h.add(fmt.Sprint(i), patients[i], second())
		}
		time.Sleep(5 * time.Second)
		for _, p := range patients[:6] {
			p.mode.Store(silent)
		}
		held := map[string]bool{}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		for c := range h.Subscribe(ctx) {
			if c.State != health.Ready {
				t.Errorf("%s is %v: %s", c.ID, c.State, c.Why)
			}
			if c.Held && strings.Contains(c.Why, "cannot tell: 6 of 10 targets fail at once, more than 50 %") {
				held[c.ID] = true
			}
		}
		cancel()
		if len(held) != 6 {
			t.Errorf("%d are held, want 6", len(held))
		}
		s := h.Snapshot()
		if !s.Panic || !strings.Contains(s.Doubt, "cannot tell") {
			t.Errorf("panic %v, doubt %q", s.Panic, s.Doubt)
		}
		// One less is no panic any more: the five are what they are.
		patients[0].mode.Store(well)
		time.Sleep(10 * time.Second)
		h.want("0", health.Ready, "its checks pass")
		for i := 1; i < 6; i++ {
			h.want(fmt.Sprint(i), health.Dead, "no answer within")
		}
		if s := h.Snapshot(); s.Panic || s.Doubt != "" {
			t.Errorf("panic %v, doubt %q", s.Panic, s.Doubt)
		}
	})
}

func TestEjectionCap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, health.Options{PanicShare: 1})
		defer h.end()
		for group, n := range map[string]int{"one": 1, "two": 2, "nine": 9} {
			for i := range n {
				p := newPatient(well)
				err := h.Add(health.Target{ID: fmt.Sprint(group, i), Group: group, Check: p.check, Policy: second()})
				if err != nil {
					t.Fatal(err)
				}
				time.AfterFunc(5*time.Second, func() { p.mode.Store(silent) })
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		out, heldBy := map[string]int{}, 0
		for _, s := range h.Snapshot().Targets {
			if s.State == health.Dead {
				out[s.Group]++
			} else if s.Held && strings.Contains(s.Why, "of its group are out already") {
				heldBy++
			}
		}
		if out["one"] != 1 || out["two"] != 1 || out["nine"] != 3 || heldBy != 7 {
			t.Errorf("out: %v, held: %d", out, heldBy)
		}
		// When one has been replaced it is the next one's turn.
		for _, s := range h.Snapshot().Targets {
			if s.Group == "two" && s.State == health.Dead {
				h.Remove(s.ID)
			}
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		for _, s := range h.Snapshot().Targets {
			if s.Group == "two" && s.State != health.Dead {
				t.Errorf("%s is %v: %s", s.ID, s.State, s.Why)
			}
		}
	})
}

func TestSubscribe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, health.Options{MaxUnready: 1, PanicShare: 1})
		defer h.end()
		patients := map[string]*patient{}
		for i := range 50 {
			id := fmt.Sprint(i)
			patients[id] = newPatient(well)
			h.add(id, patients[id], second())
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var mu sync.Mutex
		slow, fast := map[string]health.Change{}, map[string]health.Change{}
		slowSeen, fastSeen := 0, 0
		wg.Go(func() {
			for c := range h.Subscribe(ctx) {
				mu.Lock()
				slow[c.ID] = c
				slowSeen++
				mu.Unlock()
				time.Sleep(time.Second)
			}
		})
		wg.Go(func() {
			for c := range h.Subscribe(ctx) {
				mu.Lock()
				if old := fast[c.ID]; c.State != old.State && c.Previous != old.State {
					t.Errorf("%s: %v follows %v, not %v", c.ID, c.State, old.State, c.Previous)
				}
				fast[c.ID] = c
				fastSeen++
				mu.Unlock()
			}
		})
		for range 30 { // everyone flaps
			time.Sleep(10 * time.Second)
			for _, p := range patients {
				p.mode.Store(broken - p.mode.Load())
			}
		}
		time.Sleep(2 * time.Minute)
		cancel()
		wg.Wait()
		for id := range patients {
			s, _ := h.Status(id)
			if slow[id].State != s.State || fast[id].State != s.State {
				t.Errorf("%s is %v; told were %v and %v", id, s.State, slow[id].State, fast[id].State)
			}
		}
		if slowSeen > 450 || slowSeen < 300 || fastSeen < 50*30 {
			t.Errorf("the slow one was told %d, the fast one %d", slowSeen, fastSeen)
		}
	})
}

// A reader that is slow is told of a target that changes all the time as often as
// of the rest.
func TestSlowReaderIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, health.Options{MaxUnready: 1, PanicShare: 1})
		defer h.end()
		policy := second()
		policy.FailureThreshold = 1
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
		defer cancel()
		var wg sync.WaitGroup
		for i := range 101 {
			p, every := newPatient(well), 40*time.Second
			if i == 0 {
				every = 5 * time.Second
			}
			h.add(fmt.Sprint(i), p, policy)
			wg.Go(func() {
				for ctx.Err() == nil {
					time.Sleep(every)
					p.mode.Store(broken - p.mode.Load())
				}
			})
		}
		told, last, longest := map[string]int{}, time.Now(), time.Duration(0)
		for c := range h.Subscribe(ctx) {
			if told[c.ID]++; c.ID == "0" {
				longest = max(longest, time.Since(last))
				last = time.Now()
			}
			time.Sleep(500 * time.Millisecond) // 50 s for all
		}
		wg.Wait()
		// It may change just after it was told, and be the last of the next round.
		if longest > 2*time.Minute || told["0"] < told["1"]/2 {
			t.Errorf("told %d times of one that changes all the time, not for %v, and %d times of another", told["0"], longest, told["1"])
		}
	})
}

// What a reader was told is not told again, though it changed while the reader was
// being told of others.
func TestSubscribeTellsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := health.New(health.Options{})
		h := &harness{Prober: p, t: t}
		a := newPatient(well)
		h.add("a", a, second())
		h.add("b", newPatient(well), second())
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		next, stop := iter.Pull(p.Subscribe(ctx))
		defer stop()
		if c, _ := next(); c.ID != "a" || c.State != health.Unknown {
			t.Errorf("told of %s, %v", c.ID, c.State)
		}
		done := make(chan error)
		runCtx, end := context.WithCancel(t.Context())
		go func() { done <- p.Run(runCtx) }()
		time.Sleep(2 * time.Second) // both become ready
		for _, want := range []string{"b", "a"} {
			if c, _ := next(); c.ID != want || c.State != health.Ready {
				t.Errorf("told of %s, %v; want %s, ready", c.ID, c.State, want)
			}
		}
		a.mode.Store(notReady)
		if c, _ := next(); c.ID != "a" || c.State != health.NotReady {
			t.Errorf("told of %s, %v; want a, not ready", c.ID, c.State)
		}
		end()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestSubscribeStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := health.New(health.Options{})
		a := newPatient(well)
		for _, id := range []string{"a", "b", "c"} {
			if err := p.Add(health.Target{ID: id, Check: a.check}); err != nil {
				t.Fatal(err)
			}
		}
		var ids string
		for c := range p.Subscribe(t.Context()) {
			ids += c.ID
			p.Remove("b") // those that are gone are not told
			if len(ids) == 2 {
				break
			}
		}
		if ids != "ac" {
			t.Errorf("told of %q", ids)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for c := range p.Subscribe(ctx) {
			t.Errorf("told of %s after the end", c.ID)
		}
	})
}

func TestBadInput(t *testing.T) {
	p, err := health.New(health.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ok := newPatient(well).check
	with := func(f func(*health.Policy)) health.Target {
		policy := health.DefaultPolicy()
		f(&policy)
		return health.Target{ID: "x", Check: ok, Policy: policy}
	}
	if err := p.Add(health.Target{ID: "there", Check: ok}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		target health.Target
		want   string
	}{
		{"no id", health.Target{Check: ok}, "ID is empty"},
		{"no check", health.Target{ID: "x"}, `target "x": Check is nil`},
		{"no func", health.Target{ID: "x", Check: health.Func(nil)}, `target "x": Check is nil`},
		{"duplicate", health.Target{ID: "there", Check: ok}, `target "there": there is a target of that ID already`},
		{"zero period", with(func(p *health.Policy) { p.Period = 0 }), `target "x": field Policy.Period is 0s: it must be at least 1ms`},
		{"negative period", with(func(p *health.Policy) { p.Period = -1 }), "Policy.Period is -1ns"},
		{"zero timeout", with(func(p *health.Policy) { p.Timeout = 0 }), "Policy.Timeout is 0s: it must be positive"},
		{"long timeout", with(func(p *health.Policy) { p.Timeout = time.Minute }), "Policy.Timeout is 1m0s: it must not exceed Policy.Period, 10s"},
		{"delay", with(func(p *health.Policy) { p.InitialDelay = -1 }), "Policy.InitialDelay is -1ns"},
		{"success", with(func(p *health.Policy) { p.SuccessThreshold = 0 }), "Policy.SuccessThreshold is 0: it must be from 1"},
		{"failure", with(func(p *health.Policy) { p.FailureThreshold = -3 }), "Policy.FailureThreshold is -3: it must be from 1"},
		{"liveness", with(func(p *health.Policy) { p.LivenessThreshold = -1 }), "Policy.LivenessThreshold is -1: it must be from 0"},
		{"startup", with(func(p *health.Policy) { p.StartupThreshold = 1 << 30 }), "Policy.StartupThreshold is 1073741824"},
		{"endless period", with(func(p *health.Policy) { p.Period = math.MaxInt64 }), "Policy.Period is 2562047h47m16.854775807s: it must not be longer than 100 years"},
		{"endless delay", with(func(p *health.Policy) { p.InitialDelay = math.MaxInt64 }), "Policy.InitialDelay is 2562047h47m16.854775807s: it must not be longer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := p.Add(c.target); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	if err := p.Add(health.Target{ID: "there", Check: ok}); !errors.Is(err, health.ErrDuplicate) {
		t.Errorf("got %v, want ErrDuplicate", err)
	}
	if n := len(p.Snapshot().Targets); n != 1 {
		t.Errorf("%d targets after refusals, want 1", n)
	}
	for _, c := range []struct {
		opts health.Options
		want string
	}{
		{health.Options{Concurrency: -1}, "Options.Concurrency"},
		{health.Options{MaxHung: -1}, "Options.MaxHung"},
		{health.Options{PanicMinimum: -1}, "Options.PanicMinimum"},
		{health.Options{PanicShare: 1.1}, "Options.PanicShare"},
		{health.Options{MaxUnready: -0.1}, "Options.MaxUnready"},
		{health.Options{Outlier: health.Outlier{Interval: -1}}, "Options.Outlier.Interval"},
		{health.Options{Outlier: health.Outlier{MaxEjectionPercent: 101}}, "Options.Outlier.MaxEjectionPercent"},
		{health.Options{Outlier: health.Outlier{MaxEjectionTime: -1}}, "Options.Outlier.MaxEjectionTime"},
		{health.Options{Outlier: health.Outlier{BaseEjectionTime: math.MaxInt64}}, "Options.Outlier.BaseEjectionTime must not be longer than 100 years"},
		{health.Options{Outlier: health.Outlier{ConsecutiveGatewayFailure: -1}}, "Options.Outlier.ConsecutiveGatewayFailure"},
		{health.Options{Outlier: health.Outlier{FailurePercentageThreshold: -1}}, "Options.Outlier.FailurePercentageThreshold"},
		{health.Options{Outlier: health.Outlier{LatencyFactor: 0.5}}, "Options.Outlier.LatencyFactor"},
	} {
		if _, err := health.New(c.opts); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

// Everything at once, for the race detector.
func TestConcurrentUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, health.Options{Concurrency: 16, MaxHung: 4})
		policy := second()
		policy.Period, policy.Timeout = 20*time.Millisecond, 10*time.Millisecond
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					id := fmt.Sprint(w, "-", i%20)
					p := newPatient(int32(i % 6))
					close(p.free)
					_ = h.Add(health.Target{ID: id, Group: fmt.Sprint(i % 3), Check: p.check, Policy: policy})
					h.Observe(id, health.Outcome(i%3), time.Millisecond)
					h.Status(id)
					time.Sleep(3 * time.Millisecond)
					if i%5 == 0 {
						h.Remove(id)
					}
				}
			})
		}
		for range 3 {
			wg.Go(func() {
				for range h.Subscribe(ctx) {
					h.Snapshot()
				}
			})
		}
		wg.Wait()
		if err := h.end(); err != nil {
			t.Error(err)
		}
	})
}
