//go:build linux

// Command proxy measures package proxy side by side with a tuned
// httputil.ReverseProxy, nginx and haproxy.
//
//	cd internal/bench/proxy
//	go run . [-runs 3] [-only cpu,large,p99,idle,kill,stop,slow,churn,none,sse]
//
// Every subject, backend and load is a process on loopback that is started for
// one measurement and ended after it. The subjects take turns, again and
// again, and ratios are taken within a round. It prints tables of medians,
// with the smallest and the largest value, beside what is to be reached. It
// needs Linux, and nginx and haproxy in the PATH unless -subjects leaves them
// out. BENCHMARKS.md of the repository has results.
//
// Quick looks while something is tuned:
//
//	go run . -only cpu -subjects proxy,haproxy -conns 16,128 -requests 100000 -runs 5
//	go run . -only cpu -subjects proxy -conns 128 -runs 1 -profile /tmp
//	go run . -only kill,stop -subjects proxy -v
//
// With -judge all the others are held against the bars as well, which shows
// that these can be missed.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// workDir is a temporary directory for configuration files.
var workDir string

// A bench is what the measurements share.
type bench struct {
	runs     int
	subjects []string
	conns    []int
	requests int
	rows     map[string]bool
	profile  string
	profiles int
	verbose  bool
	judge    string
	bars     []bar
}

// A bar is something to reach, and what was reached.
type bar struct {
	who, what, bar, got string
	ok                  bool
}

const allRows = "cpu,p99,large,idle,kill,stop,slow,churn,none,sse"

func main() {
	b := &bench{rows: map[string]bool{}}
	flag.IntVar(&b.runs, "runs", 3, "how often everything is measured")
	only := flag.String("only", allRows, "what is measured")
	subjects := flag.String("subjects", "proxy,reverseproxy,nginx,haproxy", "what takes part")
	conns := flag.String("conns", "16,128", "connections of the rows cpu and p99")
	flag.IntVar(&b.requests, "requests", 200_000, "requests of a run of the rows cpu and p99")
	flag.StringVar(&b.judge, "judge", "proxy", "subjects that are held against the bars, or all")
	flag.StringVar(&b.profile, "profile", "", "directory for CPU profiles of the rows cpu, p99 and large; costs a little")
	flag.BoolVar(&b.verbose, "v", false, "print single runs to the standard error")
	child := flag.String("child", "", "be one of the processes; for the program itself")
	flag.Parse()
	var err error
	if *child != "" {
		err = runChild(*child, flag.Args())
	} else {
		err = b.run(*only, *subjects, *conns)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func runChild(role string, args []string) error {
	switch role {
	case "static":
		return runStatic()
	case "replica":
		return runReplica()
	case "idle":
		return runIdle(args)
	case "closedloop":
		return runClosedLoop(args)
	case "proxy", "reverseproxy":
		return runFront(role, args)
	}
	return fmt.Errorf("no child %q", role)
}

func (b *bench) run(only, subjects, conns string) error {
	for _, row := range strings.Split(only, ",") {
		if !slices.Contains(strings.Split(allRows, ","), row) {
			return fmt.Errorf("-only %s: no row %q, want of %s", only, row, allRows)
		}
		b.rows[row] = true
	}
	for _, text := range strings.Split(conns, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return fmt.Errorf("-conns %s: want numbers of connections", conns)
		}
		b.conns = append(b.conns, n)
	}
	if b.runs < 1 || b.requests < 1 {
		return fmt.Errorf("-runs %d -requests %d: want at least 1 each", b.runs, b.requests)
	}
	for _, kind := range strings.Split(subjects, ",") {
		if kind == "nginx" || kind == "haproxy" {
			if _, err := exec.LookPath(kind); err != nil {
				return fmt.Errorf("%w; install it, or leave it out with -subjects", err)
			}
		}
		b.subjects = append(b.subjects, kind)
	}
	var err error
	if workDir, err = os.MkdirTemp("", "proxybench"); err != nil {
		return err
	}
	defer os.RemoveAll(workDir)
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted
		os.RemoveAll(workDir)
		os.Exit(1) // which ends all that start has started
	}()
	fmt.Printf("%s, %d processors, %d runs, %s\n", runtime.Version(), runtime.NumCPU(), b.runs, versions(b.subjects))
	for _, part := range []struct {
		rows []string
		f    func() error
	}{
		{[]string{"cpu", "p99"}, b.small},
		{[]string{"large"}, b.large},
		{[]string{"idle"}, b.idle},
		{[]string{"kill"}, b.kill},
		{[]string{"stop"}, b.stop},
		{[]string{"slow"}, b.slow},
		{[]string{"churn"}, b.churn},
		{[]string{"none"}, b.none},
		{[]string{"sse"}, b.sse},
	} {
		if !slices.ContainsFunc(part.rows, func(row string) bool { return b.rows[row] }) {
			continue
		}
		start := time.Now()
		if err := part.f(); err != nil {
			return fmt.Errorf("%s: %w", part.rows[0], err)
		}
		fmt.Fprintf(os.Stderr, "%s took %v\n", part.rows[0], time.Since(start).Round(time.Second))
	}
	b.verdict()
	return nil
}

// judged returns the subjects that are held against the bars.
func (b *bench) judged() []string {
	if b.judge == "all" {
		return b.subjects
	}
	return slices.DeleteFunc(slices.Clone(b.subjects), func(kind string) bool {
		return !slices.Contains(strings.Split(b.judge, ","), kind)
	})
}

// reach notes what a subject has reached of a bar.
func (b *bench) reach(who, what, want, got string, ok bool) {
	b.bars = append(b.bars, bar{who, what, want, got, ok})
}

func (b *bench) verdict() {
	rows := [][]string{{"", "what", "to reach", "measured", ""}}
	for _, x := range b.bars {
		mark := "reached"
		if !x.ok {
			mark = "missed"
		}
		rows = append(rows, []string{x.who, x.what, x.bar, x.got, mark})
	}
	if len(rows) > 1 {
		table("Against the bars", rows)
	}
}

// versions names the anchors' versions and the operating system.
func versions(subjects []string) string {
	var all []string
	for _, kind := range subjects {
		if kind != "nginx" && kind != "haproxy" {
			continue
		}
		out, _ := exec.Command(kind, "-v").CombinedOutput()
		line, _, _ := strings.Cut(string(out), "\n")
		line = strings.TrimPrefix(line, "nginx version: ")
		line, _, _ = strings.Cut(line, " - ")
		all = append(all, line)
	}
	text, _ := os.ReadFile("/etc/os-release")
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			all = append(all, strings.Trim(strings.TrimSpace(name), `"`))
		}
	}
	return strings.Join(all, ", ")
}
