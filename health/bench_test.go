//go:build unix

package health_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weaverkit/weaverkit/health"
)

func nothing(context.Context) (health.Result, error) { return health.Result{}, nil }

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func fill(b *testing.B, p *health.Prober, n int, check health.CheckFunc) []string {
	b.Helper()
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("target-%06d", i)
		if err := p.Add(health.Target{ID: ids[i], Check: check}); err != nil {
			b.Fatal(err)
		}
	}
	return ids
}

func heapBytes() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// What does it cost to watch 100,000 targets whose checks take no time, every
// 10 s? The last of the metrics is the share of one core.
func BenchmarkProbe100k(b *testing.B) {
	const n = 100_000
	for range b.N {
		p, err := health.New(health.Options{})
		if err != nil {
			b.Fatal(err)
		}
		ids := make([]string, n)
		for i := range ids {
			ids[i] = fmt.Sprintf("target-%06d", i)
		}
		before := heapBytes()
		for _, id := range ids {
			if err := p.Add(health.Target{ID: id, Check: nothing}); err != nil {
				b.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(b.Context())
		done := make(chan error)
		go func() { done <- p.Run(ctx) }()
		time.Sleep(21 * time.Second) // all have been checked, and have found their place
		bytes := heapBytes() - before
		checks, began, used := p.Snapshot().Checks, time.Now(), cpu()
		most := 0
		for time.Since(began) < 20*time.Second {
			time.Sleep(100 * time.Millisecond)
			most = max(most, runtime.NumGoroutine())
		}
		wall := time.Since(began)
		used = cpu() - used
		s := p.Snapshot()
		b.ReportMetric(float64(s.Checks-checks)/wall.Seconds(), "checks/s")
		b.ReportMetric(bytes/n, "B/target")
		b.ReportMetric(float64(most), "goroutines")
		b.ReportMetric(100*used.Seconds()/wall.Seconds(), "%core")
		cancel()
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		runtime.KeepAlive(ids)
	}
}

// The same with what one would write first: a goroutine and a ticker a target.
func BenchmarkBaselineGoroutines100k(b *testing.B) {
	const n = 100_000
	for range b.N {
		before := heapBytes()
		var stacks runtime.MemStats
		runtime.ReadMemStats(&stacks)
		stack := stacks.StackInuse
		ctx, cancel := context.WithCancel(b.Context())
		var wg sync.WaitGroup
		var mu sync.Mutex
		failures := map[int]int{}
		for i := range n {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 10 * time.Second / n)
				t := time.NewTicker(10 * time.Second)
				defer t.Stop()
				for {
					c, stop := context.WithTimeout(ctx, time.Second)
					if _, err := nothing(c); err != nil {
						mu.Lock()
						failures[i]++
						mu.Unlock()
					}
					stop()
					select {
					case <-t.C:
					case <-ctx.Done():
						return
					}
				}
			})
			if i%1000 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		time.Sleep(15 * time.Second)
		bytes := heapBytes() - before
		runtime.ReadMemStats(&stacks)
		bytes += float64(stacks.StackInuse - stack)
		began, used := time.Now(), cpu()
		time.Sleep(20 * time.Second)
		used = cpu() - used
		b.ReportMetric(bytes/n, "B/target")
		b.ReportMetric(float64(runtime.NumGoroutine()), "goroutines")
		b.ReportMetric(100*used.Seconds()/time.Since(began).Seconds(), "%core")
		cancel()
		wg.Wait()
	}
}

// What does it cost to remove one of 100,000 targets and to add one?
func BenchmarkAddRemove100k(b *testing.B) {
	p, err := health.New(health.Options{})
	if err != nil {
		b.Fatal(err)
	}
	ids := fill(b, p, 100_000, nothing)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		id := ids[i*7919%len(ids)]
		p.Remove(id)
		if err := p.Add(health.Target{ID: id, Check: nothing}); err != nil {
			b.Fatal(err)
		}
		i++
	}
	// Each iteration is one of both.
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/2, "ns/one")
}

// What does a request cost that a proxy tells of, with and without contention?
func BenchmarkObserve(b *testing.B) {
	for _, parallel := range []bool{false, true} {
		b.Run(fmt.Sprintf("parallel=%v", parallel), func(b *testing.B) {
			p, err := health.New(health.Options{})
			if err != nil {
				b.Fatal(err)
			}
			ids := fill(b, p, 1000, nothing)
			b.ReportAllocs()
			if !parallel {
				for i := 0; b.Loop(); i++ {
					p.Observe(ids[i%1000], health.Success, time.Millisecond)
				}
				return
			}
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					p.Observe(ids[i%1000], health.Success, time.Millisecond)
				}
			})
		})
	}
}

