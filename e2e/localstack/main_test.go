package localstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairway-lb/fairway/e2e/environment"
	"github.com/fairway-lb/fairway/e2e/sandbox"
)

const (
	// wantedVariable is set to 1 where these tests shall run: they download
	// LocalStack, which nobody expects of a plain `go test ./...`.
	wantedVariable = "FAIRWAY_LOCALSTACK"
	// endpointVariable names a LocalStack to use in place of an own one.
	endpointVariable = "FAIRWAY_LOCALSTACK_ENDPOINT"

	// How the outer process tells the sandboxed one where LocalStack is: as a
	// program, or as a socket that leads to the one of the user.
	pythonVariable = "FAIRWAY_LOCALSTACK_PYTHON"
	socketVariable = "FAIRWAY_LOCALSTACK_SOCKET"

	address = "127.0.0.1:4566"
)

// endpoint is the emulator's URL inside the sandbox.
const endpoint = "http://" + address

func TestMain(m *testing.M) {
	if os.Getenv(wantedVariable) != "1" {
		word, code := "SKIP", 0
		if os.Getenv("CI") == "true" {
			word, code = "FAIL", 1
		}
		fmt.Fprintf(os.Stderr, "%s: all tests of this package, they need LocalStack: `make test-localstack` installs it and runs them\n", word)
		os.Exit(code)
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAIL:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

// run runs the tests in a sandbox. What needs the network is prepared before, in
// the outer process.
func run(m *testing.M) (code int, err error) {
	var way *door
	session, err := sandbox.Enter(sandbox.Options{Files: func() (none []*os.File, err error) {
		way, err = prepare(context.Background())
		return nil, err
	}})
	if session.Inside {
		return inside(m)
	}
	if way != nil {
		err = errors.Join(err, way.Close())
	}
	return session.ExitCode, err
}

// prepare builds and installs what the tests run, and leaves word of it in the
// environment. It returns the way to the user's own LocalStack, nil without one.
func prepare(ctx context.Context) (*door, error) {
	if err := environment.Prepare(ctx, os.Stderr); err != nil {
		return nil, err
	}
	if own := os.Getenv(endpointVariable); own != "" {
		way, err := openDoor(own)
		if err != nil {
			return nil, err
		}
		return way, os.Setenv(socketVariable, way.Path)
	}
	source, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	dir, err := DefaultDir(source)
	if err != nil {
		return nil, err
	}
	python, err := Install(ctx, source, dir, os.Stderr)
	if err != nil {
		return nil, err
	}
	return nil, os.Setenv(pythonVariable, python)
}

// inside runs the tests with an emulator at the endpoint.
func inside(m *testing.M) (code int, err error) {
	ctx := context.Background()
	// The user's profile, endpoints and certificates are for the real AWS.
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "AWS_") {
			if err := os.Unsetenv(name); err != nil {
				return 0, err
			}
		}
	}
	if socket := os.Getenv(socketVariable); socket != "" {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return 0, err
		}
		defer listener.Close()
		go passOn(listener, socket)
		return m.Run(), nil
	}
	source, err := os.Getwd()
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "localstack-")
	if err != nil {
		return 0, err
	}
	server, err := Start(ctx, source, os.Getenv(pythonVariable), address, dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	if code = m.Run(); code != 0 {
		showLog(filepath.Join(dir, "localstack.log"))
	}
	return code, nil
}

// showLog prints the end of the emulator's log, which goes with the sandbox.
func showLog(path string) {
	const most = 8 << 10
	content, err := os.ReadFile(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	fmt.Fprintf(os.Stderr, "=== the end of LocalStack's log\n%s\n", content[max(0, len(content)-most):])
}
