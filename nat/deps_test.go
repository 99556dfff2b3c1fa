// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestImports holds the core to its allow-list: the standard library, golang.org/x/sys and the prefix table, apart from
// our own packages; and those only downward.
func TestImports(t *testing.T) {
	const module = "github.com/tidegate/tidegate/"
	allowed := map[string][]string{ // of our own, besides what everybody may
		"packet":             {},
		"conntrack":          {},
		"nat/internal/reasm": {},
		"nat":                {"packet", "conntrack", "nat/internal/reasm"},
		"vpc":                {"packet", "nat"},
		"tun":                {"packet"},
	}
	for dir, own := range allowed {
		for _, f := range sources(t, filepath.Join("..", dir)) {
			for _, i := range f.Imports {
				path, err := strconv.Unquote(i.Path.Value)
				if err != nil {
					t.Fatal(err)
				}
				switch {
				case strings.HasPrefix(path, module):
					if !contains(own, strings.TrimPrefix(path, module)) {
						t.Errorf("%s imports %s", dir, path)
					}
				case !strings.Contains(strings.Split(path, "/")[0], "."): // standard library
				case strings.HasPrefix(path, "golang.org/x/sys"):
				case dir == "nat" && path == "github.com/gaissmai/bart":
				case dir == "tun" && path == "github.com/songgao/water":
				default:
					t.Errorf("%s imports %s", dir, path)
				}
			}
		}
	}
}

// TestPublicAPI: no type of another module is in what the core exports, so that one can be replaced without breaking anybody.
func TestPublicAPI(t *testing.T) {
	for _, dir := range []string{"packet", "conntrack", "nat", "vpc", "tun"} {
		exported := 0
		for _, f := range sources(t, filepath.Join("..", dir)) {
			foreign := map[string]string{} // by the name in the file
			for _, i := range f.Imports {
				path := strings.Trim(i.Path.Value, `"`)
				if !strings.Contains(path, ".") || strings.HasPrefix(path, "github.com/tidegate/tidegate/") {
					continue
				}
				name := path[strings.LastIndex(path, "/")+1:]
				if i.Name != nil {
					name = i.Name.Name
				}
				foreign[name] = path
			}
			ast.FileExports(f) // leaves what is exported, with the bodies of functions
			for _, d := range f.Decls {
				if f, ok := d.(*ast.FuncDecl); ok {
					f.Body = nil
				}
				exported++
				ast.Inspect(d, func(n ast.Node) bool {
					if s, ok := n.(*ast.SelectorExpr); ok {
						if x, ok := s.X.(*ast.Ident); ok && foreign[x.Name] != "" {
							t.Errorf("%s exports something of %s.%s", dir, foreign[x.Name], s.Sel.Name)
						}
					}
					return true
				})
			}
		}
		if exported == 0 {
			t.Errorf("%s exports nothing", dir)
		}
	}
}

// TestPure: time is an argument. The core reads no clock, starts no goroutine and writes no log.
func TestPure(t *testing.T) {
	forbidden := map[string]bool{
		"time.Now": true, "time.Since": true, "time.Sleep": true, "time.After": true, "time.NewTimer": true, "time.NewTicker": true,
		"time.AfterFunc": true,
	}
	for _, dir := range []string{"packet", "conntrack", "nat", "nat/internal/reasm", "vpc"} {
		for _, f := range sources(t, filepath.Join("..", dir)) {
			for _, i := range f.Imports {
				if p := strings.Trim(i.Path.Value, `"`); p == "log" || p == "log/slog" || p == "os" || p == "net" || p == "context" {
					t.Errorf("%s imports %s", dir, p)
				}
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.GoStmt:
					t.Errorf("%s starts a goroutine", dir)
				case *ast.SelectorExpr:
					if x, ok := n.X.(*ast.Ident); ok && forbidden[x.Name+"."+n.Sel.Name] {
						t.Errorf("%s calls %s.%s", dir, x.Name, n.Sel.Name)
					}
				}
				return true
			})
		}
	}
}

// sources parses the files of a package that are not tests.
func sources(t *testing.T, dir string) (files []*ast.File) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name := e.Name()
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, name), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	if len(files) == 0 {
		t.Fatalf("no Go files in %s", dir)
	}
	return files
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}
