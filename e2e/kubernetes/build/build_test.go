package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// smallModule writes a module that looks to the builder like the real one, but
// compiles in a moment: what it requires are folders of its own, and its
// program has the versions of Kubernetes linked in and prints them. Its 40
// packages are new to Go's build cache in every run.
func smallModule(t *testing.T) string {
	const versions = "package version\n\nvar gitVersion, gitMajor, gitMinor string\n\nfunc String() string { return gitVersion }\n"
	files := map[string]string{
		"fakes/kubernetes/go.mod":                 "module k8s.io/kubernetes\n",
		"fakes/etcd/go.mod":                       "module go.etcd.io/etcd/server/v3\n",
		"fakes/component-base/go.mod":             "module k8s.io/component-base\n",
		"fakes/component-base/version/version.go": versions,
		"fakes/client-go/go.mod":                  "module k8s.io/client-go\n",
		"fakes/client-go/pkg/version/version.go":  versions,
		"go.sum":                                  "",
		"go.mod": "module " + modulePath + `
go 1.26.0
require (
	go.etcd.io/etcd/server/v3 v3.7.0
	k8s.io/client-go v0.37.2
	k8s.io/component-base v0.37.2
	k8s.io/kubernetes v1.37.2
)
replace (
	go.etcd.io/etcd/server/v3 => ./fakes/etcd
	k8s.io/client-go => ./fakes/client-go
	k8s.io/component-base => ./fakes/component-base
	k8s.io/kubernetes => ./fakes/kubernetes
)
`,
	}
	imports := ""
	for i := range 40 {
		name := fmt.Sprintf("p%d", i)
		files[name+"/p.go"] = fmt.Sprintf("package p\n\nconst Unique = %d\n", time.Now().UnixNano())
		imports += fmt.Sprintf("import _ %q\n", modulePath+"/"+name)
	}
	files["controlplane/main.go"] = `package main
` + imports + `
import (
	"os"
	server "k8s.io/component-base/version"
	client "k8s.io/client-go/pkg/version"
)

func main() {
	name := os.Args[0]
	for i := len(name) - 1; i >= 0 && name[i] != '/'; i-- {
		if name[i:] == "etcd" {
			os.Stdout.WriteString("etcd Version: 3.7.0\n")
			return
		}
		if name[i:] == "kubectl" {
			os.Stdout.WriteString("Client Version: " + client.String() + "\n")
			return
		}
	}
	os.Stdout.WriteString("Kubernetes " + server.String() + "\n")
}
`
	dir := t.TempDir()
	write(t, dir, files)
	return dir
}

// provideSmall builds the small module into a cache and returns what provide
// does, and all that it said.
func provideSmall(ctx context.Context, t *testing.T, module, cache string) (dir, log string, err error) {
	var out strings.Builder
	r := newReporter(&out, 0, time.Now())
	dir, err = provide(ctx, options{cache: cache, module: module}, r)
	return dir, out.String(), err
}

