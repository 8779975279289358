package logbuffer_test

import (
	"context"
	"errors"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weaverkit/weaverkit/logbuffer"
)

func write(tb testing.TB, buf *logbuffer.Buffer[uint64], from, to uint64) {
	tb.Helper()
	for e := from; e < to; e++ {
		if n, err := buf.Write(e); n != 1 || err != nil {
			tb.Fatalf("write: %d, %v", n, err)
		}
	}
}

// The tail is exact for every n and every number of entries, across the borders
// of chunks.
func TestTailExact(t *testing.T) {
	const size, chunks = 4, 3
	for written := range uint64(3 * size * chunks) {
		buf := newBuffer(t, logbuffer.Options{ChunkSize: size, Chunks: chunks})
		write(t, buf, 0, written)
		retained := buf.Stats().Retained
		if retained < min(written, size*(chunks-1)) || retained > size*chunks {
			t.Fatalf("%d of %d retained", retained, written)
		}
		for n := -1; n <= int(written)+2; n++ {
			dst := make([]uint64, size*chunks+1)
			got, missed, err := buf.Tail(n).TryRead(dst)
			want := min(uint64(max(n, 0)), retained)
			if uint64(got) != want || missed != 0 || err != nil {
				t.Fatalf("tail of %d, %d retained: %d, %d missed, %v", n, retained, got, missed, err)
			}
			for i, e := range dst[:got] {
				if e != written-want+uint64(i) {
					t.Fatalf("tail of %d of %d: %v", n, written, dst[:got])
				}
			}
		}
	}
}

func TestBadOptions(t *testing.T) {
	for _, test := range []struct {
		opts  logbuffer.Options
		field string
	}{
		{logbuffer.Options{ChunkSize: -1}, "ChunkSize"},
		{logbuffer.Options{ChunkSize: math.MaxInt}, "ChunkSize"},
		{logbuffer.Options{ChunkSize: 1 << 28}, "ChunkSize"}, // times 8 bytes
		{logbuffer.Options{Chunks: -1}, "Chunks"},
		{logbuffer.Options{Chunks: 1}, "Chunks"},
		{logbuffer.Options{Chunks: math.MaxInt}, "Chunks"},
	} {
		_, err := logbuffer.New[uint64](test.opts)
		if err == nil || !strings.Contains(err.Error(), "Options."+test.field+" is ") {
			t.Errorf("%+v: %v", test.opts, err)
		}
	}
	for _, test := range []struct {
		opts  logbuffer.LineOptions
		field string
	}{
		{logbuffer.LineOptions{MaxBytes: -1}, "MaxBytes"},
		{logbuffer.LineOptions{MaxBytes: 9}, "MaxBytes"},
		{logbuffer.LineOptions{MaxBytes: math.MinInt}, "MaxBytes"},
		{logbuffer.LineOptions{ChunkBytes: -1}, "ChunkBytes"},
		{logbuffer.LineOptions{ChunkBytes: 4}, "ChunkBytes"},
		{logbuffer.LineOptions{MaxBytes: 1000, ChunkBytes: 501}, "ChunkBytes"},
		{logbuffer.LineOptions{MaxLine: -1}, "MaxLine"},
		{logbuffer.LineOptions{ChunkBytes: 100, MaxLine: 97}, "MaxLine"},
	} {
		_, err := logbuffer.NewLines(test.opts)
		if err == nil || !strings.Contains(err.Error(), "LineOptions."+test.field+" is ") {
			t.Errorf("%+v: %v", test.opts, err)
		}
	}
	if tooMuch := uint64(1<<40 + 1); tooMuch <= math.MaxInt {
		if _, err := logbuffer.NewLines(logbuffer.LineOptions{MaxBytes: int(tooMuch)}); err == nil {
			t.Errorf("%d bytes accepted", tooMuch)
		}
	}
	for _, opts := range []logbuffer.LineOptions{{}, {MaxBytes: 10}, {MaxBytes: 80, MaxLine: 1}, {MaxBytes: 80, MaxLine: 36}, {ChunkBytes: 1 << 19}, {MaxLine: 1 << 18}} {
		if _, err := logbuffer.NewLines(opts); err != nil {
			t.Errorf("%+v: %v", opts, err)
		}
	}
	key := func(e uint64) int64 { return int64(e) }
	if _, err := logbuffer.NewMerge[uint64](nil, logbuffer.MergeOptions{}); err == nil || !strings.Contains(err.Error(), "key") {
		t.Errorf("merge without a key: %v", err)
	}
	if _, err := logbuffer.NewMerge(key, logbuffer.MergeOptions{Wait: -1}); err == nil || !strings.Contains(err.Error(), "MergeOptions.Wait is ") {
		t.Errorf("merge with a negative wait: %v", err)
	}
}

