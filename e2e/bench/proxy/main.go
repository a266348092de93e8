// Command proxy measures our node proxy beside the real kube-proxy, on the same
// node, with the same API server and objects, in turns: how long until the last
// Service is reachable, what changes of endpoints cost and how soon packets
// follow them, how long a connection takes to be made, and whether a restart
// loses any. It prints medians and the ratio of theirs to ours.
//
// Everything runs in a sandbox that vanishes with it. kube-proxy needs the
// programs nft and, in iptables mode, iptables and iptables-restore.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/fairway-lb/fairway/e2e/environment"
	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// kubeProxyVariable names the kube-proxy that is measured.
const kubeProxyVariable = "FAIRWAY_KUBE_PROXY"

// options are the command line.
type options struct {
	services []int
	rounds   int
	report   string
	logs     string
}

func main() {
	o := options{services: []int{1000, 10000}}
	flag.Func("services", "comma-separated `numbers` of Services (default 1000,10000)", func(text string) (err error) {
		o.services, err = numbers(text)
		return err
	})
	flag.IntVar(&o.rounds, "rounds", 3, "how often each contender is measured with each number of Services")
	flag.StringVar(&o.report, "report", "", "also write the tables to this `file`")
	flag.StringVar(&o.logs, "logs", "", "keep the programs' logs in this `directory`")
	flag.Parse()
	code, err := run(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-proxy:", err)
		code = 1
	}
	os.Exit(code)
}

func numbers(text string) ([]int, error) {
	var all []int
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(part)
		if err != nil || n < 10 || n > 50000 {
			return nil, fmt.Errorf("%q is not a number from 10 to 50000", part)
		}
		all = append(all, n)
	}
	return all, nil
}

// run is executed twice: outside of the sandbox, where it builds what is
// measured, and inside, where it measures.
func run(o options) (int, error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The report lies outside of the sandbox's file system.
	session, err := sandbox.Enter(sandbox.Options{Files: func() ([]*os.File, error) {
		if err := prepare(ctx); err != nil {
			return nil, err
		}
		stop() // from here on signals are for the one inside
		if o.report == "" {
			return nil, nil
		}
		file, err := os.Create(o.report)
		return []*os.File{file}, err
	}})
	if err != nil {
		return 1, err
	}
	if !session.Inside {
		return session.ExitCode, nil
	}
	r := newReport(o.rounds)
	if err := measure(ctx, o, r); err != nil {
		return 1, err
	}
	text := r.String()
	fmt.Print(text)
	for _, file := range session.Files {
		if _, err := file.WriteString(text); err != nil {
			return 1, err
		}
	}
	return 0, nil
}

// prepare builds our programs, Kubernetes and kube-proxy.
func prepare(ctx context.Context) error {
	if err := environment.Prepare(ctx, os.Stderr); err != nil {
		return err
	}
	if os.Getenv(kubeProxyVariable) == "" {
		path := filepath.Join(os.Getenv(environment.ProgramsVariable), "kube-proxy")
		path, err := filepath.Abs(path)
		if err != nil {
			return err
		}
		build := exec.CommandContext(ctx, "go", "build", "-o", path, "./kubeproxy")
		build.Dir = filepath.Join(os.Getenv(environment.SourceVariable), "e2e", "kubernetes")
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("build kube-proxy: %w", err)
		}
		if err := os.Setenv(kubeProxyVariable, path); err != nil {
			return err
		}
	}
	if _, err := exec.LookPath("nft"); err != nil {
		return errors.New("kube-proxy's nftables mode runs the program nft, which is not installed")
	}
	return nil
}

// measure loads each number of Services in turn and lets the contenders alternate.
func measure(ctx context.Context, o options, r *report) error {
	w, err := newWorld(ctx, o.logs)
	if err != nil {
		return err
	}
	defer w.close()
	for _, n := range o.services {
		if err := w.load(ctx, n); err != nil {
			return fmt.Errorf("make %d Services: %w", n, err)
		}
		bare, err := w.bareInformer(ctx)
		if err != nil {
			return err
		}
		r.add(n, "bare informer", figures{ready: bare})
		for round := range o.rounds {
			for _, c := range contenders() {
				fmt.Fprintf(os.Stderr, "%d Services, round %d of %d: %s\n", n, round+1, o.rounds, c.name)
				f, err := w.bout(ctx, c)
				if err != nil {
					return fmt.Errorf("%s with %d Services: %w", c.name, n, err)
				}
				r.add(n, c.name, f)
			}
		}
	}
	return nil
}
