package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// sandboxPackage is what tests import that need a kernel's networking.
const sandboxPackage = "github.com/fairway-lb/fairway/e2e/sandbox"

// testPackage is a package with kernel tests.
type testPackage struct {
	path   string // import path
	name   string // the same, below the module
	root   string // the module's folder
	binary string // the compiled tests
}

// kernelTests finds the packages among the patterns whose tests run in a
// sandbox.
func kernelTests(ctx context.Context, patterns []string) ([]testPackage, error) {
	out, err := output(ctx, "go", append([]string{"list", "-json=ImportPath,Module,TestImports,XTestImports"}, patterns...)...)
	if err != nil {
		return nil, err
	}
	var packages []testPackage
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath                string
			Module                    struct{ Path, Dir string }
			TestImports, XTestImports []string
		}
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("read what go list says: %w", err)
		}
		if slices.Contains(append(p.TestImports, p.XTestImports...), sandboxPackage) {
			packages = append(packages, testPackage{path: p.ImportPath, name: strings.TrimPrefix(p.ImportPath, p.Module.Path+"/"), root: p.Module.Dir})
		}
	}
	if packages == nil {
		return nil, fmt.Errorf("no package in %v has tests that import %s", patterns, sandboxPackage)
	}
	return packages, nil
}

// files lists those of the repository, below its root. The tests read some,
// beside their own folder's.
func (p *testPackage) files(ctx context.Context) ([]string, error) {
	out, err := output(ctx, "git", "-C", p.root, "ls-files", "-z")
	if err != nil {
		return nil, err
	}
	return strings.FieldsFunc(string(out), func(r rune) bool { return r == 0 }), nil
}

// compile makes the package's test program below dir, without a C library: there
// is none in a guest.
func (p *testPackage) compile(ctx context.Context, dir string) error {
	p.binary = filepath.Join(dir, strings.ReplaceAll(p.name, "/", "-")+".test")
	_, err := output(ctx, "go", "test", "-c", "-ldflags=-s -w", "-o", p.binary, p.path)
	return err
}

func output(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", cmd, err, &stderr)
	}
	return out, nil
}

// result is how the tests of a package went under a kernel.
type result struct {
	kernel                  kernel
	test                    testPackage
	passed, failed, skipped []string // names of tests and subtests
	took                    time.Duration
	err                     error // nil: all well
}

// verdict is how a test program says how a test ended; the mark before it is
// what -test.v=test2json adds, so that no test can print one by chance.
var verdict = regexp.MustCompile(`(?m)\x16 *--- (PASS|FAIL|SKIP): (\S+) \(`)

// count reads the verdicts from the output of a test program.
func (r *result) count(output string) {
	for _, match := range verdict.FindAllStringSubmatch(output, -1) {
		list := map[string]*[]string{"PASS": &r.passed, "FAIL": &r.failed, "SKIP": &r.skipped}[match[1]]
		*list = append(*list, match[2])
	}
}

// judge says what is wrong, going by what the guest wrote to its second serial
// port: its kernel's release and the test program's exit status.
func (r *result) judge(status string) error {
	want := fmt.Sprintf("release %s\nexit 0\n", r.kernel.release)
	switch got := strings.ReplaceAll(status, "\r", ""); {
	case !strings.HasPrefix(got, "release "+r.kernel.release+"\n"):
		return fmt.Errorf("the guest reports %q, not kernel %s", got, r.kernel.release)
	case !strings.Contains(got, "exit "):
		return errors.New("the guest died before the tests ended")
	case len(r.failed) > 0:
		return fmt.Errorf("failed: %s", strings.Join(r.failed, ", "))
	case got != want:
		return fmt.Errorf("the guest reports %q, not %q", got, want)
	case len(r.passed) == 0:
		return errors.New("no test ran")
	}
	return nil
}
