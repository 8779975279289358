package envelopekit_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/envelope"
	"github.com/ServiceWeaver/weaver/runtime/protos"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/envelopekit/envelopetest"
	"github.com/weaverkit/weaverkit/envelopekit/placement"
)

// The application of most tests: main uses cart and catalog, cart uses stock.
const (
	cart    = "shop/Cart"
	catalog = "shop/Catalog"
	stock   = "shop/Stock"
	orphan  = "shop/Orphan" // nothing that runs uses it
)

var shopCalls = []placement.Edge{
	{From: placement.Main, To: cart},
	{From: placement.Main, To: catalog},
	{From: cart, To: stock},
	{From: orphan, To: stock},
}

// A harness runs a deployment of scripted weavelets in a synctest bubble.
type harness struct {
	t    *testing.T
	fake *envelopetest.Launcher
	app  *envelopekit.App
	d    *envelopekit.Deployment
	run  chan error // Run's result
}

// start deploys the shop. prepare may change options and scripts.
func start(t *testing.T, prepare func(*envelopekit.App, *envelopetest.Launcher, *envelopekit.Options)) *harness {
	t.Helper()
	h := &harness{
		t:    t,
		fake: &envelopetest.Launcher{Calls: shopCalls, Scripts: map[string]envelopetest.Script{}},
		app:  envelopetest.App("shop", shopCalls...),
		run:  make(chan error, 1),
	}
	opts := envelopekit.Options{Launcher: h.fake}
	if prepare != nil {
		prepare(h.app, h.fake, &opts)
	}
	var err error
	h.d, err = envelopekit.New(h.app, opts)
	require.NoError(t, err)
	go func() { h.run <- h.d.Run(t.Context()) }()
	return h
}

// stop stops the deployment and checks that nothing is left.
func (h *harness) stop() {
	h.t.Helper()
	require.NoError(h.t, h.d.Stop(context.Background()))
	require.NoError(h.t, <-h.run)
	for _, w := range h.fake.All() {
		select {
		case <-w.Done():
		default:
			h.t.Errorf("%s/%d still runs", w.Spec.Group, w.Spec.Replica)
		}
	}
	assert.Empty(h.t, h.fake.Violations())
}

// up waits until the shop is up.
func (h *harness) up() {
	h.t.Helper()
	h.fake.Await(h.t, "shop.Stock", 1)
	h.fake.Await(h.t, "main", 1)
	synctest.Wait()
	h.settle()
}

// settle lets the polls for readiness of new replicas come round.
func (h *harness) settle() {
	time.Sleep(300 * time.Millisecond)
	synctest.Wait()
}

func (h *harness) replica(group string, number int) envelopekit.ReplicaStatus {
	h.t.Helper()
	for _, g := range h.d.Status().Groups {
		if g.Name != group {
			continue
		}
		for _, r := range g.Replicas {
			if r.Number == number {
				return r
			}
		}
	}
	return envelopekit.ReplicaStatus{}
}

func (h *harness) why(group string) string {
	h.t.Helper()
	why, err := h.d.Why(group)
	require.NoError(h.t, err)
	return why
}

// events returns the events so far that match, as strings.
func (h *harness) events(match func(envelopekit.Event) bool) []string {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var got []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range h.d.Events(ctx, 0) {
			if match(e) {
				got = append(got, e.String())
			}
		}
	}()
	synctest.Wait()
	cancel()
	<-done
	return got
}

func TestStartsOnDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, nil)
		h.up()
		assert.Len(t, h.fake.Live("main"), 1)
		assert.Len(t, h.fake.Live("shop.Cart"), 1)
		assert.Len(t, h.fake.Live("shop.Catalog"), 1)
		assert.Len(t, h.fake.Live("shop.Stock"), 1)
		assert.Empty(t, h.fake.Live("shop.Orphan"))
		assert.Contains(t, h.why("shop.Orphan"), "no component that runs has asked for shop.Orphan")
		assert.Contains(t, h.why("main"), "1 of 1 replicas serve")
		assert.True(t, h.d.Status().Ready())
		assert.True(t, h.fake.Live("main")[0].Spec.Args.RunMain)
		assert.False(t, h.fake.Live("shop.Cart")[0].Spec.Args.RunMain)
		h.stop()
	})
}

func TestPrestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		h := start(t, func(_ *envelopekit.App, fake *envelopetest.Launcher, o *envelopekit.Options) {
			o.Prestart = true
			fake.Scripts[placement.Main] = func(ctx context.Context, w *envelopetest.Weavelet) error {
				<-release
				return w.Use(ctx, catalog, false)
			}
		})
		synctest.Wait()
		require.Len(t, h.fake.Live("shop.Stock"), 1, "its process runs before anybody needs it")
		assert.Empty(t, h.fake.Live("shop.Stock")[0].Components(), "but none of its components")
		close(release)
		h.fake.Await(t, "shop.Catalog", 1)
		h.stop()
	})
}

func TestRoutingGoesToSubscribersOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, func(_ *envelopekit.App, _ *envelopetest.Launcher, o *envelopekit.Options) {
			o.ReplicasOf = map[string]int{"shop.Cart": 2}
		})
		h.fake.Await(t, "shop.Cart", 2)
		h.up()
		main, carts := h.fake.Live("main")[0], h.fake.Live("shop.Cart")
		assert.Equal(t, []string{cart, catalog}, main.Subscriptions())
		assert.Equal(t, []string{stock}, carts[0].Subscriptions())
		assert.Empty(t, h.fake.Live("shop.Stock")[0].Subscriptions())
		want := []string{carts[0].Address(), carts[1].Address()}
		slices.Sort(want)
		assert.Equal(t, want, main.Routing(cart).Replicas)
		assert.False(t, main.Routing(cart).Local)
		h.stop()
	})
}

