//go:build unix

package health_test

import (
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/weaverkit/weaverkit/health"
)

func TestProcess(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	check, err := health.Process(pid)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "runs", check, false, "")
	if runtime.GOOS == "linux" {
		if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool { r, err := check(t.Context()); return err == nil && r.NotReady })
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS == "linux" { // a zombie, as nobody has waited for it
		eventually(t, func() bool { _, err := check(t.Context()); return err != nil })
	}
	_ = cmd.Wait()
	expect(t, "ended", check, false, "it has ended")
	if _, err := health.Process(pid); err == nil {
		t.Error("no error for a process that is not there")
	}
	self, err := health.Process(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "self", self, false, "")
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Error("it did not happen within 5 s")
}
