// Package boltstore keeps the state of rollouts in a bbolt file, so that they
// survive the process:
//
//	store, err := boltstore.Open("rollouts.db", nil)
//	...
//	defer store.Close()
//	runner, err := rollout.New(deployer, rollout.Options{App: "shop", Store: store})
//
// A value that was stored is on the disk: bbolt syncs the file before
// CompareAndSwap returns. One process at a time has the file open. A file that is
// damaged is an error, which wraps [ErrDamaged], wherever that is noticed.
package boltstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/weaverkit/weaverkit/rollout"
)

var bucket = []byte("weaverkit/rollout")

// A Store is a [rollout.Store] in a bbolt database. Its methods may be called
// from several goroutines.
type Store struct {
	db      *bbolt.DB
	file    *os.File              // of db; nil if that is the caller's
	damaged atomic.Pointer[error] // what was noticed: bbolt's locks may be held then
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
	if err := create(path); err != nil {
		return nil, fmt.Errorf("make store %s: %w", path, err)
	}
	s := &Store{}
	err := guarded(path, func() (err error) {
		s.db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: timeout, FreelistType: bbolt.FreelistMapType,
			OpenFile: func(name string, flag int, perm os.FileMode) (_ *os.File, err error) {
				s.file, err = os.OpenFile(name, flag, perm)
				return s.file, err
			}})
		return err
	})
	if err == nil {
		err = s.prepare()
	}
	switch {
	case err == nil:
		return s, nil
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("open store %s: another process has it open, and has not closed it within %v", path, timeout)
	case s.file != nil && errors.Is(err, ErrDamaged):
		s.file.Close() // also if bbolt has done that
		return nil, err
	case s.db != nil:
		err = errors.Join(err, s.db.Close())
	}
	return nil, fmt.Errorf("open store %s: %w", path, err)
}

// New returns a store in a bucket of a database that is open. Close leaves the
// database open.
func New(db *bbolt.DB) (*Store, error) {
	s := &Store{db: db}
	if err := s.prepare(); err != nil {
		return nil, fmt.Errorf("open store %s: %w", db.Path(), err)
	}
	return s, nil
}

// prepare makes the bucket and reads all that is in it, so that damage shows now
// rather than later.
func (s *Store) prepare() error {
	return s.do(func() error {
		err := s.db.Update(func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucketIfNotExists(bucket)
			return err
		})
		if err != nil {
			return fmt.Errorf("make bucket %q: %w", bucket, err)
		}
		return s.db.View(func(tx *bbolt.Tx) error {
			return tx.Bucket(bucket).ForEach(func(_, data []byte) error {
				_, _, err := decode(tx, data)
				return err
			})
		})
	})
}

// Close closes the file if the store was made by Open, after what is under way
// has ended. The methods return errors then. A file that was found to be damaged
// stays locked until the process ends.
func (s *Store) Close() error {
	if s.file == nil {
		return nil
	}
	closing := s.db.Close
	if s.damaged.Load() != nil {
		closing = s.file.Close
	}
	if err := closing(); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// Load implements [rollout.Store]. The context is looked at once, in the
// beginning: a read takes no longer than the disk does.
func (s *Store) Load(ctx context.Context, app string) (value []byte, version uint64, err error) {
	err = ctx.Err()
	if err == nil {
		err = s.do(func() error {
			return s.db.View(func(tx *bbolt.Tx) error {
				value, version, err = decode(tx, tx.Bucket(bucket).Get([]byte(app)))
				value = bytes.Clone(value) // the file's memory is not ours after this
				return err
			})
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
		err = s.do(func() error {
			return s.db.Update(func(tx *bbolt.Tx) error {
				b := tx.Bucket(bucket)
				_, version, err := decode(tx, b.Get([]byte(app)))
				if err != nil {
					return err
				}
				if version != expected {
					return fmt.Errorf("%w: %d, not %d", rollout.ErrConflict, version, expected)
				}
				return b.Put([]byte(app), encode(version+1, value))
			})
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

func decode(tx *bbolt.Tx, data []byte) (value []byte, version uint64, err error) {
	switch {
	case data == nil:
		return nil, 0, nil
	case len(data) < 8 || int64(len(data)) > tx.Size():
		return nil, 0, damage(tx.DB().Path(), fmt.Sprintf("it holds %d bytes where a version and a value should be", len(data)))
	}
	return data[8:], binary.BigEndian.Uint64(data), nil
}
