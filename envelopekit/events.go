package envelopekit

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"sync"
	"time"
)

// A State is where a replica stands.
type State string

// The states of a replica. A new one is Starting; Waiting, Failed and Done are
// states between or after its processes.
const (
	Starting State = "starting" // its process starts, or its components initialize
	Serving  State = "serving"  // its components have initialized
	Draining State = "draining" // it gets no new calls and will end
	Waiting  State = "waiting"  // its process has ended; the next waits its turn
	Failed   State = "failed"   // it failed too often and was given up
	Done     State = "done"     // its main function returned
	Removed  State = "removed"  // it is no longer wanted and has ended
)

// An Event is a change of state of a deployment, a replica or a listener.
type Event struct {
	Seq  uint64    `json:"seq"` // 1, 2, 3 ...
	Time time.Time `json:"time"`
	Kind EventKind `json:"kind"`

	// Group and what follows say which replica the event is about, for events
	// that are about one. Replica numbers are unique in a group.
	Group   string `json:"group,omitempty"`
	Replica int    `json:"replica,omitempty"`
	Pid     int    `json:"pid,omitempty"`
	State   State  `json:"state,omitempty"` // its new state

	Component string `json:"component,omitempty"`
	Listener  string `json:"listener,omitempty"`
	Address   string `json:"address,omitempty"`
	Reason    string `json:"reason,omitempty"` // why, in words; may have several lines
}

// EventKind says what an [Event] is about.
type EventKind string

// The kinds of events.
const (
	DeploymentStarted  EventKind = "deployment started"
	DeploymentStopping EventKind = "deployment stopping" // Reason
	DeploymentStopped  EventKind = "deployment stopped"  // the last event; Reason, if it failed
	ComponentActivated EventKind = "component activated"
	ReplicaChanged     EventKind = "replica"          // State, Reason
	GroupScaled        EventKind = "group scaled"     // Reason
	ListenerOpened     EventKind = "listener opened"  // Listener, Address
	ListenerServing    EventKind = "listener serving" // the first replica of it is there
	ListenerIdle       EventKind = "listener idle"    // its last replica has gone
	Problem            EventKind = "problem"          // Reason; something failed that will be tried again
)

// String describes the event in one line, without its number and time.
func (e Event) String() string {
	var b strings.Builder
	b.WriteString(string(e.Kind))
	if e.Group != "" {
		fmt.Fprintf(&b, " %s", e.Group)
		if e.Replica != 0 {
			fmt.Fprintf(&b, "/%d", e.Replica)
		}
	}
	if e.Pid != 0 {
		fmt.Fprintf(&b, " (pid %d)", e.Pid)
	}
	for _, s := range []string{string(e.State), e.Component, e.Listener, e.Address} {
		if s != "" {
			fmt.Fprintf(&b, " %s", s)
		}
	}
	if e.Reason != "" {
		first, _, _ := strings.Cut(e.Reason, "\n")
		fmt.Fprintf(&b, ": %s", first)
	}
	return b.String()
}

// maxReason bounds what events keep of the output of processes.
const maxReason = 4 << 10

// An eventLog keeps the newest events for any number of readers.
type eventLog struct {
	mu     sync.Mutex
	ring   []Event
	last   uint64        // Seq of the newest event
	more   chan struct{} // closed when an event comes or the log ends
	closed bool
}

func newEventLog(size int) *eventLog {
	return &eventLog{ring: make([]Event, size), more: make(chan struct{})}
}

// add numbers the event and wakes the readers. It never blocks.
func (l *eventLog) add(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	if len(e.Reason) > maxReason {
		e.Reason = strings.ToValidUTF8(e.Reason[:maxReason], "") + " ..."
	}
	l.last++
	e.Seq, e.Time = l.last, time.Now()
	l.ring[l.last%uint64(len(l.ring))] = e
	close(l.more)
	l.more = make(chan struct{})
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

// since returns the events that are kept with a Seq above after, and, if there
// are none, a channel that is closed when there may be. A nil channel then
// means that there will be none.
func (l *eventLog) since(after uint64) ([]Event, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if after >= l.last {
		if l.closed {
			return nil, nil
		}
		return nil, l.more
	}
	oldest := max(after+1, l.last-min(l.last, uint64(len(l.ring)))+1)
	events := make([]Event, 0, l.last-oldest+1)
	for seq := oldest; seq <= l.last; seq++ {
		events = append(events, l.ring[seq%uint64(len(l.ring))])
	}
	return events, nil
}

// all yields the events above after, until ctx or the log ends.
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
