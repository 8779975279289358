//go:build linux

package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

const (
	smallSize = 64
	bigSize   = 10 << 20
)

// A static server is the backend of the CPU rows: one thread that answers
// /small with 64 bytes and /big with 10 MiB out of the page cache.
type static struct {
	poll       *poller
	file       int // that has the body of /big
	small, big []byte
	conns      map[int]*staticConn
	buf        []byte
}

type staticConn struct {
	left    int64 // of /big
	pending []byte
}

// runStatic serves until the process is ended.
func runStatic() error {
	runtime.LockOSThread()
	debug.SetGCPercent(-1) // the loop allocates per connection only
	raiseFiles()
	s := &static{conns: map[int]*staticConn{}, buf: make([]byte, 64<<10)}
	var err error
	if s.poll, err = newPoller(); err != nil {
		return err
	}
	if s.file, err = unix.MemfdCreate("big", 0); err != nil {
		return err
	}
	if _, err := unix.Write(s.file, bytes.Repeat([]byte("0123456789abcdef"), bigSize/16)); err != nil {
		return err
	}
	head := "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nDate: " + time.Now().UTC().Format(http.TimeFormat) + "\r\nContent-Length: %d\r\n\r\n"
	s.small = append(fmt.Appendf(nil, head, smallSize), bytes.Repeat([]byte("x"), smallSize)...)
	s.big = fmt.Appendf(nil, head, bigSize)
	l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(l, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err
	}
	if err := unix.Listen(l, 4096); err != nil {
		return err
	}
	name, err := unix.Getsockname(l)
	if err != nil {
		return err
	}
	if err := s.poll.add(l, unix.EPOLLIN); err != nil {
		return err
	}
	fmt.Printf("ready 127.0.0.1:%d\n", name.(*unix.SockaddrInet4).Port)
	for {
		events, err := s.poll.wait(-1)
		if err != nil {
			return err
		}
		for _, e := range events {
			if int(e.Fd) == l {
				s.accept(l)
			} else if !s.serve(int(e.Fd)) {
				delete(s.conns, int(e.Fd))
				unix.Close(int(e.Fd))
			}
		}
	}
}

func (s *static) accept(l int) {
	for {
		fd, _, err := unix.Accept4(l, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		if err := s.poll.add(fd, unix.EPOLLIN); err != nil {
			fmt.Fprintln(os.Stderr, "static:", err)
			unix.Close(fd)
			continue
		}
		s.conns[fd] = &staticConn{}
	}
}

// serve does what can be done on a connection, and says whether it stays.
func (s *static) serve(fd int) bool {
	c := s.conns[fd]
	if c.left > 0 {
		return s.sendBig(fd, c)
	}
	n, err := unix.Read(fd, s.buf)
	if err == unix.EAGAIN {
		return true
	}
	if n <= 0 || err != nil {
		return false
	}
	in := s.buf[:n]
	if len(c.pending) > 0 {
		in = append(c.pending, in...)
	}
	for {
		end := bytes.Index(in, []byte("\r\n\r\n"))
		if end < 0 {
			break
		}
		line, _, _ := bytes.Cut(in[:end], []byte("\r\n"))
		in = in[end+4:]
		if bytes.Contains(line, []byte(" /big ")) {
			// Nobody pipelines after a request for 10 MiB.
			c.pending = nil
			c.left = bigSize
			if _, err := unix.SendmsgN(fd, s.big, nil, nil, unix.MSG_MORE); err != nil {
				return false
			}
			return s.sendBig(fd, c)
		}
		if n, err := unix.Write(fd, s.small); n != len(s.small) || err != nil {
			return false
		}
	}
	c.pending = append(c.pending[:0], in...)
	return true
}

func (s *static) sendBig(fd int, c *staticConn) bool {
	for c.left > 0 {
		offset := bigSize - c.left
		n, err := unix.Sendfile(fd, s.file, &offset, int(c.left))
		if err == unix.EAGAIN {
			return s.poll.change(fd, unix.EPOLLOUT) == nil
		}
		if err != nil || n == 0 {
			return false
		}
		c.left -= int64(n)
	}
	return s.poll.change(fd, unix.EPOLLIN) == nil
}
