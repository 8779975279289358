package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weaverkit/weaverkit/rollout"
)

// redraw is how often the view is drawn anew.
const redraw = 500 * time.Millisecond

// keyHelp is the last line of the view.
const keyHelp = "n next  b broken next  p pause  r resume  P promote  a abort  t retry  q quit"

// A screen shows what happens and, in a terminal, the view below it, drawn anew
// in place; keys are read there.
type screen struct {
	out, err *os.File
	live     bool // err is a terminal
	d        *deployment

	mu    sync.Mutex // guards the following
	drawn []string   // lines of the view that are there
	text  string     // the view
	foot  string     // the lines below it
	said  string     // the answer to the last key

	// The key that must be pressed once more, and what for; of press only.
	sure  byte
	about rollout.At
}

// seen is what somebody sees who gives a command.
type seen struct {
	at     rollout.At
	paused bool
}

// where returns where a rollout must stand for a command that was given for what is
// seen. If that moves by itself, the step does not matter.
func (s seen) where() rollout.At {
	at := s.at
	if !s.paused {
		at.Step = 0
	}
	return at
}

func newScreen(out, err *os.File, d *deployment) *screen {
	return &screen{out: out, err: err, live: isTerminal(err), d: d}
}

// log shows a line above the view.
func (s *screen) log(line string) { s.show(s.err, line+"\n") }

// print shows a line above the view, for programs that read the output.
func (s *screen) print(line string) { s.show(s.out, line+"\n") }

// Write shows lines that end with a newline.
func (s *screen) Write(p []byte) (int, error) {
	s.show(s.err, string(p))
	return len(p), nil
}

// logger returns a logger whose warnings and errors are shown.
func (s *screen) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(s, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

func (s *screen) show(w io.Writer, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wiped := s.wipe()
	if w == io.Writer(s.err) {
		io.WriteString(w, wiped+text+s.draw())
		return
	}
	io.WriteString(s.err, wiped)
	io.WriteString(w, text)
	io.WriteString(s.err, s.draw())
}

// wipe returns what removes the view from the terminal.
func (s *screen) wipe() string {
	if len(s.drawn) == 0 {
		return ""
	}
	n := len(s.drawn)
	s.drawn = nil
	return fmt.Sprintf("\x1b[%dA\r\x1b[J", n)
}

// draw returns what draws the view where the cursor is.
func (s *screen) draw() string {
	if s.text == "" {
		return ""
	}
	rows, cols := terminalSize(s.err)
	s.drawn = fit(s.text, s.foot, rows-1, cols)
	return strings.Join(s.drawn, "\n") + "\n"
}

// fit returns the lines of the view and those below it, which are broken rather than
// cut. If there are too many for the terminal the middle of the view is left out.
func fit(text, foot string, rows, cols int) []string {
	rows, cols = max(1, rows), max(2, cols)
	var below []string
	for _, line := range strings.Split(strings.TrimSuffix(foot, "\n"), "\n") {
		for foot != "" && line != "" {
			part := cutWords(line, cols)
			below = append(below, part)
			line = strings.TrimLeft(strings.TrimPrefix(line, part), " ")
		}
	}
	below = below[:min(len(below), rows)]
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if most := rows - len(below); len(lines) > most {
		head := (most + 1) / 2
		tail := max(0, most-head-1)
		short := slices.Clone(lines[:min(head, most)])
		if most > head {
			short = append(short, "…")
		}
		lines = append(short, lines[len(lines)-tail:]...)
	}
	for i, line := range lines {
		lines[i] = cut(line, cols)
	}
	return append(lines, below...)
}

// setView changes the view, and what is below it.
func (s *screen) setView(text, foot string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// In place, line by line, so that nothing flickers.
	over := ""
	if n := len(s.drawn); n > 0 {
		over = fmt.Sprintf("\x1b[%dA\r", n)
	}
	s.text, s.foot = text, foot
	drawn := strings.ReplaceAll(s.draw(), "\n", "\x1b[K\n")
	if text == "" {
		s.drawn = nil
	}
	io.WriteString(s.err, over+drawn+"\x1b[J")
}

// close leaves the last view in the terminal.
func (s *screen) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text, s.drawn = "", nil
}

// run shows the view and obeys keys until ctx ends, if this is a terminal.
func (s *screen) run(ctx context.Context) {
	if !s.live {
		return
	}
	keys, restore := readKeys(ctx)
	defer restore()
	// One after the other, since some take their time; q does not wait.
	type press struct {
		key byte
		seen
	}
	pressed := make(chan press, 8)
	var pressing sync.WaitGroup
	defer pressing.Wait()
	defer close(pressed)
	pressing.Go(func() {
		for p := range pressed {
			s.say("")
			s.press(ctx, p.key, p.seen)
		}
	})
	tick := time.NewTicker(redraw)
	defer tick.Stop()
	for {
		s.mu.Lock()
		said := s.said
		s.mu.Unlock()
		st := s.d.status()
		foot := keyHelp + "\n"
		if said != "" {
			foot += cut(said, 2*width) + "\n"
		}
		s.setView("\n"+view(st)+"\n", foot)
		sees := seen{st.Rollout.State.At(), st.Rollout.State.Phase == rollout.Paused}
		select {
		case <-tick.C:
		case k := <-keys:
			if k == 'q' {
				s.d.quit()
				continue
			}
			select {
			case pressed <- press{k, sees}:
			default:
				s.say("busy: too many keys wait for one another")
			}
		case <-ctx.Done():
			st := s.d.status()
			st.Stopped = true
			s.setView("\n"+view(st)+"\n", "")
			s.close()
			return
		}
	}
}

func (s *screen) say(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said = text
}

// press does what the key stands for, to what was seen when it was pressed.
func (s *screen) press(ctx context.Context, key byte, on seen) {
	d := s.d
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	again := s.sure == key && s.about == on.where()
	s.sure = 0
	submit := func(errors float64) error {
		if d.sample == nil {
			return fmt.Errorf("n and b are for the sample: use rollout submit VERSION weaver.toml")
		}
		if st := d.runner.Status().State; !st.Phase.Ended() && !again {
			s.sure, s.about = key, on.where()
			return fmt.Errorf("version %s is rolled out: press %c once more to give it up for %s", st.Plan.Version, key, d.next())
		}
		return d.submit(ctx, submission{Version: d.next(), Errors: errors, Plan: d.plan})
	}
	const who = "a key was pressed"
	var err error
	switch key {
	case 'n':
		err = submit(0)
	case 'b':
		err = submit(5)
	case 'p':
		err = d.runner.Pause(ctx, who, on.where())
	case 'r':
		err = d.runner.Resume(ctx, on.where())
	case 'P':
		err = d.runner.Promote(ctx, on.where())
	case 'a':
		err = d.runner.Abort(ctx, who, on.where())
	case 't':
		err = d.runner.Retry(ctx, on.where())
	}
	if err != nil {
		s.say(err.Error())
	}
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// dialable returns an address at which a client of this machine reaches one
// that may be that of all interfaces.
func dialable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsUnspecified() {
		return address
	}
	return net.JoinHostPort("localhost", port)
}
