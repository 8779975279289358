package envelopekit

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	weaverruntime "github.com/ServiceWeaver/weaver/runtime"
)

// The two names of the application's own section.
const (
	appSection      = "github.com/ServiceWeaver/weaver"
	appSectionShort = "serviceweaver"
)

// ListenerOptions are what a deployer's section says about one listener.
type ListenerOptions struct {
	// Address clients reach the listener at, "host:port" or ":port". Empty
	// leaves the choice to the deployer.
	Address string `toml:"address"`
}

// ListenerConfig is the type of a field of a deployer's section that holds the
// options of listeners, by name:
//
//	[multi]
//	listeners.shop = {address = "localhost:9000"}
//
// [App.Section] refuses names that the binary does not have.
type ListenerConfig map[string]ListenerOptions

// LoadApp reads an application's TOML configuration and the binary that it
// names. The file has the form of Service Weaver's own deployers: a
// [serviceweaver] section (name, binary, args, env, colocate, rollout), a
// section for each component that takes configuration, and one for each
// deployer, which [App.Section] reads. Relative paths are relative to the file.
//
// An error names the file, the section, the key and the remedy.
func LoadApp(file string) (*App, error) {
	app, err := loadApp(file)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", file, err)
	}
	return app, nil
}

func loadApp(file string) (*App, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, errors.Unwrap(err) // without the path, which the caller names
	}

	var sections map[string]toml.Primitive
	md, err := toml.Decode(string(text), &sections)
	if err != nil {
		return nil, tomlError(err)
	}
	for name := range sections {
		if md.Type(name) != "Hash" {
			return nil, fmt.Errorf("key %q is outside of any section: move it below a [section] line, for instance [%s]", name, appSectionShort)
		}
	}
	if err := checkAppSection(md, sections); err != nil {
		return nil, err
	}
	config, err := weaverruntime.ParseConfig(file, string(text), func(string, string) error { return nil })
	if err != nil {
		return nil, err
	}

	app := &App{Name: config.Name, Config: config, File: file}
	if err := app.readBinary(); err != nil {
		return nil, err
	}
	if err := app.checkColocate(); err != nil {
		return nil, err
	}
	app.warnSections()
	return app, nil
}

// checkAppSection checks the application's own section more strictly, and with
// better words, than the parser that reads it afterwards.
func checkAppSection(md toml.MetaData, sections map[string]toml.Primitive) error {
	_, long := sections[appSection]
	prim, short := sections[appSectionShort]
	name := appSectionShort
	switch {
	case long && short:
		return fmt.Errorf("sections [%s] and [%q] are the same: keep one", appSectionShort, appSection)
	case !long && !short:
		known := slices.Sorted(maps.Keys(sections))
		return fmt.Errorf("no [%s] section%s: add one with binary = \"./your-binary\"", appSectionShort, didYouMean(appSectionShort, known))
	case long:
		name, prim = fmt.Sprintf("%q", appSection), sections[appSection]
	}

	var parsed struct {
		Name     string
		Binary   string
		Args     []string
		Env      []string
		Colocate [][]string
		Rollout  time.Duration
	}
	if err := md.PrimitiveDecode(prim, &parsed); err != nil {
		return fmt.Errorf("section [%s]: %w", name, tomlError(err))
	}
	known := []string{"name", "binary", "args", "env", "colocate", "rollout"}
	for _, key := range md.Undecoded() {
		if len(key) > 1 && (key[0] == appSection || key[0] == appSectionShort) {
			return fmt.Errorf("section [%s]: unknown key %q%s; known are %s", name, key[1], didYouMean(key[1], known), strings.Join(known, ", "))
		}
	}
	if parsed.Binary == "" {
		return fmt.Errorf("section [%s]: key \"binary\" is missing: add binary = \"./your-binary\"", name)
	}
	if parsed.Rollout < 0 {
		return fmt.Errorf("section [%s]: key \"rollout\" is negative (%v): use a duration such as \"5m\"", name, parsed.Rollout)
	}
	for _, env := range parsed.Env {
		if k, _, ok := strings.Cut(env, "="); !ok || k == "" {
			return fmt.Errorf("section [%s]: key \"env\": %q is not of the form NAME=value", name, env)
		}
	}
	seen := map[string]bool{}
	for _, list := range parsed.Colocate {
		for _, c := range list {
			if seen[c] {
				return fmt.Errorf("section [%s]: key \"colocate\" names component %q twice: a component is in one group", name, c)
			}
			seen[c] = true
		}
	}
	return nil
}

