// Package health watches thousands of targets, says which are well, and doubts
// itself before it doubts them.
//
//	prober, err := health.New(health.Options{})
//	...
//	prober.Add(health.Target{
//		ID:    "cart/1",
//		Group: "cart",                       // its replicas
//		Check: health.Func(weavelet.Ping),   // func(context.Context) error
//	})
//	go func() {
//		for c := range prober.Subscribe(ctx) {
//			log.Printf("%s: %v, was %v: %s", c.ID, c.State, c.Previous, c.Why)
//			switch c.State {
//			case health.Ready: // into routing
//			case health.NotReady: // out of routing
//			case health.Dead: // replace it
//			}
//		}
//	}()
//	err = prober.Run(ctx) // until ctx ends
//
// A target is anything with a check: a function ([Func]), a URL ([HTTP]), an
// address ([TCP]), a program ([Exec]), a process id ([Process]), a [Heartbeat]
// that must keep arriving, or, in the module health/grpchealth, a gRPC server.
// [Policy] says how often to check and what to make of it, in Kubernetes' words.
// What real traffic sees is told through [Prober.Observe]; [Outlier] says what
// to make of that, in Envoy's words. [Restart] is a policy for whoever restarts
// what is dead.
//
// # Guarantees
//
//   - Detection. A target that ceases to answer is not ready after at most
//     Timeout + FailureThreshold × Period, and dead after at most
//     Timeout + LivenessThreshold × Period; except while the prober doubts
//     itself, see below, and then it says so.
//   - Isolation. Each check has its own deadline. One that ignores its context
//     keeps one of Options.MaxHung places, delays nobody, and is not started
//     again before it has returned; it counts as a failure each period.
//   - Bounds. Goroutines are bounded by Concurrency + MaxHung + 1, besides those
//     that have nothing left to do but to end, whatever the number of targets.
//     A target costs some 270 bytes, its ID and its check not counted. There
//     are no queues of changes; a reader holds at most one pointer a target.
//   - Spread. New targets are checked a thousand a second, or evenly over their
//     period, and all of them at places of their own in it; so are those that
//     were added before Run.
//   - Reasons. Every state has a [Status.Why].
//   - A clean end. Run returns when all checks have, but does not wait for ever
//     for those that ignore their context: it names them.
//
// # Self-doubt
//
// Most false alarms are the prober's own (Lifeguard, Dadgar et al. 2017): it was
// stopped, starved or cut off. So
//
//   - it measures how late its own timers are. A check that was not answered
//     in time counts for nothing if the prober was away so long that less than
//     half of the timeout remains, and so does a failure right after a stall; but
//     no more than FailureThreshold of them, or two, since the target last
//     answered, unless most targets are like that: a prober that is held up all the
//     time finds out, too, though later.
//     After a stall longer than their period, targets are spread as new ones are.
//     While the prober is late, timeouts are stretched by as much, at most
//     twofold.
//   - when more than Options.PanicShare of the targets fail at once it is in
//     panic mode: no failure changes anything, now or when it is over, [Status.Held]
//     is set, and Why says "cannot tell". Answers still count, good ones and "not
//     ready", since a prober that is cut off gets none.
//   - at most Options.MaxUnready of a group are out at once by its word. Who is
//     held back by that changes with its next check that fails once another of
//     the group is back, or has been removed: so remove what is gone for good. A
//     target that says itself that it is not ready is not held.
//   - when its slots do not suffice, so that checks start late, Snapshot.Doubt says
//     so. Targets whose last check failed get at most seven eighths of the slots.
//
// # Where others do better
//
//	             this package             Kubernetes' probes       Envoy                    memberlist (SWIM)
//	who checks   one process, any check   the kubelet of the node  each proxy, itself       each member, each other
//	what         func, HTTP, TCP, exec,   HTTP, TCP, exec, gRPC    HTTP, TCP, gRPC, Redis   its own protocol
//	             gRPC, pid, heartbeat
//	decides      thresholds, phi,         thresholds               thresholds, traffic      suspicion, confirmed
//	             traffic                                                                    by others
//	on dead      tells; you restart       restarts the container   stops routing            tells
//	self-doubt   lag, panic mode, caps    none in the kubelet;     panic mode, ejection     Lifeguard
//	                                      eviction slows down      cap
//	                                      when many nodes fail
//	use it       in a deployer that       in a cluster: it is      when Envoy is your data  for 100s of hosts that
//	when         owns its processes       there already            plane anyway             must find each other
//
// A prober has one point of view. If that is not enough, because the way from
// the prober to a target is not the way that traffic takes, use Observe, or
// memberlist, which asks others before it gives up on a member.
//
// # What is left to you
//
// To act: nothing here routes, restarts or replaces. To say what a target is:
// a check of a weavelet has to bound upstream's calls, which take no context.
// To remove targets that have ended: an ID that is used again for another
// process goes on where the old one was, unless it is removed in between.
// States are not stored: a new prober begins with Unknown.
//
// And to see to it that nobody else decides the same by simpler rules: whatever
// also restarts targets that do not answer, such as the liveness check of
// envelopekit, knows nothing of these doubts, and overrules them unless it is more
// patient. Set its Options.Liveness.Failures high, so that it is the last resort.
// examples/multi does.
//
// BENCHMARKS.md next to the source holds measured figures, and a table of
// detection times and false alarms under simulated pauses.
package health
