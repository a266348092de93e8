// Package sandbox runs a program in a private world of Linux namespaces: its
// own processes, mounts, network and temporary files. Tests that need real
// kernel networking, the end-to-end environment and the demo all run in one.
// Nothing done inside is visible outside, and everything inside, whatever it
// was and however the program ended, is gone when the outer process is: the
// kernel removes it, not a clean-up function that a crash would skip.
//
// The program runs three times: the process the user started stays outside and
// waits, a copy of it becomes process 1 of the new namespaces, prepares them
// and reaps orphans, and a copy below that one does the work.
package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// WorkDir is a directory inside the sandbox for everything a program writes
// there. It is in memory and gone with the sandbox. TMPDIR names it, so that
// os.TempDir and testing.T.TempDir are below it.
const WorkDir = "/run/work"

// stageVariable tells a copy of the program which of the three it is, and how
// many files it was handed: "init:2", "inside:2".
const stageVariable = "FAIRWAY_SANDBOX"

// firstFile is the number of the first descriptor after stdin, stdout, stderr.
const firstFile = 3

// Options say what the outer world hands into the sandbox.
type Options struct {
	// Files opens what the sandbox gets from outside, for instance a listener
	// on the host's loopback address. It is called in the outer process only,
	// and may be nil.
	Files func() ([]*os.File, error)
}

// Session says on which side of the sandbox the caller is.
type Session struct {
	// Inside is true in the copy of the program that shall do the work.
	Inside bool
	// Files are what Options.Files opened, in that order. Only set inside.
	Files []*os.File
	// ExitCode is how the inner program ended, 128 plus the signal's number if
	// a signal ended it. Only set outside.
	ExitCode int
}

// Enter starts this program again, with the same arguments, in new namespaces.
// In the outer process it returns when the inner program has ended; SIGINT,
// SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 are passed on to it meanwhile.
// In the inner program it returns at once with Inside set, also in a further
// program that the inner one starts. So it belongs at the start of main, before
// anything that must not be done twice.
//
// An error is a *UnavailableError if this machine or user may not have the
// namespaces; it says why and what to do.
func Enter(opts Options) (Session, error) {
	stage, files, err := currentStage()
	if err != nil {
		return Session{}, err
	}
	switch stage {
	case "inside":
		// A program started from here is inside too, but gets no files.
		if err := os.Setenv(stageVariable, "inside:0"); err != nil {
			return Session{}, err
		}
		return Session{Inside: true, Files: openFiles(firstFile, files)}, nil
	case "init":
		runInit(files) // never returns
	}

	var handed []*os.File
	if opts.Files != nil {
		if handed, err = opts.Files(); err != nil {
			return Session{}, err
		}
	}
	needsUser := os.Geteuid() != 0
	code, err := runOutside(handed, needsUser)
	if _, refused := errors.AsType[*UnavailableError](err); refused && !needsUser {
		// Root in a container often lacks CAP_SYS_ADMIN: a user namespace
		// gives it that within the sandbox.
		code, err = runOutside(handed, true)
	}
	return Session{ExitCode: code}, err
}

// Main is for TestMain: it runs a package's tests in a sandbox and exits. Where
// none can be had it says why and skips all of them, but fails when the
// environment has CI=true: there a skipped test would go unnoticed. What before
// does is done outside, once: what the tests need and only the outer world has.
// An error of it fails the tests everywhere.
func Main(m interface{ Run() int }, before ...func() error) {
	session, err := Enter(Options{Files: func() ([]*os.File, error) {
		for _, prepare := range before {
			if err := prepare(); err != nil {
				fmt.Fprintln(os.Stderr, "FAIL:", err)
				os.Exit(1)
			}
		}
		return nil, nil
	}})
	if err != nil {
		word, code := "SKIP", 0
		if os.Getenv("CI") == "true" {
			word, code = "FAIL", 1
		}
		fmt.Fprintf(os.Stderr, "%s: all tests of this package, they need a sandbox: %v\n", word, err)
		os.Exit(code)
	}
	if !session.Inside {
		os.Exit(session.ExitCode)
	}
	os.Exit(m.Run())
}

// Inside says whether this program runs in a sandbox, so that code which changes
// the network or mounts can refuse to touch the machine's own.
func Inside() bool {
	return strings.HasPrefix(os.Getenv(stageVariable), "inside:")
}

// currentStage reads which copy of the program this is; "" is the outer one.
func currentStage() (stage string, files int, err error) {
	value := os.Getenv(stageVariable)
	if value == "" {
		return "", 0, nil
	}
	stage, count, _ := strings.Cut(value, ":")
	files, err = strconv.Atoi(count)
	if err != nil || files < 0 || stage != "init" && stage != "inside" {
		return "", 0, fmt.Errorf("environment variable %s=%q is not one that a sandbox sets: unset it", stageVariable, value)
	}
	return stage, files, nil
}

// openFiles gives the descriptors from first on as files.
func openFiles(first, count int) []*os.File {
	files := make([]*os.File, count)
	for i := range files {
		unix.CloseOnExec(first + i)
		files[i] = os.NewFile(uintptr(first+i), fmt.Sprintf("handed-in-%d", i))
	}
	return files
}

// runOutside starts process 1 of the sandbox and waits for its end. The two
// share a socket: process 1 reports there why it could not prepare the sandbox,
// and learns from its closing that the outer process is gone.
func runOutside(files []*os.File, userNamespace bool) (code int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("making the sandbox's control socket: %w", err)
	}
	control, remote := os.NewFile(uintptr(pair[0]), "control"), os.NewFile(uintptr(pair[1]), "control")
	defer control.Close()
	defer remote.Close()

	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=init:%d", stageVariable, len(files)))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = append([]*os.File{remote}, files...)
	cmd.SysProcAttr = namespaceAttributes(userNamespace)

	// The parent death signal follows the thread that started the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, forwarded...)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, unavailable("starting a process in new namespaces", err, userNamespace)
	}
	remote.Close()
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case s := <-signals:
				_ = cmd.Process.Signal(s)
			case <-done:
				return
			}
		}
	}()

	report, _ := io.ReadAll(io.LimitReader(control, 64<<10))
	if len(report) > 0 {
		_ = cmd.Wait()
		return 0, fromReport(string(report), userNamespace)
	}
	// The inner program alone holds them now: what it closes is closed.
	for _, file := range files {
		file.Close()
	}
	waitErr := cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](waitErr); ok {
		return exitCode(exit.Sys().(syscall.WaitStatus)), nil
	}
	return 0, waitErr
}

// forwarded are the signals that a program inside a sandbox sees as if they
// had been sent to it.
var forwarded = []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2}

func namespaceAttributes(userNamespace bool) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET,
		Pdeathsig:  unix.SIGKILL,
		// Ctrl-C reaches a whole process group. In a group of its own the inner
		// program gets it once, passed on, and not a second time.
		Setpgid: true,
	}
	if userNamespace {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

func exitCode(status syscall.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}
