//go:build linux

package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weaverkit/weaverkit/rollout"
)

// together places all of the shop in one process: what matters here is how
// versions follow each other.
const together = `colocate = [[
	"github.com/ServiceWeaver/weaver/Main",
	"github.com/weaverkit/weaverkit/examples/shop/Cart",
	"github.com/weaverkit/weaverkit/examples/shop/Catalog",
	"github.com/weaverkit/weaverkit/examples/shop/Checkout",
	"github.com/weaverkit/weaverkit/examples/shop/Inventory",
	"github.com/weaverkit/weaverkit/examples/shop/Payment",
	"github.com/weaverkit/weaverkit/examples/shop/Recommender",
	"github.com/weaverkit/weaverkit/examples/shop/Stats",
]]`

// A rolling is a deployer that rolls out versions of the shop.
type rolling struct {
	*deployer
	state   string // directory
	address string
}

// rollingDeploy starts "rollout deploy" with a shop that calls itself v1.
func (h *home) rollingDeploy(t *testing.T, program string) *rolling {
	t.Helper()
	r := &rolling{state: filepath.Join(h.dir, "state")}
	r.deployer = h.start(t, program, "deploy", "-state", r.state, h.shopVersion(t, "v1", 0))
	r.address = r.listening(t, "shop")
	eventually(t, "v1 is rolled out", func() bool { return r.status(t).State.Phase == rollout.Succeeded })
	return r
}

// shopVersion writes the configuration of a version of the shop, of whose
// requests a percentage fails, and returns its path.
func (h *home) shopVersion(t *testing.T, version string, errors int) string {
	t.Helper()
	text := fmt.Sprintf("[serviceweaver]\nbinary = %q\nenv = [\"SHOP_VERSION=%s\"]\n%s\n", program(t, "shop"), version, together)
	text += fmt.Sprintf("[\"github.com/ServiceWeaver/weaver/Main\"]\ndebug_endpoints = true\nerror_percent = %d\n", errors)
	file := filepath.Join(h.dir, version+".toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// submit submits a version with a plan of the given steps, which is watched.
func (r *rolling) submit(t *testing.T, version string, errors int, steps ...rollout.Step) {
	t.Helper()
	r.submitFile(t, version, r.shopVersion(t, version, errors), steps...)
}

// submitFile does so with a version of any application.
func (r *rolling) submitFile(t *testing.T, version, config string, steps ...rollout.Step) {
	t.Helper()
	plan := rollout.Canary(steps...)
	plan.Watch = &rollout.Analysis{}
	data, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(r.dir, version+".json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	r.does(t, "submit", "-plan", file, version, config)
}

// command runs another command of rollout.
func (r *rolling) command(t *testing.T, args ...string) (output string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	args = slices.Insert(args, 1, "-state", r.state)
	cmd := exec.CommandContext(ctx, program(t, "rollout"), args...)
	cmd.Env = r.env
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// does runs a command that must succeed, and returns what it says.
func (r *rolling) does(t *testing.T, args ...string) string {
	t.Helper()
	out, status := r.command(t, args...)
	if status != 0 {
		t.Fatalf("rollout %s: exit status %d: %s", strings.Join(args, " "), status, out)
	}
	return out
}

// ask asks the deployer through its socket.
func (r *rolling) ask(t *testing.T, path string) []byte {
	t.Helper()
	sockets, _ := filepath.Glob(filepath.Join(r.state, "*.sock"))
	if len(sockets) != 1 {
		t.Fatalf("the deployer has the sockets %q, want one", sockets)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", sockets[0])
	}}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, Timeout: patience}
	resp, err := client.Get("http://deployer" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func (r *rolling) status(t *testing.T) rollout.Status {
	t.Helper()
	var st struct{ Rollout rollout.Status }
	if err := json.Unmarshal(r.ask(t, "/status"), &st); err != nil {
		t.Fatal(err)
	}
	return st.Rollout
}

func (r *rolling) events(t *testing.T) []rollout.Event {
	t.Helper()
	var events []rollout.Event
	for dec := json.NewDecoder(bytes.NewReader(r.ask(t, "/events?follow=false"))); ; {
		var e rollout.Event
		switch err := dec.Decode(&e); {
		case errors.Is(err, io.EOF):
			return events
		case err != nil:
			t.Fatal(err)
		}
		events = append(events, e)
	}
}

// event returns the newest event of the kind about the version, and its place
// among all events; -1 if there is none.
func event(events []rollout.Event, kind rollout.EventKind, version, reason string) (rollout.Event, int) {
	for i, e := range slices.Backward(events) {
		if e.Kind == kind && e.Version == version && strings.Contains(e.Reason, reason) {
			return e, i
		}
	}
	return rollout.Event{}, -1
}

// happens waits for an event, and returns it.
func (r *rolling) happens(t *testing.T, kind rollout.EventKind, version, reason string) (found rollout.Event) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s: %s: %s", version, kind, reason), func() bool {
		var i int
		found, i = event(r.events(t), kind, version, reason)
		return i >= 0
	})
	return found
}

// reaches waits until the rollout of the version is in the phase.
func (r *rolling) reaches(t *testing.T, version string, phase rollout.Phase) rollout.State {
	t.Helper()
	var s rollout.State
	eventually(t, fmt.Sprintf("version %s is %s", version, phase), func() bool {
		s = r.status(t).State
		return s.Plan != nil && s.Plan.Version == version && s.Phase == phase
	})
	return s
}

// only checks that nothing runs but the deployer and processes of the version.
func (r *rolling) only(t *testing.T, seen *answers, version string) {
	t.Helper()
	eventually(t, "only the deployer and "+version+" run", func() bool {
		for _, pid := range r.processes() {
			if pid != r.cmd.Process.Pid && !seen.pids(version)[pid] {
				return false
			}
		}
		return len(r.processes()) > 1
	})
}

// answers is a load that notes who answered each request.
type answers struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu  sync.Mutex // guards the following
	all []answer
}

