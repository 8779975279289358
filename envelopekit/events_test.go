package envelopekit_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weaverkit/weaverkit/envelopekit"
)

func TestEventString(t *testing.T) {
	for want, e := range map[string]envelopekit.Event{
		"deployment started": {Kind: envelopekit.DeploymentStarted, Seq: 1, Time: time.Now()},
		"replica shop.Cart/2 (pid 77) waiting: it was killed": {Kind: envelopekit.ReplicaChanged, Group: "shop.Cart", Replica: 2, Pid: 77, State: envelopekit.Waiting, Reason: "it was killed\nand more"},
		"listener opened web 127.0.0.1:80":                    {Kind: envelopekit.ListenerOpened, Listener: "web", Address: "127.0.0.1:80"},
		"component activated shop.Cart example.com/shop/Cart": {Kind: envelopekit.ComponentActivated, Group: "shop.Cart", Component: "example.com/shop/Cart"},
		"group scaled shop.Cart: from 1 to 3 replicas":        {Kind: envelopekit.GroupScaled, Group: "shop.Cart", Reason: "from 1 to 3 replicas"},
	} {
		if got := e.String(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// read returns the Seqs that a reader gets, until it would have to wait or has
// got limit of them.
func read(l envelopekit.EventLog, after uint64, limit int) (seqs []uint64) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range l.All(ctx, after) {
			if seqs = append(seqs, e.Seq); len(seqs) == limit {
				return
			}
		}
	}()
	synctest.Wait()
	cancel()
	<-done
	return seqs
}

// FuzzEvents compares the log with a list of all events.
func FuzzEvents(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed, uint8(1+seed), uint8(100))
	}
	f.Fuzz(func(t *testing.T, seed uint64, size, steps uint8) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			kept := 1 + int(size%16)
			l := envelopekit.NewEventLog(kept)
			var all []uint64
			closed := false
			for range steps {
				switch rnd.IntN(8) {
				case 0, 1, 2, 3:
					l.Add(envelopekit.Event{})
					if !closed {
						all = append(all, uint64(len(all)+1))
					}
				case 4:
					if rnd.IntN(10) == 0 {
						l.Close()
						closed = true
					}
				default:
					after, limit := rnd.Uint64N(uint64(len(all)+3)), 1+rnd.IntN(20)
					want := slices.Clone(all[max(0, len(all)-kept):])
					want = slices.DeleteFunc(want, func(seq uint64) bool { return seq <= after })
					want = want[:min(limit, len(want))]
					if got := read(l, after, limit); !slices.Equal(got, want) {
						t.Fatalf("%d events, %d kept, after %d, at most %d: got %v, want %v", len(all), kept, after, limit, got, want)
					}
				}
			}
		})
	})
}

// Readers that wait get what comes, and end with the log or with their context.
func TestEventsBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		l := envelopekit.NewEventLog(4)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var got [3][]string
		var wg sync.WaitGroup
		for i, ctx := range []context.Context{t.Context(), ctx, t.Context()} {
			wg.Go(func() {
				for e := range l.All(ctx, 0) {
					got[i] = append(got[i], fmt.Sprintf("%d%s%v", e.Seq, e.Reason, e.Time.Sub(begin)))
					if i == 2 {
						time.Sleep(time.Hour) // it misses events
					}
				}
			})
		}
		synctest.Wait()
		for i := range 6 {
			time.Sleep(time.Second)
			l.Add(envelopekit.Event{Reason: string(rune('a' + i))})
			synctest.Wait()
			if i == 2 {
				cancel()
				synctest.Wait()
			}
		}
		l.Close()
		l.Close()
		l.Add(envelopekit.Event{Reason: "too late"})
		wg.Wait()
		want := []string{"1a1s", "2b2s", "3c3s", "4d4s", "5e5s", "6f6s"}
		for i, want := range [][]string{want, want[:3], {want[0], want[2], want[3], want[4], want[5]}} {
			if !slices.Equal(got[i], want) {
				t.Errorf("reader %d: got %q, want %q", i, got[i], want)
			}
		}
		// A reader that comes later gets what is kept, and the end.
		var late []uint64
		for e := range l.All(t.Context(), 4) {
			late = append(late, e.Seq)
		}
		if want := []uint64{5, 6}; !slices.Equal(late, want) {
			t.Errorf("after the end: got %v, want %v", late, want)
		}
	})
}

// A context that has ended ends a reader also while there are events to read.
func TestEventsContextEnds(t *testing.T) {
	l := envelopekit.NewEventLog(10)
	for range 10 {
		l.Add(envelopekit.Event{})
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	for range l.All(ctx, 0) {
		if n++; n == 3 {
			cancel()
		}
	}
	if n != 3 {
		t.Errorf("got %d events, 3 of them before the end of the context", n)
	}
}

func TestEventsConcurrency(t *testing.T) {
	l := envelopekit.NewEventLog(128)
	var readers, writers sync.WaitGroup
	for range 8 {
		readers.Go(func() {
			var last uint64
			for e := range l.All(t.Context(), 0) {
				if e.Seq <= last {
					t.Errorf("%d after %d", e.Seq, last)
				}
				last = e.Seq
			}
			if last != 4000 {
				t.Errorf("the last one was %d, want 4000", last)
			}
		})
	}
	for range 4 {
		writers.Go(func() {
			for range 1000 {
				l.Add(envelopekit.Event{})
			}
		})
	}
	writers.Wait()
	l.Close()
	readers.Wait()
}
