package logbuffer_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weaverkit/weaverkit/logbuffer"
)

func newMerge(tb testing.TB, wait time.Duration) *logbuffer.Merge[uint64] {
	tb.Helper()
	m, err := logbuffer.NewMerge(func(e uint64) int64 { return int64(e / 10) }, logbuffer.MergeOptions{Wait: wait})
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// The stream is what sorting all entries yields, for any distribution over any
// number of inputs, if all are there.
func TestMergeSorts(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 300 {
		inputs := 1 + rng.IntN(40)
		m := newMerge(t, time.Hour)
		type tagged struct {
			source string
			entry  uint64
		}
		var want []tagged
		for i := range inputs {
			buf := newBuffer(t, logbuffer.Options{ChunkSize: 1 + rng.IntN(10), Chunks: 100})
			source := fmt.Sprint(i)
			var e uint64
			for range rng.IntN(60) {
				e += uint64(rng.IntN(50))
				buf.Write(e)
				want = append(want, tagged{source, e})
			}
			buf.Close()
			m.Add(source, buf.FromOldest())
		}
		m.Seal()
		slices.SortStableFunc(want, func(a, b tagged) int { return int(a.entry/10) - int(b.entry/10) })
		var got []tagged
		for item := range m.All(t.Context()) {
			if item.Late || item.Missed > 0 {
				t.Fatalf("%+v", item)
			}
			got = append(got, tagged{item.Source, item.Entry})
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
		if _, err := m.Read(t.Context(), make([]logbuffer.Item[uint64], 1)); err != io.EOF {
			t.Fatal(err)
		}
	}
}

// An entry is held back for late ones from silent inputs, as long as agreed and
// no longer.
func TestMergeWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const wait = 100 * time.Millisecond
		m := newMerge(t, wait)
		defer m.Close()
		a, b, c := newBuffer(t, logbuffer.Options{}), newBuffer(t, logbuffer.Options{}), newBuffer(t, logbuffer.Options{})
		m.Add("a", a.FromOldest())
		m.Add("b", b.FromOldest())
		m.Add("c", c.FromOldest())

		start := time.Now()
		type seen struct {
			text string
			at   time.Duration
		}
		var mu sync.Mutex
		var got []seen
		ctx, cancel := context.WithCancel(t.Context())
		read := make(chan struct{})
		defer func() { // before Close, which must not meet a Read
			cancel()
			<-read
		}()
		go func() {
			defer close(read)
			for item := range m.All(ctx) {
				text := fmt.Sprint(item.Source, item.Entry)
				if item.Late {
					text += "!"
				}
				mu.Lock()
				got = append(got, seen{text, time.Since(start)})
				mu.Unlock()
			}
		}()
		expect := func(want ...seen) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(got, want) {
				t.Errorf("after %v: %v, want %v", time.Since(start), got, want)
			}
			got = nil
		}
		synctest.Wait()
		a.Write(50)
		time.Sleep(wait - time.Nanosecond)
		expect()
		b.Write(40) // just in time
		expect()
		time.Sleep(time.Nanosecond)
		expect(seen{"b40", wait}, seen{"a50", wait}) // nobody waits for c any longer
		b.Write(60)
		a.Write(70)
		expect()
		c.Write(80) // now all have spoken
		expect(seen{"b60", wait})
		b.Write(90)
		expect(seen{"a70", wait})
		a.Write(100)
		expect(seen{"c80", wait})
		c.Write(85)
		expect(seen{"c85", wait})
		time.Sleep(wait)
		expect(seen{"b90", 2 * wait}, seen{"a100", 2 * wait})
		c.Write(20) // too late, but not lost
		time.Sleep(wait)
		expect(seen{"c20!", 3 * wait})

		// A stream of earlier and earlier entries holds nothing back for longer.
		a.Write(1000)
		for i := range uint64(5) {
			time.Sleep(wait / 4)
			b.Write(990 - i*10)
		}
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if !slices.Contains(got, seen{"a1000", 4 * wait}) {
			t.Errorf("a1000 not after %v: %v", wait, got)
		}
	})
}

func TestMergeComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMerge(t, 0)
		dst := make([]logbuffer.Item[uint64], 10)
		read := func(want ...string) {
			t.Helper()
			var got []string
			n, err := m.Read(t.Context(), dst)
			if err != nil {
				got = append(got, err.Error())
			}
			for _, item := range dst[:n] {
				got = append(got, fmt.Sprint(item.Source, item.Entry))
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%v, want %v", got, want)
			}
		}
		a, b := newBuffer(t, logbuffer.Options{}), newBuffer(t, logbuffer.Options{})
		time.AfterFunc(time.Second, func() { // into a blocked Read
			write(t, a, 10, 12)
			m.Add("a", a.FromOldest())
		})
		read("a10", "a11")
		removeB := m.Add("b", b.FromOldest())
		time.AfterFunc(time.Second, func() { b.Write(20) })
		read("b20")
		a.Write(30)
		b.Write(25)
		removeB()
		removeB()
		read("a30") // b25 is left unread
		if n := b.Stats().Readers; n != 0 {
			t.Fatalf("%d readers of b", n)
		}
		// A source under the same name takes over; the old one is read to its end.
		a.Write(40)
		a.Close()
		m.Add("a", b.FromOldest())
		read("a20", "a25", "a40")
		if n := a.Stats().Readers; n != 0 {
			t.Fatalf("%d readers of a", n)
		}
		time.AfterFunc(time.Second, func() { m.Seal() })
		time.AfterFunc(2*time.Second, func() { b.Close() })
		read("EOF")
		read("EOF")
		late := b.FromOldest()
		m.Add("late", late)
		if _, _, err := late.TryRead(make([]uint64, 1)); err != logbuffer.ErrClosed {
			t.Fatal(err)
		}
		m.Close()
		read("logbuffer: closed")
	})
}

func TestMergeFilterAndLoss(t *testing.T) {
	m := newMerge(t, 0)
	defer m.Close()
	a, b := newBuffer(t, logbuffer.Options{ChunkSize: 2, Chunks: 2}), newBuffer(t, logbuffer.Options{})
	even := func(e uint64) bool { return e%2 == 0 }
	m.Add("a", a.FromOldest().Where(even))
	m.Add("b", b.FromOldest().Where(even))
	write(t, a, 0, 7) // retained: 4, 5, 6
	write(t, b, 21, 26)
	dst := make([]logbuffer.Item[uint64], 10)
	n, err := m.Read(t.Context(), dst)
	var got []string
	for _, item := range dst[:n] {
		got = append(got, fmt.Sprint(item.Source, item.Entry, "-", item.Missed))
	}
	if !slices.Equal(got, []string{"a4-4", "a6-0", "b22-0", "b24-0"}) || err != nil {
		t.Fatal(got, err)
	}
}

func TestMergeCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMerge(t, time.Hour)
		a, b := newBuffer(t, logbuffer.Options{}), newBuffer(t, logbuffer.Options{})
		m.Add("a", a.FromOldest())
		m.Add("b", b.FromOldest())
		a.Write(1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		dst := make([]logbuffer.Item[uint64], 1)
		if n, err := m.Read(ctx, dst); n != 0 || err != context.DeadlineExceeded {
			t.Fatal(n, err)
		}
		if n, err := m.Read(t.Context(), dst); n != 1 || err != nil || dst[0].Entry != 1 {
			t.Fatal(n, err)
		}
		m.Close()
		m.Close()
		if a.Stats().Readers+b.Stats().Readers != 0 {
			t.Fatal("readers left")
		}
		if n, err := m.Read(t.Context(), dst); n != 0 || err != logbuffer.ErrClosed {
			t.Fatal(n, err)
		}
	})
}

// Writers write, inputs come and go, the reader is cancelled now and then: each
// entry arrives once and in the order of its input.
func TestMergeRaces(t *testing.T) {
	const sources, perSource = 50, 2000
	for _, wait := range []time.Duration{0, time.Millisecond} {
		m := newMerge(t, wait)
		var clock atomic.Uint64
		var wg sync.WaitGroup
		wg.Go(func() {
			var all sync.WaitGroup
			for i := range sources {
				buf := newBuffer(t, logbuffer.Options{ChunkSize: 64, Chunks: perSource/64 + 2})
				if i%2 == 0 {
					m.Add(fmt.Sprint(i), buf.FromOldest())
				}
				all.Go(func() {
					if i%10 == 3 { // one that goes away again, unheard or not
						m.Add("gone", buf.FromOldest())()
					}
					for range perSource {
						buf.Write(clock.Add(1))
					}
					buf.Close()
					if i%2 == 1 {
						m.Add(fmt.Sprint(i), buf.FromOldest())
					}
				})
			}
			all.Wait()
			m.Seal()
		})
		last := map[string]uint64{}
		count := map[string]int{}
		dst := make([]logbuffer.Item[uint64], 16)
		for {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Microsecond)
			n, err := m.Read(ctx, dst)
			cancel()
			if err == io.EOF {
				break
			}
			if err != nil && err != context.DeadlineExceeded {
				t.Fatal(err)
			}
			for _, item := range dst[:n] {
				if item.Source == "gone" {
					continue
				}
				if item.Missed > 0 || item.Entry <= last[item.Source] {
					t.Fatalf("%+v after %d", item, last[item.Source])
				}
				last[item.Source] = item.Entry
				count[item.Source]++
			}
		}
		wg.Wait()
		for i := range sources {
			if n := count[fmt.Sprint(i)]; n != perSource {
				t.Errorf("source %d: %d entries", i, n)
			}
		}
		m.Close()
	}
}
