package envelopekit

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

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

// An outputPump turns what a weavelet prints into log entries, a line each. A
// line that is longer than max bytes becomes several entries, all but the last
// of which have the attribute [PartialAttr]; no character is cut in two. Log
// entries are text: each run of bytes that is not UTF-8 becomes one U+FFFD,
// without which an entry could not be sent to another process.
type outputPump struct {
	args *protos.WeaveletArgs
	max  int
	tail *tail
	h    envelope.EnvelopeHandler
}

// run reads src to its end. Lines that are there already go out together.
func (o outputPump) run(stream string, src io.Reader) {
	limit := o.max
	if limit <= 0 {
		limit = defaultMaxLine
	}
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
	goesOn := false // the line began in an earlier entry
	emit := func(text []byte, partial bool) {
		msg := strings.ToValidUTF8(string(text), "\uFFFD")
		if !goesOn {
			o.tail.add(msg)
		}
		goesOn = partial
		e := &protos.LogEntry{
			App:        o.args.App,
			Version:    o.args.DeploymentId,
			Component:  stream,
			Node:       o.args.Id,
			TimeMicros: time.Now().UnixMicro(),
			Level:      stream,
			Line:       -1,
			Msg:        msg,
		}
		if partial {
			e.Attrs = []string{PartialAttr, "true"}
		}
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
			whole := wholeRunes(line)
			emit(line[:whole], true)
			line = append(line[:0], line[whole:]...)
		}
		line = append(line, piece...)
		switch {
		case err == nil:
			emit(line[:len(line)-1], false)
			line = line[:0]
		case errors.Is(err, bufio.ErrBufferFull):
		default: // the end, with or without a last newline
			if len(line) > 0 {
				emit(line, false)
			}
			flush()
			return
		}
		if len(line) == 0 && cap(line) > defaultMaxLine {
			line = nil // give the memory of a rare long line back
		}
	}
}

// wholeRunes returns how many bytes of the text are left without a character
// at its end that goes on after it.
func wholeRunes(text []byte) int {
	for i := len(text) - 1; i > 0 && i >= len(text)-utf8.UTFMax; i-- {
		if utf8.RuneStart(text[i]) {
			if utf8.FullRune(text[i:]) {
				break
			}
			return i
		}
	}
	return len(text)
}

// A tail remembers what a weavelet printed last or, if it printed the report
// of a crash, how that began: the end of a long stack trace tells little.
type tail struct {
	mu    sync.Mutex
	ring  [tailLines]string
	n     int
	crash []string
}

func (t *tail) add(line string) {
	if len(line) > tailLineBytes {
		line = strings.Clone(line[:wholeRunes([]byte(line[:tailLineBytes]))])
	}
	crash := strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ")
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ring[t.n%tailLines] = line
	t.n++
	switch {
	case crash: // an earlier one was survived
		t.crash = append(t.crash[:0], line)
	case len(t.crash) > 0 && len(t.crash) < tailLines:
		t.crash = append(t.crash, line)
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
