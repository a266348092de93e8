package main

import "time"

// What a build costs, measured as the package comment tells. Only forecasts and
// the check of free space depend on it.
const (
	// One unit of work is the compiling of one byte of Go source.
	packageUnits   = 100_000 // a package, however small
	linkUnits      = 8_000_000
	unitsPerSecond = 430_000 // of one processor

	coldTime     = 15 * time.Minute // of one processor
	longestChain = 2 * time.Minute  // packages that must wait for each other, and the linking

	moduleBytes = 650e6  // downloaded and unpacked modules
	cacheBytes  = 3500e6 // in Go's build cache
	binaryBytes = 150e6
)
