package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// program is a real program that runs in a Pod as a container would, and is
// started again when it ends by itself.
type program struct {
	command   []string
	variables []string
	netns     *sandbox.NetNS
	files     map[string]string // as of sandbox.StartWithFiles
	logFile   string
	logger    *slog.Logger

	cancel context.CancelFunc // ends it at once
	ask    chan struct{}      // closed: it shall end in its own time
	done   chan struct{}      // closed when it has
}

// start returns at once. A program that cannot be started is tried again.
func (p *program) start() {
	var ctx context.Context
	ctx, p.cancel = context.WithCancel(context.Background())
	p.ask, p.done = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(p.done)
		for {
			err := p.once(ctx)
			select {
			case <-p.ask:
				return
			case <-ctx.Done():
				return
			default:
			}
			p.logger.Error("program of a Pod ended by itself", "command", p.command, "err", err)
			pause(ctx, time.Second)
		}
	}()
}

// once runs the program until it ends.
func (p *program) once(ctx context.Context) error {
	log, err := os.OpenFile(p.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, p.command[0], p.command[1:]...)
	cmd.Env = append(os.Environ(), p.variables...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := p.netns.StartWithFiles(cmd, p.files); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-p.ask:
		_ = cmd.Process.Signal(syscall.SIGTERM)
		return <-ended
	}
}

// drain asks the program to end, as a kubelet does as soon as its Pod is deleted.
func (p *program) drain() {
	select {
	case <-p.ask:
	default:
		close(p.ask)
	}
}

// shutdown waits for the program's end until the context ends.
func (p *program) shutdown(ctx context.Context) {
	p.drain()
	select {
	case <-p.done:
	case <-ctx.Done():
	}
}

// close ends the program at once.
func (p *program) close() {
	p.cancel()
	<-p.done
}

// programsOf makes the programs of a Pod, and returns the containers that have
// none.
func (p *pod) programsOf(object *corev1.Pod) (programs []*program, others []corev1.Container) {
	for _, container := range object.Spec.Containers {
		path, found := p.agent.config.Images[container.Image]
		if !found {
			others = append(others, container)
			continue
		}
		r := &program{
			command: append([]string{path}, container.Args...),
			netns:   p.netns.Load(), files: p.files,
			logFile: filepath.Join(p.agent.config.LogDir, fmt.Sprintf("pod-%s_%s_%s.log", p.namespace, p.name, container.Name)),
			logger:  p.agent.config.Logger.With("pod", p.name, "namespace", p.namespace),
		}
		for _, variable := range container.Env {
			r.variables = append(r.variables, variable.Name+"="+variable.Value)
		}
		programs = append(programs, r)
	}
	return programs, others
}
