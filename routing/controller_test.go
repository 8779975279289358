package routing_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/protos"
	"github.com/weaverkit/weaverkit/routing"
)

// A recorder is a publisher that keeps what it is given, and when.
type recorder struct {
	mu   sync.Mutex
	got  map[string][]*protos.Assignment
	at   map[string][]time.Duration
	t0   time.Time
	fail func(component string, a *protos.Assignment) error
}

func newRecorder() *recorder {
	return &recorder{got: map[string][]*protos.Assignment{}, at: map[string][]time.Duration{}, t0: time.Now()}
}

func (r *recorder) PublishAssignment(ctx context.Context, component string, a *protos.Assignment) error {
	if r.fail != nil {
		if err := r.fail(component, a); err != nil {
			return err
		}
	}
	if err := routing.Validate(a); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got[component] = append(r.got[component], a)
	r.at[component] = append(r.at[component], time.Since(r.t0))
	return nil
}

func (r *recorder) last(component string) *protos.Assignment {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.got[component]); n > 0 {
		return r.got[component][n-1]
	}
	return nil
}

func (r *recorder) versions(component string) []uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	var v []uint64
	for _, a := range r.got[component] {
		v = append(v, a.Version)
	}
	return v
}

// times returns when the component's assignments came.
func (r *recorder) times(component string) []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.at[component])
}

// start runs a controller until the test ends, and checks that it ends.
func start(t *testing.T, pub routing.Publisher, opts routing.ControllerOptions) (c *routing.Controller, stop func()) {
	t.Helper()
	c, err := routing.NewController(pub, opts)
	if err != nil {
		t.Fatal(err)
	}
	return c, run(t, c)
}

func run(t *testing.T, c *routing.Controller) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	}
}

func members(addrs ...string) []routing.Member {
	var m []routing.Member
	for _, a := range addrs {
		m = append(m, routing.Member{Addr: a})
	}
	return m
}

// reporter returns a source that reports, for the components' newest published
// assignments, rate(component, slice).
func reporter(r *recorder, addr string, rate func(component string, slice int) float64, components ...string) routing.Source {
	return func(context.Context) (*protos.LoadReport, error) {
		rep := &protos.LoadReport{Loads: map[string]*protos.LoadReport_ComponentLoad{}}
		for _, c := range components {
			if a := r.last(c); a != nil {
				rep.Loads[c] = even(a, func(i int) float64 { return rate(c, i) })[addr]
			}
		}
		return rep, nil
	}
}

// TestControllerServesAllComponentsWithOnePoll: one poll of a replica brings the
// load of all its components.
func TestControllerServesAllComponentsWithOnePoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := newRecorder()
		c, stop := start(t, rec, routing.ControllerOptions{Interval: 10 * time.Second, Jitter: -1})
		defer stop()
		polls := map[string]int{}
		var mu sync.Mutex
		for _, addr := range []string{"r1", "r2"} {
			src := reporter(rec, addr, func(component string, i int) float64 {
				if component == "skewed" && i%2 == 0 { // EqualSplit deals r1 the even ones
					return 3
				}
				return 1
			}, "skewed", "flat")
			c.SetSource(addr, func(ctx context.Context) (*protos.LoadReport, error) {
				mu.Lock()
				polls[addr]++
				mu.Unlock()
				return src(ctx)
			})
		}
		c.SetMembers("skewed", members("r1", "r2"))
		c.SetMembers("flat", members("r1", "r2"))
		time.Sleep(time.Second)
		if v := rec.versions("skewed"); !slices.Equal(v, []uint64{1}) {
			t.Fatalf("versions %v after the first second", v)
		}
		time.Sleep(40 * time.Second)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if polls["r1"] != 5 || polls["r2"] != 5 { // before the first assignment, and every 10 s
			t.Errorf("polls: %v", polls)
		}
		if v := rec.versions("flat"); !slices.Equal(v, []uint64{1}) {
			t.Errorf("flat: versions %v", v)
		}
		a := rec.last("skewed")
		var r1 int
		for i, s := range a.Slices {
			if slices.Contains(s.Replicas, "r1") && i%2 == 0 {
				r1++
			}
		}
		if a.Version < 2 || r1 > 35 {
			t.Errorf("skewed: r1 still has %d of the hot slices in version %d", r1, a.Version)
		}
		s, ok := c.Status("skewed")
		if !ok || s.Assignment != a || s.Published != a.Version || len(s.Changes) == 0 {
			t.Errorf("status: %+v, %v", s, ok)
		}
		if _, ok := c.Why("skewed", 1); !ok {
			t.Error("Why knows nothing")
		}
		st := c.Stats()
		if st.Polls != 10 || st.FailedPolls != 0 || st.Published != uint64(1+len(rec.versions("skewed"))) {
			t.Errorf("stats: %+v", st)
		}
	})
}