func TestColocatedComponentsAreLocal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, func(_ *envelopekit.App, _ *envelopetest.Launcher, o *envelopekit.Options) {
			o.Placement = placement.Policy(placement.Together)
		})
		main := h.fake.Await(t, "main", 1)
		h.settle()
		assert.Equal(t, []string{placement.Main, cart, catalog, stock}, main.Components())
		for _, c := range []string{cart, catalog, stock} {
			assert.True(t, main.Routing(c).Local, c)
			assert.Len(t, main.Routings(c), 1, "local routing never changes")
		}
		h.stop()
	})
}

// Routed components are called through the network even within a group, their
// hosts know the assignment, and versions rise by one with each change.
func TestRoutedComponents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, func(_ *envelopekit.App, fake *envelopetest.Launcher, _ *envelopekit.Options) {
			fake.Scripts[placement.Main] = func(ctx context.Context, w *envelopetest.Weavelet) error {
				return w.Use(ctx, cart, true)
			}
		})
		h.up()
		require.NoError(t, h.d.Scale("shop.Cart", 3))
		h.fake.Await(t, "shop.Cart", 3)
		h.settle()
		h.fake.Live("shop.Cart")[1].Kill()
		h.fake.Await(t, "shop.Cart", 3)
		h.settle()

		main := h.fake.Live("main")[0]
		last := main.Routing(cart)
		require.NotNil(t, last.Assignment)
		require.Len(t, last.Replicas, 3)
		owners := map[string]bool{}
		for _, s := range last.Assignment.Slices {
			for _, r := range s.Replicas {
				owners[r] = true
				assert.Contains(t, last.Replicas, r)
			}
		}
		assert.Len(t, owners, 3)
		assert.Equal(t, h.d.Assignments()[cart].Version, last.Assignment.Version)
		for _, w := range h.fake.Live("shop.Cart") {
			assert.Equal(t, last.Assignment, w.Routing(cart).Assignment, "the host measures load by the assignment")
		}
		assert.Contains(t, main.Subscriptions(), cart)
		h.stop() // checks that no version went back
	})
}

func TestAssigner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mode := "good"
		var mu sync.Mutex
		set := func(m string) { mu.Lock(); defer mu.Unlock(); mode = m }
		h := start(t, func(_ *envelopekit.App, fake *envelopetest.Launcher, o *envelopekit.Options) {
			fake.Scripts[placement.Main] = func(ctx context.Context, w *envelopetest.Weavelet) error {
				return w.Use(ctx, cart, true)
			}
			o.Assigner = envelopekit.AssignerFunc(func(c string, replicas []string, prev *protos.Assignment) (*protos.Assignment, error) {
				mu.Lock()
				defer mu.Unlock()
				switch mode {
				case "same":
					return prev, nil
				case "error":
					return nil, errors.New("no idea")
				case "empty":
					return &protos.Assignment{Slices: []*protos.Assignment_Slice{{}}}, nil
				}
				return &protos.Assignment{Version: 99, Slices: []*protos.Assignment_Slice{{Replicas: replicas[:1]}}}, nil
			})
		})
		h.up()
		main := h.fake.Live("main")[0]
		assert.EqualValues(t, 1, main.Routing(cart).Assignment.Version, "the deployment counts versions")

		set("same")
		h.d.Reassign()
		synctest.Wait()
		assert.EqualValues(t, 1, main.Routing(cart).Assignment.Version, "nothing has changed")

		for i, m := range []string{"error", "empty"} {
			set(m)
			h.d.Reassign()
			synctest.Wait()
			a := main.Routing(cart).Assignment
			assert.EqualValues(t, 2, a.Version, "%d: an equal split instead, the second time the same", i)
			assert.Len(t, a.Slices, 8)
		}
		assert.NotEmpty(t, h.events(func(e envelopekit.Event) bool { return e.Kind == envelopekit.Problem }))

		replicas := main.Routing(cart).Replicas
		good := &protos.Assignment{Slices: []*protos.Assignment_Slice{{Replicas: replicas}, {Start: 1 << 63, Replicas: replicas}}}
		ctx := context.Background()
		require.NoError(t, h.d.PublishAssignment(ctx, cart, good))
		synctest.Wait()
		assert.EqualValues(t, 3, main.Routing(cart).Assignment.Version)
		assert.Len(t, main.Routing(cart).Assignment.Slices, 2)
		for name, a := range map[string]*protos.Assignment{
			"nil":          nil,
			"no slices":    {},
			"not at 0":     {Slices: []*protos.Assignment_Slice{{Start: 1, Replicas: replicas}}},
			"no replicas":  {Slices: []*protos.Assignment_Slice{{}}},
			"unknown":      {Slices: []*protos.Assignment_Slice{{Replicas: []string{"tcp://nowhere:1"}}}},
			"twice":        {Slices: []*protos.Assignment_Slice{{Replicas: append(replicas, replicas...)}}},
			"out of order": {Slices: []*protos.Assignment_Slice{{Replicas: replicas}, {Replicas: replicas}}},
		} {
			assert.Error(t, h.d.PublishAssignment(ctx, cart, a), name)
		}
		assert.ErrorContains(t, h.d.PublishAssignment(ctx, catalog, good), "not routed")
		assert.ErrorContains(t, h.d.PublishAssignment(ctx, "shop/Nope", good), "no component")
		h.stop()
	})
}

