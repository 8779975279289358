//go:build !unix

package proxy

import (
	"errors"
	"net"
	"syscall"
)

var errAgain = errors.New("try again")

// syscallConn returns nil: connections are read and written the ordinary way.
func syscallConn(net.Conn) syscall.RawConn { return nil }

func readFD(uintptr, []byte) (int, error)  { return 0, errors.ErrUnsupported }
func writeFD(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }
func silentFD(uintptr) bool                { return true }
func closedFD(uintptr) bool                { return false }
