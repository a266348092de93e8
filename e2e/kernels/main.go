// Command kernels runs the node proxy's kernel tests under kernels older than
// this machine's: Debian's 5.10, 6.1 and 6.12, each booted in QEMU for each test
// package. It prints a table of kernels, packages and results and ends with an
// error if a test failed or anything needed is missing; nothing is skipped.
//
// It needs a Linux machine with apt-get, dpkg-deb and Debian's archive keyring,
// and a Debian mirror for the first run. Root it does not need, and it installs
// nothing on the machine: emulator, kernels and tools are unpacked into a folder
// of Fairway's cache.
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
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// options are what the command line says.
type options struct {
	kernels string // "5.10,6.1"; empty is all
	run     string // as of go test
	table   string // a Markdown file whose table is replaced
	renew   bool
	verbose bool
}

func main() {
	var o options
	flag.StringVar(&o.kernels, "kernels", "", "only these `series`, \"5.10,6.1\" for instance")
	flag.StringVar(&o.run, "run", "", "only tests that match this `pattern`, as of go test")
	flag.StringVar(&o.table, "table", "", "replace the table in this Markdown `file`")
	flag.BoolVar(&o.renew, "renew", false, "download the newest packages again")
	flag.BoolVar(&o.verbose, "v", false, "print what the tests print, also when they pass")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := test(ctx, o, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "FAIL:", err)
		os.Exit(1)
	}
}

// test does it all. Patterns name packages, as of go list; those of them that
// test in a sandbox are taken.
func test(ctx context.Context, o options, patterns []string) (err error) {
	if len(patterns) == 0 {
		return errors.New("name the packages to test, ./controllers/nodeproxy/... for instance")
	}
	if o.table != "" && (o.run != "" || o.kernels != "") {
		return errors.New("the table is of all kernels and tests: leave out -kernels and -run")
	}
	wanted, err := choose(o.kernels)
	if err != nil {
		return err
	}
	packages, err := kernelTests(ctx, patterns)
	if err != nil {
		return err
	}
	kit, err := install(ctx, wanted, o.renew, os.Stderr)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "fairway-kernels-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for i := range packages {
		fmt.Fprintf(os.Stderr, "kernels: compiling the tests of %s\n", packages[i].name)
		if err := packages[i].compile(ctx, dir); err != nil {
			return err
		}
	}
	results, err := runAll(ctx, kit, wanted, packages, o, dir)
	if err != nil {
		return err
	}
	text := table(results)
	fmt.Print("\n", text)
	if o.table != "" {
		if err := replaceTable(o.table, text, commit(ctx)); err != nil {
			return err
		}
	}
	if slices.ContainsFunc(results, func(r result) bool { return r.err != nil }) {
		return errors.New("not everything passed; see above")
	}
	return nil
}

// choose returns the series that a comma-separated list names, all for none.
func choose(list string) ([]series, error) {
	if list == "" {
		return all, nil
	}
	var chosen []series
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(all, func(s series) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no kernel %q; there are %v", name, all)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// runAll runs each package's tests under each kernel, two guests at once for each
// processor: they mostly wait, for packets that must not come. The error says that
// they were not run to the end; how they went is in the results.
func runAll(ctx context.Context, kit *kit, wanted []series, packages []testPackage, o options, dir string) ([]result, error) {
	var results []result
	for _, p := range packages {
		for _, s := range wanted {
			k, err := kit.kernel(s)
			if err != nil {
				return nil, err
			}
			results = append(results, result{kernel: k, test: p})
		}
	}
	var guests errgroup.Group
	guests.SetLimit(2 * runtime.NumCPU())
	for i := range results {
		guests.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			own := filepath.Join(dir, fmt.Sprint(i))
			if err := os.Mkdir(own, 0o755); err != nil {
				return err
			}
			r := &results[i]
			r.run(ctx, kit, o, own)
			fmt.Fprintf(os.Stderr, "kernels: %s\n", r)
			return errors.Join(ctx.Err(), os.RemoveAll(own))
		})
	}
	return results, guests.Wait()
}

// run boots the kernel with the package's tests, in a folder of its own, and
// prints what they printed if that is of interest.
func (r *result) run(ctx context.Context, kit *kit, o options, dir string) {
	arguments := []string{"-test.v=test2json", "-test.timeout=" + (patience - time.Minute).String()}
	if o.run != "" {
		arguments = append(arguments, "-test.run="+o.run)
	}
	image := filepath.Join(dir, "initramfs")
	if r.err = kit.writeImage(ctx, image, r.kernel, r.test, arguments); r.err != nil {
		return
	}
	start := time.Now()
	var console strings.Builder
	var status string
	status, r.err = kit.boot(ctx, r.kernel, image, dir, &console)
	r.took = time.Since(start)
	r.count(console.String())
	if r.err == nil {
		r.err = r.judge(status)
	}
	if r.err != nil || o.verbose {
		fmt.Fprintf(os.Stderr, "=== what %s printed under %s\n%s\n", r.test.name, r.kernel.release, strings.ReplaceAll(console.String(), "\x16", ""))
	}
}

// commit names what is tested, as well as it can be named.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "rev-parse", "--short=12", "HEAD").Output()
	if err != nil {
		return "an unknown commit"
	}
	name := strings.TrimSpace(string(out))
	changed, err := exec.CommandContext(ctx, "git", "status", "--porcelain", "--untracked-files=no").Output()
	if err != nil || len(changed) > 0 {
		name += " with uncommitted changes"
	}
	return name
}
