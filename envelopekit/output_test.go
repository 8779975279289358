package envelopekit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/ServiceWeaver/weaver/runtime/envelope"
	"github.com/ServiceWeaver/weaver/runtime/protos"
	"google.golang.org/protobuf/proto"

	"github.com/weaverkit/weaverkit/envelopekit"
)

// A printed is an entry of a weavelet's output.
type printed struct {
	msg     string
	partial bool
}

func (p printed) String() string { return fmt.Sprintf("%q (%t)", p.msg, p.partial) }

// A logSink keeps what it is sent.
type logSink struct {
	envelope.EnvelopeHandler

	mu      sync.Mutex
	entries []printed
	batches []int // their lengths
	full    []*protos.LogEntry
}

func (s *logSink) LogBatch(_ context.Context, b *protos.LogEntryBatch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batches = append(s.batches, len(b.Entries))
	for _, e := range b.Entries {
		s.entries = append(s.entries, printed{e.Msg, slices.Equal(e.Attrs, []string{envelopekit.PartialAttr, "true"})})
	}
	s.full = append(s.full, b.Entries...)
	return errors.New("the disk is full") // which must not matter
}

func (s *logSink) got() []printed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.entries)
}

// modelPump is what the output must become, and the lines of the tail.
func modelPump(text []byte, limit int) (entries []printed, tail []string) {
	lines := bytes.Split(text, []byte("\n"))
	if len(lines[len(lines)-1]) == 0 {
		lines = lines[:len(lines)-1]
	}
	for _, line := range lines {
		first := true
		for {
			n, partial := len(line), len(line) > limit
			if partial {
				n = cutModel(line, limit)
			}
			msg := strings.ToValidUTF8(string(line[:n]), "�")
			entries = append(entries, printed{msg, partial})
			if first {
				for len(msg) > envelopekit.TailBytes || !utf8.ValidString(msg) {
					msg = msg[:min(len(msg)-1, envelopekit.TailBytes)]
				}
				tail = append(tail, msg)
			}
			if line, first = line[n:], false; !partial {
				break
			}
		}
	}
	for i, line := range slices.Backward(tail) {
		if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
			return entries, tail[i:min(len(tail), i+envelopekit.TailLines)]
		}
	}
	return entries, tail[max(0, len(tail)-envelopekit.TailLines):]
}

// cutModel returns where to cut a line of more than limit bytes: at the limit,
// or before a character that the limit would cut in two.
func cutModel(line []byte, limit int) int {
	for back := 1; back <= 3 && back < limit; back++ {
		start := limit - back
		if !utf8.RuneStart(line[start]) {
			continue
		}
		// How long it would be is in its first byte.
		if !utf8.FullRune(line[start:limit]) {
			return start
		}
		break
	}
	return limit
}

func FuzzOutput(f *testing.F) {
	f.Add([]byte("one\ntwo\nthree"), uint8(4), uint8(1))
	f.Add([]byte("12345678\n1234\n12345\n\n\n"), uint8(4), uint8(3))
	f.Add([]byte("größe äöü 日本語 🙂🙂🙂🙂"), uint8(5), uint8(2))
	f.Add([]byte("\xff\xfe\xe2\x82\n\xf0\x9f\x99\r\n\x00"), uint8(3), uint8(0))
	f.Add([]byte("panic: a\nx\npanic: b\n\ngoroutine 1\n"), uint8(200), uint8(7))
	f.Add(bytes.Repeat([]byte("€x"), 3000), uint8(0), uint8(255))
	f.Fuzz(func(t *testing.T, text []byte, limit, chunk uint8) {
		max := int(limit)
		if max == 0 {
			max = 3000 // beyond the limit of the tail's lines
		}
		sink := &logSink{}
		src := &chunkReader{t: t, text: text, chunk: 1 + int(chunk), sink: sink, max: max}
		tail := envelopekit.Pump(&protos.WeaveletArgs{}, max, sink, "stdout", src)
		want, wantTail := modelPump(text, max)
		if got := sink.got(); !slices.Equal(got, want) {
			t.Errorf("text %q, limit %d:\ngot  %q\nwant %q", text, max, got, want)
		}
		if !slices.Equal(tail, wantTail) {
			t.Errorf("text %q, limit %d:\ntail %q\nwant %q", text, max, tail, wantTail)
		}
		for _, e := range sink.full {
			if _, err := proto.Marshal(e); err != nil {
				t.Errorf("entry %q cannot be sent: %v", e.Msg, err)
			}
		}
	})
}

