package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// sources are the only archives that anything is taken from, those of one Debian
// release, whatever this machine's own configuration lists. What comes from them
// is pinned by name and series and not by digest: Debian takes a kernel away when
// its successor with security fixes is out. Apt checks each file against the
// index that Debian's key signed, the guest's own word on its kernel is compared
// with the series, and the table states the exact versions.
const sources = `deb [signed-by=` + keyring + `] http://deb.debian.org/debian %[1]s main
deb [signed-by=` + keyring + `] http://deb.debian.org/debian-security %[1]s-security main
`

const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// series are kernels of one version that Debian keeps up to date.
type series struct {
	name    string // "6.1"
	release string // of Debian
	meta    string // the package that depends on the newest of them
}

func (s series) String() string { return s.name }

// all are the kernels to test under, the oldest that Debian still cares for first.
var all = []series{
	{"5.10", "bullseye", "linux-image-cloud-amd64"},
	{"6.1", "bookworm", "linux-image-cloud-amd64"},
	{"6.12", "bookworm", "linux-image-6.12-cloud-amd64"},
}

// tools are the folders of the kit with the emulator and with what guests get,
// each with the packages that are unpacked in it, and those that these depend on.
var tools = []struct {
	folder   string
	packages []string
}{
	{"qemu", []string{"qemu-system-x86"}},
	{"nft", []string{"nftables", "netbase"}}, // netbase names the protocols that nft prints
	{"busybox", []string{"busybox-static"}},
}

// toolsRelease is the Debian release that the tools are of.
const toolsRelease = "bookworm"

// kit is the folder with all that is needed: those of tools, and a kernel in
// "kernel-<series>". A folder without a list of versions is incomplete.
type kit struct{ dir string }

