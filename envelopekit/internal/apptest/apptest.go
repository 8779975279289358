// Package apptest builds the applications that tests deploy.
package apptest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// Upstream's example applications.
const (
	Collatz  = "github.com/ServiceWeaver/weaver/examples/collatz"
	Hello    = "github.com/ServiceWeaver/weaver/examples/hello"
	Reverser = "github.com/ServiceWeaver/weaver/examples/reverser"
)

var (
	mu     sync.Mutex // guards the following
	dir    string
	builds = map[string]func() (string, error){}
)

// Build returns the binary of a main package, which it builds once in each
// test process. The test fails if that does not work. Tests must not change
// the binary, and their TestMain must call [Clean].
func Build(tb testing.TB, pkg string) (binary string) {
	tb.Helper()
	mu.Lock()
	build, ok := builds[pkg]
	if !ok {
		build = sync.OnceValues(func() (string, error) { return goBuild(pkg) })
		builds[pkg] = build
	}
	mu.Unlock()
	binary, err := build()
	if err != nil {
		tb.Fatal(err)
	}
	return binary
}

func goBuild(pkg string) (string, error) {
	dir, err := buildDir()
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, strings.ReplaceAll(pkg, "/", "_"), filepath.Base(pkg))
	if runtime.GOOS == "windows" {
		binary += ".exe"
	}
	if _, err := os.Stat(binary); err == nil && dir != own() {
		return binary, nil
	}
	out, err := exec.Command("go", "build", "-o", binary, pkg).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
	}
	return binary, nil
}

// inherited names the directory to the workers of a fuzz test, which use what
// their parent has built and end without a chance to clean up.
const inherited = "WEAVERKIT_APPTEST_DIR"

func buildDir() (string, error) {
	mu.Lock()
	defer mu.Unlock()
	if parents := os.Getenv(inherited); dir == "" && parents != "" {
		return parents, nil
	}
	if dir == "" {
		made, err := os.MkdirTemp("", "weaverkit-apptest-")
		if err != nil {
			return "", err
		}
		dir = made
		os.Setenv(inherited, dir)
	}
	return dir, nil
}

func own() string {
	mu.Lock()
	defer mu.Unlock()
	return dir
}

// Clean removes what Build has built. It is for the end of TestMain.
func Clean() {
	mu.Lock()
	defer mu.Unlock()
	if dir != "" {
		os.RemoveAll(dir)
		os.Unsetenv(inherited)
		dir = ""
	}
	clear(builds)
}
