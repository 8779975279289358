package boltstore_test

import (
	"path/filepath"
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
