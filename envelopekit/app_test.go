package envelopekit_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/ServiceWeaver/weaver/runtime/bin"
	"github.com/ServiceWeaver/weaver/runtime/version"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/envelopekit/internal/apptest"
	"github.com/weaverkit/weaverkit/envelopekit/placement"
)

func TestLoadBinary(t *testing.T) {
	for _, test := range []struct {
		pkg        string
		components []string
		calls      []placement.Edge
		listeners  []envelopekit.ListenerInfo
	}{
		{apptest.Collatz,
			[]string{placement.Main, collatzPkg + "Even", collatzPkg + "Odd"},
			[]placement.Edge{{From: placement.Main, To: collatzPkg + "Even"}, {From: placement.Main, To: collatzPkg + "Odd"}},
			[]envelopekit.ListenerInfo{{Name: "collatz", Component: placement.Main}}},
		{apptest.Reverser,
			[]string{placement.Main, apptest.Reverser + "/Reverser"},
			[]placement.Edge{{From: placement.Main, To: apptest.Reverser + "/Reverser"}},
			[]envelopekit.ListenerInfo{{Name: "reverser", Component: placement.Main}}},
	} {
		binary := apptest.Build(t, test.pkg)
		app, err := envelopekit.LoadBinary(binary)
		if err != nil {
			t.Fatal(err)
		}
		want := &envelopekit.App{
			Name:       filepath.Base(binary),
			Config:     app.Config,
			Components: test.components,
			Calls:      test.calls,
			Listeners:  test.listeners,
			Versions:   bin.Versions{ModuleVersion: "v0.24.6", DeployerVersion: version.DeployerVersion},
		}
		if !reflect.DeepEqual(app, want) {
			t.Errorf("got  %+v\nwant %+v", app, want)
		}
		if app.Config.Binary != binary || app.Config.Name != app.Name {
			t.Errorf("config: %v", app.Config)
		}
	}
}

func TestLoadBinaryRelative(t *testing.T) {
	binary := apptest.Build(t, apptest.Collatz)
	t.Chdir(filepath.Dir(binary))
	app, err := envelopekit.LoadBinary(filepath.Base(binary))
	if err != nil {
		t.Fatal(err)
	}
	if !filepath.IsAbs(app.Config.Binary) {
		t.Errorf("the binary's path is %q, want an absolute one", app.Config.Binary)
	}
}

// patched returns a copy of collatz in which one text stands for another.
func patched(t *testing.T, old, replacement string) (binary string) {
	t.Helper()
	data, err := os.ReadFile(apptest.Build(t, apptest.Collatz))
	if err != nil {
		t.Fatal(err)
	}
	if len(old) != len(replacement) || !bytes.Contains(data, []byte(old)) {
		t.Fatalf("cannot put %q in the place of %q", replacement, old)
	}
	return write(t, "collatz", 0o700, bytes.ReplaceAll(data, []byte(old), []byte(replacement)))
}

