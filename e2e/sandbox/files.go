package sandbox

import (
	"fmt"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// StartWithFiles starts a command in the namespace that sees other files than
// everybody else: files has for the path of each, which must exist, the file
// that it sees there instead. Waiting for it is up to the caller. The command
// must not ask for a parent death signal: its parent, a thread, ends at once.
func (n *NetNS) StartWithFiles(cmd *exec.Cmd, files map[string]string) error {
	return onDoomedThread(func() error { return n.startWithFiles(cmd, files) })
}

// onDoomedThread calls f on a thread that ends with it, whatever f has done to
// its namespaces. The process's first thread is spared: the runtime never ends
// it, and /proc/self shows that thread's view.
func onDoomedThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, which is what dooms the thread
		if unix.Gettid() != unix.Getpid() {
			result <- f()
			return
		}
		// Held here meanwhile, the first thread cannot get the next goroutine.
		defer runtime.UnlockOSThread()
		result <- onDoomedThread(f)
	}()
	return <-result
}

func (n *NetNS) startWithFiles(cmd *exec.Cmd, files map[string]string) error {
	// All mounts of a sandbox are private already, so the copies are.
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("making a mount namespace: %w", err)
	}
	for path, file := range files {
		if err := unix.Mount(file, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("putting %s in place of %s: %w", file, path, err)
		}
	}
	if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering network namespace %s: %w", n.name, err)
	}
	return cmd.Start()
}
