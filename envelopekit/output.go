package envelopekit

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/envelope"
	"github.com/ServiceWeaver/weaver/runtime/protos"
)

// PartialAttr is the name of the attribute, with the value "true", of a log
// entry that holds a piece of a line of output which goes on in the next entry.
const PartialAttr = "weaverkit/partial"

const (
	defaultMaxLine = 64 << 10
	tailLines      = 20
	tailLineBytes  = 1 << 10
	maxBatch       = 128
)

// An outputPump turns what a weavelet prints into log entries.
type outputPump struct {
	args *protos.WeaveletArgs
	max  int
	tail *tail
	h    envelope.EnvelopeHandler
}

// run reads src to its end. Lines that are there already go out together.
func (o outputPump) run(stream string, src io.Reader) {
	limit := cmp.Or(o.max, defaultMaxLine)
	// Most weavelets print little; a long line is put together in line.
	r := bufio.NewReaderSize(src, 4<<10)
	var line []byte
	var batch []*protos.LogEntry
	flush := func() {
		if len(batch) == 0 {
			return
		}
		// Nobody waits for output, and a handler that fails has failed for
		// itself: the weavelet must not block on its stdout.
		_ = o.h.LogBatch(context.Background(), &protos.LogEntryBatch{Entries: batch})
		batch = nil
	}
	emit := func(partial bool) {
		o.tail.add(line)
		e := &protos.LogEntry{
			App:        o.args.App,
			Version:    o.args.DeploymentId,
			Component:  stream,
			Node:       o.args.Id,
			TimeMicros: time.Now().UnixMicro(),
			Level:      stream,
			Line:       -1,
			Msg:        string(line),
		}
		if partial {
			e.Attrs = []string{PartialAttr, "true"}
		}
		line = line[:0]
		batch = append(batch, e)
		// Go on collecting only if the next line can be read without waiting.
		if ready, _ := r.Peek(r.Buffered()); len(batch) == maxBatch || bytes.IndexByte(ready, '\n') < 0 {
			flush()
		}
	}
	for {
		piece, err := r.ReadSlice('\n')
		for len(line)+len(piece) > limit && !(len(line)+len(piece) == limit+1 && piece[len(piece)-1] == '\n') {
			n := limit - len(line)
			line = append(line, piece[:n]...)
			piece = piece[n:]
			emit(true)
		}
		line = append(line, piece...)
		switch {
		case err == nil:
			line = line[:len(line)-1]
			emit(false)
		case errors.Is(err, bufio.ErrBufferFull):
		default: // the end, with or without a last newline
			if len(line) > 0 {
				emit(false)
			}
			flush()
			return
		}
		if len(line) == 0 && cap(line) > defaultMaxLine {
			line = nil // give the memory of a rare long line back
		}
	}
}

// A tail remembers what a weavelet printed last or, if it printed the report
// of a crash, how that began: the end of a long stack trace tells little.
type tail struct {
	mu    sync.Mutex
	ring  [tailLines]string
	n     int
	crash []string
}

func (t *tail) add(line []byte) {
	if len(line) > tailLineBytes {
		line = line[:tailLineBytes]
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ring[t.n%tailLines] = string(line)
	t.n++
	if len(t.crash) > 0 || bytes.HasPrefix(line, []byte("panic: ")) || bytes.HasPrefix(line, []byte("fatal error: ")) {
		if len(t.crash) < tailLines {
			t.crash = append(t.crash, string(line))
		}
	}
}

// lines returns the remembered lines, oldest first.
func (t *tail) lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.crash) > 0 {
		return slices.Clone(t.crash)
	}
	var lines []string
	for i := max(0, t.n-tailLines); i < t.n; i++ {
		lines = append(lines, t.ring[i%tailLines])
	}
	return lines
}
