package health

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"
	"unique"
)

// A phase is what the prober does with a target.
type phase uint8

const (
	idle    phase = iota // in the heap: its next check
	waiting              // in the queue: it is due, and waits for a slot
	running              // in the heap: the deadline of its check
	overdue              // in the heap: the end of the grace after the deadline
	hung                 // in the heap: the deadline of the check that would run now
)

// A target is one that is watched. There may be 100,000: mind the size.
type target struct {
	id     string
	group  *group
	check  CheckFunc // nil marks the place of a subscriber in the list of changes
	policy unique.Handle[Policy]

	older, newer *target // the list of changes
	version      uint64  // of the list, when it was put there

	due     instant // of the next check, or of this one while it waits
	started instant // the check that runs, or the last one
	lost    instant // lagMeter.lostBy then
	ctx     *checkContext

	traffic *traffic // nil until Observe

	pos     int32 // in the heap; -1 if not in it
	took    int32 // the last check, in microseconds
	phase   phase
	parked  bool // it hangs, and its slot was given to another
	removed bool
	again   bool // it has been checked before
	placed  bool // its checks have a place in the period that was chosen by spread
	suspect bool // it has a slot as one whose last check failed

	standing
}

// A group is targets that stand in for each other.
type group struct {
	name string
	refs int // targets
	tally
	observed []*target // those with traffic
}

// A core is the prober without clock, locks and goroutines: it is told the time
// and what happens, and says what to do.
type core struct {
	opts    Options
	targets map[string]*target
	removed map[*target]bool // those whose checks have not returned
	groups  map[string]*group
	heap    heap
	queue   queue // targets that are due
	suspect queue // those that are due and whose last check failed
	changes target
	lag     lagMeter
	short   fading  // how late checks start for want of slots
	sleep   instant // wake is not called before, unless early says so
	begun   bool    // wake has been called
	tally
	fresh int // targets that were never checked

	active   int // slots in use
	suspects int // those among them of targets whose last check failed
	parked   int // checks that hang besides them
	stuck    int // checks that hang in a slot

	inPanic bool
	calm    instant // when the last panic ended
	rng     *rand.Rand
	phases  float64 // in [0,1): spreads targets over their periods
	sweep   instant // the next search for outliers; 0 if there is no traffic

	launched func(late instant) // for measurements; may be nil

	checks, doubtful, panics uint64
	version                  uint64 // of the list of changes
}

func newCore(opts Options, seed uint64) *core {
	rng := rand.New(rand.NewPCG(seed, 0))
	c := &core{
		opts:    opts,
		targets: map[string]*target{},
		removed: map[*target]bool{},
		groups:  map[string]*group{},
		rng:     rng,
		phases:  rng.Float64(),
	}
	c.changes.older, c.changes.newer = &c.changes, &c.changes
	return c
}

// spread returns a number in [0,1). Any number of them in a row lie evenly, as
// multiples of the golden ratio do.
func (c *core) spread() float64 {
	_, c.phases = math.Modf(c.phases + math.Phi - 1)
	return c.phases
}

func (c *core) add(t Target, now instant) error {
	if t.Policy == (Policy{}) {
		t.Policy = DefaultPolicy()
	}
	switch {
	case t.ID == "":
		return fmt.Errorf("add target: ID is empty")
	case t.Check == nil:
		return fmt.Errorf("add target %q: Check is nil", t.ID)
	case c.targets[t.ID] != nil:
		return fmt.Errorf("add target %q: %w", t.ID, ErrDuplicate)
	}
	if err := t.Policy.validate(); err != nil {
		return fmt.Errorf("add target %q: %w", t.ID, err)
	}
	g := c.groups[t.Group]
	if g == nil {
		g = &group{name: t.Group}
		c.groups[t.Group] = g
	}
	g.refs++
	n := &target{id: t.ID, group: g, check: t.Check, policy: unique.Make(t.Policy), pos: -1}
	n.since = now
	c.targets[t.ID] = n
	c.fresh++
	c.place(n, c.fresh-1, now+t.Policy.InitialDelay)
	c.heap.set(n, n.due)
	c.changed(n)
	return nil
}

