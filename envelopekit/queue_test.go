package envelopekit_test

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weaverkit/weaverkit/envelopekit"
)

func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := envelopekit.NewQueue(3)
		for i := range 5 {
			q.Put(i) // never blocks: 3 and 4 are dropped
		}
		if got := q.Dropped(); got != 2 {
			t.Errorf("dropped %d, want 2", got)
		}
		done, ended := make(chan struct{}), make(chan struct{})
		var taken []int
		go func() {
			defer close(ended)
			q.Run(done, func(v int) { taken = append(taken, v) })
		}()
		synctest.Wait()
		q.Put(5)
		synctest.Wait()
		q.Put(6)
		close(done) // what is queued is still taken
		<-ended
		if want := []int{0, 1, 2, 5, 6}; !slices.Equal(taken, want) {
			t.Errorf("took %v, want %v", taken, want)
		}
	})
}

// A taker that is slow does not hold up the end for long.
func TestQueueEndIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := envelopekit.NewQueue(100)
		for i := range 100 {
			q.Put(i)
		}
		done := make(chan struct{})
		close(done)
		start, taken := time.Now(), 0
		q.Run(done, func(int) { taken++; time.Sleep(300 * time.Millisecond) })
		// Some may be taken before done is seen; that is a coin's toss each.
		if took := time.Since(start); took < envelopekit.FlushTime || taken == 100 {
			t.Errorf("took %d in %v", taken, took)
		}
	})
}

func TestQueueConcurrency(t *testing.T) {
	q := envelopekit.NewQueue(64)
	const writers, each = 8, 1000
	done, ended := make(chan struct{}), make(chan struct{})
	last, taken := map[int]int{}, 0
	go func() {
		defer close(ended)
		q.Run(done, func(v int) {
			if w, n := v/each, v%each+1; n <= last[w] {
				t.Errorf("writer %d: %d came after %d", w, n, last[w])
			} else {
				last[w] = n
			}
			taken++
		})
	}()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				q.Put(w*each + i)
			}
		})
	}
	wg.Wait()
	close(done)
	<-ended
	if got := uint64(taken) + q.Dropped(); got != writers*each {
		t.Errorf("took %d and dropped %d of %d", taken, q.Dropped(), writers*each)
	}
}
