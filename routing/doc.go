// Package routing decides which replica of a routed Service Weaver component
// owns which key, from the load that the replicas report.
//
// A routed component has a key space of 64-bit hashes. An assignment
// ([protos.Assignment]) cuts it into slices and gives each to one or more
// replicas. The assignments that stock deployers make are cut once and look at
// no load: with skewed keys the hottest replica has several times the load of
// the mean. A [Generator] makes each assignment from the one before and from
// what the replicas report (Envelope.GetLoad), such that all replicas have
// about the same load and as few keys as possible move:
//
//	g, err := routing.NewGenerator(routing.Options{})
//	...
//	a, err := g.Generate(nil, replicas, nil)   // the equal split
//	...                                        // publish a, collect loads
//	b, err := g.Generate(a, replicas, loads)   // b == a if all is well
//
// A [Controller] does that for all components of an application: it polls
// sources, follows changes of members and publishes. The pieces a program needs
// besides are a func for each replica and one method:
//
//	c, err := routing.NewController(publisher, routing.ControllerOptions{})
//	...
//	c.SetSource(addr, source)                         // asks the replica for its load
//	c.SetMembers("shop/Cart", []routing.Member{{Addr: addr}})
//	err = c.Run(ctx)
//
// # What is done
//
// Load moves from the hottest replica to the coldest in slices, those first
// that bring the most load for their keys. A slice that holds too much is cut
// where its report says that half of it, or a twentieth, ends. A key that is too
// hot for one replica is isolated and given to several, and so is a slice that
// became hot and whose inside is not known well enough yet. What a replica held
// that left goes to the others, the largest first. A joiner gets its share at
// once. A draining replica is emptied. [Generator.Explain] and [Generator.Why]
// tell operators what was done and why.
//
// The weighted moves and the budget of key churn are those of Slicer (Adya et
// al., "Slicer: Auto-Sharding for Datacenter Applications", OSDI 2016). What is
// added here: reports are treated as samples, which are pooled while they agree
// and forgotten when they do not (see observe.go), and slices whose parts are
// only estimated are shared first and cut later.
//
// # Guarantees
//
//   - Every assignment passes [Validate], whatever the previous one, the
//     replicas and the reports were.
//   - The version rises by one when the assignment changes, and only then. With
//     a [Snapshot] kept safe by [ControllerOptions].Save it never goes back,
//     over restarts too.
//   - The same inputs give the same output; nothing depends on time, chance or
//     the order of maps.
//   - A step moves at most [Options].Churn of the key space, not counting keys
//     of replicas that left, keys given to those that join, and moves for
//     [Options].Bound. A slice that is wider than that moves alone.
//   - The work of a step is about linear in slices, holders and changes. A step
//     without a change allocates nothing.
//   - The controller holds no lock while it calls a source, the publisher or
//     Save, and a source or component that is stuck delays no other. Run
//     returns after all that it started has.
//
// # What is left to you
//
// Health: a replica that is not well has to be taken out of the members, or be
// marked as draining. Where snapshots are kept. And bringing assignments to the
// weavelets, which take any assignment they are given, even an older one.
package routing