func TestZeroSizedEntries(t *testing.T) {
	buf, err := logbuffer.New[struct{}](logbuffer.Options{ChunkSize: 2, Chunks: 2})
	if err != nil {
		t.Fatal(err)
	}
	r := buf.FromOldest()
	buf.Write(make([]struct{}, 9)...)
	if n, missed, err := r.TryRead(make([]struct{}, 9)); n != 3 || missed != 6 || err != nil {
		t.Fatal(n, missed, err)
	}
}

func TestNilContext(t *testing.T) {
	buf := newBuffer(t, logbuffer.Options{})
	lines, _ := logbuffer.NewLines(logbuffer.LineOptions{})
	m, _ := logbuffer.NewMerge(func(e uint64) int64 { return 0 }, logbuffer.MergeOptions{})
	write(t, buf, 0, 1)
	var none context.Context
	for name, f := range map[string]func(){
		"Reader.Read":     func() { buf.FromOldest().Read(none, make([]uint64, 1)) },
		"Reader.All":      func() { buf.FromOldest().All(none) },
		"LineReader.Read": func() { lines.FromOldest().Read(none, nil) },
		"LineReader.All":  func() { lines.FromOldest().All(none) },
		"Merge.Read":      func() { m.Read(none, nil) },
		"Merge.All":       func() { m.All(none) },
	} {
		func() {
			defer func() {
				if got := recover(); got != "logbuffer: nil Context" {
					t.Errorf("%s: panic %v", name, got)
				}
			}()
			f()
		}()
	}
}

func TestFutureSeq(t *testing.T) {
	buf := newBuffer(t, logbuffer.Options{})
	write(t, buf, 0, 3)
	if _, err := buf.FromSeq(4); !errors.Is(err, logbuffer.ErrFuture) || err.Error() != "logbuffer: read from 4: sequence number not yet written, the next one is 3" {
		t.Error(err)
	}
	if _, err := buf.FromSeq(3); err != nil {
		t.Error(err)
	}
	lines, _ := logbuffer.NewLines(logbuffer.LineOptions{})
	if _, err := lines.FromSeq(1); !errors.Is(err, logbuffer.ErrFuture) {
		t.Error(err)
	}
}

func TestResume(t *testing.T) {
	buf := newBuffer(t, logbuffer.Options{ChunkSize: 10, Chunks: 3})
	write(t, buf, 0, 15)
	r := buf.FromOldest()
	dst := make([]uint64, 7)
	r.TryRead(dst)
	seq := r.Seq()
	r.Close()
	write(t, buf, 15, 18)
	r, err := buf.FromSeq(seq)
	if err != nil {
		t.Fatal(err)
	}
	if n, missed, _ := r.TryRead(dst); n != 7 || missed != 0 || dst[0] != 7 {
		t.Fatalf("resumed at %d, %d missed", dst[0], missed)
	}
	seq = r.Seq()
	r.Close()
	write(t, buf, 18, 100) // retained: 70 and on
	r, _ = buf.FromSeq(seq)
	if n, missed, _ := r.TryRead(dst); n != 7 || missed != 70-14 || dst[0] != 70 {
		t.Fatalf("resumed at %d, %d missed", dst[0], missed)
	}
}

// A reader that stands still in the middle of a read is told of what it lost at
// the place where it is missing, not before.
func TestLossInPlace(t *testing.T) {
	buf := newBuffer(t, logbuffer.Options{ChunkSize: 2, Chunks: 2})
	r := buf.FromOldest()
	write(t, buf, 0, 3)
	dst := make([]uint64, 1)
	for e := range uint64(2) {
		if n, missed, err := r.TryRead(dst); n != 1 || missed != 0 || err != nil || dst[0] != e {
			t.Fatal(n, missed, err)
		}
	}
	write(t, buf, 3, 9) // retained: 6, 7, 8
	if lag := r.Lag(); lag != 7 {
		t.Fatalf("lag %d", lag)
	}
	if n, missed, err := r.TryRead(dst); n != 1 || missed != 4 || err != nil || dst[0] != 6 {
		t.Fatal(n, missed, err, dst)
	}
	if n, missed, err := r.TryRead(dst); n != 1 || missed != 0 || err != nil || dst[0] != 7 {
		t.Fatal(n, missed, err, dst)
	}
}

