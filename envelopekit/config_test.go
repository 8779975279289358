package envelopekit_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/envelopekit/internal/apptest"
	"github.com/weaverkit/weaverkit/envelopekit/placement"
)

const collatzPkg = "github.com/ServiceWeaver/weaver/examples/collatz/"

// multiSection is a deployer's section, the one of upstream's multi.
type multiSection struct {
	Listeners envelopekit.ListenerConfig
	MTLS      bool
}

// writeConfig writes a configuration into a directory that holds the binary of
// the application under its own name.
func writeConfig(t testing.TB, pkg, text string) (file string) {
	t.Helper()
	binary := apptest.Build(t, pkg)
	dir := t.TempDir()
	if err := os.Symlink(binary, filepath.Join(dir, filepath.Base(binary))); err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, "weaver.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// load does what a deployer does with a file: LoadApp, and its own section.
func load(file string, section any) (*envelopekit.App, error) {
	app, err := envelopekit.LoadApp(file)
	if err != nil {
		return nil, err
	}
	return app, app.Section("multi", section)
}

func TestLoadApp(t *testing.T) {
	file := writeConfig(t, apptest.Collatz, `
		[serviceweaver]
		name = "sequence"
		binary = "./collatz"
		args = ["-a", "b c"]
		env = ["A=1", "B=x=y"]
		rollout = "5m"
		colocate = [["`+collatzPkg+`Even", "`+collatzPkg+`Odd"]]

		["`+collatzPkg+`Odd"]
		speed = "high"

		["`+collatzPkg+`Evn"]
		speed = "low"

		["/"]
		["example.com/"]
		["example.com/größe/Ähnlich"]

		[multi]
		mtls = true
		listeners.collatz = {address = "localhost:9000"}
	`)
	section := multiSection{}
	app, err := load(file, &section)
	if err != nil {
		t.Fatal(err)
	}
	config := app.Config
	if config.Name != "sequence" || app.Name != "sequence" || app.File != file {
		t.Errorf("name %q, %q, file %q", config.Name, app.Name, app.File)
	}
	if want := filepath.Join(filepath.Dir(file), "collatz"); config.Binary != want {
		t.Errorf("binary: got %q, want %q", config.Binary, want)
	}
	if want := []string{"-a", "b c"}; !slices.Equal(config.Args, want) {
		t.Errorf("args: got %q, want %q", config.Args, want)
	}
	if want := []string{"A=1", "B=x=y"}; !slices.Equal(config.Env, want) {
		t.Errorf("env: got %q, want %q", config.Env, want)
	}
	if got := time.Duration(config.RolloutNanos); got != 5*time.Minute {
		t.Errorf("rollout: got %v, want 5m", got)
	}
	if got := config.Sections[collatzPkg+"Odd"]; !strings.Contains(got, `speed = "high"`) {
		t.Errorf("a component's section: got %q", got)
	}
	wantSection := multiSection{Listeners: envelopekit.ListenerConfig{"collatz": {Address: "localhost:9000"}}, MTLS: true}
	if !reflect.DeepEqual(section, wantSection) {
		t.Errorf("section: got %+v, want %+v", section, wantSection)
	}
	wantWarnings := []string{
		`section ["example.com/größe/Ähnlich"] configures a component that nothing in the binary refers to`,
		`section ["` + collatzPkg + `Evn"] configures a component that nothing in the binary refers to (did you mean "` + collatzPkg + `Even"?)`,
	}
	if !slices.Equal(app.Warnings, wantWarnings) {
		t.Errorf("warnings: got %q, want %q", app.Warnings, wantWarnings)
	}

	in := app.PlacementInput()
	wantIn := placement.Input{
		Components: []string{placement.Main, collatzPkg + "Even", collatzPkg + "Odd"},
		Edges: []placement.Edge{
			{From: placement.Main, To: collatzPkg + "Even"},
			{From: placement.Main, To: collatzPkg + "Odd"},
		},
		Colocate: [][]string{{collatzPkg + "Even", collatzPkg + "Odd"}},
	}
	if !reflect.DeepEqual(in, wantIn) {
		t.Errorf("placement input: got %+v, want %+v", in, wantIn)
	}
	in.Components[0], in.Edges[0].From, in.Colocate[0][0] = "x", "x", "x"
	if again := app.PlacementInput(); !reflect.DeepEqual(again, wantIn) {
		t.Errorf("changing the placement input changed the App: %+v", again)
	}
}

// A relative path of the file, or of the binary in it, is what one expects.
func TestLoadAppRelative(t *testing.T) {
	file := writeConfig(t, apptest.Collatz, "[serviceweaver]\nbinary = \"collatz\"\n")
	dir := filepath.Dir(file)
	sub := filepath.Join(dir, "sub")
	if err := os.Mkdir(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(sub)
	app, err := envelopekit.LoadApp("../weaver.toml")
	if err != nil {
		t.Fatal(err)
	}
	if app.Name != "collatz" || !filepath.IsAbs(app.Config.Binary) || filepath.Base(app.Config.Binary) != "collatz" {
		t.Errorf("name %q, binary %q", app.Name, app.Config.Binary)
	}
}

// Upstream's own example configurations, with the binary's path as it is.
func TestUpstreamConfigs(t *testing.T) {
	for _, test := range []struct {
		name, pkg, text string
		want            multiSection
	}{
		{"collatz", apptest.Collatz, `
[serviceweaver]
binary = "./collatz"
rollout = "5m"

[single]
listeners.collatz = {address = "localhost:9000"}

[multi]
listeners.collatz = {address = "localhost:9000"}

[ssh]
listeners.collatz = {address = "localhost:9000"}
locations = "./ssh_locations.txt"

[gke]
regions = ["us-west1"]
listeners.collatz = {is_public = true, hostname = "collatz.example.com"}
`, multiSection{Listeners: envelopekit.ListenerConfig{"collatz": {Address: "localhost:9000"}}}},
		{"collatz colocated", apptest.Collatz, `
[serviceweaver]
binary = "./collatz"
args = ["--local_addr=localhost:10000"]
rollout = "5m"
colocate = [
  [
    "main",
    "github.com/ServiceWeaver/weaver/examples/collatz/Even",
    "github.com/ServiceWeaver/weaver/examples/collatz/Odd"
  ]
]

[ssh]
locations = "./ssh_locations.txt"

[gke]
regions = ["us-west1"]
listeners.collatz = {is_public = true, hostname = "collatz.example.com"}
`, multiSection{}},
		{"collatz with mTLS", apptest.Collatz, `
[serviceweaver]
binary = "./collatz"
rollout = "5m"

[multi]
listeners.collatz = {address = "localhost:9000"}
mtls = true  # For extra testing of MTLS handling
`, multiSection{Listeners: envelopekit.ListenerConfig{"collatz": {Address: "localhost:9000"}}, MTLS: true}},
		{"hello", apptest.Hello, `
[serviceweaver]
binary = "./hello"

[single]
listeners.hello = {address = "localhost:12345"}

[multi]
listeners.hello = {address = "localhost:12345"}

[gke]
regions = ["us-west1"]
listeners.hello = {is_public = true, hostname = "hello.example.com"}
`, multiSection{Listeners: envelopekit.ListenerConfig{"hello": {Address: "localhost:12345"}}}},
		{"reverser", apptest.Reverser, `
[serviceweaver]
binary = "./reverser"
rollout = "5m"

[single]
listeners.reverser = {address = "localhost:9000"}

[multi]
listeners.reverser = {address = "localhost:9000"}

[gke]
regions = ["us-west1"]
listeners.reverser = {is_public = true, hostname = "reverser.example.com"}
`, multiSection{Listeners: envelopekit.ListenerConfig{"reverser": {Address: "localhost:9000"}}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var section multiSection
			app, err := load(writeConfig(t, test.pkg, test.text), &section)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(section, test.want) {
				t.Errorf("section: got %+v, want %+v", section, test.want)
			}
			if len(app.Warnings) > 0 {
				t.Errorf("warnings: %q", app.Warnings)
			}
			if plan, err := placement.Colocated(app.PlacementInput()); err != nil {
				t.Error(err)
			} else if test.name == "collatz colocated" && len(plan.Groups) != 1 {
				t.Errorf("want one group, got\n%s", plan)
			}
		})
	}
}

func TestConfigErrors(t *testing.T) {
	const good = "[serviceweaver]\nbinary = \"./collatz\"\n"
	for _, test := range []struct {
		name, text string
		want       string // all after "load FILE: "; DIR is the file's directory
	}{
		// What is no TOML.
		{"empty", "", `there is no section [serviceweaver]: add one with binary = "./your-binary"`},
		{"unfinished section", "[serviceweaver", `line 1: expected '.' or ']' to end table name, but got the end of the file instead`},
		{"path without quotes", "[serviceweaver]\nbinary = ./collatz\n", `line 2: floats must start with a digit, not '.'; text needs quotes: "..."`},
		{"text without quotes", "[serviceweaver]\nbinary = collatz\n", `line 2: expected value but found "collatz" instead; text needs quotes: "..."`},
		{"unfinished text", good + "name = \"x\n", `line 3: strings cannot contain newlines`},
		{"key twice", good + "binary = \"x\"\n", `line 3: key 'serviceweaver.binary' has already been defined`},
		{"section twice", good + "\n[serviceweaver]\n", `line 4: key 'serviceweaver' has already been defined`},
		{"no value", good + "name =\n", `line 3: expected value but found '\n' instead; text needs quotes: "..."`},
		{"not UTF-8", good + "name = \"\xff\"\n", `line 3: invalid UTF-8 byte: 0xff; save the file as UTF-8`},
		{"UTF-16", "\xff\xfe[\x00s\x00", `line 1: files cannot contain NULL bytes; probably using UTF-16; TOML files must be UTF-8`},
		{"a control character", good + "name = \"a\x01\"\n", `line 3: TOML files cannot contain control characters: '0x01'`},

		// Sections.
		{"no section", "[multi]\n", `there is no section [serviceweaver]: add one with binary = "./your-binary"`},
		{"section misspelled", "[servicewaever]\nbinary = \"./collatz\"\n", `there is no section [serviceweaver], but a section [servicewaever]: correct its name`},
		{"section in capitals", "[\"Service Weaver\"]\nbinary = \"./collatz\"\n", `there is no section [serviceweaver], but a section ["Service Weaver"]: correct its name`},
		{"both names", good + "[\"github.com/ServiceWeaver/weaver\"]\nbinary = \"./collatz\"\n", `sections [serviceweaver] and ["github.com/ServiceWeaver/weaver"] are the same: keep one`},
		{"key outside", "binary = \"./collatz\"\n", `key "binary" is outside of any section: move it below a [section] line, for instance [serviceweaver]`},
		{"key outside, before", "mtls = true\n" + good, `key "mtls" is outside of any section: move it below a [section] line, for instance [serviceweaver]`},
		{"double brackets", good + "[[multi]]\nmtls = true\n", `section [[multi]] has double brackets: write [multi], once`},
		{"double brackets, own", "[[serviceweaver]]\nbinary = \"./collatz\"\n", `section [[serviceweaver]] has double brackets: write [serviceweaver], once`},

		// The application's section.
		{"no binary", "[serviceweaver]\nname = \"x\"\n", `section [serviceweaver]: key "binary" is missing: add binary = "./your-binary"`},
		{"no binary, long name", "[\"github.com/ServiceWeaver/weaver\"]\n", `section ["github.com/ServiceWeaver/weaver"]: key "binary" is missing: add binary = "./your-binary"`},
		{"empty binary", "[serviceweaver]\nbinary = \"\"\n", `section [serviceweaver]: key "binary" is missing: add binary = "./your-binary"`},
		{"unknown key", good + "binery = \"x\"\n", `section [serviceweaver]: unknown key "binery" (did you mean "binary"?); known here: args, binary, colocate, env, name, rollout`},
		{"unknown key, nothing near", good + "replicas = 3\n", `section [serviceweaver]: unknown key "replicas"; known here: args, binary, colocate, env, name, rollout`},
		{"unknown table", good + "[serviceweaver.listeners]\nx = 1\n", `section [serviceweaver]: unknown key "listeners"; known here: args, binary, colocate, env, name, rollout`},
		{"unknown key, long name", "[\"github.com/ServiceWeaver/weaver\"]\nbinary = \"./collatz\"\nrollOut2 = 1\n", `section ["github.com/ServiceWeaver/weaver"]: unknown key "rollOut2" (did you mean "rollout"?); known here: args, binary, colocate, env, name, rollout`},
		{"binary is a number", "[serviceweaver]\nbinary = 7\n", `section [serviceweaver]: line 2: key "binary": got an integer, want a string; write it like binary = "./your-binary"`},
		{"args is text", good + "args = \"-v\"\n", `section [serviceweaver]: line 3: key "args": got a string, want a list; write it like args = ["-v", "-port=80"]`},
		{"args has a number", good + "args = [1]\n", `section [serviceweaver]: line 3: key "args": got an integer, want a string; write it like args = ["-v", "-port=80"]`},
		{"args has a zero byte", good + "args = [\"a\\u0000\"]\n", `section [serviceweaver]: key "args": "a\x00" holds a zero byte, which no process can be given`},
		{"env without value", good + "env = [\"A\"]\n", `section [serviceweaver]: key "env": "A" is not of the form NAME=value`},
		{"env without name", good + "env = [\"=1\"]\n", `section [serviceweaver]: key "env": "=1" is not of the form NAME=value`},
		{"env as table", good + "env = {A = \"1\"}\n", `section [serviceweaver]: line 3: key "env": got a table, want a list; write it like env = ["NAME=value"]`},
		{"env as section", good + "[serviceweaver.env]\nA = \"1\"\n", `section [serviceweaver]: line 3: key "env": got a table, want a list; write it like env = ["NAME=value"]`},
		{"rollout negative", good + "rollout = \"-5m\"\n", `section [serviceweaver]: key "rollout" is negative (-5m0s): use a duration such as "5m"`},
		{"rollout in words", good + "rollout = \"5 minutes\"\n", `section [serviceweaver]: line 3: key "rollout": invalid duration: "5 minutes"; write it like rollout = "5m"`},
		{"rollout is true", good + "rollout = true\n", `section [serviceweaver]: line 3: key "rollout": got a boolean (true or false), want an integer; write it like rollout = "5m"`},
		{"colocate is one list", good + "colocate = [\"" + collatzPkg + "Odd\"]\n", `section [serviceweaver]: line 3: key "colocate": got a string, want a list; write it like colocate = [["example.com/shop/Cart", "example.com/shop/Cache"]]`},
		{"colocate misspelled", good + "colocate = [[\"" + collatzPkg + "Evn\"]]\n", `section [serviceweaver]: key "colocate" names component "` + collatzPkg + `Evn", which binary DIR/collatz does not have (did you mean "` + collatzPkg + `Even"?)`},
		{"colocate by last name", good + "colocate = [[\"odd\"]]\n", `section [serviceweaver]: key "colocate" names component "odd", which binary DIR/collatz does not have (did you mean "` + collatzPkg + `Odd"?)`},
		{"colocate by short name", good + "colocate = [[\"collatz.Odd\"]]\n", `section [serviceweaver]: key "colocate" names component "collatz.Odd", which binary DIR/collatz does not have (did you mean "` + collatzPkg + `Odd"?)`},
		{"colocate, long name", "[\"github.com/ServiceWeaver/weaver\"]\nbinary = \"./collatz\"\ncolocate = [[\"zzz\"]]\n", `section ["github.com/ServiceWeaver/weaver"]: key "colocate" names component "zzz", which binary DIR/collatz does not have`},
		{"colocate twice", good + "colocate = [[\"" + collatzPkg + "Odd\"], [\"" + collatzPkg + "Odd\"]]\n", `section [serviceweaver]: key "colocate" names component "` + collatzPkg + `Odd" twice: a component is in one group`},
		{"colocate main twice", good + "colocate = [[\"main\", \"" + placement.Main + "\"]]\n", `section [serviceweaver]: key "colocate" names component "` + placement.Main + `" twice: a component is in one group`},

		// The binary.
		{"binary missing", "[serviceweaver]\nbinary = \"./nope\"\n", `binary DIR/nope does not exist: build the application first (go build), or correct the path`},
		{"binary is a directory", "[serviceweaver]\nbinary = \".\"\n", `binary DIR is a directory: name the file that go build wrote into it`},
		{"binary is the config", "[serviceweaver]\nbinary = \"weaver.toml\"\n", `binary DIR/weaver.toml is not executable: chmod +x it`},

		// The deployer's section.
		{"multi, unknown key", good + "[multi]\nmlts = true\n", `section [multi]: unknown key "mlts" (did you mean "mtls"?); known here: listeners, mtls`},
		{"multi, long name", good + "[\"github.com/ServiceWeaver/weaver/multi\"]\nmlts = true\n", `section ["github.com/ServiceWeaver/weaver/multi"]: unknown key "mlts" (did you mean "mtls"?); known here: listeners, mtls`},
		{"multi, both names", good + "[multi]\n[\"github.com/ServiceWeaver/weaver/multi\"]\n", `sections [multi] and ["github.com/ServiceWeaver/weaver/multi"] are the same: keep one`},
		{"mtls is text", good + "[multi]\nmtls = \"yes\"\n", `section [multi]: key "mtls": got a string, want a boolean (true or false)`},
		{"listener misspelled", good + "[multi]\nlisteners.colatz = {address = \":9000\"}\n", `section [multi]: key "listeners" names listener "colatz", which binary DIR/collatz does not have (did you mean "collatz"?); it has: collatz`},
		{"listener unknown", good + "[multi]\nlisteners.web = {}\n", `section [multi]: key "listeners" names listener "web", which binary DIR/collatz does not have; it has: collatz`},
		{"listener's key", good + "[multi]\nlisteners.collatz = {addr = \":9000\"}\n", `section [multi]: unknown key "listeners.collatz.addr"; known here: address`},
		{"listener's key, near", good + "[multi]\nlisteners.collatz = {adress = \":9000\"}\n", `section [multi]: unknown key "listeners.collatz.adress" (did you mean "address"?); known here: address`},
		{"listener is text", good + "[multi]\nlisteners.collatz = \":9000\"\n", `section [multi]: key "listeners.collatz": got a string, want a table: {key = value}`},
		{"listeners is a number", good + "[multi]\nlisteners = 3\n", `section [multi]: key "listeners": got an integer, want a table, for instance listeners.NAME = {address = "localhost:9000"}`},
		{"listeners is a list", good + "[multi]\nlisteners = [\"collatz\"]\n", `section [multi]: key "listeners": got a list, want a table, for instance listeners.NAME = {address = "localhost:9000"}`},
		{"address is a number", good + "[multi]\nlisteners.collatz = {address = 9000}\n", `section [multi]: key "listeners.collatz.address": got an integer, want a string`},
		{"address without port", good + "[multi]\nlisteners.collatz = {address = \"localhost\"}\n", `section [multi]: key "listeners.collatz.address": "localhost" is no address: write "host:port" or ":port", for instance "localhost:9000"`},
		{"address with a wrong port", good + "[multi]\nlisteners.collatz = {address = \"localhost:99999\"}\n", `section [multi]: key "listeners.collatz.address": "localhost:99999" is no address: write "host:port" or ":port", for instance "localhost:9000"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := writeConfig(t, apptest.Collatz, test.text)
			app, err := load(file, &multiSection{})
			if err == nil {
				t.Fatalf("got no error, but %v", app)
			}
			want := fmt.Sprintf("load %s: %s", file, strings.ReplaceAll(test.want, "DIR", filepath.Dir(file)))
			if got := err.Error(); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func TestConfigFileErrors(t *testing.T) {
	dir := t.TempDir()
	huge := filepath.Join(dir, "huge.toml")
	if err := os.WriteFile(huge, make([]byte, 4<<20+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ file, want string }{
		{filepath.Join(dir, "nope.toml"), "there is no such file: name the application's configuration, usually weaver.toml"},
		{dir, "is a directory"},
		{huge, "it has more than 4 MiB: is this the application's configuration?"},
		{"/dev/zero", "it has more than 4 MiB: is this the application's configuration?"},
		{filepath.Join(huge, "weaver.toml"), "not a directory"},
		{"", "there is no such file: name the application's configuration, usually weaver.toml"},
	} {
		_, err := envelopekit.LoadApp(test.file)
		if want := "load " + test.file + ": " + test.want; err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

// What looks odd, but works.
func TestConfigLenience(t *testing.T) {
	const good = "[serviceweaver]\nbinary = \"./collatz\"\n"
	for _, test := range []struct {
		name, text string
		warnings   int
	}{
		{"a byte order mark", "\xef\xbb\xbf" + good, 0},
		{"Windows line ends", strings.ReplaceAll(good, "\n", "\r\n"), 0},
		{"long names", "[\"github.com/ServiceWeaver/weaver\"]\nbinary = \"./collatz\"\n[\"github.com/ServiceWeaver/weaver/multi\"]\nmtls = false\n", 0},
		{"keys in capitals", "[serviceweaver]\nBinary = \"./collatz\"\n[multi]\nMTLS = false\nListeners.collatz = {Address = \":0\"}\n", 0},
		{"listener without address", good + "[multi]\nlisteners.collatz = {}\n", 0},
		{"port by name", good + "[multi]\nlisteners.collatz = {address = \"[::1]:http\"}\n", 0},
		{"all kinds of values", good + "[other]\na = [1, \"x\", {b = [[], [{}]]}]\nd = 1979-05-27T07:32:00Z\nt = 07:32:00\nf = nan\n\"\" = 1\n[other.x]\n[[other.y]]\n", 0},
		{"a section without a name", good + "[\"\"]\n", 0},
		{"empty lists", good + "args = []\nenv = []\ncolocate = [[], []]\n", 0},
		{"rollout as nanoseconds", good + "rollout = 300000000000\n", 0},
		{"rollout as very few of them", good + "rollout = 5\n", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			app, err := load(writeConfig(t, apptest.Collatz, test.text), &multiSection{})
			if err != nil {
				t.Fatal(err)
			}
			if len(app.Warnings) != test.warnings {
				t.Errorf("got warnings %q, want %d", app.Warnings, test.warnings)
			}
		})
	}
}

func TestSection(t *testing.T) {
	app, err := envelopekit.LoadApp(writeConfig(t, apptest.Collatz, `
		[serviceweaver]
		binary = "./collatz"
		[mine]
		size = 3
		public.collatz = {address = ":80"}
		["github.com/ServiceWeaver/weaver/theirs"]
		size = 4
	`))
	if err != nil {
		t.Fatal(err)
	}
	type Common struct {
		Size int
	}
	type section struct {
		Common
		Web     envelopekit.ListenerConfig `toml:"public"`
		Ignored string                     `toml:"-"`
		private int
	}
	var got section
	if err := app.Section("mine", &got); err != nil {
		t.Fatal(err)
	}
	if got.Size != 3 || got.Web["collatz"].Address != ":80" || got.private != 0 {
		t.Errorf("got %+v", got)
	}
	if err := app.Section("theirs", &got); err != nil || got.Size != 4 {
		t.Errorf("long name: got %+v, error %v", got, err)
	}
	before := fmt.Sprint(got)
	if err := app.Section("nobody's", &got); err != nil || fmt.Sprint(got) != before {
		t.Errorf("a section that is not there: got %+v, error %v", got, err)
	}
	var any map[string]any
	if err := app.Section("mine", &any); err != nil || any["size"] != int64(3) {
		t.Errorf("into a map: got %v, error %v", any, err)
	}

	binary, err := envelopekit.LoadBinary(apptest.Build(t, apptest.Collatz))
	if err != nil {
		t.Fatal(err)
	}
	if err := binary.Section("mine", &got); err != nil {
		t.Errorf("an App without a configuration: %v", err)
	}
}

// FuzzLoadApp: whatever the file holds, the answer is an App or one short line.
func FuzzLoadApp(f *testing.F) {
	file := writeConfig(f, apptest.Collatz, "")
	for _, text := range []string{
		"", "[serviceweaver]\nbinary = \"./collatz\"\nrollout = \"5m\"\nargs = [\"a\"]\nenv = [\"A=1\"]\n",
		"[serviceweaver]\nbinary = \"./collatz\"\ncolocate = [[\"main\", \"x\"]]\n[multi]\nlisteners.collatz = {address = \"x\"}\n",
		"[serviceweaver]\nbinary = \"./collatz\"\n[a]\n[[a.b]]\nx = [[], {}]\nd = 1979-05-27\n\"\" = 1.5e3\n",
		"[\"github.com/ServiceWeaver/weaver\"]\nbinary = '''\n./x'''\n", "a = \"\n\xff\x00",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		app, err := load(file, &multiSection{})
		if err == nil {
			if app.Name == "" || len(app.Components) == 0 {
				t.Errorf("no error, but %+v", app)
			}
			return
		}
		if msg := err.Error(); strings.ContainsAny(msg, "\n\r") || !utf8.ValidString(msg) || len(msg) > 8192 {
			t.Errorf("not one short line: %q", msg)
		}
		if app, err := envelopekit.LoadApp(file); (app == nil) != (err != nil) {
			t.Errorf("got %v and %v", app, err)
		}
	})
}
