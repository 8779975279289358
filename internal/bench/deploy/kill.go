//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/envelopekit/admin"
)

const killRate = 200 // requests a second

// A killing is what came of killing one replica.
type killing struct {
	sent, failed int64
	late         int64         // of failed: sent when the process had ended already
	inFlight     int64         // requests anywhere in the application at the kill
	routing      time.Duration // from the exit until the last caller knew
	serving      time.Duration // from the exit until another one serves
	dead         bool          // the application never answered again
}

// kill kills replicas of the shop under load: of an unrouted component and of
// the routed one with calls that may be repeated, of the main component, and
// of a component with calls that may not.
func (b *bench) kill() error {
	var own sample
	for range max(b.runs, 5) {
		p, err := startPlain(b.path("shop"), b.dir)
		if err != nil {
			return err
		}
		own = append(own, p.took)
		p.end()
	}
	rows := [][]string{{"killed at 200 requests/s", "deployer", "requests", "failed", "in flight then", "exit → routing", "exit → replaced"}}
	for _, victim := range []struct {
		group, component string
		orders           bool
	}{
		{"shop.Catalog", "Catalog", false},
		{"shop.Cart", "Cart", false},
		{"main", "main", false},
		{"shop.Checkout", "Checkout", true},
	} {
		what := victim.group + ", visits"
		if victim.orders {
			what = victim.group + ", orders"
		}
		var routing, serving sample
		var sent, failed, inFlight int64
		exceeded := false
		for range b.runs {
			k, err := b.killOurs(victim.group, victim.orders)
			if err != nil {
				return err
			}
			sent, failed, inFlight = sent+k.sent, failed+k.failed, inFlight+k.inFlight
			exceeded = exceeded || k.late > 0
			serving = append(serving, k.serving)
			if k.routing > 0 {
				routing = append(routing, k.routing)
			}
		}
		rows = append(rows, []string{what, "multi", fmt.Sprint(sent), fmt.Sprint(failed), fmt.Sprint(inFlight), routing.String(), serving.String()})
		if victim.orders {
			b.reach("calls that fail: "+what, "only those in flight", fmt.Sprintf("%d of %d, with %d in flight", failed, sent, inFlight), !exceeded)
		} else {
			b.reach("calls that fail: "+what, "none", fmt.Sprintf("%d of %d", failed, sent), failed == 0)
		}
		if len(routing) > 0 {
			b.reach("exit → routing updated: "+victim.group, "≤ 10 ms", routing.String(), routing.median() <= 10*time.Millisecond)
		}
		most := 200*time.Millisecond + own.median()
		b.reach("exit → replaced: "+victim.group, "≤ 200 ms + own start, "+short(own.median()), serving.String(), serving.median() <= most)

		k, err := b.killTheirs(victim.component, victim.orders)
		if err != nil {
			return err
		}
		end := "-"
		if k.dead {
			end = "never: all dead"
		}
		rows = append(rows, []string{"", "weaver multi", fmt.Sprint(k.sent), fmt.Sprint(k.failed), fmt.Sprint(k.inFlight), "-", end})
	}
	table("A replica killed with SIGKILL; multi: 3 replicas of each group", rows)
	fmt.Printf("\nThe application's own start, from exec until it waits for orders: %s.\n", own)
	return nil
}

// target returns the request to load the shop with.
func (s *site) target(orders bool) (method string, url func(int) string) {
	if orders {
		return "POST", func(n int) string { return s.url(fmt.Sprintf("/api/orders?user=u%d&product=gingham-towel", n)) }
	}
	return "GET", func(n int) string { return s.url(fmt.Sprintf("/api/visit?user=u%d", n)) }
}

// killOurs kills a replica of the group under our deployer.
func (b *bench) killOurs(group string, orders bool) (k killing, err error) {
	s, err := b.deploy("multi", "shop", false, "-replicas", "3", "-log-level", "debug")
	if err != nil {
		return k, err
	}
	defer s.end()
	if err := answers(s.url("/api/visit?user=ada")); err != nil {
		return k, err
	}
	ctx, cancel := within(patience)
	defer cancel()
	c, err := admin.Find(ctx, filepath.Join(s.dir, "weaverkit-multi"), "")
	if err != nil {
		return k, err
	}
	st, err := settled(ctx, c)
	if err != nil {
		return k, err
	}
	i := slices.IndexFunc(st.Groups, func(g envelopekit.GroupStatus) bool { return g.Name == group })
	victim := st.Groups[i].Replicas[1]
	callers := subscribers(group, st, victim.WeaveletID)

	l := startLoad(first2(s.target(orders)), second2(s.target(orders)), killRate)
	defer l.stop()
	if err := l.answered(killRate); err != nil {
		return k, err
	}
	logged := make(chan string, 1)
	logCtx, endLog := context.WithCancel(ctx)
	defer endLog()
	go func() {
		var text strings.Builder
		_ = c.Logs(logCtx, &text, 0, true)
		logged <- text.String()
	}()
	time.Sleep(50 * time.Millisecond) // for the log to be followed
	k.inFlight = l.inFlight.Load()
	exit, err := killAndWait(victim.Pid)
	if err != nil {
		return k, err
	}
	for e, err := range c.Events(ctx, 0) {
		if err != nil {
			return k, err
		}
		if e.Group == group && e.Replica == victim.Number && e.State == envelopekit.Serving && e.Time.After(exit) {
			k.serving = e.Time.Sub(exit)
			break
		}
	}
	if err := l.answered(2 * killRate); err != nil {
		return k, err
	}
	endLog()
	k.routing = rerouted(<-logged, group, strings.TrimPrefix(victim.Address, "tcp://"), exit, callers)
	l.stop()
	k.sent, k.failed = l.sent.Load(), int64(len(l.failed))
	for _, f := range l.failed {
		if f.began.After(exit) {
			k.late++
		}
	}
	for _, f := range l.failed[:min(3, len(l.failed))] {
		fmt.Fprintf(os.Stderr, "%s: %v after the exit: %v\n", group, f.at.Sub(exit), f.err)
	}
	return k, nil
}

