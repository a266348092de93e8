// Package main provides the Kubernetes that tests and the demo run against:
// etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kubectl, at
// the version this module's go.mod pins. It builds them from their Go modules
// into a cache folder when no earlier run has, or takes a folder of ready ones,
// and prints their folder as the last line of its standard output; all else
// goes to standard error. In this module's folder (--help lists the flags):
//
//	dir=$(go run ./build)
//
// It imports the standard library only, so that "go run" downloads and compiles
// next to nothing when the build is already there (half a second). An
// interrupted build goes on where it stopped, because Go's build cache keeps
// every package that was finished. "go test ./build ./pin" tests it in seconds;
// "go test ./..." would compile Kubernetes as well.
//
// What a build with an empty build cache costs, measured with Go 1.26.8 on 2
// processors that other compilers kept busy at the same time (load 4 to 8), the
// modules already downloaded: 10 minutes (interrupted once, after 22 seconds),
// about 12.5 minutes of processor time, 3.4 GB in Go's build cache, 149 MB for
// the binary. The modules are 175, with 0.1 GB to download and 0.5 GB unpacked.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// options are the command line and its defaults from the environment.
type options struct {
	cache    string
	binaries string
	module   string
	printDir bool
}

func main() {
	// The kernel interrupts the go command when the thread that started it ends;
	// this one lives as long as the program.
	runtime.LockOSThread()
	opts, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		os.Exit(2) // the flag package has said why
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	dir, err := provide(ctx, opts, newReporter(os.Stderr, logWidth(os.Stderr), time.Now()))
	if err != nil {
		fmt.Fprintln(os.Stderr, "kubernetes:", err)
		if ctx.Err() != nil {
			os.Exit(130)
		}
		os.Exit(1)
	}
	fmt.Println(dir)
}

func parse(args []string) (options, error) {
	var opts options
	flags := flag.NewFlagSet("build", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "Provides etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kubectl;\n"+
			"builds them when no earlier run has. The last line of the output is their folder.")
		flags.PrintDefaults()
	}
	flags.StringVar(&opts.cache, "cache", os.Getenv("FAIRWAY_CACHE"),
		"`folder` that keeps finished builds (environment: FAIRWAY_CACHE; else fairway in the user's cache folder)")
	flags.StringVar(&opts.binaries, "binaries", os.Getenv("FAIRWAY_KUBERNETES"),
		"`folder` of ready binaries to use instead of building (environment: FAIRWAY_KUBERNETES)")
	flags.StringVar(&opts.module, "module", ".", "`folder` of the module "+modulePath)
	flags.BoolVar(&opts.printDir, "print-dir", false, "only print where the binaries are or would be; build nothing")
	err := flags.Parse(args)
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
		fmt.Fprintln(flags.Output(), err)
	}
	return opts, err
}

// logWidth is the width of the terminal on which one line can be rewritten, 0
// for anything else.
func logWidth(f *os.File) int {
	if os.Getenv("TERM") == "dumb" || os.Getenv("CI") == "true" {
		return 0
	}
	return terminalWidth(f)
}

// provide returns the folder of the five programs, having built them if need
// be.
func provide(ctx context.Context, opts options, r *reporter) (string, error) {
	s, err := readSource(ctx, opts.module)
	if err != nil {
		return "", err
	}
	if opts.binaries != "" {
		dir, err := filepath.Abs(opts.binaries)
		if err != nil || opts.printDir {
			return dir, err
		}
		return dir, checkBinaries(ctx, dir, sameMinor(s))
	}
	c, err := openCache(opts.cache)
	if err != nil {
		return "", err
	}
	key, err := s.key()
	if err != nil {
		return "", err
	}
	if opts.printDir || c.ready(key) {
		return c.dir(key), nil
	}
	if err := s.checkGoCache(); err != nil {
		return "", err
	}
	lock, err := c.lock(ctx, r.out, time.Second)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if c.ready(key) { // by the run that had the lock
		return c.dir(key), nil
	}
	b := builder{source: s, cache: c, key: key, lock: lock, reporter: r, volumeOf: volumeOf}
	if err := b.build(ctx); err != nil {
		if ctx.Err() != nil {
			return "", fmt.Errorf("stopped (%w); what was compiled stays in Go's build cache %s, and the next run goes on from there",
				err, s.golang.GOCACHE)
		}
		return "", err
	}
	return c.dir(key), nil
}
