package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// readArchive takes a cpio archive of the format "newc" apart, independently of
// what wrote it: names with types and sizes, in their order.
func readArchive(t *testing.T, data []byte) (names []string, contents map[string]string) {
	t.Helper()
	contents = map[string]string{}
	for {
		if len(data) < 110 || string(data[:6]) != "070701" {
			t.Fatalf("no header after %v", names)
		}
		field := func(i int) int {
			n, err := strconv.ParseUint(string(data[6+8*i:14+8*i]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
		mode, size, nameSize := field(1), field(6), field(11)
		round := func(n int) int { return (n + 3) / 4 * 4 }
		name := string(data[110 : 110+nameSize-1])
		data = data[round(110+nameSize):]
		if name == "TRAILER!!!" {
			return names, contents
		}
		names = append(names, fmt.Sprintf("%06o %s", mode, name))
		contents[name] = string(data[:size])
		data = data[round(size):]
	}
}

func TestArchive(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"one": "1", "below/two": "22", "below/deep/three": "333"} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	w := newArchive(&out)
	w.mkdir("dev")
	w.symlink("bin/sh", "busybox")
	w.write("bin/odd", 0o600, []byte("12345"))
	w.tree("work/testdata", dir)
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	names, contents := readArchive(t, out.Bytes())
	want := []string{
		"040755 dev", "040755 bin", "120777 bin/sh", "100600 bin/odd", "040755 work", "040755 work/testdata",
		"040755 work/testdata/below", "040755 work/testdata/below/deep", "100755 work/testdata/below/deep/three",
		"100755 work/testdata/below/two", "100755 work/testdata/one",
	}
	if !slices.Equal(names, want) {
		t.Errorf("archived\n%s\nwant\n%s", strings.Join(names, "\n"), strings.Join(want, "\n"))
	}
	for name, want := range map[string]string{"bin/sh": "busybox", "bin/odd": "12345", "work/testdata/below/deep/three": "333"} {
		if contents[name] != want {
			t.Errorf("%s holds %q, want %q", name, contents[name], want)
		}
	}
	w = newArchive(&out)
	w.copy("missing", filepath.Join(dir, "missing"))
	if err := w.close(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file was archived: %v", err)
	}
}

const (
	passing = "=== RUN   TestA\r\n\x16--- PASS: TestA (0.00s)\r\n\x16=== NAME  \r\nPASS\r\n"
	liar    = "--- PASS: TestLie (0.00s)\n"
)

func TestVerdict(t *testing.T) {
	const well = "release 6.1.0-56-cloud-amd64\nexit 0\n"
	for _, c := range []struct {
		name, output, status string
		want                 string // part of the error; empty: none
	}{
		{"passed", passing, well, ""},
		{"passed, on a terminal", passing, strings.ReplaceAll(well, "\n", "\r\n"), ""},
		{"a skip is told", passing + "\x16--- SKIP: TestB (0.00s)\n", well, ""},
		{"a test failed", passing + "\x16    --- FAIL: TestB/sub (0.00s)\n\x16--- FAIL: TestB (0.00s)\n", strings.Replace(well, "0\n", "123\n", 1), "failed: TestB/sub, TestB"},
		{"a test failed, but the guest says well", passing + "\x16--- FAIL: TestB (0.00s)\n", well, "failed: TestB"},
		{"ended otherwise", passing, "release 6.1.0-56-cloud-amd64\nexit 2\n", "exit 2"},
		{"panic of the kernel", passing, "release 6.1.0-56-cloud-amd64\n", "died before"},
		{"never booted", passing, "", "not kernel 6.1.0-56-cloud-amd64"},
		{"another kernel", passing, strings.Replace(well, "6.1.0", "6.18.0", 1), "not kernel 6.1.0-56-cloud-amd64"},
		{"a kernel whose name only begins so", passing, strings.Replace(well, "amd64", "amd64-x", 1), "not kernel 6.1.0-56-cloud-amd64"},
		{"nothing ran", "testing: warning: no tests to run\nPASS\n", well, "no test ran"},
		{"a test prints what it should not", liar, well, "no test ran"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := result{kernel: kernel{release: "6.1.0-56-cloud-amd64"}}
			r.count(c.output)
			err := r.judge(c.status)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestTable(t *testing.T) {
	old, young := kernel{series: all[1], release: "6.1.0-56", version: "6.1.192-2"}, kernel{series: all[2], release: "6.12.117", version: "6.12.117-1"}
	one, two := testPackage{name: "a/one"}, testPackage{name: "a/two"}
	results := []result{
		{kernel: old, test: one, passed: make([]string, 7), skipped: []string{"TestX"}, took: time.Minute},
		{kernel: old, test: two, passed: make([]string, 3), failed: make([]string, 2), err: errors.New("failed")},
		{kernel: young, test: one, passed: make([]string, 8)},
		{kernel: young, test: two, err: errors.New("the guest died")},
	}
	const want = `| tests | Linux 6.1 (Debian 6.1.192-2) | Linux 6.12 (Debian 6.12.117-1) |
|---|---|---|
| ` + "`a/one`" + ` | ok, 7, 1 skipped | ok, 8 |
| ` + "`a/two`" + ` | **FAIL**, 2 of 5 | **FAIL**, 0 of 0 |
`
	if got := table(results); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	file := filepath.Join(t.TempDir(), "page.md")
	if err := replaceTable(file, want, "abc"); err == nil {
		t.Error("a missing page was written")
	}
	for range 2 { // the second replaces the first
		if !exists(file) {
			if err := os.WriteFile(file, []byte("before\n"+tableBegin+"old\n"+tableEnd+"after\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := replaceTable(file, want, "abc"); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(page); got != "before\n"+tableBegin+"At commit abc:\n\n"+want+tableEnd+"after\n" {
		t.Errorf("the page is now\n%s", got)
	}
}

func TestChoose(t *testing.T) {
	for list, want := range map[string]string{"": "[5.10 6.1 6.12]", "6.12": "[6.12]", "6.12,6.1": "[6.12 6.1]", "5.4": "", "6.1,": ""} {
		got, err := choose(list)
		if want == "" {
			if err == nil {
				t.Errorf("%q means %v", list, got)
			}
		} else if err != nil || fmt.Sprint(got) != want {
			t.Errorf("%q means %v, %v, want %s", list, got, err, want)
		}
	}
}

func TestPackageOf(t *testing.T) {
	for file, want := range map[string]string{
		"/x/qemu-system-x86_1%3a7.2+dfsg-7_amd64.deb": "qemu-system-x86 1:7.2+dfsg-7",
		"libc6_2.36-9+deb12u14_amd64.deb":             "libc6 2.36-9+deb12u14",
		"strange.deb":                                 "",
	} {
		name, version, err := packageOf(file)
		if want == "" {
			if err == nil {
				t.Errorf("%s is package %s %s", file, name, version)
			}
		} else if err != nil || name+" "+version != want {
			t.Errorf("%s is package %q %q, %v", file, name, version, err)
		}
	}
}
