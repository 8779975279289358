package envelopekit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/logging"
	"github.com/ServiceWeaver/weaver/runtime/protos"
)

const (
	// spanTimeout bounds one export of spans.
	spanTimeout = 10 * time.Second

	// flushTime bounds the handing over of what is queued when Run ends.
	flushTime = time.Second
)

// A queue hands values from many goroutines to one, and drops them when that
// one is too slow: a log that is not read must not stop the application.
type queue[T any] struct {
	c       chan T
	dropped atomic.Uint64
}

func newQueue[T any](size int) *queue[T] { return &queue[T]{c: make(chan T, size)} }

func (q *queue[T]) put(v T) {
	select {
	case q.c <- v:
	default:
		q.dropped.Add(1)
	}
}

// run calls take for each value, until done is closed and what is queued then
// has been taken or flushTime has passed.
func (q *queue[T]) run(done <-chan struct{}, take func(T)) {
	for {
		select {
		case v := <-q.c:
			take(v)
			continue
		case <-done:
		}
		break
	}
	for end := time.Now().Add(flushTime); time.Now().Before(end); {
		select {
		case v := <-q.c:
			take(v)
		default:
			return
		}
	}
}

// startPumps starts what hands logs and spans over, until done is closed.
func (d *Deployment) startPumps(wg *sync.WaitGroup, done <-chan struct{}) {
	if d.logs != nil {
		wg.Go(func() {
			var told uint64
			var last time.Time
			d.logs.run(done, func(e *protos.LogEntry) {
				d.opts.Log(e)
				// Also when nothing follows; but not with every entry of a flood.
				dropped := d.logs.dropped.Load()
				if dropped > told && (len(d.logs.c) == 0 || time.Since(last) > time.Second) {
					d.opts.Log(d.droppedEntry(dropped - told))
					told, last = dropped, time.Now()
				}
			})
		})
	}
	if d.spans != nil {
		wg.Go(func() {
			d.spans.run(done, func(spans []readOnlySpan) {
				ctx, cancel := context.WithTimeout(context.Background(), spanTimeout)
				defer cancel()
				if err := d.opts.Spans.ExportSpans(ctx, spans); err != nil {
					d.spanErrors.Add(1)
				}
			})
		})
	}
}

// initFailed is what a weavelet's runtime logs when a component could not be
// made: its section of the configuration is refused, or its Init has failed.
// That is for good, and there is no other way to learn of it.
const initFailed = "Failed to construct"

// log takes an entry of the weavelet. What its runtime complains about is
// remembered, to answer Why and to replace what cannot work any more.
func (d *Deployment) log(r *replica, e *protos.LogEntry) {
	if e.Level == "ERROR" && logging.IsSystemGenerated(e) {
		complaint, cause := e.Msg, ""
		for i := 0; i+1 < len(e.Attrs); i += 2 {
			if e.Attrs[i] == "component" || e.Attrs[i] == "err" {
				complaint += fmt.Sprintf(" %s=%s", e.Attrs[i], e.Attrs[i+1])
			}
			if e.Attrs[i] == "err" {
				cause = e.Attrs[i+1]
			}
		}
		d.mu.Lock()
		r.complaint = complaint
		if e.Msg == initFailed {
			d.failInitLocked(r, errors.New(cause))
		}
		d.mu.Unlock()
	}
	if d.logs != nil {
		d.logs.put(e)
	}
}

// droppedEntry is the log entry that says how many are missing.
func (d *Deployment) droppedEntry(n uint64) *protos.LogEntry {
	return &protos.LogEntry{
		App:        d.app.Name,
		Version:    d.opts.ID,
		Component:  "weaverkit",
		Node:       d.opts.ID,
		TimeMicros: time.Now().UnixMicro(),
		Level:      "WARN",
		Line:       -1,
		Msg:        fmt.Sprintf("%d log entries were dropped: they came faster than they were taken", n),
	}
}
