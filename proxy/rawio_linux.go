//go:build !386 && !s390x

// On 386 and s390x sockets have no system calls of their own.

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
		avail, e := queued(fd, syscall.TIOCINQ)
		if e != nil {
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

// queued returns the length of a queue of a socket.
func queued(fd uintptr, which uintptr) (int, error) {
	var n int32
	if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, fd, which, uintptr(unsafe.Pointer(&n))); e != 0 {
		return 0, e
	}
	return int(n), nil
}

// unsent returns how much the peer has not taken, or 0.
func unsent(raw syscall.RawConn) (n int) {
	_ = raw.Control(func(fd uintptr) { n, _ = queued(fd, syscall.TIOCOUTQ) })
	return n
}

// moved returns how much the peer has taken and sent in all, or 0 if the system
// does not tell.
func moved(raw syscall.RawConn) (n uint64) {
	_ = raw.Control(func(fd uintptr) {
		var info struct { // tcp_info
			_               [120]byte
			acked, received uint64
		}
		size := uint32(unsafe.Sizeof(info))
		_, _, e := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		if e == 0 && size == uint32(unsafe.Sizeof(info)) {
			n = info.acked + info.received
		}
	})
	return n
}

// hungUpFD reports whether the peer has closed the connection, whatever it sent
// before.
func hungUpFD(fd uintptr) bool { return pollFD(fd)&(pollErr|pollHup|pollRDHup) != 0 }

// resetFD reports whether the connection has ended both ways.
func resetFD(fd uintptr) bool { return pollFD(fd)&(pollErr|pollHup) != 0 }

const (
	pollErr   = 0x8
	pollHup   = 0x10
	pollRDHup = 0x2000
)

// pollFD returns what is the matter with a connection.
func pollFD(fd uintptr) int16 {
	p := struct {
		fd              int32
		events, happens int16
	}{fd: int32(fd), events: pollRDHup}
	var now syscall.Timespec
	n, _, _ := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
	if n != 1 {
		return 0
	}
	return p.happens
}

// canSplice reports whether the kernel can pass bytes from one connection to
// another.
const canSplice = true

// offerProcessor lets others that want it have the processor for now.
func offerProcessor() { syscall.RawSyscall(syscall.SYS_SCHED_YIELD, 0, 0, 0) }
