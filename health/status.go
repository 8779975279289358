package health

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"time"
)

// A Status is where a target stands, and why.
type Status struct {
	ID    string
	Group string
	State State
	Since time.Time // the state was entered
	Why   string    // in words; never empty

	// Held means that the checks would have made the state worse, but that the
	// prober does not trust them: too many targets fail at once, or are out
	// already. Why says which.
	Held bool

	// Hung means that a check ignores its context and has not returned.
	Hung bool

	Failures  int           // checks in a row that failed, or found it not ready
	Checked   time.Time     // when the last check ended; zero if none has
	Took      time.Duration // how long the last check took
	Ejections int           // by traffic, of late; see [Outlier]
}

// A Change is a target's newest status after something in it changed: its
// state, or whether it is held. The changes that a slow reader has missed are
// not in it; Previous is the state before State, seen or not.
type Change struct {
	Previous State
	Status
}

// A Snapshot is what a prober knows at one moment. It shares nothing with it.
type Snapshot struct {
	Time    time.Time
	Targets []Status // sorted by ID

	Panic bool   // too many targets fail at once: no failure changes anything
	Doubt string // why the prober is not to be trusted now; empty if it is

	Lag     time.Duration // how late the prober itself was; the worst of late, halved every 5 s
	Running int           // checks that run, without those that hang
	Waiting int           // checks that are due and wait for others to end: see Options.Concurrency
	Hung    int           // checks that ignore their context and have not returned

	Checks   uint64 // that were started
	Doubtful uint64 // that counted for nothing, since the prober was held up
	Panics   uint64 // checks that panicked
}

// A view is what a status is made of, copied under the lock so that the words
// can be found outside.
type view struct {
	t       *target // its immutable fields only
	s       standing
	took    int32
	hung    bool
	ejected int
}

func (t *target) view() view {
	v := view{t: t, s: t.standing, took: t.took, hung: t.phase == hung}
	if t.traffic != nil {
		v.ejected = t.traffic.ejections
	}
	return v
}

func (p *Prober) status(v view) Status {
	policy := v.t.policy.Value()
	s := Status{
		ID:        v.t.id,
		Group:     v.t.group.name,
		State:     v.s.state,
		Since:     p.epoch.Add(v.s.since),
		Why:       policy.why(v.s),
		Held:      v.s.held != "",
		Hung:      v.hung,
		Failures:  int(v.s.failures),
		Took:      time.Duration(v.took) * time.Microsecond,
		Ejections: v.ejected,
	}
	if v.s.checked > 0 {
		s.Checked = p.epoch.Add(v.s.checked)
	}
	return s
}

// Status returns the status of one target; ok is false if there is none of
// that ID.
func (p *Prober) Status(id string) (s Status, ok bool) {
	p.mu.Lock()
	t := p.core.targets[id]
	if t == nil {
		p.mu.Unlock()
		return Status{}, false
	}
	v := t.view()
	p.mu.Unlock()
	return p.status(v), true
}

// Snapshot returns everything that is known now.
func (p *Prober) Snapshot() Snapshot {
	p.mu.Lock()
	now := p.now()
	c := p.core
	s := Snapshot{
		Time:     p.epoch.Add(now),
		Panic:    c.inPanic,
		Doubt:    c.doubts(now),
		Lag:      c.lag.lag(now).Round(time.Microsecond),
		Running:  c.active - c.stuck,
		Waiting:  c.waiting(),
		Hung:     c.parked + c.stuck,
		Checks:   c.checks,
		Doubtful: c.doubtful,
		Panics:   c.panics,
	}
	views := make([]view, 0, len(c.targets))
	for _, t := range c.targets {
		views = append(views, t.view())
	}
	p.mu.Unlock()

	slices.SortFunc(views, func(a, b view) int { return cmp.Compare(a.t.id, b.t.id) })
	s.Targets = make([]Status, len(views))
	for i, v := range views {
		s.Targets[i] = p.status(v)
	}
	return s
}

// Subscribe yields the status of every target, and from then on every target
// whose status changes, until ctx ends. A target that changes several times
// before the reader comes to it is yielded once, with its newest status: there
// is no queue to fill up, and whoever acts upon State is never behind. Targets
// are yielded in the order of their newest changes. Who removes a target knows
// of it; no change tells.
//
// Any number of readers may subscribe, before Run, during it and after it.
func (p *Prober) Subscribe(ctx context.Context) iter.Seq[Change] {
	return func(yield func(Change) bool) {
		p.mu.Lock()
		place := &target{}
		place.insertAfter(&p.core.changes)
		p.mu.Unlock()
		defer func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			place.unlink()
		}()
		for {
			v, more := p.nextChange(place)
			if v.t == nil {
				select {
				case <-more:
				case <-ctx.Done():
					return
				}
				continue
			}
			if ctx.Err() != nil || !yield(Change{v.s.previous, p.status(v)}) {
				return
			}
		}
	}
}

// nextChange returns what follows a reader's place in the list of changes, and
// moves the place past it. If nothing does, it returns a channel that is closed
// when something may.
func (p *Prober) nextChange(place *target) (view, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := &p.core.changes
	for t := place.newer; t != list; t = t.newer {
		if t.check == nil {
			continue // the place of another reader
		}
		place.unlink()
		place.insertAfter(t)
		return t.view(), nil
	}
	if p.more == nil {
		p.more = make(chan struct{})
	}
	return view{}, p.more
}
