package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/health"
)

// A version is one that is to run: a deployment or, if that ends by itself, one
// after the other.
type version struct {
	again   func() (*envelopekit.Deployment, error)
	problem func(string)

	stopping chan struct{} // closed, under mu, once it is not to run any more
	ended    chan struct{} // closed when run has returned

	mu         sync.Mutex // guards the following
	deployment *envelopekit.Deployment
	wasReady   bool
	failed     error  // why it will never be ready
	restarts   uint64 // of deployments, and of replicas
}

func newVersion(deployment *envelopekit.Deployment) *version {
	return &version{stopping: make(chan struct{}), ended: make(chan struct{}), deployment: deployment}
}

// restarts are when a version that has ended by itself is started again: at longer
// and longer intervals, until it has run for a while. It is never given up, since it
// has been well before, and what it needs may come back.
var restarts = health.Restart{Base: time.Second, Max: time.Minute, Healthy: 5 * time.Minute, Limit: -1}

// run lets the version run until it is stopped. One that ends by itself is
// started again if it has been ready, and has failed if it has not.
func (v *version) run() {
	defer close(v.ended)
	var history health.RestartHistory
	for {
		began := time.Now()
		err := v.runOne()
		if err == nil {
			err = errors.New("its main function has returned")
		}
		if !v.goesOn(err) {
			return
		}
		now := time.Now()
		var wait time.Duration
		history, wait, _ = restarts.Next(history, now, now.Sub(began), rand.Float64()) // there is no limit
		v.problem(fmt.Sprintf("has ended, and is started again in %v: %v", wait.Round(time.Millisecond), err))
		select {
		case <-time.After(wait):
		case <-v.stopping:
			return
		}
		next, err := v.again()
		if !v.replace(next, err) {
			return
		}
	}
}

// runOne runs the deployment and counts the restarts of its replicas.
func (v *version) runOne() error {
	deployment := v.current()
	var counting sync.WaitGroup
	defer counting.Wait()
	counting.Go(func() { v.count(deployment.Events(context.Background(), 0)) }) // they end with Run
	return deployment.Run(context.Background())
}

// count counts restarts until the events end. The total must only rise, and in
// the status a replica that is removed takes its count with it.
func (v *version) count(events iter.Seq[envelopekit.Event]) {
	type replica struct {
		group  string
		number int
	}
	ended := map[replica]bool{} // and may be started again
	for e := range events {
		if e.Kind != envelopekit.ReplicaChanged {
			continue
		}
		r := replica{e.Group, e.Replica}
		switch e.State {
		case envelopekit.Waiting, envelopekit.Failed:
			ended[r] = true
			continue
		case envelopekit.Starting:
			if ended[r] {
				v.mu.Lock()
				v.restarts++
				v.mu.Unlock()
			}
		}
		delete(ended, r)
	}
}

// goesOn reports whether the version is to be started again, though it has ended.
func (v *version) goesOn(err error) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.isStopping() {
		return false
	}
	if !v.wasReady {
		v.failed = err
		return false
	}
	v.restarts++
	return true
}

// replace lets the next deployment run, unless the version is to stop: stop has
// the one before, and does not know of another.
func (v *version) replace(next *envelopekit.Deployment, err error) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.isStopping() {
		return false
	}
	if err != nil { // though it was possible before
		v.failed = err
		return false
	}
	v.deployment = next
	return true
}

// stop stops the version gracefully or, when ctx ends, at once. Nothing of it
// runs when it returns.
func (v *version) stop(ctx context.Context) {
	v.mu.Lock()
	if !v.isStopping() {
		close(v.stopping)
	}
	deployment := v.deployment // the last one: see replace
	v.mu.Unlock()
	_ = deployment.Stop(ctx) // its error is that it was not graceful
	select {
	case <-v.ended:
	case <-ctx.Done(): // run has nothing left to do but to return
	}
}

func (v *version) isStopping() bool {
	select {
	case <-v.stopping:
		return true
	default:
		return false
	}
}

func (v *version) current() *envelopekit.Deployment {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.deployment
}