// TestControllerCoalescesMembers: many changes at once make one assignment, soon.
func TestControllerCoalescesMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := newRecorder()
		c, stop := start(t, rec, routing.ControllerOptions{Coalesce: 10 * time.Millisecond})
		defer stop()
		c.SetMembers("c", members("a"))
		time.Sleep(time.Second)
		for i := range 20 {
			var addrs []string
			for k := range i + 2 {
				addrs = append(addrs, fmt.Sprint("r", k))
			}
			c.SetMembers("c", members(addrs...))
		}
		time.Sleep(time.Second)
		c.SetMembers("c", members("r1", "r0")) // order does not matter
		time.Sleep(time.Second)
		c.SetMembers("c", members("r0", "r1"))
		time.Sleep(time.Second)
		if v := rec.versions("c"); !slices.Equal(v, []uint64{1, 2, 3}) {
			t.Errorf("versions %v", v)
		}
		if d := rec.times("c")[1] - time.Second; d > 20*time.Millisecond {
			t.Errorf("published %v after the change", d)
		}
		c.SetMembers("c", nil)
		time.Sleep(time.Second)
		if a := rec.last("c"); a.Version != 4 || len(a.Slices) != 0 {
			t.Errorf("without members: %v", a)
		}
	})
}

// TestControllerStuckSource: neither one that blocks until its context ends nor
// one that does not care for it delays the others.
func TestControllerStuckSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := newRecorder()
		var failures int
		var mu sync.Mutex
		c, stop := start(t, rec, routing.ControllerOptions{Interval: 10 * time.Second, Jitter: -1, Timeout: time.Second, OnError: func(error) {
			mu.Lock()
			failures++
			mu.Unlock()
		}})
		defer stop()
		skew := func(_ string, i int) float64 {
			if i%3 == 0 {
				return 5
			}
			return 1
		}
		c.SetSource("a", reporter(rec, "a", skew, "c"))
		c.SetSource("b", func(ctx context.Context) (*protos.LoadReport, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		c.SetSource("d", func(ctx context.Context) (*protos.LoadReport, error) {
			time.Sleep(35 * time.Second)
			return reporter(rec, "d", skew, "c")(ctx)
		})
		c.SetMembers("c", members("a", "b", "d"))
		time.Sleep(9 * time.Second)
		if at := rec.times("c"); len(at) != 1 || at[0] > 1100*time.Millisecond {
			t.Fatalf("first published at %v", at)
		}
		// At 10 s a answers at once, and nobody waits for b and d, who did not
		// answer the first time.
		before := c.Stats().Steps
		time.Sleep(1010 * time.Millisecond)
		if after := c.Stats().Steps; after != before+1 {
			t.Fatalf("%d steps, and %d right after the report", before, after)
		}
		time.Sleep(60 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		st := c.Stats()
		if failures == 0 || st.FailedPolls == 0 || st.SkippedPolls == 0 || st.LateReports == 0 {
			t.Errorf("%d failures, stats %+v", failures, st)
		}
	})
}

// TestControllerPublisherFails: the newest assignment is tried until it is
// taken, and a slow publisher of one component does not delay another.
func TestControllerPublisherFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := newRecorder()
		tries := 0
		var mu sync.Mutex
		rec.fail = func(component string, a *protos.Assignment) error {
			if component != "bad" {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			if tries++; tries < 5 {
				return errors.New("not now")
			}
			return nil
		}
		c, stop := start(t, rec, routing.ControllerOptions{})
		defer stop()
		c.SetMembers("bad", members("a"))
		c.SetMembers("good", members("a"))
		time.Sleep(100 * time.Millisecond)
		c.SetMembers("bad", members("a", "b"))
		time.Sleep(10 * time.Second)
		if v := rec.versions("good"); !slices.Equal(v, []uint64{1}) || rec.times("good")[0] > 50*time.Millisecond {
			t.Errorf("good: %v at %v", v, rec.times("good"))
		}
		if v := rec.versions("bad"); !slices.Equal(v, []uint64{2}) {
			t.Errorf("bad: %v", v)
		}
		if st := c.Stats(); st.FailedPublish != 4 || st.Superseded != 1 {
			t.Errorf("stats %+v", st)
		}
	})
}

