//go:build linux

package main

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// A trial is a subject in front of replicas, under an open loop.
type trial struct {
	replicas []*replica
	*subject
	load *openLoop
}

// try starts everything and lets it run for a second.
func try(kind string, replicas, rate int) (*trial, error) {
	t := &trial{}
	var err error
	if t.replicas, err = startReplicas(replicas); err != nil {
		return nil, err
	}
	if t.subject, err = startSubject(kind, backendsOf(t.replicas), failures); err != nil {
		endReplicas(t.replicas)
		return nil, err
	}
	t.load = startOpenLoop(t.address, rate)
	time.Sleep(time.Second)
	return t, nil
}

func (t *trial) close() {
	endReplicas(t.replicas)
	t.subject.end()
}

// A tally is a number that was counted in every run.
type tally []int

func (t tally) sum() int {
	n := 0
	for _, v := range t {
		n += v
	}
	return n
}

func (t tally) most() int { return slices.Max(t) }

// text returns the sum and the numbers it is of.
func (t tally) text() string {
	if len(t) == 1 {
		return strconv.Itoa(t[0])
	}
	text := strconv.Itoa(t.sum()) + " ("
	for i, v := range t {
		if i > 0 {
			text += ", "
		}
		text += strconv.Itoa(v)
	}
	return text + ")"
}

// A count gathers tallies by subject and name.
type count map[string]map[string]tally

func (c count) add(kind, name string, n int) {
	if c[kind] == nil {
		c[kind] = map[string]tally{}
	}
	c[kind][name] = append(c[kind][name], n)
}

// show prints the tallies, a row for each subject.
func (c count) show(title string, subjects, names []string) {
	rows := [][]string{append([]string{""}, names...)}
	for _, kind := range subjects {
		row := []string{kind}
		for _, name := range names {
			row = append(row, c[kind][name].text())
		}
		rows = append(rows, row)
	}
	table(title, rows)
}

// failedOf prints the first errors of a run if that is wanted, and returns how
// many requests for which ok holds have failed.
func (b *bench) failedOf(kind string, records []*record, ok func(*record) bool) int {
	n := 0
	for _, r := range records {
		if r.err == nil || !ok(r) {
			continue
		}
		if n++; b.verbose && n <= 5 {
			fmt.Fprintf(os.Stderr, "%s: %s %d, begun %s, after %v: %v\n", kind, r.method, r.id, r.began.Format("05.000"), r.took, r.err)
		}
	}
	return n
}

func isPost(r *record) bool  { return r.method == http.MethodPost }
func notPost(r *record) bool { return !isPost(r) }
func whatever(*record) bool  { return true }

// kill kills one of two backends.
func (b *bench) kill() error {
	for _, rate := range []int{2000, 5000} {
		c := count{}
		err := b.rounds(b.subjects, func(kind string) error { return b.killOnce(c, kind, rate) })
		if err != nil {
			return err
		}
		c.show(fmt.Sprintf("One of two backends gets SIGKILL, %d requests/s of 20 ms each", rate), b.subjects,
			[]string{"requests", "failed, not POST", "POST failed", "read by the dead", "begun before its end", "begun later", "failed in the last second", "POST sent twice"})
		for _, kind := range b.judged() {
			what := fmt.Sprintf("SIGKILL at %d requests/s: ", rate)
			n := c[kind]["failed, not POST"].sum()
			b.reach(kind, what+"failed GET, HEAD, PUT, DELETE", "0", fmt.Sprint(n), n == 0)
			later, twice := c[kind]["begun later"].sum(), c[kind]["POST sent twice"].sum()
			b.reach(kind, what+"failed POST", "only those sent",
				fmt.Sprintf("%d, %d of them begun after the end; %d sent twice", c[kind]["POST failed"].sum(), later, twice), later == 0 && twice == 0)
		}
	}
	return nil
}

