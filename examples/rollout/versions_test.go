package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/ServiceWeaver/weaver/runtime/protos"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/rollout"
)

// built returns an application with a binary of the given contents.
func built(t *testing.T, contents string) *envelopekit.App {
	t.Helper()
	file := filepath.Join(t.TempDir(), "app")
	require.NoError(t, os.WriteFile(file, []byte(contents), 0o700))
	return &envelopekit.App{Config: &protos.AppConfig{Name: "app", Binary: file}}
}

// binary returns what is kept as the binary of a version.
func (v *versions) binary(t *testing.T, name string) string {
	t.Helper()
	config := &protos.AppConfig{}
	require.NoError(t, proto.Unmarshal(v.now.Load().Configs[name], config))
	data, err := os.ReadFile(config.Binary)
	require.NoError(t, err)
	return string(data)
}

// A later build, a version that is rolled back, and a kill in the middle of a
// copy leave alone what is needed; the rest goes.
func TestVersions(t *testing.T) {
	ctx, store, state := context.Background(), new(rollout.MemoryStore), t.TempDir()
	open := func(app string) *versions {
		v, err := openVersions(ctx, state, app, store)
		require.NoError(t, err)
		return v
	}
	v := open("app")
	entries := func() int {
		all, err := os.ReadDir(v.dir)
		require.NoError(t, err)
		return len(all)
	}
	one := built(t, "one")
	require.NoError(t, v.add(ctx, "v1", one, nil))
	require.NoError(t, os.WriteFile(one.Config.Binary, []byte("a later build"), 0o700))
	assert.Equal(t, "one", v.binary(t, "v1"))
	require.NoError(t, v.add(ctx, "v2", built(t, "two"), []string{"v1"}))
	require.NoError(t, v.add(ctx, "v2", built(t, "two"), []string{"v1", "v2"}), "the same once more")
	assert.ErrorContains(t, v.add(ctx, "v2", built(t, "three"), []string{"v1", "v2"}), "there already")

	require.NoError(t, os.WriteFile(filepath.Join(v.dir, "incoming123"), nil, 0o600)) // by one that was killed
	v = open("app")
	assert.Equal(t, "one", v.binary(t, "v1"))
	assert.Equal(t, "two", v.binary(t, "v2"))
	assert.Equal(t, 2, entries())

	plan := &rollout.Plan{Version: "v2"}
	back := rollout.State{Phase: rollout.RolledBack, Plan: plan, Stable: &rollout.Version{ID: "v1"}}
	require.NoError(t, v.forget(ctx, needed(back)))
	assert.Equal(t, "two", v.binary(t, "v2"), "it can be tried again")
	require.NoError(t, v.add(ctx, "v2", built(t, "mended"), versionsOf(back)), "the name is free")
	require.NoError(t, v.forget(ctx, needed(rollout.State{Phase: rollout.Succeeded, Plan: plan, Stable: &rollout.Version{ID: "v2"}})))
	assert.Equal(t, "mended", v.binary(t, "v2"))
	assert.Equal(t, 1, entries())
}

// Applications that share a state directory, one after the other, leave each
// other's binaries alone, whatever their names.
func TestVersionsOfSeveralApplications(t *testing.T) {
	ctx, store, state := context.Background(), new(rollout.MemoryStore), t.TempDir()
	names := []string{"app", "other", "..", "../app", "app/other"}
	for range 2 {
		for _, name := range names {
			v, err := openVersions(ctx, state, name, store)
			require.NoError(t, err)
			require.NoError(t, v.add(ctx, "v1", built(t, "that of "+name), nil))
			require.NoError(t, v.forget(ctx, []string{"v1"}))
		}
		for _, name := range names {
			v, err := openVersions(ctx, state, name, store)
			require.NoError(t, err)
			assert.Equal(t, "that of "+name, v.binary(t, "v1"))
		}
	}
	all, err := os.ReadDir(state)
	require.NoError(t, err)
	assert.Len(t, all, len(names))
}
