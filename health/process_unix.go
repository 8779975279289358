//go:build !windows

package health

import (
	"errors"
	"os"
	"syscall"
)

func alive(p *os.Process) error {
	err := p.Signal(syscall.Signal(0))
	switch {
	case errors.Is(err, syscall.EPERM):
		return nil // it is there, and somebody else's
	case errors.Is(err, os.ErrProcessDone):
		return errEnded
	}
	return err
}
