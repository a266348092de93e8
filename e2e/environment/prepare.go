package environment

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Where the programs are, once Prepare has run. Both can be set beforehand, to
// directories of ready programs.
const (
	// ProgramsVariable names the directory of Fairway's own programs.
	ProgramsVariable = "FAIRWAY_BIN"
	// KubernetesVariable names the directory of etcd, kube-apiserver and so on.
	KubernetesVariable = "FAIRWAY_KUBERNETES"
	// SourceVariable names the repository's root.
	SourceVariable = "FAIRWAY_SOURCE"
	// CoreDNSVariable names the CoreDNS program that PrepareDNS has built.
	CoreDNSVariable = "FAIRWAY_COREDNS"
)

// Prepare builds what an environment runs: Fairway's programs and, the first
// time, a Kubernetes control plane. It must be called outside of the sandbox,
// where modules can be downloaded, and from inside the repository. What is
// being built, and how long it still takes, goes to progress. It leaves the
// directories in the environment variables, for the sandboxed process to read.
func Prepare(ctx context.Context, progress io.Writer) error {
	root, err := repository(ctx)
	if err != nil {
		return err
	}
	if err := os.Setenv(SourceVariable, root); err != nil {
		return err
	}
	if os.Getenv(ProgramsVariable) == "" {
		dir := filepath.Join(root, "bin")
		if _, err := run(ctx, root, progress, "go", "build", "-o", dir+"/", "./cmd/..."); err != nil {
			return fmt.Errorf("build fairway's programs: %w", err)
		}
		if err := os.Setenv(ProgramsVariable, dir); err != nil {
			return err
		}
	}
	out, err := run(ctx, filepath.Join(root, "e2e", "kubernetes"), progress, "go", "run", "./build")
	if err != nil {
		return fmt.Errorf("build kubernetes: %w", err)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return os.Setenv(KubernetesVariable, lines[len(lines)-1])
}

// PrepareDNS builds the name server that Pods ask, where an environment wants
// one. It must be called as Prepare must, after it.
func PrepareDNS(ctx context.Context, progress io.Writer) error {
	root, err := repository(ctx)
	if err != nil {
		return err
	}
	program := filepath.Join(root, "bin", "coredns")
	if _, err := run(ctx, filepath.Join(root, "e2e", "coredns"), progress, "go", "build", "-ldflags=-s -w", "-o", program, "."); err != nil {
		return fmt.Errorf("build coredns: %w", err)
	}
	return os.Setenv(CoreDNSVariable, program)
}

// repository returns the root of the module's checkout.
func repository(ctx context.Context) (string, error) {
	out, err := run(ctx, "", io.Discard, "go", "env", "GOMOD")
	if err != nil {
		return "", err
	}
	file := strings.TrimSpace(out)
	if filepath.Base(file) != "go.mod" {
		return "", fmt.Errorf("find the repository: not inside a go module")
	}
	return filepath.Dir(file), nil
}

// run returns what the command printed on its standard output; its standard
// error goes to progress.
func run(ctx context.Context, dir string, progress io.Writer, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Stderr = progress
	// An interrupt lets the builder stop its own children.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return out.String(), nil
}
