//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/protos"

	"github.com/weaverkit/weaverkit/envelopekit"
)

const (
	manyCount = 200
	restTime  = 10 * time.Second
	polls     = 20
)

// A crowd is what was measured of a deployment of many weavelets.
type crowd struct {
	Started time.Duration // from Run until all serve
	RSS     int64         // bytes, of the deployer, when all serve
	Poll    sample        // health, then load, then metrics of all
	Rest    float64       // share of a processor that the deployer uses at rest
}

// many runs 200 weavelets in one deployer, which is a process of its own, and
// starts as many processes without one.
func (b *bench) many() error {
	var started, own, poll sample
	var rss, rest []float64
	for range b.runs {
		took, err := b.plainCrowd()
		if err != nil {
			return err
		}
		own = append(own, took)
		var c crowd
		if err := b.child(&c, "many", b.path("reverser"), b.dir); err != nil {
			return err
		}
		started = append(started, c.Started)
		poll = append(poll, c.Poll.median())
		rss = append(rss, float64(c.RSS)/(1<<20))
		rest = append(rest, 100*c.Rest)
	}
	table(fmt.Sprintf("%d weavelets of reverser in one deployer", manyCount), [][]string{
		{"", "measured"},
		{"all serve", started.String()},
		{"as many processes without a deployer, equally many at a time, wait for orders", own.String()},
		{"deployer's memory (RSS), MB", numbers(rss)},
		{"health + load + metrics of all", poll.String()},
		{"deployer at rest, % of a processor", numbers(rest)},
	})
	most := 2400*time.Millisecond + own.median()
	b.reach("200 weavelets: all started", "≤ 2.4 s + own start, "+short(own.median()), short(started.median()), started.median() <= most)
	b.reach("200 weavelets: memory", "≤ 50 MB", fmt.Sprintf("%.1f MB", median(rss)), median(rss) <= 50)
	b.reach("200 weavelets: health + load + metrics", "≤ 100 ms", short(poll.median()), poll.median() <= 100*time.Millisecond)
	b.reach("200 weavelets: at rest", "≤ 2 % of a processor", fmt.Sprintf("%.1f %%", median(rest)), median(rest) <= 2)
	return nil
}

// plainCrowd starts as many processes as the deployer does, as many at a time.
func (b *bench) plainCrowd() (time.Duration, error) {
	var mu sync.Mutex
	var all []*plain
	var failed error
	defer func() {
		for _, p := range all {
			p.end()
		}
	}()
	begin := time.Now()
	var wg sync.WaitGroup
	turns := make(chan struct{}, 4*runtime.GOMAXPROCS(0)) // as Options.MaxStarting
	for range manyCount {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			p, err := startPlain(b.path("reverser"), b.dir)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = err
				return
			}
			all = append(all, p)
		})
	}
	wg.Wait()
	return time.Since(begin), failed
}

// child runs a measurement in a process of its own, which prints its result.
func (b *bench) child(result any, name string, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, append([]string{"-child", name}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+b.dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("child %s: %w", name, err)
	}
	return json.Unmarshal(out, result)
}

func runChild(name string, args []string) error {
	var result any
	var err error
	switch name {
	case "many":
		result, err = manyHere(args[0])
	case "stop":
		result, err = stopHere(args[0])
	default:
		err = fmt.Errorf("no child %q", name)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// manyHere deploys the reverser in this process, 199 times besides main.
func manyHere(binary string) (c crowd, err error) {
	app, err := envelopekit.LoadBinary(binary)
	if err != nil {
		return c, err
	}
	d, err := envelopekit.New(app, envelopekit.Options{
		ReplicasOf: map[string]int{"reverser.Reverser": manyCount - 1},
		Log:        func(e *protos.LogEntry) { fmt.Fprintln(io.Discard, e.Msg) },
	})
	if err != nil {
		return c, err
	}
	begin := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- d.Run(context.Background()) }()
	defer func() {
		ctx, cancel := within(patience)
		defer cancel()
		err = errors.Join(err, d.Stop(ctx), <-ended)
	}()
	for {
		st := d.Status()
		if st.Ready() {
			break
		}
		if time.Since(begin) > patience {
			return c, errors.New("not all weavelets serve")
		}
		time.Sleep(5 * time.Millisecond)
	}
	c.Started = time.Since(begin)
	time.Sleep(2 * time.Second)
	if c.RSS, err = rss(); err != nil {
		return c, err
	}
	for range polls {
		ctx, cancel := within(patience)
		begin := time.Now()
		health, load := d.Health(ctx), d.Load(ctx)
		_, err := d.Metrics(ctx)
		c.Poll = append(c.Poll, time.Since(begin))
		cancel()
		if err != nil {
			return c, err
		}
		for _, r := range health {
			if r.Err != nil {
				return c, r.Err
			}
		}
		for _, r := range load {
			if r.Err != nil {
				return c, r.Err
			}
		}
		if len(health) != manyCount || len(load) != manyCount {
			return c, fmt.Errorf("%d and %d reports", len(health), len(load))
		}
		time.Sleep(50 * time.Millisecond)
	}
	time.Sleep(time.Second)
	before, err := cpu()
	if err != nil {
		return c, err
	}
	time.Sleep(restTime)
	after, err := cpu()
	c.Rest = float64(after-before) / float64(restTime)
	return c, err
}

// cpu returns the time that this process has used.
func cpu() (time.Duration, error) {
	var u syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), err
}

// rss returns the resident memory of this process.
func rss() (int64, error) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10, err
		}
	}
	return 0, errors.New("/proc/self/status has no VmRSS")
}

func median(xs []float64) float64 {
	var s sample
	for _, x := range xs {
		s = append(s, time.Duration(x*1e6))
	}
	return float64(s.median()) / 1e6
}

func numbers(xs []float64) string {
	lo, hi := xs[0], xs[0]
	for _, x := range xs {
		lo, hi = min(lo, x), max(hi, x)
	}
	return fmt.Sprintf("%.1f (%.1f–%.1f)", median(xs), lo, hi)
}
