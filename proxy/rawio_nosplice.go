//go:build !linux

package proxy

import (
	"errors"
	"syscall"
)

func awaitReadable(syscall.RawConn) (int64, error) { return 0, errors.ErrUnsupported }

func owesFD(syscall.RawConn) bool { return false }

const canSplice = false