// A chunkReader yields a few bytes at a time. Before it would have to wait for
// more, all lines that are complete must have been handed on.
type chunkReader struct {
	t     *testing.T
	text  []byte
	chunk int
	at    int
	sink  *logSink
	max   int
}

func (r *chunkReader) Read(p []byte) (int, error) {
	if end := bytes.LastIndexByte(r.text[:r.at], '\n'); end >= 0 {
		want, _ := modelPump(r.text[:end+1], r.max)
		if got := r.sink.got(); len(got) < len(want) {
			r.t.Errorf("it waits for more with %d of %d entries handed on", len(got), len(want))
		}
	}
	if r.at == len(r.text) {
		return 0, io.EOF
	}
	n := copy(p, r.text[r.at:min(len(r.text), r.at+r.chunk)])
	r.at += n
	return n, nil
}

func TestOutputEntries(t *testing.T) {
	sink := &logSink{}
	before := time.Now().UnixMicro()
	envelopekit.Pump(&protos.WeaveletArgs{App: "shop", DeploymentId: "v1", Id: "w1"}, 0, sink, "stderr", strings.NewReader("hello\n"))
	if len(sink.full) != 1 {
		t.Fatalf("got %d entries", len(sink.full))
	}
	e := sink.full[0]
	if e.TimeMicros < before || e.TimeMicros > time.Now().UnixMicro() {
		t.Errorf("its time is %d", e.TimeMicros)
	}
	e.TimeMicros = 0
	want := &protos.LogEntry{App: "shop", Version: "v1", Component: "stderr", Node: "w1", Level: "stderr", Line: -1, Msg: "hello"}
	if !proto.Equal(e, want) {
		t.Errorf("got  %v\nwant %v", e, want)
	}
}

// Lines that are there go out together; nothing waits for a line to come.
func TestOutputBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		sink := &logSink{}
		done := make(chan struct{})
		go func() {
			defer close(done)
			envelopekit.Pump(&protos.WeaveletArgs{}, 0, sink, "stdout", r)
		}()
		// say prints and tells which batches came of it at once.
		said := 0
		say := func(text string) []int {
			io.WriteString(w, text)
			synctest.Wait()
			sink.mu.Lock()
			defer sink.mu.Unlock()
			fresh := slices.Clone(sink.batches[said:])
			said = len(sink.batches)
			return fresh
		}
		for _, test := range []struct {
			text string
			want []int
		}{
			{"one\n", []int{1}},
			{"two\nthree\n", []int{2}},
			{"half", nil},
			{" a line\n", []int{1}},
			{"whole\nhalf", []int{1}},
			{"\n\n\n", []int{3}},
			{strings.Repeat("\n", envelopekit.MaxBatch+2), []int{envelopekit.MaxBatch, 2}},
			{"the last one", nil},
		} {
			if got := say(test.text); !slices.Equal(got, test.want) {
				t.Errorf("after %.20q: got batches %v, want %v", test.text, got, test.want)
			}
		}
		w.Close()
		<-done
		if entries := sink.got(); entries[len(entries)-1] != (printed{"the last one", false}) {
			t.Errorf("the last entry is %q", entries[len(entries)-1])
		}
	})
}