func first2[A, B any](a A, _ B) A  { return a }
func second2[A, B any](_ A, b B) B { return b }

// subscribers returns the weavelets that are told where the group is, by the
// beginnings of their ids, and that outlive the victim.
func subscribers(group string, st envelopekit.Status, victim string) map[string]bool {
	told := map[string][]string{
		"shop.Catalog":  {"main", "shop.Checkout", "shop.Recommender"},
		"shop.Cart":     {"main", "shop.Checkout", "shop.Cart"}, // a routed component's own replicas, too
		"shop.Checkout": {"main"},
	}[group]
	ids := map[string]bool{}
	for _, g := range st.Groups {
		for _, r := range g.Replicas {
			if slices.Contains(told, g.Name) && r.WeaveletID != victim {
				ids[r.WeaveletID[:8]] = true
			}
		}
	}
	return ids
}

// settled waits until all replicas serve.
func settled(ctx context.Context, c *admin.Client) (envelopekit.Status, error) {
	for {
		st, err := c.Status(ctx)
		if err != nil || st.Ready() {
			return st, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// killAndWait kills a process and returns when it ended.
func killAndWait(pid int) (time.Time, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return time.Time{}, err
	}
	defer unix.Close(fd)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return time.Time{}, err
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(patience.Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return time.Time{}, err
		case n == 0:
			return time.Time{}, errors.New("it survives SIGKILL")
		default:
			return time.Now(), nil
		}
	}
}

var updated = regexp.MustCompile(`(?m)^D(\d{4} \d\d:\d\d:\d\d\.\d{6}) weavelet +(\S+) .*Updated routing info addr="\[(.*)\]".* component="(\S+?)"`)

// rerouted finds in the log how long after the exit the last of the callers
// had taken over routing without the dead replica. It returns 0 for a group
// that nobody calls.
func rerouted(log, group, dead string, exit time.Time, callers map[string]bool) time.Duration {
	known := map[string]time.Duration{}
	for _, m := range updated.FindAllStringSubmatch(log, -1) {
		at, err := time.ParseInLocation("0102 15:04:05.000000", m[1], time.Local)
		if err != nil || m[4] != group || !callers[m[2]] || strings.Contains(m[3], dead) {
			continue
		}
		at = at.AddDate(exit.Year(), 0, 0)
		if _, ok := known[m[2]]; !ok && at.After(exit.Add(-time.Millisecond)) {
			known[m[2]] = max(at.Sub(exit), time.Microsecond)
		}
	}
	var last time.Duration
	for _, d := range known {
		last = max(last, d)
	}
	if len(known) < len(callers) {
		fmt.Fprintf(os.Stderr, "%s: only %d of %d callers were told\n", group, len(known), len(callers))
		return patience
	}
	return last
}

// killTheirs kills the process of the component under upstream's deployer.
func (b *bench) killTheirs(component string, orders bool) (k killing, err error) {
	s, err := b.deploy("weaver", "shop", false)
	if err != nil {
		return k, err
	}
	defer s.end()
	if err := answers(s.url("/api/visit?user=ada")); err != nil {
		return k, err
	}
	resp, err := http.Get(s.url("/api/replicas?user=ada"))
	if err != nil {
		return k, err
	}
	defer resp.Body.Close()
	var replicas []struct {
		Component string
		PID       int
	}
	body, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(body, &replicas)
	}
	if err != nil {
		return k, fmt.Errorf("%w: %s", err, body)
	}
	l := startLoad(first2(s.target(orders)), second2(s.target(orders)), killRate)
	defer l.stop()
	if err := l.answered(killRate); err != nil {
		return k, err
	}
	for _, r := range replicas {
		if r.Component == component {
			k.inFlight = l.inFlight.Load()
			if _, err := killAndWait(r.PID); err != nil {
				return k, err
			}
			break
		}
	}
	time.Sleep(2 * time.Second)
	before := l.ok.Load()
	time.Sleep(time.Second)
	k.dead = l.ok.Load() == before
	l.stop()
	k.sent, k.failed = l.sent.Load(), int64(len(l.failed))
	return k, nil
}
