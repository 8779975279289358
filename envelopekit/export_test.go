package envelopekit

import (
	"context"
	"io"
	"iter"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/envelope"
	"github.com/ServiceWeaver/weaver/runtime/protos"
)

const (
	MaxLine   = defaultMaxLine
	TailLines = tailLines
	TailBytes = tailLineBytes
	MaxBatch  = maxBatch
	FlushTime = flushTime
)

var (
	WholeRunes      = wholeRunes
	CheckAssignment = checkAssignment
	IsFault         = isFault
	Nearest         = nearest
	Distance        = distance
)

// Pump reads src as the output of a weavelet, and returns its tail.
func Pump(args *protos.WeaveletArgs, maxLine int, h envelope.EnvelopeHandler, stream string, src io.Reader) []string {
	var t tail
	outputPump{args: args, max: maxLine, tail: &t, h: h}.run(stream, src)
	return t.lines()
}

// Failures is a failureCount.
type Failures struct{ c failureCount }

func (f Failures) After(r Restart, served time.Duration, fault bool) Failures {
	return Failures{f.c.after(r, served, fault)}
}
func (f Failures) Delay(r Restart, random float64) time.Duration { return f.c.delay(r, random) }
func (f Failures) Counts() (failures, faults int)                { return f.c.failures, f.c.faults }

func (r Restart) WithDefaults() Restart { return r.withDefaults() }
func (r Restart) Validate() error       { return r.validate() }

// EventLog is an eventLog.
type EventLog struct{ l *eventLog }

func NewEventLog(size int) EventLog { return EventLog{newEventLog(size)} }

func (l EventLog) Add(e Event) { l.l.add(e) }
func (l EventLog) Close()      { l.l.close() }
func (l EventLog) All(ctx context.Context, after uint64) iter.Seq[Event] {
	return l.l.all(ctx, after)
}

// Queue is a queue of ints.
type Queue struct{ q *queue[int] }

func NewQueue(size int) Queue {
	return Queue{newQueue(size, int64(size), func(int) int64 { return 1 })}
}

func (q Queue) Put(v int)                                { q.q.put(v) }
func (q Queue) Run(done <-chan struct{}, take func(int)) { q.q.run(done, take) }
func (q Queue) Dropped() uint64                          { return q.q.dropped.Load() }