// With Options.Members assignments come from elsewhere, and callers wait for
// the first one.
func TestMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var members [][]string
		h := start(t, func(_ *envelopekit.App, fake *envelopetest.Launcher, o *envelopekit.Options) {
			slowStarts(nil, fake, o)
			fake.Scripts[placement.Main] = func(ctx context.Context, w *envelopetest.Weavelet) error {
				return w.Use(ctx, cart, true)
			}
			o.Members = func(component string, replicas []string) {
				assert.Equal(t, cart, component)
				mu.Lock()
				defer mu.Unlock()
				members = append(members, replicas)
			}
		})
		time.Sleep(time.Minute)
		synctest.Wait()
		main := h.fake.Live("main")[0]
		require.Nil(t, main.Routing(cart), "callers wait for the first assignment")
		require.Len(t, members, 1)

		publish := func(version uint64, replicas ...string) {
			t.Helper()
			a := &protos.Assignment{Version: version, Slices: []*protos.Assignment_Slice{{Replicas: replicas}}}
			require.NoError(t, h.d.PublishAssignment(t.Context(), cart, a))
			h.settle()
		}
		publish(7, members[0]...)
		assert.EqualValues(t, 7, main.Routing(cart).Assignment.Version, "the publisher counts versions")
		assert.Equal(t, members[0], main.Routing(cart).Replicas)

		h.fake.Live("shop.Cart")[0].Kill()
		h.fake.Await(t, "shop.Cart", 1)
		h.settle()
		require.Len(t, members, 3)
		assert.Empty(t, members[1])
		assert.Equal(t, members[2], main.Routing(cart).Replicas)
		assert.EqualValues(t, 7, main.Routing(cart).Assignment.Version, "the last one stands until there is another")
		publish(9, members[2]...)
		assert.EqualValues(t, 9, main.Routing(cart).Assignment.Version)
		publish(3, members[2][0])
		assert.EqualValues(t, 9, main.Routing(cart).Assignment.Version, "nothing has changed")
		assert.Error(t, h.d.PublishAssignment(t.Context(), cart, &protos.Assignment{Slices: []*protos.Assignment_Slice{{Replicas: members[0]}}}))

		load := &protos.LoadReport{Loads: map[string]*protos.LoadReport_ComponentLoad{cart: {Version: 9}}}
		h.fake.Live("shop.Cart")[0].SetLoad(load)
		got, err := h.d.LoadAt(t.Context(), members[2][0])
		require.NoError(t, err)
		assert.Equal(t, load, got)
		_, err = h.d.LoadAt(t.Context(), members[0][0])
		assert.ErrorIs(t, err, envelopekit.ErrEnded)
		h.stop()
	})
}

func TestKilledReplicaIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, slowStarts)
		h.up()
		main, old := h.fake.Live("main")[0], h.fake.Live("shop.Cart")[0]
		before := time.Now()
		old.Kill()
		next := h.fake.Await(t, "shop.Cart", 1)
		synctest.Wait()
		assert.Less(t, time.Since(before), 50*time.Millisecond, "the first restart is immediate")
		assert.Equal(t, []string{next.Address()}, main.Routing(cart).Replicas)
		var empty bool
		for _, r := range main.Routings(cart) {
			empty = empty || len(r.Replicas) == 0
		}
		assert.True(t, empty, "the dead replica was taken out first")
		h.settle()
		assert.Equal(t, 1, h.replica("shop.Cart", 1).Restarts)
		assert.Equal(t, 0, h.replica("shop.Catalog", 1).Restarts)
		assert.Len(t, h.fake.All(), 5, "the others never noticed")
		h.stop()
	})
}

func TestReplacementJoinsWhenItCanServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, func(_ *envelopekit.App, fake *envelopetest.Launcher, o *envelopekit.Options) {
			o.ReplicasOf = map[string]int{cart: 2}
			fake.Scripts[cart] = func(ctx context.Context, w *envelopetest.Weavelet) error {
				time.Sleep(10 * time.Second) // a slow Init
				return nil
			}
			fake.Scripts[placement.Main] = func(ctx context.Context, w *envelopetest.Weavelet) error {
				return w.Use(ctx, cart, false)
			}
		})
		time.Sleep(5 * time.Second)
		synctest.Wait()
		main := h.fake.Live("main")[0]
		assert.Len(t, main.Routing(cart).Replicas, 1, "callers wait at the first replica")
		assert.Contains(t, h.why("shop.Cart"), "waits for the Init method of shop.Cart to return; callers wait for it")
		assert.Equal(t, envelopekit.Starting, h.replica("shop.Cart", 2).State)
		time.Sleep(6 * time.Second)
		h.settle()
		assert.Len(t, main.Routing(cart).Replicas, 2)
		assert.Equal(t, 2, h.d.Status().Groups[1].Serving())
		h.stop()
	})
}

// A component whose Init fails never works; its runtime only logs that.
func TestFailedInitFailsTheDeployment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, func(_ *envelopekit.App, fake *envelopetest.Launcher, o *envelopekit.Options) {
			fake.Scripts[stock] = func(context.Context, *envelopetest.Weavelet) error {
				return errors.New("no such database")
			}
		})
		err := <-h.run
		require.ErrorContains(t, err, "group shop.Stock failed 3 times in a row: component shop.Stock cannot be made: no such database")
		assert.Empty(t, h.fake.Live("main"))
	})
}

