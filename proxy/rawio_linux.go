package proxy

import (
	"io"
	"syscall"
	"unsafe"
)

// awaitReadable waits until there is something to read, and returns how much
// there is.
func awaitReadable(raw syscall.RawConn) (n int64, err error) {
	rerr := raw.Read(func(fd uintptr) bool {
		var avail int32
		if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCINQ, uintptr(unsafe.Pointer(&avail))); e != 0 {
			err = e
			return true
		}
		n = int64(avail)
		if n == 0 && closedFD(fd) {
			err = io.EOF
		}
		return n > 0 || err != nil
	})
	if rerr != nil {
		return 0, rerr
	}
	return n, err
}

// owesFD reports whether the peer has not yet taken all that was written to it.
func owesFD(raw syscall.RawConn) bool {
	var left int32
	_ = raw.Control(func(fd uintptr) {
		_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&left)))
	})
	return left > 0
}

// peekFD looks for a byte without reading it or waiting for it. It is
// syscall.Recvfrom without the address, for which that allocates memory.
func peekFD(fd uintptr) (int, error) {
	var b [1]byte
	n, _, errno := syscall.Syscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b)), 1, syscall.MSG_PEEK|syscall.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// canSplice reports whether the kernel can pass bytes from one connection to
// another.
const canSplice = true
