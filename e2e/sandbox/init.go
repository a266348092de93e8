package sandbox

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// runInit is process 1 of the sandbox. It prepares the namespaces, starts the
// copy of the program that does the work, passes signals on to it, reaps every
// orphan, and ends with that copy; the kernel then ends all that is left. The
// work is not done in process 1 itself, because reaping orphans there would take
// away the exit status of children that os/exec waits for.
func runInit(files int) {
	control := os.NewFile(firstFile, "control")
	unix.CloseOnExec(firstFile)
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, forwarded...)

	step, err := prepare()
	var worker int
	if err == nil {
		step = "starting the program inside"
		worker, err = startWorker(files)
	}
	if err != nil {
		_, _ = io.WriteString(control, report(step, err))
		os.Exit(1)
	}
	_ = unix.Shutdown(int(control.Fd()), unix.SHUT_WR)

	// The parent death signal covers a killed outer process, except one killed
	// while it was still starting this one; the closing socket covers that too.
	go func() {
		_, _ = io.Copy(io.Discard, control)
		os.Exit(exitCode(syscall.WaitStatus(unix.SIGKILL)))
	}()
	go func() {
		for s := range signals {
			_ = unix.Kill(worker, s.(syscall.Signal))
		}
	}()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if pid == worker && err == nil && !status.Stopped() {
			os.Exit(exitCode(syscall.WaitStatus(status)))
		}
	}
}

// startWorker runs this program once more, as the one that does the work. The
// files from outside move down to right after stderr.
func startWorker(files int) (pid int, err error) {
	descriptors := []uintptr{0, 1, 2}
	for i := range files {
		descriptors = append(descriptors, uintptr(firstFile+1+i))
		unix.CloseOnExec(firstFile + 1 + i)
	}
	for name, value := range map[string]string{
		stageVariable: fmt.Sprintf("inside:%d", files),
		"TMPDIR":      WorkDir,
	} {
		if err := os.Setenv(name, value); err != nil {
			return 0, err
		}
	}
	return syscall.ForkExec("/proc/self/exe", os.Args, &syscall.ProcAttr{Env: os.Environ(), Files: descriptors})
}

// prepare makes the mounts and the network of the sandbox. It returns what it
// was doing when it failed.
func prepare() (step string, err error) {
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return "making all mounts private", err
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	if err := unix.Mount("proc", "/proc", "proc", flags|unix.MS_NOEXEC, ""); err != nil {
		return "mounting /proc", err
	}
	// Only /sys/class/net would tell the host's devices instead of the
	// sandbox's: worth having, not worth failing.
	_ = unix.Mount("sysfs", "/sys", "sysfs", flags|unix.MS_NOEXEC, "")
	if err := unix.Mount("tmpfs", "/run", "tmpfs", flags, "mode=0755"); err != nil {
		return "mounting a tmpfs on /run", err
	}
	for dir, mode := range map[string]os.FileMode{WorkDir: 0o777 | os.ModeSticky, netnsDir: 0o755} {
		if err := os.Mkdir(dir, mode.Perm()); err != nil {
			return "making a directory of the sandbox", err
		}
		if err := os.Chmod(dir, mode); err != nil {
			return "making a directory of the sandbox", err
		}
	}
	loopback, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(loopback)
	}
	if err != nil {
		return "bringing the loopback device up", err
	}
	return "", nil
}
