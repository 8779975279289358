//go:build !linux && !darwin

package boltstore_test

import "testing"

func smallFiles(t *testing.T, _ uint64) func() {
	t.Skip("there is no limit to set here")
	return nil
}
