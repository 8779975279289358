package logbuffer_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weaverkit/weaverkit/logbuffer"
)

// heapOf returns what f allocates and keeps, in bytes for each of n times.
func heapOf(n int, f func()) float64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	f()
	runtime.GC()
	runtime.ReadMemStats(&after)
	return float64(int64(after.HeapAlloc)-int64(before.HeapAlloc)) / float64(n)
}

func TestSmall(t *testing.T) {
	const n = 10_000
	buffers := make([]*logbuffer.Buffer[uint64], n)
	logs := make([]*logbuffer.Lines, n)
	readers := make([]*logbuffer.Reader[uint64], n)
	buf := newBuffer(t, logbuffer.Options{})
	write(t, buf, 0, 5000)
	empty := heapOf(n, func() {
		for i := range buffers {
			buffers[i] = newBuffer(t, logbuffer.Options{})
		}
	})
	emptyLines := heapOf(n, func() {
		for i := range logs {
			logs[i] = newLines(t, logbuffer.LineOptions{})
		}
	})
	reader := heapOf(n, func() {
		dst := make([]uint64, 10)
		for i := range readers {
			readers[i] = buf.Tail(i)
			readers[i].TryRead(dst)
		}
	})
	t.Logf("empty Buffer %.0f B, empty Lines %.0f B, reader %.0f B", empty, emptyLines, reader)
	if empty > 600 || emptyLines > 600 {
		t.Errorf("an empty Buffer takes %.0f B, an empty Lines %.0f B; want at most 600", empty, emptyLines)
	}
	if reader > 100 {
		t.Errorf("a reader takes %.0f B; want at most 100", reader)
	}
	runtime.KeepAlive(buffers)
	runtime.KeepAlive(logs)
	runtime.KeepAlive(readers)
}

// What a reader adds when it blocks, apart from its goroutine.
func TestBlockedReaderSmall(t *testing.T) {
	const n = 2000
	var wg sync.WaitGroup
	buf := newBuffer(t, logbuffer.Options{})
	start := make(chan bool)
	for range n {
		r := buf.FromNow()
		dst := make([]uint64, 1)
		wg.Go(func() {
			<-start
			r.Read(context.Background(), dst)
		})
	}
	blocked := heapOf(n, func() {
		close(start)
		for logbuffer.Blocked(buf) < n {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(10 * time.Millisecond)
	})
	buf.Close()
	wg.Wait()
	t.Logf("a blocked reader takes %.0f B more", blocked)
	if blocked > 100 {
		t.Errorf("a blocked reader takes %.0f B more; want at most 100", blocked)
	}
}

// Ten million entries, one reader: nothing is allocated on the way.
func TestSteadyHeap(t *testing.T) {
	const entries, batch = 10_000_000, 100
	buf := newBuffer(t, logbuffer.Options{})
	r := buf.FromOldest()
	defer r.Close()
	in, out := make([]uint64, batch), make([]uint64, batch)
	follow := func(entries int) {
		for range entries / batch {
			buf.Write(in...)
			if n, missed, err := r.TryRead(out); n != batch || missed != 0 || err != nil {
				t.Fatal(n, missed, err)
			}
		}
	}
	follow(20 * 1024 * batch / batch) // until the first chunk is used again
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	follow(entries)
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("%d bytes allocated", n)
	}
	if s := buf.Stats(); s.Written < entries || s.Retained > 16*1024 {
		t.Errorf("%+v", s)
	}
}

// Readers that stand still, or are forgotten, each in a chunk of its own, pin
// that chunk and no other.
func TestStalledReadersPinOneChunk(t *testing.T) {
	type block [1024]byte
	const size, chunks, stalled, rounds = 64, 4, 10, 1000 // chunks of 64 KiB
	var readers [stalled]*logbuffer.Reader[block]
	b, err := logbuffer.New[block](logbuffer.Options{ChunkSize: size, Chunks: chunks})
	if err != nil {
		t.Fatal(err)
	}
	grown := heapOf(size*1024, func() {
		for i := range rounds * size {
			b.Write(block{})
			if k := i / (5 * size); i%(5*size) == 0 && k < stalled {
				readers[k] = b.Tail(1)
				readers[k].TryRead(make([]block, 1))
			}
		}
	})
	if grown > chunks+stalled+1 {
		t.Errorf("%.1f chunks in use; want %d retained and %d pinned", grown, chunks, stalled)
	}
	for i, r := range readers {
		if _, missed, err := r.TryRead(make([]block, 1)); missed == 0 || err != nil {
			t.Errorf("reader %d: %d missed, %v", i, missed, err)
		}
	}
	runtime.KeepAlive(b)
}

// collected waits until the count, that cleanups raise, is at least n.
func collected(count *atomic.Int64, n int64) bool {
	for range 100 {
		if count.Load() >= n {
			return true
		}
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
	return false
}

// Entries that have been dropped are garbage, even those that were in a chunk
// which is in use again.
func TestDroppedEntriesAreGarbage(t *testing.T) {
	buf, err := logbuffer.New[*[64]byte](logbuffer.Options{ChunkSize: 100, Chunks: 2})
	if err != nil {
		t.Fatal(err)
	}
	var count atomic.Int64
	for range 301 {
		e := new([64]byte)
		runtime.AddCleanup(e, func(int) { count.Add(1) }, 0)
		buf.Write(e)
	}
	if !collected(&count, 200) {
		t.Errorf("%d entries collected", count.Load())
	}
	if n := buf.Stats().Retained; n != 101 {
		t.Errorf("%d retained", n)
	}
	runtime.KeepAlive(buf)
}

// A reader that is dropped without Close is garbage, although the context that
// it blocked with lives on, and so is its buffer.
func TestForgottenReaderIsGarbage(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var count atomic.Int64
	for range 10 {
		buf := newBuffer(t, logbuffer.Options{})
		runtime.AddCleanup(buf, func(int) { count.Add(1) }, 0)
		r := buf.FromOldest()
		runtime.AddCleanup(r, func(int) { count.Add(1) }, 0)
		done := make(chan bool)
		go func() {
			defer close(done)
			r.Read(ctx, make([]uint64, 1))
		}()
		for logbuffer.Blocked(buf) == 0 {
			runtime.Gosched()
		}
		buf.Write(1)
		<-done
	}
	if !collected(&count, 20) {
		t.Errorf("%d of 20 collected", count.Load())
	}
}

// No call leaves a goroutine behind.
func TestNoGoroutines(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 100 {
		ctx, cancel := context.WithCancel(context.Background())
		buf := newBuffer(t, logbuffer.Options{})
		var wg sync.WaitGroup
		for i := range 10 {
			r := buf.FromOldest()
			wg.Go(func() {
				defer r.Close()
				for {
					if _, _, err := r.Read(ctx, make([]uint64, 1)); err != nil {
						if i == 0 && !errors.Is(err, context.Canceled) {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		m := newMerge(t, time.Millisecond)
		m.Add("a", buf.FromOldest())
		m.Add("b", newBuffer(t, logbuffer.Options{}).FromOldest())
		wg.Go(func() {
			for range m.All(ctx) {
			}
		})
		write(t, buf, 0, 10)
		cancel()
		wg.Wait()
		m.Close()
	}
	for i := 0; runtime.NumGoroutine() > before; i++ {
		if i == 1000 {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
		time.Sleep(time.Millisecond)
	}
}
