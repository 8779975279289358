//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	weaverruntime "github.com/ServiceWeaver/weaver/runtime"
	"github.com/ServiceWeaver/weaver/runtime/protos"
	"google.golang.org/protobuf/proto"
)

const (
	// mark is an environment variable that all processes of a run inherit.
	mark = "WEAVERKIT_BENCH"

	// patience is how long anything may take.
	patience = time.Minute
)

// A site is where one deployer runs.
type site struct {
	dir     string
	cmd     *exec.Cmd
	exited  chan struct{}
	address string
	mark    string
}

// deploy starts a deployer, upstream's or ours, with a configuration of the
// application. It returns at once.
func (b *bench) deploy(deployer, app string, mtls bool, flags ...string) (*site, error) {
	dir, err := os.MkdirTemp(b.dir, "s")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s := &site{dir: dir, exited: make(chan struct{}), address: fmt.Sprintf("127.0.0.1:%d", port), mark: mark + "=" + dir}
	config := filepath.Join(dir, "weaver.toml")
	text := fmt.Sprintf("[serviceweaver]\nbinary = %q\n[multi]\nlisteners.%s = {address = %q}\nmtls = %t\n", b.path(app), app, s.address, mtls)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	args := append([]string{"deploy"}, flags...)
	if deployer == "weaver" {
		args = append([]string{"multi"}, args...)
	}
	s.cmd = exec.Command(b.path(deployer), append(args, config)...)
	s.cmd.Env = append(os.Environ(), s.mark, "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_RUNTIME_DIR="+dir, "TMPDIR="+dir)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(s.exited)
		_ = s.cmd.Wait()
	}()
	return s, nil
}

// url returns a URL of the listener.
func (s *site) url(path string) string { return "http://" + s.address + path }

// end ends the deployer and what it left running.
func (s *site) end() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
	case <-time.After(15 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.exited
	}
	// Upstream's deployer leaves its weavelets when it gets a signal.
	for _, pid := range marked(s.mark) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	for deadline := time.Now().Add(5 * time.Second); len(marked(s.mark)) > 0 && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	os.RemoveAll(s.dir)
}

// marked returns the processes that have inherited the mark.
func marked(mark string) []int {
	var pids []int
	paths, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range paths {
		env, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(env, []byte(mark+"\x00")) {
			continue
		}
		if pid, err := strconv.Atoi(strings.Split(path, "/")[2]); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// answers waits until a GET request is answered with 200.
func answers(url string) error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	var last error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		resp, err := client.Get(url)
		if err != nil {
			last = err
			continue
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return nil
		}
		last = errors.New(resp.Status)
	}
	return fmt.Errorf("%s is not answered: %w", url, last)
}

// A plain is a process of an application without a deployer.
type plain struct {
	cmd  *exec.Cmd
	dir  string
	took time.Duration // from its start until it waits for a deployer
}

// startPlain starts a binary as a weavelet that nobody talks to, and waits
// until it would take orders: what a start costs whatever the deployer does.
func startPlain(binary, parent string) (*plain, error) {
	dir, err := os.MkdirTemp(parent, "p")
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "w")
	args, err := proto.Marshal(&protos.WeaveletArgs{
		App: "plain", DeploymentId: "00000000-0000-0000-0000-000000000000", Id: "00000000-0000-0000-0000-000000000001",
		InternalAddress: "127.0.0.1:0",
		ControlSocket:   socket,
		Redirects: []*protos.WeaveletArgs_Redirect{{
			Component: "github.com/ServiceWeaver/weaver/deployerControl",
			Target:    "github.com/ServiceWeaver/weaver/deployerControl",
			Address:   "unix://" + filepath.Join(dir, "d"),
		}},
	})
	if err != nil {
		return nil, err
	}
	p := &plain{cmd: exec.Command(binary), dir: dir}
	p.cmd.Env = append(os.Environ(), weaverruntime.WeaveletArgsKey+"="+base64.StdEncoding.EncodeToString(args))
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	start := time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	for {
		if _, err := os.Lstat(socket); err == nil {
			p.took = time.Since(start)
			return p, nil
		} else if !errors.Is(err, fs.ErrNotExist) || time.Since(start) > patience {
			p.end()
			return nil, fmt.Errorf("%s does not start: %w", binary, err)
		}
		time.Sleep(200 * time.Microsecond)
	}
}

func (p *plain) end() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	os.RemoveAll(p.dir)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// within returns a context that bounds a step.
func within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}
