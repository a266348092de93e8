package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// answers are what healthy programs print when asked for their version.
var answers = map[string]string{
	"etcd":                    "etcd Version: 3.6.1\nGit SHA: Not provided",
	"kube-apiserver":          "Kubernetes v1.37.5",
	"kube-controller-manager": "Kubernetes v1.37.5",
	"kube-scheduler":          "Kubernetes v1.37.0",
	"kubectl":                 "Client Version: v1.37.2\nKustomize Version: v5.8.1",
}

func script(t *testing.T, dir, name, body string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func binariesDir(t *testing.T) string {
	dir := t.TempDir()
	for name, answer := range answers {
		script(t, dir, name, "echo '"+answer+"'")
	}
	return dir
}

func TestCheckBinaries(t *testing.T) {
	pinned := source{version: "v1.37.2", etcd: "v3.7.0"}
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, dir string)
		want  []string // parts of the error; none: no error
	}{
		{"all good", func(*testing.T, string) {}, nil},
		{"missing", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "kubectl")); err != nil {
				t.Fatal(err)
			}
		}, []string{"kubectl: missing"}},
		{"not executable", func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, "etcd"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, []string{"etcd: not an executable file"}},
		{"another minor release", func(t *testing.T, dir string) {
			script(t, dir, "kube-scheduler", "echo Kubernetes v1.36.9")
		}, []string{"kube-scheduler: reports version v1.36.9: want v1.37.x"}},
		{"no version linked in", func(t *testing.T, dir string) {
			script(t, dir, "kube-apiserver", "echo Kubernetes v0.0.0-master+abc")
		}, []string{"kube-apiserver: reports version v0.0.0-master+abc: want v1.37.x"}},
		{"a minor release that only starts the same", func(t *testing.T, dir string) {
			script(t, dir, "kubectl", "echo Client Version: v1.370.1")
		}, []string{"kubectl: reports version v1.370.1"}},
		{"old etcd", func(t *testing.T, dir string) {
			script(t, dir, "etcd", "echo etcd Version: 3.5.9")
		}, []string{"etcd: reports version 3.5.9: want 3.5.24 or newer"}},
		{"says nothing of a version", func(t *testing.T, dir string) {
			script(t, dir, "etcd", "echo hello")
		}, []string{`etcd: does not tell its version, but "hello"`}},
		{"two things wrong", func(t *testing.T, dir string) {
			script(t, dir, "etcd", "echo broken pipe dream >&2; exit 3")
			script(t, dir, "kubectl", "echo Client Version: v1.30.0")
		}, []string{"etcd: ask for its version: exit status 3 broken pipe dream", "kubectl: reports version v1.30.0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := binariesDir(t)
			c.spoil(t, dir)
			err := checkBinaries(t.Context(), dir, sameMinor(pinned))
			if len(c.want) == 0 {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil {
				t.Fatalf("accepted; want an error with %q", c.want)
			}
			for _, part := range append(c.want, dir) {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not say %q", err, part)
				}
			}
			if got := strings.Count(err.Error(), "\n"); got != len(c.want) {
				t.Errorf("error names %d problems, want %d: %v", got, len(c.want), err)
			}
		})
	}
}

func TestBuiltBinariesMustBeExactlyThePinnedOnes(t *testing.T) {
	ok := exactly(source{version: "v1.37.2", etcd: "v3.7.0"})
	for _, c := range []struct {
		program, version string
		good             bool
	}{
		{"kubectl", "v1.37.2", true},
		{"kubectl", "v1.37.3", false},
		{"etcd", "3.7.0", true},
		{"etcd", "3.7.1", false},
	} {
		if err := ok(c.program, c.version); (err == nil) != c.good {
			t.Errorf("%s %s: %v", c.program, c.version, err)
		}
	}
}
