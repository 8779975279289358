//go:build linux

package main

import (
	"golang.org/x/sys/unix"
)

// A poller is an epoll instance that is used by one thread. The load and the
// backends of the CPU rows are loops of their own and not net/http, because
// all processes share the processors with the subject: what they do not use
// makes the subject's figures steadier.
type poller struct {
	fd     int
	events [256]unix.EpollEvent
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return &poller{fd: fd}, nil
}

func (p *poller) add(fd int, events uint32) error {
	return unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

func (p *poller) change(fd int, events uint32) error {
	return unix.EpollCtl(p.fd, unix.EPOLL_CTL_MOD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

// wait returns the events that are there, at most timeout milliseconds later.
func (p *poller) wait(timeout int) ([]unix.EpollEvent, error) {
	for {
		n, err := unix.EpollWait(p.fd, p.events[:], timeout)
		if err == unix.EINTR {
			continue
		}
		return p.events[:max(n, 0)], err
	}
}

// raiseFiles raises the limit on open files as far as it goes.
func raiseFiles() {
	limit := unix.Rlimit{Cur: 1 << 16, Max: 1 << 16}
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		return
	}
	// Only root may raise the hard limit.
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		limit.Cur = limit.Max
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	}
}
