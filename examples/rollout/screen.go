package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"
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
	said  string     // the answer to the last key
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

// draw returns what draws the view where the cursor is. What does not fit the
// terminal is left out.
func (s *screen) draw() string {
	if s.text == "" {
		return ""
	}
	rows, cols := terminalSize(s.err)
	s.drawn = strings.Split(strings.TrimSuffix(s.text, "\n"), "\n")
	if most := max(1, rows-1); len(s.drawn) > most {
		s.drawn = s.drawn[:most]
	}
	var b strings.Builder
	for _, line := range s.drawn {
		b.WriteString(cut(line, max(2, cols)) + "\n")
	}
	return b.String()
}

// setView changes the view.
func (s *screen) setView(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// In place, line by line, so that nothing flickers.
	over := ""
	if n := len(s.drawn); n > 0 {
		over = fmt.Sprintf("\x1b[%dA\r", n)
	}
	s.text = text
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
	pressed := make(chan byte, 8)
	var pressing sync.WaitGroup
	defer pressing.Wait()
	defer close(pressed)
	pressing.Go(func() {
		for k := range pressed {
			s.say("")
			s.press(ctx, k)
		}
	})
	tick := time.NewTicker(redraw)
	defer tick.Stop()
	for {
		s.mu.Lock()
		said := s.said
		s.mu.Unlock()
		text := "\n" + view(s.d.status()) + "\n" + keyHelp + "\n"
		if said != "" {
			text += cut(said, width) + "\n"
		}
		s.setView(text)
		select {
		case <-tick.C:
		case k := <-keys:
			if k == 'q' {
				s.d.ask()
				continue
			}
			select {
			case pressed <- k:
			default:
				s.say("busy: too many keys wait for one another")
			}
		case <-ctx.Done():
			s.setView("\n" + view(s.d.status()) + "\n")
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

// press does what the key stands for.
func (s *screen) press(ctx context.Context, key byte) {
	d := s.d
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	submit := func(errors float64) error {
		if d.sample == nil {
			return fmt.Errorf("n and b are for the sample: use rollout submit VERSION weaver.toml")
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
		err = d.runner.Pause(ctx, who)
	case 'r':
		err = d.runner.Resume(ctx)
	case 'P':
		err = d.runner.Promote(ctx)
	case 'a':
		err = d.runner.Abort(ctx, who)
	case 't':
		err = d.runner.Retry(ctx)
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