func TestSlowInitIsExplained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, func(_ *envelopekit.App, fake *envelopetest.Launcher, o *envelopekit.Options) {
			fake.Scripts[stock] = func(ctx context.Context, w *envelopetest.Weavelet) error {
				w.Log("ERROR", "cannot reach", "component", "db")
				<-ctx.Done()
				return ctx.Err()
			}
		})
		time.Sleep(time.Hour)
		why := h.why("shop.Stock")
		assert.Contains(t, why, "0 of 1 replicas serve")
		assert.Contains(t, why, "waits for the Init method of shop.Stock to return; callers wait for it")
		assert.Contains(t, why, "the last error that it logged: cannot reach db:")
		assert.False(t, h.d.Status().Ready())
		assert.Len(t, h.fake.All(), 4, "an Init may take as long as it likes")
		h.stop()
	})
}

func TestHungReplicaIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, func(_ *envelopekit.App, _ *envelopetest.Launcher, o *envelopekit.Options) {
			o.ReplicasOf = map[string]int{cart: 2}
		})
		h.fake.Await(t, "shop.Cart", 2)
		h.up()
		main, hung := h.fake.Live("main")[0], h.fake.Live("shop.Cart")[0]
		hung.Hang()
		before := time.Now()

		// Meanwhile the others are told at once what changes.
		require.NoError(t, h.d.Scale("shop.Catalog", 2))
		h.fake.Await(t, "shop.Catalog", 2)
		h.settle()
		assert.Less(t, time.Since(before), time.Second)
		assert.Len(t, main.Routing(catalog).Replicas, 2)

		<-hung.Done()
		assert.LessOrEqual(t, time.Since(before), 8*time.Second)
		h.fake.Await(t, "shop.Cart", 2)
		h.settle()
		assert.NotContains(t, main.Routing(cart).Replicas, hung.Address())
		assert.Len(t, main.Routing(cart).Replicas, 2)
		assert.NotEmpty(t, h.events(func(e envelopekit.Event) bool {
			return e.State == envelopekit.Waiting && strings.Contains(e.Reason, "does not answer")
		}))
		h.stop()
	})
}

func TestSlowReplicaIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, nil)
		h.up()
		slow := h.fake.Live("shop.Cart")[0]
		for range 20 { // it misses one question now and then
			slow.Hang()
			time.Sleep(2500 * time.Millisecond)
			slow.Resume()
			time.Sleep(2500 * time.Millisecond)
		}
		assert.Len(t, h.fake.All(), 4)
		h.stop()
	})
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var starts []time.Time
		var mu sync.Mutex
		fail := false
		h := start(t, func(_ *envelopekit.App, fake *envelopetest.Launcher, _ *envelopekit.Options) {
			fake.Starting = func(_ context.Context, spec envelopekit.Spec) error {
				mu.Lock()
				defer mu.Unlock()
				if spec.Group != "shop.Cart" || !fail {
					return nil
				}
				starts = append(starts, time.Now())
				return errors.New("cannot")
			}
		})
		h.up()
		time.Sleep(10 * time.Second) // it is stable now
		mu.Lock()
		fail = true
		mu.Unlock()
		h.fake.Live("shop.Cart")[0].Kill()
		time.Sleep(5 * time.Second)
		assert.Contains(t, h.why("shop.Cart"), "starts again in")
		assert.Equal(t, envelopekit.Waiting, h.replica("shop.Cart", 1).State)
		time.Sleep(10 * time.Minute)
		synctest.Wait()

		mu.Lock()
		defer mu.Unlock()
		require.Len(t, starts, 15, "with the kill these are 16 failures in a row")
		want := 100 * time.Millisecond
		for i := 1; i < len(starts); i++ {
			gap := starts[i].Sub(starts[i-1])
			assert.InDelta(t, want.Seconds(), gap.Seconds(), want.Seconds()*0.2001, "start %d", i)
			want = min(2*want, 10*time.Second)
		}
		assert.Equal(t, envelopekit.Failed, h.replica("shop.Cart", 1).State)
		assert.Contains(t, h.why("shop.Cart"), "given up after 16 failures in a row; the last: cannot")
		assert.Len(t, h.fake.Live("main"), 1, "the others go on")

		// Scaling gives it another chance.
		fail = false
		require.NoError(t, h.d.Scale("shop.Cart", 1))
		mu.Unlock()
		h.fake.Await(t, "shop.Cart", 1)
		mu.Lock()
		h.stop()
	})
}

func TestCrashAtStartFailsTheDeployment(t *testing.T) {
	for _, group := range []string{"main", "shop.Stock"} {
		t.Run(group, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				component := map[string]string{"main": placement.Main, "shop.Stock": stock}[group]
				h := start(t, func(_ *envelopekit.App, fake *envelopetest.Launcher, o *envelopekit.Options) {
					fake.Scripts[component] = func(_ context.Context, w *envelopetest.Weavelet) error {
						go w.Exit(1, "panic: no config", "goroutine 1 [running]:")
						<-w.Done()
						return errors.New("gone")
					}
				})
				err := <-h.run
				require.ErrorContains(t, err, "deploy shop: group "+group+" failed 3 times in a row")
				require.ErrorContains(t, err, "panic: no config")
				var ge *envelopekit.GroupError
				require.ErrorAs(t, err, &ge)
				assert.Equal(t, group, ge.Group)
				assert.Contains(t, h.why(group), "the deployment stops because it failed")
				assert.Empty(t, h.fake.Live("main"))
				assert.Empty(t, h.fake.Live("shop.Stock"))
			})
		})
	}
}

