package agent

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairway-lb/fairway/e2e/sandbox"
)

func TestMain(m *testing.M) { sandbox.Main(m) }

// startScript runs a shell script as a Pod's program. It notes what happens, a
// word at a time, in the file that notes returns.
func startScript(t *testing.T, script string) (p *program, notes func() string) {
	t.Helper()
	n, err := sandbox.NewNetNS("pod")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	file := filepath.Join(t.TempDir(), "notes")
	p = &program{
		command: []string{"sh", "-c", script}, variables: []string{"NOTES=" + file},
		netns: n, logFile: filepath.Join(t.TempDir(), "log"), logger: slog.New(slog.DiscardHandler),
	}
	p.start()
	t.Cleanup(p.close)
	return p, func() string {
		text, err := os.ReadFile(file)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return strings.Join(strings.Fields(string(text)), " ")
	}
}

func waitFor(t *testing.T, want string, notes func() string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); notes() != want; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited for %q in vain, there is %q", want, notes())
		}
	}
}

// TestProgram: a program that ends is started again; one that is asked to end has
// its time for it.
func TestProgram(t *testing.T) {
	p, notes := startScript(t, `
		trap 'sleep 0.2; echo ended >>$NOTES; exit 0' TERM
		echo started >>$NOTES
		[ $(wc -l <$NOTES) -gt 1 ] || exit 3
		while :; do sleep 0.05; done`)
	waitFor(t, "started started", notes)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	p.shutdown(ctx)
	if got, want := notes(), "started started ended"; got != want || ctx.Err() != nil {
		t.Errorf("%q after the shutdown, want %q; %v", got, want, ctx.Err())
	}
}

// TestStubbornProgram does not end when asked to, but with its Pod.
func TestStubbornProgram(t *testing.T) {
	p, notes := startScript(t, `
		trap 'echo asked >>$NOTES' TERM
		echo started >>$NOTES
		while :; do sleep 0.05; done`)
	waitFor(t, "started", notes)
	p.drain()
	waitFor(t, "started asked", notes)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p.shutdown(ctx)
	select {
	case <-p.done:
		t.Error("it ended")
	default:
	}
	p.close()
	if got := notes(); got != "started asked" {
		t.Errorf("%q when it was closed", got)
	}
}
