package logbuffer_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weaverkit/weaverkit/logbuffer"
)

// Two obvious designs, as baselines for every figure.

// A ringLog is a slice used as a ring, under a mutex, with a condition variable.
type ringLog struct {
	mu     sync.Mutex
	cond   sync.Cond
	ring   []uint64
	next   uint64
	closed bool
}

func newRingLog(size int) *ringLog {
	l := &ringLog{ring: make([]uint64, size)}
	l.cond.L = &l.mu
	return l
}

func (l *ringLog) write(entries ...uint64) {
	l.mu.Lock()
	for _, e := range entries {
		l.ring[l.next%uint64(len(l.ring))] = e
		l.next++
	}
	l.mu.Unlock()
	l.cond.Broadcast()
}

func (l *ringLog) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.cond.Broadcast()
}

// read copies entries from *pos on, and reports false at the end.
func (l *ringLog) read(pos *uint64, dst []uint64) (int, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for *pos == l.next && !l.closed {
		l.cond.Wait()
	}
	size := uint64(len(l.ring))
	if l.next > size {
		*pos = max(*pos, l.next-size)
	}
	n := 0
	for n < len(dst) && *pos < l.next {
		from := *pos % size
		k := copy(dst[n:], l.ring[from:min(from+l.next-*pos, size)])
		*pos += uint64(k)
		n += k
	}
	return n, n > 0
}

// A chanLog has a buffered channel for each reader, and drops what does not fit.
type chanLog struct {
	mu      sync.Mutex
	readers []chan uint64
}

func (l *chanLog) reader() chan uint64 {
	c := make(chan uint64, 1024)
	l.mu.Lock()
	l.readers = append(l.readers, c)
	l.mu.Unlock()
	return c
}

func (l *chanLog) write(entries ...uint64) {
	l.mu.Lock()
	for _, e := range entries {
		for _, c := range l.readers {
			select {
			case c <- e:
			default:
			}
		}
	}
	l.mu.Unlock()
}

func (l *chanLog) close() {
	for _, c := range l.readers {
		close(c)
	}
}

func newBuffer(tb testing.TB, opts logbuffer.Options) *logbuffer.Buffer[uint64] {
	tb.Helper()
	b, err := logbuffer.New[uint64](opts)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// What does a write cost while readers are attached but do not read?
func BenchmarkWrite(b *testing.B) {
	for _, batch := range []int{1, 100} {
		entries := make([]uint64, batch)
		for _, readers := range []int{0, 1, 10, 100, 1000} {
			name := fmt.Sprintf("batch=%d/readers=%d", batch, readers)
			b.Run("buffer/"+name, func(b *testing.B) {
				buf := newBuffer(b, logbuffer.Options{})
				var dst [1]uint64
				for range readers {
					r := buf.FromNow()
					r.TryRead(dst[:])
					defer r.Close()
				}
				b.ReportAllocs()
				if batch == 1 {
					for b.Loop() {
						buf.Write(1)
					}
				} else {
					for b.Loop() {
						buf.Write(entries...)
					}
				}
				perEntry(b, batch)
			})
			b.Run("ring/"+name, func(b *testing.B) {
				log := newRingLog(16384)
				b.ReportAllocs()
				if batch == 1 {
					for b.Loop() {
						log.write(1)
					}
				} else {
					for b.Loop() {
						log.write(entries...)
					}
				}
				perEntry(b, batch)
			})
			b.Run("chans/"+name, func(b *testing.B) {
				log := new(chanLog)
				for range readers {
					log.reader()
				}
				b.ReportAllocs()
				for b.Loop() {
					log.write(entries...)
				}
				perEntry(b, batch)
			})
		}
	}
}

func perEntry(b *testing.B, entries int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(entries), "ns/entry")
}

// What does a write cost if all processors write?
func BenchmarkWriteMany(b *testing.B) {
	for _, writers := range []int{2, 16} {
		b.Run(fmt.Sprintf("buffer/writers=%d", writers), func(b *testing.B) {
			buf := newBuffer(b, logbuffer.Options{MultiWriter: true})
			b.ReportAllocs()
			inParallel(b, writers, func() { buf.Write(1) })
		})
		b.Run(fmt.Sprintf("ring/writers=%d", writers), func(b *testing.B) {
			log := newRingLog(16384)
			b.ReportAllocs()
			inParallel(b, writers, func() { log.write(1) })
		})
	}
}

func inParallel(b *testing.B, goroutines int, f func()) {
	b.SetParallelism(max(1, goroutines/2))
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			f()
		}
	})
}