// place finds the time of a check that is to be made soon after a time, though
// before others are: no herd at once, but a thousand a second, and if there are
// more, all over the period, where each keeps the place that it has in it.
func (c *core) place(t *target, before int, after instant) {
	period := t.policy.Value().Period
	wait := time.Duration(before) * time.Millisecond
	switch {
	case wait < period:
		t.due, t.placed = after+wait, false
	case t.placed:
		t.due += (after - t.due + period) / period * period
	default:
		t.due, t.placed = after+scale(period, c.spread()), true
	}
}

// remove forgets a target, and tells whether there was one. Its check is
// cancelled; if it ignores that, the target stays in the heap until its slot has been
// given to another.
func (c *core) remove(id string, now instant) bool {
	t := c.targets[id]
	if t == nil {
		return false
	}
	t.end(context.Canceled)
	delete(c.targets, id)
	t.removed = true
	if t.phase >= running {
		c.removed[t] = true
	}
	switch {
	case t.phase == running || t.phase == overdue:
		t.phase = overdue
		c.heap.set(t, now+grace)
	case t.phase != hung || t.parked:
		c.heap.remove(t)
	}
	t.unlink()
	c.tally.add(&t.standing, -1)
	t.group.add(&t.standing, -1)
	if !t.again {
		c.fresh--
	}
	c.reassess(now)
	t.group.forget(t)
	if t.group.refs--; t.group.refs == 0 {
		delete(c.groups, t.group.name)
	}
	return true
}

// wake looks at everything that is due.
func (c *core) wake(now instant) {
	c.lag.wake(now)
	herd := 0
	for {
		due, ok := c.heap.first()
		if !ok || due > now {
			break
		}
		t := c.heap.entries[0].t
		switch t.phase {
		case idle:
			// Before Run, or while the prober was away for long, many may have
			// become due.
			if late := now - due; late >= stall && (late >= t.policy.Value().Period || !c.begun) {
				c.place(t, herd, now)
				herd++
				c.heap.set(t, t.due)
				continue
			}
			c.heap.remove(t)
			t.phase = waiting
			if t.failing {
				c.suspect.push(t)
			} else {
				c.queue.push(t)
			}
		case running:
			c.timeout(t, due, now)
			t.end(context.DeadlineExceeded)
			t.phase = overdue
			c.heap.set(t, now+grace)
		case overdue:
			t.phase = hung
			c.stuck++
			if c.park(t); t.pos >= 0 {
				c.missed(t, due-grace)
			}
		case hung:
			c.park(t)
			if t.removed {
				if t.pos >= 0 {
					c.missed(t, now)
				}
				break
			}
			c.hanging(t, due, now)
			if now-due >= t.policy.Value().Period {
				due = now // those that were missed are not made up for
			}
			c.advance(t, due-t.policy.Value().Timeout)
			c.missed(t, due)
		}
	}
	c.begun = true
	if c.sweep > 0 && now >= c.sweep {
		c.sweepOutliers(now)
	}
}

// park gives the slot of a check that hangs to another.
func (c *core) park(t *target) {
	if !t.parked && c.parked < c.opts.MaxHung {
		t.parked = true
		c.release(t)
		c.stuck--
		c.parked++
	}
	if t.removed && t.parked {
		c.heap.remove(t)
	}
}

// hanging notes that a hanging check still hangs, when the one that it keeps
// from being started would have ended at due.
func (c *core) hanging(t *target, due, now instant) {
	if late := now - due; late >= stall && late > t.policy.Value().Timeout/4 && c.forgiving(t) {
		c.doubtful++
		c.record(t, doubtful, heldUp(late), now, now)
		return
	}
	c.record(t, failed, fmt.Sprintf("its check ignores its context and has been hanging for %v",
		(now-t.started).Round(time.Second)), now, now)
}