func write(t testing.TB, name string, mode os.FileMode, data []byte) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, data, mode); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestLoadBinaryErrors(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the files are made for Linux")
	}
	collatz, err := os.ReadFile(apptest.Build(t, apptest.Collatz))
	if err != nil {
		t.Fatal(err)
	}
	// gofmt is a Go program that everybody who runs tests can build.
	plain := apptest.Build(t, "cmd/gofmt")
	const (
		noGo    = "binary FILE is not a Go program, or is not complete: name the file that go build wrote"
		magic   = "⟦wEaVeRvErSiOn:deployer=v0.24.0⟧"
		otherIs = "rebuild the application with github.com/ServiceWeaver/weaver@v0.24.6"
	)
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if out, err := exec.Command("mkfifo", pipe).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, test := range []struct{ name, file, want string }{
		{"missing", filepath.Join(dir, "nope"), "binary FILE does not exist: build the application first (go build), or correct the path"},
		{"below a file", filepath.Join(plain, "x"), "binary FILE: not a directory"},
		{"directory", dir, "binary FILE is a directory: name the file that go build wrote into it"},
		{"pipe", pipe, "binary FILE is not a regular file (p---------)"},
		{"not executable", write(t, "collatz", 0o600, collatz), "binary FILE is not executable: chmod +x it"},
		{"script", write(t, "run.sh", 0o700, []byte("#!/bin/sh\nexec ./collatz\n")), noGo},
		{"empty", write(t, "x", 0o700, nil), noGo},
		{"three bytes", write(t, "x", 0o700, []byte("\x7fEL")), noGo},
		{"another program", "/bin/sh", noGo},
		{"cut in its header", write(t, "x", 0o700, collatz[:100]), noGo},
		{"cut in half", write(t, "x", 0o700, collatz[:len(collatz)/2]), "binary FILE is not a Go program, or is not complete"},
		{"a Go program", plain, "binary FILE is a Go program, but not a Service Weaver application: build one whose main function calls weaver.Run"},
		{"older API", patched(t, magic, "⟦wEaVeRvErSiOn:deployer=v0.23.0⟧"), "binary FILE speaks deployer API v0.23.0 (weaver module v0.24.6), this deployer v0.24.0: " + otherIs},
		{"newer API", patched(t, magic, "⟦wEaVeRvErSiOn:deployer=v9.99.9⟧"), "binary FILE speaks deployer API v9.99.9 (weaver module v0.24.6), this deployer v0.24.0: " + otherIs},
		{"no API", patched(t, magic, "⟦wEaVeRvErSiOn:deployer=vx.yz.0⟧"), "binary FILE: read its weaver version: embedded versions not found; rebuild the application"},
		{"no section", patched(t, ".rodata\x00", ".rodatb\x00"), "binary FILE: read its weaver version: it is damaged"},
	} {
		t.Run(test.name, func(t *testing.T) {
			app, err := envelopekit.LoadBinary(test.file)
			if err == nil {
				t.Fatalf("got no error, but %+v", app)
			}
			want := strings.ReplaceAll(test.want, "FILE", test.file)
			if got := err.Error(); !strings.HasPrefix(got, want) || strings.Contains(got, "\n") {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

// FuzzLoadBinary: a damaged binary is an error in one line, not a panic. Only
// the first pages are changed: there are the tables that say where the rest is.
func FuzzLoadBinary(f *testing.F) {
	original, err := os.ReadFile(apptest.Build(f, apptest.Collatz))
	if err != nil {
		f.Fatal(err)
	}
	const head = 2 << 10
	file := filepath.Join(f.TempDir(), "collatz")
	if err := os.WriteFile(file, original, 0o700); err != nil {
		f.Fatal(err)
	}
	f.Add(uint16(0x10), []byte{0, 0, 0, 0})
	f.Add(uint16(0x28), []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Add(uint16(0x3c), []byte{0, 0})
	f.Add(uint16(0), []byte("MZ"))
	f.Add(uint16(0), []byte("\xfe\xed\xfa\xce"))
	for at := 0x1c0; at < head; at += 0x40 {
		f.Add(uint16(at+0x18), []byte{1, 0xff, 3})
	}
	f.Fuzz(func(t *testing.T, at uint16, change []byte) {
		from := int(at) % head
		change = change[:min(len(change), head-from)]
		w, err := os.OpenFile(file, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if _, err := w.WriteAt(change, int64(from)); err != nil {
			t.Fatal(err)
		}
		app, loadErr := envelopekit.LoadBinary(file)
		if _, err := w.WriteAt(original[:head], 0); err != nil {
			t.Fatal(err)
		}
		switch {
		case loadErr == nil && len(app.Components) == 0:
			t.Errorf("no error, but %+v", app)
		case loadErr != nil && strings.Contains(loadErr.Error(), "\n"):
			t.Errorf("not one line: %q", loadErr)
		}
	})
}

// How much of a deployment's start is reading the binary?
func BenchmarkLoadBinary(b *testing.B) {
	binary := apptest.Build(b, apptest.Collatz)
	info, err := os.Stat(binary)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := envelopekit.LoadBinary(binary); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(info.Size())/(1<<20), "MiB")
}
