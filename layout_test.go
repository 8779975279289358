package weaverkit_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/weaverkit/weaverkit"

// mayImport says what each package may import besides the standard library;
// a path that ends in "/..." stands for everything below. ARCHITECTURE.md has
// the reasons. Packages below examples and internal may import everything.
var mayImport = map[string][]string{
	".":         {},
	"health":    {},
	"logbuffer": {},
	"proxy":     {},
	"routing": {
		"github.com/ServiceWeaver/weaver/runtime/protos",
		"google.golang.org/protobuf/...",
	},
	"envelopekit": {
		"github.com/BurntSushi/toml",
		"github.com/ServiceWeaver/weaver/runtime/...",
		"github.com/google/uuid",
		"go.opentelemetry.io/otel/sdk/trace",

		"golang.org/x/sys/...",
		"google.golang.org/protobuf/proto",
		module + "/envelopekit/internal/wire",
		module + "/envelopekit/placement",
	},
	"rollout": {},
	"rollout/boltstore": {
		"go.etcd.io/bbolt",
		"go.etcd.io/bbolt/errors",
		module + "/rollout",
	},
	"rollout/storetest":     {module + "/rollout"},
	"envelopekit/placement": {},
	"envelopekit/identity":  {},
	"envelopekit/admin":     {module + "/envelopekit"},
	"envelopekit/envelopetest": {
		"github.com/ServiceWeaver/weaver/runtime/...",
		"go.opentelemetry.io/otel/sdk/trace",
		module + "/envelopekit",
		module + "/envelopekit/placement",
	},
}

func TestImports(t *testing.T) {
	seen := map[string]bool{}
	for dir, files := range packages(t) {
		if free(dir) {
			continue
		}
		seen[dir] = true
		allowed, ok := mayImport[dir]
		require.True(t, ok, "package %s is not in the table of allowed imports", dir)
		for name, file := range files {
			for _, spec := range file.Imports {
				path, err := strconv.Unquote(spec.Path.Value)
				require.NoError(t, err)
				first, _, _ := strings.Cut(path, "/")
				if !strings.Contains(first, ".") {
					continue // the standard library
				}
				assert.True(t, slices.ContainsFunc(allowed, func(a string) bool {
					prefix, tree := strings.CutSuffix(a, "/...")
					return path == prefix || tree && strings.HasPrefix(path, prefix+"/")
				}), "%s imports %s, which package %s may not", name, path, dir)
			}
		}
	}
	for dir := range mayImport {
		assert.True(t, seen[dir], "the table of allowed imports has package %s, which does not exist", dir)
	}
}

func TestEveryPackageHasAComment(t *testing.T) {
	for dir, files := range packages(t) {
		commented := slices.ContainsFunc(slices.Collect(maps.Values(files)), func(f *ast.File) bool {
			return f.Doc != nil && len(f.Doc.Text()) > 40
		})
		assert.True(t, commented, "package %s has no package comment", dir)
	}
}

func free(dir string) bool {
	return strings.HasPrefix(dir, "examples/") || slices.Contains(strings.Split(dir, "/"), "internal")
}

// packages returns the parsed imports and comments of the files of every
// package of the module, tests left out, by directory and file.
func packages(t *testing.T) map[string]map[string]*ast.File {
	t.Helper()
	all := map[string]map[string]*ast.File{}
	fset := token.NewFileSet()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			nested, _ := filepath.Glob(filepath.Join(path, "go.mod"))
			hidden := strings.HasPrefix(d.Name(), ".") && path != "."
			if hidden || d.Name() == "testdata" || path != "." && len(nested) > 0 {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(fset, path, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		dir := filepath.ToSlash(filepath.Dir(path))
		if all[dir] == nil {
			all[dir] = map[string]*ast.File{}
		}
		all[dir][path] = file
		return nil
	})
	require.NoError(t, err)
	require.NotEmpty(t, all)
	return all
}
