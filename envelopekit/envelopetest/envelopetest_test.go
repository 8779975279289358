package envelopetest_test

import (
	"testing"
	"testing/synctest"

	"github.com/ServiceWeaver/weaver/runtime/envelope"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/envelopekit/envelopetest"
	"github.com/weaverkit/weaverkit/envelopekit/placement"
)

// The fake keeps the promises that real launchers keep.
func TestFakeLauncherConforms(t *testing.T) {
	calls := []placement.Edge{{From: placement.Main, To: "shop/Cart"}}
	envelopetest.TestLauncher(t, envelopetest.LauncherTest{
		Launcher: &envelopetest.Launcher{Calls: calls},
		App:      envelopetest.App("shop", calls...),
		Hang: func(w envelopekit.Weavelet) error {
			w.(*envelopetest.Weavelet).Hang()
			return nil
		},
	})
}

func TestHandlerConforms(t *testing.T) {
	envelopetest.TestHandler(t, func(h *envelopekit.Handler) envelope.EnvelopeHandler { return h })
}

func Example() {
	// In a test, inside synctest.Test.
	_ = func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			calls := []placement.Edge{{From: placement.Main, To: "shop/Cart"}}
			fake := &envelopetest.Launcher{Calls: calls}
			d, err := envelopekit.New(envelopetest.App("shop", calls...), envelopekit.Options{Launcher: fake})
			if err != nil {
				t.Fatal(err)
			}
			go d.Run(t.Context())
			fake.Await(t, "shop.Cart", 1).Exit(1, "panic: out of stock")
			fake.Await(t, "shop.Cart", 1) // another one took its place
			if err := d.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
}
