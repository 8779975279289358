//go:build linux

package e2e_test

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/weaverkit/weaverkit/envelopekit"
)

// An app is an application, and requests to find out whether it works.
type app struct {
	name     string
	listener string
	groups   int // with a group for each component
	works    func(t *testing.T, address string)
}

var (
	collatz  = app{"collatz", "collatz", 3, collatzWorks}
	hello    = app{"hello", "hello", 2, helloWorks}
	reverser = app{"reverser", "reverser", 2, reverserWorks}
	shop     = app{"shop", "shop", 8, shopWorks}
)

func collatzWorks(t *testing.T, address string) {
	t.Helper()
	var want strings.Builder
	for x := 27; ; {
		fmt.Fprintln(&want, x)
		if x == 1 {
			break
		}
		if x%2 == 0 {
			x /= 2
		} else {
			x = 3*x + 1
		}
	}
	if got := get(t, address+"/?x=27"); got != want.String() {
		t.Errorf("collatz of 27:\n%s\nwant:\n%s", got, &want)
	}
}

func helloWorks(t *testing.T, address string) {
	t.Helper()
	for name, want := range map[string]string{"": "Hello, dlroW!\n", "Ödön": "Hello, nödÖ!\n"} {
		if got := get(t, address+"/hello?name="+url.QueryEscape(name)); got != want {
			t.Errorf("hello %q: %q, want %q", name, got, want)
		}
	}
}

func reverserWorks(t *testing.T, address string) {
	t.Helper()
	if got := get(t, address+"/reverse?s=stressed"); got != "desserts\n" {
		t.Errorf("reverse of stressed: %q", got)
	}
	if got := get(t, address+"/"); !strings.Contains(got, "<html") {
		t.Errorf("the page is none: %q", got)
	}
}

func shopWorks(t *testing.T, address string) {
	t.Helper()
	// The API: what is put into a cart is there, and can be bought. Keys move
	// for some milliseconds while replicas join, and a cart does not move along.
	eventually(t, "a cart stays where it is", func() bool {
		putIntoCart(t, address)
		for range 20 {
			if !strings.Contains(get(t, address+"/api/visit?user=ada"), `"product":"gingham-towel","quantity":2`) {
				return false
			}
		}
		return true
	})
	resp, err := http.Post(address+"/api/orders?user=ada", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Shop-Version") != "v1" || resp.Header.Get("Shop-Replica") == "" {
		t.Errorf("order: %s, %v", resp.Status, resp.Header)
	}
	// The pages.
	for path, want := range map[string]string{
		"/":                     "gingham-towel",
		"/cart":                 "cart",
		"/inside":               "Recommender",
		"/debug/weaver/healthz": "",
	} {
		if got := get(t, address+path); !strings.Contains(got, want) {
			t.Errorf("%s does not show %q: %s", path, want, got)
		}
	}
}

func putIntoCart(t *testing.T, address string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "PUT", address+"/api/cart?user=ada&product=gingham-towel&quantity=2", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("put into the cart: %s", resp.Status)
	}
}

const shopComponents = `["github.com/ServiceWeaver/weaver/Main", "github.com/weaverkit/weaverkit/examples/shop/Catalog", "github.com/weaverkit/weaverkit/examples/shop/Recommender"],
	["github.com/weaverkit/weaverkit/examples/shop/Checkout", "github.com/weaverkit/weaverkit/examples/shop/Payment"]`

