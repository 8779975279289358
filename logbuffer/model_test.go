package logbuffer_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/weaverkit/weaverkit/logbuffer"
)

// A model is the slow and obvious log: it keeps everything ever written and
// works out from its length what should be retained.
type model struct {
	size, chunks int
	entries      []int
	closed       bool
}

func (m *model) next() uint64 { return uint64(len(m.entries)) }

// oldest returns the first entry retained. A chunk is begun by the first entry
// that does not fit into the one before.
func (m *model) oldest() uint64 {
	begun := (len(m.entries) + m.size - 1) / m.size
	return uint64(max(0, begun-m.chunks) * m.size)
}

// A modelReader is the reader of a model.
type modelReader struct {
	m      *model
	pos    uint64
	missed uint64
	keep   func(int) bool
	closed bool
}

func (r *modelReader) tryRead(max int) (got []int, missed uint64, err error) {
	if max == 0 {
		return nil, 0, nil
	}
	if r.closed {
		return nil, 0, logbuffer.ErrClosed
	}
	if oldest := r.m.oldest(); r.pos < oldest {
		r.missed += oldest - r.pos
		r.pos = oldest
	}
	for len(got) < max && r.pos < r.m.next() {
		e := r.m.entries[r.pos]
		r.pos++
		if r.keep == nil || r.keep(e) {
			got = append(got, e)
		}
	}
	if len(got) == 0 && !r.m.closed {
		return nil, 0, nil
	}
	missed, r.missed = r.missed, 0
	if len(got) == 0 {
		return nil, missed, io.EOF
	}
	return got, missed, nil
}

// script runs random operations on a buffer and on its model.
func script(t *testing.T, seed uint64, ops []byte) {
	rng := rand.New(rand.NewPCG(seed, 0))
	m := &model{size: 1 + rng.IntN(7), chunks: 2 + rng.IntN(4)}
	buf, err := logbuffer.New[int](logbuffer.Options{ChunkSize: m.size, Chunks: m.chunks, MultiWriter: seed%2 == 0})
	if err != nil {
		t.Fatal(err)
	}
	type pair struct {
		got  *logbuffer.Reader[int]
		want *modelReader
	}
	var readers []pair
	open := 0
	start := func(r *logbuffer.Reader[int], pos uint64) {
		p := pair{r, &modelReader{m: m, pos: pos}}
		if rng.IntN(4) == 0 {
			k := 1 + rng.IntN(5)
			keep := func(e int) bool { return e%k == 0 }
			p.got.Where(keep)
			p.want.keep = keep
		}
		readers = append(readers, p)
		open++
	}
	for i, op := range ops {
		switch op % 16 {
		case 0, 1, 2, 3, 4: // write
			n := int(op>>4) * (1 + rng.IntN(3))
			if op%16 == 0 {
				n = 1
			}
			batch := make([]int, n)
			for j := range batch {
				batch[j] = len(m.entries) + j
			}
			k, err := buf.Write(batch...)
			if m.closed {
				if k != 0 || !errors.Is(err, logbuffer.ErrClosed) {
					t.Fatalf("op %d: write to closed buffer: %d, %v", i, k, err)
				}
				break
			}
			if k != n || err != nil {
				t.Fatalf("op %d: write of %d: %d, %v", i, n, k, err)
			}
			m.entries = append(m.entries, batch...)
		case 5:
			start(buf.FromOldest(), m.oldest())
		case 6:
			start(buf.FromNow(), m.next())
		case 7:
			n := int(op>>4)*3 - 3
			start(buf.Tail(n), m.next()-min(uint64(max(n, 0)), m.next()-m.oldest()))
		case 8:
			seq := uint64(rng.IntN(len(m.entries) + 3))
			r, err := buf.FromSeq(seq)
			if seq > m.next() {
				if !errors.Is(err, logbuffer.ErrFuture) {
					t.Fatalf("op %d: from %d of %d: %v", i, seq, m.next(), err)
				}
				break
			}
			if err != nil {
				t.Fatalf("op %d: from %d of %d: %v", i, seq, m.next(), err)
			}
			start(r, seq)
		case 9:
			if len(readers) > 0 {
				p := readers[rng.IntN(len(readers))]
				p.got.Close()
				p.want.closed = true
			}
		case 10:
			if rng.IntN(8) == 0 {
				buf.Close()
				m.closed = true
			}
		default: // read
			if len(readers) == 0 {
				break
			}
			p := readers[rng.IntN(len(readers))]
			dst := make([]int, op>>4)
			n, missed, err := p.got.TryRead(dst)
			want, wantMissed, wantErr := p.want.tryRead(len(dst))
			if n != len(want) || missed != wantMissed || err != wantErr {
				t.Fatalf("op %d: read %d, %d missed, %v; want %d, %d missed, %v", i, n, missed, err, len(want), wantMissed, wantErr)
			}
			for j, e := range want {
				if dst[j] != e {
					t.Fatalf("op %d: read %v, want %v", i, dst[:n], want)
				}
			}
			if p.got.Seq() != p.want.pos && !p.want.closed {
				t.Fatalf("op %d: at %d, want %d", i, p.got.Seq(), p.want.pos)
			}
		}
		stats := buf.Stats()
		if stats.Written != m.next() || stats.Dropped != m.oldest() || stats.Retained != m.next()-m.oldest() {
			t.Fatalf("op %d: stats %+v, want %d written, %d dropped", i, stats, m.next(), m.oldest())
		}
		if m.next() >= uint64(m.size*m.chunks) && stats.Retained < uint64((m.chunks-1)*m.size) || stats.Retained > uint64(m.chunks*m.size) {
			t.Fatalf("op %d: %d retained, with chunks of %d × %d", i, stats.Retained, m.chunks, m.size)
		}
		for _, p := range readers {
			if lag := p.got.Lag(); lag != m.next()-p.want.pos {
				t.Fatalf("op %d: lag %d, want %d", i, lag, m.next()-p.want.pos)
			}
		}
	}
	// Whatever happened: seen + missed = written, for whoever read it all.
	buf.Close()
	m.closed = true
	for _, p := range readers {
		for {
			dst := make([]int, 1+rng.IntN(5))
			n, missed, err := p.got.TryRead(dst)
			want, wantMissed, wantErr := p.want.tryRead(len(dst))
			if n != len(want) || missed != wantMissed || err != wantErr {
				t.Fatalf("drain: read %d, %d missed, %v; want %d, %d missed, %v", n, missed, err, len(want), wantMissed, wantErr)
			}
			if err != nil {
				break
			}
		}
	}
	if n := buf.Stats().Readers; n != 0 {
		t.Fatalf("%d readers left", n)
	}
}

func TestModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for seed := range uint64(2000) {
		ops := make([]byte, 10+rng.IntN(200))
		for i := range ops {
			ops[i] = byte(rng.Uint32())
		}
		script(t, seed, ops)
	}
}

func FuzzModel(f *testing.F) {
	f.Add(uint64(0), []byte("\x05\x10\x20\x3b\x4b\x10\x5b"))
	f.Add(uint64(7), []byte("\x11\x21\x37\x46\xfb\xf1\xf1\xfb\x0a\xfb"))
	f.Fuzz(func(t *testing.T, seed uint64, ops []byte) {
		if len(ops) > 1000 {
			ops = ops[:1000]
		}
		script(t, seed, ops)
	})
}

// modelLines is the slow and obvious way to split text into lines: what is
// complete, and what is left.
func modelLines(text []byte, maxLine int, closed bool) (lines []logbuffer.Line) {
	for len(text) > 0 {
		line, rest, complete := bytes.Cut(text, []byte("\n"))
		for len(line) > maxLine {
			lines = append(lines, logbuffer.Line{Text: line[:maxLine], Partial: true})
			line = line[maxLine:]
		}
		if complete || closed {
			lines = append(lines, logbuffer.Line{Text: line, Partial: !complete})
		}
		text = rest
	}
	return lines
}