// checkColocate refuses colocated components that the binary does not have.
func (a *App) checkColocate() error {
	for _, g := range a.Config.Colocate {
		for _, c := range g.Components {
			if !slices.Contains(a.Components, c) {
				return fmt.Errorf("section [%s]: key \"colocate\" names component %q, which binary %s does not have%s",
					appSectionShort, c, a.Config.Binary, didYouMean(c, a.Components))
			}
		}
	}
	return nil
}

// warnSections notes sections that look like a component's but are not. They
// are no errors: the binary lists only components that something refers to.
func (a *App) warnSections() {
	for _, name := range slices.Sorted(maps.Keys(a.Config.Sections)) {
		last := name[strings.LastIndex(name, "/")+1:]
		isComponent := strings.Contains(name, "/") && last != "" && strings.ToUpper(last[:1]) == last[:1]
		if isComponent && !slices.Contains(a.Components, name) {
			a.Warnings = append(a.Warnings, fmt.Sprintf("section [%q] configures a component that nothing in the binary refers to%s", name, didYouMean(name, a.Components)))
		}
	}
}

// Section decodes the deployer's own section, [name] or the long form
// ["github.com/ServiceWeaver/weaver/name"], into dst, a pointer to a struct. A
// section that is not there leaves dst as it is. Keys that dst has no field
// for are errors, and so are names in any field of type [ListenerConfig] that
// are no listeners of the binary.
func (a *App) Section(name string, dst any) error {
	long := appSection + "/" + name
	text, ok := a.Config.Sections[name]
	longText, longOK := a.Config.Sections[long]
	switch {
	case ok && longOK:
		return fmt.Errorf("load %s: sections [%s] and [%q] are the same: keep one", a.File, name, long)
	case longOK:
		text = longText
	case !ok:
		return nil
	}
	md, err := toml.Decode(text, dst)
	if err != nil {
		return fmt.Errorf("load %s: section [%s]: %w", a.File, name, tomlError(err))
	}
	known := slices.Sorted(fieldKeys(reflect.TypeOf(dst)))
	if unknown := md.Undecoded(); len(unknown) > 0 {
		key := unknown[0]
		return fmt.Errorf("load %s: section [%s]: unknown key %q%s; known are %s",
			a.File, name, key.String(), didYouMean(key[0], known), strings.Join(known, ", "))
	}
	for _, listener := range listenersOf(reflect.ValueOf(dst)) {
		if have := a.listenerNames(); !slices.Contains(have, listener) {
			return fmt.Errorf("load %s: section [%s]: key \"listeners\" names listener %q, which binary %s does not have%s; it has: %s",
				a.File, name, listener, a.Config.Binary, didYouMean(listener, have), orNone(have))
		}
	}
	return nil
}

// tomlError strips the position-free prefix and keeps line and column.
func tomlError(err error) error {
	var parse toml.ParseError
	if errors.As(err, &parse) {
		what := parse.Message
		if what == "" {
			what = strings.TrimPrefix(parse.Error(), "toml: ")
			if _, rest, ok := strings.Cut(what, "): "); ok {
				what = rest
			}
		}
		return fmt.Errorf("line %d: %s", parse.Position.Line, what)
	}
	return errors.New(strings.TrimPrefix(err.Error(), "toml: "))
}

// fieldKeys yields the TOML keys of a struct's fields, embedded ones included.
func fieldKeys(t reflect.Type) func(func(string) bool) {
	return func(yield func(string) bool) {
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct {
			return
		}
		for _, f := range reflect.VisibleFields(t) {
			if !f.IsExported() || f.Anonymous {
				continue
			}
			key, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
			if key == "" {
				key = strings.ToLower(f.Name)
			}
			if key != "-" && !yield(key) {
				return
			}
		}
	}
}

// listenersOf returns the sorted names in all ListenerConfig fields of a struct.
func listenersOf(v reflect.Value) []string {
	for v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return nil
	}
	var names []string
	for _, f := range reflect.VisibleFields(v.Type()) {
		if !f.IsExported() || f.Type != reflect.TypeFor[ListenerConfig]() {
			continue
		}
		names = append(names, slices.Collect(maps.Keys(v.FieldByIndex(f.Index).Interface().(ListenerConfig)))...)
	}
	slices.Sort(names)
	return names
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// didYouMean returns ", did you mean ...?" when one of the candidates is close
// to the word, else "".
func didYouMean(word string, candidates []string) string {
	best, bestDistance := "", max(2, len(word)/5)+1
	for _, c := range candidates {
		if d := distance(strings.ToLower(word), strings.ToLower(c)); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(", did you mean %q?", best)
}

// distance is the Levenshtein distance of two strings, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
