package routing

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/protos"
)

// A source is where one replica's load comes from.
type source struct {
	ask      Source
	busy     bool               // a call is under way
	answered bool               // a call returned or ran into the timeout, ever
	failed   bool               // the last call did not bring a report in time
	round    uint64             // the last round that waits or waited for it
	report   *protos.LoadReport // not used yet
}

// A round is one poll of all sources. It is over when all of them have answered
// that did so last time; the others, who may be stuck, are polled as well but
// not waited for. Nor is anybody for longer than the timeout.
type round struct {
	number  uint64
	open    bool
	waiting int // for so many sources
}

// poll starts a round, unless one is under way, and reports whether it did.
func (c *Controller) poll(ctx context.Context, wg *sync.WaitGroup) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.round.open {
		return false
	}
	c.round = round{number: c.round.number + 1, open: true}
	for addr, s := range c.sources {
		if s.busy {
			c.stats.SkippedPolls++
			continue
		}
		s.busy = true
		c.stats.Polls++
		if !s.failed {
			s.round = c.round.number
			c.round.waiting++
		}
		wg.Go(func() { c.ask(ctx, addr, s) })
	}
	c.endRoundLocked()
	return true
}

// endRoundLocked ends the round if nobody is waited for any more.
func (c *Controller) endRoundLocked() {
	if c.round.open && c.round.waiting == 0 {
		c.round.open = false
		signal(c.done)
	}
}

// expire ends the round without those who have not answered.
func (c *Controller) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.round.open {
		return
	}
	for _, s := range c.sources {
		if s.busy && s.round == c.round.number {
			s.failed, s.answered = true, true
		}
	}
	c.round.waiting = 0
	c.endRoundLocked()
}

// ask polls one source.
func (c *Controller) ask(ctx context.Context, addr string, s *source) {
	ask, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	report, err := s.ask(ask)
	cancel()

	c.mu.Lock()
	inTime := c.round.open && s.round == c.round.number
	s.busy, s.answered, s.failed = false, true, err != nil
	switch {
	case err != nil:
		c.stats.FailedPolls++
	case c.sources[addr] != s:
		c.stats.LostReports++ // of a replica that is gone
	default:
		if s.report != nil {
			c.stats.LostReports++
		}
		s.report = report
		if !c.round.open {
			c.stats.LateReports++
		}
	}
	if inTime {
		c.round.waiting--
		c.endRoundLocked()
	}
	c.mu.Unlock()
	if err != nil && ctx.Err() == nil {
		c.report(fmt.Errorf("poll load of %s: %w", addr, err))
	}
}

// collect takes the reports that are there, by replica. The result is never
// nil.
func (c *Controller) collect() map[string]*protos.LoadReport {
	c.mu.Lock()
	defer c.mu.Unlock()
	reports := make(map[string]*protos.LoadReport, len(c.sources))
	for addr, s := range c.sources {
		if s.report != nil {
			reports[addr] = s.report
			s.report = nil
		}
	}
	return reports
}

// publish saves and publishes what is pending for k until nothing is, trying
// again after failures.
func (c *Controller) publish(ctx context.Context, k *component) {
	const first = 50 * time.Millisecond
	wait := first
	for {
		c.mu.Lock()
		p := k.pending
		if p == nil || ctx.Err() != nil || c.components[k.name] != k {
			k.publishing = false
			c.mu.Unlock()
			return
		}
		k.pending = nil
		c.mu.Unlock()

		err := c.publishOnce(ctx, k.name, *p)

		c.mu.Lock()
		if err == nil {
			k.published = p.Assignment.GetVersion()
			c.stats.Published++
			wait = first
		} else {
			c.stats.FailedPublish++
			if k.pending == nil {
				k.pending = p
			} else {
				c.stats.Superseded++
			}
		}
		c.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			c.report(fmt.Errorf("publish assignment version %d of %s: %w", p.Assignment.GetVersion(), k.name, err))
			if !sleep(ctx, wait) {
				continue // which returns
			}
			wait = min(2*wait, c.opts.Interval)
		}
	}
}

func (c *Controller) publishOnce(ctx context.Context, name string, p Snapshot) error {
	if c.opts.Save != nil {
		if err := c.call(ctx, func(ctx context.Context) error { return c.opts.Save(ctx, name, p) }); err != nil {
			return fmt.Errorf("save: %w", err)
		}
	}
	return c.call(ctx, func(ctx context.Context) error { return c.pub.PublishAssignment(ctx, name, p.Assignment) })
}

func (c *Controller) call(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	return f(ctx)
}
