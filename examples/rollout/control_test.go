package main

import (
	"context"
	"errors"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/rollout"
)

// A frail store may be away.
type frail struct {
	rollout.MemoryStore
	away atomic.Bool
}

func (s *frail) Load(ctx context.Context, app string) ([]byte, uint64, error) {
	if s.away.Load() {
		return nil, 0, errors.New("away")
	}
	return s.MemoryStore.Load(ctx, app)
}

func (s *frail) CompareAndSwap(ctx context.Context, app string, expected uint64, value []byte) (uint64, error) {
	if s.away.Load() {
		return 0, errors.New("away")
	}
	return s.MemoryStore.CompareAndSwap(ctx, app, expected, value)
}

// Whoever asks for the events that there are gets those that are recorded, and
// waits for no others.
func TestEventsWhileTheStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &frail{}
		store.away.Store(true)
		deployer := &deployer{
			load:    func(string) (*envelopekit.App, error) { return nil, errors.New("there is no such version") },
			proxies: newTestProxies(),
			running: map[string]*version{},
		}
		runner, err := rollout.New(deployer, rollout.Options{App: "shop", Store: store})
		require.NoError(t, err)
		d := &deployment{runner: runner}
		ctx, end := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- runner.Run(ctx) }()
		events := func() *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			begun := time.Now()
			d.serveEvents(w, httptest.NewRequestWithContext(ctx, "GET", "/events?follow=false", nil))
			assert.Less(t, time.Since(begun), answerTime)
			return w
		}
		assert.Equal(t, 503, events().Code, "the state was never loaded")

		store.away.Store(false)
		submit := func(version string) error {
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			plan := rollout.AllAtOnce()
			plan.Version = version
			return runner.Submit(ctx, plan)
		}
		require.NoError(t, submit("v1"))
		store.away.Store(true)
		require.Error(t, submit("v2"), "it is not recorded")
		w := events()
		assert.Equal(t, 200, w.Code)
		assert.Contains(t, w.Body.String(), `"v1"`)
		assert.NotContains(t, w.Body.String(), `"v2"`)
		end()
		<-ended
	})
}
