package health

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

// Errors that callers may want to tell apart.
var (
	// ErrDuplicate is wrapped by what Add returns for an ID that is there
	// already.
	ErrDuplicate = errors.New("there is a target of that ID already")

	// ErrRan is returned by the second call of Run.
	ErrRan = errors.New("run prober: it has run already")
)

// A Prober checks targets. All methods may be called concurrently.
type Prober struct {
	epoch time.Time
	kick  chan struct{} // wakes Run up early

	mu      sync.Mutex // guards the following; held for short computations only
	core    *core
	ctx     context.Context // of the checks; set by Run
	idlers  int             // workers that have no target
	version uint64          // of the list of changes, as last announced
	more    chan struct{}   // closed when there is a change; nil if nobody waits
}

// New returns a prober. Nothing is checked before [Prober.Run]. An error names the
// field of opts that is wrong.
func New(opts Options) (*Prober, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("new prober: %w", err)
	}
	return &Prober{epoch: time.Now(), kick: make(chan struct{}, 1), core: newCore(opts, rand.Uint64())}, nil
}

func (p *Prober) now() instant { return time.Since(p.epoch) }

// Add begins to watch a target. The error names the target, and the field that is
// wrong, or wraps [ErrDuplicate].
func (p *Prober) Add(t Target) error {
	p.mu.Lock()
	err := p.core.add(t, p.now())
	p.unlock()
	return err
}

// Remove ceases to watch a target, and cancels its check if one runs, without
// waiting for it. It reports whether there was such a target.
func (p *Prober) Remove(id string) bool {
	p.mu.Lock()
	defer p.unlock()
	return p.core.remove(id, p.now())
}

// unlock releases mu, and then wakes those for whom there is something.
func (p *Prober) unlock() {
	var more chan struct{}
	if p.version != p.core.version {
		p.version = p.core.version
		more, p.more = p.more, nil
	}
	kick := p.core.early() || p.ctx != nil && p.ctx.Err() != nil
	p.mu.Unlock()
	if more != nil {
		close(more)
	}
	if kick {
		select {
		case p.kick <- struct{}{}:
		default:
		}
	}
}

// Run checks the targets until ctx ends; it can be called once. It cancels the
// checks that run then and returns when they have ended: nil, or, if checks
// ignore that for longer than their timeout, an error that names their targets.
func (p *Prober) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.mu.Lock()
	if p.ctx != nil {
		p.mu.Unlock()
		return ErrRan
	}
	p.ctx = ctx
	p.mu.Unlock()

	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return p.drain()
		case <-timer.C:
		case <-p.kick:
		}
		if wait, ok := p.step(); ok {
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
	}
}

// step does what is due, and returns how long nothing is; ok is false if
// nothing will be.
func (p *Prober) step() (wait time.Duration, ok bool) {
	p.mu.Lock()
	defer p.unlock()
	now := p.now()
	c := p.core
	c.wake(now)
	n := max(0, c.startable()-p.idlers)
	p.idlers += n
	for range n {
		go p.work() // drain waits for it
	}
	return c.plan(now)
}

// drain cancels the checks that run, and waits for them as long as they may take.
func (p *Prober) drain() error {
	p.mu.Lock()
	limit := p.now() + grace
	for _, t := range p.core.targets {
		if t.phase == running {
			limit = max(limit, p.core.deadline(t)+grace)
		}
		t.end(p.ctx.Err())
	}
	p.mu.Unlock()
	timeout := time.NewTimer(limit - p.now())
	defer timeout.Stop()
	for late := false; ; {
		p.mu.Lock()
		left := p.core.active + p.core.parked
		busy := left + p.idlers
		ids := p.core.runningIDs()
		p.mu.Unlock()
		switch {
		case busy == 0:
			return nil
		case late:
			return fmt.Errorf("stop prober: %d checks ignore their context and still run: %s", left, strings.Join(ids, ", "))
		}
		select {
		case <-p.kick:
		case <-timeout.C:
			late = true
		}
	}
}

// work runs checks until there are none to run.
func (p *Prober) work() {
	var t *target // whose check runs
	defer func() {
		if t == nil {
			return
		}
		p.mu.Lock()
		if p.core.finish(t, failed, "its check ended its goroutine", p.now()) {
			p.idlers++
			go p.work() // in place of this one
		}
		p.unlock()
	}()
	p.mu.Lock()
	for {
		p.idlers--
		if p.ctx.Err() != nil {
			p.unlock()
			return
		}
		now := p.now()
		t = p.core.start(now)
		if t == nil {
			p.unlock()
			return
		}
		ctx := newCheckContext(p.ctx, p.epoch.Add(p.core.deadline(t)))
		t.ctx = ctx
		p.unlock()

		v, reason := p.run(ctx, t)

		p.mu.Lock()
		if p.ctx.Err() != nil {
			v = doubtful
		}
		kept := p.core.finish(t, v, reason, p.now())
		t = nil
		if !kept {
			p.unlock()
			return // another has taken its slot
		}
		p.idlers++
	}
}

// run calls the check, and judges what it returns. It does not return if the
// check calls runtime.Goexit.
func (p *Prober) run(ctx *checkContext, t *target) (v verdict, reason string) {
	defer ctx.end(context.Canceled)
	defer func() {
		if r := recover(); r != nil {
			v, reason = failed, clip(fmt.Sprintf("its check panicked: %v", r))
			p.mu.Lock()
			p.core.panics++
			p.mu.Unlock()
		}
	}()
	result, err := t.check(ctx)
	switch {
	case err != nil:
		return failed, clip(err.Error())
	case result.NotReady:
		return unready, clip(result.Reason)
	}
	return passed, ""
}

// clip keeps a target small, whatever its check has to say.
func clip(s string) string {
	const limit = 256
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + " ..."
	}
	return s
}
