package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/ServiceWeaver/weaver/runtime/protos"
	"google.golang.org/protobuf/proto"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/rollout"
)

// versions know what belongs to the name of a version: a copy of the binary,
// which a later build does not change, and the configuration. They are kept in
// the state directory, since a rollout that goes on after a crash starts them
// again.
type versions struct {
	dir   string // of the binaries of this application
	store rollout.Store
	key   string // in the store

	saving sync.Mutex // one change at a time; guards seq
	seq    uint64     // the store's version
	now    atomic.Pointer[kept]
}

// kept is what the store keeps.
type kept struct {
	Configs   map[string][]byte `json:"configs"`   // of versions: protos.AppConfig, naming the copied binary
	Addresses map[string]string `json:"addresses"` // of listeners: where they were open last
}

// openVersions reads what is kept, and removes binaries that are not, such as
// one that was being copied when this program was killed. Nobody else does
// that now: the store is locked.
func openVersions(ctx context.Context, state, app string, store rollout.Store) (*versions, error) {
	v := &versions{
		dir:   filepath.Join(state, "binaries-"+url.PathEscape(app)),
		store: store,
		key:   versionsKey(app),
	}
	k := &kept{}
	value, seq, err := store.Load(ctx, v.key)
	if err == nil && value != nil {
		err = json.Unmarshal(value, k)
	}
	if err != nil {
		return nil, fmt.Errorf("read which versions there are: %w", err)
	}
	v.seq = seq
	v.now.Store(k)
	return v, v.sweep()
}

// versionsKey is where the store keeps the versions of an application.
func versionsKey(app string) string { return app + " (versions)" }

// add keeps the application as the given version. The name of one that is in use
// cannot be that of another.
func (v *versions) add(ctx context.Context, name string, app *envelopekit.App, inUse []string) error {
	binary, err := v.copy(app.Config.Binary)
	if err != nil {
		return fmt.Errorf("keep the binary of version %s: %w", name, err)
	}
	config := proto.CloneOf(app.Config)
	config.Binary = binary
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(config)
	if err != nil {
		return fmt.Errorf("keep the configuration of version %s: %w", name, err)
	}
	if slices.Contains(inUse, name) {
		if !bytes.Equal(v.now.Load().Configs[name], data) {
			return fmt.Errorf("version %s is there already, with another binary or configuration: choose another name", name)
		}
		return nil
	}
	return v.change(ctx, func(k *kept) { k.Configs[name] = data })
}

// forget forgets all versions but those, and their binaries.
func (v *versions) forget(ctx context.Context, but []string) error {
	if err := v.change(ctx, func(k *kept) {
		maps.DeleteFunc(k.Configs, func(name string, _ []byte) bool { return !slices.Contains(but, name) })
	}); err != nil {
		return err
	}
	return v.sweep()
}

// load returns the application of a version.
func (v *versions) load(name string) (*envelopekit.App, error) {
	data, ok := v.now.Load().Configs[name]
	if !ok {
		return nil, fmt.Errorf("nothing is known of version %s: submit it with its configuration", name)
	}
	config := &protos.AppConfig{}
	if err := proto.Unmarshal(data, config); err != nil {
		return nil, fmt.Errorf("version %s: %w", name, err)
	}
	app, err := envelopekit.LoadBinary(config.Binary)
	if err != nil {
		return nil, fmt.Errorf("version %s: %w", name, err)
	}
	app.Name, app.Config = config.Name, config
	return app, nil
}

// change stores what f makes of a copy of what is kept.
func (v *versions) change(ctx context.Context, f func(*kept)) error {
	v.saving.Lock()
	defer v.saving.Unlock()
	old := v.now.Load()
	k := &kept{map[string][]byte{}, map[string]string{}}
	maps.Copy(k.Configs, old.Configs)
	maps.Copy(k.Addresses, old.Addresses)
	f(k)
	value, err := json.Marshal(k)
	if err != nil {
		return fmt.Errorf("record which versions there are: %w", err)
	}
	seq, err := v.store.CompareAndSwap(ctx, v.key, v.seq, value)
	if err != nil {
		return fmt.Errorf("record which versions there are: %w", err)
	}
	v.seq = seq
	v.now.Store(k)
	return nil
}

// copy copies the binary to a path that has its hash in it, unless it is there.
func (v *versions) copy(binary string) (path string, err error) {
	in, err := os.Open(binary)
	if err != nil {
		return "", err
	}
	defer in.Close()
	if err := os.MkdirAll(v.dir, 0o700); err != nil {
		return "", err
	}
	out, err := os.CreateTemp(v.dir, "incoming")
	if err != nil {
		return "", err
	}
	defer os.Remove(out.Name()) // unless it was moved
	defer out.Close()
	hash := sha256.New()
	if _, err := io.Copy(io.MultiWriter(out, hash), in); err != nil {
		return "", err
	}
	path = filepath.Join(v.dir, hex.EncodeToString(hash.Sum(nil)[:6]), filepath.Base(binary))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	if err := out.Chmod(0o700); err != nil {
		return "", err
	}
	if err := out.Sync(); err != nil {
		return "", err
	}
	if err := out.Close(); err != nil {
		return "", err
	}
	return path, os.Rename(out.Name(), path)
}

// sweep removes binaries that no version needs, while none is copied.
func (v *versions) sweep() error {
	needed := map[string]bool{}
	for _, data := range v.now.Load().Configs {
		config := &protos.AppConfig{}
		if proto.Unmarshal(data, config) == nil {
			needed[filepath.Base(filepath.Dir(config.Binary))] = true
		}
	}
	entries, err := os.ReadDir(v.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if !needed[e.Name()] {
			os.RemoveAll(filepath.Join(v.dir, e.Name()))
		}
	}
	return err
}
