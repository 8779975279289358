package proxy

import (
	"os"
	"sync"
	"syscall"
)

// A lot is where connections at rest wait without a goroutine, once there are
// many: its stack is most of what an idle connection costs. The kernel's list of
// them is itself waited for by Go's own poller.
type lot struct {
	wake func(*conn)
	epfd int
	file *os.File // of epfd
	done chan struct{}

	mu     sync.Mutex // guards the following
	closed bool
	parked map[int32]*conn // by descriptor
}

// newLot returns a lot that calls wake for connections that have something to
// be read, or nil if the system has none to give.
func newLot(wake func(*conn)) *lot {
	epfd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil
	}
	if err := syscall.SetNonblock(epfd, true); err != nil {
		syscall.Close(epfd)
		return nil
	}
	l := &lot{wake: wake, epfd: epfd, file: os.NewFile(uintptr(epfd), "epoll"), done: make(chan struct{}), parked: map[int32]*conn{}}
	go l.run()
	return l
}

// park takes a connection, whose goroutine must do nothing with it any more
// unless that reports false. It is woken when there is something to be read,
// also if that has come before.
func (l *lot) park(c *conn) (parked bool) {
	_ = c.raw.Control(func(fd uintptr) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.closed {
			return
		}
		op := syscall.EPOLL_CTL_ADD
		if c.enlisted {
			op = syscall.EPOLL_CTL_MOD
		}
		event := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP | epollOneShot, Fd: int32(fd)}
		if syscall.EpollCtl(l.epfd, op, int(fd), &event) != nil {
			return
		}
		c.enlisted, c.fd = true, int32(fd)
		c.parked.Store(true)
		l.parked[c.fd] = c
		parked = true
	})
	return parked
}

const epollOneShot = 1 << 30 // package syscall has it with the wrong sign

// take takes a connection out. Who gets true has it for himself.
func (l *lot) take(c *conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !c.parked.Load() || l.parked[c.fd] != c {
		return false
	}
	delete(l.parked, c.fd)
	c.parked.Store(false)
	return true
}

// run wakes connections until the lot is closed.
func (l *lot) run() {
	defer close(l.done)
	raw, err := l.file.SyscallConn()
	if err != nil {
		return
	}
	events := make([]syscall.EpollEvent, 128)
	for {
		var n int
		err := raw.Read(func(fd uintptr) bool {
			n, _ = syscall.EpollWait(int(fd), events, 0)
			return n > 0
		})
		if err != nil {
			return // closed
		}
		for _, e := range events[:n] {
			l.mu.Lock()
			c := l.parked[e.Fd]
			if c != nil {
				delete(l.parked, e.Fd)
				c.parked.Store(false)
			}
			l.mu.Unlock()
			if c != nil {
				l.wake(c)
			}
		}
	}
}

// close ends the lot, and returns the connections that are still in it.
func (l *lot) close() []*conn {
	l.mu.Lock()
	l.closed = true
	var left []*conn
	for fd, c := range l.parked {
		left = append(left, c)
		c.parked.Store(false)
		delete(l.parked, fd)
	}
	l.mu.Unlock()
	l.file.Close()
	<-l.done
	return left
}
