package controller

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"runtime"
	"runtime/metrics"
	"slices"
	"time"

	"github.com/fairway-lb/fairway/providers/fake"
)

// size is how much there is to do.
type size struct{ services, nodes int }

func (s size) String() string { return fmt.Sprintf("%d × %d", s.services, s.nodes) }

// phase is what one part of a run cost.
type phase struct {
	cloud fake.Counts
	// writes to the API server by "verb resource"
	api map[string]int
}

func (p phase) apiWrites() int {
	n := 0
	for _, times := range p.api {
		n += times
	}
	return n
}

// operations returns how often each operation succeeded, and what could not be
// done at once: calls that were throttled, or came before the cloud was ready.
func (p phase) operations() (done map[string]int, refused int) {
	done = map[string]int{}
	for _, c := range p.cloud {
		done[c.Operation] += c.Calls - c.Errors
		refused += c.Errors
	}
	return done, refused
}

// figures are what one run has shown.
type figures struct {
	size
	// ready are the times from the creation of all Services to the readiness of
	// each, sorted.
	ready []time.Duration
	// create is until all Services are ready, rest the two hours after, join the
	// arrival of fifty nodes, restart the first half hour of another process.
	create, rest, join, restart phase
	// joined is how many targets were registered by the arrival of the nodes.
	joined int
	// peak is the greatest live heap of the whole process while Services were made,
	// the cloud and the API server included; own is by how much a controller that has
	// worked on each Service makes it larger, its clients and caches included.
	peak, own uint64
}

// quantile returns the time that the part q of them does not exceed.
func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[int(math.Ceil(q*float64(len(sorted))))-1]
}

// growth is the exponent by which a figure grows with n: 1 is linear, 0 constant.
func growth(n1, n2 int, f1, f2 float64) float64 {
	if f1 <= 0 || f2 <= 0 {
		return 0
	}
	return math.Log(f2/f1) / math.Log(float64(n2)/float64(n1))
}

// liveHeap is what the last collection left.
func liveHeap() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// above returns by how much now is larger.
func above(before, now uint64) uint64 { return max(before, now) - before }

// collected is the live heap after a collection now.
func collected() uint64 {
	runtime.GC()
	runtime.GC() // what finalizers have let go
	return liveHeap()
}

func sortedByName(counts map[string]int) []string {
	return slices.SortedFunc(maps.Keys(counts), cmp.Compare)
}
