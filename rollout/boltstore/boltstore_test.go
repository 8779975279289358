package boltstore_test

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/weaverkit/weaverkit/rollout"
	"github.com/weaverkit/weaverkit/rollout/boltstore"
	"github.com/weaverkit/weaverkit/rollout/storetest"
)

func open(t *testing.T, path string) *boltstore.Store {
	s, err := boltstore.Open(path, nil)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	paths := map[rollout.Store]string{}
	storetest.TestStore(t, storetest.Test{
		New: func(t *testing.T) rollout.Store {
			path := filepath.Join(t.TempDir(), "rollouts.db")
			s := open(t, path)
			paths[s] = path
			return s
		},
		Reopen: func(t *testing.T, s rollout.Store) rollout.Store {
			require.NoError(t, s.(*boltstore.Store).Close())
			return open(t, paths[s])
		},
	})
}

func TestOneProcessAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rollouts.db")
	open(t, path)
	_, err := boltstore.Open(path, &boltstore.Options{Timeout: 20 * time.Millisecond})
	assert.ErrorContains(t, err, "another process has it open")
}

func TestCannotOpen(t *testing.T) {
	dir := t.TempDir()
	_, err := boltstore.Open(dir, nil)
	assert.ErrorContains(t, err, "open store "+dir)
}

func TestClosed(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "rollouts.db"))
	require.NoError(t, s.Close())
	_, _, err := s.Load(t.Context(), "app")
	assert.ErrorContains(t, err, `load "app"`)
	_, err = s.CompareAndSwap(t.Context(), "app", 0, nil)
	assert.ErrorContains(t, err, `store "app"`)
}

// A database that has other tenants keeps them, and is not closed.
func TestSharedDatabase(t *testing.T) {
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "all.db"), 0o600, nil)
	require.NoError(t, err)
	defer db.Close()
	s, err := boltstore.New(db)
	require.NoError(t, err)
	version, err := s.CompareAndSwap(t.Context(), "app", 0, []byte("x"))
	require.NoError(t, err)
	require.NoError(t, s.Close())
	value, got, err := s.Load(t.Context(), "app")
	require.NoError(t, err)
	assert.Equal(t, "x", string(value))
	assert.Equal(t, version, got)
}

// A deployer whose versions are always ready.
type deployer struct {
	mu      sync.Mutex
	started []string
	weights rollout.Weights
}

func (d *deployer) Start(_ context.Context, version string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.started = append(d.started, version)
	return nil
}

func (d *deployer) Ready(context.Context, string) (rollout.Readiness, error) {
	return rollout.Readiness{Ready: true}, nil
}

func (d *deployer) SetWeights(_ context.Context, w rollout.Weights) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.weights = w
	return nil
}

func (d *deployer) Stop(context.Context, string, time.Duration) error { return nil }

func (d *deployer) Stats(context.Context) (map[string]rollout.Traffic, error) { return nil, nil }

// A rollout goes on from the file where it was.
func TestResume(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rollouts.db")
	life := func(d *deployer, f func(*rollout.Runner)) {
		s, err := boltstore.Open(path, nil)
		require.NoError(t, err)
		r, err := rollout.New(d, rollout.Options{App: "shop", Store: s, Config: rollout.Config{Interval: 5 * time.Millisecond}})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		f(r)
		cancel()
		require.NoError(t, <-done)
		require.NoError(t, s.Close())
	}
	life(&deployer{}, func(r *rollout.Runner) {
		for _, version := range []string{"v1", "v2"} {
			p := rollout.Canary(rollout.SetWeight(30), rollout.Pause())
			p.Version, p.Listeners = version, []string{"api"}
			require.NoError(t, r.Submit(t.Context(), p))
			for e := range r.Events(t.Context(), 0) {
				if e.Version == version && e.Kind == rollout.PhaseChanged && (e.Phase == rollout.Succeeded || e.Phase == rollout.Paused) {
					break
				}
			}
		}
	})
	d := &deployer{}
	life(d, func(r *rollout.Runner) {
		s, err := r.State(t.Context())
		require.NoError(t, err)
		assert.Equal(t, "v1", s.Stable.ID)
		assert.Equal(t, rollout.Paused, s.Phase)
		require.NoError(t, r.Resume(t.Context()))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		s, err = r.Wait(ctx)
		require.NoError(t, err, "%s", r.Why())
		assert.Equal(t, "v2", s.Stable.ID)
	})
	assert.ElementsMatch(t, []string{"v1", "v2"}, d.started)
	assert.Equal(t, rollout.Whole, d.weights.Most("v2"))
}

func BenchmarkCompareAndSwap(b *testing.B) {
	s, err := boltstore.Open(filepath.Join(b.TempDir(), "rollouts.db"), nil)
	require.NoError(b, err)
	defer s.Close()
	value := make([]byte, 8<<10) // a state with events and windows
	version := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		version, err = s.CompareAndSwap(b.Context(), "app", version, value)
		if err != nil {
			b.Fatal(err)
		}
	}
}
