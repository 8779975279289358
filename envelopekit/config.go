package envelopekit

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
	weaverruntime "github.com/ServiceWeaver/weaver/runtime"

	"github.com/weaverkit/weaverkit/envelopekit/placement"
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

// maxConfig bounds a configuration file: every weavelet is sent all of it.
const maxConfig = 4 << 20

func readConfig(file string) (string, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", errors.New("there is no such file: name the application's configuration, usually weaver.toml")
	}
	if err != nil {
		return "", withoutPath(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return "", withoutPath(err)
	}
	if len(text) > maxConfig {
		return "", fmt.Errorf("it has more than %d MiB: is this the application's configuration?", maxConfig>>20)
	}
	return string(text), nil
}

// withoutPath strips the operation and the path, which the caller names.
func withoutPath(err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path.Err
	}
	return err
}

func loadApp(file string) (*App, error) {
	text, err := readConfig(file)
	if err != nil {
		return nil, err
	}
	var sections map[string]any
	md, err := toml.Decode(text, &sections)
	if err != nil {
		return nil, syntaxError(err)
	}
	for _, key := range md.Keys() {
		name := key[0]
		switch sections[name].(type) {
		case map[string]any:
		case []map[string]any:
			return nil, fmt.Errorf("section [[%s]] has double brackets: write [%s], once", tomlKey(name), tomlKey(name))
		default:
			return nil, fmt.Errorf("key %q is outside of any section: move it below a [section] line, for instance [%s]", name, appSectionShort)
		}
	}
	parsed, err := parseAppSection(text, sections)
	if err != nil {
		return nil, err
	}
	config, err := weaverruntime.ParseConfig(file, text, func(string, string) error { return nil })
	if err != nil {
		return nil, err
	}

	app := &App{Name: config.Name, Config: config, File: file}
	if err := app.readBinary(); err != nil {
		return nil, err
	}
	if err := app.checkColocate(parsed.section); err != nil {
		return nil, err
	}
	if 0 < parsed.Rollout && parsed.Rollout < time.Millisecond {
		app.Warnings = append(app.Warnings, fmt.Sprintf("section [%s]: key \"rollout\" is %v: a number counts nanoseconds; for five minutes write \"5m\"", parsed.section, parsed.Rollout))
	}
	app.warnSections()
	return app, nil
}

// An appConfig is the application's own section.
type appConfig struct {
	Name     string
	Binary   string
	Args     []string
	Env      []string
	Colocate [][]string
	Rollout  time.Duration

	section string // its name as the file has it
}

// appExamples has a value of the right form for each key of the section.
var appExamples = map[string]string{
	"name":     `"shop"`,
	"binary":   `"./your-binary"`,
	"args":     `["-v", "-port=80"]`,
	"env":      `["NAME=value"]`,
	"colocate": `[["example.com/shop/Cart", "example.com/shop/Cache"]]`,
	"rollout":  `"5m"`,
}

// parseAppSection reads the application's own section more strictly, and with
// better words, than the parser that reads it for the weavelets.
func parseAppSection(text string, sections map[string]any) (*appConfig, error) {
	_, long := sections[appSection]
	_, short := sections[appSectionShort]
	name, key := appSectionShort, appSectionShort
	switch {
	case long && short:
		return nil, fmt.Errorf("sections [%s] and [%q] are the same: keep one", appSectionShort, appSection)
	case !long && !short:
		if near, ok := nearest(appSectionShort, slices.Sorted(maps.Keys(sections))); ok {
			return nil, fmt.Errorf("there is no section [%s], but a section [%s]: correct its name", appSectionShort, tomlKey(near))
		}
		return nil, fmt.Errorf("there is no section [%s]: add one with binary = \"./your-binary\"", appSectionShort)
	case long:
		name, key = fmt.Sprintf("%q", appSection), appSection
	}

	// Decoding anew from the file's text gives errors with the file's lines.
	var primitives map[string]toml.Primitive
	md, err := toml.Decode(text, &primitives)
	if err != nil {
		return nil, syntaxError(err)
	}
	parsed := appConfig{section: name}
	if err := md.PrimitiveDecode(primitives[key], &parsed); err != nil {
		return nil, fmt.Errorf("section [%s]: %w", name, appValueError(err, key))
	}
	for _, k := range md.Undecoded() {
		if len(k) > 1 && k[0] == key {
			if err := unknownKey(k[1:], reflect.TypeFor[appConfig]()); err != nil {
				return nil, fmt.Errorf("section [%s]: %w", name, err)
			}
		}
	}
	if parsed.Binary == "" {
		return nil, fmt.Errorf("section [%s]: key \"binary\" is missing: add binary = \"./your-binary\"", name)
	}
	if parsed.Rollout < 0 {
		return nil, fmt.Errorf("section [%s]: key \"rollout\" is negative (%v): use a duration such as \"5m\"", name, parsed.Rollout)
	}
	for _, env := range parsed.Env {
		if k, _, ok := strings.Cut(env, "="); !ok || k == "" {
			return nil, fmt.Errorf("section [%s]: key \"env\": %q is not of the form NAME=value", name, env)
		}
	}
	seen := map[string]bool{}
	for _, list := range parsed.Colocate {
		for _, c := range list {
			c = unalias(c)
			if seen[c] {
				return nil, fmt.Errorf("section [%s]: key \"colocate\" names component %q twice: a component is in one group", name, c)
			}
			seen[c] = true
		}
	}
	for _, texts := range []struct {
		key    string
		values []string
	}{{"binary", []string{parsed.Binary}}, {"args", parsed.Args}, {"env", parsed.Env}} {
		for _, v := range texts.values {
			if strings.ContainsRune(v, 0) {
				return nil, fmt.Errorf("section [%s]: key %q: %q holds a zero byte, which no process can be given", name, texts.key, v)
			}
		}
	}
	return &parsed, nil
}