func (b *bench) killOnce(c count, kind string, rate int) error {
	t, err := try(kind, 2, rate)
	if err != nil {
		return err
	}
	defer t.close()
	// The longer it takes, the more requests are under way when it ends.
	for _, r := range t.replicas {
		if _, err := r.tell("delay", "20ms"); err != nil {
			return err
		}
	}
	time.Sleep(500 * time.Millisecond)
	dead := t.replicas[0]
	if err := dead.cmd.Process.Kill(); err != nil {
		return err
	}
	<-dead.exited
	gone := time.Now() // its sockets are closed
	time.Sleep(3 * time.Second)
	end := time.Now()
	records := t.load.stop()

	times := map[int]int{} // that a request was read by a backend
	read := map[int]bool{} // by the dead one
	for _, r := range t.replicas {
		ids, err := r.received()
		if err != nil {
			return err
		}
		for _, id := range ids {
			times[id]++
			read[id] = read[id] || r == dead
		}
	}
	var sent, before, later, twice int
	for _, r := range records {
		if !isPost(r) {
			continue
		}
		if times[r.id] > 1 {
			twice++
		}
		switch {
		case r.err == nil:
		case read[r.id]:
			sent++
		case r.began.Before(gone):
			before++
		default:
			later++
		}
	}
	c.add(kind, "requests", len(records))
	c.add(kind, "failed, not POST", b.failedOf(kind, records, notPost))
	c.add(kind, "POST failed", b.failedOf(kind, records, isPost))
	c.add(kind, "read by the dead", sent)
	c.add(kind, "begun before its end", before)
	c.add(kind, "begun later", later)
	c.add(kind, "POST sent twice", twice)
	c.add(kind, "failed in the last second", b.failedOf(kind, records, func(r *record) bool { return r.began.After(end.Add(-time.Second)) }))
	return nil
}

// stop stops one of two backends.
func (b *bench) stop() error {
	const rate = 1000
	c := count{}
	err := b.rounds(b.subjects, func(kind string) error {
		t, err := try(kind, 2, rate)
		if err != nil {
			return err
		}
		defer t.close()
		stopped := t.replicas[0]
		if err := stopped.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			return err
		}
		at := time.Now()
		time.Sleep(6 * time.Second)
		records := t.load.stop()
		if err := stopped.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			return err
		}
		time.Sleep(300 * time.Millisecond) // it reads what has waited
		ids, err := stopped.received()
		if err != nil {
			return err
		}
		slow, late, reached := 0, 0, 0
		for _, r := range records {
			if r.took > time.Second || r.err != nil {
				slow++
				if r.began.After(at.Add(time.Second)) {
					late++
				}
			}
		}
		for _, id := range ids {
			if records[id].began.After(at.Add(time.Second)) {
				reached++
			}
		}
		c.add(kind, "requests", len(records))
		c.add(kind, "failed or over 1 s", slow)
		c.add(kind, "failed", b.failedOf(kind, records, whatever))
		c.add(kind, "failed or over 1 s, begun after the first second", late)
		c.add(kind, "sent to it after the first second", reached)
		return nil
	})
	if err != nil {
		return err
	}
	c.show(fmt.Sprintf("One of two backends gets SIGSTOP for 6 s, %d requests/s", rate), b.subjects,
		[]string{"requests", "failed or over 1 s", "failed", "failed or over 1 s, begun after the first second", "sent to it after the first second"})
	for _, kind := range b.judged() {
		all, late := c[kind]["failed or over 1 s"], c[kind]["failed or over 1 s, begun after the first second"]
		b.reach(kind, "SIGSTOP: requests failed or over 1 s", "≤ 4, then avoided",
			fmt.Sprintf("at most %d, %d later", all.most(), late.most()), all.most() <= 4)
	}
	return nil
}

// slow makes one of two backends slow.
func (b *bench) slow() error {
	const rate = 1000
	share, p99 := map[string]sample{}, map[string]sample{}
	err := b.rounds(b.subjects, func(kind string) error {
		t, err := try(kind, 2, rate)
		if err != nil {
			return err
		}
		defer t.close()
		if _, err := t.replicas[0].tell("delay", "200ms"); err != nil {
			return err
		}
		at := time.Now()
		time.Sleep(10 * time.Second)
		records := t.load.stop()
		ids, err := t.replicas[0].received()
		if err != nil {
			return err
		}
		since := func(r *record) bool { return r.began.After(at) }
		n, all := 0, sample{}
		for _, id := range ids {
			if since(records[id]) {
				n++
			}
		}
		for _, r := range records {
			if since(r) {
				all = append(all, r.took.Seconds()*1e3)
			}
		}
		slices.Sort(all)
		share[kind] = append(share[kind], 100*float64(n)/float64(len(all)))
		p99[kind] = append(p99[kind], all[len(all)*99/100])
		if failed := b.failedOf(kind, records, whatever); failed > 0 {
			fmt.Fprintf(os.Stderr, "%s: %d requests failed beside a slow backend\n", kind, failed)
		}
		return nil
	})
	if err != nil {
		return err
	}
	rows := [][]string{{"", "requests sent to it, %", "p99, ms"}}
	for _, kind := range b.subjects {
		rows = append(rows, []string{kind, share[kind].text("%.2f"), p99[kind].text("%.1f")})
	}
	table(fmt.Sprintf("One of two backends takes 200 ms for 10 s, %d requests/s", rate), rows)
	for _, kind := range b.judged() {
		b.reach(kind, "200 ms slow: share of requests", "≤ 2 %", share[kind].text("%.2f")+" %", share[kind].median() <= 2)
	}
	return nil
}
