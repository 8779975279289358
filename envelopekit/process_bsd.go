//go:build unix && !linux

package envelopekit

import "syscall"

// sysProcAttr puts the process into a group of its own.
func sysProcAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
