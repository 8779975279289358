package health

import (
	"os"
	"syscall"
)

func alive(p *os.Process) error {
	var wait uint32
	var err error
	if herr := p.WithHandle(func(handle uintptr) {
		wait, err = syscall.WaitForSingleObject(syscall.Handle(handle), 0)
	}); herr != nil {
		return errEnded
	}
	if err == nil && wait == syscall.WAIT_OBJECT_0 {
		return errEnded
	}
	return err
}