// One line of 20 MB passes through in pieces, and not through memory.
func TestOutputLongLine(t *testing.T) {
	const size = 20 << 20
	var pieces, length, partial, most int
	h := &envelopekit.Handler{Log: func(e *protos.LogEntry) {
		pieces++
		length += len(e.Msg)
		most = max(most, len(e.Msg))
		if len(e.Attrs) > 0 {
			partial++
		}
	}}
	src := io.MultiReader(io.LimitReader(repeat('x'), size), strings.NewReader("\nshort\n"))
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	tail := envelopekit.Pump(&protos.WeaveletArgs{}, 0, h, "stdout", src)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if want := size/envelopekit.MaxLine + 1; pieces != want || partial != want-2 {
		t.Errorf("got %d entries, %d partial, want %d and %d", pieces, partial, want, want-2)
	}
	if length != size+len("short") || most != envelopekit.MaxLine {
		t.Errorf("got %d bytes in all, %d at most in one", length, most)
	}
	if want := []string{strings.Repeat("x", envelopekit.TailBytes), "short"}; !slices.Equal(tail, want) {
		t.Errorf("got a tail of %d lines, want 2", len(tail))
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
		t.Errorf("%d bytes remain in use", grown)
	}
}

type repeat byte

func (b repeat) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(b)
	}
	return len(p), nil
}

// A read that fails ends the output like its end does.
func TestOutputReadError(t *testing.T) {
	sink := &logSink{}
	src := io.MultiReader(strings.NewReader("one\ntwo"), iotest.ErrReader(errors.New("broken pipe")))
	envelopekit.Pump(&protos.WeaveletArgs{}, 0, sink, "stdout", src)
	if want := []printed{{"one", false}, {"two", false}}; !slices.Equal(sink.got(), want) {
		t.Errorf("got %q, want %q", sink.got(), want)
	}
}

func TestOutputTail(t *testing.T) {
	numbered := func(from, to int) string {
		var b strings.Builder
		for i := from; i < to; i++ {
			fmt.Fprintf(&b, "line %d\n", i)
		}
		return b.String()
	}
	lines := func(text string) []string { return strings.Split(strings.TrimSuffix(text, "\n"), "\n") }
	for _, test := range []struct {
		name, text string
		want       []string
	}{
		{"nothing", "", nil},
		{"few", numbered(0, 3), lines(numbered(0, 3))},
		{"many", numbered(0, 100), lines(numbered(80, 100))},
		{"a crash is told from its beginning", numbered(0, 50) + "panic: oh\n\n" + numbered(0, 100), append([]string{"panic: oh", ""}, lines(numbered(0, 18))...)},
		{"a deadlock, too", "x\nfatal error: all goroutines are asleep - deadlock!\n" + numbered(0, 2), append([]string{"fatal error: all goroutines are asleep - deadlock!"}, lines(numbered(0, 2))...)},
		{"the last crash counts", "panic: survived\nx\npanic: died\ny\n", []string{"panic: died", "y"}},
		{"a panic within a line is none", "http: panic: x\ny\n", []string{"http: panic: x", "y"}},
		{"a character is not cut", strings.Repeat("€", 400) + "\n", []string{strings.Repeat("€", envelopekit.TailBytes/3)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := envelopekit.Pump(&protos.WeaveletArgs{}, 0, &logSink{}, "stderr", strings.NewReader(test.text)); !reflect.DeepEqual(got, test.want) {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}

func TestWholeRunes(t *testing.T) {
	for text, want := range map[string]int{
		"": 0, "a": 1, "a€": 4, "a\xe2\x82": 1, "a\xe2": 1, "\xe2\x82": 2, "a\xff": 2, "a\x82\x82": 3, "a🙂": 5, "a\xf0\x9f\x99": 1,
	} {
		if got := envelopekit.WholeRunes([]byte(text)); got != want {
			t.Errorf("%q: got %d, want %d", text, got, want)
		}
	}
}

// What does a line of output cost, compared to the bare splitting of lines?
func BenchmarkOutput(b *testing.B) {
	text := bytes.Repeat([]byte(strings.Repeat("x", 99)+"\n"), 10_000)
	h := &envelopekit.Handler{}
	b.Run("pump", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		b.ReportAllocs()
		for b.Loop() {
			envelopekit.Pump(&protos.WeaveletArgs{}, 0, h, "stdout", bytes.NewReader(text))
		}
	})
	b.Run("baseline=split", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		b.ReportAllocs()
		for b.Loop() {
			for line := range bytes.Lines(text) {
				_ = string(line)
			}
		}
	})
}