// Being killed again and again soon after the start says nothing about the
// application.
func TestKillsAreNoFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, nil)
		for range 6 {
			h.up()
			h.fake.Live("shop.Stock")[0].Kill()
		}
		h.up()
		h.stop()
	})
}

func TestMainGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, func(_ *envelopekit.App, fake *envelopetest.Launcher, o *envelopekit.Options) {
			o.Restart.GiveUp = 5
		})
		h.up()
		time.Sleep(time.Minute)
		for range 5 {
			h.fake.Await(t, "main", 1).Exit(3, "out of cheese")
		}
		err := <-h.run
		require.ErrorContains(t, err, "group main failed 5 times in a row")
		require.ErrorContains(t, err, "out of cheese")
	})
}

func TestMainReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, func(_ *envelopekit.App, _ *envelopetest.Launcher, o *envelopekit.Options) {
			o.ReplicasOf = map[string]int{"main": 2}
		})
		h.fake.Await(t, "main", 2)
		h.settle()
		mains := h.fake.Live("main")
		mains[0].Exit(0)
		h.settle()
		assert.Equal(t, envelopekit.Done, h.replica("main", mains[0].Spec.Replica).State)
		assert.Len(t, h.fake.Live("main"), 1, "the other goes on")
		mains[1].Exit(0)
		require.NoError(t, <-h.run)
		assert.Empty(t, h.fake.Live("shop.Cart"))
	})
}

func TestScale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, nil)
		h.up()
		main, first := h.fake.Live("main")[0], h.fake.Live("shop.Cart")[0]
		require.NoError(t, h.d.Scale("shop.Cart", 3))
		h.fake.Await(t, "shop.Cart", 3)
		h.settle()
		assert.Len(t, main.Routing(cart).Replicas, 3)

		before := time.Now()
		require.NoError(t, h.d.Scale("shop.Cart", 1))
		synctest.Wait()
		assert.Equal(t, []string{first.Address()}, main.Routing(cart).Replicas, "the youngest leave routing at once")
		assert.Len(t, h.fake.Live("shop.Cart"), 3, "but finish what they are doing")
		assert.Equal(t, envelopekit.Draining, h.replica("shop.Cart", 3).State)
		h.fake.Await(t, "shop.Cart", 1)
		assert.Equal(t, time.Second, time.Since(before).Round(100*time.Millisecond))

		require.NoError(t, h.d.Scale("shop.Cart", 0))
		h.fake.Await(t, "shop.Cart", 0)
		synctest.Wait()
		assert.Empty(t, main.Routing(cart).Replicas)
		assert.Contains(t, h.why("shop.Cart"), "scaled to 0; callers wait")

		require.NoError(t, h.d.Scale("shop.Cart", 1))
		again := h.fake.Await(t, "shop.Cart", 1)
		synctest.Wait()
		assert.Equal(t, []string{again.Address()}, main.Routing(cart).Replicas)
		assert.Equal(t, 4, again.Spec.Replica, "numbers are not used again")

		assert.ErrorContains(t, h.d.Scale("shop.Crat", 1), `no group "shop.Crat" (did you mean "shop.Cart"?)`)
		assert.ErrorContains(t, h.d.Scale("shop.Cart", -1), "between 0 and 1000")
		assert.ErrorContains(t, h.d.Scale("shop.Cart", 1001), "between 0 and 1000")

		require.NoError(t, h.d.Scale("shop.Orphan", 2), "before anything uses it")
		assert.Empty(t, h.fake.Live("shop.Orphan"))
		h.stop()
		assert.ErrorIs(t, h.d.Scale("shop.Cart", 2), envelopekit.ErrStopped)
	})
}

func TestReplace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, nil)
		h.up()
		main, old := h.fake.Live("main")[0], h.fake.Live("shop.Cart")[0]
		told := len(main.Routings(cart))
		require.NoError(t, h.d.Replace("shop.Cart", 1, "it leaks"))
		require.NoError(t, h.d.Replace("shop.Cart", 1, "it still leaks"), "asking twice is asking once")
		h.settle()
		assert.Contains(t, h.why("shop.Cart"), "replica 2 has taken its place")
		h.fake.Await(t, "shop.Cart", 1)
		synctest.Wait()
		for _, r := range main.Routings(cart)[told:] {
			assert.NotEmpty(t, r.Replicas, "there was always one to call")
		}
		assert.NotContains(t, main.Routing(cart).Replicas, old.Address())
		assert.Equal(t, 1, h.d.Status().Groups[1].Wanted)
		assert.ErrorContains(t, h.d.Replace("shop.Cart", 1, "gone"), "there is none of that number")
		h.stop()
	})
}

// Whoever finds out that a replica is dead need not wait for the deployment to.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, slowStarts)
		h.up()
		main, old := h.fake.Live("main")[0], h.fake.Live("shop.Cart")[0]
		require.NoError(t, h.d.Ping(t.Context(), "shop.Cart", 1))
		old.Hang()
		time.Sleep(3 * time.Second) // the deployment's own question is under way
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, h.d.Ping(ctx, "shop.Cart", 1), context.DeadlineExceeded)
		before := time.Now()
		require.NoError(t, h.d.Restart("shop.Cart", 1, "it is dead"))
		synctest.Wait()
		assert.NotContains(t, main.Routing(cart).Replicas, old.Address())
		h.fake.Await(t, "shop.Cart", 1)
		h.settle()
		assert.Less(t, time.Since(before), time.Second)
		assert.NotContains(t, main.Routing(cart).Replicas, old.Address())
		assert.Equal(t, 1, h.replica("shop.Cart", 1).Restarts)
		assert.ErrorIs(t, h.d.Restart("shop.Cart", 7, "who?"), envelopekit.ErrEnded)
		assert.ErrorContains(t, h.d.Ping(t.Context(), "shop.Crat", 1), "no group")
		h.stop()
	})
}

func TestReplacementThatFailsLeavesTheOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, func(_ *envelopekit.App, fake *envelopetest.Launcher, _ *envelopekit.Options) {
			fake.Starting = func(_ context.Context, spec envelopekit.Spec) error {
				if spec.Group == "shop.Cart" && spec.Replica > 1 {
					return errors.New("no space left")
				}
				return nil
			}
		})
		h.up()
		time.Sleep(time.Minute)
		old := h.fake.Live("shop.Cart")[0]
		require.NoError(t, h.d.Replace("shop.Cart", 1, "it leaks"))
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		assert.Equal(t, []*envelopetest.Weavelet{old}, h.fake.Live("shop.Cart"))
		assert.Equal(t, envelopekit.Serving, h.replica("shop.Cart", 1).State)
		assert.Equal(t, 0, h.replica("shop.Cart", 2).Number, "the replacement was dropped")
		require.NoError(t, h.d.Replace("shop.Cart", 1, "try again"))
		h.stop()
	})
}

// A frontend that records what it is told.
type recorder struct {
	mu       sync.Mutex
	name     string
	backends [][]string
	closed   time.Time
	busy     map[string]chan struct{} // closed when a backend is drained
}

func (r *recorder) Addr() string { return r.name + ":80" }

func (r *recorder) SetBackends(addresses []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.backends = append(r.backends, addresses)
}

func (r *recorder) Drained(ctx context.Context, address string) error {
	r.mu.Lock()
	busy := r.busy[address]
	r.mu.Unlock()
	if busy == nil {
		return nil
	}
	select {
	case <-busy:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *recorder) Close(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = time.Now()
	return nil
}

func (r *recorder) last() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.backends) == 0 {
		return nil
	}
	return r.backends[len(r.backends)-1]
}

// slowStarts gives the others time to see that a replica is gone before
// another takes its place.
func slowStarts(_ *envelopekit.App, fake *envelopetest.Launcher, _ *envelopekit.Options) {
	fake.Starting = func(context.Context, envelopekit.Spec) error {
		time.Sleep(10 * time.Millisecond)
		return nil
	}
}

// exports lets main export the listener "web".
func exports(app *envelopekit.App, fake *envelopetest.Launcher) {
	app.Listeners = []envelopekit.ListenerInfo{{Name: "web", Component: placement.Main}}
	fake.Scripts[placement.Main] = func(ctx context.Context, w *envelopetest.Weavelet) error {
		_, err := w.Export(ctx, "web", fmt.Sprintf("10.0.0.%d:80", w.Spec.Replica))
		return err
	}
}

func TestListeners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		front := &recorder{name: "front", busy: map[string]chan struct{}{}}
		h := start(t, func(app *envelopekit.App, fake *envelopetest.Launcher, o *envelopekit.Options) {
			exports(app, fake)
			slowStarts(app, fake, o)
			o.Export = func(_ context.Context, name string) (envelopekit.Frontend, error) {
				assert.Equal(t, "web", name)
				return front, nil
			}
		})
		h.fake.Await(t, "main", 1)
		h.settle()
		assert.Equal(t, []string{"10.0.0.1:80"}, front.last())
		require.NoError(t, h.d.Scale("main", 2))
		h.fake.Await(t, "main", 2)
		h.settle()
		assert.Equal(t, []string{"10.0.0.1:80", "10.0.0.2:80"}, front.last())
		st := h.d.Status()
		assert.Equal(t, []envelopekit.ListenerStatus{{Name: "web", Component: placement.Main, Address: "front:80", Backends: front.last()}}, st.Listeners)

		// A replica that is scaled away gets no new requests, and stays until
		// those in flight have ended.
		busy := make(chan struct{})
		front.mu.Lock()
		front.busy["10.0.0.2:80"] = busy
		front.mu.Unlock()
		require.NoError(t, h.d.Scale("main", 1))
		time.Sleep(5 * time.Second)
		assert.Equal(t, []string{"10.0.0.1:80"}, front.last())
		assert.Len(t, h.fake.Live("main"), 2)
		close(busy)
		h.fake.Await(t, "main", 1)

		// Killed, it is taken out and comes back.
		h.fake.Live("main")[0].Kill()
		h.fake.Await(t, "main", 1)
		h.settle()
		assert.Contains(t, front.backends, []string(nil))
		assert.Equal(t, []string{"10.0.0.1:80"}, front.last())

		h.stop()
		assert.False(t, front.closed.IsZero())
		kinds := []envelopekit.EventKind{envelopekit.ListenerOpened, envelopekit.ListenerServing, envelopekit.ListenerIdle}
		assert.Equal(t, []string{
			"listener opened web front:80",
			"listener serving web front:80",
			"listener idle web front:80",
			"listener serving web front:80",
			"listener idle web front:80",
		}, h.events(func(e envelopekit.Event) bool { return slices.Contains(kinds, e.Kind) }))
	})
}

