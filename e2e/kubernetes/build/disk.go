package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// need is disk space that a build takes for good, or for its duration.
type need struct {
	what  string
	dir   string
	bytes int64
}

// volume is the file system that holds a folder.
type volume struct {
	id   uint64
	free int64 // bytes that this user may still write
}

// volumeOf looks at dir, or where dir is not made yet at the nearest folder
// above it.
func volumeOf(dir string) (volume, error) {
	for {
		info, err := os.Stat(dir)
		if err == nil {
			var fs syscall.Statfs_t
			if err := syscall.Statfs(dir, &fs); err != nil {
				return volume{}, fmt.Errorf("find the free space of %s: %w", dir, err)
			}
			return volume{id: uint64(info.Sys().(*syscall.Stat_t).Dev), free: int64(fs.Bavail) * int64(fs.Bsize)}, nil
		}
		if !errors.Is(err, os.ErrNotExist) || filepath.Dir(dir) == dir {
			return volume{}, fmt.Errorf("find the free space of %s: %w", dir, err)
		}
		dir = filepath.Dir(dir)
	}
}

// checkSpace refuses what does not fit. Folders on one file system share its
// free space.
func checkSpace(needs []need, volumeOf func(dir string) (volume, error)) error {
	wanted := map[uint64]int64{}
	uses := map[uint64][]string{}
	volumes := map[uint64]volume{}
	for _, n := range needs {
		v, err := volumeOf(n.dir)
		if err != nil {
			return err
		}
		volumes[v.id] = v
		wanted[v.id] += n.bytes
		uses[v.id] = append(uses[v.id], fmt.Sprintf("%s for %s in %s", size(n.bytes), n.what, n.dir))
	}
	var problems []error
	for id, v := range volumes {
		if v.free < wanted[id] {
			problems = append(problems, fmt.Errorf("too little disk space: %s needed (%s), %s free",
				size(wanted[id]), strings.Join(uses[id], ", "), size(v.free)))
		}
	}
	return errors.Join(problems...)
}

// size is a number of bytes for people.
func size(bytes int64) string {
	if bytes < 1e9 {
		return fmt.Sprintf("%d MB", (bytes+5e5)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(bytes)/1e9)
}
