package boltstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// ErrDamaged is wrapped by the errors of a file that was cut off, or has pages that
// bbolt has not written so: by a disk, a copy that was not finished, another
// program. What it held is lost.
var ErrDamaged = errors.New("is damaged")

func damage(path, what string) error {
	return fmt.Errorf("store %s %w: %s: move it away, and the rollouts begin anew", path, ErrDamaged, what)
}

// guarded calls f, which uses bbolt. That trusts its file: it panics if that is not
// what it has written, and reads beyond the end if that was cut off.
func guarded(path string, f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // of this goroutine
	defer func() {
		if p := recover(); p != nil {
			first, _, _ := strings.Cut(fmt.Sprint(p), "\n")
			err = damage(path, first)
		}
	}()
	err = f()
	for _, invalid := range []error{bolterrors.ErrInvalid, bolterrors.ErrInvalidMapping, bolterrors.ErrVersionMismatch, bolterrors.ErrChecksum} {
		if errors.Is(err, invalid) {
			return damage(path, err.Error())
		}
	}
	if err != nil && strings.Contains(err.Error(), "file size too small") { // it has no name
		return damage(path, err.Error())
	}
	return err
}

// do calls f, unless the file is known to be damaged: bbolt's locks may be held
// for ever then.
func (s *Store) do(f func() error) error {
	if err := s.damaged.Load(); err != nil {
		return *err
	}
	err := guarded(s.db.Path(), f)
	if errors.Is(err, ErrDamaged) {
		s.damaged.Store(&err)
	}
	return err
}

// create makes the file if there is none: elsewhere, so that one that could not be
// finished is never taken for a damaged one.
func create(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return nil // Open says what is wrong with it
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new*")
	if err != nil {
		return err
	}
	f.Close()
	defer os.Remove(f.Name())
	db, err := bbolt.Open(f.Name(), 0o600, nil)
	if err != nil {
		return err
	}
	if err := db.Close(); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err == nil || errors.Is(err, os.ErrExist) {
		return nil // another process may have been faster
	}
	return os.Rename(f.Name(), path) // where files cannot have two names
}
