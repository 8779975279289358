package envelopekit

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// sysProcAttr puts the process into a group of its own and lets it end with
// the thread that started it.
func sysProcAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// reap waits for the process's end and kills what is left of its group, before
// its id, which is the group's, can be given to others.
func (p *process) reap() error {
	for {
		err := unix.Waitid(unix.P_PID, p.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			break
		}
	}
	p.signals.Lock()
	defer p.signals.Unlock()
	killGroup(p.cmd)
	p.reaped = true
	return p.cmd.Wait()
}