// An iterator can be left, taken up again, and closed from within.
func TestAll(t *testing.T) {
	buf := newBuffer(t, logbuffer.Options{ChunkSize: 4})
	write(t, buf, 0, 10)
	r := buf.FromOldest()
	var got []uint64
	for e := range r.All(t.Context()) {
		got = append(got, e)
		if r.Seq() != e+1 {
			t.Fatalf("at %d after %d", r.Seq(), e)
		}
		if e == 2 {
			break
		}
	}
	for e := range r.All(t.Context()) {
		got = append(got, e)
		if e == 5 {
			r.Close()
		}
	}
	if !slices.Equal(got, []uint64{0, 1, 2, 3, 4, 5}) {
		t.Fatal(got)
	}
	if _, _, err := r.Read(t.Context(), make([]uint64, 1)); err != logbuffer.ErrClosed {
		t.Fatal(err)
	}
}

func TestWhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		buf := newBuffer(t, logbuffer.Options{})
		write(t, buf, 0, 95)
		r := buf.Tail(30).Where(func(e uint64) bool { return e%10 == 0 })
		dst := make([]uint64, 10)
		if n, _, err := r.Read(t.Context(), dst); err != nil || !slices.Equal(dst[:n], []uint64{70, 80, 90}) {
			t.Fatal(dst[:n], err)
		}
		done := make(chan uint64)
		go func() {
			r.Read(t.Context(), dst)
			done <- dst[0]
		}()
		write(t, buf, 95, 100) // does not wake the caller
		synctest.Wait()
		select {
		case <-done:
			t.Fatal("returned without an entry")
		default:
		}
		write(t, buf, 100, 102)
		if e := <-done; e != 100 {
			t.Fatal(e)
		}
	})
}

// A filter that keeps nothing does not keep a reader from being cancelled,
// however fast the writer is.
func TestWhereNothingCancel(t *testing.T) {
	buf := newBuffer(t, logbuffer.Options{ChunkSize: 16, Chunks: 2})
	stop := make(chan bool)
	var wg sync.WaitGroup
	wg.Go(func() {
		batch := make([]uint64, 64)
		for {
			select {
			case <-stop:
				return
			default:
				buf.Write(batch...)
			}
		}
	})
	nothing := func(uint64) bool { return false }
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	r := buf.FromNow().Where(nothing)
	if _, _, err := r.Read(ctx, make([]uint64, 1)); err != context.DeadlineExceeded {
		t.Error(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	m := newMerge(t, 0)
	m.Add("a", buf.FromNow().Where(nothing))
	if _, err := m.Read(ctx, make([]logbuffer.Item[uint64], 1)); err != context.DeadlineExceeded {
		t.Error(err)
	}
	m.Close()
	close(stop)
	wg.Wait()
}

// A cancelled context and a deadline end a blocked Read, and cost nothing but
// that Read.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		buf := newBuffer(t, logbuffer.Options{})
		r := buf.FromOldest()
		defer r.Close()
		dst := make([]uint64, 4)

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		if n, _, err := r.Read(ctx, dst); n != 0 || err != context.DeadlineExceeded {
			t.Fatal(n, err)
		}
		if d := time.Since(start); d != time.Minute {
			t.Fatalf("returned after %v", d)
		}
		write(t, buf, 0, 2)
		if n, _, err := r.Read(ctx, dst); n != 0 || err != context.DeadlineExceeded {
			t.Fatal("entries in spite of an ended context", n, err)
		}
		if n, _, err := r.Read(t.Context(), dst); n != 2 || err != nil {
			t.Fatal(n, err)
		}

		// Only the one that is cancelled returns.
		var returned [3]error
		var cancels [3]context.CancelFunc
		var wg sync.WaitGroup
		for i := range returned {
			ctx, cancel := context.WithCancel(context.Background())
			cancels[i] = cancel
			wg.Go(func() {
				r := buf.FromNow()
				defer r.Close()
				_, _, returned[i] = r.Read(ctx, make([]uint64, 1))
			})
		}
		synctest.Wait()
		cancels[1]()
		synctest.Wait()
		if returned[0] != nil || returned[1] != context.Canceled || returned[2] != nil {
			t.Fatal(returned)
		}
		buf.Close()
		wg.Wait()
		if returned[0] != io.EOF || returned[2] != io.EOF {
			t.Fatal(returned)
		}
		cancels[0]()
		cancels[2]()
	})
}

