//go:build linux

// Command deploy measures how fast applications are deployed, repaired and
// looked after, side by side with upstream's "weaver multi deploy" where that
// can do the same.
//
//	go run ./internal/bench/deploy [-runs 5] [-only start,kill,many,stop]
//
// It builds all it needs into a temporary directory, runs the contenders
// alternately, and prints tables of medians, with the smallest and largest
// value, beside what is to be reached. It needs Linux, and this repository as
// its working directory. BENCHMARKS.md has results.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// A bench is what the measurements share.
type bench struct {
	dir  string // of binaries and everything that runs
	runs int
	bars []bar
}

// A bar is something to reach, and what was reached.
type bar struct {
	what, bar string
	got       string
	ok        bool
}

func main() {
	runs := flag.Int("runs", 5, "how often everything is measured")
	only := flag.String("only", "start,kill,many,stop", "what is measured")
	child := flag.String("child", "", "measure in this process; for the program itself")
	flag.Parse()
	var err error
	if *child != "" {
		err = runChild(*child, flag.Args())
	} else {
		err = run(*runs, strings.Split(*only, ","))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(runs int, only []string) error {
	dir, err := os.MkdirTemp("", "wkbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{dir: dir, runs: runs}
	if err := b.build(); err != nil {
		return err
	}
	fmt.Printf("%s, %d processors, %d runs, %s\n", runtime.Version(), runtime.NumCPU(), runs, machine())
	for _, part := range []struct {
		name string
		f    func() error
	}{
		{"start", b.start},
		{"kill", b.kill},
		{"many", b.many},
		{"stop", b.stop},
	} {
		if !slices.Contains(only, part.name) {
			continue
		}
		start := time.Now()
		if err := part.f(); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		fmt.Fprintf(os.Stderr, "%s took %v\n", part.name, time.Since(start).Round(time.Second))
	}
	rows := [][]string{{"what", "to reach", "measured", ""}}
	for _, x := range b.bars {
		mark := "reached"
		if !x.ok {
			mark = "missed"
		}
		rows = append(rows, []string{x.what, x.bar, x.got, mark})
	}
	table("Against the bars", rows)
	return nil
}

// build builds the deployers and the applications.
func (b *bench) build() error {
	kit, upstream := "github.com/weaverkit/weaverkit/", "github.com/ServiceWeaver/weaver/"
	bin := b.dir + string(filepath.Separator)
	for _, args := range [][]string{
		{"build", "-o", bin, kit + "examples/multi", kit + "examples/shop",
			upstream + "examples/collatz", upstream + "examples/reverser"},
		{"build", "-C", "tools", "-o", bin, upstream + "cmd/weaver"},
	} {
		if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

// path returns the path of a program.
func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

// reach notes what was reached of a bar.
func (b *bench) reach(what, want, got string, ok bool) {
	b.bars = append(b.bars, bar{what, want, got, ok})
}

// machine describes the operating system.
func machine() string {
	text, _ := os.ReadFile("/etc/os-release")
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return strings.Trim(strings.TrimSpace(name), `"`)
		}
	}
	return runtime.GOOS
}
