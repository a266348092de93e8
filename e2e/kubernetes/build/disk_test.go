package main

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckSpace(t *testing.T) {
	volumes := map[string]volume{
		"/home/a": {1, 3e9},
		"/home/b": {1, 3e9},
		"/data":   {2, 100e6},
	}
	look := func(dir string) (volume, error) { return volumes[dir], nil }
	for _, c := range []struct {
		name  string
		needs []need
		want  string // part of the error
	}{
		{"fits", []need{{"x", "/home/a", 2e9}, {"y", "/home/b", 1e9}, {"z", "/data", 100e6}}, ""},
		{"each fits, together not", []need{{"Go modules", "/home/a", 2e9}, {"the result", "/home/b", 1.1e9}},
			"3.1 GB needed (2.0 GB for Go modules in /home/a, 1.1 GB for the result in /home/b), 3.0 GB free"},
		{"one of two volumes is full", []need{{"x", "/home/a", 1e9}, {"z", "/data", 150e6}},
			"150 MB needed (150 MB for z in /data), 100 MB free"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := checkSpace(c.needs, look)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestVolumeOfAFolderNotMadeYet(t *testing.T) {
	dir := t.TempDir()
	here, err := volumeOf(dir)
	if err != nil {
		t.Fatal(err)
	}
	there, err := volumeOf(filepath.Join(dir, "not", "yet"))
	if err != nil {
		t.Fatal(err)
	}
	if here.id != there.id || here.free <= 0 {
		t.Errorf("%+v for the folder, %+v for one to be made in it", here, there)
	}
}
