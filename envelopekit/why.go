package envelopekit

import (
	"fmt"
	"strings"
	"time"

	"github.com/weaverkit/weaverkit/envelopekit/placement"
)

// Why explains the group's state in words, a line or more for the group and
// for each replica: what it is waiting for, since when, and what would make it
// go on. The error is about the name.
func (d *Deployment) Why(group string) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	g, err := d.groupLocked(group)
	if err != nil {
		return "", fmt.Errorf("why: %w", err)
	}
	now := time.Now()
	var b strings.Builder
	serving := 0
	for _, s := range g.slots {
		if s.state == Serving {
			serving++
		}
	}
	switch {
	case d.failure != nil:
		fmt.Fprintf(&b, "the deployment stops because it failed: %v\n", d.failure)
	case d.stopReason != "":
		fmt.Fprintf(&b, "the deployment stops: %s\n", d.stopReason)
	case !g.started && !d.running.Load():
		fmt.Fprintf(&b, "group %s: not started, since Run was not called\n", g.Name)
	case !g.started:
		fmt.Fprintf(&b, "group %s: not started, since no component that runs has asked for %s\n", g.Name, shortNames(g.Components))
	case g.want == 0:
		fmt.Fprintf(&b, "group %s: scaled to 0; callers wait until it is scaled up\n", g.Name)
	default:
		fmt.Fprintf(&b, "group %s: %d of %d replicas serve\n", g.Name, serving, g.want)
	}
	for _, s := range g.slots {
		fmt.Fprintf(&b, "replica %d: %s\n", s.number, d.whyLocked(s, now))
	}
	return b.String(), nil
}

func shortNames(components []string) string {
	var short []string
	for _, c := range components {
		short = append(short, placement.Shorten(c))
	}
	return strings.Join(short, ", ")
}

// whyLocked explains the slot's state.
func (d *Deployment) whyLocked(s *slot, now time.Time) string {
	since := now.Sub(s.since).Round(time.Millisecond)
	var b strings.Builder
	switch s.state {
	case Starting:
		switch r := s.replica; {
		case r == nil:
			fmt.Fprintf(&b, "starting for %v; its process must initialize within %v (%s)", since, d.opts.StartTimeout, s.reason)
		default:
			fmt.Fprintf(&b, "pid %d runs, starting for %v", r.pid, since)
			if m := missing(s.g.active, r.ready); len(m) > 0 {
				fmt.Fprintf(&b, "; waits for the Init method of %s to return", shortNames(m))
			}
			if r.routed {
				b.WriteString("; callers wait for it")
			}
		}
	case Serving:
		fmt.Fprintf(&b, "serving for %v, %d restarts", since, s.restarts)
		if s.replaced {
			b.WriteString("; another replica starts to take its place")
		}
	case Waiting:
		fmt.Fprintf(&b, "starts again in %v (failure %d in a row; given up after %d); it ended because: %s",
			max(0, s.next.Sub(now)).Round(time.Millisecond), s.count.failures, d.opts.Restart.GiveUp, s.reason)
	case Failed:
		fmt.Fprintf(&b, "%s\n  scale the group to try again", s.reason)
	default:
		fmt.Fprintf(&b, "%s for %v: %s", s.state, since, s.reason)
	}
	if r := s.replica; r != nil {
		if r.problem != "" {
			fmt.Fprintf(&b, "\n  the last call to it failed: %s", r.problem)
		}
		if r.complaint != "" && s.state == Starting {
			fmt.Fprintf(&b, "\n  the last error that it logged: %s", r.complaint)
		}
	}
	return b.String()
}
