package main

import "time"

// What a build costs, measured as the package comment tells. Only forecasts and
// the check of free space depend on it.
const (
	// One unit of work is the compiling of one byte of Go source.
	packageUnits   = 20_000 // a package, however small
	linkUnits      = 3_000_000
	unitsPerSecond = 110_000 // of one processor

	coldTime = 15 * time.Minute // of one processor

	moduleBytes = 800e6  // downloaded and unpacked modules
	cacheBytes  = 1600e6 // in Go's build cache
	binaryBytes = 160e6
)