// TestApplications deploys applications in all ways that differ, each in a
// combination with the others.
func TestApplications(t *testing.T) {
	full(t)
	for _, tt := range []struct {
		app      app
		multi    string // program
		config   string // upstream's file, or text after the [serviceweaver] section's binary
		flags    string
		groups   int // wanted; 0 means one for each component
		replicas int
	}{
		{app: collatz, multi: "multi", config: "weaver.toml", replicas: 1},
		{app: collatz, multi: "multi-raced", config: "weaver_mtls.toml", flags: "-replicas 3", replicas: 3},
		{app: collatz, multi: "multi", config: `colocate = [["github.com/ServiceWeaver/weaver/Main", "github.com/ServiceWeaver/weaver/examples/collatz/Odd"]]`, flags: "-mtls -replicas 3", groups: 2, replicas: 3},
		{app: collatz, multi: "multi-raced", flags: "-placement together", groups: 1, replicas: 1},
		{app: hello, multi: "multi-raced", config: "weaver.toml", replicas: 1},
		{app: hello, multi: "multi", config: "weaver.toml", flags: "-mtls -placement component -replicas 3", replicas: 3},
		{app: hello, multi: "multi", flags: "-mtls -placement together", groups: 1, replicas: 1},
		{app: reverser, multi: "multi-raced", config: "weaver.toml", flags: "-replicas 3", replicas: 3},
		{app: reverser, multi: "multi", config: "weaver.toml", flags: "-mtls", replicas: 1},
		{app: reverser, multi: "multi", flags: "-placement callgraph -replicas 3", groups: 1, replicas: 3},
		{app: shop, multi: "multi-raced", flags: "-mtls -replicas 3", replicas: 3},
		{app: shop, multi: "multi", flags: "-placement component", replicas: 1},
		{app: shop, multi: "multi", config: "colocate = [" + shopComponents + "]", flags: "-mtls", groups: 5, replicas: 1},
		{app: shop, multi: "multi-raced", config: "colocate = [" + shopComponents + "]", flags: "-replicas 3", groups: 5, replicas: 3},
		{app: shop, multi: "multi", flags: "-placement together -replicas 3", groups: 1, replicas: 3},
	} {
		name := strings.Join(strings.Fields(tt.app.name+" "+tt.flags), " ")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHome(t)
			port := 0
			text := fmt.Sprintf("[serviceweaver]\nbinary = %q\n%s\n[multi]\n", program(t, tt.app.name), tt.config)
			if strings.HasSuffix(tt.config, ".toml") {
				port = freePort(t)
				text = upstreamConfig(t, tt.app.name, tt.config, port)
			}
			d := h.deploy(t, tt.multi, append(strings.Fields(tt.flags), h.config(t, text))...)
			address := d.ready(t, tt.app.listener)
			if port != 0 && !strings.HasSuffix(address, fmt.Sprintf(":%d", port)) {
				t.Errorf("the listener is at %s, want port %d", address, port)
			}
			tt.app.works(t, address)

			st := d.status(t)
			groups := tt.groups
			if groups == 0 {
				groups = tt.app.groups
			}
			if len(st.Groups) != groups {
				t.Errorf("%d groups, want %d", len(st.Groups), groups)
			}
			for _, g := range st.Groups {
				checkReplicas(t, g, tt.replicas, strings.Contains(tt.flags+tt.config, "mtls"))
			}
			d.stops(t)
		})
	}
}

// checkReplicas checks that the group has the given number of replicas, all
// serving, none of them restarted.
func checkReplicas(t *testing.T, g envelopekit.GroupStatus, replicas int, mtls bool) {
	t.Helper()
	if g.Wanted != replicas || g.Serving() != replicas || len(g.Replicas) != replicas {
		t.Errorf("group %s: %d replicas wanted, %d there, %d serving; want %d", g.Name, g.Wanted, len(g.Replicas), g.Serving(), replicas)
	}
	for _, r := range g.Replicas {
		if r.Restarts != 0 || r.Problem != "" || r.Pid == 0 {
			t.Errorf("group %s, replica %d: %+v", g.Name, r.Number, r)
		}
		if strings.HasPrefix(r.Address, "mtls://") != mtls {
			t.Errorf("group %s, replica %d: address %s, with mTLS: %t", g.Name, r.Number, r.Address, mtls)
		}
	}
}

// upstreamConfig returns the text of a configuration that comes with one of
// upstream's applications, for a binary and a port of ours.
func upstreamConfig(t *testing.T, app, file string, port int) string {
	t.Helper()
	dir, err := upstreamDir()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "examples", app, file))
	if err != nil {
		t.Fatal(err)
	}
	s := strings.ReplaceAll(string(text), fmt.Sprintf("%q", "./"+app), strconv.Quote(program(t, app)))
	s = regexp.MustCompile(`localhost:\d+`).ReplaceAllString(s, fmt.Sprintf("localhost:%d", port))
	if !strings.Contains(s, program(t, app)) || !strings.Contains(s, strconv.Itoa(port)) {
		t.Fatalf("unexpected configuration:\n%s", text)
	}
	return s
}

// TestQuick deploys what the README deploys first.
func TestQuick(t *testing.T) {
	for _, tt := range []struct {
		app   app
		flags []string
	}{
		{collatz, []string{"-mtls"}},
		{shop, []string{"-replicas", "2"}},
	} {
		t.Run(tt.app.name, func(t *testing.T) {
			t.Parallel()
			h := newHome(t)
			file := h.app(t, tt.app.name)
			d := h.deploy(t, "multi", append(tt.flags, file)...)
			tt.app.works(t, d.ready(t, tt.app.listener))
			d.stops(t)
		})
	}
}

// TestSample deploys without a configuration.
func TestSample(t *testing.T) {
	full(t)
	t.Parallel()
	d := newHome(t).deploy(t, "multi")
	shopWorks(t, d.ready(t, "shop"))
	d.stops(t)
}

// TestSimple runs applications with the smallest deployer.
func TestSimple(t *testing.T) {
	full(t)
	for _, app := range []app{collatz, reverser, shop} {
		t.Run(app.name, func(t *testing.T) {
			t.Parallel()
			d := newHome(t).start(t, program(t, "simple"), program(t, app.name))
			serving := regexp.MustCompile(`(?m)^listener serving ` + app.listener + ` (\S+)$`)
			eventually(t, "the listener serves", func() bool { return serving.MatchString(d.out.String()) })
			app.works(t, "http://"+serving.FindStringSubmatch(d.out.String())[1])
			d.stops(t)
		})
	}
}
