package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/health"
)

// There are two probers. This file's asks replicas through their envelopes, and
// decides who is restarted: each replica of each group counts, whether it has a
// listener or not. That of frontends asks backends at the address that clients
// reach, adds what requests saw, and decides who gets requests: it must keep most
// backends of a listener whatever it sees, while the only replica of a group,
// once dead, must be restarted. One cannot be seen by the other's means, and
// the caps and the panic mode of each count its own kind.

// wellness says when a replica counts as dead: when it has not answered three
// times in a row. One that is merely slow answers now and then. A replica that did
// not answer once is called not ready, which is shown, and no more.
var wellness = health.Policy{
	Period:            2 * time.Second,
	Timeout:           time.Second,
	SuccessThreshold:  1,
	FailureThreshold:  1,
	LivenessThreshold: 3,
	StartupThreshold:  3,
}

// lastResort is the liveness check of envelopekit, made so patient that it does
// not overrule the prober, which knows when it is itself that cannot tell. It
// takes about a minute to give up a replica. It still is of use: a replica whose
// log is stuck answers pings, and does not pass this one.
var lastResort = envelopekit.Liveness{Failures: 20}

// A replica is one that is watched.
type replica struct {
	group  string
	number int
}

// watchHealth pings the replicas that serve, until ctx ends, and has those
// restarted that are dead.
func watchHealth(ctx context.Context, d *envelopekit.Deployment, show func(string)) error {
	// A group may consist of one replica, which may be dead.
	prober, err := health.New(health.Options{MaxUnready: 1})
	if err != nil {
		return err
	}
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() {
		if err := prober.Run(ctx); err != nil {
			show("health of replicas: " + err.Error())
		}
	})
	running.Go(func() { watchDoubt(ctx, prober, "replicas", show) })
	var watched sync.Map // by the target's ID: replica
	running.Go(func() {
		for e := range d.Events(ctx, 0) {
			if e.Kind != envelopekit.ReplicaChanged {
				continue
			}
			id := fmt.Sprintf("%s/%d", e.Group, e.Replica)
			prober.Remove(id)
			watched.Delete(id)
			if e.State != envelopekit.Serving {
				continue
			}
			watched.Store(id, replica{e.Group, e.Replica})
			target := health.Target{ID: id, Group: e.Group, Policy: wellness, Check: health.Func(func(ctx context.Context) error {
				return d.Ping(ctx, e.Group, e.Replica)
			})}
			if err := prober.Add(target); err != nil {
				show("health of replicas: " + err.Error())
			}
		}
	})
	seen := newReports("replica", show)
	for c := range prober.Subscribe(ctx) {
		// Before it is shown, which may take its time: by then another may be in its
		// place.
		if r, ok := watched.Load(c.ID); ok && c.State == health.Dead {
			if err := d.Restart(r.(replica).group, r.(replica).number, "it is dead: "+c.Why); err != nil {
				show("health of replicas: " + err.Error())
			}
		}
		seen.tell(c)
	}
	return nil
}

// reports show what becomes of the targets of a prober.
type reports struct {
	kind string
	show func(string)
	held map[string]bool // by ID: those that are
}

func newReports(kind string, show func(string)) *reports {
	return &reports{kind, show, map[string]bool{}}
}

// tell shows when a target begins and ceases to be not ready or dead, and to be
// held in a state that is better than what its checks say.
func (r *reports) tell(c health.Change) {
	held := r.held[c.ID]
	if c.Held {
		r.held[c.ID] = true
	} else {
		delete(r.held, c.ID)
	}
	switch {
	case c.Held && !held:
		r.show(fmt.Sprintf("%s %s stays %v for now: %s", r.kind, c.ID, c.State, c.Why))
	case !c.Held && held, c.State != c.Previous && max(c.State, c.Previous) >= health.NotReady:
		r.show(fmt.Sprintf("%s %s is %v: %s", r.kind, c.ID, c.State, c.Why))
	}
}

// watchDoubt shows when the prober begins and ceases to doubt itself, until ctx
// ends. A doubt that is gone at the next look was a short stall, and not worth a
// line.
func watchDoubt(ctx context.Context, p *health.Prober, of string, show func(string)) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	doubted, shown := false, false
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		doubt := p.Snapshot().Doubt
		switch {
		case doubt != "" && doubted && !shown:
			shown = true
			show(fmt.Sprintf("health of %s is in doubt: %s", of, doubt))
		case doubt == "" && shown:
			shown = false
			show(fmt.Sprintf("health of %s is not in doubt any more", of))
		}
		doubted = doubt != ""
	}
}
