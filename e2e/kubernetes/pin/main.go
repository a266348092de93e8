// Package main writes into this module's go.mod what building Kubernetes from
// its modules needs: the version asked for, the same release of each of its
// staging repositories (which Kubernetes' own go.mod replaces by folders that
// its module does not carry), the etcd it is tested with, and its godebug
// settings. Started in the module's folder:
//
//	go run ./pin v1.37.2
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
)

const (
	kubernetes = "k8s.io/kubernetes"
	etcd       = "go.etcd.io/etcd/server/v3"
)

// module is the part of "go mod edit -json" that is read here.
type module struct {
	Go      string
	Require []struct {
		Path, Version string
		Indirect      bool
	}
	Replace []struct {
		Old struct{ Path, Version string }
		New struct{ Path string }
	}
	Godebug []struct{ Key, Value string }
}

func main() {
	if err := pin(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "pin:", err)
		os.Exit(1)
	}
}

func pin(args []string) error {
	release := regexp.MustCompile(`^v1(\.\d+\.\d+)$`)
	if len(args) != 1 || !release.MatchString(args[0]) {
		return errors.New("want one argument: a release of Kubernetes such as v1.37.2")
	}
	version := args[0]
	var download struct{ GoMod string }
	if err := goJSON(&download, "mod", "download", "-json", kubernetes+"@"+version); err != nil {
		return err
	}
	var theirs, ours module
	if err := goJSON(&theirs, "mod", "edit", "-json", download.GoMod); err != nil {
		return err
	}
	if err := goJSON(&ours, "mod", "edit", "-json"); err != nil {
		return err
	}
	edits, err := editsFor(version, "v0"+release.FindStringSubmatch(version)[1], theirs, ours)
	if err != nil {
		return err
	}
	if err := goRun(append([]string{"mod", "edit"}, edits...)...); err != nil {
		return err
	}
	return goRun("mod", "tidy")
}

// editsFor lists the flags of "go mod edit" that make ours follow theirs, the
// go.mod of Kubernetes itself. staging is the version of its staging
// repositories.
func editsFor(version, staging string, theirs, ours module) ([]string, error) {
	edits := []string{"-go=" + theirs.Go, "-require=" + kubernetes + "@" + version}
	for _, r := range ours.Replace {
		if !stagingRepository(theirs, r.Old.Path) {
			edits = append(edits, "-dropreplace="+r.Old.Path)
		}
	}
	for _, r := range theirs.Replace {
		if strings.HasPrefix(r.New.Path, "./staging/") {
			edits = append(edits, "-replace="+r.Old.Path+"="+r.Old.Path+"@"+staging)
		}
	}
	for _, r := range ours.Require {
		if !r.Indirect && stagingRepository(theirs, r.Path) {
			edits = append(edits, "-require="+r.Path+"@"+staging)
		}
	}
	for _, g := range theirs.Godebug {
		edits = append(edits, "-godebug="+g.Key+"="+g.Value)
	}
	for _, r := range theirs.Require {
		if r.Path == etcd {
			return append(edits, "-require="+etcd+"@"+r.Version), nil
		}
	}
	return nil, fmt.Errorf("%s %s requires no %s", kubernetes, version, etcd)
}

func stagingRepository(theirs module, path string) bool {
	for _, r := range theirs.Replace {
		if r.Old.Path == path && strings.HasPrefix(r.New.Path, "./staging/") {
			return true
		}
	}
	return false
}

func goJSON(into any, args ...string) error {
	cmd := exec.Command("go", args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

func goRun(args ...string) error {
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go %s: %w", args[:2], err)
	}
	return nil
}
