package fairway_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	testFunction = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	// namedTest is a test as a page names it: maybe with its package before and a
	// part of it behind.
	namedTest = regexp.MustCompile("`(?:\\w+\\.)?((?:Test|Fuzz)[A-Z]\\w*)(?:/[^`]*)?`")
)

// TestDocumentedTestsExist holds the pages that say which test shows what: they
// are only worth something while their tests exist. The first column of a table is
// what is shown, which may be another project's test.
func TestDocumentedTestsExist(t *testing.T) {
	exists := make(map[string]bool)
	for _, folder := range []string{"cmd", "controllers", "e2e", "providers"} {
		err := filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			source, err := os.ReadFile(path)
			for _, m := range testFunction.FindAllSubmatch(source, -1) {
				exists[string(m[1])] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for page, least := range map[string]int{"docs/service-controller.md": 100, "docs/node-proxy-conformance.md": 100} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		named := 0
		for line := range strings.Lines(string(text)) {
			if row, ok := strings.CutPrefix(line, "| "); ok {
				_, line, _ = strings.Cut(row, " | ")
			}
			for _, m := range namedTest.FindAllStringSubmatch(line, -1) {
				named++
				if !exists[m[1]] {
					t.Errorf("%s names %s, which does not exist", page, m[1])
				}
			}
		}
		if named < least {
			t.Errorf("%s names only %d tests: are they still written so that this test finds them?", page, named)
		}
	}
}
