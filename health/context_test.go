package health_test

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weaverkit/weaverkit/health"
)

// A check gets a context that behaves as those of the standard library do,
// whatever ends it.
func TestContextOfACheck(t *testing.T) {
	type key struct{}
	for _, test := range []struct {
		name  string
		end   func(h *harness) // nil waits for the deadline
		after time.Duration
		want  error
	}{
		{"deadline", nil, time.Minute, context.DeadlineExceeded},
		{"removed", func(h *harness) { h.Remove("a") }, 7 * time.Second, context.Canceled},
		{"end of Run", func(h *harness) { h.stop() }, 7 * time.Second, context.Canceled},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, err := health.New(health.Options{})
				if err != nil {
					t.Fatal(err)
				}
				contexts := make(chan context.Context, 1)
				free := make(chan struct{})
				policy := second()
				policy.Period, policy.Timeout = time.Minute, time.Minute
				if err := p.Add(health.Target{ID: "a", Policy: policy, Check: func(ctx context.Context) (health.Result, error) {
					contexts <- ctx
					<-free
					return health.Result{}, nil
				}}); err != nil {
					t.Fatal(err)
				}
				run, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
				h := &harness{Prober: p, t: t, stop: cancel, done: make(chan error, 1)}
				go func() { h.done <- p.Run(run) }()

				began := time.Now()
				ctx := <-contexts
				if d, ok := ctx.Deadline(); !ok || !d.Equal(began.Add(time.Minute)) {
					t.Errorf("the deadline is %v after the start", d.Sub(began))
				}
				if ctx.Value(key{}) != "value" || ctx.Err() != nil {
					t.Errorf("value %v, error %v", ctx.Value(key{}), ctx.Err())
				}
				goroutines := runtime.NumGoroutine()
				child, cancelChild := context.WithCancel(ctx)
				defer cancelChild()
				released, release := context.WithTimeout(ctx, time.Hour)
				release()
				called := make(chan time.Time, 1)
				context.AfterFunc(ctx, func() { called <- time.Now() })
				stop := context.AfterFunc(ctx, func() { t.Error("it was stopped, and was called") })
				if !stop() || stop() {
					t.Error("stop does not tell whether it has stopped the call")
				}
				if n := runtime.NumGoroutine(); n > goroutines {
					t.Errorf("%d goroutines to pass the end on", n-goroutines)
				}
				if errors.Is(released.Err(), context.DeadlineExceeded) {
					t.Error("its release looks like its deadline")
				}
				if test.end != nil {
					time.Sleep(test.after)
					test.end(h)
				}
				<-child.Done()
				<-ctx.Done()
				if took := time.Since(began); took < test.after || took > test.after+10*time.Millisecond {
					t.Errorf("it has ended after %v", took)
				}
				for name, c := range map[string]context.Context{"context": ctx, "child": child} {
					if c.Err() != test.want || context.Cause(c) != test.want {
						t.Errorf("%s: error %v, cause %v", name, c.Err(), context.Cause(c))
					}
				}
				if at := <-called; at.Before(began.Add(test.after)) {
					t.Error("AfterFunc's function was called before the end")
				}
				if context.AfterFunc(ctx, func() { called <- time.Now() })() {
					t.Error("a call was stopped after the end")
				}
				<-called
				close(free)
				if err := h.end(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// What ended a context stays what ended it.
func TestCauseOfTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := health.New(health.Options{})
		if err != nil {
			t.Fatal(err)
		}
		contexts := make(chan context.Context, 2)
		for _, id := range []string{"late", "ended"} {
			policy := second()
			policy.Period, policy.Timeout = time.Minute, time.Minute
			if id == "late" {
				policy.Timeout = time.Second
			}
			if err := p.Add(health.Target{ID: id, Policy: policy, Check: func(ctx context.Context) (health.Result, error) {
				contexts <- ctx
				<-ctx.Done()
				return health.Result{}, ctx.Err()
			}}); err != nil {
				t.Fatal(err)
			}
		}
		run, cancel := context.WithCancelCause(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(run) }()
		causes := map[bool]error{}
		seen := []context.Context{<-contexts, <-contexts}
		time.Sleep(10 * time.Second)
		why := errors.New("shutting down")
		cancel(why)
		<-done
		for _, ctx := range seen {
			causes[errors.Is(ctx.Err(), context.DeadlineExceeded)] = context.Cause(ctx)
		}
		if causes[true] != context.DeadlineExceeded || causes[false] != why {
			t.Errorf("the one that was late has the cause %v, the one that Run ended %v", causes[true], causes[false])
		}
	})
}

// The end of Run's context may come first, and then a check is told of that.
func TestContextOfARunWithADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := health.New(health.Options{})
		if err != nil {
			t.Fatal(err)
		}
		run, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		want, _ := run.Deadline()
		if err := p.Add(health.Target{ID: "a", Check: func(ctx context.Context) (health.Result, error) {
			if d, ok := ctx.Deadline(); !ok || !d.Equal(want) {
				t.Errorf("the deadline is %v later", d.Sub(want))
			}
			<-ctx.Done()
			if ctx.Err() != context.DeadlineExceeded {
				t.Errorf("it has ended with %v", ctx.Err())
			}
			return health.Result{}, ctx.Err()
		}, Policy: health.Policy{Period: time.Minute, Timeout: time.Minute, SuccessThreshold: 1, FailureThreshold: 1}}); err != nil {
			t.Fatal(err)
		}
		if err := p.Run(run); err != nil {
			t.Error(err)
		}
		if n := p.Snapshot().Checks; n != 1 {
			t.Errorf("%d checks", n)
		}
	})
}

// What a check leaves behind, derived contexts too, ends with it.
func TestContextEndsWithItsCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, health.Options{})
		left := make(chan context.Context, 2)
		if err := h.Add(health.Target{ID: "a", Policy: second(), Check: func(ctx context.Context) (health.Result, error) {
			child, cancel := context.WithTimeout(ctx, time.Hour)
			context.AfterFunc(child, cancel)
			select {
			case left <- ctx:
				left <- child
			default:
			}
			return health.Result{}, nil
		}}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			ctx := <-left
			<-ctx.Done()
			if ctx.Err() != context.Canceled {
				t.Errorf("it has ended with %v", ctx.Err())
			}
		}
		if err := h.end(); err != nil {
			t.Error(err)
		}
	})
}
