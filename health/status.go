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

// A Snapshot is what a prober knows. It shares nothing with it. Its figures are
// those of one moment, Time; of many targets, some are as they were a little later,
// so that the prober need not stop meanwhile.
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
	n       int     // which of many this is
	s       standing
	took    int32
	hung    bool
	ejected int
}

// newest sorts views by ID. Between two chunks a target may have been removed, and one
// of its ID added: that came later, and counts.
func newest(views []view) []view {
	slices.SortFunc(views, func(a, b view) int { return cmp.Or(cmp.Compare(a.t.id, b.t.id), cmp.Compare(b.n, a.n)) })
	return slices.CompactFunc(views, func(a, b view) bool { return a.t.id == b.t.id })
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
	if p.ctx != nil && p.ctx.Err() != nil {
		s.Doubt = "the prober has ended: nothing is checked any more"
	}
	views := make([]view, 0, len(c.targets))
	for _, t := range c.targets {
		v := t.view()
		v.n = len(views)
		if views = append(views, v); len(views)%chunk == 0 {
			p.mu.Unlock()
			p.mu.Lock() // whoever waits for it comes first: it is fair to those who wait for 1 ms
		}
	}
	p.mu.Unlock()

	views = newest(views)
	s.Targets = make([]Status, len(views))
	for i, v := range views {
		s.Targets[i] = p.status(v)
	}
	return s
}

// Subscribe yields the status of every target, and from then on every target
// whose status changes, until ctx ends. A target that changes several times
// before the reader comes to it is yielded once, with its newest status: there
// is no queue to fill up, and whoever acts upon State is never behind. All targets
// that have changed are yielded, in the order of their newest changes, before any
// of them is yielded again: one that changes all the time keeps a slow reader from
// none, and is itself not passed over. Who removes a target knows of it; no change
// tells.
//
// Any number of readers may subscribe, before Run, during it and after it.
func (p *Prober) Subscribe(ctx context.Context) iter.Seq[Change] {
	return func(yield func(Change) bool) {
		p.mu.Lock()
		r := reader{place: &target{}}
		r.place.insertAfter(&p.core.changes)
		p.mu.Unlock()
		defer func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			r.place.unlink()
		}()
		for {
			more := p.pending(&r)
			if len(r.batch) == 0 {
				select {
				case <-more:
				case <-ctx.Done():
					return
				}
			}
			for _, t := range r.batch {
				v, ok := p.tell(&r, t)
				if !ok {
					continue
				}
				if ctx.Err() != nil || !yield(Change{v.s.previous, p.status(v)}) {
					return
				}
			}
		}
	}
}

// A reader is a subscriber.
type reader struct {
	place *target   // in the list of changes: it was told what is older
	batch []*target // that it is being told
	bound uint64    // the version of the list when the batch was made

	// Those of the batch that changed after it was made, and so are in the list
	// still, and the version that was told.
	told map[*target]uint64
}

// pending makes a batch of what follows a reader's place in the list of changes,
// and moves the place past it. If nothing does, it returns a channel that is closed
// when something may.
func (p *Prober) pending(r *reader) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(r.batch)
	r.batch, r.bound = r.batch[:0], p.core.version
	told := r.told
	r.told = nil
	list := &p.core.changes
	for n := 1; ; n++ {
		t := r.place.newer
		if t == list || t.version > r.bound {
			break
		}
		r.place.unlink()
		r.place.insertAfter(t)
		if t.check != nil && told[t] != t.version { // it is not the place of another reader
			r.batch = append(r.batch, t)
		}
		if n%chunk == 0 {
			p.mu.Unlock()
			p.mu.Lock()
		}
	}
	if len(r.batch) == 0 && p.more == nil {
		p.more = make(chan struct{})
	}
	return p.more
}

// tell returns a target of a reader's batch as it is now; ok is false if it was
// removed.
func (p *Prober) tell(r *reader, t *target) (v view, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.removed {
		return view{}, false
	}
	if t.version > r.bound {
		if r.told == nil {
			r.told = map[*target]uint64{}
		}
		r.told[t] = t.version
	}
	return t.view(), true
}
