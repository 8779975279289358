// Package storetest checks that a store of rollouts keeps the promises of
// [rollout.Store]:
//
//	func TestConformance(t *testing.T) {
//		storetest.TestStore(t, storetest.Test{
//			New: func(t *testing.T) rollout.Store { return newStore(t) },
//		})
//	}
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/weaverkit/weaverkit/rollout"
)

// A Test says what [TestStore] tests.
type Test struct {
	// New returns a store that is empty.
	New func(t *testing.T) rollout.Store

	// Reopen returns a store that has what s has, as another process would see
	// it. It may close s. Nil skips the test of that.
	Reopen func(t *testing.T, s rollout.Store) rollout.Store
}

// TestStore checks a store.
func TestStore(t *testing.T, test Test) {
	t.Run("Empty", func(t *testing.T) {
		expect(t, test.New(t), "app", nil, 0)
	})
	t.Run("Versions", func(t *testing.T) { versions(t, test.New(t)) })
	t.Run("Conflict", func(t *testing.T) { conflict(t, test.New(t)) })
	t.Run("Apps", func(t *testing.T) { apps(t, test.New(t)) })
	t.Run("Copies", func(t *testing.T) { copies(t, test.New(t)) })
	t.Run("Large", func(t *testing.T) {
		s, value := test.New(t), bytes.Repeat([]byte{0, 1, 0xff}, 200_000)
		expect(t, s, "app", value, swap(t, s, "app", 0, value))
	})
	t.Run("Context", func(t *testing.T) { ended(t, test.New(t)) })
	t.Run("Race", func(t *testing.T) { race(t, test.New(t)) })
	if test.Reopen != nil {
		t.Run("Reopen", func(t *testing.T) {
			s := test.New(t)
			v := swap(t, s, "app", 0, []byte("kept"))
			s = test.Reopen(t, s)
			expect(t, s, "app", []byte("kept"), v)
			swap(t, s, "app", v, []byte("changed"))
		})
	}
}

func swap(t *testing.T, s rollout.Store, app string, expected uint64, value []byte) uint64 {
	t.Helper()
	v, err := s.CompareAndSwap(t.Context(), app, expected, value)
	if err != nil {
		t.Fatalf("CompareAndSwap(%q, %d): %v", app, expected, err)
	}
	if v <= expected {
		t.Fatalf("CompareAndSwap(%q, %d) returned version %d, which is not higher", app, expected, v)
	}
	return v
}

func expect(t *testing.T, s rollout.Store, app string, value []byte, version uint64) {
	t.Helper()
	got, v, err := s.Load(t.Context(), app)
	if err != nil {
		t.Fatalf("Load(%q): %v", app, err)
	}
	if !bytes.Equal(got, value) || v != version {
		t.Fatalf("Load(%q) returned %.40q, version %d; stored was %.40q, version %d", app, got, v, value, version)
	}
}

func versions(t *testing.T, s rollout.Store) {
	v := uint64(0)
	for i := range 20 {
		value := fmt.Appendf(nil, "value %d", i)
		v = swap(t, s, "app", v, value)
		expect(t, s, "app", value, v)
	}
}

func conflict(t *testing.T, s rollout.Store) {
	refused := func(expected uint64) {
		t.Helper()
		if _, err := s.CompareAndSwap(t.Context(), "app", expected, []byte("wrong")); !errors.Is(err, rollout.ErrConflict) {
			t.Fatalf("CompareAndSwap that expects version %d returned %v; it must wrap ErrConflict", expected, err)
		}
	}
	refused(1) // there is none
	expect(t, s, "app", nil, 0)
	first := swap(t, s, "app", 0, []byte("first"))
	second := swap(t, s, "app", first, []byte("second"))
	for _, expected := range []uint64{0, first, second + 1} {
		refused(expected)
	}
	expect(t, s, "app", []byte("second"), second)
}

func apps(t *testing.T, s rollout.Store) {
	a := swap(t, s, "a", 0, []byte("of a"))
	b := swap(t, s, "a/b", 0, []byte("of b"))
	b = swap(t, s, "a/b", b, []byte("of b, too"))
	expect(t, s, "a", []byte("of a"), a)
	expect(t, s, "a/b", []byte("of b, too"), b)
}

// copies checks that neither side can change what the other has.
func copies(t *testing.T, s rollout.Store) {
	value := []byte("value")
	v := swap(t, s, "app", 0, value)
	value[0] = 'X'
	got, _, err := s.Load(t.Context(), "app")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != "value" {
		t.Fatalf("the store holds %q: it keeps the caller's slice", got)
	}
	got[0] = 'Y'
	expect(t, s, "app", []byte("value"), v)
}

func ended(t *testing.T, s rollout.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.CompareAndSwap(ctx, "app", 0, []byte("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("CompareAndSwap with a context that has ended returned %v", err)
	}
	if _, _, err := s.Load(ctx, "app"); !errors.Is(err, context.Canceled) {
		t.Errorf("Load with a context that has ended returned %v", err)
	}
	expect(t, s, "app", nil, 0)
}

// race checks that of those who expect the same version exactly one wins.
func race(t *testing.T, s rollout.Store) {
	version := uint64(0)
	for range 20 {
		const rivals = 4
		var mu sync.Mutex
		var wg sync.WaitGroup
		var winners []uint64
		var winner []byte
		for i := range rivals {
			wg.Go(func() {
				value := fmt.Appendf(nil, "rival %d", i)
				v, err := s.CompareAndSwap(t.Context(), "app", version, value)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					winners, winner = append(winners, v), value
				case !errors.Is(err, rollout.ErrConflict):
					t.Errorf("a rival got %v; it must wrap ErrConflict", err)
				}
			})
		}
		wg.Wait()
		if len(winners) != 1 {
			t.Fatalf("%d of %d rivals won", len(winners), rivals)
		}
		expect(t, s, "app", winner, winners[0])
		version = winners[0]
	}
}