type answer struct {
	at, ended time.Time
	version   string // "" if there was no answer
	pid       int
	failed    string // why, "" if it did not
}

// load sends requests, of several connections, at a rate.
func (r *rolling) load(t *testing.T, rate int) *answers {
	t.Helper()
	return r.loadOf(t, rate, patience)
}

// loadOf is the load of clients that give up after some time.
func (r *rolling) loadOf(t *testing.T, rate int, patience time.Duration) *answers {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	a := &answers{cancel: cancel}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: patience}
	address := r.address
	a.done.Go(func() {
		defer client.CloseIdleConnections()
		var requests sync.WaitGroup
		defer requests.Wait()
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			requests.Go(func() { a.ask(client, fmt.Sprintf("%s/api/visit?user=u%d", address, n)) })
		}
	})
	t.Cleanup(func() { a.stop() })
	return a
}

func (a *answers) ask(client *http.Client, url string) {
	x := answer{at: time.Now()}
	resp, err := client.Get(url)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		x.version = resp.Header.Get("Shop-Version")
		_, pid, _ := strings.Cut(resp.Header.Get("Shop-Replica"), "/")
		x.pid, _ = strconv.Atoi(pid)
		if resp.StatusCode != http.StatusOK {
			x.failed = resp.Status
		}
	}
	if err != nil {
		x.failed = err.Error()
	}
	x.ended = time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all = append(a.all, x)
}

// stop ends the load, waits for what is under way, and returns all answers.
func (a *answers) stop() []answer {
	a.cancel()
	a.done.Wait()
	return a.sofar()
}

func (a *answers) sofar() []answer {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.all)
}

// answered waits until the version has answered that many requests.
func (a *answers) answered(t *testing.T, version string, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("version %s answers %d requests", version, n), func() bool { return tally(a.sofar())[version] >= n })
}

// pids returns the processes of the version that have answered.
func (a *answers) pids(version string) map[int]bool {
	pids := map[int]bool{}
	for _, x := range a.sofar() {
		if x.version == version {
			pids[x.pid] = true
		}
	}
	return pids
}

// tally counts answers by version.
func tally(all []answer) map[string]int {
	n := map[string]int{}
	for _, x := range all {
		n[x.version]++
	}
	return n
}

