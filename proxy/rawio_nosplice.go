//go:build !linux || 386 || s390x

package proxy

import (
	"errors"
	"syscall"
)

func awaitReadable(syscall.RawConn) (int64, error) { return 0, errors.ErrUnsupported }

// hungUpFD is closedFD: what the peer has sent before is in the way.
func hungUpFD(fd uintptr) bool { return closedFD(fd) }

// resetFD is not asked: who does not splice knows which end failed.
func resetFD(uintptr) bool { return false }

func unsent(syscall.RawConn) int   { return 0 }
func moved(syscall.RawConn) uint64 { return 0 }

const canSplice = false

// offerProcessor does nothing where the latencies that it is for were not measured.
func offerProcessor() {}
