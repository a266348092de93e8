package main

import (
	"os"
	"os/exec"
	"syscall"
	"unsafe"
)

// terminalWidth is the number of columns of the terminal f is, 0 when f is none.
func terminalWidth(f *os.File) int {
	var size struct{ rows, columns, x, y uint16 }
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return 0
	}
	if size.columns == 0 { // a terminal that does not know
		return 80
	}
	return int(size.columns)
}

// ownGroup gives cmd a process group of its own, so that it can be stopped
// with all it started. If this program is killed, the kernel interrupts cmd.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGINT}
}
