package envelopekit

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/ServiceWeaver/weaver/runtime/bin"
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
	versions, err := bin.ReadVersions(binary)
	if err != nil {
		return fmt.Errorf("binary %s is not a Service Weaver application (%w): build one with a main package that calls weaver.Run, after 'weaver generate'", binary, err)
	}
	if versions.DeployerVersion != version.DeployerVersion {
		return fmt.Errorf("binary %s speaks deployer API %s (weaver module %s), this deployer %s: rebuild the application with github.com/ServiceWeaver/weaver@v0.24.6",
			binary, versions.DeployerVersion, versions.ModuleVersion, version.DeployerVersion)
	}
	a.Versions = versions

	components, calls, err := bin.ReadComponentGraph(binary)
	if err != nil {
		return fmt.Errorf("binary %s: read its components: %w", binary, err)
	}
	a.Components = components
	edges := map[placement.Edge]bool{}
	graph.PerEdge(calls, func(e graph.Edge) {
		edges[placement.Edge{From: components[e.Src], To: components[e.Dst]}] = true
	})
	a.Calls = slices.SortedFunc(maps.Keys(edges), func(x, y placement.Edge) int {
		if c := strings.Compare(x.From, y.From); c != 0 {
			return c
		}
		return strings.Compare(x.To, y.To)
	})

	listeners, err := bin.ReadListeners(binary)
	if err != nil {
		return fmt.Errorf("binary %s: read its listeners: %w", binary, err)
	}
	for _, c := range listeners {
		for _, l := range c.Listeners {
			a.Listeners = append(a.Listeners, ListenerInfo{Name: l, Component: c.Component})
		}
	}
	slices.SortFunc(a.Listeners, func(x, y ListenerInfo) int { return strings.Compare(x.Name, y.Name) })
	return nil
}

func checkExecutable(binary string) error {
	info, err := os.Stat(binary)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("binary %s does not exist: build the application first (go build), or correct the path", binary)
	case err != nil:
		return fmt.Errorf("binary %s: %w", binary, err)
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
