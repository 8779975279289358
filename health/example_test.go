package health_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"time"

	"github.com/weaverkit/weaverkit/health"
)

// A target becomes ready, ceases to answer, is taken out, and is called dead.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	prober, err := health.New(health.Options{})
	if err != nil {
		panic(err)
	}
	done := make(chan error)
	go func() { done <- prober.Run(ctx) }()

	var stopped atomic.Bool
	err = prober.Add(health.Target{
		ID: "cart/1",
		Check: health.Func(func(context.Context) error {
			if stopped.Load() {
				return errors.New("connection refused")
			}
			return nil
		}),
		Policy: health.Policy{
			Period: 500 * time.Millisecond, Timeout: 500 * time.Millisecond,
			SuccessThreshold: 1, FailureThreshold: 1, LivenessThreshold: 2,
		},
	})
	if err != nil {
		panic(err)
	}
	for c := range prober.Subscribe(ctx) {
		if c.State == health.Unknown {
			continue
		}
		fmt.Printf("%s is %v: %s\n", c.ID, c.State, c.Why)
		if c.State == health.Ready {
			stopped.Store(true)
		}
		if c.State == health.Dead {
			prober.Remove(c.ID) // and replace it
			cancel()
		}
	}
	fmt.Println("run:", <-done)
	// Output:
	// cart/1 is ready: its checks pass
	// cart/1 is not ready: 1 check failed in a row: connection refused
	// cart/1 is dead: 2 checks failed in a row: connection refused
	// run: <nil>
}

func ExampleHTTP() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/warming" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	for _, path := range []string{"/healthz", "/warming"} {
		result, err := health.HTTP(server.URL+path, nil)(context.Background())
		fmt.Printf("%+v %v\n", result, err)
	}
	// Output:
	// {NotReady:false Reason:} <nil>
	// {NotReady:true Reason:503 Service Unavailable} <nil>
}

// A supervisor asks the policy what to do each time that its child ends.
func ExampleRestart() {
	policy := health.Restart{Base: time.Second, Limit: 3, Window: time.Minute}
	var history health.RestartHistory
	now := time.Unix(0, 0)
	for {
		var wait time.Duration
		var err error
		history, wait, err = policy.Next(history, now, 0, 0.5) // rand.Float64()
		if errors.Is(err, health.ErrGaveUp) {
			fmt.Println(err)
			return
		}
		fmt.Println("restart in", wait)
		now = now.Add(wait)
	}
	// Output:
	// restart in 1s
	// restart in 2s
	// restart in 4s
	// gave up: it was restarted 3 times within 1m0s, and has failed again
}

func ExampleProber_Observe() {
	prober, err := health.New(health.Options{})
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { _ = prober.Run(ctx) }()
	if err := prober.Add(health.Target{ID: "cart/1", Check: health.Func(func(context.Context) error { return nil })}); err != nil {
		panic(err)
	}
	for c := range prober.Subscribe(ctx) {
		switch c.State {
		case health.Ready:
			for range 5 { // the proxy tells how requests went
				prober.Observe(c.ID, health.ServerError, 3*time.Millisecond)
			}
		case health.NotReady:
			fmt.Println(c.Why)
			return
		}
	}
	// Output:
	// ejected because of its traffic: for 30s, since 5 requests in a row failed
}
