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

	"github.com/ServiceWeaver/weaver/runtime/colors"
	"github.com/ServiceWeaver/weaver/runtime/logging"
	"github.com/ServiceWeaver/weaver/runtime/protos"

	"github.com/weaverkit/weaverkit/envelopekit"
)

// A screen shows the log and, in a terminal, a status line below it.
type screen struct {
	out, err io.Writer
	live     bool // err is a terminal

	mu   sync.Mutex // guards the following
	line string     // the status line
}

func newScreen(out, err *os.File) *screen {
	info, e := err.Stat()
	return &screen{out: out, err: err, live: e == nil && info.Mode()&os.ModeCharDevice != 0}
}

// log shows a line above the status line.
func (s *screen) log(line string) { s.show(s.err, line+"\n") }

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
	s.wipe()
	io.WriteString(w, text)
	s.draw()
}

func (s *screen) wipe() {
	if s.line != "" {
		io.WriteString(s.err, "\r\x1b[K")
	}
}

func (s *screen) draw() { io.WriteString(s.err, s.line) }

// setLine changes the status line, if this is a terminal.
func (s *screen) setLine(line string) {
	if !s.live {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wipe()
	s.line = line
	s.draw()
}

func (s *screen) close() { s.setLine("") }

// printer returns a function that shows log entries of a level and above;
// those of the weavelets' runtime are shown only at the debug level.
func (s *screen) printer(least slog.Level) func(*protos.LogEntry) {
	pretty := logging.NewPrettyPrinter(s.live && colors.Enabled())
	return func(e *protos.LogEntry) {
		level := slog.LevelInfo // of output
		_ = level.UnmarshalText([]byte(e.Level))
		if level >= least && (least <= slog.LevelDebug || !logging.IsSystemGenerated(e)) {
			s.log(pretty.Format(e))
		}
	}
}

// watch shows how the deployment gets on, until ctx ends: trouble as it
// happens, listeners and groups when all is ready, and the status line.
func (s *screen) watch(ctx context.Context, d *envelopekit.Deployment) {
	ready := false
	for e := range d.Events(ctx, 0) {
		st := d.Status()
		if e.State == envelopekit.Waiting || e.State == envelopekit.Failed || e.Kind == envelopekit.Problem ||
			e.State == envelopekit.Serving && ready {
			s.log(fmt.Sprintf("%s %v", e.Time.Format(time.TimeOnly), e))
		}
		if !ready && st.Ready() && listening(st) {
			ready = true
			s.show(s.out, summary(st))
			s.log("ready; ctrl-C stops it")
		}
		s.setLine(statusLine(st))
	}
}

// listening reports whether all listeners of components that are in use have
// backends.
func listening(st envelopekit.Status) bool {
	active := map[string]bool{}
	for _, g := range st.Groups {
		for _, c := range g.Components {
			active[c.Name] = c.Active
		}
	}
	return !slices.ContainsFunc(st.Listeners, func(l envelopekit.ListenerStatus) bool {
		return active[l.Component] && len(l.Backends) == 0
	})
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

// summary returns a line for each listener and a table of groups and replicas.
func summary(st envelopekit.Status) string {
	var b strings.Builder
	for _, l := range st.Listeners {
		fmt.Fprintf(&b, "listener %s http://%s\n", l.Name, dialable(l.Address))
	}
	b.WriteString(st.String())
	return b.String()
}

// statusLine returns the status in one line.
func statusLine(st envelopekit.Status) string {
	serving, wanted, restarts := 0, 0, 0
	for _, g := range st.Groups {
		if !g.Started {
			continue
		}
		serving += g.Serving()
		wanted += g.Wanted
		for _, r := range g.Replicas {
			restarts += r.Restarts
		}
	}
	line := fmt.Sprintf("%s: %d of %d replicas serve", st.App, serving, wanted)
	if restarts > 0 {
		line += fmt.Sprintf(", %d restarts", restarts)
	}
	if st.Stopping {
		line += ", stopping"
	}
	return line
}
