//go:build linux

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A closedLoop is load from connections each of which sends its next request
// when it has the answer of the last. It runs in a process of its own and in
// one thread.
type closedLoop struct {
	poll    *poller
	request []byte
	state   map[int]*loopConn
	buf     []byte
}

type loopConn struct {
	sent time.Time
	head []byte // of an answer, as far as it has come
	left int    // of a body
}

// loopResult is what a loop reports.
type loopResult struct {
	Took                time.Duration
	P50, P90, P99, Most time.Duration
}

// runClosedLoop opens the connections, warms up, says so, waits for a line,
// sends the requests and reports.
func runClosedLoop(args []string) error {
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	raiseFiles()
	if len(args) != 4 {
		return errors.New("want address, path, connections, requests")
	}
	conns, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	requests, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	l, err := newClosedLoop(args[0], args[1], conns)
	if err != nil {
		return err
	}
	if _, err := l.run(max(requests/5, 2*conns)); err != nil {
		return fmt.Errorf("warm up: %w", err)
	}
	fmt.Println("warm")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	start := time.Now()
	took, err := l.run(requests)
	if err != nil {
		return err
	}
	r := loopResult{Took: time.Since(start)}
	slices.Sort(took)
	at := func(q float64) time.Duration { return took[int(q*float64(len(took)-1))] }
	r.P50, r.P90, r.P99, r.Most = at(0.5), at(0.9), at(0.99), at(1)
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	fmt.Printf("done %s\n", text)
	return nil
}

// newClosedLoop opens the connections of a loop.
func newClosedLoop(address, path string, conns int) (*closedLoop, error) {
	l := &closedLoop{
		request: fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: bench.test\r\nUser-Agent: weaverkit-bench\r\nAccept: */*\r\n\r\n", path),
		state:   map[int]*loopConn{},
		buf:     make([]byte, 4<<10),
	}
	tcp, err := net.ResolveTCPAddr("tcp4", address)
	if err != nil {
		return nil, err
	}
	if l.poll, err = newPoller(); err != nil {
		return nil, err
	}
	to := &unix.SockaddrInet4{Port: tcp.Port, Addr: [4]byte(tcp.IP.To4())}
	for range conns {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		if err := unix.Connect(fd, to); err != nil {
			return nil, fmt.Errorf("connect: %w", err)
		}
		if err := unix.SetNonblock(fd, true); err != nil {
			return nil, err
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return nil, err
		}
		if err := l.poll.add(fd, unix.EPOLLIN); err != nil {
			return nil, err
		}
		l.state[fd] = &loopConn{}
	}
	return l, nil
}

// run sends n requests and returns how long each took.
func (l *closedLoop) run(n int) ([]time.Duration, error) {
	took := make([]time.Duration, 0, n)
	left := n
	for fd, c := range l.state {
		if left > 0 {
			left--
			if err := l.send(fd, c, time.Now()); err != nil {
				return nil, err
			}
		}
	}
	for len(took) < n {
		events, err := l.poll.wait(20_000)
		if err != nil {
			return nil, err
		}
		if len(events) == 0 {
			return nil, fmt.Errorf("nothing comes: %d of %d requests answered", len(took), n)
		}
		for _, e := range events {
			fd := int(e.Fd)
			c := l.state[fd]
			done, err := l.receive(fd, c)
			if err != nil {
				return nil, fmt.Errorf("after %d of %d answers: %w", len(took), n, err)
			}
			if !done {
				continue
			}
			now := time.Now()
			took = append(took, now.Sub(c.sent))
			if left > 0 {
				left--
				if err := l.send(fd, c, now); err != nil {
					return nil, err
				}
			}
		}
	}
	return took, nil
}

func (l *closedLoop) send(fd int, c *loopConn, now time.Time) error {
	c.sent = now
	if n, err := unix.Write(fd, l.request); n != len(l.request) || err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// receive takes what is there of an answer, and says whether it is complete.
func (l *closedLoop) receive(fd int, c *loopConn) (bool, error) {
	for {
		if c.left > 0 {
			n, err := drop(fd, c.left)
			if err == unix.EAGAIN {
				return false, nil
			}
			if err != nil {
				return false, fmt.Errorf("read: %w", err)
			}
			if n == 0 {
				return false, errors.New("closed within a body")
			}
			if c.left -= n; c.left == 0 {
				return true, nil
			}
			continue
		}
		n, err := unix.Read(fd, l.buf)
		if err == unix.EAGAIN {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("read: %w", err)
		}
		if n == 0 {
			return false, errors.New("closed")
		}
		in := l.buf[:n]
		if len(c.head) > 0 {
			c.head = append(c.head, in...)
			in = c.head
		}
		end := bytes.Index(in, []byte("\r\n\r\n"))
		if end < 0 {
			c.head = append(c.head[:0], in...)
			continue
		}
		length, err := bodyLength(in[:end+2])
		if err != nil {
			return false, err
		}
		c.left = length - (len(in) - end - 4)
		c.head = c.head[:0]
		if c.left < 0 {
			return false, fmt.Errorf("%d bytes too many", -c.left)
		}
		if c.left == 0 {
			return true, nil
		}
	}
}

// drop takes at most n received bytes off a socket. MSG_TRUNC keeps the kernel
// from copying them, so it needs no buffer.
func drop(fd, n int) (int, error) {
	got, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), 0, uintptr(n), unix.MSG_TRUNC|unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(got), nil
}

// bodyLength reads the length of an answer with status 200.
func bodyLength(head []byte) (int, error) {
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 200 ")) {
		return 0, fmt.Errorf("answered %q", head)
	}
	for line := range bytes.Lines(head) {
		const name = "content-length:"
		if len(line) > len(name) && bytes.EqualFold(line[:len(name)], []byte(name)) {
			return strconv.Atoi(string(bytes.TrimSpace(line[len(name):])))
		}
	}
	return 0, fmt.Errorf("no length in %q", head)
}
