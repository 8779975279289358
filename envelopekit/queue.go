package envelopekit

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/logging"
	"github.com/ServiceWeaver/weaver/runtime/protos"

	"github.com/weaverkit/weaverkit/envelopekit/placement"
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
	size    func(T) int64 // of a value
	most    int64         // the sum of sizes that may be queued
	queued  atomic.Int64
	dropped atomic.Uint64
}

func newQueue[T any](length int, most int64, size func(T) int64) *queue[T] {
	return &queue[T]{c: make(chan T, length), most: most, size: size}
}

func (q *queue[T]) put(v T) {
	size := q.size(v)
	if q.queued.Add(size) <= q.most {
		select {
		case q.c <- v:
			return
		default:
		}
	}
	q.queued.Add(-size)
	q.dropped.Add(1)
}

// run calls take for each value, until done is closed and what is queued then
// has been taken or flushTime has passed.
func (q *queue[T]) run(done <-chan struct{}, take func(T)) {
	for {
		select {
		case v := <-q.c:
			q.queued.Add(-q.size(v))
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
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			wg.Go(func() {
				select {
				case <-done:
				case <-ctx.Done():
					return
				}
				select {
				case <-time.After(flushTime):
					cancel()
				case <-ctx.Done():
				}
			})
			d.spans.run(done, func(spans []readOnlySpan) {
				ctx, cancel := context.WithTimeout(ctx, spanTimeout)
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
	if logging.IsSystemGenerated(e) {
		component, cause := attr(e, "component"), attr(e, "err")
		switch {
		case e.Level == "ERROR":
			d.mu.Lock()
			r.complaint = strings.TrimSpace(fmt.Sprintf("%s %s: %s", e.Msg, component, cause))
			if e.Msg == initFailed {
				d.failInitLocked(r, fmt.Errorf("component %s cannot be made: %s", component, cause))
			}
			d.mu.Unlock()
		case e.Msg == probed && component == placement.Shorten(placement.Main):
			return // the echo of our own question
		}
	}
	if d.logs != nil {
		d.logs.put(e)
	}
}

// probed is what a weavelet's runtime logs when it has taken over routing.
const probed = "Updated routing info"

// attr returns the value of an attribute, or "".
func attr(e *protos.LogEntry, name string) string {
	for i := 0; i+1 < len(e.Attrs); i += 2 {
		if e.Attrs[i] == name {
			return e.Attrs[i+1]
		}
	}
	return ""
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
