package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// kernel is one that the kit has.
type kernel struct {
	series  series
	dir     string // has vmlinuz, and lib/modules/<release>
	release string // as uname -r says
	version string // of the Debian package
}

func (k *kit) kernelDir(s series) string { return filepath.Join(k.dir, "kernel-"+s.name) }

func (k *kit) busybox() string { return filepath.Join(k.dir, "busybox", "bin", "busybox") }

// moduleFolders are the kernel modules that guests get, below
// /lib/modules/<release>/kernel: what netfilter and the tests' networks are made
// of, with what those depend on.
var moduleFolders = []string{
	"net/netfilter", "net/ipv4", "net/ipv6", "net/bridge", "net/802", "net/llc", "net/sctp",
	"lib", "crypto", "arch/x86/crypto", "drivers/net/veth.ko", "drivers/net/dummy.ko",
}

// keepKernel takes from an unpacked package what guests need of it.
func (k *kit) keepKernel(ctx context.Context, s series, whole string) error {
	found, err := filepath.Glob(filepath.Join(whole, "boot", "vmlinuz-*"))
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return fmt.Errorf("%d kernels in one package", len(found))
	}
	release := strings.TrimPrefix(filepath.Base(found[0]), "vmlinuz-")
	dir := k.kernelDir(s)
	modules := filepath.Join(dir, "lib", "modules", release)
	if err := os.MkdirAll(modules, 0o755); err != nil {
		return err
	}
	if err := os.Rename(found[0], filepath.Join(dir, "vmlinuz")); err != nil {
		return err
	}
	from := filepath.Join(whole, "lib", "modules", release)
	for _, file := range []string{"modules.order", "modules.builtin", "modules.builtin.modinfo"} {
		if err := os.Rename(filepath.Join(from, file), filepath.Join(modules, file)); err != nil {
			return err
		}
	}
	for _, folder := range moduleFolders {
		if err := k.keepModules(ctx, filepath.Join(from, "kernel"), filepath.Join(modules, "kernel"), folder); err != nil {
			return err
		}
	}
	if err := k.runBusybox(ctx, "depmod", "-b", dir, release); err != nil {
		return err
	}
	return os.Rename(filepath.Join(whole, versionsFile), filepath.Join(dir, versionsFile))
}

// keepModules moves a folder of modules, or one module, and unpacks those that
// are compressed. A folder that is not there is built into the kernel.
func (k *kit) keepModules(ctx context.Context, from, to, folder string) error {
	if strings.HasSuffix(folder, ".ko") {
		if _, err := os.Stat(filepath.Join(from, folder)); errors.Is(err, fs.ErrNotExist) {
			folder += ".xz"
		}
	}
	return filepath.WalkDir(filepath.Join(from, folder), func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := os.Rename(path, target); err != nil {
			return err
		}
		if strings.HasSuffix(target, ".xz") {
			return k.runBusybox(ctx, "unxz", target)
		}
		return nil
	})
}

func (k *kit) runBusybox(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, k.busybox(), args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// kernel finds the kernel of a series.
func (k *kit) kernel(s series) (kernel, error) {
	dir := k.kernelDir(s)
	releases, err := filepath.Glob(filepath.Join(dir, "lib", "modules", "*"))
	if err != nil {
		return kernel{}, err
	}
	if len(releases) != 1 {
		return kernel{}, fmt.Errorf("%d kernels in %s", len(releases), dir)
	}
	found := kernel{series: s, dir: dir, release: filepath.Base(releases[0])}
	if !strings.HasPrefix(found.release, s.name+".") {
		return kernel{}, fmt.Errorf("the kernel of series %s is %s", s, found.release)
	}
	found.version, err = version(dir, "linux-image-"+found.release)
	return found, err
}
