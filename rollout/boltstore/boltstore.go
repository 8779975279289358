// Package boltstore keeps the state of rollouts in a bbolt file, so that they
// survive the process:
//
//	store, err := boltstore.Open("rollouts.db", nil)
//	...
//	defer store.Close()
//	runner, err := rollout.New(deployer, rollout.Options{App: "shop", Store: store})
//
// A value that was stored is on the disk: bbolt syncs the file before
// CompareAndSwap returns. One process at a time has the file open.
package boltstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/weaverkit/weaverkit/rollout"
)

var bucket = []byte("weaverkit/rollout")

// A Store is a [rollout.Store] in a bbolt database. Its methods may be called
// from several goroutines.
type Store struct {
	db   *bbolt.DB
	owns bool
}

var _ rollout.Store = (*Store)(nil)

// Options configure [Open]. Nil means the defaults.
type Options struct {
	// Timeout is how long to wait for another process to close the file. Zero
	// means 5 s.
	Timeout time.Duration
}

// Open opens the file, or makes it. The caller must call Close.
func Open(path string, opts *Options) (*Store, error) {
	timeout := 5 * time.Second
	if opts != nil && opts.Timeout > 0 {
		timeout = opts.Timeout
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: timeout, FreelistType: bbolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open store %s: another process has it open, and has not closed it within %v", path, timeout)
	}
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	s, err := New(db)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	s.owns = true
	return s, nil
}

// New returns a store in a bucket of a database that is open. Close leaves the
// database open.
func New(db *bbolt.DB) (*Store, error) {
	err := db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucket)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open store %s: make bucket %q: %w", db.Path(), bucket, err)
	}
	return &Store{db: db}, nil
}

// Close closes the file if the store was made by Open, after what is under way
// has ended. The methods return errors then.
func (s *Store) Close() error {
	if !s.owns {
		return nil
	}
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// Load implements [rollout.Store]. The context is looked at once, in the
// beginning: a read takes no longer than the disk does.
func (s *Store) Load(ctx context.Context, app string) (value []byte, version uint64, err error) {
	err = ctx.Err()
	if err == nil {
		err = s.db.View(func(tx *bbolt.Tx) error {
			value, version, err = decode(tx.Bucket(bucket).Get([]byte(app)))
			value = bytes.Clone(value) // the file's memory is not ours after this
			return err
		})
	}
	if err != nil {
		return nil, 0, fmt.Errorf("load %q: %w", app, err)
	}
	return value, version, nil
}

// CompareAndSwap implements [rollout.Store]. The context is looked at once, in
// the beginning.
func (s *Store) CompareAndSwap(ctx context.Context, app string, expected uint64, value []byte) (uint64, error) {
	err := ctx.Err()
	if err == nil && app == "" {
		err = errors.New("the name is empty")
	}
	if err == nil {
		err = s.db.Update(func(tx *bbolt.Tx) error {
			b := tx.Bucket(bucket)
			_, version, err := decode(b.Get([]byte(app)))
			if err != nil {
				return err
			}
			if version != expected {
				return fmt.Errorf("%w: %d, not %d", rollout.ErrConflict, version, expected)
			}
			return b.Put([]byte(app), encode(version+1, value))
		})
	}
	if err != nil {
		return 0, fmt.Errorf("store %q: %w", app, err)
	}
	return expected + 1, nil
}

// What is stored is the version, in eight bytes, and the value.
func encode(version uint64, value []byte) []byte {
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(value)), version), value...)
}

func decode(data []byte) (value []byte, version uint64, err error) {
	switch {
	case data == nil:
		return nil, 0, nil
	case len(data) < 8:
		return nil, 0, fmt.Errorf("the file holds %d bytes where a version and a value should be", len(data))
	}
	return data[8:], binary.BigEndian.Uint64(data), nil
}
