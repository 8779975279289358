package health

import (
	"context"
	"sync"
	"time"
)

// A checkContext is the context of one check. The standard library's would do,
// but sets a timer of the runtime each time, which costs more than all else that a
// check needs; here the prober, which keeps the deadlines of all checks in its
// heap anyway, says when it has passed.
type checkContext struct {
	context.Context // of Run, for its values
	deadline        time.Time

	mu    sync.Mutex
	err   error
	done  chan struct{}        // nil until somebody asks for it
	after map[*func()]struct{} // see AfterFunc
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

func (c *checkContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// AfterFunc is what [context.AfterFunc] and derived contexts look for: without
// it each of those would need a goroutine.
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
	c.err = err
	if c.done != nil {
		close(c.done)
	}
	for f := range c.after {
		go (*f)()
	}
	c.after = nil
}
