// Command proxy measures our node proxy beside the real kube-proxy, on the same
// node, with the same API server and objects, in turns: how long until the last
// Service is reachable, what changes of endpoints cost and how soon packets
// follow them, what a new connection costs, and whether a restart loses any.
// Baselines take turns with them: no proxy at all, a bare informer, and a loader
// that has everything in memory. It writes medians, the ratios of theirs to
// ours, and what of that was to be reached.
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
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/fairway-lb/fairway/e2e/environment"
	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// kubeProxyVariable names the kube-proxy that is measured.
const kubeProxyVariable = "FAIRWAY_KUBE_PROXY"

// options are the command line.
type options struct {
	services []int
	rounds   int
	variants int
	slow     time.Duration
	budget   time.Duration
	report   string
	logs     string
	only     *regexp.Regexp
}

func main() {
	if err := role(os.Args[1:]); err == nil {
		return
	} else if !errors.Is(err, errNoRole) {
		fmt.Fprintln(os.Stderr, "bench-proxy:", err)
		os.Exit(1)
	}
	o := options{services: []int{1000, 10000}, only: regexp.MustCompile("")}
	flag.Func("services", "comma-separated `numbers` of Services (default 1000,10000)", func(text string) (err error) {
		o.services, err = numbers(text)
		return err
	})
	flag.IntVar(&o.rounds, "rounds", 3, "how often each contender is measured with each number of Services")
	flag.IntVar(&o.variants, "variant-rounds", 1, "how often kube-proxy is in other configurations than nftables with its default period")
	flag.DurationVar(&o.slow, "slow", 2*time.Minute, "do not measure again, with a number of Services, who took longer than this")
	flag.Func("only", "measure only the contenders whose names match this `pattern`", func(text string) (err error) {
		o.only, err = regexp.Compile(text)
		return err
	})
	flag.DurationVar(&o.budget, "budget", 40*time.Minute, "leave those other configurations out when this much time has passed")
	flag.StringVar(&o.report, "report", "", "write the tables to this `file`, and the plot beside it with the ending .svg")
	flag.StringVar(&o.logs, "logs", "", "keep the control plane's logs in this `directory`")
	flag.Parse()
	code, err := run(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-proxy:", err)
		code = 1
	}
	os.Exit(code)
}

// errNoRole says that this is the program itself.
var errNoRole = errors.New("no role")

// role runs what the program starts of itself.
func role(args []string) error {
	switch {
	case len(args) == 1 && args[0] == clientsRole:
		return runClients(os.Stdin, os.Stdout)
	case len(args) == 2 && args[0] == informerRole:
		return runInformer(context.Background(), args[1], os.Stdout)
	default:
		return errNoRole
	}
}

// numbers are in growing order, as Services are only added.
func numbers(text string) ([]int, error) {
	var all []int
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(part)
		if err != nil || n < 100 || n > most || n%20 != 0 {
			return nil, fmt.Errorf("%q is not a multiple of 20 from 100 to %d", part, most)
		}
		all = append(all, n)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
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
		return openReport(o.report)
	}})
	if err != nil {
		return 1, err
	}
	if !session.Inside {
		return session.ExitCode, nil
	}
	return 0, measure(ctx, o, session.Files)
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
