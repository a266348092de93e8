package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// patience is how long the tests of one package may take in the emulator.
const patience = 45 * time.Minute

// boot runs a guest until it powers off. What its console shows goes to console;
// status is what it wrote to its second serial port. An error says that the
// guest was not run or did not end by itself: QEMU's own exit status tells
// nothing of the guest, not even a panic.
//
// The machine is emulated in software, on one processor: a guest needs neither
// rights nor hardware for that, and with two processors it crashed now and then.
func (k *kit) boot(ctx context.Context, kern kernel, image, dir string, console io.Writer) (status string, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	root := filepath.Join(k.dir, "qemu")
	statusFile := filepath.Join(dir, "status")
	if err := os.RemoveAll(statusFile); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(root, loader),
		"--library-path", strings.Join(append(libraryFolders(root), filepath.Join(root, "usr", "lib", "x86_64-linux-gnu", "pulseaudio")), ":"),
		filepath.Join(root, "usr", "bin", "qemu-system-x86_64"),
		"-L", filepath.Join(root, "usr", "share", "seabios"), "-L", filepath.Join(root, "usr", "share", "qemu"),
		"-accel", "tcg", "-cpu", "max", "-machine", "q35", "-smp", "1", "-m", "1024",
		"-nodefaults", "-display", "none", "-net", "none", "-monitor", "none", "-no-reboot",
		"-serial", "stdio", "-serial", "file:"+statusFile,
		"-kernel", filepath.Join(kern.dir, "vmlinuz"), "-initrd", image,
		// What is not the kernel's becomes a variable of process 1.
		"-append", "console=ttyS0 quiet panic=-1 no_timer_check slowness="+slowness)
	// The emulator is made of modules, which it looks for beside its program.
	cmd.Env = append(os.Environ(), "QEMU_MODULE_DIR="+filepath.Join(root, "usr", "lib", "x86_64-linux-gnu", "qemu"))
	cmd.Stdout, cmd.Stderr = console, console
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// The parent death signal follows the thread that started the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = cmd.Run()
	if late := context.Cause(ctx); late != nil {
		return "", fmt.Errorf("the guest did not end: %w", late)
	}
	if err != nil {
		return "", fmt.Errorf("qemu: %w", err)
	}
	text, err := os.ReadFile(statusFile)
	if err != nil {
		return "", errors.Join(errors.New("the guest was not booted"), err)
	}
	return string(text), nil
}
