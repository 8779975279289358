//go:build linux

package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"time"
)

const (
	churnRate  = 1000
	churnSteps = 100
	churnPause = 100 * time.Millisecond

	// grace is how long a replica lives on that has been removed from a subject
	// that cannot tell when its requests are done.
	grace = time.Second
)

// churn changes the backends all the time: one gets another weight, one is
// drained, one is removed and its process killed once it is drained, one is
// started and added, and again.
func (b *bench) churn() error {
	c := count{}
	names := []string{"requests", "failed", "over 1 s", "removed", "sent to one after its removal"}
	err := b.rounds(b.subjects, func(kind string) error { return b.churnOnce(c, kind) })
	if err != nil {
		return err
	}
	c.show(fmt.Sprintf("Backends added, drained, removed, reweighted every %v, %d requests/s", churnPause, churnRate), b.subjects, names)
	for _, kind := range b.judged() {
		n := c[kind]["failed"].sum()
		b.reach(kind, "backends change every 100 ms: failed", "0", fmt.Sprint(n), n == 0)
	}
	return nil
}

// A member is a replica as churn sees it.
type member struct {
	*replica
	weight  int
	removed time.Time // when set had returned without it
}

func (b *bench) churnOnce(c count, kind string) error {
	t, err := try(kind, 4, churnRate)
	if err != nil {
		return err
	}
	defer t.close()
	var live, removed []*member
	for _, r := range t.replicas {
		live = append(live, &member{replica: r, weight: 1})
	}
	set := func() error {
		var all []backend
		for _, m := range live {
			all = append(all, backend{m.address, m.weight})
		}
		return t.set(all)
	}
	tick := time.NewTicker(churnPause)
	defer tick.Stop()
	for step := range churnSteps {
		<-tick.C
		if t.drained == nil {
			for _, m := range removed {
				if time.Since(m.removed) > grace {
					m.end()
				}
			}
		}
		switch step % 4 {
		case 0:
			live[rand.IntN(len(live))].weight = 1 + rand.IntN(3)
		case 1: // the eldest leaves
			live[0].weight = 0
		case 2:
			m := live[0]
			live = live[1:]
			removed = append(removed, m)
			if err := set(); err != nil {
				return err
			}
			m.removed = time.Now()
			if t.drained == nil {
				continue
			}
			if err := t.drained(m.address); err != nil {
				return err
			}
			m.end()
			continue
		case 3:
			all, err := startReplicas(1)
			if err != nil {
				return err
			}
			t.replicas = append(t.replicas, all...)
			live = append(live, &member{replica: all[0], weight: 1})
		}
		if err := set(); err != nil {
			return err
		}
	}
	records := t.load.stop()
	late := 0
	for _, m := range removed {
		ids, err := m.received()
		if err != nil {
			return err
		}
		for _, id := range ids {
			if records[id].began.After(m.removed) {
				late++
			}
		}
	}
	slow := 0
	for _, r := range records {
		if r.took > time.Second {
			slow++
		}
	}
	c.add(kind, "requests", len(records))
	c.add(kind, "failed", b.failedOf(kind, records, whatever))
	c.add(kind, "over 1 s", slow)
	c.add(kind, "removed", len(removed))
	c.add(kind, "sent to one after its removal", late)
	return nil
}

// none takes all backends away for a while.
func (b *bench) none() error {
	const rate, gap = 500, 1500 * time.Millisecond
	c := count{}
	longest := map[string]sample{}
	err := b.rounds(b.subjects, func(kind string) error {
		t, err := try(kind, 2, rate)
		if err != nil {
			return err
		}
		defer t.close()
		if err := t.set(nil); err != nil {
			return err
		}
		time.Sleep(gap)
		if err := t.set(backendsOf(t.replicas)); err != nil {
			return err
		}
		back := time.Now()
		time.Sleep(2 * time.Second)
		records := t.load.stop()
		var most time.Duration
		for _, r := range records {
			most = max(most, r.took)
		}
		longest[kind] = append(longest[kind], most.Seconds())
		c.add(kind, "requests", len(records))
		c.add(kind, "failed", b.failedOf(kind, records, whatever))
		c.add(kind, "failed, begun later", b.failedOf(kind, records, func(r *record) bool { return r.began.After(back) }))
		return nil
	})
	if err != nil {
		return err
	}
	rows := [][]string{{"", "requests", "failed", "failed, begun when there were some again", "the longest took, s"}}
	for _, kind := range b.subjects {
		rows = append(rows, []string{kind, c[kind]["requests"].text(), c[kind]["failed"].text(), c[kind]["failed, begun later"].text(), longest[kind].text("%.2f")})
	}
	table(fmt.Sprintf("No backend for %v, %d requests/s", gap, rate), rows)
	for _, kind := range b.judged() {
		n := c[kind]["failed"].sum()
		b.reach(kind, "no backend for 1.5 s: failed", "0", fmt.Sprint(n), n == 0)
	}
	return nil
}

