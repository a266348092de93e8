package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// goPackage is what "go list" tells of a package.
type goPackage struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Stale      bool // not in Go's build cache
}

// list downloads the modules that are missing and returns every package of the
// program.
func (b builder) list(ctx context.Context) ([]goPackage, error) {
	began := time.Now()
	modules, current := 0, "reading the list of packages"
	var out bytes.Buffer
	// Stale is right only when EmbedFiles is asked for too: without, "go list"
	// leaves embedded files out of what it looks up in the build cache.
	args := append([]string{"list", "-deps", "-json=ImportPath,Dir,GoFiles,EmbedFiles,Stale"}, b.source.flags()...)
	err := b.run(ctx, append(args, mainPackage), &out,
		func(line string) bool {
			module, ok := strings.CutPrefix(line, "go: downloading ")
			if ok {
				modules++
				current = "downloading " + module
			}
			return ok
		},
		func(now time.Time) string {
			return fmt.Sprintf("kubernetes: %s passed, %d modules so far: %s", length(now.Sub(began)), modules, current)
		})
	if err != nil {
		return nil, err
	}
	var list []goPackage
	for decoder := json.NewDecoder(&out); ; {
		var p goPackage
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the list of packages: %w", err)
		}
		list = append(list, p)
	}
}

// unitsToCompile gives the units of work of each package that Go's build cache
// does not hold, and the units of all packages together.
func unitsToCompile(list []goPackage) (stale map[string]int64, total int64, err error) {
	stale = map[string]int64{}
	for _, p := range list {
		units := int64(packageUnits)
		for _, name := range p.GoFiles {
			info, err := os.Stat(filepath.Join(p.Dir, name))
			if err != nil {
				return nil, 0, fmt.Errorf("measure package %s: %w", p.ImportPath, err)
			}
			units += info.Size()
		}
		total += units
		if p.Stale {
			stale[p.ImportPath] = units
		}
	}
	return stale, total, nil
}

// compile builds the program into the work folder and returns its file.
func (b builder) compile(ctx context.Context, units map[string]int64) (string, error) {
	binary := filepath.Join(b.cache.work(), binaryName)
	p := newProgress(units, b.source.processors(), time.Now())
	args := append([]string{"build", "-v", "-o", binary}, b.source.flags()...)
	if err := b.run(ctx, append(args, mainPackage), io.Discard, p.start, p.line); err != nil {
		return "", err
	}
	b.reporter.say("kubernetes: compiled and linked in %s", length(time.Since(p.began)))
	return binary, nil
}

// processors is the number of packages that are compiled at once.
func (s source) processors() int {
	for flag := range strings.FieldsSeq(s.golang.GOFLAGS) {
		if text, ok := strings.CutPrefix(strings.TrimLeft(flag, "-"), "p="); ok {
			if n, err := strconv.Atoi(text); err == nil && n > 0 {
				return n
			}
		}
	}
	return runtime.GOMAXPROCS(0)
}

// redraw is how often the line on a terminal is brought up to date.
const redraw = 500 * time.Millisecond

// run runs the go command in the module. Lines of its error output that heed
// takes are progress; what else it says is shown when it fails. status is the
// line to show while it works.
func (b builder) run(ctx context.Context, args []string, stdout io.Writer, heed func(line string) bool, status func(now time.Time) string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = b.source.dir
	cmd.Env = append(b.source.environment(), "GOTMPDIR="+b.cache.work())
	cmd.Stdout = stdout
	cmd.ExtraFiles = []*os.File{b.lock}
	ownGroup(cmd)
	stopped := stopGroup(cmd)
	defer stopped()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return fmt.Errorf("start the go command: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the go command: %w", err)
	}
	messages := b.follow(stderr, heed, status)
	b.reporter.clear()
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("go %s in %s: %w\n%s", args[0], b.source.dir, err, strings.Join(messages, "\n"))
	}
	return nil
}

// follow shows the status until output ends, and returns the last lines that
// were no progress.
func (b builder) follow(output io.Reader, heed func(line string) bool, status func(now time.Time) string) []string {
	const keep = 40
	lines := make(chan string)
	go func() {
		defer close(lines)
		scanner := bufio.NewScanner(output)
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			lines <- scanner.Text()
		}
		_, _ = io.Copy(io.Discard, output) // after an overlong line: nobody may block on the pipe
	}()
	ticker := time.NewTicker(redraw)
	defer ticker.Stop()
	var messages []string
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				return messages
			}
			if !heed(line) {
				messages = append(messages, line)
				messages = messages[max(0, len(messages)-keep):]
			}
		case now := <-ticker.C:
			b.reporter.show(status(now), now)
		}
	}
}

// grace is how long the go command may take to end by itself.
const grace = 10 * time.Second

// stopGroup makes the end of cmd's context stop cmd and all it started: first
// asked, so that the go command keeps what is compiled, then forced. The
// function it returns belongs after cmd.Wait.
func stopGroup(cmd *exec.Cmd) (stopped func()) {
	var force *time.Timer
	kill := func(s syscall.Signal) error { return syscall.Kill(-cmd.Process.Pid, s) }
	cmd.Cancel = func() error {
		force = time.AfterFunc(grace, func() { _ = kill(syscall.SIGKILL) })
		return kill(syscall.SIGINT)
	}
	return func() {
		if force != nil && force.Stop() {
			_ = kill(syscall.SIGKILL) // compilers that outlive the go command
		}
	}
}