// mainAlias is what older configurations, some of Service Weaver's own examples
// among them, call the main component in a colocate list.
const mainAlias = "main"

func unalias(component string) string {
	if component == mainAlias {
		return placement.Main
	}
	return component
}

// checkColocate refuses colocated components that the binary does not have.
func (a *App) checkColocate(section string) error {
	for _, g := range a.Config.Colocate {
		for i, c := range g.Components {
			c = unalias(c)
			if !slices.Contains(a.Components, c) {
				return fmt.Errorf("section [%s]: key \"colocate\" names component %q, which binary %s does not have%s",
					section, c, a.Config.Binary, a.didYouMeanComponent(c))
			}
			g.Components[i] = c
		}
	}
	return nil
}

// didYouMeanComponent is didYouMean for components, which people like to name
// by the last parts of their names.
func (a *App) didYouMeanComponent(word string) string {
	for _, c := range a.Components {
		if strings.EqualFold(word, placement.Shorten(c)) || strings.HasSuffix(strings.ToLower(c), "/"+strings.ToLower(word)) {
			return fmt.Sprintf(" (did you mean %q?)", c)
		}
	}
	return didYouMean(word, a.Components)
}

// warnSections notes sections that look like a component's but are not. They
// are no errors: the binary lists only components that something refers to.
func (a *App) warnSections() {
	for _, name := range slices.Sorted(maps.Keys(a.Config.Sections)) {
		last := name[strings.LastIndex(name, "/")+1:]
		first, _ := utf8.DecodeRuneInString(last)
		isComponent := strings.Contains(name, "/") && unicode.IsUpper(first)
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
	text, ok := a.Config.GetSections()[name]
	label := name
	longText, longOK := a.Config.GetSections()[long]
	switch {
	case ok && longOK:
		return fmt.Errorf("load %s: sections [%s] and [%q] are the same: keep one", a.File, name, long)
	case longOK:
		text, label = longText, fmt.Sprintf("%q", long)
	case !ok:
		return nil
	}
	if err := a.decodeSection(text, dst); err != nil {
		return fmt.Errorf("load %s: section [%s]: %w", a.File, label, err)
	}
	return nil
}

func (a *App) decodeSection(text string, dst any) error {
	md, err := toml.Decode(text, dst)
	if err != nil {
		return valueError(err)
	}
	for _, key := range md.Undecoded() {
		if err := unknownKey(key, reflect.TypeOf(dst)); err != nil {
			return err
		}
	}
	for key, listeners := range listenerFields(reflect.ValueOf(dst)) {
		// The decoder passes over a value that is no table, without an error.
		if typ := typeOf(md, key); typ != "" && typ != "Hash" {
			return fmt.Errorf("key %q: got %s, want a table, for instance %s.NAME = {address = \"localhost:9000\"}", key, article(strings.ToLower(typ)), key)
		}
		if err := a.checkListeners(key, listeners); err != nil {
			return err
		}
	}
	return nil
}

// checkListeners refuses listeners that the binary does not have, and
// addresses that are none.
func (a *App) checkListeners(key string, listeners ListenerConfig) error {
	have := a.listenerNames()
	for _, name := range slices.Sorted(maps.Keys(listeners)) {
		if !slices.Contains(have, name) {
			return fmt.Errorf("key %q names listener %q, which binary %s does not have%s; it has: %s", key, name, a.Config.Binary, didYouMean(name, have), orNone(have))
		}
		if err := checkAddress(listeners[name].Address); err != nil {
			return fmt.Errorf("key \"%s.%s.address\": %w", key, tomlKey(name), err)
		}
	}
	return nil
}

// typeOf returns the TOML type of a key of a section, "" if it has none. The
// case of keys does not count.
func typeOf(md toml.MetaData, key string) string {
	for _, k := range md.Keys() {
		if len(k) == 1 && strings.EqualFold(k[0], key) {
			return md.Type(k...)
		}
	}
	return ""
}

// checkAddress refuses what cannot be listened on anywhere.
func checkAddress(address string) error {
	if address == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil {
		return fmt.Errorf("%q is no address: write \"host:port\" or \":port\", for instance \"localhost:9000\"", address)
	}
	return nil
}

// fieldTypes returns the types of a struct's fields by their TOML keys, in
// lower case, embedded structs' fields included.
func fieldTypes(t reflect.Type) map[string]reflect.Type {
	types := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		if key, ok := fieldKey(f); ok {
			types[strings.ToLower(key)] = f.Type
		}
	}
	return types
}

// fieldKey returns the TOML key of a field.
func fieldKey(f reflect.StructField) (key string, ok bool) {
	if !f.IsExported() || f.Anonymous {
		return "", false
	}
	key, _, _ = strings.Cut(f.Tag.Get("toml"), ",")
	return cmp.Or(key, strings.ToLower(f.Name)), key != "-"
}

// listenerFields yields the ListenerConfig fields of a struct, by their keys.
func listenerFields(v reflect.Value) iter.Seq2[string, ListenerConfig] {
	return func(yield func(string, ListenerConfig) bool) {
		for v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		if v.Kind() != reflect.Struct {
			return
		}
		for _, f := range reflect.VisibleFields(v.Type()) {
			key, ok := fieldKey(f)
			if !ok || f.Type != reflect.TypeFor[ListenerConfig]() {
				continue
			}
			// An embedded pointer that is nil holds no listeners.
			if field, err := v.FieldByIndexErr(f.Index); err == nil && !yield(key, field.Interface().(ListenerConfig)) {
				return
			}
		}
	}
}
