//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a process may take to do as it was told.
const patience = 30 * time.Second

// A process is a subject, a backend or a load. Those that are this program
// take commands on their standard input, a line each, and answer on their
// standard output, a line each.
type process struct {
	name   string
	cmd    *exec.Cmd
	in     io.WriteCloser
	lines  chan string // answers
	exited chan struct{}

	mu  sync.Mutex // guards the following
	got []string   // ids that came in lines "got ID"; see runReplica
}

// start starts a program. It gets the signal when this process ends, however
// that ends: the kernel watches the thread that called, and no thread of this
// process ends before the process does.
func start(name string, signal syscall.Signal, program string, args ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(program, args...), lines: make(chan string, 64), exited: make(chan struct{})}
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: signal}
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		defer close(p.exited)
		defer func() { _ = p.cmd.Wait() }()
		defer close(p.lines)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if id, ok := strings.CutPrefix(lines.Text(), "got "); ok {
				p.mu.Lock()
				p.got = append(p.got, id)
				p.mu.Unlock()
				continue
			}
			p.lines <- lines.Text()
		}
	}()
	return p, nil
}

// startSelf starts this program as something else.
func startSelf(role string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return start(role, syscall.SIGKILL, self, append([]string{"-child", role}, args...)...)
}

// expect waits for a line that begins with the word, and returns the rest.
func (p *process) expect(word string, within time.Duration) (string, error) {
	select {
	case line, ok := <-p.lines:
		if !ok {
			return "", fmt.Errorf("%s ended instead of saying %q", p.name, word)
		}
		rest, ok := strings.CutPrefix(line, word)
		if !ok {
			return "", fmt.Errorf("%s said %q instead of %q", p.name, line, word)
		}
		return strings.TrimSpace(rest), nil
	case <-time.After(within):
		return "", fmt.Errorf("%s does not say %q", p.name, word)
	}
}

// tell sends a command and returns the answer to it.
func (p *process) tell(words ...string) (string, error) {
	if _, err := fmt.Fprintln(p.in, strings.Join(words, " ")); err != nil {
		return "", fmt.Errorf("tell %s: %w", p.name, err)
	}
	return p.expect("ok", patience)
}

// end ends the process and those it has started, and waits for it.
func (p *process) end() {
	if p == nil {
		return
	}
	select {
	case <-p.exited:
		return
	default:
	}
	if p.cmd.SysProcAttr.Pdeathsig == syscall.SIGTERM {
		// It has processes of its own, which it ends in its turn.
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.exited:
			return
		case <-time.After(5 * time.Second):
		}
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.exited
}

// pids returns the process and its children.
func (p *process) pids() []int {
	pid := p.cmd.Process.Pid
	pids := []int{pid}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return pids
	}
	for _, word := range strings.Fields(string(text)) {
		if child, err := strconv.Atoi(word); err == nil {
			pids = append(pids, child)
		}
	}
	return pids
}

// cpu returns the processor time that the process and its children have used,
// in user mode and in the kernel. It reads the clocks of the processes, which
// are the sums that /proc/PID/stat rounds down to hundredths of a second.
func (p *process) cpu() (time.Duration, error) {
	var sum time.Duration
	for _, pid := range p.pids() {
		var ts unix.Timespec
		clock := int32(^pid)<<3 | 2 // CPUCLOCK_SCHED, see clock_getcpuclockid(3)
		if err := unix.ClockGettime(clock, &ts); err != nil {
			return 0, fmt.Errorf("clock of %s: %w", p.name, err)
		}
		sum += time.Duration(ts.Nano())
	}
	return sum, nil
}

// rss returns the resident memory of the process and its children in bytes.
func (p *process) rss() (int, error) {
	sum := 0
	for _, pid := range p.pids() {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return 0, err
		}
		_, rest, ok := strings.Cut(string(text), "VmRSS:")
		fields := strings.Fields(rest)
		if !ok || len(fields) < 2 {
			return 0, errors.New("no VmRSS in /proc")
		}
		kb, err := strconv.Atoi(fields[0])
		if err != nil {
			return 0, err
		}
		sum += kb << 10
	}
	return sum, nil
}
