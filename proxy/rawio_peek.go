//go:build unix && (!linux || 386 || s390x)

package proxy

import "syscall"

// peekFD looks for a byte without reading it or waiting for it.
func peekFD(fd uintptr) (int, error) {
	var b [1]byte
	n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	return n, err
}
