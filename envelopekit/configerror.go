package envelopekit

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// A tomlError is an error of the TOML decoder in its parts.
type tomlError struct {
	line int
	key  string // path of the key
	what string // one line
}

func readTOMLError(err error) tomlError {
	e := tomlError{what: strings.TrimPrefix(err.Error(), "toml: ")}
	if parse, ok := errors.AsType[toml.ParseError](err); ok {
		e = tomlError{line: parse.Position.Line, key: parse.LastKey, what: parse.Message}
	} else if m := position.FindStringSubmatch(e.what); m != nil {
		e.line, _ = strconv.Atoi(m[1])
		e.what = m[3]
		if key, err := strconv.Unquote(m[2]); err == nil {
			e.key = key
		}
	}
	e.what = strings.TrimSuffix(strings.Join(strings.Fields(e.what), " "), ".")
	if rest, ok := strings.CutPrefix(e.what, "Key "); ok {
		e.what = "key " + rest
	}
	if len(e.what) > maxMessage {
		e.what = strings.ToValidUTF8(e.what[:maxMessage], "") + "..."
	}
	return e
}

// syntaxError says in which line a text is not TOML.
func syntaxError(err error) error {
	e := readTOMLError(err)
	what := strings.ReplaceAll(e.what, `'\x00'`, "the end of the file")
	switch {
	case strings.HasPrefix(what, "expected value"), strings.HasPrefix(what, "floats must start"), strings.HasPrefix(what, "invalid float"):
		what += "; text needs quotes: \"...\""
	case strings.HasPrefix(what, "invalid UTF-8"):
		what += "; save the file as UTF-8"
	}
	return fmt.Errorf("line %d: %s", e.line, what)
}

// valueError says which key of a section has a value of the wrong type.
func valueError(err error) error {
	e := readTOMLError(err)
	return fmt.Errorf("key %q: %s", e.key, e.mismatch())
}

// appValueError is valueError for the application's own section. The keys in
// err begin with that of the section, and the lines are the file's.
func appValueError(err error, section string) error {
	e := readTOMLError(err)
	key := strings.TrimPrefix(e.key, tomlKey(section)+".")
	what := e.mismatch()
	if example, ok := appExamples[key]; ok {
		what += fmt.Sprintf("; write it like %s = %s", key, example)
	}
	return fmt.Errorf("line %d: key %q: %s", e.line, key, what)
}

// mismatch returns what is wrong with a value, in the words of TOML.
func (e tomlError) mismatch() string {
	if m := mismatch.FindStringSubmatch(e.what); m != nil {
		return fmt.Sprintf("got %s, want %s", article(m[1]), article(m[2]))
	}
	if m := noTable.FindStringSubmatch(e.what); m != nil {
		return fmt.Sprintf("got %s, want a table: {key = value}", article(m[1]))
	}
	return e.what
}

// What the TOML decoder says of a value of the wrong type.
var (
	mismatch = regexp.MustCompile(`^incompatible types: TOML value has type (.+); destination has type (.+)$`)
	noTable  = regexp.MustCompile(`^type mismatch for .+: expected table but found (.+)$`)
)

// article returns a type in the words of TOML, with its article.
func article(typ string) string {
	switch {
	case strings.HasPrefix(typ, "map"), typ == "struct", typ == "table":
		return "a table"
	case strings.HasPrefix(typ, "[]"), typ == "slice", typ == "array":
		return "a list"
	case strings.HasPrefix(typ, "int"):
		return "an integer"
	case strings.HasPrefix(typ, "float"):
		return "a float"
	case strings.HasPrefix(typ, "bool"):
		return "a boolean (true or false)"
	case strings.HasPrefix(typ, "time."), typ == "datetime":
		return "a time"
	}
	return "a " + typ
}

// maxMessage is how much of an error that quotes the file is shown.
const maxMessage = 300

// position is how the TOML decoder says where a value of the wrong type is.
var position = regexp.MustCompile(`^(?:line (\d+) )?\(last key ("(?:[^"\\]|\\.)*")\): (.*)$`)

// tomlKey returns the key as it is written in a TOML file, quoted if need be.
func tomlKey(key string) string { return toml.Key{key}.String() }

// unknownKey says that the type has no field for the key, and which it has. It
// returns nil if the type has room for any key.
func unknownKey(key toml.Key, t reflect.Type) error {
	for i, part := range key {
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		switch t.Kind() {
		case reflect.Map:
			t = t.Elem()
			continue
		case reflect.Struct:
		default:
			return nil
		}
		fields := fieldTypes(t)
		next, ok := fields[strings.ToLower(part)]
		if !ok {
			known := slices.Sorted(maps.Keys(fields))
			return fmt.Errorf("unknown key %q%s; known here: %s", key[:i+1], didYouMean(part, known), orNone(known))
		}
		t = next
	}
	return nil
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// didYouMean returns " (did you mean ...?)" when one of the candidates is close
// to the word, else "".
func didYouMean(word string, candidates []string) string {
	if near, ok := nearest(word, candidates); ok {
		return fmt.Sprintf(" (did you mean %q?)", near)
	}
	return ""
}

// nearest returns the first candidate that differs least from the word, if that
// is little.
func nearest(word string, candidates []string) (near string, ok bool) {
	if len(word) > maxMessage {
		return "", false
	}
	least := max(2, len(word)/5) + 1
	for _, c := range candidates {
		if len(c) > 2*maxMessage {
			continue
		}
		// A short word differs little from any other short one.
		if d := distance(strings.ToLower(word), strings.ToLower(c)); d < least && d < len(c) {
			near, least, ok = c, d, true
		}
	}
	return near, ok
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
