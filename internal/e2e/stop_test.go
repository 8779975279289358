//go:build linux

package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestStop stops a deployment in all ways there are, while requests come in.
// That nothing is left behind, newHome checks.
func TestStop(t *testing.T) {
	full(t)
	for _, tt := range []struct {
		name   string
		stop   func(*testing.T, *deployer)
		status int
	}{
		// A terminal sends ctrl-C to the whole foreground process group.
		{"interrupt the process group", func(t *testing.T, d *deployer) {
			if err := syscall.Kill(-d.cmd.Process.Pid, syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
		}, 0},
		{"SIGTERM to the process alone", func(t *testing.T, d *deployer) { d.signal(t, syscall.SIGTERM) }, 0},
		{"multi stop", func(t *testing.T, d *deployer) {
			if out, err, status := d.multi(t, "stop"); status != 0 || out+err != "" {
				t.Errorf("multi stop: exit status %d, %s%s", status, out, err)
			}
			select {
			case <-d.exited:
			case <-time.After(5 * time.Second):
				t.Error("multi stop returned long before the deployer ended")
			}
		}, 0},
		{"two signals at once", func(t *testing.T, d *deployer) {
			d.signal(t, syscall.SIGINT)
			d.signal(t, syscall.SIGTERM)
			d.signal(t, syscall.SIGINT)
		}, anyStop},
	} {
		for _, app := range []app{collatz, shop} {
			t.Run(app.name+", "+tt.name, func(t *testing.T) {
				t.Parallel()
				h := newHome(t)
				d := h.deploy(t, "multi-raced", "-replicas", "2", "-log-level", "off", h.app(t, app.name))
				l := startLoad(t, d.ready(t, app.listener)+"/?x=27", 50)
				l.answered(t, 10)
				tt.stop(t, d)
				if tt.status == anyStop {
					select {
					case <-d.exited:
					case <-time.After(patience):
						t.Fatal("the deployer does not end")
					}
					if c := d.cmd.ProcessState.ExitCode(); c != 0 && c != 130 {
						t.Errorf("exit status %d, want 0 or 130", c)
					}
				} else {
					d.ends(t, tt.status)
				}
				// Connections that are refused are no failure of the deployer, but
				// a request that was accepted has to be answered.
				if failed := l.stop(); tt.status == 0 && len(failed.without(refused)) > 0 {
					t.Errorf("requests failed: %v", failed.without(refused))
				}
			})
		}
	}
}

// anyStop stands for the exit statuses of a graceful stop and a forced one.
const anyStop = -1

// TestStopTwice has an application that does not stop: the first signal waits
// for it, the second does not.
func TestStopTwice(t *testing.T) {
	full(t)
	t.Parallel()
	h := newHome(t)
	d := h.deploy(t, "multi-raced", h.misfit(t, "block stop"))
	d.ready(t, "misfit")
	pids := len(h.processes())
	if pids != 3 {
		t.Errorf("%d processes, want the deployer and two weavelets", pids)
	}
	d.signal(t, syscall.SIGINT)
	d.says(t, &d.err, "stopping; once more stops at once")
	select {
	case <-d.exited:
		t.Error("the deployer did not wait for its weavelets")
	case <-time.After(500 * time.Millisecond):
	}
	d.signal(t, syscall.SIGINT)
	d.ends(t, 130)
}

// TestKillDeployer kills the deployer: its weavelets end with it, and the next
// deployer removes the sockets that it could not.
func TestKillDeployer(t *testing.T) {
	full(t)
	t.Parallel()
	h := newHome(t)
	file := h.app(t, "shop")
	d := h.deploy(t, "multi", file)
	d.ready(t, "shop")
	if n := len(h.processes()); n != 1+shop.groups {
		t.Errorf("%d processes, want %d", n, 1+shop.groups)
	}
	d.signal(t, syscall.SIGKILL)
	d.ends(t, -1)
	eventually(t, "all weavelets end", func() bool { return len(h.processes()) == 0 })
	if _, err, status := h.multi(t, "status"); status != 1 || !strings.Contains(err, "no deployment is running") {
		t.Errorf("multi status: exit status %d, %s", status, err)
	}

	d = h.deploy(t, "multi", file)
	shopWorks(t, d.ready(t, "shop"))
	d.stops(t)
}

// TestTerminal deploys in a terminal, and types ctrl-C.
func TestTerminal(t *testing.T) {
	full(t)
	t.Parallel()
	h := newHome(t)
	d, terminal, read := h.startInTerminal(t, program(t, "multi"), "deploy", h.app(t, "collatz"))
	d.says(t, &d.err, "ready; ctrl-C stops it")
	d.says(t, &d.err, "\r\x1b[Kcollatz: 3 of 3 replicas serve")
	if _, err := terminal.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	d.ends(t, 0)
	<-read
	if text := d.err.String(); !strings.HasSuffix(text, "\r\x1b[K") {
		t.Errorf("the status line is left in the terminal: %q", text[max(0, len(text)-200):])
	}
}

// startInTerminal starts a deployer in a terminal of its own. What it prints is
// all in err; read is closed when there will be no more.
func (h *home) startInTerminal(t *testing.T, program string, args ...string) (d *deployer, terminal *os.File, read chan struct{}) {
	t.Helper()
	terminal, line := openTerminal(t)
	d = &deployer{home: h, exited: make(chan struct{})}
	d.cmd = exec.Command(program, args...)
	d.cmd.Env = h.env
	d.cmd.Stdin, d.cmd.Stdout, d.cmd.Stderr = line, line, line
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line.Close()
	go func() {
		defer close(d.exited)
		_ = d.cmd.Wait()
	}()
	read = make(chan struct{})
	go func() {
		defer close(read)
		b := make([]byte, 4096)
		for {
			n, err := terminal.Read(b)
			_, _ = d.err.Write(b[:n])
			if err != nil {
				return // the deployer, who had the other end, has ended
			}
		}
	}()
	t.Cleanup(func() {
		_ = d.cmd.Process.Kill()
		<-d.exited
		<-read
		if strings.Contains(d.err.String(), "DATA RACE") {
			t.Error("the deployer has a data race")
		}
		if t.Failed() {
			t.Logf("%s %s\nterminal:\n%q", program, strings.Join(args, " "), last(d.err.String()))
		}
	})
	return d, terminal, read
}

// openTerminal returns both ends of a pseudoterminal.
func openTerminal(t *testing.T) (terminal, line *os.File) {
	t.Helper()
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudoterminals here: %v", err)
	}
	t.Cleanup(func() { terminal.Close() })
	fd := int(terminal.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Skipf("no pseudoterminals here: %v", err)
	}
	line, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudoterminals here: %v", err)
	}
	return terminal, line
}
