package envelopekit_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/envelopekit/envelopetest"
	"github.com/weaverkit/weaverkit/envelopekit/placement"
)

// Whatever happens to the weavelets, and in whatever order: once it is over,
// every group has its replicas, and everybody knows exactly those.
func TestChaosConverges(t *testing.T) {
	seeds := uint64(60)
	if testing.Short() {
		seeds = 20
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { chaos(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func chaos(t *testing.T, rng *rand.Rand) {
	groups := []string{"main", "shop.Cart", "shop.Catalog", "shop.Stock"}
	want := map[string]int{"main": 1, "shop.Cart": 1, "shop.Catalog": 1, "shop.Stock": 1}
	front := &recorder{name: "front"}
	slow := rng.IntN(2) == 0
	var starts atomic.Int64
	h := start(t, func(app *envelopekit.App, fake *envelopetest.Launcher, o *envelopekit.Options) {
		o.Restart.GiveUp = 1 << 20
		o.Restart.StartAttempts = 1 << 20
		o.Prestart = rng.IntN(2) == 0
		o.Export = func(context.Context, string) (envelopekit.Frontend, error) { return front, nil }
		app.Listeners = []envelopekit.ListenerInfo{{Name: "web", Component: placement.Main}}
		fake.Starting = func(ctx context.Context, spec envelopekit.Spec) error {
			if slow {
				time.Sleep(time.Duration(spec.Replica%7) * 30 * time.Millisecond)
			}
			if starts.Add(1)%11 == 10 {
				return fmt.Errorf("no luck")
			}
			return ctx.Err()
		}
		fake.Scripts[placement.Main] = func(ctx context.Context, w *envelopetest.Weavelet) error {
			if _, err := w.Export(ctx, "web", w.Address()); err != nil {
				return err
			}
			if err := w.Use(ctx, cart, true); err != nil {
				return err
			}
			return w.Use(ctx, catalog, false)
		}
	})
	for range 10 + rng.IntN(60) {
		all := h.fake.All()
		switch op := rng.IntN(10); {
		case op < 2:
			g := groups[rng.IntN(len(groups))]
			want[g] = rng.IntN(5)
			require.NoError(t, h.d.Scale(g, want[g]))
		case op < 4:
			g := groups[rng.IntN(len(groups))]
			_ = h.d.Replace(g, 1+rng.IntN(8), "chaos") // there may be none of that number
		case op < 5:
			h.d.Reassign()
		case len(all) == 0:
		case op < 7:
			all[rng.IntN(len(all))].Kill()
		case op < 8:
			all[rng.IntN(len(all))].Exit(1 + rng.IntN(2))
		default:
			w := all[rng.IntN(len(all))]
			if rng.IntN(2) == 0 {
				w.Hang()
			} else {
				w.Resume()
			}
		}
		time.Sleep(time.Duration(rng.Int64N(int64(time.Duration(1) << (20 + rng.IntN(13))))))
	}

	// Now all is well, and there is somebody who uses every group.
	for _, g := range groups {
		want[g] = max(want[g], 1)
		require.NoError(t, h.d.Scale(g, want[g]))
	}
	for _, w := range h.fake.All() {
		w.Resume()
	}
	time.Sleep(5 * time.Minute)
	synctest.Wait()

	st := h.d.Status()
	addresses := map[string][]string{}
	for _, g := range st.Groups {
		if g.Name == "shop.Orphan" {
			continue
		}
		live := h.fake.Live(g.Name)
		require.Len(t, live, want[g.Name], "group %s: %+v", g.Name, g.Replicas)
		assert.Equal(t, want[g.Name], g.Serving(), g.Name)
		for _, w := range live {
			addresses[g.Name] = append(addresses[g.Name], w.Address())
		}
		slices.Sort(addresses[g.Name])
	}
	check := func(group, component, callee string) {
		for _, w := range h.fake.Live(group) {
			r := w.Routing(component)
			require.NotNil(t, r, "%s was not told of %s", group, component)
			assert.Equal(t, addresses[callee], r.Replicas, "%s of %s", component, group)
			if component != cart {
				continue
			}
			owners := map[string]bool{}
			for _, s := range r.Assignment.GetSlices() {
				for _, owner := range s.Replicas {
					owners[owner] = true
				}
			}
			assert.Len(t, owners, len(addresses[callee]))
			for owner := range owners {
				assert.Contains(t, addresses[callee], owner)
			}
			assert.Equal(t, h.d.Assignments()[cart].Version, r.Assignment.Version)
		}
	}
	check("main", cart, "shop.Cart")
	check("main", catalog, "shop.Catalog")
	check("shop.Cart", stock, "shop.Stock")
	check("shop.Cart", cart, "shop.Cart")
	assert.Equal(t, addresses["main"], front.last())

	var last uint64
	for range h.events(func(e envelopekit.Event) bool {
		assert.Equal(t, last+1, e.Seq, "events have no gaps")
		last = e.Seq
		return true
	}) {
	}
	h.stop()
}
