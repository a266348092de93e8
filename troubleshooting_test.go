package fairway_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestEveryReasonIsExplained: who reads a reason in an event or a condition finds
// it in docs/troubleshooting.md, and that page has no others.
func TestEveryReasonIsExplained(t *testing.T) {
	page, err := os.ReadFile("docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	explained := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Za-z0-9]+)` \\|").FindAllStringSubmatch(string(page), -1) {
		if explained[row[1]] {
			t.Errorf("%s is explained twice", row[1])
		}
		explained[row[1]] = true
	}
	used := reasons(t)
	if len(used) < 30 {
		t.Fatalf("only %d reasons are found in the code: %v", len(used), used)
	}
	for reason, where := range used {
		if !explained[reason] {
			t.Errorf("%s (%s) has no row in docs/troubleshooting.md", reason, where)
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(explained)) {
		if used[reason] == "" {
			t.Errorf("docs/troubleshooting.md explains %s, which nothing says", reason)
		}
	}
}

// reasons returns the reasons of events and conditions in the code, and where
// each is: constants named event… and reason…, the kinds of lb.Error, fields
// Reason and reason of literals, the providers' notices, and what the node proxy
// names as kube-proxy does.
func reasons(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, folder := range []string{"controllers", "providers", "cmd"} {
		err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && (d.Name() == "testdata" || path == "providers/fake" || path == "providers/providertest" || path == "cmd/fakecloud") {
				return filepath.SkipDir
			}
			if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return nil
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				for _, e := range reasonsIn(n) {
					if literal, ok := e.(*ast.BasicLit); ok && literal.Kind == token.STRING {
						reason, _ := strconv.Unquote(literal.Value)
						found[reason] = path
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	delete(found, "")
	return found
}

// reasonsIn returns the expressions in n itself that are reasons, if they are
// literals.
func reasonsIn(n ast.Node) []ast.Expr {
	switch n := n.(type) {
	case *ast.ValueSpec:
		kind, _ := n.Type.(*ast.Ident)
		name := n.Names[0].Name
		if strings.HasPrefix(name, "event") || strings.HasPrefix(name, "reason") || kind != nil && kind.Name == "ErrorKind" {
			return n.Values
		}
	case *ast.KeyValueExpr:
		if key, ok := n.Key.(*ast.Ident); ok && (key.Name == "Reason" || key.Name == "reason") {
			return []ast.Expr{n.Value}
		}
	case *ast.BasicLit:
		if strings.HasPrefix(n.Value, `"FailedToStart`) { // kube-proxy's names
			return []ast.Expr{n}
		}
	case *ast.CallExpr:
		if method, ok := n.Fun.(*ast.SelectorExpr); ok && method.Sel.Name == "notice" && len(n.Args) > 0 {
			return n.Args[:1]
		}
	}
	return nil
}
