package envelopekit

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// sysProcAttr keeps ctrl-C in a console from reaching the process.
func sysProcAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

// terminate ends the process by force: Windows has no SIGTERM.
func terminate(cmd *exec.Cmd) { _ = cmd.Process.Kill() }

func killGroup(cmd *exec.Cmd) { _ = cmd.Process.Kill() }

// exitError says how a process ended; nil for status 0.
func exitError(cmd *exec.Cmd, err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	return &ExitError{Pid: cmd.Process.Pid, Status: exit.ExitCode()}
}

// alive reports whether there is a process of that id, or may be.
func alive(pid int) bool {
	p, err := os.FindProcess(pid) // fails if there is none
	if err != nil {
		return false
	}
	p.Release()
	return true
}
