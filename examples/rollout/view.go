package main

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/weaverkit/weaverkit/rollout"
)

// width is that of the view, in columns.
const width = 78

// view shows the status: where the rollout stands and what comes next, what each
// version gets, and last what may have one line or more.
func view(st status) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	s := st.Rollout.State
	left, right := headline(st)
	line("%s%s%s", left, strings.Repeat(" ", max(1, width-columns(left)-columns(right))), right)
	line("%s", bar(s))
	b.WriteString(field("now", now(s), 1))
	b.WriteString(field("next", next(st.Rollout), 1))
	b.WriteString(field("ends", ends(st), 1))
	for _, l := range st.Listeners {
		line("")
		line("%-9s http://%s", l.Name, dialable(l.Address))
		line("  %-12s %8s %9s %9s %8s %9s %9s", "version", "replicas", "weight", "measured", "req/s", "success", "p99")
		for _, r := range l.Rows {
			weight, share, rate, success, p99 := "–", "–", "–", "–", "–"
			if r.Weight >= 0 {
				weight = percent(float64(r.Weight)/rollout.Whole, 0)
			}
			if r.Requests > 0 {
				share, success, p99 = percent(r.Share, 1), percent(r.Success, 2), latency(r.P99)
				rate = fmt.Sprintf("%.1f", r.Rate)
			}
			line("  %-12s %8s %9s %9s %8s %9s %9s", cut(r.Version, 12), fmt.Sprintf("%d of %d", r.Serving, r.Wanted), weight, share, rate, success, p99)
		}
	}
	if l := st.Load; l != nil {
		line("")
		line("%-9s %d requests/s of our own: %d answered, %d failed", "load", l.Rate, l.OK, l.Failed)
	}
	line("")
	b.WriteString(field("verdict", verdict(s), 3))
	b.WriteString(field("why", why(st), 5))
	return b.String()
}

// headline says what is rolled out, and how that is going.
func headline(st status) (left, right string) {
	s := st.Rollout.State
	if s.Plan == nil {
		return st.App, string(s.Phase)
	}
	right = string(s.Phase)
	if n := len(s.Plan.Steps); s.Step < n && (s.Phase == rollout.Advancing || s.Phase == rollout.Paused) {
		right += fmt.Sprintf(", step %d of %d", s.Step+1, n)
		if st.Stopped {
			right = fmt.Sprintf("stopped in step %d of %d", s.Step+1, n)
		}
	}
	if s.Phase == rollout.RolledBack && s.Stable != nil {
		left = fmt.Sprintf("%s: version %s runs; %s was rolled back", st.App, s.Stable.ID, s.Plan.Version)
		return cut(left, width-columns(right)-1), right
	}
	left = fmt.Sprintf("%s: version %s", st.App, s.Plan.Version)
	if s.Stable != nil && s.Stable.ID != s.Plan.Version && !s.Phase.Ended() {
		left += " after " + s.Stable.ID
	}
	if s.Next != nil {
		left += ", then " + s.Next.Version
	}
	return cut(left, width-columns(right)-1), right
}

// bar shows how many of the steps are done.
func bar(s rollout.State) string {
	done := 0.0
	if s.Plan != nil && len(s.Plan.Steps) > 0 {
		n := float64(len(s.Plan.Steps))
		done = float64(s.Step) / n
		if s.Step < len(s.Plan.Steps) {
			if step := s.Plan.Steps[s.Step]; step.For > 0 {
				done += min(1, s.Held.Seconds()/step.For.Seconds()) / n
			}
		}
	}
	switch s.Phase {
	case rollout.Succeeded:
		done = 1
	case rollout.RollingBack, rollout.RolledBack, rollout.Idle:
		done = 0
	}
	full := int(done*width + 0.5)
	return strings.Repeat("━", full) + strings.Repeat("─", width-full)
}

// now describes the present step.
func now(s rollout.State) string {
	if s.Plan == nil || s.Step >= len(s.Plan.Steps) || s.Phase != rollout.Advancing && s.Phase != rollout.Paused {
		return ""
	}
	step := s.Plan.Steps[s.Step]
	text := step.String()
	if step.For > 0 {
		text += fmt.Sprintf(", %s left", duration(step.For-s.Held))
	}
	return text
}

// next describes the steps after the present one.
func next(r rollout.Status) string {
	var steps []string
	for i, p := range r.Schedule {
		if i > 0 {
			steps = append(steps, p.Step.String())
		}
	}
	return shorten(strings.Join(steps, ", "), width-10)
}

// ends says when the rollout ends, as far as that can be said.
func ends(st status) string {
	r := st.Rollout
	if len(r.Schedule) == 0 || st.Stopped {
		return ""
	}
	at := st.Now.Add(r.Remaining).Format(time.TimeOnly)
	switch {
	case r.State.Phase == rollout.Paused:
		return fmt.Sprintf("%s after it is resumed", duration(r.Remaining))
	case r.Certain:
		return fmt.Sprintf("in %s, at %s", duration(r.Remaining), at)
	default:
		return fmt.Sprintf("in about %s, at %s", duration(r.Remaining), at)
	}
}

// verdict says how the new version compares with the old one.
func verdict(s rollout.State) string {
	if s.Judgement == nil || s.Phase != rollout.Advancing && s.Phase != rollout.Paused {
		return "" // the reason says it
	}
	return s.Judgement.String()
}

// why says what is waited for, or why it has ended.
func why(st status) string {
	r := st.Rollout
	if st.Stopped {
		return "stopped; the next deploy goes on here"
	}
	lines := strings.Split(strings.TrimSpace(r.Why), "\n")
	if len(lines) > 1 && r.State.Phase == rollout.Advancing {
		lines = lines[1:] // the first says what is shown already
	}
	return strings.Join(lines, "; ")
}

// field formats a name and a text, which is broken into at most so many lines. It
// is empty if the text is.
func field(name, text string, most int) string {
	const indent = 10
	var b strings.Builder
	rest := strings.Join(strings.Fields(text), " ")
	for n := 0; rest != ""; n++ {
		part := rest
		if columns(rest) > width-indent {
			if n == most-1 {
				part = shorten(rest, width-indent)
				rest = ""
			} else {
				part = cutWords(rest, width-indent)
			}
		}
		rest = strings.TrimSpace(strings.TrimPrefix(rest, part))
		fmt.Fprintf(&b, "%-*s%s\n", indent, name, part)
		name = ""
	}
	return b.String()
}

// cutWords returns the words of the text that fit, at least one of them or what
// fits of it.
func cutWords(text string, most int) string {
	runes := []rune(text)
	if len(runes) <= most {
		return text
	}
	for i := most; i > 0; i-- {
		if runes[i] == ' ' {
			return string(runes[:i])
		}
	}
	return string(runes[:most])
}

// shorten returns the text, or what fits of its words and an ellipsis.
func shorten(text string, most int) string {
	if columns(text) <= most {
		return text
	}
	return strings.TrimRight(cutWords(text, most-2), ",;:") + " …"
}

// cut returns the text, or what fits of it and an ellipsis.
func cut(text string, most int) string {
	if columns(text) <= most {
		return text
	}
	return string([]rune(text)[:most-1]) + "…"
}

func columns(text string) int { return utf8.RuneCountInString(text) }

func percent(share float64, digits int) string { return fmt.Sprintf("%.*f %%", digits, 100*share) }

// duration formats a time that is left, to the second.
func duration(d time.Duration) string { return max(0, d).Round(time.Second).String() }

// latency formats a latency to three digits.
func latency(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.2f ms", d.Seconds()*1e3)
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1e3)
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", d.Seconds()*1e3)
	default:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
}
