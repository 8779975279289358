package rollout_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/rollout"
)

// A fake is a Deployer, and a Store, that do what they are told, at once, and
// write it down. A hook comes first, and may fail or hang.
type fake struct {
	rollout.MemoryStore
	began time.Time

	mu      sync.Mutex
	log     []string
	hook    func(ctx context.Context, call string) error
	ready   map[string]rollout.Readiness
	traffic func(version string) rollout.Traffic
	weights rollout.Weights
}

func newFake() *fake {
	return &fake{began: time.Now(), ready: map[string]rollout.Readiness{}}
}

func (f *fake) call(ctx context.Context, note bool, format string, args ...any) error {
	call := fmt.Sprintf(format, args...)
	f.mu.Lock()
	if note {
		f.log = append(f.log, fmt.Sprintf("%v %s", time.Since(f.began).Round(100*time.Millisecond), call))
	}
	hook := f.hook
	f.mu.Unlock()
	if hook != nil {
		return hook(ctx, call)
	}
	return nil
}

func (f *fake) Start(ctx context.Context, version string) error {
	return f.call(ctx, true, "start %s", version)
}

func (f *fake) Ready(ctx context.Context, version string) (rollout.Readiness, error) {
	if err := f.call(ctx, false, "ready %s", version); err != nil {
		return rollout.Readiness{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if r, ok := f.ready[version]; ok {
		return r, nil
	}
	return rollout.Readiness{Ready: true}, nil
}

func (f *fake) SetWeights(ctx context.Context, w rollout.Weights) error {
	_, shares, _ := strings.Cut(w.String(), ": ")
	if err := f.call(ctx, true, "%s", shares); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.weights = w
	return nil
}

func (f *fake) Stop(ctx context.Context, version string, drain time.Duration) error {
	return f.call(ctx, true, "stop %s, drain %v", version, drain)
}

func (f *fake) Stats(ctx context.Context) (map[string]rollout.Traffic, error) {
	if err := f.call(ctx, false, "stats"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	traffic := map[string]rollout.Traffic{}
	if f.traffic != nil {
		for _, v := range []string{"v1", "v2", "v3"} {
			traffic[v] = f.traffic(v)
		}
	}
	return traffic, nil
}

func (f *fake) Load(ctx context.Context, app string) ([]byte, uint64, error) {
	if err := f.call(ctx, false, "load"); err != nil {
		return nil, 0, err
	}
	return f.MemoryStore.Load(ctx, app)
}

func (f *fake) CompareAndSwap(ctx context.Context, app string, expected uint64, value []byte) (uint64, error) {
	if err := f.call(ctx, false, "store"); err != nil {
		return 0, err
	}
	return f.MemoryStore.CompareAndSwap(ctx, app, expected, value)
}

// set changes the fake.
func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// applied returns the newest weights.
func (f *fake) applied() rollout.Weights {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.weights
}

// failing lets calls that begin so fail, or hang if the error is nil.
func (f *fake) failing(err error, prefixes ...string) {
	release := make(chan struct{})
	time.AfterFunc(2*time.Hour, func() { close(release) })
	f.set(func() {
		f.hook = func(_ context.Context, call string) error {
			for _, p := range prefixes {
				if strings.HasPrefix(call, p) {
					if err == nil {
						<-release // whatever the context says
						return errors.New("released")
					}
					return err
				}
			}
			return nil
		}
	})
}

// since returns what was called, and forgets it.
func (f *fake) since() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	log := f.log
	f.log = nil
	return log
}

// A bench is a Runner that runs, on a fake, in a bubble.
type runnerBench struct {
	*rollout.Runner
	t    *testing.T
	f    *fake
	end  context.CancelFunc
	done chan error
}

// start returns a Runner that runs until the test, or somebody, ends it.
func start(t *testing.T, f *fake, opts rollout.Options) *runnerBench {
	opts.Store = f
	r, err := rollout.New(f, opts)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	b := &runnerBench{Runner: r, t: t, f: f, end: cancel, done: make(chan error, 1)}
	go func() { b.done <- r.Run(ctx) }()
	return b
}

func plan(version string, p rollout.Plan) rollout.Plan {
	p.Version, p.Listeners = version, []string{"api"}
	return p
}

// running returns a Runner with v1 rolled out.
func running(t *testing.T, opts rollout.Options) *runnerBench {
	b := start(t, newFake(), opts)
	b.submit("v1", rollout.AllAtOnce())
	b.wait(rollout.Succeeded)
	synctest.Wait()
	b.f.since()
	b.f.set(func() { b.f.began = time.Now() })
	return b
}

func (b *runnerBench) submit(version string, p rollout.Plan) {
	b.t.Helper()
	require.NoError(b.t, b.Submit(b.t.Context(), plan(version, p)))
}

// wait waits until the rollout has ended so.
func (b *runnerBench) wait(p rollout.Phase) rollout.State {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 12*time.Hour) // of the bubble: seconds
	defer cancel()
	s, err := b.Wait(ctx)
	require.NoError(b.t, err, "it does not end: %s", b.Why())
	require.Equal(b.t, p, s.Phase, s.Reason)
	return s
}

// stop ends the Runner.
func (b *runnerBench) stop() {
	b.t.Helper()
	b.end()
	require.NoError(b.t, b.ended())
}

// ended waits until Run has returned, and returns its error.
func (b *runnerBench) ended() error {
	b.t.Helper()
	select {
	case err := <-b.done:
		return err
	case <-time.After(time.Hour): // of the bubble
		b.end()
		require.FailNow(b.t, "Run does not return")
		return nil
	}
}
