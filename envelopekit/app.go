package envelopekit

import (
	"cmp"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/ServiceWeaver/weaver/runtime/bin"
	"github.com/ServiceWeaver/weaver/runtime/codegen"
	"github.com/ServiceWeaver/weaver/runtime/graph"
	"github.com/ServiceWeaver/weaver/runtime/protos"
	"github.com/ServiceWeaver/weaver/runtime/version"

	"github.com/weaverkit/weaverkit/envelopekit/placement"
)

// An App is a Service Weaver application: its configuration, and what its
// binary says about itself. Make one with [LoadApp] or [LoadBinary], and treat
// it as read-only.
type App struct {
	// Name of the application; without one in the configuration, the base
	// name of the binary.
	Name string

	// Config is the configuration in the form that weavelets are given.
	// Paths in it are absolute.
	Config *protos.AppConfig

	// File is the configuration file, "" for an App from [LoadBinary].
	File string

	// Components are the full names of the components that can be reached
	// from somewhere in the binary, sorted, the main component included.
	Components []string

	// Calls are the references between components, sorted.
	Calls []placement.Edge

	// Listeners are the network listeners of the application, sorted by name.
	Listeners []ListenerInfo

	// Versions are those of the weaver module in the binary.
	Versions bin.Versions

	// Warnings are oddities of the configuration that are no errors, such as a
	// section for a component that the binary does not have.
	Warnings []string
}

// A ListenerInfo is a network listener, and the component that has it.
type ListenerInfo struct {
	Name      string
	Component string
}

// LoadBinary returns the App of a binary that needs no configuration.
func LoadBinary(binary string) (*App, error) {
	abs, err := filepath.Abs(binary)
	if err != nil {
		return nil, fmt.Errorf("binary %q: %w", binary, err)
	}
	app := &App{
		Name:   filepath.Base(abs),
		Config: &protos.AppConfig{Name: filepath.Base(abs), Binary: abs},
	}
	if err := app.readBinary(); err != nil {
		return nil, err
	}
	return app, nil
}

// PlacementInput returns what a [Placement] is given about the App: its
// components, their references, the configuration's colocate lists.
func (a *App) PlacementInput() placement.Input {
	in := placement.Input{
		Components: slices.Clone(a.Components),
		Edges:      slices.Clone(a.Calls),
	}
	for _, g := range a.Config.Colocate {
		in.Colocate = append(in.Colocate, slices.Clone(g.Components))
	}
	return in
}

// readBinary fills in what the binary at a.Config.Binary says about itself.
func (a *App) readBinary() error {
	binary := a.Config.Binary
	if err := checkExecutable(binary); err != nil {
		return err
	}
	versions, err := guard(func() (bin.Versions, error) { return bin.ReadVersions(binary) })
	if err != nil {
		return notAnApplication(binary, err)
	}
	if versions.DeployerVersion != version.DeployerVersion {
		return fmt.Errorf("binary %s speaks deployer API %s (weaver module %s), this deployer %s: rebuild the application with github.com/ServiceWeaver/weaver@v0.24.6",
			binary, versions.DeployerVersion, versions.ModuleVersion, version.DeployerVersion)
	}
	a.Versions = versions

	type componentGraph struct {
		components []string
		calls      graph.Graph
	}
	g, err := guard(func() (g componentGraph, err error) {
		g.components, g.calls, err = bin.ReadComponentGraph(binary)
		return g, err
	})
	if err != nil {
		return fmt.Errorf("binary %s: read its components: %w", binary, err)
	}
	a.Components = g.components
	edges := map[placement.Edge]bool{}
	graph.PerEdge(g.calls, func(e graph.Edge) {
		edges[placement.Edge{From: g.components[e.Src], To: g.components[e.Dst]}] = true
	})
	a.Calls = slices.SortedFunc(maps.Keys(edges), func(x, y placement.Edge) int {
		return cmp.Or(strings.Compare(x.From, y.From), strings.Compare(x.To, y.To))
	})

	listeners, err := guard(func() ([]codegen.ComponentListeners, error) { return bin.ReadListeners(binary) })
	if err != nil {
		return fmt.Errorf("binary %s: read its listeners: %w", binary, err)
	}
	for _, c := range listeners {
		for _, l := range c.Listeners {
			a.Listeners = append(a.Listeners, ListenerInfo{Name: l, Component: c.Component})
		}
	}
	slices.SortFunc(a.Listeners, func(x, y ListenerInfo) int {
		return cmp.Or(strings.Compare(x.Name, y.Name), strings.Compare(x.Component, y.Component))
	})
	return nil
}

// guard calls a function that reads a binary. Package bin expects what a linker
// writes, and panics at some files that none has written.
func guard[T any](read func() (T, error)) (v T, err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("it is damaged")
		}
	}()
	return read()
}

// notAnApplication says why a file whose versions cannot be read is none.
func notAnApplication(binary string, err error) error {
	info, goErr := guard(func() (*buildinfo.BuildInfo, error) { return buildinfo.ReadFile(binary) })
	if goErr != nil {
		return fmt.Errorf("binary %s is not a Go program, or is not complete: name the file that go build wrote", binary)
	}
	const weaver = "github.com/ServiceWeaver/weaver"
	if info.Main.Path != weaver && !slices.ContainsFunc(info.Deps, func(m *debug.Module) bool { return m.Path == weaver }) {
		return fmt.Errorf("binary %s is a Go program, but not a Service Weaver application: build one whose main function calls weaver.Run", binary)
	}
	return fmt.Errorf("binary %s: read its weaver version: %w; rebuild the application", binary, err)
}

func checkExecutable(binary string) error {
	info, err := os.Stat(binary)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("binary %s does not exist: build the application first (go build), or correct the path", binary)
	case err != nil:
		return fmt.Errorf("binary %s: %w", binary, withoutPath(err))
	case info.IsDir():
		return fmt.Errorf("binary %s is a directory: name the file that go build wrote into it", binary)
	case !info.Mode().IsRegular():
		return fmt.Errorf("binary %s is not a regular file (%s)", binary, info.Mode().Type())
	case runtime.GOOS != "windows" && info.Mode()&0o111 == 0:
		return fmt.Errorf("binary %s is not executable: chmod +x it", binary)
	}
	return nil
}

// listenerNames returns the sorted names of the App's listeners.
func (a *App) listenerNames() []string {
	var names []string
	for _, l := range a.Listeners {
		names = append(names, l.Name)
	}
	return slices.Compact(names)
}