// missed schedules a hanging target for when the next check, which cannot be
// started, would time out. The last one did at the given time.
func (c *core) missed(t *target, last instant) {
	c.heap.set(t, max(last, t.due)+t.policy.Value().Timeout)
}

// advance moves due to the time of the next check. Checks that were missed are
// not made up for.
func (c *core) advance(t *target, now instant) {
	period := t.policy.Value().Period
	// A prober that is late checks sooner by as much, so that targets are found
	// out in time all the same.
	interval := scale(period, 0.92+0.06*c.rng.Float64()) - min(c.lag.lag(now), period/4)
	if !t.again {
		t.again = true
		c.fresh--
	}
	if !t.placed {
		t.placed = true
		interval = max(1, scale(interval, 1-c.spread()))
	}
	t.due += interval
	if behind := now - t.due; behind >= 0 {
		t.due += interval * (behind/interval + 1)
	}
}

// mostSuspects returns how many slots targets may have whose last check failed,
// and which are likely to keep them until the timeout: the rest, an eighth, keeps
// them from delaying those that are well.
func (c *core) mostSuspects() int { return max(1, c.opts.Concurrency-(c.opts.Concurrency+7)/8) }

// waiting returns how many targets are due and have no slot.
func (c *core) waiting() int { return c.queue.size + c.suspect.size }

// startable returns how many of them could have one.
func (c *core) startable() int {
	return min(c.queue.size+min(c.suspect.size, c.mostSuspects()-c.suspects), c.opts.Concurrency-c.active)
}

// start takes the target that has been due for longest, if there is a slot for
// its check. It returns nil if there is nothing to do.
func (c *core) start(now instant) *target {
	if c.active >= c.opts.Concurrency {
		return nil
	}
	from, t := &c.queue, c.queue.head()
	if c.suspects < c.mostSuspects() {
		if s := c.suspect.head(); s != nil && (t == nil || s.due < t.due) {
			from, t = &c.suspect, s
			s.suspect = true
			c.suspects++
		}
	}
	if t != nil {
		from.pop()
		c.launch(t, now)
	}
	return t
}

// release gives a slot back.
func (c *core) release(t *target) {
	c.active--
	if t.suspect {
		t.suspect = false
		c.suspects--
	}
}

func (c *core) launch(t *target, now instant) {
	c.active++
	c.checks++
	t.phase = running
	late := now - t.due
	if c.launched != nil {
		c.launched(late)
	}
	if c.active == c.opts.Concurrency || t.suspect && c.suspects == c.mostSuspects() {
		c.short.note(late-c.lag.lag(now), now) // less what it waited for the prober
	}
	t.started, t.lost = now, c.lag.lostBy(now)
	c.advance(t, now)
	timeout := t.policy.Value().Timeout
	deadline := now + timeout
	if more := c.lag.stretch(timeout, now); more > 0 {
		deadline += more
	} else if timeout > t.policy.Value().Period/10*9 && late < 2*stall {
		// The next check has to wait for this one, so that lateness would add up.
		deadline -= min(late, timeout/10)
	}
	c.heap.set(t, deadline)
}

// deadline returns when the check of a target that was started must have
// ended.
func (c *core) deadline(t *target) instant { return c.heap.entries[t.pos].due }

// finish notes the end of a check. It tells whether the check still had its
// slot.
func (c *core) finish(t *target, v verdict, reason string, now instant) bool {
	kept := !t.parked
	was := t.phase
	if kept {
		c.release(t)
		if was == hung {
			c.stuck--
		}
	} else {
		c.parked--
	}
	t.phase, t.parked, t.ctx = idle, false, nil
	if t.removed {
		delete(c.removed, t)
		c.heap.remove(t)
		return kept
	}
	t.took = int32(min((now - t.started).Microseconds(), math.MaxInt32))
	switch {
	case was != running: // its failure has been noted
	case v == doubtful: // it was ended by the end of the prober
	case v == failed && now >= c.deadline(t):
		c.timeout(t, c.deadline(t), now)
	case v == failed && c.forgiving(t) && c.lag.settling(t.policy.Value().Timeout, t.started):
		c.doubt(t, heldUp(c.lag.length), now)
	default:
		c.record(t, v, reason, t.started, now)
	}
	c.heap.set(t, t.due)
	return kept
}

