// Command demo shows Fairway at work on one machine: a Kubernetes cluster of
// three nodes, a fake AWS that carries packets, and the seed's Services. It
// needs no account and no container engine, and leaves nothing behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/fairway-lb/fairway/e2e/environment"
	"github.com/fairway-lb/fairway/e2e/sandbox"
)

func main() {
	hold := flag.Bool("hold", false, "stay up at the end and tell how to look around with kubectl")
	dryRun := flag.Bool("dry-run", false, "let the controller plan and change nothing")
	logs := flag.String("logs", "", "keep the programs' logs in this directory; default: they go with the demo")
	flag.Parse()
	code, err := run(*hold, *dryRun, *logs)
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		code = 1
	}
	os.Exit(code)
}

// run is executed twice: outside of the sandbox, where it builds what is needed
// and waits, and inside, where it tells the story.
func run(hold, dryRun bool, logs string) (int, error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	session, err := sandbox.Enter(sandbox.Options{Files: func() ([]*os.File, error) {
		if err := environment.Prepare(ctx, os.Stderr); err != nil {
			return nil, err
		}
		stop() // from here on signals are for the one inside
		return doors(hold)
	}})
	if err != nil {
		return 1, err
	}
	if !session.Inside {
		return session.ExitCode, nil
	}
	story := newStory(os.Stdout, logs, dryRun)
	err = story.tell(ctx)
	if err == nil && hold && !dryRun {
		err = story.hold(ctx, session.Files)
	}
	if err != nil && ctx.Err() != nil {
		fmt.Fprintln(os.Stderr, "\ninterrupted; everything is being removed")
		err = nil
	}
	return 0, errors.Join(err, story.close())
}

// doors opens two ports on the machine's own loopback address when the demo
// shall stay up: the only ways into the sandbox.
func doors(hold bool) ([]*os.File, error) {
	if !hold {
		return nil, nil
	}
	var files []*os.File
	for range 2 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		file, err := listener.(*net.TCPListener).File()
		listener.Close()
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	return files, nil
}
