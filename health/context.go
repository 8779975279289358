package health

import (
	"context"
	"sync"
	"time"
)

// A checkContext is the context of one check, made by newCheckContext. One of the
// standard library would do, but sets a timer of the runtime each time, a fifth of
// what a check costs; here the prober, which has the deadlines of all checks in its
// heap anyway, says when it has passed.
type checkContext struct {
	context.Context // of Run, for its values
	deadline        time.Time

	mu    sync.Mutex
	err   error
	own   bool                 // it has ended, and Run's had not
	done  chan struct{}        // nil until somebody asks for it
	after map[*func()]struct{} // see AfterFunc
}

func newCheckContext(run context.Context, deadline time.Time) *checkContext {
	if d, ok := run.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	return &checkContext{Context: run, deadline: deadline}
}

func (c *checkContext) Deadline() (time.Time, bool) { return c.deadline, true }

func (c *checkContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.err != nil {
			close(c.done)
		}
	}
	return c.done
}

// Value returns what that of Run does; but a context that has ended before Run's keeps
// its own cause, which [context.Cause] would look for there.
func (c *checkContext) Value(key any) any {
	c.mu.Lock()
	own := c.own
	c.mu.Unlock()
	if own {
		return context.WithoutCancel(c.Context).Value(key)
	}
	return c.Context.Value(key)
}

func (c *checkContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// String keeps who prints it from what mu guards.
func (c *checkContext) String() string { return "health.checkContext until " + c.deadline.String() }

// AfterFunc is what [context.AfterFunc] and contexts that are derived from this one
// look for: without it each of those would need a goroutine.
func (c *checkContext) AfterFunc(f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		go f()
		return func() bool { return false }
	}
	if c.after == nil {
		c.after = map[*func()]struct{}{}
	}
	c.after[&f] = struct{}{}
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, waits := c.after[&f]
		delete(c.after, &f)
		return waits
	}
}

// end ends the context, once. It waits for nothing.
func (c *checkContext) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err, c.own = err, c.Context.Err() == nil
	if c.done != nil {
		close(c.done)
	}
	for f := range c.after {
		go (*f)()
	}
	c.after = nil
}
