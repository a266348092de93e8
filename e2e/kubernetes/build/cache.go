package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// programs are the names the one binary is installed under.
var programs = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"}

const binaryName = "controlplane"

// cache is the folder that keeps finished builds, one folder each:
//
//	kubernetes/lock                        held by the run that builds
//	kubernetes/work/                       of the build under way, removed after it
//	kubernetes/v1.37.2-4f0c…/controlplane  a finished build
//	kubernetes/v1.37.2-4f0c…/kubectl       a link to it, and so for each program
type cache struct{ root string }

// openCache is the cache in dir, which need not be there; in the user's cache
// folder when dir is empty.
func openCache(dir string) (cache, error) {
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return cache{}, fmt.Errorf("find the cache folder (--cache or FAIRWAY_CACHE names one): %w", err)
		}
		dir = filepath.Join(user, "fairway")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return cache{}, fmt.Errorf("find the cache folder: %w", err)
	}
	return cache{root: filepath.Join(dir, "kubernetes")}, nil
}

func (c cache) dir(key string) string { return filepath.Join(c.root, key) }
func (c cache) work() string          { return filepath.Join(c.root, "work") }

// ready tells whether the build is there, whole.
func (c cache) ready(key string) bool {
	for _, name := range append([]string{binaryName}, programs...) {
		info, err := os.Stat(filepath.Join(c.dir(key), name))
		if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			return false
		}
	}
	return true
}

// cleanWork empties the work folder, which also removes what a killed run left.
// Only the holder of the lock may.
func (c cache) cleanWork() error {
	if err := os.RemoveAll(c.work()); err != nil {
		return fmt.Errorf("remove the work folder: %w", err)
	}
	return nil
}

// link puts the programs' names beside the binary in dir.
func link(dir string) error {
	for _, name := range programs {
		if err := os.Symlink(binaryName, filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("name the binary %s: %w", name, err)
		}
	}
	return nil
}

// install moves the finished folder to its place in one step, so that nobody
// ever sees half a build.
func (c cache) install(from, key string) error {
	if err := os.RemoveAll(c.dir(key)); err != nil { // a damaged one
		return fmt.Errorf("remove a damaged build: %w", err)
	}
	if err := os.Rename(from, c.dir(key)); err != nil {
		return fmt.Errorf("put the build into the cache: %w", err)
	}
	return nil
}

// lock makes the cache folder and waits until no other run builds into it; says
// so on out when it has to wait. The lock goes with the file: closing it, or
// the end of the last process that has it open, gives it back.
func (c cache) lock(ctx context.Context, out io.Writer, poll time.Duration) (*os.File, error) {
	if err := os.MkdirAll(c.root, 0o755); err != nil {
		return nil, fmt.Errorf("make the cache folder (--cache or FAIRWAY_CACHE names another): %w", err)
	}
	f, err := os.OpenFile(filepath.Join(c.root, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the cache: %w", err)
	}
	waited := false
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, noteHolder(f)
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock the cache: %w", err)
		}
		if !waited {
			waited = true
			fmt.Fprintf(out, "Another run (process %s) is building Kubernetes into %s: waiting for it.\n", holder(f), c.root)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for the other build: %w", context.Cause(ctx))
		case <-time.After(poll):
		}
	}
}

func noteHolder(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("write the lock: %w", err)
	}
	if _, err := f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0); err != nil {
		return fmt.Errorf("write the lock: %w", err)
	}
	return nil
}

func holder(f *os.File) string {
	line, err := io.ReadAll(io.NewSectionReader(f, 0, 32))
	if text := strings.TrimSpace(string(line)); err == nil && text != "" {
		return text
	}
	return "unknown"
}