// failedOf returns the failures among the answers.
func failedOf(all []answer) (failed []answer) {
	for _, x := range all {
		if x.failed != "" {
			failed = append(failed, x)
		}
	}
	return failed
}

// during returns the requests that began and ended between two times.
func during(all []answer, from, to time.Time) (part []answer) {
	for _, x := range all {
		if x.at.After(from) && x.ended.Before(to) {
			part = append(part, x)
		}
	}
	return part
}

// TestRollout moves the traffic to a second version, of which no request may
// fail, and finds the shares that the plan asks for.
func TestRollout(t *testing.T) {
	full(t)
	t.Parallel()
	r := newHome(t).rollingDeploy(t, program(t, "rollout-raced"))
	l := r.load(t, 100)
	l.answered(t, "v1", 20)
	r.submit(t, "v2", 0,
		rollout.SetWeight(10), rollout.Bake(3*time.Second),
		rollout.SetWeight(50), rollout.Bake(3*time.Second))
	r.reaches(t, "v2", rollout.Succeeded)
	l.answered(t, "v2", tally(l.sofar())["v2"]+50)
	r.only(t, l, "v2")
	all := l.stop()
	if failed := failedOf(all); len(failed) > 0 {
		t.Errorf("%d of %d requests failed, the first: %+v", len(failed), len(all), failed[0])
	}
	events := r.events(t)
	for _, share := range []int{10, 50} {
		begin, i := event(events, rollout.WeightsApplied, "", fmt.Sprintf("v2 %d %%", share))
		end, j := event(events, rollout.StepBegun, "v2", map[int]string{10: "set weight 50 %", 50: "promote"}[share])
		if i < 0 || j < 0 {
			t.Fatalf("no weight of %d %% was applied: %v", share, events)
		}
		part := during(all, begin.Time, end.Time)
		n := tally(part)
		got := 100 * float64(n["v2"]) / float64(max(1, len(part)))
		t.Logf("at %d %%: v2 answered %d of %d requests, %.1f %%", share, n["v2"], len(part), got)
		// The proxy divides exactly; some requests are at the edges.
		if len(part) < 60 || got < float64(share)*0.7 || got > float64(share)*1.3 {
			t.Errorf("at %d %%: v2 answered %d of %d requests", share, n["v2"], len(part))
		}
	}
	t.Logf("%d requests, %v by version, none failed", len(all), tally(all))
	// v1 has no traffic once v2 has all of it.
	promoted, _ := event(events, rollout.StepBegun, "v2", "stop old")
	for _, x := range all {
		if x.version != "v2" && x.at.After(promoted.Time.Add(time.Second)) {
			t.Errorf("a request of %v was answered by %s, though v2 has had all traffic since %v", x.at, x.version, promoted.Time)
			break
		}
	}
	r.stops(t)
}

// TestRolloutOfABadVersion submits one of whose requests 5 % fail: it goes back
// by itself, and only its own share of the traffic is harmed.
func TestRolloutOfABadVersion(t *testing.T) {
	full(t)
	t.Parallel()
	r := newHome(t).rollingDeploy(t, program(t, "rollout"))
	l := r.load(t, 200)
	l.answered(t, "v1", 20)
	r.submit(t, "v2", 5, rollout.SetWeight(20), rollout.Bake(time.Hour))
	s := r.reaches(t, "v2", rollout.RolledBack)
	if !strings.HasPrefix(s.Reason, "fail: ") {
		t.Errorf("it went back for another reason: %s", s.Reason)
	}
	events := r.events(t)
	begin, _ := event(events, rollout.WeightsApplied, "", "v2 20 %")
	end, _ := event(events, rollout.WeightsApplied, "", "v1 100 %")
	const many = 1000
	eventually(t, fmt.Sprintf("%d requests since v2 had traffic", many), func() bool {
		return len(during(l.sofar(), begin.Time, time.Now())) >= many
	})
	r.only(t, l, "v1")
	all := l.stop()
	window := during(all, begin.Time, end.Time)
	failed := failedOf(all)
	for _, x := range failed {
		if x.version != "v2" {
			t.Errorf("a request failed that was not v2's: %+v", x)
		}
		if x.at.After(end.Time.Add(time.Second)) {
			t.Errorf("a request failed after v2 was rolled back: %+v", x)
		}
	}
	// While it has 20 % of the traffic, of which 5 % fail, 1 % of all requests
	// are harmed. It is stopped after a handful, early or late: so there is a
	// bound for them among the first thousand. In full traffic it were 50.
	t.Logf("rolled back %v after its first request: %d requests meanwhile, %v by version, %d failed, %.2f %%: %s",
		end.Time.Sub(begin.Time).Round(time.Millisecond), len(window), tally(window), len(failed),
		100*float64(len(failed))/float64(max(1, len(window))), s.Reason)
	if len(failed) == 0 || len(failed) > 15 {
		t.Errorf("%d of the first %d requests failed, want at most 15", len(failed), many)
	}
	if n := tally(window); n["v2"]*3 > len(window) {
		t.Errorf("v2 had more than its share: %v", n)
	}
	r.stops(t)
}

