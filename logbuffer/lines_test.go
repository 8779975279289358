package logbuffer_test

import (
	"bytes"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/weaverkit/weaverkit/logbuffer"
)

func newLines(tb testing.TB, opts logbuffer.LineOptions) *logbuffer.Lines {
	tb.Helper()
	l, err := logbuffer.NewLines(opts)
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

// lines reads what is there, as text; "+" marks a partial line.
func lines(tb testing.TB, r *logbuffer.LineReader) []string {
	tb.Helper()
	var got []string
	dst := make([]logbuffer.Line, 3)
	for {
		n, _, err := r.TryRead(dst)
		if err != nil && err != io.EOF {
			tb.Fatal(err)
		}
		if n == 0 {
			return got
		}
		for _, line := range dst[:n] {
			text := string(line.Text)
			if line.Partial {
				text += "+"
			}
			got = append(got, text)
		}
	}
}

var _ io.WriteCloser = (*logbuffer.Lines)(nil)

func TestLinesSplit(t *testing.T) {
	for _, test := range []struct {
		name   string
		writes []string
		want   []string // before Close
		last   string   // what Close adds
	}{
		{"nothing", []string{""}, nil, ""},
		{"one", []string{"a\n"}, []string{"a"}, ""},
		{"several", []string{"a\nb\n\nc\n"}, []string{"a", "b", "", "c"}, ""},
		{"joined", []string{"a", "b", "", "c\nd", "\n"}, []string{"abc", "d"}, ""},
		{"unfinished", []string{"a\nb"}, []string{"a"}, "b+"},
		{"binary", []string{"\x00\xff\xfe\r\n\xc3", "\x28\n"}, []string{"\x00\xff\xfe\r", "\xc3\x28"}, ""},
		{"exactly the limit", []string{"12345678\n"}, []string{"12345678"}, ""},
		{"exactly twice the limit", []string{"1234567812345678\n"}, []string{"12345678+", "12345678"}, ""},
		{"over the limit", []string{"123456789\n"}, []string{"12345678+", "9"}, ""},
		{"at the limit, then the end", []string{"12345678", "\n"}, []string{"12345678"}, ""},
		{"at the limit, then more", []string{"12345678", "9", "\n"}, []string{"12345678+", "9"}, ""},
		{"over the limit in pieces", []string{"12345", "678912", "345678123\nx\n"}, []string{"12345678+", "91234567+", "8123", "x"}, ""},
		{"unfinished over the limit", []string{"1234567890123456789"}, []string{"12345678+", "90123456+"}, "789+"},
		{"unfinished at the limit", []string{"12345678"}, nil, "12345678+"},
	} {
		for _, multi := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/multi=%v", test.name, multi), func(t *testing.T) {
				l := newLines(t, logbuffer.LineOptions{MaxLine: 8, MultiWriter: multi})
				for _, w := range test.writes {
					if n, err := io.WriteString(l, w); n != len(w) || err != nil {
						t.Fatal(n, err)
					}
				}
				r := l.FromOldest()
				if got := lines(t, r); !slices.Equal(got, test.want) {
					t.Errorf("before Close: %q, want %q", got, test.want)
				}
				l.Close()
				l.Close()
				var want []string
				if test.last != "" {
					want = []string{test.last}
				}
				if got := lines(t, r); !slices.Equal(got, want) {
					t.Errorf("after Close: %q, want %q", got, want)
				}
				if n, err := io.WriteString(l, "x\n"); n != 0 || err != logbuffer.ErrClosed {
					t.Errorf("write after Close: %d, %v", n, err)
				}
			})
		}
	}
}

// A huge line, as a weavelet may print it, comes through in pieces.
func TestLinesHuge(t *testing.T) {
	l := newLines(t, logbuffer.LineOptions{MaxBytes: 64 << 20})
	text := bytes.Repeat([]byte("0123456789abcdef"), 20<<20/16)
	text[len(text)-1] = '\n'
	r := l.FromOldest()
	for rest := text; len(rest) > 0; {
		n := min(32<<10, len(rest))
		if k, err := l.Write(rest[:n]); k != n || err != nil {
			t.Fatal(k, err)
		}
		rest = rest[n:]
	}
	l.Close()
	var got []byte
	for line, missed := range r.All(t.Context()) {
		got = append(got, line.Text...)
		if !line.Partial {
			got = append(got, '\n')
		}
		if missed > 0 {
			t.Fatal(missed, "missed")
		}
	}
	if !bytes.Equal(got, text) {
		t.Fatalf("%d bytes, want %d", len(got), len(text))
	}
}

