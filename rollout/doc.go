// Package rollout moves the traffic of an application from the version that runs
// to a new one, watches, and goes on, waits, or goes back.
//
// A version is deployed whole: it is started beside the old one, gets ready,
// gets a share of the traffic of each listener, bakes, is judged, gets more, and
// in the end the old one is stopped. What that means is up to a [Deployer]: five
// methods that say what is to be. A [Plan] says in which steps:
//
//	runner, err := rollout.New(deployer, rollout.Options{App: "shop", Store: store})
//	if err != nil {
//		return err
//	}
//	done := make(chan error, 1)
//	go func() { done <- runner.Run(ctx) }() // until ctx ends
//
//	v1 := rollout.AllAtOnce() // the first version of all
//	v1.Version, v1.Listeners = "v1", []string{"shop"}
//	if err := runner.Submit(ctx, v1); err != nil {
//		return err
//	}
//	if _, err := runner.Wait(ctx); err != nil {
//		return err
//	}
//
//	v2 := rollout.Canary(
//		rollout.SetWeight(5), rollout.Bake(5*time.Minute),
//		rollout.SetWeight(50), rollout.Bake(10*time.Minute),
//	)
//	v2.Version, v2.Listeners = "v2", []string{"shop"}
//	v2.Watch = &rollout.Analysis{} // go back as soon as it is worse than v1
//	if err := runner.Submit(ctx, v2); err != nil {
//		return err
//	}
//	fmt.Print(runner.Why())        // what is it waiting for?
//	state, err := runner.Wait(ctx) // Succeeded, or RolledBack and why
//
// Meanwhile others may call [Runner.Pause], [Runner.Resume], [Runner.Promote],
// [Runner.Abort] and, after it has gone back, [Runner.Retry]; with an [At], for
// nothing but what they have seen. The first version of
// all has nothing to shift from: it gets everything as soon as it is ready,
// whatever its plan. The example of the package runs.
//
// [BlueGreen], [Linear], [AllAtOnce], [Waves] and [FromDuration] make other
// plans. A new process that runs a Runner on the same [Store] goes on where the
// last one was: [Runner.State] tells it what runs already. Package boltstore has a
// store in a file. Verdicts are explained in VERDICTS.md next to the source.
//
// # How it goes
//
//	         Submit               the last step is done
//	Idle ──────────────> Advancing ─────────────────────> Succeeded
//	                     │  ^   │
//	   a Pause step,     │  │   │  Abort, Submit of another version, a verdict,
//	   Pause, a verdict  │  │   │  the progress deadline, a version that has failed
//	                     v  │   v
//	                    Paused ──> RollingBack ───────────> RolledBack
//	                        │      the old version gets     the new version has
//	       Resume, Promote ─┘      everything, then the     stopped, or was
//	                               new one is stopped       given up
//
// (Promote also leads from RollingBack to Advancing if another plan waits, and the
// stable version has not come up after a restart: see there.)
//
// Submit, of another plan, leads from Succeeded and RolledBack to Advancing, and so
// does Retry from RolledBack. While it is Advancing or Paused, State.Step says where:
//
//	StartVersion > WaitReady > SetWeight, Bake, Analyze, Gate, Pause ... > Promote > StopOld
//	                                                                                   │
//	                                              no way back once this has begun: ────┘
//
// From when [StopOld] begins to stop the old version Abort is refused, and a plan
// that is submitted waits.
//
// A newer plan supersedes: a rollout that is under way goes back first, and the
// newer one begins from the stable version. If several wait, the newest of them
// is carried out. So a Runner never gives traffic to more than two versions at a
// time. ([Cascade], which divides it, is a function of its own that does it for any
// number.) A listener that only one of the versions exports is all its own: a new
// one has all its traffic as soon as the new version is ready, and one that the new
// version lacks, which its plan must name in Drops, ends with the old.
//
// An analysis has three outcomes, each with a [Rule]: go on, pause, or go back.
// Watch is judged at every look, which its sequential test permits, so a bad
// version is not given the rest of a bake. Where weights differ by listener or location, as
// those of [Waves] do, the versions are compared at the places where both have traffic, if
// the Deployer counts it by place (Options.ByPlace), and a plan that compares is refused
// if it does not; limits (Analysis.LimitsOnly) do without. A [GateFunc] judges by
// anything else.
//
// # Guarantees
//
//   - Weights. At every place they sum up to 100 %, and are sent whole. The new
//     version has a weight only while it is ready: if it ceases to be, its
//     traffic goes back at once, and returns with it. A version is stopped only
//     when weights without it are known to be applied.
//   - Time. No step is shorter than it says. A bake counts the time between two
//     looks if the weights were known to be applied, and the version ready, at
//     the first; and nothing if the looks are more than two intervals, and a
//     second, apart, or in the wrong order, or if the plan's Watch sees no traffic
//     since Stats does not succeed. So pauses, crashes, sleeping machines
//     and clocks that are set make a step longer, never shorter. (A clock that is
//     set forward by less than that cannot be told, which matters to those who call
//     [Config.Step] themselves; the Runner uses monotonic time.)
//   - Crashes. What is to be done is stored before it is begun. Wherever the
//     process dies, the next Runner starts again what is to run, waits until the
//     stable version is ready, sets the weights, and goes on in the same step;
//     at most ten seconds of baking are lost.
//   - Two Runners. The later one wins, from when it has recorded that, and the
//     other's Run returns [ErrTakenOver] within some ten seconds, if the store
//     answers. Its weights are ignored once the later one has set its own, and
//     it begins to start or stop a version only if the store has said within the
//     last second that it was not taken over. That leaves this second, the time
//     that the store took to say so, a process that is suspended in between, and
//     what had begun before.
//   - The way back is one call to SetWeights, and then one to stop the new
//     version. The weights wait neither for the new version, nor for calls that
//     hang, nor, once this Runner has taken over, for the store; the stop waits for
//     the weights, and for the store. Only after a restart do the weights wait, until
//     the stable version is up: before, nobody else could take what the new one
//     serves. RolledBack means that the stable version has the traffic, and can
//     take it. What was aborted does not go forward again by itself. (A call to SetWeights that ignores its context may have its effect
//     late, but not after the weights of the way back have had theirs.)
//   - Isolation. Every call has a deadline. One that panics, be it to a Deployer, a
//     gate or a Store, has failed with an error that says where. One that ignores its context is left
//     behind, delays nobody, and is counted; there are at most four of them for
//     one purpose, and Options.MaxHung in all, besides as many that take traffic
//     back or stop versions. Commands, Why and Status never wait for a Deployer.
//   - An end. A step that makes no progress for Plan.ProgressDeadline goes back,
//     and a version that does not stop is given up, though still tried. What can
//     last for ever is a pause, and what has no alternative: a store that is
//     away, a stable version that does not come up again after a restart, and
//     weights that cannot be applied on the way back, or once StopOld has begun. Why
//     says so.
//   - Reasons. Every phase has one. [Runner.Events] tells them, and what else
//     happened, numbered on over restarts. A restart keeps the newest 64 events,
//     and the newest 32 changes of phase before those.
//
// These are checked by a simulation with thousands of seeds; BENCHMARKS.md next
// to the source says what was thrown at it, and which mistakes it finds.
//
// # The core
//
// [Config.Step] takes a [State] and what was observed, and returns the next
// State and every call that is wanted. It does no I/O and reads no clock, and
// [Config.Control] does the same for commands. With [State.TakeOver], which is how
// a process begins, another shell than the Runner can be put around them.
//
// # Where others do better
//
//	             this package            Argo Rollouts            Flagger                Kubernetes Deployment   Spinnaker
//	runs         in your deployer        in a cluster             in a cluster           in a cluster            as a service of its own
//	unit         a version of a whole    a ReplicaSet             a Deployment, cloned   pods                    what a pipeline deploys
//	             application
//	shares by    your proxies            ingress, mesh, or pods   ingress, mesh          number of pods          the platform
//	judges by    a sequential test of    queries with limits,     queries with limits,   readiness               Kayenta: a statistical
//	             the traffic, limits,    at intervals, jobs       at intervals, hooks                            comparison at intervals
//	             gates
//	goes back    at once when shown      after failureLimit       after threshold        by hand                 as the pipeline says
//	             to be worse             failures                 failed checks
//	state in     a Store of yours        Kubernetes               Kubernetes             Kubernetes              a database
//	use it       if you write a          if you deploy services   if you want the        if replacing pods       for pipelines over many
//	when         deployer                one by one to a cluster  steps chosen for you   one by one will do      clusters and clouds
//
// Argo Rollouts, Flagger and Spinnaker have user interfaces, and read dozens of
// metric systems. Here a gate has to be written for that.
//
// # What is left to you
//
// To fence: SetWeights must ignore a Revision that is lower than the last (two
// lines). To keep the versions well: after it is up the stable one is not asked
// again whether it is ready. To know what belongs to a version's name: a binary,
// a configuration. To carry commands from other processes to the Runner.
// Counters, with [Runner.Counters], have OpenTelemetry's form; they are not
// exported.
package rollout