// TestRolloutOfASilentVersion submits one that accepts requests and does not
// answer. Clients that give up before the proxy does show that, too.
func TestRolloutOfASilentVersion(t *testing.T) {
	full(t)
	t.Parallel()
	h := newHome(t)
	r := &rolling{state: filepath.Join(h.dir, "state")}
	r.deployer = h.start(t, program(t, "rollout"), "deploy", "-state", r.state, h.misfit(t, ""))
	r.address = r.listening(t, "misfit")
	eventually(t, "v1 is rolled out", func() bool { return r.status(t).State.Phase == rollout.Succeeded })
	l := r.loadOf(t, 50, 4*time.Second)
	r.submitFile(t, "v2", h.misfit(t, "never answer"), rollout.SetWeight(20), rollout.Bake(time.Hour))
	if s := r.reaches(t, "v2", rollout.RolledBack); !strings.HasPrefix(s.Reason, "fail: ") {
		t.Errorf("it went back for another reason: %s", s.Reason)
	}
	if failed := failedOf(l.stop()); len(failed) == 0 {
		t.Error("it has answered")
	}
	r.stops(t)
}

// TestRolloutSurvivesItsDeployer kills the deployer in the middle of a step, and
// everything with it. The next one goes on.
func TestRolloutSurvivesItsDeployer(t *testing.T) {
	full(t)
	t.Parallel()
	h := newHome(t)
	r := h.rollingDeploy(t, program(t, "rollout-raced"))
	l := r.load(t, 50)
	bakes := []time.Duration{4 * time.Second, time.Second}
	r.submit(t, "v2", 0,
		rollout.SetWeight(30), rollout.Bake(bakes[0]),
		rollout.SetWeight(60), rollout.Bake(bakes[1]))
	r.happens(t, rollout.StepBegun, "v2", "bake 4s")
	l.answered(t, "v2", 15)
	r.signal(t, syscall.SIGKILL)
	killed := time.Now()
	r.ends(t, -1)
	before := l.stop()
	eventually(t, "all processes end", func() bool { return len(h.processes()) == 0 })
	for _, x := range failedOf(before) {
		if x.ended.Before(killed) {
			t.Errorf("a request failed before the deployer was killed: %+v", x)
		}
	}

	address := r.address
	r.deployer = h.start(t, program(t, "rollout-raced"), "deploy", "-state", r.state, h.shopVersion(t, "v1", 0))
	if r.address = r.listening(t, "shop"); r.address != address {
		t.Errorf("the listener was at %s, and is at %s", address, r.address)
	}
	l = r.load(t, 50)
	r.reaches(t, "v2", rollout.Succeeded)
	l.answered(t, "v2", tally(l.sofar())["v2"]+20)
	r.only(t, l, "v2")
	after := l.stop()
	if failed := failedOf(after); len(failed) > 0 {
		t.Errorf("%d of %d requests failed after the restart, the first: %+v", len(failed), len(after), failed[0])
	}
	if n := tally(after); n["v1"] == 0 || n["v2"] == 0 {
		t.Errorf("after the restart requests were answered by %v: the step did not go on", n)
	}
	if tally(before)["v1"] == 0 {
		t.Error("v1 answered nothing before")
	}
	survivors := l.pids("v1")
	for _, x := range before {
		if x.version == "v1" && survivors[x.pid] {
			t.Errorf("process %d of v1 has survived", x.pid)
			break
		}
	}

	events := r.events(t)
	for i, e := range events[:len(events)-1] {
		if e.Seq+1 != events[i+1].Seq {
			t.Errorf("event %d is followed by %d", e.Seq, events[i+1].Seq)
		}
	}
	taken, i := event(events, rollout.TakenOver, "", "")
	if i < 0 {
		taken, i = event(events, rollout.TakenOver, "v2", "")
	}
	if i < 0 {
		t.Fatalf("nobody has taken over: %v", events)
	}
	away := taken.Time.Sub(killed)
	for n, bake := range bakes {
		begin, i := event(events, rollout.StepBegun, "v2", fmt.Sprintf("bake %v", bake))
		end, j := event(events, rollout.StepBegun, "v2", []string{"set weight 60 %", "promote"}[n])
		if i < 0 || j < 0 {
			t.Fatalf("a step is missing: %v", events)
		}
		took := end.Time.Sub(begin.Time)
		if n == 0 {
			took -= away
		}
		t.Logf("bake %v took %v, without the %v that nobody was there", bake, took, away)
		if took < bake-10*time.Millisecond { // the clock on the wall may be set
			t.Errorf("bake %v took only %v", bake, took)
		}
	}
	r.stops(t)
}

