//go:build unix

package proxy

import (
	"io"
	"net"
	"syscall"
)

const errAgain = syscall.EAGAIN

// syscallConn returns the raw connection that c says to have, or nil.
func syscallConn(c net.Conn) syscall.RawConn {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// readFD reads without waiting. It returns errAgain if there is nothing, and
// io.EOF at the end.
func readFD(fd uintptr, b []byte) (int, error) {
	for {
		n, err := sysRead(fd, b)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// writeFD writes without waiting, and returns errAgain if not all could be.
func writeFD(fd uintptr, b []byte) (written int, err error) {
	for written < len(b) {
		n, err := sysWrite(fd, b[written:])
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil:
			return written, err
		}
		written += n
	}
	return written, nil
}

// silentFD reports whether the peer is there and has sent nothing.
func silentFD(fd uintptr) bool {
	for {
		_, err := peekFD(fd)
		if err != syscall.EINTR {
			return err == syscall.EAGAIN
		}
	}
}

// closedFD reports whether the peer has closed the connection, as far as can be
// seen without reading.
func closedFD(fd uintptr) bool {
	n, err := peekFD(fd)
	return n == 0 && err == nil || err != nil && err != syscall.EAGAIN && err != syscall.EINTR
}