// leftovers lists what a cache holds besides finished builds.
func leftovers(t *testing.T, cache string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(cache, "kubernetes"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.Name() != "lock" && !strings.HasPrefix(e.Name(), "v1.37.2-") {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestBuildOnceWithTheVersionLinkedIn(t *testing.T) {
	t.Setenv("GOFLAGS", "-mod=mod") // must not matter
	module, cache := smallModule(t), t.TempDir()
	dir, log, err := provideSmall(t.Context(), t, module, cache)
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	for _, want := range []string{"Kubernetes v1.37.2", "of disk", "packages to compile", ": about ", "compiled and linked in"} {
		if !strings.Contains(log, want) {
			t.Errorf("output does not say %q:\n%s", want, log)
		}
	}
	if !strings.HasPrefix(dir, filepath.Join(cache, "kubernetes", "v1.37.2-")) {
		t.Errorf("built in %s", dir)
	}
	out, err := exec.Command(filepath.Join(dir, "kubectl"), "version", "--client").Output()
	if err != nil || string(out) != "Client Version: v1.37.2\n" {
		t.Errorf("kubectl says %q (%v)", out, err)
	}
	if left := leftovers(t, cache); len(left) > 0 {
		t.Errorf("left in the cache: %v", left)
	}

	again, log, err := provideSmall(t.Context(), t, module, cache)
	if err != nil || again != dir || log != "" {
		t.Errorf("second run: %s (%v), output %q; want %s at once", again, err, log, dir)
	}
}

func TestBuildThatFailsInstallsNothing(t *testing.T) {
	for _, c := range []struct{ name, main, want string }{
		{"does not compile", "package main\n\nfunc main() { undefined() }\n", "undefined: undefined"},
		{"wrong version", `package main

import "os"

func main() { os.Stdout.WriteString("Kubernetes v0.0.0-master\nClient Version: v1.37.2\netcd Version: 3.7.0\n") }
`, "kube-apiserver: reports version v0.0.0-master: want v1.37.2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			module, cache := smallModule(t), t.TempDir()
			write(t, module, map[string]string{"controlplane/main.go": c.main})
			_, _, err := provideSmall(t.Context(), t, module, cache)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if left := leftovers(t, cache); len(left) > 0 {
				t.Errorf("left in the cache: %v", left)
			}
			if built, _ := filepath.Glob(filepath.Join(cache, "kubernetes", "v*")); len(built) > 0 {
				t.Errorf("installed: %v", built)
			}
		})
	}
}

// testBuilder is a builder of the small module that holds its cache's lock.
func testBuilder(t *testing.T, out io.Writer) builder {
	s, err := readSource(t.Context(), smallModule(t))
	if err != nil {
		t.Fatal(err)
	}
	s.golang.GOFLAGS = "-p=1" // one package after the other
	c, err := openCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	lock, err := c.lock(t.Context(), out, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Close() })
	if err := os.MkdirAll(c.work(), 0o755); err != nil {
		t.Fatal(err)
	}
	return builder{source: s, cache: c, key: "v1.37.2-test", lock: lock, volumeOf: volumeOf,
		reporter: newReporter(out, 0, time.Now())}
}

func TestTooLittleSpaceStopsBeforeAnythingIsDone(t *testing.T) {
	var out strings.Builder
	b := testBuilder(t, &out)
	b.volumeOf = func(string) (volume, error) { return volume{1, 50e6}, nil }
	err := b.build(t.Context())
	if err == nil || !strings.Contains(err.Error(), "too little disk space") || !strings.Contains(err.Error(), "50 MB free") {
		t.Errorf("error %v", err)
	}
	if strings.Contains(out.String(), "compiled and linked") {
		t.Errorf("built all the same:\n%s", out.String())
	}
}

func TestInterruptedBuildGoesOnWhereItStopped(t *testing.T) {
	b := testBuilder(t, io.Discard)
	before, _, err := b.plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	own := slices.DeleteFunc(slices.Collect(maps.Keys(before)), func(p string) bool { return !strings.HasPrefix(p, modulePath) })
	if len(own) != 41 {
		t.Fatalf("%d packages of the module to compile, want 41: %v", len(own), own)
	}

	ctx, cancel := context.WithCancelCause(t.Context())
	compiled := 0
	args := append([]string{"build", "-v", "-o", filepath.Join(b.cache.work(), binaryName)}, b.source.flags()...)
	err = b.run(ctx, append(args, mainPackage), io.Discard, func(line string) bool {
		if strings.HasPrefix(line, modulePath) {
			if compiled++; compiled == 10 {
				cancel(errors.New("enough"))
			}
		}
		return true
	}, func(time.Time) string { return "" })
	if err == nil || err.Error() != "enough" {
		t.Fatalf("interrupted build: %v, want the cause", err)
	}
	b.lock.Close() // the processes it started have the lock too: free means that all are gone
	soon, stop := context.WithTimeout(t.Context(), 5*time.Second)
	defer stop()
	if b.lock, err = b.cache.lock(soon, io.Discard, time.Millisecond); err != nil {
		t.Fatalf("something the interrupted build started still runs: %v", err)
	}
	defer b.lock.Close()

	after, _, err := b.plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(after) >= len(before)-5 || len(after) == 0 {
		t.Errorf("%d packages to compile before, %d after a build that was stopped at its 10th", len(before), len(after))
	}
}