// TestRolloutCommands steers a rollout from another process.
func TestRolloutCommands(t *testing.T) {
	full(t)
	t.Parallel()
	r := newHome(t).rollingDeploy(t, program(t, "rollout-raced"))
	refused := func(text string, args ...string) {
		t.Helper()
		if out, status := r.command(t, args...); status != 1 || !strings.Contains(out, text) || strings.Count(out, "\n") != 1 {
			t.Errorf("rollout %s: exit status %d: %s", strings.Join(args, " "), status, out)
		}
	}
	l := r.load(t, 50)
	l.answered(t, "v1", 5)
	refused("ended", "resume")
	steps := []rollout.Step{rollout.SetWeight(60), rollout.Bake(time.Hour)}
	r.submit(t, "v2", 0, steps...)
	r.submit(t, "v2", 0, steps...) // the same once more is nothing new
	refused("there already", "submit", "v2", r.shopVersion(t, "v2", 1))
	r.shopVersion(t, "v2", 0)

	r.happens(t, rollout.StepBegun, "v2", "bake 1h0m0s")
	refused("it was meant for version v1, but now it would be about version v2", "pause", "-at", "v1")
	r.does(t, "pause", "-at", "v2:4", "lunch")
	r.does(t, "pause")
	s := r.reaches(t, "v2", rollout.Paused)
	time.Sleep(time.Second) // of which nothing counts
	if again := r.status(t).State; again.Phase != rollout.Paused || again.Step != s.Step || again.Held != s.Held {
		t.Errorf("it did not stay where it was: %s, step %d, of which %v have passed, after %v", again.Phase, again.Step, again.Held, s.Held)
	}
	for _, command := range []string{"why", "status"} {
		if out := r.does(t, command); !strings.Contains(out, "lunch") {
			t.Errorf("rollout %s does not say why it is paused:\n%s", command, out)
		}
	}
	l.answered(t, "v2", 5)
	refused("it was meant for version v2, step 3", "resume", "-at", "v2:3")
	r.does(t, "resume", "-at", "v2:4")
	refused("refused", "resume", "-at", "v2:5")
	eventually(t, "it goes on", func() bool { return r.status(t).State.Held > s.Held })
	out := r.does(t, "status")
	for _, want := range []string{"shop: version v2 after v1", "advancing, step 4 of 6", "60 %", "40 %", "1 of 1"} {
		if !strings.Contains(out, want) {
			t.Errorf("rollout status does not say %q:\n%s", want, out)
		}
	}
	for _, line := range strings.Split(out, "\n") {
		if n := len([]rune(line)); n > 80 {
			t.Errorf("a line has %d columns: %s", n, line)
		}
	}

	r.does(t, "abort", "no good feeling")
	if s := r.reaches(t, "v2", rollout.RolledBack); s.Reason != "no good feeling" {
		t.Errorf("the reason is %q", s.Reason)
	}
	r.only(t, l, "v1")
	r.does(t, "abort")
	refused("refused", "resume")
	refused("refused", "pause")

	r.does(t, "retry")
	r.happens(t, rollout.StepBegun, "v2", "set weight 60 %")
	r.does(t, "promote")
	r.reaches(t, "v2", rollout.Succeeded)
	l.answered(t, "v2", tally(l.sofar())["v2"]+10)
	r.only(t, l, "v2")
	if failed := failedOf(l.stop()); len(failed) > 0 {
		t.Errorf("%d requests failed, the first: %+v", len(failed), failed[0])
	}
	if out := r.does(t, "events"); !strings.Contains(out, "v2: paused: lunch") {
		t.Errorf("rollout events:\n%s", out)
	}
	if out, status := r.command(t, "submit", "v3", filepath.Join(r.dir, "nonsense.toml")); status != 1 || !strings.Contains(out, "no such file") {
		t.Errorf("submit of a file that is not there: exit status %d: %s", status, out)
	}
	r.does(t, "stop")
	r.ends(t, 0)
}

