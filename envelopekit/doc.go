// Package envelopekit runs Service Weaver applications: it decides what runs
// where, starts it, tells every process whom to call, and replaces what fails.
//
// A Service Weaver application is one binary. A deployer runs it many times;
// each run, a weavelet, hosts a group of components. A whole deployer:
//
//	app, err := envelopekit.LoadApp("weaver.toml")
//	if err != nil {
//		return err
//	}
//	d, err := envelopekit.New(app, envelopekit.Options{})
//	if err != nil {
//		return err
//	}
//	return d.Run(ctx) // until ctx ends, d.Stop is called, or the application ends
//
// # The parts
//
// An [App] is a binary and its configuration. A [Placement] turns it into a
// plan of groups (package placement has several). A [Launcher] starts
// weavelets, on this machine or another, and hands back a [Weavelet] for each.
// A [Handler] answers what a weavelet asks of its deployer. A [Deployment]
// puts them together. Each part can be replaced, or used without the others.
//
// # How a deployment works
//
// A Deployment holds the state that is wanted: which components are active,
// how many replicas each group has. One goroutine for each weavelet brings that
// weavelet up to date: the newest component set, the newest routing of each
// component it calls, several changes in one. No lock is held across a call to
// a weavelet, the start of a process or a function of the caller's, and every
// call has a deadline: a weavelet that hangs delays only itself.
//
// A weavelet that exits, is killed, or does not answer is taken out of routing
// and listeners first, then replaced, at once the first time and with
// exponential backoff after that ([Restart]). [Deployment.Why] says for every
// group what it is waiting for.
//
// # Guarantees
//
//   - Run returns after every goroutine and process that it started has ended.
//   - Versions of assignments only rise. No slice without a replica is published.
//   - Functions in [Options] are called without locks held; each says whether
//     it may be called concurrently.
//   - Queues are bounded. Log entries and spans that nobody takes in time are
//     dropped and counted in [Status].
//   - [Deployment.Events] has every change of state, numbered without gaps.
//
// # What it leaves to you
//
// Weavelets end with the process that runs the Deployment. Traffic from outside
// is carried by whatever [Options].Export opens. Assignments that follow the load
// come from an [Assigner] or, by way of [Options].Members, from a controller such
// as package routing's. Nothing is stored on disk but the sockets of live
// weavelets.
package envelopekit
