package rollout_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/rollout"
)

// A slowStore lets nothing be stored before it is open.
type slowStore struct {
	rollout.Store
	open chan struct{}
}

func (s slowStore) CompareAndSwap(ctx context.Context, app string, expected uint64, value []byte) (uint64, error) {
	select {
	case <-s.open:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return s.Store.CompareAndSwap(ctx, app, expected, value)
}

// A rival is a Runner of its own on the fake of another, with what it starts and
// stops.
type rival struct {
	*fake
	mu    sync.Mutex
	calls []string
}

func (r *rival) note(call string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, call)
}

func (r *rival) since() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := r.calls
	r.calls = nil
	return calls
}

func (r *rival) Start(ctx context.Context, version string) error {
	r.note("start " + version)
	return r.fake.Start(ctx, version)
}

func (r *rival) Stop(ctx context.Context, version string, drain time.Duration) error {
	r.note("stop " + version)
	return r.fake.Stop(ctx, version, drain)
}

// run runs a Runner on the fake until the test ends.
func (r *rival) run(t *testing.T, opts rollout.Options) *runnerBench {
	if opts.Store == nil {
		opts.Store = r.fake
	}
	runner, err := rollout.New(r, opts)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	b := &runnerBench{Runner: runner, t: t, f: r.fake, end: cancel, done: make(chan error, 1)}
	go func() { b.done <- runner.Run(ctx) }()
	return b
}

// A Runner that finds a rollout on its way back does nothing before its take-over
// is recorded: until then the weights are those of the Runner before it. If that
// one stores something in the meantime, the take-over is done again.
func TestTakeOverIsRecordedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := running(t, rollout.Options{})
		a.submit("v2", rollout.Canary(rollout.SetWeight(50), rollout.Bake(time.Hour)))
		time.Sleep(10 * time.Second)
		a.f.failing(errors.New("busy"), "stop v2")
		require.NoError(t, a.Abort(t.Context(), ""))
		time.Sleep(time.Second)
		require.Equal(t, rollout.RollingBack, a.Status().State.Phase)
		revision := a.f.applied().Revision

		store := slowStore{a.f, make(chan struct{})}
		b := (&rival{fake: a.f}).run(t, rollout.Options{Store: store, AskTimeout: time.Minute})
		synctest.Wait()
		assert.Equal(t, revision, a.f.applied().Revision, "weights of a Runner that has not taken over")
		a.submit("v3", rollout.AllAtOnce()) // it comes after v2
		close(store.open)
		synctest.Wait()
		assert.Equal(t, "v3", b.Status().State.Next.Version)
		a.f.set(func() { a.f.hook = nil })
		state := b.wait(rollout.Succeeded)
		assert.Equal(t, "v3", state.Stable.ID)
		assert.Equal(t, state.Epoch, a.f.applied().Revision>>32)
		require.ErrorIs(t, a.ended(), rollout.ErrTakenOver)
		b.stop()
	})
}

// A lateStore has a first call to Load that ignores its context, and hangs until it
// is released.
type lateStore struct {
	rollout.Store
	called  atomic.Bool
	release chan struct{}
}

func (l *lateStore) Load(ctx context.Context, app string) ([]byte, uint64, error) {
	if !l.called.Swap(true) {
		<-l.release
	}
	return l.Store.Load(context.WithoutCancel(ctx), app)
}

func (l *lateStore) CompareAndSwap(ctx context.Context, app string, expected uint64, value []byte) (uint64, error) {
	return l.Store.CompareAndSwap(context.WithoutCancel(ctx), app, expected, value)
}

// A call to the store that was left behind takes nothing over any more.
func TestLateTakeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		store := &lateStore{Store: f, release: make(chan struct{})}
		a := (&rival{fake: f}).run(t, rollout.Options{Store: store})
		time.Sleep(10 * time.Second) // its second one is answered
		b := start(t, f, rollout.Options{})
		b.submit("v1", rollout.AllAtOnce())
		owner := b.wait(rollout.Succeeded).Owner
		time.Sleep(time.Minute)
		close(store.release)
		time.Sleep(time.Minute)
		value, _, err := f.Load(t.Context(), "app")
		require.NoError(t, err)
		assert.Contains(t, string(value), owner)
		require.ErrorIs(t, a.ended(), rollout.ErrTakenOver)
		b.stop()
	})
}

// A Runner with nothing to do learns that another has taken over.
func TestTakenOverWhileIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := running(t, rollout.Options{})
		time.Sleep(time.Hour)
		b := start(t, a.f, rollout.Options{})
		time.Sleep(12 * time.Second)
		select {
		case err := <-a.done:
			require.ErrorIs(t, err, rollout.ErrTakenOver)
		default:
			t.Error("it has not learned it")
		}
		b.stop()
	})
}

// A Runner that was taken over stops no version any more that its successor may
// have given traffic, and starts none.
func TestStopsAreFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := &rival{fake: newFake()}
		a := old.run(t, rollout.Options{})
		a.submit("v1", rollout.AllAtOnce())
		a.wait(rollout.Succeeded)
		a.submit("v2", rollout.Canary(rollout.SetWeight(50), rollout.Bake(time.Hour)))
		time.Sleep(10 * time.Second)
		a.f.failing(errors.New("busy"), "stop v2")
		require.NoError(t, a.Abort(t.Context(), ""))
		time.Sleep(40 * time.Second) // between a failure and the next try
		require.NotEmpty(t, old.since())

		a.f.set(func() { a.f.hook = nil })
		b := (&rival{fake: a.f}).run(t, rollout.Options{})
		time.Sleep(2 * time.Second)
		require.NoError(t, b.Retry(t.Context()))
		time.Sleep(2 * time.Minute)
		assert.Equal(t, 5000, a.f.applied().Most("v2"))
		assert.Empty(t, old.since())
		require.ErrorIs(t, a.ended(), rollout.ErrTakenOver)
		b.stop()
	})
}

// While the store cannot say whose the application is nothing is started or
// stopped, and Why says so.
func TestNothingIsStoppedUnconfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, rollout.Options{})
		b.submit("v2", rollout.Canary(rollout.SetWeight(50), rollout.Bake(time.Hour)))
		time.Sleep(10 * time.Second)
		b.f.failing(errors.New("busy"), "stop v2")
		require.NoError(t, b.Abort(t.Context(), ""))
		time.Sleep(9 * time.Second) // it is recorded that it was tried four times
		b.f.failing(errors.New("gone"), "load", "store")
		b.f.since()
		time.Sleep(time.Minute)
		assert.Empty(t, slices.DeleteFunc(b.f.since(), func(c string) bool { return cut(c) == "v1 100 % at api" }))
		assert.Contains(t, b.Why(), "gone")
		b.f.set(func() { b.f.hook = nil })
		b.wait(rollout.RolledBack)
		b.stop()
	})
}

// Whoever starts a process can tell that nothing was ever submitted.
func TestNothingWasSubmitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newFake(), rollout.Options{})
		state, err := b.State(t.Context())
		require.NoError(t, err)
		assert.Nil(t, state.Plan)
		assert.Equal(t, rollout.Idle, state.Phase)
		b.stop()
	})
}
