// Package localstack installs and runs LocalStack 4.14.0, the last release that
// needs no token, without a container engine and with its load balancer backend
// switched on. It is an AWS that others wrote: what our fake and our provider
// take for granted together, it may not.
package localstack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// startTimeout is how long LocalStack has to come up; it takes 5 to 20 seconds.
const startTimeout = 2 * time.Minute

// DefaultDir is where the version that a lock file describes is kept: in the
// folder that FAIRWAY_CACHE names, else in the user's cache folder. Source is
// this package's directory.
func DefaultDir(source string) (string, error) {
	lock, err := os.ReadFile(lockFile(source))
	if err != nil {
		return "", err
	}
	root := os.Getenv("FAIRWAY_CACHE")
	if root == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("find the cache folder (FAIRWAY_CACHE names one): %w", err)
		}
		root = filepath.Join(user, "fairway")
	}
	digest := sha256.Sum256(lock)
	return filepath.Abs(filepath.Join(root, "localstack-"+hex.EncodeToString(digest[:6])))
}

func lockFile(source string) string { return filepath.Join(source, "requirements.lock") }

// Install puts LocalStack into a virtual environment at dir, unless it is there
// already, from the lock file in source, and returns the environment's python.
// It needs python3 with venv and pip, and the Python package index. An
// interrupted installation is begun anew; of two at once, one waits. What it
// does goes to progress.
func Install(ctx context.Context, source, dir string, progress io.Writer) (python string, err error) {
	wanted, err := os.ReadFile(lockFile(source))
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	turn, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer turn.Close() // and so unlock it
	if err := unix.Flock(int(turn.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("install localstack: lock %s: %w", turn.Name(), err)
	}
	python = filepath.Join(dir, "bin", "python")
	// The lock's copy is written last: an interrupted installation has none.
	stamp := lockFile(dir)
	if have, err := os.ReadFile(stamp); err == nil && string(have) == string(wanted) {
		return python, nil
	}
	fmt.Fprintf(progress, "localstack: installing version 4.14.0 into %s: about 2 minutes, 500 MB\n", dir)
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	for _, step := range [][]string{
		{"python3", "-m", "venv", "--without-pip", dir},
		{"python3", "-m", "pip", "--python", python, "install", "--quiet", "--no-input", "--disable-pip-version-check",
			"--require-hashes", "--requirement", lockFile(source)},
	} {
		cmd := exec.CommandContext(ctx, step[0], step[1:]...)
		cmd.Stdout, cmd.Stderr = progress, progress
		if err := cmd.Run(); err != nil {
			return "", fmt.Errorf("install localstack (needs python3 with venv and pip): %s: %w", strings.Join(step, " "), err)
		}
	}
	return python, os.WriteFile(stamp, wanted, 0o644)
}

// Server is a running LocalStack.
type Server struct {
	// Endpoint is its URL, for AWS_ENDPOINT_URL.
	Endpoint string

	process *exec.Cmd
	exited  chan error
}

// Start runs LocalStack on a loopback address ("127.0.0.1:4566") with its state
// below dir, and returns when it answers. Stop must be called; should this
// process die before that, LocalStack is killed.
func Start(ctx context.Context, source, python, address, dir string) (*Server, error) {
	log, err := os.Create(filepath.Join(dir, "localstack.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(python, "-m", "localstack.runtime.main")
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.Env = append(os.Environ(),
		"HOME="+dir, "LOCALSTACK_VOLUME_DIR="+filepath.Join(dir, "volume"), "PYTHONPATH="+filepath.Join(source, "plugin"),
		"PYTHONDONTWRITEBYTECODE=1", "GATEWAY_LISTEN="+address,
		// It shall neither report to its makers nor fetch anything.
		"DISABLE_EVENTS=1", "SKIP_SSL_CERT_DOWNLOAD=1", "DNS_ADDRESS=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	s := &Server{Endpoint: "http://" + address, process: cmd, exited: make(chan error, 1)}
	started := make(chan error)
	go func() {
		// The parent death signal follows the thread that started the child.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			s.exited <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start localstack: %w", err)
	}
	if err := s.await(ctx); err != nil {
		text, _ := os.ReadFile(log.Name())
		return nil, errors.Join(fmt.Errorf("start localstack: %w; the end of its log:\n%s", err, text[max(0, len(text)-4096):]), s.Stop())
	}
	return s, nil
}

func (s *Server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		select {
		case err := <-s.exited:
			s.exited <- err
			if err == nil {
				return errors.New("it ended")
			}
			return fmt.Errorf("it ended: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Endpoint+"/_localstack/health", nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			continue
		}
		response.Body.Close()
		if response.StatusCode == http.StatusOK {
			return nil
		}
	}
}

// Stop ends it.
func (s *Server) Stop() error {
	if err := s.process.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop localstack: %w", err)
	}
	err := <-s.exited
	if _, killed := errors.AsType[*exec.ExitError](err); killed {
		return nil
	}
	return err
}