// TestRolloutIsSuperseded submits a version while another one is rolled out.
func TestRolloutIsSuperseded(t *testing.T) {
	full(t)
	t.Parallel()
	r := newHome(t).rollingDeploy(t, program(t, "rollout"))
	l := r.load(t, 50)
	r.submit(t, "v2", 0, rollout.SetWeight(30), rollout.Bake(time.Hour))
	l.answered(t, "v2", 5)
	// A request that v2 has begun to answer is answered.
	slow := make(chan error, 1)
	go func() { slow <- slowRequest(r.address, "v2", 1500*time.Millisecond) }()
	time.Sleep(200 * time.Millisecond)
	r.submit(t, "v3", 0, rollout.SetWeight(30), rollout.Bake(time.Second))
	s := r.reaches(t, "v3", rollout.Succeeded)
	if err := <-slow; err != nil {
		t.Errorf("a request of v2's that was in flight: %v", err)
	}
	if s.Counters.Superseded != 1 || s.Counters.RolledBack != 1 {
		t.Errorf("counters: %+v", s.Counters)
	}
	l.answered(t, "v3", tally(l.sofar())["v3"]+20)
	r.only(t, l, "v3")
	all := l.stop()
	if failed := failedOf(all); len(failed) > 0 {
		t.Errorf("%d of %d requests failed, the first: %+v", len(failed), len(all), failed[0])
	}
	// v2 was gone before v3 had any traffic.
	events := r.events(t)
	stopped, i := event(events, rollout.Stopped, "v2", "")
	begun, j := event(events, rollout.WeightsApplied, "", "v3 30 %")
	if i < 0 || j < i {
		t.Errorf("v2 was stopped at %v, v3 had traffic at %v: %v", stopped, begun, events)
	}
	r.stops(t)
}

// slowRequest makes a request for a version by name, which takes some time.
func slowRequest(address, version string, takes time.Duration) error {
	return do(&http.Client{Timeout: patience}, func(ctx context.Context, _ int) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("%s/debug/shop/slow?for=%v", address, takes), nil)
		if err == nil {
			req.Header.Set("Weaverkit-Version", version)
		}
		return req, err
	}, 0)
}

