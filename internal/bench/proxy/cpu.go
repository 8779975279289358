//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// nginxBuffers is nginx with as large buffers as its processor time gains from,
// which the row large shows beside the one with the buffers it has by default.
const nginxBuffers = "nginx, 1 MiB of buffers"

// A measured is what one run of a closed loop through a subject gave.
type measured struct {
	loopResult
	cpu time.Duration // of the subject
}

// closedLoop runs a closed loop through a new process of a subject with two
// static backends.
func (b *bench) closedLoop(kind, path string, conns, requests int) (measured, error) {
	var m measured
	var backends []backend
	for range 2 {
		p, err := startSelf("static")
		if err != nil {
			return m, err
		}
		defer p.end()
		address, err := p.expect("ready", patience)
		if err != nil {
			return m, err
		}
		backends = append(backends, backend{address, 1})
	}
	address := backends[0].address
	var s *subject
	if kind != "direct" {
		kind, a := kind, speed
		if kind == nginxBuffers {
			kind, a = "nginx", bigReply
		}
		var err error
		if s, err = startSubject(kind, backends, a); err != nil {
			return m, err
		}
		defer s.end()
		address = s.address
	}
	load, err := startSelf("closedloop", address, path, fmt.Sprint(conns), fmt.Sprint(requests))
	if err != nil {
		return m, err
	}
	defer load.end()
	if _, err := load.expect("warm", 5*time.Minute); err != nil {
		return m, err
	}
	profile := b.profile != "" && s != nil && s.drained != nil
	if profile {
		b.profiles++
		name := fmt.Sprintf("%s-%s-%d.%d.pprof", kind, filepath.Base(path), conns, b.profiles)
		if _, err := s.tell("profile", filepath.Join(b.profile, name)); err != nil {
			return m, err
		}
	}
	measure := func() (time.Duration, error) {
		if s == nil {
			return 0, nil
		}
		return s.cpu()
	}
	before, err := measure()
	if err != nil {
		return m, err
	}
	if _, err := fmt.Fprintln(load.in, "go"); err != nil {
		return m, err
	}
	text, err := load.expect("done", 5*time.Minute)
	if err != nil {
		return m, err
	}
	after, err := measure()
	if err != nil {
		return m, err
	}
	if profile {
		if _, err := s.tell("profiled"); err != nil {
			return m, err
		}
	}
	m.cpu = after - before
	if b.verbose {
		fmt.Fprintf(os.Stderr, "%s %s %d: subject %v, load %s\n", kind, path, conns, m.cpu, text)
	}
	return m, json.Unmarshal([]byte(text), &m.loopResult)
}

// rounds runs f for every subject in turn, again and again, so that what else
// the machine does meets all of them.
func (b *bench) rounds(subjects []string, f func(kind string) error) error {
	for range b.runs {
		for _, kind := range subjects {
			if err := f(kind); err != nil {
				return fmt.Errorf("%s: %w", kind, err)
			}
		}
	}
	return nil
}

// small measures processor time and latency with replies of 64 bytes.
func (b *bench) small() error {
	for _, conns := range b.conns {
		cpu, p50, p99, rate := map[string]sample{}, map[string]sample{}, map[string]sample{}, map[string]sample{}
		err := b.rounds(b.subjects, func(kind string) error {
			m, err := b.closedLoop(kind, "/small", conns, b.requests)
			if err != nil {
				return err
			}
			cpu[kind] = append(cpu[kind], m.cpu.Seconds()*100_000/float64(b.requests))
			p50[kind] = append(p50[kind], m.P50.Seconds()*1e3)
			p99[kind] = append(p99[kind], m.P99.Seconds()*1e3)
			rate[kind] = append(rate[kind], float64(b.requests)/m.Took.Seconds())
			return nil
		})
		if err != nil {
			return err
		}
		rows := [][]string{{"", "CPU seconds per 100,000 requests", "requests/s", "p50, ms", "p99, ms"}}
		for _, kind := range b.subjects {
			rows = append(rows, []string{kind, cpu[kind].text("%.2f"), rate[kind].text("%.0f"), p50[kind].text("%.2f"), p99[kind].text("%.2f")})
		}
		table(fmt.Sprintf("Replies of 64 bytes, %d connections", conns), rows)
		if b.rows["cpu"] {
			what := fmt.Sprintf("CPU per request, 64 bytes, %d connections, of that of ", conns)
			b.ratio(what+"reverseproxy", cpu, "reverseproxy", 0.45)
			b.ratio(what+"haproxy", cpu, "haproxy", 1.0)
			b.ratio(what+"nginx", cpu, "nginx", map[bool]float64{true: 1.0, false: 1.5}[conns >= 128])
		}
		if b.rows["p99"] && conns >= 128 {
			b.ratio(fmt.Sprintf("p99, %d connections, of that of haproxy", conns), p99, "haproxy", 1.3)
		}
	}
	return nil
}

// large measures processor time with replies of 10 MiB.
func (b *bench) large() error {
	const replies, conns = 400, 4
	cpu, took := map[string]sample{}, map[string]sample{}
	subjects := b.subjects
	if slices.Contains(subjects, "nginx") {
		subjects = append(slices.Clone(subjects), nginxBuffers)
	}
	err := b.rounds(subjects, func(kind string) error {
		m, err := b.closedLoop(kind, "/big", conns, replies)
		if err != nil {
			return err
		}
		gib := float64(replies) * bigSize / (1 << 30)
		cpu[kind] = append(cpu[kind], m.cpu.Seconds()*1e3/gib)
		took[kind] = append(took[kind], gib/m.Took.Seconds())
		return nil
	})
	if err != nil {
		return err
	}
	rows := [][]string{{"", "CPU milliseconds per GiB", "GiB/s"}}
	for _, kind := range subjects {
		rows = append(rows, []string{kind, cpu[kind].text("%.0f"), took[kind].text("%.2f")})
	}
	table(fmt.Sprintf("Replies of 10 MiB, %d connections", conns), rows)
	b.ratio("CPU per reply of 10 MiB, of that of nginx", cpu, "nginx", 0.6)
	return nil
}

// ratio compares every subject of interest with another one.
func (b *bench) ratio(what string, s map[string]sample, other string, bar float64) {
	for _, kind := range b.judged() {
		if kind == other || len(s[other]) == 0 {
			continue
		}
		r := s[kind].over(s[other])
		b.reach(kind, what, fmt.Sprintf("≤ %.2f×", bar), r.text("%.2f")+"×", r.median() <= bar)
	}
}
