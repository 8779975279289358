//go:build linux || darwin

package boltstore_test

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// smallFiles lets no file grow beyond a size, as on a disk that is full.
func smallFiles(t *testing.T, size uint64) (restore func()) {
	var was syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &was))
	limit := was
	limit.Cur = size
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit))
	return func() { require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &was)) }
}