// install makes the kit for some kernels in Fairway's cache folder, as far as it
// is not there already. What an interrupted installation has begun is begun anew;
// of two at once, one waits. With renew all of it is made again, from the newest
// packages. What it does goes to progress.
func install(ctx context.Context, wanted []series, renew bool, progress io.Writer) (*kit, error) {
	if err := requirePrograms(); err != nil {
		return nil, err
	}
	root, err := cacheRoot()
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q", sources, toolsRelease, tools, moduleFolders))
	k := &kit{dir: filepath.Join(root, "kernels-"+hex.EncodeToString(digest[:6]))}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	turn, err := os.OpenFile(k.dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	defer turn.Close() // and so unlock it
	if err := unix.Flock(int(turn.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock %s: %w", turn.Name(), err)
	}
	if renew {
		if err := os.RemoveAll(k.dir); err != nil {
			return nil, err
		}
	}
	work := filepath.Join(k.dir, "work")
	err = k.make(ctx, work, wanted, progress)
	if err := errors.Join(err, os.RemoveAll(work)); err != nil {
		return nil, fmt.Errorf("prepare QEMU and kernels: %w", err)
	}
	return k, nil
}

// requirePrograms says all that this machine lacks, not only the first.
func requirePrograms() error {
	var lacks []error
	for program, from := range map[string]string{"apt-get": "apt", "apt-cache": "apt", "dpkg-deb": "dpkg"} {
		if _, err := exec.LookPath(program); err != nil {
			lacks = append(lacks, fmt.Errorf("this machine has no %s (Debian package %s)", program, from))
		}
	}
	if _, err := os.Stat(keyring); err != nil {
		lacks = append(lacks, fmt.Errorf("this machine has no %s (Debian package debian-archive-keyring)", keyring))
	}
	return errors.Join(lacks...)
}

// cacheRoot is the folder that FAIRWAY_CACHE names, else one in the user's cache
// folder.
func cacheRoot() (string, error) {
	if root := os.Getenv("FAIRWAY_CACHE"); root != "" {
		return filepath.Abs(root)
	}
	user, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder (FAIRWAY_CACHE names one): %w", err)
	}
	return filepath.Join(user, "fairway"), nil
}

func (k *kit) make(ctx context.Context, work string, wanted []series, progress io.Writer) error {
	if err := os.RemoveAll(work); err != nil {
		return err
	}
	archives := map[string]apt{}
	archive := func(release string) (apt, error) {
		a, known := archives[release]
		if known {
			return a, nil
		}
		a = apt{dir: filepath.Join(work, release)}
		archives[release] = a
		return a, a.update(ctx, release)
	}
	for _, tool := range tools {
		dir := filepath.Join(k.dir, tool.folder)
		if err := k.once(dir, progress, func() error {
			a, err := archive(toolsRelease)
			if err != nil {
				return err
			}
			return a.unpackClosure(ctx, dir, tool.packages...)
		}); err != nil {
			return err
		}
	}
	for _, s := range wanted {
		if err := k.once(k.kernelDir(s), progress, func() error {
			a, err := archive(s.release)
			if err != nil {
				return err
			}
			return k.makeKernel(ctx, a, s, filepath.Join(work, "kernel"))
		}); err != nil {
			return err
		}
	}
	return nil
}

// once makes a folder of the kit unless it is complete.
func (k *kit) once(dir string, progress io.Writer, f func() error) error {
	if exists(filepath.Join(dir, versionsFile)) {
		return nil
	}
	fmt.Fprintf(progress, "kernels: unpacking %s from deb.debian.org\n", dir)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return f()
}

// makeKernel downloads the newest kernel of a series. Whole is a folder for the
// package, which goes.
func (k *kit) makeKernel(ctx context.Context, a apt, s series, whole string) error {
	image, err := a.dependency(ctx, s.meta)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(image, "linux-image-"+s.name+".") {
		return fmt.Errorf("%s of Debian %s is not about Linux %s any more: it depends on %s", s.meta, s.release, s.name, image)
	}
	if err := a.unpack(ctx, whole, image); err != nil {
		return err
	}
	if err := k.keepKernel(ctx, s, whole); err != nil {
		return fmt.Errorf("%s: %w", image, err)
	}
	return os.RemoveAll(whole)
}

// apt is Debian's package manager with a state of its own, in which nothing is
// installed, so that everything a package depends on is downloaded with it.
type apt struct{ dir string }

func (a apt) command(ctx context.Context, dir, program string, args ...string) (string, error) {
	for _, option := range []string{
		"Dir::State=" + filepath.Join(a.dir, "state"), "Dir::State::status=/dev/null",
		"Dir::Cache=" + filepath.Join(a.dir, "cache"), "Dir::Cache::archives=" + dir,
		"Dir::Etc::sourcelist=" + filepath.Join(a.dir, "sources.list"), "Dir::Etc::sourceparts=/dev/null",
		"APT::Architecture=amd64", "APT::Architectures=amd64", "APT::Sandbox::User=root",
		"Acquire::Languages=none", "Acquire::Retries=3", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
		"Debug::NoLocking=true",
	} {
		args = append(args, "-o", option)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", program, args[0], err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// update reads which packages a Debian release has.
func (a apt) update(ctx context.Context, release string) error {
	for _, dir := range []string{"state/lists/partial", "cache"} {
		if err := os.MkdirAll(filepath.Join(a.dir, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(a.dir, "sources.list"), fmt.Appendf(nil, sources, release), 0o644); err != nil {
		return err
	}
	// Without this option an archive out of reach is a warning.
	_, err := a.command(ctx, a.dir, "apt-get", "update", "--error-on=any")
	return err
}

// dependency returns the one package that a meta-package depends on.
func (a apt) dependency(ctx context.Context, meta string) (string, error) {
	out, err := a.command(ctx, a.dir, "apt-cache", "depends", "--important", meta)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		if name, found := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); found {
			return name, nil
		}
	}
	return "", fmt.Errorf("%s depends on nothing", meta)
}

// unpack downloads one package and unpacks it into dir.
func (a apt) unpack(ctx context.Context, dir, name string) error {
	return a.fetch(ctx, dir, "download", name)
}

// unpackClosure does so with packages and all that they depend on, down to libc.
func (a apt) unpackClosure(ctx context.Context, dir string, names ...string) error {
	return a.fetch(ctx, dir, append([]string{"install", "--yes", "--no-install-recommends", "--download-only"}, names...)...)
}

// versionsFile lists in each unpacked folder what it is made of. It is written
// last.
const versionsFile = "versions"

func (a apt) fetch(ctx context.Context, dir string, args ...string) (err error) {
	archives := filepath.Join(a.dir, "archives")
	if err := os.MkdirAll(filepath.Join(archives, "partial"), 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(archives)) }()
	if _, err := a.command(ctx, archives, "apt-get", args...); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(archives, "*.deb"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("apt-get %s brought nothing", strings.Join(args, " "))
	}
	var versions []string
	for _, file := range files {
		if out, err := exec.CommandContext(ctx, "dpkg-deb", "--extract", file, dir).CombinedOutput(); err != nil {
			return fmt.Errorf("unpack %s: %w: %s", filepath.Base(file), err, out)
		}
		name, version, err := packageOf(file)
		if err != nil {
			return err
		}
		versions = append(versions, name+" "+version)
	}
	slices.Sort(versions)
	return os.WriteFile(filepath.Join(dir, versionsFile), []byte(strings.Join(versions, "\n")+"\n"), 0o644)
}

// packageOf reads name and version from the name of a package's file, in which
// apt writes a colon as %3a.
func packageOf(file string) (name, version string, err error) {
	parts := strings.Split(filepath.Base(file), "_")
	if len(parts) != 3 {
		return "", "", fmt.Errorf("%s is not named like a package", file)
	}
	version, err = url.PathUnescape(parts[1])
	return parts[0], version, err
}

// version returns the version of a package that is unpacked in dir.
func version(dir, name string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, versionsFile))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if n, v, _ := strings.Cut(strings.TrimSpace(line), " "); n == name {
			return v, nil
		}
	}
	return "", fmt.Errorf("%s is not among the packages in %s", name, dir)
}
