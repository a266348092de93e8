package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// write makes files, given by their names, under dir.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestThisModulePinsWhatTheFlagsSay(t *testing.T) {
	s, err := readSource(t.Context(), "..")
	if err != nil {
		t.Fatal(err)
	}
	if s.minor() != "v1.37" || !strings.HasPrefix(s.version, "v1.37.") {
		t.Errorf("Kubernetes %s, minor %s; want 1.37", s.version, s.minor())
	}
	flags := strings.Join(s.flags(), " ")
	for _, want := range []string{
		"-X k8s.io/component-base/version.gitVersion=" + s.version,
		"-X k8s.io/component-base/version.gitMajor=1 ",
		"-X k8s.io/component-base/version.gitMinor=37 ",
		"-X k8s.io/client-go/pkg/version.gitVersion=" + s.version,
	} {
		if !strings.Contains(flags, want) {
			t.Errorf("flags %q lack %q", flags, want)
		}
	}
}

func TestReadSourceRefusesOtherFolders(t *testing.T) {
	other := t.TempDir()
	write(t, other, map[string]string{"go.mod": "module example.com/other\n"})
	bare := t.TempDir()
	write(t, bare, map[string]string{"go.mod": "module " + modulePath + "\n"})
	for dir, want := range map[string]string{
		t.TempDir(): "--module",
		other:       "holds module example.com/other",
		bare:        "does not require k8s.io/kubernetes",
	} {
		if _, err := readSource(t.Context(), dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func TestKeyFollowsAllThatDecidesTheResult(t *testing.T) {
	files := map[string]string{"go.mod": "module m\n", "go.sum": "sum\n", "controlplane/main.go": "package main\n"}
	make := func(change func(dir string, s *source)) string {
		t.Helper()
		dir := t.TempDir()
		write(t, dir, files)
		s := source{dir: dir, version: "v1.37.2", golang: goEnv{GOVERSION: "go1.26.8"}}
		change(dir, &s)
		key, err := s.key()
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	file := func(name, content string) func(string, *source) {
		return func(dir string, _ *source) { write(t, dir, map[string]string{name: content}) }
	}
	base := make(func(string, *source) {})
	if !strings.HasPrefix(base, "v1.37.2-") {
		t.Errorf("key %q does not start with the version", base)
	}
	for name, change := range map[string]func(string, *source){
		"nothing":        func(string, *source) {},
		"a test":         file("controlplane/main_test.go", "package main\n"),
		"the build tool": file("build/main.go", "package main\n"),
		"user's GOFLAGS": func(_ string, s *source) { s.golang.GOFLAGS = "-mod=mod" },
	} {
		if key := make(change); key != base {
			t.Errorf("%s changed: key %s, want %s as before", name, key, base)
		}
	}
	seen := []string{base}
	for name, change := range map[string]func(string, *source){
		"go.mod":             file("go.mod", "module m // x\n"),
		"go.sum":             file("go.sum", "sum2\n"),
		"a source":           file("controlplane/main.go", "package main // x\n"),
		"one source more":    file("controlplane/more.go", "package main\n"),
		"the Go version":     func(_ string, s *source) { s.golang.GOVERSION = "go1.26.9" },
		"Kubernetes version": func(_ string, s *source) { s.version = "v1.37.3" },
	} {
		key := make(change)
		if slices.Contains(seen, key) {
			t.Errorf("%s changed: key %s is that of another build", name, key)
		}
		seen = append(seen, key)
	}
}

func TestUsersGoFlagsCannotChangeTheBuild(t *testing.T) {
	t.Setenv("GOFLAGS", "-mod=mod -race")
	s := source{golang: goEnv{GOFLAGS: "-mod=mod -race -tags=x -p=7 --modcacherw -trimpath=false"}}
	env := s.environment()
	got := ""
	for _, v := range env { // the last one counts
		if value, ok := strings.CutPrefix(v, "GOFLAGS="); ok {
			got = value
		}
	}
	if want := "-mod=readonly -buildvcs=false -p=7 --modcacherw"; got != want {
		t.Errorf("GOFLAGS=%s, want %s", got, want)
	}
	if s.processors() != 7 {
		t.Errorf("%d packages at once, want the 7 of -p=7", s.processors())
	}
}

func TestGoCacheMustKeepThings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(t, filepath.Dir(file), map[string]string{"file": ""})
	for dir, want := range map[string]string{
		"off":                           "is off",
		filepath.Join(file, "go-build"): "cannot be written",
	} {
		if err := (source{golang: goEnv{GOCACHE: dir}}).checkGoCache(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("GOCACHE=%s: error %v, want one with %q", dir, err, want)
		}
	}
	dir := filepath.Join(t.TempDir(), "new", "cache")
	if err := (source{golang: goEnv{GOCACHE: dir}}).checkGoCache(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("the check leaves %v (%v)", left, err)
	}
}
