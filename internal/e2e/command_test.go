//go:build linux

package e2e_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/weaverkit/weaverkit/envelopekit"
)

// refuses checks that a command ends with the status and one line that says
// what is wrong.
func refuses(t *testing.T, stdout, stderr string, status, want int, text string) {
	t.Helper()
	if status != want {
		t.Errorf("exit status %d, want %d", status, want)
	}
	if stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "multi: ") || !strings.Contains(stderr, text) {
		t.Errorf("it says:\n%s%s\nwant one line with %q", stdout, stderr, text)
	}
}

// TestCommands steers a running deployment.
func TestCommands(t *testing.T) {
	full(t)
	t.Parallel()
	h := newHome(t)
	d := h.deploy(t, "multi-raced", h.app(t, "shop"))
	address := d.ready(t, "shop")
	run := func(args ...string) string {
		t.Helper()
		out, err, status := h.multi(t, args...)
		if status != 0 || err != "" {
			t.Errorf("multi %s: exit status %d, %s", strings.Join(args, " "), status, err)
		}
		return out
	}

	st := h.status(t)
	for _, want := range []string{"shop, deployment " + st.Deployment, "listener shop " + address, "GROUP", "shop.Recommender  1        serving"} {
		if out := run("status"); !strings.Contains(out, want) {
			t.Errorf("multi status does not say %q:\n%s", want, out)
		}
	}
	if out := run("status", "-d", st.Deployment[:6]); !strings.Contains(out, st.Deployment) {
		t.Errorf("multi status -d: %s", out)
	}
	if out := run("why", "shop.Cart"); !strings.Contains(out, "group shop.Cart: 1 of 1 replicas serve") || !strings.Contains(out, "0 restarts") {
		t.Errorf("multi why: %s", out)
	}
	if out := run("logs"); !strings.Contains(out, "The shop is open") {
		t.Errorf("multi logs: %s", out)
	}
	if out := run("logs", "-n", "0"); out != "" {
		t.Errorf("multi logs -n 0: %s", out)
	}

	// Up and down; the youngest go.
	follow := h.start(t, program(t, "multi"), "logs", "-f", "-n", "0")
	run("scale", "main", "3")
	eventually(t, "three replicas serve", func() bool { return len(h.status(t).Listeners[0].Backends) == 3 && h.status(t).Ready() })
	follow.says(t, &follow.out, "The shop is open")
	shopWorks(t, address)
	run("scale", "main", "1")
	eventually(t, "one replica is left", func() bool {
		st := h.status(t)
		return len(st.Groups[0].Replicas) == 1 && st.Groups[0].Replicas[0].Number == 1 && len(st.Listeners[0].Backends) == 1
	})
	run("scale", "shop.Recommender", "0")
	eventually(t, "no replica is left", func() bool { return len(groupOf(t, h.status(t), "shop.Recommender").Replicas) == 0 })
	if out := run("why", "shop.Recommender"); !strings.Contains(out, "scaled to 0") {
		t.Errorf("multi why: %s", out)
	}
	run("scale", "shop.Recommender", "2")
	eventually(t, "it is there again", func() bool { return h.status(t).Ready() })
	shopWorks(t, address)

	for _, tt := range []struct {
		args   string
		status int
		want   string
	}{
		{"why shop.Kart", 1, `no group "shop.Kart" (did you mean "shop.Cart"?)`},
		{"scale shop.Kart 2", 1, `no group "shop.Kart" (did you mean "shop.Cart"?)`},
		{"scale main -1", 1, "choose between 0 and 1000"},
		{"scale main 1001", 1, "choose between 0 and 1000"},
		{"scale main many", 2, `must be a number, not "many"`},
		{"scale main", 2, "usage: multi scale"},
		{"status -d nonsense", 1, `no deployment "nonsense"`},
		{"logs -n -1", 2, "must not be negative"},
		{"logs -x", 2, "-x"},
		{"stop now", 2, "usage: multi stop"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			out, err, status := h.multi(t, strings.Fields(tt.args)...)
			refuses(t, out, err, status, tt.status, tt.want)
		})
	}

	// A second deployment: it has to be said which one is meant.
	other := h.deploy(t, "multi", h.misfit(t, ""))
	other.ready(t, "misfit")
	out, err, status := h.multi(t, "status")
	refuses(t, out, err, status, 1, "several deployments are running")
	if out := run("status", "-d", "misfit"); !strings.Contains(out, "misfit, deployment") {
		t.Errorf("multi status -d misfit: %s", out)
	}
	run("stop", "-d", "misfit")
	other.ends(t, 0)

	run("stop")
	d.ends(t, 0)
	follow.ends(t, 0) // it has seen the end of the log
	out, err, status = h.multi(t, "stop")
	refuses(t, out, err, status, 1, "no deployment is running")
}

func groupOf(t *testing.T, st envelopekit.Status, name string) envelopekit.GroupStatus {
	t.Helper()
	for _, g := range st.Groups {
		if g.Name == name {
			return g
		}
	}
	t.Fatalf("no group %s", name)
	return envelopekit.GroupStatus{}
}

