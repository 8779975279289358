//go:build linux

package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/envelopekit/admin"
)

const (
	// patience is how long anything may take that is to happen, on a slow and
	// busy machine. It is no measure of speed.
	patience = 30 * time.Second

	// mark is an environment variable that all processes of a test inherit.
	mark = "WEAVERKIT_E2E"
)

// A home is what a test's deployers leave their traces in.
type home struct {
	dir, tmp, run string
	env           []string
}

// newHome returns a home of the test's own, which must be as it was before
// when the test ends: whatever runs then is killed, and the test fails.
func newHome(t *testing.T) *home {
	t.Helper()
	dir, err := os.MkdirTemp(work, "h")
	if err != nil {
		t.Fatal(err)
	}
	h := &home{dir: dir, tmp: filepath.Join(dir, "t"), run: filepath.Join(dir, "r")}
	for _, d := range []string{h.tmp, h.run} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	h.env = append(os.Environ(), "TMPDIR="+h.tmp, "XDG_RUNTIME_DIR="+h.run, mark+"="+dir,
		"GORACE=atexit_sleep_ms=10") // a raced deployer ends without the usual second of sleep
	t.Cleanup(func() {
		if !t.Failed() && (len(h.processes()) > 0 || len(h.files()) > 0) {
			t.Errorf("left behind: processes %v, files %v", h.processes(), h.files())
		}
		for _, pid := range h.processes() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	return h
}

// config writes a configuration and returns its path.
func (h *home) config(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(h.dir, "weaver.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// app writes a configuration of an application, with more lines if there are any,
// and returns its path.
func (h *home) app(t *testing.T, name string, more ...string) string {
	t.Helper()
	return h.config(t, fmt.Sprintf("[serviceweaver]\nbinary = %q\n%s\n", program(t, name), strings.Join(more, "\n")))
}

// misfit writes a configuration of the application that misbehaves in the given
// way, and returns its path.
func (h *home) misfit(t *testing.T, way string) string {
	t.Helper()
	return h.app(t, "misfit", fmt.Sprintf("env = [%q]", "MISFIT="+way))
}

// processes returns the live processes that have inherited the home's mark.
func (h *home) processes() []int {
	var pids []int
	paths, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range paths {
		// A process that has ended has no environment any more.
		env, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(env, []byte(mark+"="+h.dir+"\x00")) {
			continue
		}
		if pid, err := strconv.Atoi(strings.Split(path, "/")[2]); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// files returns everything in the home's directories.
func (h *home) files() []string {
	var paths []string
	for _, dir := range []string{h.tmp, h.run} {
		_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err == nil && path != dir {
				paths = append(paths, path)
			}
			return nil
		})
	}
	return paths
}

// client returns a client of the only deployment in the home.
func (h *home) client(t *testing.T) *admin.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := admin.Find(ctx, filepath.Join(h.run, "weaverkit-multi"), "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A deployer is a running deployer.
type deployer struct {
	*home
	cmd      *exec.Cmd
	out, err output
	exited   chan struct{}
}

// deploy starts "multi deploy" as a terminal does: as the leader of a session.
func (h *home) deploy(t *testing.T, multi string, args ...string) *deployer {
	t.Helper()
	return h.start(t, program(t, multi), append([]string{"deploy"}, args...)...)
}

func (h *home) start(t *testing.T, program string, args ...string) *deployer {
	t.Helper()
	d := &deployer{home: h, cmd: exec.Command(program, args...), exited: make(chan struct{})}
	d.cmd.Env = h.env
	d.cmd.Stdout, d.cmd.Stderr = &d.out, &d.err
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	d.cmd.WaitDelay = patience // for whoever inherited its output
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(d.exited)
		_ = d.cmd.Wait() // the status is in cmd.ProcessState
	}()
	t.Cleanup(func() {
		_ = d.cmd.Process.Kill()
		<-d.exited
		if strings.Contains(d.err.String(), "DATA RACE") {
			t.Error("the deployer has a data race")
		}
		if t.Failed() {
			t.Logf("%s %s\nstdout:\n%s\nstderr:\n%s", program, strings.Join(args, " "), last(d.out.String()), last(d.err.String()))
		}
	})
	return d
}

// ready waits until the deployer says that it is, and returns the address of
// the listener.
func (d *deployer) ready(t *testing.T, listener string) string {
	t.Helper()
	d.says(t, &d.err, "ready; ctrl-C stops it")
	return d.listening(t, listener)
}

// listening waits until the deployer says where the listener is.
func (d *deployer) listening(t *testing.T, listener string) string {
	t.Helper()
	d.says(t, &d.out, "listener "+listener+" ")
	line := regexp.MustCompile(`(?m)^listener ` + listener + ` (http://\S+)$`)
	eventually(t, "the deployer says where listener "+listener+" is", func() bool { return line.MatchString(d.out.String()) })
	return line.FindStringSubmatch(d.out.String())[1]
}

// says waits until the deployer has printed the text to out.
func (d *deployer) says(t *testing.T, out *output, text string) {
	t.Helper()
	eventually(t, fmt.Sprintf("the deployer says %q", text), func() bool {
		select {
		case <-d.exited:
			if !strings.Contains(out.String(), text) {
				t.Fatalf("the deployer ended before it said %q", text)
			}
		default:
		}
		return strings.Contains(out.String(), text)
	})
}

// signal sends a signal to the deployer's process alone.
func (d *deployer) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := d.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// ends waits for the deployer's end, with the given exit status.
func (d *deployer) ends(t *testing.T, status int) {
	t.Helper()
	select {
	case <-d.exited:
	case <-time.After(patience):
		t.Fatal("the deployer does not end")
	}
	if got := d.cmd.ProcessState.ExitCode(); got != status {
		t.Errorf("exit status %d (%v), want %d", got, d.cmd.ProcessState, status)
	}
}

// stops ends the deployer with SIGTERM.
func (d *deployer) stops(t *testing.T) {
	t.Helper()
	d.signal(t, syscall.SIGTERM)
	d.ends(t, 0)
}

// multi runs another command of multi.
func (h *home) multi(t *testing.T, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(t, "multi"), args...)
	cmd.Env = h.env
	var out, err bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &err
	if e := cmd.Run(); e != nil {
		var exit *exec.ExitError
		if !errors.As(e, &exit) {
			t.Fatal(e)
		}
	}
	return out.String(), err.String(), cmd.ProcessState.ExitCode()
}

// status returns the deployment's status.
func (h *home) status(t *testing.T) envelopekit.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	st, err := h.client(t).Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// An output collects what a process prints.
type output struct {
	mu sync.Mutex
	b  strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// last returns the last lines of a long text.
func last(text string) string {
	const most = 8 << 10
	if len(text) > most {
		text = "...\n" + text[len(text)-most:]
	}
	return text
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// get makes a request that must succeed, and returns the body.
func get(t *testing.T, url string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s: %s", url, resp.Status, body)
	}
	return string(body)
}

// freePort returns a port of the loopback interface that was free just now. It
// is below those that the system gives to others of itself, as it does to the
// many connections of tests that run at the same time.
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		port := 10_000 + rand.IntN(20_000)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		l.Close()
		return port
	}
	t.Fatal("no port is free")
	return 0
}
