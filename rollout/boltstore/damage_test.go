package boltstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/rollout/boltstore"
)

const page = 4096

// written returns a file in which a value was stored often.
func written(t *testing.T) []byte {
	path := filepath.Join(t.TempDir(), "good.db")
	s, err := boltstore.Open(path, nil)
	require.NoError(t, err)
	var version uint64
	for range 40 {
		version, err = s.CompareAndSwap(t.Context(), "shop", version, bytes.Repeat([]byte("x"), 8000))
		require.NoError(t, err)
	}
	require.NoError(t, s.Close())
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return data
}

// A file that is not what was written is an error that says what to do, or, where
// the damage is in a part that is not in use, none. It never ends the process.
func TestDamagedFiles(t *testing.T) {
	good := written(t)
	rng := rand.New(rand.NewPCG(1, 2))
	files := map[string][]byte{"garbage": bytes.Repeat([]byte("hello"), 10_000)}
	for _, n := range []int{1, 100, page, 2 * page, 3 * page, 4 * page, 20_000, len(good) / 2, len(good) - page} {
		files[fmt.Sprintf("cut off at %d", n)] = good[:n]
	}
	for p := range len(good) / page {
		zeroed, noise := bytes.Clone(good), bytes.Clone(good)
		for i := range page {
			zeroed[p*page+i], noise[p*page+i] = 0, byte(rng.IntN(256))
		}
		files[fmt.Sprintf("page %d is zero", p)] = zeroed
		files[fmt.Sprintf("page %d is noise", p)] = noise
	}
	files["all but the first pages is zero"] = append(bytes.Clone(good[:2*page]), make([]byte, len(good)-2*page)...)
	damaged := 0
	for name, data := range files {
		path := filepath.Join(t.TempDir(), "bad.db")
		require.NoError(t, os.WriteFile(path, data, 0o600))
		err := use(t, path)
		if err == nil {
			continue
		}
		damaged++
		require.ErrorIs(t, err, boltstore.ErrDamaged, name)
		assert.ErrorContains(t, err, "store "+path+" is damaged: ", name)
		assert.ErrorContains(t, err, ": move it away, and the rollouts begin anew", name)
		require.NoError(t, os.Rename(path, path+".bad"), name)
		require.NoError(t, use(t, path), "it was moved away")
	}
	assert.Greater(t, damaged, 10)
	for _, name := range []string{"garbage", "cut off at 100", "cut off at 12288", "all but the first pages is zero"} {
		path := filepath.Join(t.TempDir(), "bad.db")
		require.NoError(t, os.WriteFile(path, files[name], 0o600))
		_, err := boltstore.Open(path, nil)
		assert.ErrorIs(t, err, boltstore.ErrDamaged, name)
	}
}

// use reads and writes the file.
func use(t *testing.T, path string) error {
	s, err := boltstore.Open(path, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	_, version, err := s.Load(t.Context(), "shop")
	for range 5 {
		if err == nil {
			version, err = s.CompareAndSwap(t.Context(), "shop", version, bytes.Repeat([]byte("y"), 9000))
		}
	}
	if err != nil {
		_, _, again := s.Load(t.Context(), "shop")
		assert.ErrorIs(t, again, boltstore.ErrDamaged, "once damaged, always")
	}
	return err
}

// A file that loses its end while it is open is damaged, too.
func TestCutOffWhileOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rollouts.db")
	require.NoError(t, os.WriteFile(path, written(t), 0o600))
	s, err := boltstore.Open(path, nil)
	require.NoError(t, err)
	if os.Truncate(path, page) != nil {
		t.Skip("an open file cannot be cut off here")
	}
	_, version, err := s.Load(t.Context(), "shop")
	if err == nil {
		_, err = s.CompareAndSwap(t.Context(), "shop", version, []byte("x"))
	}
	require.ErrorIs(t, err, boltstore.ErrDamaged)
	_, err = s.CompareAndSwap(t.Context(), "shop", version, []byte("x"))
	require.ErrorIs(t, err, boltstore.ErrDamaged)
	require.NoError(t, s.Close())
	require.NoError(t, os.Rename(path, path+".bad"))
	s, err = boltstore.Open(path, nil)
	require.NoError(t, err)
	require.NoError(t, s.Close())
}

// What could not be made leaves nothing behind.
func TestNothingHalfMade(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	_, err := boltstore.Open(filepath.Join(dir, "rollouts.db"), nil)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.False(t, errors.Is(err, boltstore.ErrDamaged))

	require.NoError(t, os.Mkdir(dir, 0o700))
	restore := smallFiles(t, page)
	_, err = boltstore.Open(filepath.Join(dir, "rollouts.db"), nil)
	restore()
	require.ErrorContains(t, err, "make store "+filepath.Join(dir, "rollouts.db"))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
	require.NoError(t, use(t, filepath.Join(dir, "rollouts.db")))
	left, err = os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1)
}