// TestControllerRestart: versions never go back, with a snapshot or without.
func TestControllerRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := newRecorder()
		saved := map[string]routing.Snapshot{}
		var mu sync.Mutex
		opts := routing.ControllerOptions{Interval: time.Second, Save: func(_ context.Context, name string, s routing.Snapshot) error {
			mu.Lock()
			defer mu.Unlock()
			if a := rec.last(name); a != nil && a.Version >= s.Assignment.Version {
				t.Errorf("version %d is saved after it was published", s.Assignment.Version)
			}
			saved[name] = s
			return nil
		}}
		c, stop := start(t, rec, opts)
		for i := range 5 {
			c.SetMembers("c", members("a", "b", fmt.Sprint(i)))
			time.Sleep(time.Second)
		}
		stop()
		if v := rec.versions("c"); !slices.Equal(v, []uint64{1, 2, 3, 4, 5}) {
			t.Fatalf("versions %v", v)
		}

		// With the snapshot: the same assignment is published again.
		again := newRecorder()
		c, err := routing.NewController(again, routing.ControllerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Restore("c", saved["c"]); err != nil {
			t.Fatal(err)
		}
		if err := c.Restore("c", saved["c"]); err == nil {
			t.Error("restored twice")
		}
		c.SetMembers("c", members("a", "b", "4"))
		stop = run(t, c)
		time.Sleep(time.Second)
		c.SetMembers("c", members("a", "b"))
		time.Sleep(time.Second)
		if v := again.versions("c"); !slices.Equal(v, []uint64{5, 6}) {
			t.Errorf("with the snapshot: versions %v", v)
		}
		if s, ok := c.Snapshot("c"); !ok || s.Assignment.Version != 6 || len(s.State.Slices) != len(s.Assignment.Slices) {
			t.Errorf("snapshot: %v", ok)
		}
		c.Remove("c")
		c.SetMembers("c", members("z"))
		time.Sleep(time.Second)
		if v := again.versions("c"); !slices.Equal(v, []uint64{5, 6, 7}) {
			t.Errorf("removed and set again: versions %v", v)
		}
		stop()

		// Without: the replicas are asked first, and know version 5.
		fresh := newRecorder()
		c, stop = start(t, fresh, routing.ControllerOptions{})
		for _, r := range []string{"a", "b"} {
			c.SetSource(r, func(context.Context) (*protos.LoadReport, error) {
				return &protos.LoadReport{Loads: map[string]*protos.LoadReport_ComponentLoad{"c": {Version: 5}}}, nil
			})
		}
		c.SetMembers("c", members("a", "b"))
		time.Sleep(time.Second)
		if v := fresh.versions("c"); !slices.Equal(v, []uint64{6}) {
			t.Errorf("without the snapshot: versions %v", v)
		}
		stop()
	})
}

// TestControllerEndsWithWhatItStarted: Run returns when sources and publisher
// have, and can be called again.
func TestControllerEndsWithWhatItStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := newRecorder()
		c, err := routing.NewController(rec, routing.ControllerOptions{Interval: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		c.SetSource("a", func(ctx context.Context) (*protos.LoadReport, error) {
			<-ctx.Done()
			time.Sleep(300 * time.Millisecond)
			return nil, ctx.Err()
		})
		c.SetMembers("c", members("a"))
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), 5500*time.Millisecond)
			if err := c.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Run: %v", err)
			}
			cancel()
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		time.Sleep(time.Second)
		if err := c.Run(ctx); err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("second Run: %v", err)
		}
		cancel()
		<-done
		// The bubble fails if anything still runs.
	})
}

func TestControllerOptionsAreChecked(t *testing.T) {
	if _, err := routing.NewController(nil, routing.ControllerOptions{}); err == nil {
		t.Error("no publisher")
	}
	for _, o := range []routing.ControllerOptions{
		{Interval: -1}, {Timeout: -1}, {Jitter: 1}, {Generator: routing.Options{Bound: 0.5}},
	} {
		if _, err := routing.NewController(newRecorder(), o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}
