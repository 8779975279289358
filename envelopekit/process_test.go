//go:build unix

package envelopekit_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/protos"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/envelopekit/envelopetest"
	"github.com/weaverkit/weaverkit/envelopekit/internal/apptest"
)

func TestProcessLauncherConforms(t *testing.T) {
	app, err := envelopekit.LoadBinary(apptest.Build(t, apptest.Collatz))
	require.NoError(t, err)
	envelopetest.TestLauncher(t, envelopetest.LauncherTest{
		Launcher: &envelopekit.ProcessLauncher{Dir: shortDir(t)},
		App:      app,
		Hang: func(w envelopekit.Weavelet) error {
			pid, _ := w.Pid()
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				return err
			}
			require.Eventually(t, func() bool { return stopped(pid) }, 10*time.Second, time.Millisecond)
			return nil
		},
	})
}

// stopped reports whether all threads of the process have stopped, which they
// do one after the other. Where that cannot be seen, it says yes.
func stopped(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, path := range threads {
		stat, _ := os.ReadFile(path)
		_, rest, _ := strings.Cut(string(stat), ") ")
		if !strings.HasPrefix(rest, "T") {
			return false
		}
	}
	return true
}

// shortDir returns a directory whose path leaves room for a socket's name, and
// checks at the end of the test that nothing is left in it.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "wkt")
	require.NoError(t, err)
	t.Cleanup(func() {
		left, err := os.ReadDir(dir)
		assert.NoError(t, err)
		assert.Empty(t, left, "sockets were left behind")
		os.RemoveAll(dir)
	})
	return dir
}

// script launches a shell script in the place of a weavelet.
func script(t *testing.T, l *envelopekit.ProcessLauncher, ctx context.Context, text string, h *envelopekit.Handler) (envelopekit.Weavelet, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "weavelet")
	require.NoError(t, os.WriteFile(file, []byte("#!/bin/sh\n"+text), 0o700))
	l.Dir = shortDir(t)
	return l.Launch(ctx, envelopekit.Spec{
		Config:  &protos.AppConfig{Name: "script", Binary: file, Args: []string{"one", "two"}, Env: []string{"COLOUR=green"}},
		Args:    &protos.WeaveletArgs{App: "script", DeploymentId: "d", Id: "w", InternalAddress: "127.0.0.1:0"},
		Group:   "main",
		Replica: 1,
	}, h)
}

func TestProcessThatExitsAtOnce(t *testing.T) {
	var mu sync.Mutex
	var logged []string
	h := &envelopekit.Handler{Log: func(e *protos.LogEntry) {
		mu.Lock()
		defer mu.Unlock()
		logged = append(logged, e.Level+": "+e.Msg)
		assert.Equal(t, "w", e.Node)
		assert.NotZero(t, e.TimeMicros)
	}}
	_, err := script(t, &envelopekit.ProcessLauncher{}, t.Context(), `echo "args $*, colour $COLOUR"; echo no database >&2; exit 3`, h)
	var exit *envelopekit.ExitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, 3, exit.Status)
	assert.ElementsMatch(t, []string{"args one two, colour green", "no database"}, exit.Output)
	assert.ErrorContains(t, err, "start replica 1 of group main: process ")
	assert.ErrorContains(t, err, "exited with status 3")
	assert.ElementsMatch(t, []string{"stdout: args one two, colour green", "stderr: no database"}, logged)
}

func TestProcessThatExitsAtOnceWithStatus0(t *testing.T) {
	_, err := script(t, &envelopekit.ProcessLauncher{}, t.Context(), `echo hello`, &envelopekit.Handler{})
	require.ErrorContains(t, err, "exited with status 0")
	var exit *envelopekit.ExitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, []string{"hello"}, exit.Output)
}

func TestProcessThatNeverInitializes(t *testing.T) {
	ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, errors.New("too slow"))
	defer cancel()
	before := time.Now()
	_, err := script(t, &envelopekit.ProcessLauncher{}, ctx, `sleep 60 & echo $! > "$0.child"; wait`, &envelopekit.Handler{})
	require.ErrorContains(t, err, "did not initialize: too slow")
	assert.Less(t, time.Since(before), 10*time.Second, "the child that holds its output does not hold it up")
}

// What a process prints before a crash is kept from the beginning of the
// report, however long that is.
func TestCrashReport(t *testing.T) {
	_, err := script(t, &envelopekit.ProcessLauncher{}, t.Context(),
		`echo before >&2; echo "panic: no cheese" >&2; i=0; while [ $i -lt 100 ]; do echo "frame $i" >&2; i=$((i+1)); done; exit 2`, &envelopekit.Handler{})
	var exit *envelopekit.ExitError
	require.ErrorAs(t, err, &exit)
	require.NotEmpty(t, exit.Output)
	assert.Equal(t, "panic: no cheese", exit.Output[0])
	assert.LessOrEqual(t, len(exit.Output), 20)
	assert.Contains(t, exit.Detail(), "its last output:\n    panic: no cheese\n    frame 0\n")
}

func TestProcessChildrenAreKilled(t *testing.T) {
	child := filepath.Join(t.TempDir(), "child")
	_, err := script(t, &envelopekit.ProcessLauncher{}, t.Context(), `sleep 60 & echo $! > `+child+`; exit 1`, &envelopekit.Handler{})
	require.Error(t, err)
	pid := readPid(t, child)
	if !assert.Eventually(t, func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || isZombie(pid) }, 5*time.Second, 10*time.Millisecond) {
		syscall.Kill(pid, syscall.SIGKILL)
	}
}

func TestLongSocketPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("x", 100))
	require.NoError(t, os.Mkdir(dir, 0o700))
	l := &envelopekit.ProcessLauncher{Dir: dir}
	_, err := l.Launch(t.Context(), envelopekit.Spec{Config: &protos.AppConfig{}, Args: &protos.WeaveletArgs{}, Group: "g", Replica: 1}, &envelopekit.Handler{})
	require.ErrorContains(t, err, "use a shorter ProcessLauncher.Dir")
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, left)
}

func TestMissingBinary(t *testing.T) {
	l := &envelopekit.ProcessLauncher{Dir: shortDir(t)}
	_, err := l.Launch(t.Context(), envelopekit.Spec{
		Config: &protos.AppConfig{Binary: "/no/such/binary"}, Args: &protos.WeaveletArgs{}, Group: "g", Replica: 1,
	}, &envelopekit.Handler{})
	require.ErrorIs(t, err, os.ErrNotExist)
}