func BenchmarkSnapshot100k(b *testing.B) {
	p, err := health.New(health.Options{})
	if err != nil {
		b.Fatal(err)
	}
	fill(b, p, 100_000, nothing)
	for b.Loop() {
		p.Snapshot()
	}
}

// Do checks that hang for ever delay the others? 10,000 targets every 10 s, of
// which none or 100 hang; the metrics are how late checks start. What cannot be
// helped is how late a timer of 10 ms is in the same process.
func BenchmarkHanging10k(b *testing.B) {
	quantiles := func(b *testing.B, name string, late []time.Duration) {
		slices.Sort(late)
		for q, at := range map[string]int{"p50": len(late) / 2, "p99": len(late) * 99 / 100, "max": len(late) - 1} {
			b.ReportMetric(float64(late[at].Microseconds())/1000, "ms-"+q+"-"+name)
		}
	}
	for _, share := range []int{0, 1} {
		b.Run(fmt.Sprintf("hanging=%d%%", share), func(b *testing.B) {
			for range b.N {
				p, err := health.New(health.Options{})
				if err != nil {
					b.Fatal(err)
				}
				var late, timers []time.Duration
				p.Launched(func(d time.Duration) { late = append(late, d) })
				free := make(chan struct{})
				for i := range 10_000 {
					check := nothing
					if i%100 < share {
						check = func(context.Context) (health.Result, error) { <-free; return health.Result{}, nil }
					}
					if err := p.Add(health.Target{ID: fmt.Sprint(i), Check: check}); err != nil {
						b.Fatal(err)
					}
				}
				ctx, cancel := context.WithCancel(b.Context())
				done := make(chan error)
				go func() { done <- p.Run(ctx) }()
				for began := time.Now(); time.Since(began) < 30*time.Second; {
					t := time.Now()
					time.Sleep(10 * time.Millisecond)
					timers = append(timers, time.Since(t)-10*time.Millisecond)
				}
				hung := p.Snapshot().Hung
				cancel()
				close(free)
				if err := <-done; err != nil {
					b.Fatal(err)
				}
				quantiles(b, "start", late)
				quantiles(b, "timer", timers)
				b.ReportMetric(float64(hung), "hung")
			}
		})
	}
}

// How long does it take to find a dead target while twice as many goroutines
// as there are processors want all of them? In units of the promise:
// Timeout + 3 × Period is 1.
func BenchmarkDetectionOverloaded(b *testing.B) {
	for _, overload := range []int{0, 2} {
		b.Run(fmt.Sprintf("overload=%dx", overload), func(b *testing.B) {
			for range b.N {
				p, err := health.New(health.Options{MaxUnready: 1})
				if err != nil {
					b.Fatal(err)
				}
				policy := health.Policy{Period: time.Second, Timeout: 500 * time.Millisecond, SuccessThreshold: 1, FailureThreshold: 3}
				const n = 1000
				var patients []*patient
				for i := range n {
					patients = append(patients, newPatient(well))
					if err := p.Add(health.Target{ID: fmt.Sprint(i), Check: patients[i].check, Policy: policy}); err != nil {
						b.Fatal(err)
					}
				}
				ctx, cancel := context.WithCancel(b.Context())
				var wg sync.WaitGroup
				for range overload * runtime.GOMAXPROCS(0) {
					wg.Go(func() {
						for x := 0; ctx.Err() == nil; {
							for range 1 << 16 {
								x++
							}
						}
					})
				}
				wg.Go(func() { _ = p.Run(ctx) })
				time.Sleep(5 * time.Second)
				died := map[string]time.Time{}
				for i := range 400 {
					patients[i].mode.Store(silent)
					died[fmt.Sprint(i)] = time.Now()
					time.Sleep(5 * time.Millisecond)
				}
				time.Sleep(6 * time.Second)
				var took []float64
				wrong := 0
				for _, s := range p.Snapshot().Targets {
					at, dead := died[s.ID]
					switch {
					case dead && s.State == health.NotReady:
						took = append(took, s.Since.Sub(at).Seconds()/3.5)
					case dead == (s.State == health.Ready):
						wrong++
					}
				}
				lag, doubtful := p.Snapshot().Lag, p.Snapshot().Doubtful
				cancel()
				wg.Wait()
				slices.Sort(took)
				if len(took) == 0 {
					b.Fatal("none were found")
				}
				b.ReportMetric(took[len(took)/2], "p50-of-promise")
				b.ReportMetric(took[len(took)-1], "max-of-promise")
				b.ReportMetric(float64(wrong), "wrong")
				b.ReportMetric(float64(len(took)), "found")
				b.ReportMetric(float64(doubtful), "doubtful")
				b.ReportMetric(float64(lag.Microseconds())/1000, "ms-lag")
			}
		})
	}
}