func TestListenersWithoutFrontend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, func(app *envelopekit.App, fake *envelopetest.Launcher, _ *envelopekit.Options) { exports(app, fake) })
		main := h.fake.Await(t, "main", 1)
		h.settle()
		assert.Equal(t, []string{"10.0.0.1:80"}, h.d.Status().Listeners[0].Backends)
		address, err := main.Export(t.Context(), "web", "10.0.0.1:80")
		require.NoError(t, err)
		assert.Equal(t, "10.0.0.1:80", address)
		_, err = main.Export(t.Context(), "wbe", "10.0.0.1:81")
		require.ErrorContains(t, err, "export listener wbe")
		h.stop()
	})
}

func TestFrontendThatCannotOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opened := &recorder{name: "a"}
		h := start(t, func(app *envelopekit.App, _ *envelopetest.Launcher, o *envelopekit.Options) {
			app.Listeners = []envelopekit.ListenerInfo{{Name: "a"}, {Name: "b"}}
			o.Export = func(_ context.Context, name string) (envelopekit.Frontend, error) {
				if name == "b" {
					return nil, errors.New("address in use")
				}
				return opened, nil
			}
		})
		require.EqualError(t, <-h.run, "deploy shop: export listener b: address in use")
		assert.Empty(t, h.fake.All(), "nothing was started")
		assert.False(t, opened.closed.IsZero(), "what was opened is closed")
	})
}

// Callers stop before those they call, so that no call fails on the way down.
func TestStopOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, nil)
		h.up()
		h.stop()
		order := h.events(func(e envelopekit.Event) bool {
			return e.State == envelopekit.Draining || e.State == envelopekit.Removed
		})
		index := func(group string, state envelopekit.State) int {
			return slices.IndexFunc(order, func(e string) bool {
				return strings.HasPrefix(e, "replica "+group+"/1") && strings.Contains(e, string(state))
			})
		}
		require.Len(t, order, 8)
		for _, call := range [][2]string{{"main", "shop.Cart"}, {"main", "shop.Catalog"}, {"shop.Cart", "shop.Stock"}} {
			assert.Less(t, index(call[0], envelopekit.Removed), index(call[1], envelopekit.Draining), "%v in %q", call, order)
		}
	})
}

func TestStopKillsWhatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, nil)
		h.up()
		h.fake.Live("main")[0].Hang()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		before := time.Now()
		assert.ErrorIs(t, h.d.Stop(ctx), context.DeadlineExceeded)
		assert.Equal(t, time.Second, time.Since(before))
		require.NoError(t, <-h.run)
		assert.Empty(t, h.fake.Live("main"))
		assert.Empty(t, h.fake.Live("shop.Stock"))
		assert.NoError(t, h.d.Stop(context.Background()), "stopping twice is no error")
	})
}

func TestContextEndsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := &envelopetest.Launcher{Calls: shopCalls}
		d, err := envelopekit.New(envelopetest.App("shop", shopCalls...), envelopekit.Options{Launcher: fake})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		run := make(chan error, 1)
		go func() { run <- d.Run(ctx) }()
		fake.Await(t, "shop.Stock", 1)
		hung := fake.Live("shop.Stock")[0]
		hung.Hang()
		before := time.Now()
		cancel()
		require.NoError(t, <-run)
		assert.LessOrEqual(t, time.Since(before), 20*time.Second, "Options.StopTimeout")
		require.ErrorContains(t, d.Run(t.Context()), "Run or Stop was called before")
	})
}

func TestStopBeforeRun(t *testing.T) {
	d, err := envelopekit.New(envelopetest.App("shop", shopCalls...), envelopekit.Options{})
	require.NoError(t, err)
	why, err := d.Why("main")
	require.NoError(t, err)
	assert.Contains(t, why, "Run was not called")
	require.NoError(t, d.Stop(t.Context()))
	require.Error(t, d.Run(t.Context()))
	for range d.Events(t.Context(), 0) {
		t.Error("there are no events")
	}
}

func TestStartThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, func(_ *envelopekit.App, fake *envelopetest.Launcher, o *envelopekit.Options) {
			o.MaxStarting = 1
			fake.Starting = func(ctx context.Context, spec envelopekit.Spec) error {
				if spec.Group == "shop.Catalog" {
					<-ctx.Done()
					return context.Cause(ctx)
				}
				return nil
			}
			fake.Scripts[placement.Main] = func(ctx context.Context, w *envelopetest.Weavelet) error {
				go w.Use(ctx, catalog, false)
				time.Sleep(time.Millisecond)
				return w.Use(ctx, cart, false)
			}
		})
		before := time.Now()
		h.fake.Await(t, "shop.Stock", 1)
		assert.LessOrEqual(t, time.Since(before), 3*time.Second, "one that hangs does not keep the others")
		time.Sleep(25 * time.Second)
		assert.Contains(t, h.why("shop.Catalog"), "its process must initialize within 30s")
		time.Sleep(time.Hour)
		assert.Contains(t, h.why("shop.Catalog"), "given up after 16 failures in a row; the last: no answer within 30s")
		assert.True(t, h.d.Status().Groups[0].Serving() == 1, "the application was up before: the others go on")
		h.stop()
	})
}

// A log function that blocks stops neither the application nor the deployment.
func TestSlowLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var got []string
		h := start(t, func(_ *envelopekit.App, _ *envelopetest.Launcher, o *envelopekit.Options) {
			o.Log = func(e *protos.LogEntry) {
				<-release
				got = append(got, e.Msg)
			}
		})
		h.up()
		w := h.fake.Live("main")[0]
		for i := range 20_000 {
			w.Log("INFO", fmt.Sprint(i))
		}
		dropped := h.d.Status().LogsDropped
		assert.InDelta(t, 20_000-16_384, dropped, 20, "but for what the runtimes had logged before")
		close(release)
		synctest.Wait()
		assert.Contains(t, got, fmt.Sprintf("%d log entries were dropped: they came faster than they were taken", dropped))
		h.stop()
	})
}

func TestWrapHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		seen := map[string]int{}
		h := start(t, func(_ *envelopekit.App, _ *envelopetest.Launcher, o *envelopekit.Options) {
			o.WrapHandler = func(h *envelopekit.Handler) envelope.EnvelopeHandler {
				return counting{h, func() {
					mu.Lock()
					defer mu.Unlock()
					seen[h.Group]++
				}}
			}
		})
		h.up()
		h.stop()
		assert.Equal(t, map[string]int{"main": 2, "shop.Cart": 1}, seen)
	})
}

type counting struct {
	*envelopekit.Handler
	count func()
}

func (c counting) ActivateComponent(ctx context.Context, req *protos.ActivateComponentRequest) (*protos.ActivateComponentReply, error) {
	c.count()
	return c.Handler.ActivateComponent(ctx, req)
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, nil)
		h.up()
		def := func(id uint64, name string) *protos.MetricDef {
			return &protos.MetricDef{Id: id, Name: name, Typ: protos.MetricType_COUNTER, Labels: map[string]string{"caller": "a", "component": "b"}}
		}
		carts, stocks := h.fake.Live("shop.Cart")[0], h.fake.Live("shop.Stock")[0]
		carts.SetMetrics(&protos.MetricUpdate{
			Defs:   []*protos.MetricDef{def(1, "serviceweaver_method_count")},
			Values: []*protos.MetricValue{{Id: 1, Value: 3}, {Id: 7, Value: 1}}, // 7 has no definition
		})
		stocks.SetMetrics(&protos.MetricUpdate{Defs: []*protos.MetricDef{def(1, "x")}, Values: []*protos.MetricValue{{Id: 1, Value: 5}}})
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				all, err := h.d.Metrics(t.Context())
				assert.NoError(t, err)
				assert.Len(t, all, 2)
				assert.Equal(t, map[placement.Edge]float64{{From: "a", To: "b"}: 3}, envelopekit.CallCounts(all))
			})
		}
		wg.Wait()

		// An answer that comes late is late, not lost.
		carts.Hang()
		carts.SetMetrics(&protos.MetricUpdate{Values: []*protos.MetricValue{{Id: 1, Value: 4}}})
		before := time.Now()
		all, err := h.d.Metrics(t.Context())
		require.NoError(t, err)
		assert.Len(t, all, 2)
		assert.Equal(t, 2*time.Second, time.Since(before))
		carts.Resume()
		all, err = h.d.Metrics(t.Context())
		require.NoError(t, err)
		assert.Equal(t, map[placement.Edge]float64{{From: "a", To: "b"}: 4}, envelopekit.CallCounts(all))

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		carts.Hang()
		_, err = h.d.Metrics(ctx)
		require.ErrorIs(t, err, context.Canceled)
		carts.Resume()
		h.stop()
		all, err = h.d.Metrics(t.Context())
		require.NoError(t, err)
		assert.Empty(t, all)
	})
}

func TestPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, nil)
		h.up()
		h.fake.Live("shop.Stock")[0].Hang()
		load := &protos.LoadReport{Loads: map[string]*protos.LoadReport_ComponentLoad{cart: {Version: 7}}}
		h.fake.Live("shop.Cart")[0].SetLoad(load)
		before := time.Now()
		for _, r := range h.d.Health(t.Context()) {
			assert.Equal(t, r.Group == "shop.Stock", r.Err != nil, "%s: %v", r.Group, r.Err)
		}
		for _, r := range h.d.Load(t.Context()) {
			if r.Group == "shop.Cart" {
				assert.Equal(t, load, r.Value)
				assert.Equal(t, h.fake.Live("shop.Cart")[0].Address(), r.Address)
			}
		}
		assert.LessOrEqual(t, time.Since(before), 4*time.Second)
		h.stop()
	})
}

func TestBadOptions(t *testing.T) {
	app := envelopetest.App("shop", shopCalls...)
	for want, opts := range map[string]envelopekit.Options{
		"negative Options.Replicas":                                                {Replicas: -1},
		"negative Options.Restart.Base":                                            {Restart: envelopekit.Restart{Base: -1}},
		"negative Options.Liveness.Timeout":                                        {Liveness: envelopekit.Liveness{Timeout: -1}},
		`Options.ReplicasOf names "shop.Crat", which is no group and no component`: {ReplicasOf: map[string]int{"shop.Crat": 1}},
		`group "shop.Cart" has -1 replicas`:                                        {ReplicasOf: map[string]int{"shop.Cart": -1}},
		"both Options.Assigner and Options.Members are set":                        {Assigner: envelopekit.AssignerFunc(envelopekit.EqualSplit), Members: func(string, []string) {}},
		"more than Options.MaxReplicas, 3":                                         {MaxReplicas: 3, Replicas: 4},
		"no plan today": {Placement: placement.Policy(func(placement.Input) (placement.Plan, error) {
			return placement.Plan{}, errors.New("no plan today")
		})},
		"is in no group": {Placement: placement.Policy(func(placement.Input) (placement.Plan, error) {
			return placement.Plan{}, nil
		})},
	} {
		_, err := envelopekit.New(app, opts)
		assert.ErrorContains(t, err, want)
		assert.ErrorContains(t, err, "deploy shop: ")
	}
}