// forgiving reports whether a check that tells nothing may count for nothing. It is so
// a few times only, for a prober that is held up again and again must find out, too;
// unless most targets are like that.
func (c *core) forgiving(t *target) bool {
	p := t.policy.Value()
	return t.doubts < p.mostDoubts() || c.opts.panicking(&c.tally, c.failing+c.doubted)
}

// timeout notes that a check has not ended by its deadline.
func (c *core) timeout(t *target, deadline, now instant) {
	t.due = max(t.due, deadline) // the next one could not start before
	timeout := t.policy.Value().Timeout
	if reason, ok := c.lag.excuse(timeout, t.started, t.lost, now); ok && c.forgiving(t) {
		c.doubt(t, reason, now)
		return
	}
	c.record(t, failed, fmt.Sprintf("no answer within %v", (deadline-t.started).Round(time.Millisecond)), t.started, now)
}

// doubt notes that a check told nothing, and has it repeated soon: the prober
// is back.
func (c *core) doubt(t *target, reason string, now instant) {
	c.doubtful++
	c.record(t, doubtful, reason, t.started, now)
	if again := now + grace; again < t.due {
		t.due, t.placed = again, false
	}
}

// record feeds the state machine, and counts.
func (c *core) record(t *target, v verdict, reason string, started, now instant) {
	o := observation{verdict: v, reason: reason}
	policy := t.policy.Value()
	if v == failed { // what a target says itself is not doubted
		o.hold, o.void = c.hold(t, policy, started)
	}
	c.apply(t, policy, o, now)
}

func (c *core) apply(t *target, policy Policy, o observation, now instant) {
	before := t.standing
	c.tally.add(&before, -1)
	t.group.add(&before, -1)
	t.standing = policy.next(before, o, now)
	if t.state == Ready && before.state != Ready && t.traffic != nil {
		t.traffic.failures, t.traffic.gateway, t.traffic.sample = 0, 0, sample{} // it gets another chance
	}
	c.tally.add(&t.standing, +1)
	t.group.add(&t.standing, +1)
	if t.state != before.state || (t.held == "") != (before.held == "") {
		c.changed(t)
	}
	c.reassess(now)
}

// reassess begins and ends panic mode.
func (c *core) reassess(now instant) {
	was := c.inPanic
	c.inPanic = c.opts.panicking(&c.tally, c.failing)
	if was && !c.inPanic {
		c.calm = now
	}
}

// hold returns why a target whose check has failed may not change for the worse
// now, if it may not, and whether that is since the failure is no evidence.
func (c *core) hold(t *target, policy Policy, started instant) (reason string, void bool) {
	failing := c.failing
	if (t.state == Ready || t.state == NotReady) && !t.settled && !t.failing {
		failing++
	}
	switch g := t.group; {
	case c.opts.panicking(&c.tally, failing):
		return c.opts.panicText(c.known-c.settled, failing), true
	case started < c.calm:
		return "cannot tell: the check began while too many targets failed at once", true
	case t.state == Ready && int(t.failures)+1 >= min(policy.FailureThreshold, orMax(policy.LivenessThreshold)) &&
		full(g.out, g.size, c.opts.MaxUnready):
		return fmt.Sprintf("it stays: %d of %d of its group are out already, and %.3g %% may be", g.out, g.size, 100*c.opts.MaxUnready), false
	}
	return "", false
}

