package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

const (
	modulePath     = "github.com/fairway-lb/fairway/e2e/kubernetes"
	kubernetesPath = "k8s.io/kubernetes"
	mainPackage    = "./controlplane"
)

// source is what is built: the module's folder, the Kubernetes it pins, and
// the Go that compiles it.
type source struct {
	dir     string // the folder of go.mod, absolute
	version string // of Kubernetes, such as v1.37.2
	etcd    string // version of etcd, such as v3.7.0
	golang  goEnv
}

// goEnv is the part of "go env" that matters here.
type goEnv struct {
	GOVERSION  string
	GOCACHE    string
	GOMODCACHE string
	GOFLAGS    string
}

// readSource reads the module in dir without touching the network.
func readSource(ctx context.Context, dir string) (source, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return source{}, fmt.Errorf("find the module's folder: %w", err)
	}
	var mod struct {
		Module  struct{ Path string }
		Require []struct{ Path, Version string }
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		return source{}, fmt.Errorf("find module %s (start this in its folder or give --module): %w", modulePath, err)
	}
	if err := goJSON(ctx, dir, &mod, "mod", "edit", "-json"); err != nil {
		return source{}, err
	}
	if mod.Module.Path != modulePath {
		return source{}, fmt.Errorf("%s holds module %s, not %s: start this in its folder or give --module", dir, mod.Module.Path, modulePath)
	}
	s := source{dir: dir}
	for _, r := range mod.Require {
		switch r.Path {
		case kubernetesPath:
			s.version = r.Version
		case "go.etcd.io/etcd/server/v3":
			s.etcd = r.Version
		}
	}
	if s.version == "" || s.etcd == "" {
		return source{}, fmt.Errorf("go.mod in %s does not require %s and etcd", dir, kubernetesPath)
	}
	if err := goJSON(ctx, dir, &s.golang, "env", "-json", "GOVERSION", "GOCACHE", "GOMODCACHE", "GOFLAGS"); err != nil {
		return source{}, err
	}
	return s, nil
}

func goJSON(ctx context.Context, dir string, into any, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// minor is the version without its last number, such as v1.37.
func (s source) minor() string {
	return s.version[:strings.LastIndexByte(s.version, '.')]
}

// flags are the build flags. The version must be linked in: as a module
// Kubernetes calls itself v0.0.0-master. Debug information, which -s -w would
// drop in the end, is not made in the first place: that saves a quarter of the
// work and a sixth of the disk space.
func (s source) flags() []string {
	major, minor, _ := strings.Cut(strings.TrimPrefix(s.minor(), "v"), ".")
	link := []string{"-s", "-w"}
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		link = append(link,
			"-X", pkg+".gitVersion="+s.version,
			"-X", pkg+".gitMajor="+major,
			"-X", pkg+".gitMinor="+minor,
			"-X", pkg+".gitTreeState=clean")
	}
	return []string{"-trimpath", "-gcflags=all=-dwarf=false", "-ldflags=" + strings.Join(link, " ")}
}

// environment is the environment of the go command for this build. Of the
// user's GOFLAGS only those stay that say how to work and not what to make.
func (s source) environment() []string {
	flags := []string{"-mod=readonly", "-buildvcs=false"}
	for flag := range strings.FieldsSeq(s.golang.GOFLAGS) {
		name, _, _ := strings.Cut(strings.TrimLeft(flag, "-"), "=")
		if name == "p" || name == "modcacherw" {
			flags = append(flags, flag)
		}
	}
	return append(os.Environ(),
		"CGO_ENABLED=0", "GOWORK=off",
		"GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH,
		"GOFLAGS="+strings.Join(flags, " "))
}

// key names one build: the Kubernetes version and a hash of all that decides
// what comes out (sources, pinned modules, flags, Go version, platform).
func (s source) key() (string, error) {
	files, err := filepath.Glob(filepath.Join(s.dir, mainPackage, "*.go"))
	if err != nil {
		return "", err
	}
	files = slices.DeleteFunc(files, func(f string) bool { return strings.HasSuffix(f, "_test.go") })
	if len(files) == 0 {
		return "", fmt.Errorf("no Go files in %s", filepath.Join(s.dir, mainPackage))
	}
	slices.Sort(files)
	files = append(files, filepath.Join(s.dir, "go.mod"), filepath.Join(s.dir, "go.sum"))
	sum := sha256.New()
	fmt.Fprintf(sum, "%s %s/%s %q\n", s.golang.GOVERSION, runtime.GOOS, runtime.GOARCH, s.flags())
	for _, name := range files {
		if err := hashFile(sum, name); err != nil {
			return "", fmt.Errorf("hash what is built: %w", err)
		}
	}
	return fmt.Sprintf("%s-%x", s.version, sum.Sum(nil)[:6]), nil
}

func hashFile(sum io.Writer, name string) error {
	content, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(sum, "%s %d\n%s", filepath.Base(name), len(content), content)
	return err
}

// checkGoCache tells whether Go's build cache can keep what is compiled: an
// interrupted build goes on from there.
func (s source) checkGoCache() error {
	dir := s.golang.GOCACHE
	if dir == "" || dir == "off" {
		return errors.New("go's build cache is off (GOCACHE=" + cmp.Or(dir, "empty") + "): set GOCACHE to a folder that stays")
	}
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		var f *os.File
		if f, err = os.CreateTemp(dir, "fairway-writable-*"); err == nil {
			err = errors.Join(f.Close(), os.Remove(f.Name()))
		}
	}
	if err != nil {
		return fmt.Errorf("go's build cache %s cannot be written (GOCACHE sets another): %w", dir, err)
	}
	return nil
}

// modulesPresent tells whether Kubernetes' modules were downloaded before.
func (s source) modulesPresent() bool {
	_, err := os.Stat(filepath.Join(s.golang.GOMODCACHE, kubernetesPath+"@"+s.version, "LICENSE"))
	return err == nil
}
