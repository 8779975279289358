package rollout

import (
	"context"
	"iter"
	"sync"
)

// An eventLog keeps the newest events for any number of readers.
type eventLog struct {
	mu     sync.Mutex
	ring   []Event // oldest first
	limit  int
	last   uint64 // Seq of the newest
	missed uint64
	more   chan struct{} // closed, and replaced, when events come
	closed bool
}

func newEventLog(limit int) *eventLog {
	return &eventLog{limit: limit, more: make(chan struct{})}
}

// publish adds those events that are new. It never blocks.
func (l *eventLog) publish(events []Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	added := false
	first := l.last == 0 // what a Runner has loaded, and others have published
	for _, e := range events {
		if e.Seq <= l.last || l.closed {
			continue
		}
		if !first {
			l.missed += e.Seq - l.last - 1
		}
		l.last = e.Seq
		l.ring = append(l.ring, e)
		added = true
	}
	if len(l.ring) > 2*l.limit {
		l.ring = append([]Event(nil), l.ring[len(l.ring)-l.limit:]...)
	}
	if added {
		close(l.more)
		l.more = make(chan struct{})
	}
}

func (l *eventLog) lost() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.missed
}

// close ends the log: readers get what is there, and then the end.
func (l *eventLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.closed = true
		close(l.more)
	}
}

// since returns the events with a higher Seq, and, if there are none, a channel
// that is closed when there may be; nil then means that there will be none.
func (l *eventLog) since(after uint64) ([]Event, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := len(l.ring)
	for i > 0 && l.ring[i-1].Seq > after {
		i--
	}
	i = max(i, len(l.ring)-l.limit)
	if i < len(l.ring) {
		return append([]Event(nil), l.ring[i:]...), nil
	}
	if l.closed {
		return nil, nil
	}
	return nil, l.more
}

func (l *eventLog) all(ctx context.Context, after uint64) iter.Seq[Event] {
	return func(yield func(Event) bool) {
		after := after
		for {
			events, more := l.since(after)
			for _, e := range events {
				if ctx.Err() != nil || !yield(e) {
					return
				}
				after = e.Seq
			}
			if len(events) > 0 {
				continue
			}
			if more == nil {
				return
			}
			select {
			case <-more:
			case <-ctx.Done():
				return
			}
		}
	}
}