// What does a line of 128 bytes cost, copied in? The baseline keeps copies in a
// slice under a mutex.
func BenchmarkLine(b *testing.B) {
	line := append(bytes.Repeat([]byte("x"), 127), '\n')
	b.Run("lines", func(b *testing.B) {
		l := newLines(b, logbuffer.LineOptions{})
		r := l.FromNow()
		defer r.Close()
		b.SetBytes(int64(len(line)))
		b.ReportAllocs()
		for b.Loop() {
			l.Write(line)
		}
	})
	b.Run("ring", func(b *testing.B) {
		var mu sync.Mutex
		cond := sync.NewCond(&mu)
		ring := make([][]byte, 8192)
		next := 0
		b.SetBytes(int64(len(line)))
		b.ReportAllocs()
		for b.Loop() {
			mu.Lock()
			ring[next%len(ring)] = bytes.Clone(line[:bytes.IndexByte(line, '\n')])
			next++
			mu.Unlock()
			cond.Broadcast()
		}
	})
}

// How fast is a full buffer copied out, by all readers together?
func BenchmarkReadBacklog(b *testing.B) {
	const size = 1 << 20
	entries := make([]uint64, size)
	for _, readers := range []int{1, 8} {
		run := func(b *testing.B, read func(dst []uint64)) {
			for b.Loop() {
				var wg sync.WaitGroup
				for range readers {
					wg.Go(func() { read(make([]uint64, 1024)) })
				}
				wg.Wait()
			}
			b.ReportMetric(float64(readers)*size*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mentries/s")
		}
		b.Run(fmt.Sprintf("buffer/readers=%d", readers), func(b *testing.B) {
			buf := newBuffer(b, logbuffer.Options{Chunks: size/1024 + 1})
			buf.Write(entries...)
			buf.Close()
			run(b, func(dst []uint64) {
				r := buf.FromOldest()
				for n, total := 0, 0; ; total += n {
					var err error
					if n, _, err = r.Read(b.Context(), dst); err != nil {
						if total != size {
							b.Error("read", total)
						}
						return
					}
				}
			})
		})
		b.Run(fmt.Sprintf("ring/readers=%d", readers), func(b *testing.B) {
			log := newRingLog(size)
			log.write(entries...)
			log.close()
			run(b, func(dst []uint64) {
				var pos uint64
				for ok := true; ok; {
					_, ok = log.read(&pos, dst)
				}
			})
		})
	}
}

// What does a write cost while ten readers read everything they can?
func BenchmarkWriteDraining(b *testing.B) {
	const readers = 10
	b.Run("buffer", func(b *testing.B) {
		buf := newBuffer(b, logbuffer.Options{})
		var wg sync.WaitGroup
		var seen, missed atomic.Uint64
		for range readers {
			r := buf.FromOldest()
			wg.Go(func() {
				dst := make([]uint64, 256)
				for {
					n, m, err := r.Read(context.Background(), dst)
					if err != nil {
						return
					}
					seen.Add(uint64(n))
					missed.Add(m)
				}
			})
		}
		b.ReportAllocs()
		for b.Loop() {
			buf.Write(1)
		}
		buf.Close()
		wg.Wait()
		b.ReportMetric(100*float64(seen.Load())/float64(seen.Load()+missed.Load()), "%seen")
	})
	b.Run("ring", func(b *testing.B) {
		log := newRingLog(16384)
		var wg sync.WaitGroup
		var seen atomic.Uint64
		for range readers {
			wg.Go(func() {
				dst := make([]uint64, 256)
				var pos uint64
				for {
					n, ok := log.read(&pos, dst)
					if !ok {
						return
					}
					seen.Add(uint64(n))
				}
			})
		}
		b.ReportAllocs()
		for b.Loop() {
			log.write(1)
		}
		log.close()
		wg.Wait()
		b.ReportMetric(100*float64(seen.Load())/float64(readers*log.next), "%seen")
	})
	b.Run("chans", func(b *testing.B) {
		log := new(chanLog)
		var wg sync.WaitGroup
		var seen atomic.Uint64
		for range readers {
			c := log.reader()
			wg.Go(func() {
				for range c {
					seen.Add(1)
				}
			})
		}
		b.ReportAllocs()
		n := 0
		for b.Loop() {
			log.write(1)
			n++
		}
		log.close()
		wg.Wait()
		b.ReportMetric(100*float64(seen.Load())/float64(readers*n), "%seen")
	})
}

// How long until a thousand blocked readers run again, and how long does the
// write take that wakes them? The least that can be expected is what the close
// of a channel achieves with as many receivers. The designs take turns every 20
// rounds, so that they meet the same noise.
func BenchmarkWake(b *testing.B) {
	const readers = 1000
	buf := newBuffer(b, logbuffer.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ring := newRingLog(16384)
	channels := make([]chan bool, b.N) // one for each round: who is late must not miss it
	for i := range channels {
		channels[i] = make(chan bool)
	}
	closed := 0
	subjects := []*wakeUp{
		newWakeUp(b, "buffer", readers, func() func() {
			r := buf.FromNow()
			dst := make([]uint64, 1)
			return func() { r.Read(ctx, dst) }
		}, func() { buf.Write(1) }),
		newWakeUp(b, "ring", readers, func() func() {
			var pos uint64
			dst := make([]uint64, 1)
			return func() { ring.read(&pos, dst) }
		}, func() { ring.write(1) }),
		newWakeUp(b, "close", readers, func() func() {
			round := 0
			return func() { <-channels[round]; round++ }
		}, func() { close(channels[closed]); closed++ }),
	}
	b.ResetTimer()
	for i := 0; i < b.N; i += 20 {
		for _, s := range subjects {
			for range min(20, b.N-i) {
				s.round()
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	for _, s := range subjects {
		s.report(b)
	}
}

// A wakeUp is a number of goroutines that block until they are fired, b.N times.
type wakeUp struct {
	name    string
	fire    func()
	begin   time.Time
	fired   atomic.Int64
	about   atomic.Int64 // goroutines about to block
	wg      sync.WaitGroup
	running [][]time.Duration // from fire to running again, for each goroutine
	writes  []time.Duration   // how long fire took
}

func newWakeUp(b *testing.B, name string, readers int, newRead func() func(), fire func()) *wakeUp {
	w := &wakeUp{name: name, fire: fire, begin: time.Now(), running: make([][]time.Duration, readers)}
	for i := range readers {
		read := newRead()
		w.running[i] = make([]time.Duration, 0, b.N)
		go func() {
			for range b.N {
				w.about.Add(1)
				read()
				w.running[i] = append(w.running[i], time.Since(w.begin)-time.Duration(w.fired.Load()))
				w.wg.Done()
			}
		}()
	}
	return w
}

func (w *wakeUp) round() {
	readers := int64(len(w.running))
	for w.about.Load() < readers {
		time.Sleep(100 * time.Microsecond)
	}
	time.Sleep(500 * time.Microsecond) // for the last of them to block
	w.about.Store(0)
	w.wg.Add(int(readers))
	at := time.Since(w.begin)
	w.fired.Store(int64(at))
	w.fire()
	w.writes = append(w.writes, time.Since(w.begin)-at)
	w.wg.Wait()
}

func (w *wakeUp) report(b *testing.B) {
	var all, lasts []time.Duration
	for round := range b.N {
		var last time.Duration
		for _, r := range w.running {
			last = max(last, r[round])
			all = append(all, r[round])
		}
		lasts = append(lasts, last)
	}
	metric := func(d []time.Duration, p float64, what string) {
		slices.Sort(d)
		b.ReportMetric(float64(d[int(float64(len(d)-1)*p)].Nanoseconds())/1e3, w.name+"-"+what+"-µs")
	}
	metric(w.writes, .5, "write-p50")
	metric(all, .5, "p50")
	metric(all, .99, "p99")
	metric(lasts, .5, "last")
}

// What does an entry cost that is merged out of a thousand buffers? The baseline
// looks at the heads of all of them each time.
func BenchmarkMerge(b *testing.B) {
	const entries = 1 << 20
	for _, inputs := range []int{10, 1000} {
		// Input i has the entries i, i+inputs, i+2*inputs ...; shuffled a bit.
		each := entries / inputs
		stock := make([][]uint64, inputs)
		for i := range stock {
			for j := range each {
				stock[i] = append(stock[i], uint64(j*inputs+(i*7919+j*104729)%inputs))
			}
		}
		b.Run(fmt.Sprintf("buffer/inputs=%d", inputs), func(b *testing.B) {
			var bufs []*logbuffer.Buffer[uint64]
			for i := range inputs {
				buf := newBuffer(b, logbuffer.Options{Chunks: max(2, each/1024+2)})
				buf.Write(stock[i]...)
				buf.Close()
				bufs = append(bufs, buf)
			}
			b.ReportAllocs()
			dst := make([]logbuffer.Item[uint64], 256)
			total := 0
			b.ResetTimer()
			for total < b.N {
				b.StopTimer()
				m, err := logbuffer.NewMerge(func(e uint64) int64 { return int64(e) }, logbuffer.MergeOptions{Wait: time.Second})
				if err != nil {
					b.Fatal(err)
				}
				for _, buf := range bufs {
					m.Add("a", buf.FromOldest())
				}
				m.Seal()
				m.Read(b.Context(), dst[:1])
				b.StartTimer()
				for total < b.N {
					n, err := m.Read(b.Context(), dst[:min(len(dst), b.N-total)])
					if err != nil {
						break
					}
					total += n
				}
				b.StopTimer()
				m.Close()
				b.StartTimer()
			}
		})
		b.Run(fmt.Sprintf("scan/inputs=%d", inputs), func(b *testing.B) {
			b.ReportAllocs()
			for total := 0; total < b.N; {
				rest := slices.Clone(stock)
				for ; total < b.N; total++ {
					least := -1
					for i := range rest {
						if len(rest[i]) > 0 && (least < 0 || rest[i][0] < rest[least][0]) {
							least = i
						}
					}
					if least < 0 {
						break
					}
					rest[least] = rest[least][1:]
				}
			}
		})
	}
}