// changed moves a target to the new end of the list of changes.
func (c *core) changed(t *target) {
	c.version++
	t.version = c.version
	t.unlink()
	t.insertAfter(c.changes.older)
}

// plan returns how long wake need not be called; ok is false if there is nothing
// to wake up for. The checks that wake has made due may start before or after it.
func (c *core) plan(now instant) (wait time.Duration, ok bool) {
	at, ok := c.next()
	if (c.active > c.stuck || c.waiting() > 0) && (!ok || at > now+pulse) {
		at, ok = now+pulse, true
	}
	if !ok {
		c.sleep = math.MaxInt64
		return 0, false
	}
	c.sleep = at
	c.lag.planned = max(at, now+rest)
	return c.lag.planned - now, true
}

// early tells, once, whether wake is to be called sooner than was planned.
func (c *core) early() bool {
	at, ok := c.next()
	if !ok || at >= c.sleep {
		return false
	}
	c.sleep = 0
	return true
}

// next returns when the next thing is due.
func (c *core) next() (at instant, ok bool) {
	at, ok = c.heap.first()
	if c.sweep > 0 && (!ok || at > c.sweep) {
		return c.sweep, true
	}
	return at, ok
}

// doubts says why the prober is not to be trusted now, if so.
func (c *core) doubts(now instant) string {
	switch lag := c.lag.lag(now); {
	case c.inPanic:
		return c.opts.panicText(c.known-c.settled, c.failing)
	case c.stuck >= c.opts.Concurrency:
		return fmt.Sprintf("cannot tell: all %d slots hang in checks that ignore their context", c.opts.Concurrency)
	case lag >= stall:
		return fmt.Sprintf("the prober itself was held up for %v of late", lag.Round(time.Millisecond))
	}
	if late := c.short.at(now); late >= stall {
		return fmt.Sprintf("checks start up to %v late for want of slots: raise Options.Concurrency, which is %d",
			late.Round(time.Millisecond), c.opts.Concurrency)
	}
	return ""
}

// runningIDs returns the targets whose checks have not returned, sorted.
func (c *core) runningIDs() []string {
	var ids []string
	for id, t := range c.targets {
		if t.phase >= running {
			ids = append(ids, id)
		}
	}
	for t := range c.removed {
		ids = append(ids, t.id+" (removed)")
	}
	slices.Sort(ids)
	return ids
}

// end ends the context of the check that runs, if one does.
func (t *target) end(err error) {
	if t.ctx != nil {
		t.ctx.end(err)
	}
}

func (t *target) unlink() {
	if t.older != nil {
		t.older.newer, t.newer.older = t.newer, t.older
		t.older, t.newer = nil, nil
	}
}

func (t *target) insertAfter(at *target) {
	t.older, t.newer = at, at.newer
	at.newer.older, at.newer = t, t
}

func scale(d time.Duration, f float64) time.Duration { return time.Duration(float64(d) * f) }

func orMax(n int) int {
	if n == 0 {
		return math.MaxInt
	}
	return n
}

// A queue is a first-in-first-out queue of targets.
type queue struct {
	ring        []*target
	first, size int
}

func (q *queue) push(t *target) {
	if q.size == len(q.ring) {
		ring := make([]*target, max(64, 2*q.size))
		n := copy(ring, q.ring[q.first:])
		copy(ring[n:], q.ring[:q.first])
		q.ring, q.first = ring, 0
	}
	q.ring[(q.first+q.size)%len(q.ring)] = t
	q.size++
}

// head returns the first target, or nil. It drops those that were removed.
func (q *queue) head() *target {
	for q.size > 0 {
		if t := q.ring[q.first]; !t.removed {
			return t
		}
		q.pop()
	}
	return nil
}

// pop takes the first target out.
func (q *queue) pop() {
	q.ring[q.first] = nil
	q.first = (q.first + 1) % len(q.ring)
	if q.size--; q.size == 0 && len(q.ring) > 1024 {
		q.ring, q.first = nil, 0
	}
}
