package main

import (
	"bufio"
	"context"
	"debug/elf"
	_ "embed" // for the script below
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// initScript is process 1 of a guest.
//
//go:embed init.sh
var initScript []byte

// slowness is how many times longer than on the machine itself things take in
// the emulator, with room to spare; sandbox.Patience reads it there.
const slowness = "10"

// writeImage makes the initial file system of a guest that runs the tests of a
// package: busybox as init and modprobe, the kernel's modules, the nft tool, the
// compiled tests and the repository's files.
func (k *kit) writeImage(ctx context.Context, file string, kern kernel, p testPackage, arguments []string) (err error) {
	files, err := p.files(ctx)
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := newArchive(f)
	for _, dir := range []string{"dev", "proc", "sys", "tmp", "run", "root"} {
		w.mkdir(dir)
	}
	w.copy("bin/busybox", k.busybox())
	w.symlink("bin/sh", "busybox")
	w.symlink("sbin/modprobe", "../bin/busybox")
	w.write("init", 0o755, initScript)
	w.write("arguments", 0o644, []byte(strings.Join(arguments, "\x00")))
	w.write("package", 0o644, []byte(p.name))
	w.tree("lib/modules", filepath.Join(kern.dir, "lib", "modules"))
	w.program("usr/sbin/nft", filepath.Join(k.dir, "nft"))
	w.copy("etc/protocols", filepath.Join(k.dir, "nft", "etc", "protocols"))
	w.copy("test", p.binary)
	for _, name := range files {
		if from := filepath.Join(p.root, name); exists(from) { // or is about to be removed
			w.copy("repository/"+name, from)
		}
	}
	return w.close()
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// archive writes a cpio archive in the format "newc", as the kernel takes it
// (Documentation/driver-api/early-userspace/buffer-format.rst). The first error
// sticks, and close returns it.
type archive struct {
	w     *bufio.Writer
	dirs  map[string]bool
	inode int
	err   error
}

func newArchive(w io.Writer) *archive {
	return &archive{w: bufio.NewWriterSize(w, 1<<20), dirs: map[string]bool{".": true}}
}

// entry writes one file with the folders above it. Mode is that of stat(2).
func (a *archive) entry(name string, mode uint32, content []byte) {
	if a.err != nil {
		return
	}
	if parent := path.Dir(name); !a.dirs[parent] {
		a.mkdir(parent)
	}
	a.inode++
	header := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		a.inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0)
	a.pad(header+name+"\x00", nil)
	a.pad("", content)
}

// pad writes both and fills up to the next multiple of four bytes.
func (a *archive) pad(head string, content []byte) {
	_, err := a.w.WriteString(head)
	if err == nil {
		_, err = a.w.Write(content)
	}
	if rest := (len(head) + len(content)) % 4; err == nil && rest > 0 {
		_, err = a.w.Write(make([]byte, 4-rest))
	}
	a.err = errors.Join(a.err, err)
}

// Types of files, from stat(2).
const (
	typeDir  = 0o040000
	typeFile = 0o100000
	typeLink = 0o120000
)

func (a *archive) mkdir(name string) {
	if !a.dirs[name] {
		a.dirs[name] = true
		a.entry(name, typeDir|0o755, nil)
	}
}

func (a *archive) symlink(name, to string) { a.entry(name, typeLink|0o777, []byte(to)) }

func (a *archive) write(name string, mode uint32, content []byte) {
	a.entry(name, typeFile|mode, content)
}

// copy takes a file from this machine.
func (a *archive) copy(name, from string) {
	content, err := os.ReadFile(from)
	a.err = errors.Join(a.err, err)
	a.write(name, 0o755, content)
}

// tree takes all files below a folder of this machine.
func (a *archive) tree(name, from string) {
	a.err = errors.Join(a.err, filepath.WalkDir(from, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		below, err := filepath.Rel(from, file)
		if err == nil {
			a.copy(path.Join(name, filepath.ToSlash(below)), file)
		}
		return err
	}))
}

// program takes a program of an unpacked closure, with the libraries it links.
func (a *archive) program(name, root string) {
	file := filepath.Join(root, filepath.FromSlash(name))
	libraries, err := linked(root, file)
	if err != nil {
		a.err = errors.Join(a.err, fmt.Errorf("find what %s links: %w", name, err))
		return
	}
	a.copy(name, file)
	a.copy("lib64/ld-linux-x86-64.so.2", filepath.Join(root, loader))
	for _, library := range libraries {
		a.copy("lib/x86_64-linux-gnu/"+filepath.Base(library), library)
	}
}

// close ends the archive.
func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, nil)
	return errors.Join(a.err, a.w.Flush())
}

// loader is where libc's package has the dynamic loader, and libraryFolders are
// where libraries are, in an unpacked closure.
const loader = "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"

func libraryFolders(root string) []string {
	return []string{filepath.Join(root, "lib", "x86_64-linux-gnu"), filepath.Join(root, "usr", "lib", "x86_64-linux-gnu")}
}

// linked returns the libraries that a program of an unpacked closure links, and
// those that these link.
func linked(root, program string) ([]string, error) {
	var libraries []string
	queue := []string{program}
	for len(queue) > 0 {
		file, err := elf.Open(queue[0])
		if err != nil {
			return nil, err
		}
		names, err := file.ImportedLibraries()
		if err := errors.Join(err, file.Close()); err != nil {
			return nil, err
		}
		queue = queue[1:]
		for _, name := range names {
			if slices.ContainsFunc(libraries, func(l string) bool { return filepath.Base(l) == name }) {
				continue
			}
			library, err := findLibrary(root, name)
			if err != nil {
				return nil, err
			}
			libraries, queue = append(libraries, library), append(queue, library)
		}
	}
	return libraries, nil
}

func findLibrary(root, name string) (string, error) {
	for _, dir := range libraryFolders(root) {
		if file := filepath.Join(dir, name); exists(file) {
			return file, nil
		}
	}
	return "", fmt.Errorf("there is no %s in %s", name, root)
}
