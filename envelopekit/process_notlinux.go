//go:build unix && !linux

package envelopekit

import (
	"os/exec"
	"syscall"
)

// sysProcAttr puts the process into a group of its own.
func sysProcAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// waitGroup does nothing: without waitid's WNOWAIT the group could only be
// killed when its id may already be another's.
func waitGroup(*exec.Cmd) {}
