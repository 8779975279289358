package main

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/envelopekit/envelopetest"
)

// fake returns a version that does not run yet and is started again whenever it
// ends, and the launcher of its weavelets, which are no processes.
func fake(t *testing.T) (*version, *envelopetest.Launcher) {
	t.Helper()
	launcher := &envelopetest.Launcher{}
	deploy := func() (*envelopekit.Deployment, error) {
		return envelopekit.New(envelopetest.App("shop"), envelopekit.Options{Launcher: launcher})
	}
	first, err := deploy()
	require.NoError(t, err)
	v := newVersion(first)
	v.wasReady, v.again, v.problem = true, deploy, func(string) {}
	return v, launcher
}

// A version that has ended is stopped while it is about to be started again:
// the next deployment is there already, but does not run yet.
func TestStopBetweenTwoDeployments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, launcher := fake(t)
		deploy := v.again
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		v.again = func() (*envelopekit.Deployment, error) {
			go v.stop(ctx)
			<-v.stopping
			synctest.Wait() // stop has the deployment that it is to stop
			return deploy()
		}
		go v.run()
		launcher.Await(t, "main", 1).Exit(0)
		select {
		case <-v.ended:
		case <-time.After(time.Minute):
			t.Error("it runs again, though it was stopped")
			assert.NoError(t, v.current().Stop(ctx))
			<-v.ended
		}
		assert.Len(t, launcher.All(), 1, "weavelets")
	})
}

// Whenever a version is stopped that is started again and again, that ends, and
// nothing runs any more.
func TestStopAtAnyTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for after := range 40 {
			v, launcher := fake(t)
			go v.run()
			var crashes sync.WaitGroup
			crashes.Go(func() {
				for range 50 {
					for _, w := range launcher.All() {
						w.Exit(0)
					}
					time.Sleep(100 * time.Millisecond)
				}
			})
			time.Sleep(time.Duration(after) * 100 * time.Millisecond)
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			v.stop(ctx)
			assert.NoError(t, ctx.Err(), "after %d", after)
			cancel()
			<-v.ended
			assert.Empty(t, launcher.Live("main"), "after %d", after)
			crashes.Wait()
		}
	})
}

// A version that ends again and again is started at longer and longer intervals,
// and soon again if it ends after a long time.
func TestRestartWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, launcher := fake(t)
		go v.run()
		down := func() time.Duration {
			launcher.Await(t, "main", 1).Exit(0)
			launcher.Await(t, "main", 0)
			began := time.Now()
			for len(launcher.Live("main")) == 0 {
				time.Sleep(10 * time.Millisecond)
			}
			return time.Since(began)
		}
		var waits []time.Duration
		for range 20 {
			waits = append(waits, down())
		}
		assert.Less(t, waits[0], 3*time.Second)
		assert.Greater(t, waits[4], 4*waits[0])
		for _, w := range waits[10:] {
			assert.Greater(t, w, 45*time.Second)
			assert.Less(t, w, 65*time.Second)
		}
		time.Sleep(restarts.Healthy)
		assert.Less(t, down(), 3*time.Second, "after a long time")
		v.stop(t.Context())
		<-v.ended
	})
}

// Replicas crash, are scaled away and come back, and the deployment ends: the
// total of restarts only rises.
func TestRestartsOnlyRise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, launcher := fake(t)
		first := v.deployment
		restarts := func() uint64 {
			synctest.Wait()
			v.mu.Lock()
			defer v.mu.Unlock()
			return v.restarts
		}
		go v.run()
		launcher.Await(t, "main", 1)
		assert.EqualValues(t, 0, restarts())
		require.NoError(t, first.Scale("main", 2))
		launcher.Await(t, "main", 2)
		for _, w := range launcher.Live("main") {
			w.Exit(1, "panic")
		}
		launcher.Await(t, "main", 0)
		launcher.Await(t, "main", 2)
		assert.EqualValues(t, 2, restarts())
		require.NoError(t, first.Scale("main", 1))
		launcher.Await(t, "main", 1)
		assert.EqualValues(t, 2, restarts(), "one that was restarted is gone")
		require.NoError(t, first.Scale("main", 2))
		launcher.Await(t, "main", 2)
		assert.EqualValues(t, 2, restarts(), "one that was added was not restarted")
		require.NoError(t, first.Scale("main", 1))
		launcher.Await(t, "main", 1).Exit(0) // its main function returns: all of it ends
		launcher.Await(t, "main", 0)
		assert.EqualValues(t, 3, restarts(), "the deployment has ended")
		launcher.Await(t, "main", 1)
		assert.EqualValues(t, 3, restarts())
		v.stop(t.Context())
		<-v.ended
	})
}
