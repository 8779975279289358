//go:build unix

package envelopekit

import (
	"errors"
	"os/exec"
	"syscall"
)

// terminate asks the process to end.
func terminate(cmd *exec.Cmd) { _ = cmd.Process.Signal(syscall.SIGTERM) }

// killGroup ends the process and its children by force.
func killGroup(cmd *exec.Cmd) { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }

// exitError says how a process ended; nil for status 0.
func exitError(cmd *exec.Cmd, err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	e := &ExitError{Pid: cmd.Process.Pid, Status: exit.ExitCode()}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		e.Signal = status.Signal().String()
		e.Killed = status.Signal() == syscall.SIGKILL || status.Signal() == syscall.SIGTERM
	}
	return e
}

// alive reports whether there is a process of that id, or may be.
func alive(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }
