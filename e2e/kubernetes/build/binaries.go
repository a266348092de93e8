package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// oldestEtcd is the oldest etcd that kubeadm of Kubernetes 1.37 accepts
// (MinExternalEtcdVersion in cmd/kubeadm/app/constants).
const oldestEtcd = "3.5.24"

// answerTime is how long a program may take to say its version; far more than
// it needs on a busy machine.
const answerTime = time.Minute

// versionQuestion is how a program is asked for its version and where in the
// answer the version is.
type versionQuestion struct {
	args   []string
	answer *regexp.Regexp
}

var (
	component = versionQuestion{[]string{"--version"}, regexp.MustCompile(`(?m)^Kubernetes (v\S+)`)}
	questions = map[string]versionQuestion{
		"etcd":                    {[]string{"--version"}, regexp.MustCompile(`(?m)^etcd Version: (\S+)`)},
		"kube-apiserver":          component,
		"kube-controller-manager": component,
		"kube-scheduler":          component,
		"kubectl":                 {[]string{"version", "--client"}, regexp.MustCompile(`(?m)^Client Version: (v\S+)`)},
	}
)

// accept judges the version a program reports: nil, or what is wrong with it.
type accept func(program, version string) error

// exactly accepts only what was built: the Kubernetes and etcd that s pins.
func exactly(s source) accept {
	return func(program, version string) error {
		want := s.version
		if program == "etcd" {
			want = strings.TrimPrefix(s.etcd, "v")
		}
		if version != want {
			return fmt.Errorf("want %s", want)
		}
		return nil
	}
}

// sameMinor accepts any patch release of the Kubernetes that s pins, with an
// etcd that works with it.
func sameMinor(s source) accept {
	return func(program, version string) error {
		if program == "etcd" {
			if slices.Compare(numbers(version), numbers(oldestEtcd)) < 0 {
				return fmt.Errorf("want %s or newer", oldestEtcd)
			}
			return nil
		}
		if !strings.HasPrefix(version, s.minor()+".") {
			return fmt.Errorf("want %s.x", s.minor())
		}
		return nil
	}
}

// numbers splits a version such as 3.5.24 or 3.7.0-rc.1 into its leading
// numbers; a part that is none counts as 0.
func numbers(version string) []int {
	version, _, _ = strings.Cut(strings.TrimPrefix(version, "v"), "-")
	var list []int
	for part := range strings.SplitSeq(version, ".") {
		n, _ := strconv.Atoi(part)
		list = append(list, n)
	}
	return list
}

// checkBinaries asks every program in dir for its version. The error names all
// that is missing or wrong, not only the first.
func checkBinaries(ctx context.Context, dir string, ok accept) error {
	var problems []error
	for _, name := range programs {
		version, err := reportedVersion(ctx, filepath.Join(dir, name), questions[name])
		if err == nil {
			if err = ok(name, version); err != nil {
				err = fmt.Errorf("reports version %s: %w", version, err)
			}
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("  %s: %w", name, err))
		}
	}
	if len(problems) > 0 {
		return fmt.Errorf("the binaries in %s cannot be used:\n%w", dir, errors.Join(problems...))
	}
	return nil
}

func reportedVersion(ctx context.Context, program string, q versionQuestion) (string, error) {
	info, err := os.Stat(program)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", errors.New("missing")
	case err != nil:
		return "", err
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		return "", errors.New("not an executable file")
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, q.args...)
	cmd.WaitDelay = time.Second
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("ask for its version: %w %s", err, firstLine(stderr.String()))
	}
	found := q.answer.FindStringSubmatch(stdout.String())
	if found == nil {
		return "", fmt.Errorf("does not tell its version, but %q", firstLine(stdout.String()))
	}
	return found[1], nil
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}