// lineScript writes text in random pieces, while readers begin, read and stop,
// and checks that every reader gets the lines at the places where it says it is.
func lineScript(t *testing.T, seed uint64, text []byte) {
	rng := rand.New(rand.NewPCG(seed, 1))
	opts := logbuffer.LineOptions{MaxBytes: 40 + rng.IntN(2000), MultiWriter: seed%2 == 0}
	opts.ChunkBytes = max(6, opts.MaxBytes/(2+rng.IntN(6)))
	opts.MaxLine = 1 + rng.IntN(opts.ChunkBytes-4)
	l, err := logbuffer.NewLines(opts)
	if err != nil {
		t.Fatal(err)
	}
	want := modelLines(text, opts.MaxLine, true)

	type reader struct {
		*logbuffer.LineReader
		start, seen, missed uint64
	}
	var readers []*reader
	step := func(r *reader) bool {
		dst := make([]logbuffer.Line, 1+rng.IntN(20))
		n, missed, err := r.TryRead(dst)
		r.missed += missed
		at := r.start + r.seen + r.missed
		for i, line := range dst[:n] {
			w := want[at+uint64(i)]
			if !bytes.Equal(line.Text, w.Text) || line.Partial != w.Partial {
				t.Fatalf("line %d is %q, %v; want %q, %v", at+uint64(i), line.Text, line.Partial, w.Text, w.Partial)
			}
		}
		r.seen += uint64(n)
		if r.Seq() != r.start+r.seen+r.missed {
			t.Fatalf("reader at %d; want %d + %d + %d", r.Seq(), r.start, r.seen, r.missed)
		}
		if err != nil && err != io.EOF {
			t.Fatal(err)
		}
		return n > 0
	}
	for written := 0; written < len(text); {
		piece := text[written:min(len(text), written+1+rng.IntN(1+rng.IntN(100)))]
		if n, err := l.Write(piece); n != len(piece) || err != nil {
			t.Fatalf("write of %d: %d, %v", len(piece), n, err)
		}
		written += len(piece)
		stats := l.Stats()
		// A line is complete when the model says so of what came so far,
		// except that the end of a line over the limit may still be awaited.
		if n := uint64(len(modelLines(text[:written], opts.MaxLine, false))); stats.Written != n {
			t.Fatalf("%d lines written, want %d", stats.Written, n)
		}
		var retained int
		for _, line := range want[stats.Dropped:stats.Written] {
			retained += len(line.Text) + 4
		}
		if retained > opts.MaxBytes {
			t.Fatalf("%d bytes retained, over %d", retained, opts.MaxBytes)
		}
		switch rng.IntN(6) {
		case 0:
			r := &reader{LineReader: l.FromOldest(), start: stats.Dropped}
			readers = append(readers, r)
		case 1:
			n := uint64(rng.IntN(10))
			r := &reader{LineReader: l.Tail(int(n)), start: stats.Written - min(n, stats.Retained)}
			if r.Seq() != r.start {
				t.Fatalf("tail of %d begins at %d, want %d", n, r.Seq(), r.start)
			}
			readers = append(readers, r)
		case 2:
			seq := uint64(rng.IntN(int(stats.Written) + 1))
			r, err := l.FromSeq(seq)
			if err != nil {
				t.Fatal(err)
			}
			readers = append(readers, &reader{LineReader: r, start: seq})
		default:
			if len(readers) > 0 {
				step(readers[rng.IntN(len(readers))])
			}
		}
	}
	l.Close()
	if n, err := l.Write([]byte("x\n")); n != 0 || err != logbuffer.ErrClosed {
		t.Fatalf("write after Close: %d, %v", n, err)
	}
	if n := l.Stats().Written; n != uint64(len(want)) {
		t.Fatalf("%d lines written, want %d", n, len(want))
	}
	for _, r := range readers {
		for step(r) {
		}
		if r.start+r.seen+r.missed != uint64(len(want)) {
			t.Fatalf("%d seen + %d missed of %d", r.seen, r.missed, uint64(len(want))-r.start)
		}
	}
}

func TestLinesModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for seed := range uint64(500) {
		text := make([]byte, rng.IntN(5000))
		often := 2 + rng.IntN(60)
		for i := range text {
			text[i] = byte(rng.Uint32())
			if rng.IntN(often) == 0 {
				text[i] = '\n'
			}
		}
		lineScript(t, seed, text)
	}
}

func FuzzLines(f *testing.F) {
	f.Add(uint64(1), []byte("one\ntwo\r\n\n\xff\xfe\x00three"))
	f.Add(uint64(2), bytes.Repeat([]byte("a long line without an end "), 20))
	f.Fuzz(func(t *testing.T, seed uint64, text []byte) {
		if len(text) > 10_000 {
			text = text[:10_000]
		}
		lineScript(t, seed, text)
	})
}
