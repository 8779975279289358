package rollout

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
)

// A Store keeps a value for each application: of some kilobytes, or up to some hundred
// where traffic is counted at many places. Its methods may be called from several
// goroutines. The package storetest has a test of
// what is asked for here; package boltstore has a Store in a file.
type Store interface {
	// Load returns the value and its version, which is 0 if there is none.
	Load(ctx context.Context, app string) (value []byte, version uint64, err error)

	// CompareAndSwap stores the value if the version is the expected one, 0
	// standing for no value, and returns its new version, which is higher.
	// Otherwise it returns an error that wraps ErrConflict and changes nothing.
	// When it returns without an error the value is as safe as it gets. Another
	// error leaves open whether the value was stored, now or later.
	CompareAndSwap(ctx context.Context, app string, expected uint64, value []byte) (version uint64, err error)
}

// ErrConflict is the error of a store whose version is not the expected one.
var ErrConflict = errors.New("the stored version is another one")

// MemoryStore is a [Store] that lasts as long as the process. The zero value is
// empty and good for use.
type MemoryStore struct {
	mu     sync.Mutex
	values map[string]stored
}

type stored struct {
	value   []byte
	version uint64
}

// Load implements [Store].
func (m *MemoryStore) Load(ctx context.Context, app string) ([]byte, uint64, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, fmt.Errorf("load %q: %w", app, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.values[app]
	return bytes.Clone(s.value), s.version, nil
}

// CompareAndSwap implements [Store].
func (m *MemoryStore) CompareAndSwap(ctx context.Context, app string, expected uint64, value []byte) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("store %q: %w", app, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.values[app]
	if s.version != expected {
		return 0, fmt.Errorf("store %q: %w: %d, not %d", app, ErrConflict, s.version, expected)
	}
	if m.values == nil {
		m.values = map[string]stored{}
	}
	s = stored{bytes.Clone(value), s.version + 1}
	m.values[app] = s
	return s.version, nil
}
