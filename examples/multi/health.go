package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/health"
)

// wellness says when a replica counts as dead: when it has not answered three
// times in a row. One that is merely slow answers now and then.
var wellness = health.Policy{
	Period:            2 * time.Second,
	Timeout:           time.Second,
	SuccessThreshold:  1,
	FailureThreshold:  2,
	LivenessThreshold: 3,
	StartupThreshold:  3,
}

// watchHealth pings the replicas that serve, until ctx ends, and has those
// restarted that are dead.
func watchHealth(ctx context.Context, d *envelopekit.Deployment, problem func(string)) error {
	// A group may consist of one replica, which may be dead.
	prober, err := health.New(health.Options{MaxUnready: 1})
	if err != nil {
		return err
	}
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { _ = prober.Run(ctx) }) // its error is ctx's
	running.Go(func() {
		for e := range d.Events(ctx, 0) {
			if e.Kind != envelopekit.ReplicaChanged {
				continue
			}
			id := fmt.Sprintf("%s/%d", e.Group, e.Replica)
			prober.Remove(id)
			if e.State != envelopekit.Serving {
				continue
			}
			target := health.Target{ID: id, Group: e.Group, Policy: wellness, Check: health.Func(func(ctx context.Context) error {
				return d.Ping(ctx, e.Group, e.Replica)
			})}
			if err := prober.Add(target); err != nil {
				problem(err.Error())
			}
		}
	})
	for c := range prober.Subscribe(ctx) {
		group, number, _ := strings.Cut(c.ID, "/")
		if n, err := strconv.Atoi(number); err == nil && c.State == health.Dead {
			if err := d.Restart(group, n, "it is dead: "+c.Why); err != nil {
				problem(err.Error())
			}
		}
	}
	return nil
}