// TestBadInput gives multi what cannot be deployed.
func TestBadInput(t *testing.T) {
	full(t)
	t.Parallel()
	h := newHome(t)
	script := filepath.Join(h.dir, "script")
	plain := filepath.Join(h.dir, "plain")
	for file, mode := range map[string]os.FileMode{script: 0o700, plain: 0o600} {
		if err := os.WriteFile(file, []byte("#!/bin/sh\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	collatz := program(t, "collatz")
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	const (
		odd  = "github.com/ServiceWeaver/weaver/examples/collatz/Odd"
		even = "github.com/ServiceWeaver/weaver/examples/collatz/Even"
	)
	app := fmt.Sprintf("[serviceweaver]\nbinary = %q\n", collatz)

	for _, tt := range []struct {
		name   string
		config string // text of a configuration, unless the arguments name one
		args   string
		status int
		want   string
	}{
		{"unknown command", "", "deplyo", 2, `unknown command "deplyo"`},
		{"unknown flag", app, "deploy -replica 2", 2, "-replica"},
		{"no replicas", app, "deploy -replicas 0", 2, "-replicas must be at least 1"},
		{"too many replicas", app, "deploy -replicas 5000", 2, "5000"},
		{"bad number", app, "deploy -replicas two", 2, `"two"`},
		{"unknown placement", app, "deploy -placement alone", 2, `"alone"`},
		{"unknown level", app, "deploy -log-level loud", 2, `"loud"`},
		{"two files", app, "deploy a.toml", 2, "usage: multi deploy"},
		{"no file", "", "deploy /nonexistent/weaver.toml", 2, "load /nonexistent/weaver.toml: there is no such file"},
		{"a directory", "", "deploy " + h.dir, 2, "is a directory"},
		{"no TOML", "[serviceweaver\n", "deploy", 2, "line 2: expected"},
		{"a binary as configuration", "", "deploy " + collatz, 2, "load " + collatz},
		{"empty", "", "deploy", 2, "no section [serviceweaver]"},
		{"misspelled section", "[serviceweavre]\nbinary = \"x\"\n", "deploy", 2, "a section [serviceweavre]"},
		{"no binary", "[serviceweaver]\n", "deploy", 2, `key "binary" is missing`},
		{"missing binary", "[serviceweaver]\nbinary = \"./nothing\"\n", "deploy", 2, "does not exist"},
		{"binary is a directory", "[serviceweaver]\nbinary = \".\"\n", "deploy", 2, "is a directory"},
		{"not executable", fmt.Sprintf("[serviceweaver]\nbinary = %q\n", plain), "deploy", 2, "chmod +x"},
		{"a script", fmt.Sprintf("[serviceweaver]\nbinary = %q\n", script), "deploy", 2, "not a Go program"},
		{"not an application", fmt.Sprintf("[serviceweaver]\nbinary = %q\n", goTool), "deploy", 2, "not a Service Weaver application"},
		{"unknown key", app + "replicas = 3\n", "deploy", 2, `unknown key "replicas"`},
		{"wrong type", app + "args = 3\n", "deploy", 2, "args"},
		{"bad duration", app + "rollout = \"soon\"\n", "deploy", 2, `invalid duration: "soon"`},
		{"bad env", app + "env = [\"A\"]\n", "deploy", 2, `"A" is not of the form`},
		{"unknown component", app + fmt.Sprintf("colocate = [[%q, %q]]\n", odd, even+"n"), "deploy", 2, "did you mean"},
		{"component twice", app + fmt.Sprintf("colocate = [[%q, %q], [%q]]\n", odd, even, odd), "deploy", 2, "twice"},
		{"unknown key of multi", app + "[multi]\nmlts = true\n", "deploy", 2, `did you mean "mtls"?`},
		{"unknown listener", app + "[multi]\nlisteners.colatz = {address = \":0\"}\n", "deploy", 2, `names listener "colatz"`},
		{"unknown key of a listener", app + "[multi]\nlisteners.collatz = {adress = \":0\"}\n", "deploy", 2, "adress"},
		{"address in use", app + fmt.Sprintf("[multi]\nlisteners.collatz = {address = %q}\n", taken.Addr()), "deploy", 1, taken.Addr().String() + " is in use"},
		{"bad address", app + "[multi]\nlisteners.collatz = {address = \"nowhere\"}\n", "deploy", 2, "nowhere"},
		{"foreign address", app + "[multi]\nlisteners.collatz = {address = \"192.0.2.1:80\"}\n", "deploy", 1, "192.0.2.1:80"},
		{"status of nothing", "", "status", 1, "no deployment is running"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := strings.Fields(tt.args)
			if args[0] == "deploy" && !strings.Contains(tt.args, "/") {
				args = append(args, h.config(t, tt.config))
			}
			out, err, status := h.multi(t, args...)
			refuses(t, out, err, status, tt.status, tt.want)
		})
	}

	t.Run("no command", func(t *testing.T) {
		out, err, status := h.multi(t)
		if status != 2 || out != "" || !strings.Contains(err, "usage:") || !strings.Contains(err, "name a command") {
			t.Errorf("exit status %d:\n%s%s", status, out, err)
		}
	})
	t.Run("help", func(t *testing.T) {
		for _, args := range [][]string{{"help"}, {"-h"}, {"deploy", "-h"}, {"logs", "-help"}} {
			if out, err, status := h.multi(t, args...); status != 0 || err != "" || !strings.Contains(out, "usage:") {
				t.Errorf("multi %s: exit status %d:\n%s%s", strings.Join(args, " "), status, out, err)
			}
		}
	})
	t.Run("refused section", func(t *testing.T) {
		file := h.app(t, "shop", `["github.com/weaverkit/weaverkit/examples/shop/Cart"]`, "error_percent = 500")
		_, err, status := h.multi(t, "deploy", file)
		if status != 1 || !strings.Contains(err, "\nmulti: deploy shop: group shop.Cart failed 3 times in a row: component shop.Cart cannot be made: section") || !strings.HasSuffix(err, "error_percent = 500: want 0 to 100\n") {
			t.Errorf("exit status %d:\n%s", status, err)
		}
	})
	t.Run("long directory", func(t *testing.T) {
		long := *h
		dir := filepath.Join(h.dir, strings.Repeat("x", 100))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		long.env = append(h.env[:len(h.env):len(h.env)], "XDG_RUNTIME_DIR="+dir)
		out, err, status := long.multi(t, "deploy", h.config(t, app))
		refuses(t, out, err, status, 1, "shorter")
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	t.Run("open directory", func(t *testing.T) {
		open := *h
		dir := filepath.Join(h.dir, "open")
		if err := os.MkdirAll(filepath.Join(dir, "weaverkit-multi"), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Chmod(filepath.Join(dir, "weaverkit-multi"), 0o777); err != nil {
			t.Fatal(err)
		}
		open.env = append(h.env[:len(h.env):len(h.env)], "XDG_RUNTIME_DIR="+dir)
		out, err, status := open.multi(t, "deploy", h.config(t, app))
		refuses(t, out, err, status, 1, "only you can use")
	})
}

// TestMisfits deploys applications that do not work.
func TestMisfits(t *testing.T) {
	full(t)
	for _, tt := range []struct {
		way    string
		status int
		want   []string // said by the deployer
	}{
		{"exit at start", 1, []string{"exited with status 3", "misfit: looking for the database", "misfit: no database at db:5432"}},
		{"quit at start", 1, []string{"exited with status 0", "misfit: nothing to do"}},
		{"fail init", 1, []string{"no licence for a helper"}},
		{"panic init", 1, []string{"the helper is beside itself"}},
		{"fail main", 1, []string{"main does not want to"}},
		{"end main", 0, []string{"misfit: done"}},
	} {
		for _, placement := range []string{"component", "together"} {
			t.Run(tt.way+", "+placement, func(t *testing.T) {
				t.Parallel()
				h := newHome(t)
				d := h.deploy(t, "multi-raced", "-placement", placement, h.misfit(t, tt.way))
				d.ends(t, tt.status)
				for _, want := range tt.want {
					if !strings.Contains(d.err.String(), want) {
						t.Errorf("the deployer does not say %q", want)
					}
				}
				if last := "\nmulti: deploy misfit: group "; tt.status != 0 && !strings.Contains("\n"+d.err.String(), last) {
					t.Errorf("the deployer does not say %q", last)
				}
			})
		}
	}
}

// TestBlockedInit has a component that never initializes.
func TestBlockedInit(t *testing.T) {
	full(t)
	t.Parallel()
	h := newHome(t)
	d := h.deploy(t, "multi", h.misfit(t, "block init"))
	eventually(t, "multi why says what is waited for", func() bool {
		out, _, _ := h.multi(t, "why", "misfit.Helper")
		return strings.Contains(out, "waits for the Init method of misfit.Helper to return")
	})
	d.stops(t)
}

// TestMute has a process that never becomes a weavelet.
func TestMute(t *testing.T) {
	full(t)
	t.Parallel()
	h := newHome(t)
	d := h.deploy(t, "multi", h.misfit(t, "mute at start"))
	eventually(t, "multi why says what is waited for", func() bool {
		out, _, _ := h.multi(t, "why", "main")
		return strings.Contains(out, "its process must initialize within 30s")
	})
	d.stops(t)
}

// TestShout has an application that prints more than anybody wants to read.
func TestShout(t *testing.T) {
	full(t)
	t.Parallel()
	h := newHome(t)
	d := h.deploy(t, "multi-raced", h.misfit(t, "shout"))
	address := d.ready(t, "misfit")
	get(t, address)
	// What is not shown, because it came too fast, is counted.
	eventually(t, "the last line is shown, or that lines are missing", func() bool {
		shown := d.err.String()
		return strings.Contains(shown, "misfit: line 99999") || strings.Contains(shown, "log entries were dropped")
	})
	d.stops(t)
}
