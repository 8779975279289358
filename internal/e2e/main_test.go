//go:build linux

package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const (
	kit      = "github.com/weaverkit/weaverkit"
	upstream = "github.com/ServiceWeaver/weaver"
)

// work is where binaries and the directories of deployers are. It is short,
// since the paths of sockets must be.
var work string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var err error
	if work, err = os.MkdirTemp("", "e2e"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(work)
	return m.Run()
}

// build builds all programs that the tests need, once.
var build = sync.OnceValue(func() error {
	programs := []string{kit + "/examples/multi", kit + "/examples/shop", upstream + "/examples/collatz"}
	if !testing.Short() {
		programs = append(programs, kit+"/examples/rollout", kit+"/examples/simple", kit+"/internal/e2e/misfit",
			upstream+"/examples/hello", upstream+"/examples/reverser")
	}
	return goBuild(append([]string{"-o", work + string(filepath.Separator)}, programs...)...)
})

// raced are deployers, which are built with the race detector or, on a machine
// that cannot, without, when they are needed.
var raced = map[string]func() error{
	"multi-raced":   sync.OnceValue(func() error { return buildRaced("multi") }),
	"rollout-raced": sync.OnceValue(func() error { return buildRaced("rollout") }),
}

func buildRaced(name string) error {
	binary := filepath.Join(work, name+"-raced")
	if out, err := exec.Command("go", "env", "CGO_ENABLED").Output(); err != nil || strings.TrimSpace(string(out)) != "1" {
		return goBuild("-o", binary, kit+"/examples/"+name)
	}
	return goBuild("-race", "-o", binary, kit+"/examples/"+name)
}

func goBuild(args ...string) error {
	out, err := exec.Command("go", append([]string{"build"}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// program returns the path of a program: multi, rollout, multi-raced,
// rollout-raced, simple, shop, misfit, collatz, hello or reverser.
func program(t *testing.T, name string) string {
	t.Helper()
	f, ok := raced[name]
	if !ok {
		f = build
	}
	if err := f(); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(work, name)
}

// upstreamDir returns the directory of upstream's module.
var upstreamDir = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", upstream).Output()
	return strings.TrimSpace(string(out)), err
})

// full skips a test that is not part of the quick ones.
func full(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("left out with -short")
	}
}