// TestRolloutStops stops the deployer in the middle of a rollout, gracefully,
// and, where the application does not stop, at once.
func TestRolloutStops(t *testing.T) {
	full(t)
	t.Parallel()
	h := newHome(t)
	r := h.rollingDeploy(t, program(t, "rollout-raced"))
	l := r.load(t, 50)
	r.submit(t, "v2", 0, rollout.SetWeight(30), rollout.Bake(3*time.Second))
	l.answered(t, "v2", 5)
	slow := make(chan error, 1)
	go func() { slow <- slowRequest(r.address, "v2", 4*time.Second) }()
	time.Sleep(200 * time.Millisecond)
	r.signal(t, syscall.SIGTERM)
	signalled := time.Now()
	r.ends(t, 0)
	if err := <-slow; err != nil {
		t.Errorf("a request that was in flight: %v", err)
	}
	for _, x := range failedOf(l.stop()) {
		if !strings.Contains(x.failed, "connection refused") {
			t.Errorf("a request failed that was accepted: %+v", x)
			break
		}
	}
	// The next one goes on.
	r.deployer = h.start(t, program(t, "rollout-raced"), "deploy", "-state", r.state, h.shopVersion(t, "v1", 0))
	r.listening(t, "shop")
	r.reaches(t, "v2", rollout.Succeeded)
	events := r.events(t)
	taken := slices.IndexFunc(events, func(e rollout.Event) bool { return e.Kind == rollout.TakenOver })
	for _, e := range events[:max(taken, 0)] {
		// The bake lasts longer than this second, and the slow request than it.
		if e.Kind == rollout.StepBegun && e.Time.After(signalled.Add(time.Second)) {
			t.Errorf("the rollout went on while nobody listened: %v", e)
		}
	}
	if taken < 0 {
		t.Errorf("nobody has taken over: %v", events)
	}
	r.stops(t)

	port := freePort(t)
	d := h.start(t, program(t, "rollout-raced"), "deploy", "-state", filepath.Join(h.dir, "state2"), h.app(t, "misfit",
		`env = ["MISFIT=block stop"]`, "[rollout]", fmt.Sprintf(`listeners.misfit = {address = "localhost:%d"}`, port)))
	if address := d.listening(t, "misfit"); !strings.HasSuffix(address, fmt.Sprintf(":%d", port)) {
		t.Errorf("the listener is at %s, want port %d", address, port)
	}
	d.signal(t, syscall.SIGINT)
	d.says(t, &d.err, "stopping; once more stops at once")
	select {
	case <-d.exited:
		t.Error("the deployer did not wait for its weavelets")
	case <-time.After(500 * time.Millisecond):
	}
	d.signal(t, syscall.SIGINT)
	d.ends(t, 130)
}

// TestRolloutPreviewAndSessions asks for a version by name before it has any
// traffic, and keeps sessions on one version.
func TestRolloutPreviewAndSessions(t *testing.T) {
	full(t)
	t.Parallel()
	r := newHome(t).rollingDeploy(t, program(t, "rollout"))
	visit := func(client *http.Client, header string) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "GET", r.address+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Weaverkit-Version", header)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status)
		}
		return resp.Header.Get("Shop-Version")
	}
	r.does(t, "submit", "-plan", "bluegreen", "-bake", "200ms", "v2", r.shopVersion(t, "v2", 0))
	r.reaches(t, "v2", rollout.Paused)
	for header, want := range map[string]string{"": "v1", "v1": "v1", "v2": "v2", "v9": "v1"} {
		for range 10 {
			if got := visit(http.DefaultClient, header); got != want {
				t.Errorf("a request for version %q is answered by %s, want %s", header, got, want)
			}
		}
	}
	if out := r.does(t, "why"); !strings.Contains(out, "header Weaverkit-Version: v2") {
		t.Errorf("rollout why does not say how to try it:\n%s", out)
	}
	r.does(t, "resume")
	r.reaches(t, "v2", rollout.Succeeded)
	if got := visit(http.DefaultClient, ""); got != "v2" {
		t.Errorf("a request is answered by %s", got)
	}

	plan := rollout.Canary(rollout.SetWeight(50), rollout.Bake(time.Hour))
	file := filepath.Join(r.dir, "sticky.json")
	data, err := json.Marshal(plan)
	if err == nil {
		err = os.WriteFile(file, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	r.does(t, "submit", "-plan", file, "-sticky", "v3", r.shopVersion(t, "v3", 0))
	r.happens(t, rollout.StepBegun, "v3", "bake 1h0m0s")
	sessions := map[string]int{}
	for range 40 {
		jar, err := cookiejar.New(nil)
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Jar: jar}
		first := visit(client, "")
		sessions[first]++
		for range 4 {
			if got := visit(client, ""); got != first {
				t.Fatalf("a session that began with %s was answered by %s", first, got)
			}
		}
	}
	// That one of them has 4 or fewer of 40 is less likely than one in a million.
	if sessions["v2"] < 5 || sessions["v3"] < 5 {
		t.Errorf("sessions by version: %v", sessions)
	}
	r.does(t, "promote")
	r.reaches(t, "v3", rollout.Succeeded)
	r.stops(t)
}

