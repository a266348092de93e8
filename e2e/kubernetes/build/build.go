package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// builder makes one build and puts it into the cache.
type builder struct {
	source   source
	cache    cache
	key      string
	lock     *os.File // the cache's, held as long as anything that was started here lives
	reporter *reporter
	volumeOf func(dir string) (volume, error)
}

// build does all of it: what it takes is said first, and nothing but Go's
// caches keeps a trace of a build that fails.
func (b builder) build(ctx context.Context) (err error) {
	if err := b.cache.cleanWork(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.cache.cleanWork()) }()
	if err := os.MkdirAll(b.cache.work(), 0o755); err != nil {
		return fmt.Errorf("make the work folder: %w", err)
	}
	b.announce()
	if !b.source.modulesPresent() {
		if err := checkSpace(b.needs(moduleBytes, 1), b.volumeOf); err != nil {
			return err
		}
	}
	units, share, err := b.plan(ctx)
	if err != nil {
		return err
	}
	if err := checkSpace(b.needs(0, share), b.volumeOf); err != nil {
		return err
	}
	binary, err := b.compile(ctx, units)
	if err != nil {
		return err
	}
	return b.install(ctx, binary)
}

// announce says what a whole build takes.
func (b builder) announce() {
	processors := b.source.processors()
	b.reporter.say("Kubernetes %s (%s) is built from its Go modules, once; the result stays in %s.",
		b.source.version, strings.Join(programs, ", "), b.cache.root)
	b.reporter.say("From nothing this takes %s of disk (%s of modules, %s in Go's build cache, %s for the result) and, with %d processors, about %s.",
		size(moduleBytes+cacheBytes+2*binaryBytes), size(moduleBytes), size(cacheBytes), size(2*binaryBytes),
		processors, roughly(max(longestChain, coldTime/time.Duration(processors))))
}

// plan finds what is still to compile, as units per package and as a share of
// everything.
func (b builder) plan(ctx context.Context) (units map[string]int64, share float64, err error) {
	list, err := b.list(ctx)
	if err != nil {
		return nil, 0, err
	}
	units, total, err := unitsToCompile(list)
	if err != nil {
		return nil, 0, err
	}
	p := newProgress(units, b.source.processors(), time.Now())
	b.reporter.say("%d of %d packages to compile (Go's build cache holds the others): about %s.",
		len(units), len(list), roughly(p.left(p.began)))
	return units, float64(p.total) / float64(total+linkUnits), nil
}

// needs lists the disk space of a build when modules bytes are still to be
// downloaded and the given share of it is still to be compiled.
func (b builder) needs(modules int64, share float64) []need {
	return []need{
		{"Go modules", b.source.golang.GOMODCACHE, modules},
		{"Go's build cache", b.source.golang.GOCACHE, int64(cacheBytes * share)},
		{"the result", b.cache.root, 2 * binaryBytes}, // linked in a temporary folder, then copied
	}
}

// install checks that the binary is what it should be, and only then lets
// others see it.
func (b builder) install(ctx context.Context, binary string) error {
	dir := filepath.Join(b.cache.work(), b.key)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("put the build together: %w", err)
	}
	if err := os.Rename(binary, filepath.Join(dir, binaryName)); err != nil {
		return fmt.Errorf("put the build together: %w", err)
	}
	if err := link(dir); err != nil {
		return err
	}
	if err := checkBinaries(ctx, dir, exactly(b.source)); err != nil {
		return err
	}
	return b.cache.install(dir, b.key)
}
