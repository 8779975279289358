package rollout_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/weaverkit/weaverkit/rollout"
)

// A deployer keeps its versions and its proxies as it likes; this one has
// neither, and prints what it is told.
type printer struct {
	mu       sync.Mutex
	revision uint64
	began    time.Time
}

func (p *printer) Start(ctx context.Context, version string) error {
	fmt.Println("start", version)
	return nil
}

func (p *printer) Ready(ctx context.Context, version string) (rollout.Readiness, error) {
	return rollout.Readiness{Ready: true}, nil
}

func (p *printer) SetWeights(ctx context.Context, w rollout.Weights) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.Revision < p.revision {
		return nil // a call that was held up
	}
	p.revision = w.Revision
	for _, split := range w.Splits {
		fmt.Println(split)
	}
	return nil
}

func (p *printer) Stop(ctx context.Context, version string, drain time.Duration) error {
	fmt.Println("stop", version)
	return nil
}

func (p *printer) Stats(ctx context.Context) (map[string]rollout.Traffic, error) {
	n := uint64(time.Since(p.began).Milliseconds())
	return map[string]rollout.Traffic{
		"v1": {Requests: 100 * n, Failures: n / 10},
		"v2": {Requests: 10 * n, Failures: 2 * n}, // a fifth fails
	}, nil
}

// The first version is rolled out, and then a second one that turns out to be
// bad.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	runner, err := rollout.New(&printer{began: time.Now()}, rollout.Options{
		// A Store from package boltstore would survive this process.
		Config: rollout.Config{Interval: 10 * time.Millisecond}, // a second is the default
	})
	if err != nil {
		panic(err)
	}
	done := make(chan error)
	go func() { done <- runner.Run(ctx) }()

	v1 := rollout.AllAtOnce()
	v1.Version, v1.Listeners = "v1", []string{"shop"}
	v2 := rollout.Canary(
		rollout.SetWeight(10), rollout.Bake(time.Hour),
		rollout.SetWeight(50), rollout.Bake(time.Hour),
	)
	v2.Version, v2.Listeners = "v2", []string{"shop"}
	v2.Watch = &rollout.Analysis{}

	for _, plan := range []rollout.Plan{v1, v2} {
		if err := runner.Submit(ctx, plan); err != nil {
			panic(err)
		}
		state, err := runner.Wait(ctx)
		if err != nil {
			panic(err)
		}
		why, _, _ := strings.Cut(state.Reason, " failed")
		fmt.Printf("%s: %s: %s\n", plan.Version, state.Phase, why)
	}
	cancel()
	fmt.Println("run:", <-done)
	// Output:
	// start v1
	// v1 100 % at shop
	// v1: succeeded: all steps are done
	// start v2
	// v2 10 %, v1 90 % at shop
	// v1 100 % at shop
	// stop v2
	// v2: rolled back: fail: 20 % of the new version's requests
	// run: <nil>
}

func ExamplePlan_Validate() {
	plan := rollout.Canary(
		rollout.SetWeight(50).At("shop"), rollout.Bake(time.Minute),
		rollout.SetWeight(20),
	)
	plan.Version, plan.Listeners = "v2", []string{"shop", "admin"}
	fmt.Println(plan.Validate("v1"))
	// Output:
	// plan of version "v2": step 5 (set weight 20 %): the weight falls from 50 % at shop: a rollout goes forward, or back as a whole
}

func ExampleFromDuration() {
	plan := rollout.FromDuration(10*time.Minute, "eu-west", "us-east")
	for _, step := range plan.Steps {
		fmt.Println(step)
	}
	// Output:
	// start
	// wait ready
	// set weight 10 % in eu-west
	// bake 48s
	// set weight 25 % in eu-west
	// bake 48s
	// set weight 50 % in eu-west
	// bake 48s
	// set weight 75 % in eu-west
	// bake 48s
	// set weight 100 % in eu-west
	// bake 48s
	// bake 1m0s
	// set weight 10 % in us-east
	// bake 48s
	// set weight 25 % in us-east
	// bake 48s
	// set weight 50 % in us-east
	// bake 48s
	// set weight 75 % in us-east
	// bake 48s
	// set weight 100 % in us-east
	// bake 48s
	// bake 1m0s
	// promote
	// stop old
}

func ExampleCascade() {
	half := func(listeners ...string) map[rollout.Place]int {
		weights := map[rollout.Place]int{}
		for _, l := range listeners {
			weights[rollout.Place{Listener: l}] = rollout.Whole / 2
		}
		return weights
	}
	for _, split := range rollout.Cascade([]rollout.Claim{
		{Version: rollout.Version{ID: "v3", Listeners: []string{"shop", "beta"}}, Weights: half("shop", "beta")},
		{Version: rollout.Version{ID: "v2", Listeners: []string{"shop", "admin"}}, Weights: half("shop", "admin")},
		{Version: rollout.Version{ID: "v1", Listeners: []string{"shop", "admin"}}},
	}) {
		fmt.Println(split)
	}
	// Output:
	// v2 50 %, v1 50 % at admin
	// v3 100 % at beta
	// v3 50 %, v2 50 %, v1 0 % at shop
}