// Lines stay valid while the writer goes round, until the reader moves on.
func TestLinesValidity(t *testing.T) {
	l := newLines(t, logbuffer.LineOptions{MaxBytes: 64, ChunkBytes: 16})
	io.WriteString(l, "one\ntwo\n")
	r := l.FromOldest()
	dst := make([]logbuffer.Line, 2)
	if n, _, _ := r.TryRead(dst); n != 2 {
		t.Fatal(n)
	}
	for range 100 {
		io.WriteString(l, "overwritten\n")
	}
	if string(dst[0].Text) != "one" || string(dst[1].Text) != "two" {
		t.Fatalf("%q, %q", dst[0].Text, dst[1].Text)
	}
	if n, missed, _ := r.TryRead(dst); n != 1 || missed != 96 || string(dst[0].Text) != "overwritten" {
		t.Fatal(n, missed)
	}
}

func TestLinesWhere(t *testing.T) {
	l := newLines(t, logbuffer.LineOptions{})
	io.WriteString(l, "info: a\nerror: b\ninfo: c\nerror: d\n")
	isError := func(l logbuffer.Line) bool { return bytes.HasPrefix(l.Text, []byte("error")) }
	if got := lines(t, l.FromOldest().Where(isError)); !slices.Equal(got, []string{"error: b", "error: d"}) {
		t.Fatal(got)
	}
	l.Close()
	var got []string
	for line := range l.Tail(2).Where(isError).All(t.Context()) {
		got = append(got, string(line.Text))
	}
	if !slices.Equal(got, []string{"error: d"}) {
		t.Fatal(got)
	}
}

// Close between the two halves of a line, from another goroutine, while the
// second half may be on its way: what was accepted is there, and nothing else.
func TestLinesCloseRaces(t *testing.T) {
	for range 5000 {
		l := newLines(t, logbuffer.LineOptions{MaxBytes: 200, MaxLine: 5})
		var wg sync.WaitGroup
		var got []string
		r := l.FromOldest()
		wg.Go(func() {
			for line := range r.All(t.Context()) {
				text := string(line.Text)
				if line.Partial {
					text += "+"
				}
				got = append(got, text)
			}
		})
		var accepted []byte
		wg.Go(func() {
			for _, p := range []string{"a", "b\n", "c\nd", "e\nf", "ghijklm\n"} {
				n, err := io.WriteString(l, p)
				if (err == nil) != (n == len(p)) {
					t.Errorf("wrote %d of %q, %v", n, p, err)
				}
				accepted = append(accepted, p[:n]...)
				if err != nil {
					return
				}
			}
		})
		wg.Go(func() { l.Close() })
		wg.Wait()
		var want []string
		for _, line := range modelLines(accepted, 5, true) {
			text := string(line.Text)
			if line.Partial {
				text += "+"
			}
			want = append(want, text)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%q, want %q", got, want)
		}
	}
}

func TestLinesBlocking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLines(t, logbuffer.LineOptions{})
		var got []string
		var wg sync.WaitGroup
		r := l.FromNow()
		wg.Go(func() {
			dst := make([]logbuffer.Line, 4)
			for {
				n, _, err := r.Read(t.Context(), dst)
				if err != nil {
					got = append(got, err.Error())
					return
				}
				for _, line := range dst[:n] {
					got = append(got, string(line.Text))
				}
			}
		})
		for _, p := range []string{"a", "b\n", "c"} {
			synctest.Wait()
			io.WriteString(l, p)
		}
		synctest.Wait()
		l.Close()
		wg.Wait()
		if !slices.Equal(got, []string{"ab", "c", "EOF"}) {
			t.Fatal(got)
		}
	})
}

// The use that it is made for: the output of a process, from two pipes.
func TestLinesProcess(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip(err)
	}
	l := newLines(t, logbuffer.LineOptions{MultiWriter: true})
	cmd := exec.Command(sh, "-c", "for i in 1 2 3; do echo out $i; done; echo err >&2; printf end")
	cmd.Stdout, cmd.Stderr = l, io.MultiWriter(l) // two writers, so two goroutines
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	l.Close()
	text := strings.Join(lines(t, l.FromOldest()), "\n")
	for _, want := range []string{"out 1\n", "out 2\n", "out 3", "err"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in %q", want, text)
		}
	}
}
