package sandbox

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestStartWithFiles lets one program see another file, and nobody else.
func TestStartWithFiles(t *testing.T) {
	n, err := NewNetNS("files")
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	dir := t.TempDir()
	common, special := filepath.Join(dir, "common"), filepath.Join(dir, "special")
	for _, file := range []string{common, special} {
		if err := os.WriteFile(file, []byte(filepath.Base(file)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var out strings.Builder
	cmd := exec.Command("sh", "-c", "cat "+common+" && readlink /proc/self/ns/net")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := n.StartWithFiles(cmd, map[string]string{common: special}); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err, out.String())
	}
	var inside string
	if err := n.Do(func() (err error) { inside, err = os.Readlink(threadNetNS); return err }); err != nil {
		t.Fatal(err)
	}
	if want := "special\n" + inside + "\n"; out.String() != want {
		t.Errorf("the program saw %q, want %q", out.String(), want)
	}
	if content, err := os.ReadFile(common); err != nil || string(content) != "common\n" {
		t.Errorf("everybody else sees %q, %v", content, err)
	}
	err = n.StartWithFiles(exec.Command("true"), map[string]string{filepath.Join(dir, "missing"): special})
	if err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("a file that is not there was replaced: %v", err)
	}
	// What /proc/self shows is the first thread's.
	if self, err := os.Readlink("/proc/self/ns/net"); err != nil || self == inside {
		t.Errorf("the process itself is left in the namespace: %s, %v", self, err)
	}
}

// Each thread is used up, and never the first one.
func TestDoomedThreads(t *testing.T) {
	for range 100 {
		if err := onDoomedThread(func() error {
			if unix.Gettid() == unix.Getpid() {
				t.Error("the first thread was used")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}