// TestRolloutOfMisfits runs an application that ends, which is started again,
// and rolls out versions that do not work.
func TestRolloutOfMisfits(t *testing.T) {
	full(t)
	t.Parallel()
	h := newHome(t)
	r := &rolling{state: filepath.Join(h.dir, "state")}
	r.deployer = h.start(t, program(t, "rollout"), "deploy", "-state", r.state, h.misfit(t, ""))
	r.address = r.listening(t, "misfit")
	first := get(t, r.address)
	if got := get(t, r.address+"/end"); got != "" {
		t.Errorf("it answers %q", got)
	}
	eventually(t, "its processes are others", func() bool { return get(t, r.address) != first })
	r.says(t, &r.err, "version v1 has ended, and is started again")

	for _, tt := range []struct{ way, why string }{
		{"exit at start", "no database at db:5432"},
		{"fail init", "no licence for a helper"},
		{"end main", "its main function has returned"},
	} {
		version := strings.ReplaceAll(tt.way, " ", "-")
		out, status := r.command(t, "submit", "-wait", version, h.misfit(t, tt.way))
		if status != 1 || !strings.Contains(out, "version "+version+" was rolled back: ") || !strings.Contains(out, tt.why) {
			t.Errorf("%s: exit status %d: %s", tt.way, status, out)
		}
	}
	r.does(t, "submit", "v2", h.misfit(t, "block init"))
	eventually(t, "why says what it waits for", func() bool { return strings.Contains(r.does(t, "why"), "the Init method of") })
	r.does(t, "abort")
	r.reaches(t, "v2", rollout.RolledBack)
	r.does(t, "submit", "-plan", "all", "-wait", "v2", h.misfit(t, ""))
	get(t, r.address)
	r.stops(t)

	r = &rolling{state: filepath.Join(h.dir, "state2")}
	r.deployer = h.start(t, program(t, "rollout"), "deploy", "-state", r.state, h.misfit(t, "exit at start"))
	r.ends(t, 1)
	if text := r.err.String(); !strings.Contains(text, "no database at db:5432") {
		t.Errorf("it does not say why:\n%s", text)
	}
}

// TestRolloutTerminal presses keys.
func TestRolloutTerminal(t *testing.T) {
	full(t)
	t.Parallel()
	h := newHome(t)
	r := &rolling{state: filepath.Join(h.dir, "state")}
	d, terminal, read := h.startInTerminal(t, program(t, "rollout-raced"), "deploy", "-state", r.state, "-load", "100", "-bake", "2s")
	r.deployer = d
	press := func(key byte) {
		t.Helper()
		if _, err := terminal.Write([]byte{key}); err != nil {
			t.Fatal(err)
		}
	}
	d.says(t, &d.err, "v1: succeeded")
	press('n')
	r.happens(t, rollout.StepBegun, "v2", "set weight 25 %")
	press('n')
	d.says(t, &d.err, "version v2 is rolled out: press n once more to give it up for v3")
	press('p')
	r.reaches(t, "v2", rollout.Paused)
	press('r')
	r.happens(t, rollout.StepBegun, "v2", "set weight 50 %")
	press('P')
	r.reaches(t, "v2", rollout.Succeeded)
	press('b')
	d.says(t, &d.err, "shop: version v3 after v2") // a key is about what is seen
	press('a')
	r.reaches(t, "v3", rollout.RolledBack)
	d.says(t, &d.err, "shop: version v2 runs; v3 was rolled back")
	press('a') // is nothing new
	press('r')
	d.says(t, &d.err, "resume: refused: the rollout of v3 has ended")
	d.says(t, &d.err, "load      100 requests/s of our own: ")
	press('q')
	d.ends(t, 0)
	<-read
	counts := regexp.MustCompile(`requests/s of our own: (\d+) answered, (\d+) failed`).FindAllStringSubmatch(d.err.String(), -1)
	if last := counts[len(counts)-1]; last[1] == "0" || last[2] != "0" {
		t.Errorf("of the requests of its own %s were answered, and %s failed", last[1], last[2])
	}
}
