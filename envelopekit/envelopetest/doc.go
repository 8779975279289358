// Package envelopetest helps to test deployers: a launcher whose weavelets are
// scripts in the same process, and conformance suites for launchers and
// handlers.
//
// A [Launcher] stands in for real processes. Its weavelets behave as upstream's
// do, as far as a deployer can see: they initialize components when told to,
// ask for those that these use, wait for routing, refuse what a real one
// refuses, and die of what a real one dies of. A test scripts what components
// do, looks at what weavelets were told, and lets them exit or hang:
//
//	app := envelopetest.App("shop", placement.Edge{From: placement.Main, To: "shop/Cart"})
//	fake := &envelopetest.Launcher{}
//	d, err := envelopekit.New(app, envelopekit.Options{Launcher: fake})
//	...
//	cart := fake.Await(t, "shop/Cart", 1)
//	cart.Exit(1, "panic: out of stock")
//
// Everything works inside a testing/synctest bubble: no process, no network,
// no clock but package time.
//
// [TestLauncher] and [TestHandler] check what package envelopekit relies on;
// run them against your own.
package envelopetest
