package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairway-lb/fairway/e2e/environment"
)

// subject is what is measured, and on what.
type subject struct{ commit, programs, machine string }

func (s subject) String() string {
	return fmt.Sprintf("%s, %s, on %s", s.commit, s.programs, s.machine)
}

func describe(ctx context.Context) subject {
	var name unix.Utsname
	kernel := "an unknown kernel"
	if err := unix.Uname(&name); err == nil {
		kernel = "Linux " + unix.ByteSliceToString(name.Release[:])
	}
	load := "an unknown load"
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		one, _, _ := strings.Cut(string(text), " ")
		load = "a load of " + one
	}
	return subject{
		commit:   commit(ctx),
		programs: fmt.Sprintf("%s, against %s and %s", runtime.Version(), kubeProxyVersion(), said(ctx, "nft", "--version")),
		machine:  fmt.Sprintf("%s, %s, with %s when it began, %s", processors(), kernel, load, time.Now().UTC().Format(time.DateOnly)),
	}
}

// commit is that of the source, "-dirty" where files differ from it.
func commit(ctx context.Context) string {
	source := os.Getenv(environment.SourceVariable)
	git := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "git", append([]string{"-C", source}, args...)...)
		// The sandbox shows the files as somebody else's.
		cmd.Env = append(os.Environ(), "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*")
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	id, err := git("rev-parse", "--short=12", "HEAD")
	if err != nil {
		return "an unknown commit"
	}
	// The report itself differs as soon as it is written.
	changed, err := git("status", "--porcelain", "--untracked-files=no", "--", ":!docs/benchmarks")
	if err != nil || changed != "" {
		id += "-dirty"
	}
	return "commit " + id
}

// kubeProxyVersion is that of the module it was built from, which the program
// itself is not told.
func kubeProxyVersion() string {
	info, err := buildinfo.ReadFile(os.Getenv(kubeProxyVariable))
	if err == nil {
		for _, module := range append(info.Deps, &info.Main) {
			if module.Path == "k8s.io/kubernetes" {
				return "kube-proxy " + module.Version
			}
		}
	}
	return "kube-proxy of an unknown version"
}

// said is the first line of what a program says about its version.
func said(ctx context.Context, program string, args ...string) string {
	out, err := exec.CommandContext(ctx, program, args...).Output()
	if err != nil {
		return program + " of an unknown version"
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}

// The processors are idle when so much of a stretch of time nothing ran; idleTime
// bounds the wait for that.
const (
	idleShare   = 0.9
	idleStretch = time.Second
	idleTime    = 5 * time.Minute
)

// untilIdle waits until the processors are idle, as the control plane has much to
// do with tens of thousands of new objects.
func untilIdle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, idleTime)
	defer cancel()
	for {
		before, all, err := idle()
		if err != nil {
			return err
		}
		pause(ctx, idleStretch)
		after, more, err := idle()
		if err != nil {
			return err
		}
		if float64(after-before) >= idleShare*float64(more-all) {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the machine is busy with something else: %w", ctx.Err())
		}
	}
}

// idle returns how long the processors did nothing, and how long there were, in
// the same unit (proc_stat(5)).
func idle() (idle, all uint64, err error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(first) {
		if i == 0 || i > 8 { // what guests take is counted twice
			continue
		}
		n, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("/proc/stat: %w", err)
		}
		all += n
		if i == 4 || i == 5 {
			idle += n
		}
	}
	return idle, all, nil
}

func processors() string {
	kind := "unknown make"
	text, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range bytes.Lines(text) {
			if key, value, found := bytes.Cut(line, []byte(":")); found && string(bytes.TrimSpace(key)) == "model name" {
				kind = string(bytes.TrimSpace(value))
				break
			}
		}
	}
	return fmt.Sprintf("%d processors (%s, %s)", runtime.NumCPU(), kind, runtime.GOARCH)
}