// Readers that are cancelled one by one leave no trace, and the ones that stay
// blocked are still woken.
func TestManyCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		buf := newBuffer(t, logbuffer.Options{})
		var wg sync.WaitGroup
		var woken atomic.Int64
		for range 100 {
			r := buf.FromNow()
			wg.Go(func() {
				if n, _, err := r.Read(context.Background(), make([]uint64, 1)); n == 1 && err == nil {
					woken.Add(1)
				}
			})
		}
		for range 2000 {
			ctx, cancel := context.WithCancel(t.Context())
			r := buf.FromNow()
			var err error
			go func() { _, _, err = r.Read(ctx, make([]uint64, 1)) }()
			synctest.Wait()
			cancel()
			synctest.Wait()
			if err != context.Canceled {
				t.Fatal(err)
			}
			r.Close()
			if n := logbuffer.Blocked(buf); n != 100 {
				t.Fatalf("%d blocked", n)
			}
		}
		buf.Write(1)
		wg.Wait()
		if woken.Load() != 100 {
			t.Errorf("%d woken", woken.Load())
		}
	})
}

// One reader follows one writer, entry by entry: each hands over to the other
// 200,000 times.
func TestHandOffs(t *testing.T) {
	const rounds = 100_000
	ping, pong := newBuffer(t, logbuffer.Options{ChunkSize: 64}), newBuffer(t, logbuffer.Options{ChunkSize: 64})
	relay := func(from *logbuffer.Reader[uint64], to *logbuffer.Buffer[uint64]) {
		dst := make([]uint64, 2)
		for i := range uint64(rounds) {
			if n, missed, err := from.Read(t.Context(), dst); n != 1 || missed != 0 || err != nil || dst[0] != i {
				t.Errorf("round %d: %d entries, %d missed, %v", i, n, missed, err)
				to.Close()
				return
			}
			to.Write(i + 1)
		}
	}
	var wg sync.WaitGroup
	a, b := ping.FromNow(), pong.FromNow()
	wg.Go(func() { relay(a, pong) })
	ping.Write(0)
	dst := make([]uint64, 2)
	for i := range uint64(rounds) {
		if n, missed, err := b.Read(t.Context(), dst); n != 1 || missed != 0 || err != nil || dst[0] != i+1 {
			t.Fatalf("round %d: %d entries, %d missed, %v", i, n, missed, err)
		}
		if i+1 < rounds {
			ping.Write(i + 1)
		}
	}
	wg.Wait()
}

// Every write wakes everybody, over and over, while others are cancelled: no
// later write makes up for a wake-up that is lost.
func TestWakeEverybody(t *testing.T) {
	const readers, rounds = 200, 300
	buf := newBuffer(t, logbuffer.Options{})
	var wg sync.WaitGroup
	var got atomic.Int64
	for range readers {
		r := buf.FromNow()
		wg.Go(func() {
			defer r.Close()
			dst := make([]uint64, 4)
			for {
				n, missed, err := r.Read(context.Background(), dst)
				if err == io.EOF {
					return
				}
				if missed != 0 || err != nil {
					t.Error(missed, err)
				}
				got.Add(int64(n))
			}
		})
	}
	stop := make(chan bool)
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithCancel(context.Background())
				r := buf.FromNow()
				go cancel()
				r.Read(ctx, make([]uint64, 1))
				r.Close()
			}
		})
	}
	deadline := time.Now().Add(time.Minute)
	for round := range rounds {
		buf.Write(uint64(round))
		if round%3 == 0 {
			buf.Write(uint64(round)) // on the heels of the first
			got.Add(-readers)
		}
		for want := int64(round+1) * readers; got.Load() != want; runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatalf("round %d: %d read, want %d", round, got.Load(), want)
			}
		}
	}
	close(stop)
	buf.Close()
	wg.Wait()
}

// A write, a Close and a cancellation meet a read that is about to block, in
// whatever order: the read always returns, and tells the truth.
func TestCloseCancelRaces(t *testing.T) {
	for round := range 20_000 {
		buf := newBuffer(t, logbuffer.Options{ChunkSize: 2, Chunks: 2})
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		var stored uint64
		for range 1 + round%3 {
			r := buf.FromOldest()
			wg.Go(func() {
				defer r.Close()
				dst := make([]uint64, 2)
				var seen uint64
				for {
					n, missed, err := r.Read(ctx, dst)
					seen += uint64(n) + missed
					if err == io.EOF && seen != buf.Stats().Written {
						t.Errorf("EOF after %d of %d", seen, buf.Stats().Written)
					}
					if err != nil {
						return
					}
				}
			})
		}
		wg.Go(func() {
			n, _ := buf.Write(1, 2, 3)
			stored = uint64(n)
		})
		// At least one of the two ends every read.
		if round%4 != 0 {
			wg.Go(func() { buf.Close() })
		}
		if round%4 != 1 {
			wg.Go(cancel)
		}
		wg.Wait()
		cancel()
		if n := buf.Stats().Written; n != stored {
			t.Fatalf("%d written, %d said to be stored", n, stored)
		}
		if n := buf.Stats().Readers; n != 0 {
			t.Fatalf("%d readers left", n)
		}
	}
}

