package health

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// errEnded is the failure of a process that is not there any more.
var errEnded = errors.New("it has ended")

// Process returns a check of whether a process is there, which says nothing of
// what it does. The process must be there now; on systems that have handles for
// processes (Linux from 5.4, Windows) the check does not fall for another that
// gets the same id later. On Linux a zombie counts as ended, and a process that
// is stopped by a signal or a debugger as not ready.
func Process(pid int) (CheckFunc, error) {
	p, err := os.FindProcess(pid)
	if err == nil {
		err = alive(p)
	}
	if err != nil {
		return nil, fmt.Errorf("check process %d: %w", pid, err)
	}
	return func(context.Context) (Result, error) {
		if err := alive(p); err != nil {
			return Result{}, fmt.Errorf("process %d: %w", pid, err)
		}
		switch processState(pid) {
		case 'Z', 'X', 'x':
			return Result{}, fmt.Errorf("process %d: %w", pid, errEnded)
		case 'T', 't':
			return Result{NotReady: true, Reason: fmt.Sprintf("process %d is stopped", pid)}, nil
		}
		return Result{}, nil
	}, nil
}
