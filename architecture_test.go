// Package fairway_test holds the rules that concern the repository as a whole.
package fairway_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/fairway-lb/fairway"

// forbidden lists what must never be reached, by whatever way, from the
// packages named by from. Patterns are import paths; a trailing "/..." covers
// everything below as well. ".../" at the start stands for this module. Where
// only is given instead of to, all is forbidden but the standard library,
// packages of from itself and those.
var forbidden = []struct {
	from, to, only []string
	reason         string
}{
	{
		from:   []string{".../providers/lb/..."},
		only:   []string{},
		reason: "the neutral model is the contract between all parts: whatever it imported, every cloud and every controller would link",
	},
	{
		from:   []string{".../providers/plan/..."},
		only:   []string{".../providers/lb/..."},
		reason: "the engine is proven once against the neutral model; a cloud or Kubernetes type in it would make it true for one of them only",
	},
	{
		from:   []string{".../providers/aws/..."},
		to:     []string{".../controllers/...", ".../providers/fake/...", ".../providers/cloudprovider/...", "k8s.io/client-go/...", "k8s.io/api/...", "k8s.io/cloud-provider/..."},
		reason: "a cloud knows resources, not Kubernetes: that keeps it testable over the wire without a cluster",
	},
	{
		from:   []string{".../controllers/..."},
		to:     []string{".../providers/aws/...", ".../providers/fake/...", ".../providers/cloudprovider/...", "github.com/aws/..."},
		reason: "a controller that knows a cloud grows special cases for it; what is special belongs behind lb.Provider",
	},
	{
		from:   []string{".../providers/fake/...", ".../cmd/fakecloud/..."},
		to:     []string{"github.com/aws/...", "github.com/Azure/...", "cloud.google.com/...", "google.golang.org/api/...", ".../providers/aws/...", ".../providers/plan/...", ".../controllers/..."},
		reason: "a fake that shares code with the driver mirrors the driver's mistakes instead of catching them",
	},
	{
		from: []string{".../cmd/node-proxy/...", ".../controllers/nodeproxy/..."},
		to: []string{"github.com/aws/...", "github.com/Azure/...", "cloud.google.com/...", "k8s.io/cloud-provider/...", "k8s.io/controller-manager/...",
			"k8s.io/apiserver/...", "k8s.io/client-go/kubernetes/...", "k8s.io/client-go/informers/...", ".../providers/..."},
		reason: "it runs on every node: the controller framework and the SDKs are tens of megabytes each that a node has no use for",
	},
	{
		from:   []string{".../cmd/...", ".../controllers/...", ".../providers/..."},
		to:     []string{".../e2e/..."},
		reason: "what only tests and the demo need must not ship",
	},
}

// listed is what `go list -json` tells of a package, as far as needed here.
type listed struct {
	ImportPath string
	Standard   bool
	Doc        string
	Name       string
	Imports    []string
	GoFiles    []string
}

// imports returns all packages of this module and what they are made of.
func imports(t *testing.T) map[string]listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Standard,Doc,Name,Imports,GoFiles", "./...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	packages := map[string]listed{}
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages[p.ImportPath] = p
	}
}

func matches(path string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		pattern = strings.Replace(pattern, ".../", module+"/", 1)
		if below, all := strings.CutSuffix(pattern, "/..."); all {
			return path == below || strings.HasPrefix(path, below+"/")
		}
		return path == pattern
	})
}

// route returns how from reaches a package that bad accepts, nil if it cannot.
func route(packages map[string]listed, from string, bad func(listed) bool) []string {
	reached := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		if at != from && bad(packages[at]) {
			var way []string
			for ; at != ""; at = reached[at] {
				way = append(way, at)
			}
			slices.Reverse(way)
			return way
		}
		for _, next := range packages[at].Imports {
			if _, seen := reached[next]; !seen {
				reached[next] = at
				queue = append(queue, next)
			}
		}
	}
	return nil
}

func TestDependencyDirection(t *testing.T) {
	packages := imports(t)
	for _, rule := range forbidden {
		held := 0
		for path := range packages {
			if !matches(path, rule.from) {
				continue
			}
			held++
			bad := func(p listed) bool { return matches(p.ImportPath, rule.to) }
			if rule.only != nil {
				bad = func(p listed) bool {
					return !p.Standard && !matches(p.ImportPath, rule.only) && !matches(p.ImportPath, rule.from)
				}
			}
			if way := route(packages, path, bad); way != nil {
				t.Errorf("%s must not be reached from %s: %s\n  by way of %s", way[len(way)-1], path, rule.reason, strings.Join(way, " → "))
			}
		}
		if held == 0 {
			t.Errorf("no package matches %v: the rule holds nothing", rule.from)
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	vague := []string{"util", "utils", "common", "helpers", "helper", "pkg", "misc"}
	for path, p := range imports(t) {
		if path != module && !strings.HasPrefix(path, module+"/") || len(p.GoFiles) == 0 {
			continue
		}
		if want := fmt.Sprintf("Package %s ", p.Name); p.Name != "main" && !strings.HasPrefix(p.Doc, want) {
			t.Errorf("%s: the package comment must start with %q, it is %q", path, want, p.Doc)
		}
		if p.Name == "main" && p.Doc == "" {
			t.Errorf("%s: a command needs a package comment", path)
		}
		if i := slices.IndexFunc(vague, func(v string) bool { return strings.HasSuffix(path, "/"+v) }); i >= 0 {
			t.Errorf("%s: the name %q says nothing about what is inside", path, vague[i])
		}
	}
}
