package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// UnavailableError says that this machine refuses the namespaces a sandbox is
// made of.
type UnavailableError struct {
	// Attempted is the step that was refused, "mounting /proc" for instance.
	Attempted string
	// Reason is why, as far as it can be found out, and what to do about it.
	Reason string
	// Err is the kernel's answer.
	Err error
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("no sandbox on this machine: %s: %v: %s", e.Attempted, e.Err, e.Reason)
}

func (e *UnavailableError) Unwrap() error { return e.Err }

// unavailable makes the error for a refused step. Other failures, such as too
// many open files, are no statement about namespaces and stay as they are.
func unavailable(step string, err error, userNamespace bool) error {
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok || !isRefusal(errno) {
		return fmt.Errorf("%s for a sandbox: %w", step, err)
	}
	return &UnavailableError{
		Attempted: step,
		Reason:    refusalReason(os.DirFS("/proc"), errno, userNamespace),
		Err:       errno,
	}
}

func isRefusal(errno syscall.Errno) bool {
	switch errno {
	case unix.EPERM, unix.EACCES, unix.ENOSPC, unix.EUSERS, unix.EINVAL, unix.ENOSYS:
		return true
	}
	return false
}

// refusalReason finds out from /proc why namespaces are refused. The settings
// are those of user_namespaces(7) and namespaces(7), of Debian's and Ubuntu's
// kernels.
func refusalReason(proc fs.FS, errno syscall.Errno, userNamespace bool) string {
	if !userNamespace {
		return "root lacks CAP_SYS_ADMIN here, as in most containers: start the container privileged"
	}
	setting := func(name string) string {
		content, err := fs.ReadFile(proc, "sys/"+name)
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(content))
	}
	const orRoot = ", or run as root"
	switch {
	case setting("kernel/unprivileged_userns_clone") == "0":
		return "unprivileged user namespaces are switched off: sysctl -w kernel.unprivileged_userns_clone=1" + orRoot
	case setting("user/max_user_namespaces") == "0":
		return "no user namespaces are allowed: sysctl -w user.max_user_namespaces=15000" + orRoot
	case errno == unix.ENOSPC || errno == unix.EUSERS:
		return "the limit on namespaces is reached: raise sysctl user.max_user_namespaces (now " +
			setting("user/max_user_namespaces") + ") and its neighbours"
	case setting("kernel/apparmor_restrict_unprivileged_userns") == "1":
		return "AppArmor restricts unprivileged user namespaces: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0" + orRoot
	case errno == unix.EINVAL || errno == unix.ENOSYS:
		return "the kernel was built without user, mount, pid or net namespaces: use another kernel"
	case hasSeccompFilter(proc):
		return "a seccomp filter forbids it, as in most containers: start the container privileged or with seccomp=unconfined"
	}
	return "a security module or an outer container forbids it: allow unprivileged user namespaces, or run as root"
}

func hasSeccompFilter(proc fs.FS) bool {
	status, err := fs.ReadFile(proc, "self/status")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "Seccomp:"); ok {
			return strings.TrimSpace(value) != "0"
		}
	}
	return false
}

// report puts a failed step into the text that process 1 sends to the outer
// process: the error number, a space, and the step.
func report(step string, err error) string {
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		return "0 " + step + ": " + err.Error()
	}
	return strconv.Itoa(int(errno)) + " " + step
}

// fromReport is the inverse of report.
func fromReport(text string, userNamespace bool) error {
	number, step, _ := strings.Cut(text, " ")
	errno, err := strconv.Atoi(number)
	if err != nil || errno == 0 {
		return fmt.Errorf("preparing a sandbox: %s", step)
	}
	return unavailable(step, syscall.Errno(errno), userNamespace)
}