// One writer and readers of all speeds: every one of them accounts for every
// entry, in order, while the counters are read.
func TestAccounting(t *testing.T) {
	const entries = 300_000
	buf := newBuffer(t, logbuffer.Options{ChunkSize: 16, Chunks: 4})
	var wg sync.WaitGroup
	for i := range 8 {
		r := buf.FromOldest()
		if i%4 == 3 {
			r.Where(func(e uint64) bool { return e%3 == 0 })
		}
		wg.Go(func() {
			defer r.Close()
			dst := make([]uint64, 1+i*7)
			var next, seen, lost uint64
			for {
				n, missed, err := r.Read(t.Context(), dst)
				if err == io.EOF {
					break
				}
				lost += missed
				seen += uint64(n)
				for j, e := range dst[:n] {
					gap := e - next
					switch {
					case e < next, i%4 == 3 && e%3 != 0:
						t.Errorf("reader %d: %d at %d", i, e, next)
						return
					case i%4 != 3 && (j == 0 && gap != missed || j > 0 && gap != 0):
						t.Errorf("reader %d: %d at %d, %d missed", i, e, next, missed)
						return
					}
					next = e + 1
				}
				for range i % 4 * 50 {
					runtime.Gosched()
				}
			}
			if i%4 != 3 && seen+lost != entries {
				t.Errorf("reader %d: %d seen, %d missed", i, seen, lost)
			}
			if r.Seq() != entries {
				t.Errorf("reader %d: ended at %d", i, r.Seq())
			}
		})
	}
	stop := make(chan bool)
	var watcher sync.WaitGroup
	watcher.Go(func() {
		var last logbuffer.Stats
		for {
			select {
			case <-stop:
				return
			default:
			}
			s := buf.Stats()
			if s.Written != s.Retained+s.Dropped || s.Written < last.Written || s.Dropped < last.Dropped {
				t.Errorf("%+v after %+v", s, last)
				return
			}
			if s.Written >= 64 && s.Retained < 48 || s.Retained > 64 {
				t.Errorf("%d retained of %d", s.Retained, s.Written)
				return
			}
			if n, _, _ := buf.Tail(20).TryRead(make([]uint64, 30)); s.Written >= 20 && n == 0 {
				t.Error("empty tail")
			}
			last = s
			runtime.Gosched()
		}
	})
	for e := uint64(0); e < entries; {
		n := min(1+e%5, entries-e)
		batch := make([]uint64, n)
		for i := range batch {
			batch[i] = e + uint64(i)
		}
		buf.Write(batch...)
		e += n
	}
	buf.Close()
	wg.Wait()
	close(stop)
	watcher.Wait()
}

// Many writers: one order for all readers, and each writer's own order in it.
// Batches that fit into a chunk with others stay together.
func TestMultiWriter(t *testing.T) {
	const writers, batches, batch = 8, 2000, 3
	buf := newBuffer(t, logbuffer.Options{MultiWriter: true, Chunks: writers*batches*batch/1024 + 2})
	var wg sync.WaitGroup
	for w := range uint64(writers) {
		wg.Go(func() {
			for i := range uint64(batches) {
				e := w<<32 + i*batch
				if n, err := buf.Write(e, e+1, e+2); n != batch || err != nil {
					t.Error(n, err)
				}
			}
		})
	}
	var logs [2][]uint64
	for i := range logs {
		r := buf.FromOldest()
		wg.Go(func() {
			for e := range r.All(t.Context()) {
				logs[i] = append(logs[i], e)
				if len(logs[i]) == writers*batches*batch {
					return
				}
			}
		})
	}
	wg.Wait()
	if !slices.Equal(logs[0], logs[1]) {
		t.Fatal("readers differ")
	}
	var next [writers]uint64
	for i, e := range logs[0] {
		w := e >> 32
		if e&(1<<32-1) != next[w] {
			t.Fatalf("writer %d: %d, want %d", w, e&(1<<32-1), next[w])
		}
		next[w]++
		if i%batch != 0 && logs[0][i-1] != e-1 {
			t.Fatal("batch torn")
		}
	}
}

// A second writer is noticed when it gets in between.
func TestConcurrentWritersPanic(t *testing.T) {
	buf := newBuffer(t, logbuffer.Options{})
	write(t, buf, 0, 1)
	defer func() {
		if got := recover(); got != "logbuffer: concurrent writes without MultiWriter" {
			t.Error("panic", got)
		}
	}()
	logbuffer.WriteStale(buf)
}