// idle measures the memory of connections that have made one request each.
func (b *bench) idle() error {
	const conns, settle = 10_000, 8 * time.Second
	perConn := map[string]sample{}
	err := b.rounds(b.subjects, func(kind string) error {
		var backends []backend
		for range 2 {
			p, err := startSelf("static")
			if err != nil {
				return err
			}
			defer p.end()
			address, err := p.expect("ready", patience)
			if err != nil {
				return err
			}
			backends = append(backends, backend{address, 1})
		}
		s, err := startSubject(kind, backends, speed)
		if err != nil {
			return err
		}
		defer s.end()
		// What the first requests cost for all time is not the connections'.
		if err := openIdle(s.address, 256, func() error { return nil }); err != nil {
			return err
		}
		time.Sleep(2 * time.Second)
		before, err := s.rss()
		if err != nil {
			return err
		}
		return openIdle(s.address, conns, func() error {
			time.Sleep(settle)
			after, err := s.rss()
			if err != nil {
				return err
			}
			if b.verbose {
				fmt.Fprintf(os.Stderr, "%s: %d KiB, then %d KiB\n", kind, before>>10, after>>10)
			}
			perConn[kind] = append(perConn[kind], float64(after-before)/conns/1024)
			return nil
		})
	})
	if err != nil {
		return err
	}
	rows := [][]string{{"", "KiB per connection"}}
	for _, kind := range b.subjects {
		rows = append(rows, []string{kind, perConn[kind].text("%.1f")})
	}
	table(fmt.Sprintf("Memory (RSS) of %d idle connections, %v after their one request", conns, settle), rows)
	for _, kind := range b.judged() {
		b.reach(kind, "idle connection", "≤ 4 KiB", perConn[kind].text("%.1f")+" KiB", perConn[kind].median() <= 4)
	}
	return nil
}

// openIdle opens connections that make one request each, and closes them when
// f has returned.
func openIdle(address string, conns int, f func() error) error {
	p, err := startSelf("idle", address, fmt.Sprint(conns))
	if err != nil {
		return err
	}
	defer p.end()
	if _, err := p.expect("open", time.Minute); err != nil {
		return err
	}
	return f()
}

// sse measures how late events come.
func (b *bench) sse() error {
	const streams, length = 16, 3 * time.Second
	p50, p99 := map[string]sample{}, map[string]sample{}
	subjects := append([]string{"direct"}, b.subjects...)
	err := b.rounds(subjects, func(kind string) error {
		replicas, err := startReplicas(2)
		if err != nil {
			return err
		}
		defer endReplicas(replicas)
		address := replicas[0].address
		if kind != "direct" {
			s, err := startSubject(kind, backendsOf(replicas), failures)
			if err != nil {
				return err
			}
			defer s.end()
			address = s.address
		}
		delays, err := readEvents(address, streams, length)
		if err != nil {
			return err
		}
		slices.Sort(delays)
		p50[kind] = append(p50[kind], delays[len(delays)/2])
		p99[kind] = append(p99[kind], delays[len(delays)*99/100])
		return nil
	})
	if err != nil {
		return err
	}
	rows := [][]string{{"", "p50, ms", "p99, ms"}}
	for _, kind := range subjects {
		rows = append(rows, []string{kind, p50[kind].text("%.2f"), p99[kind].text("%.2f")})
	}
	table(fmt.Sprintf("Server-sent events, one every %v on each of %d streams: from the backend to the client", eventPause, streams), rows)
	for _, kind := range b.judged() {
		added := p99[kind].minus(p99["direct"])
		b.reach(kind, "server-sent events: added delay, p99", "< 10 ms", added.text("%.2f")+" ms", added.median() < 10)
	}
	return nil
}
