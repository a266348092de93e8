package main

import (
	"fmt"
	"slices"
	"time"
)

// figures are what came of one bout, by the names of the rows below. What is
// missing was not measured, or failed.
type figures map[string]float64

// The rows of the tables, in their order. Times are in seconds, memory in bytes.
const (
	figReady     = "start to last Service reachable"
	figBeyond    = "… beyond a bare informer's sync"
	figReadyCPU  = "processor time until then"
	figMemory    = "peak memory"
	figMemoryAll = "peak memory, programs it runs included"
	figRate      = "endpoint changes made, per second"
	figChangeCPU = "processor time for 2,000 endpoint changes"
	figFollow50  = "endpoint change to packets there, beyond a bare watch, p50"
	figFollow99  = "endpoint change to packets there, beyond a bare watch, p99"
	figUDP50     = "endpoint change to packets of an established UDP flow there, p50"
	figUDP99     = "endpoint change to packets of an established UDP flow there, p99"
	figUDPMax    = "endpoint change to packets of an established UDP flow there, longest"
)

// The rows about what comes after a contender: itself again, itself with another
// layout of the table, as a new version may have, or ours in its place.
const (
	restart  = "restart"
	upgrade  = "upgrade"
	takeover = "takeover"
)

func figLost(kind string) string  { return "connections lost in " + article(kind) }
func figTried(kind string) string { return "connections tried in " + article(kind) }

func article(kind string) string {
	switch kind {
	case upgrade:
		return "an " + kind
	case takeover:
		return "a " + kind + " by fairway"
	default:
		return "a " + kind
	}
}

// The rows about connections, for each way to come in.
const (
	clusterIP = "ClusterIP"
	nodePort  = "NodePort"
)

func figConnect50(way string) string { return way + ", connect(), p50" }
func figConnect99(way string) string { return way + ", connect(), p99" }
func figDistance(way string) string  { return way + ", connect(), p50, beyond no netfilter" }
func figBeside(way string) string    { return "past it, as " + way + ", connect(), p50" }
func figPerSecond(way string) string { return way + ", connections per second at saturation" }
func figRefused(way string) string   { return way + ", connections failed at saturation" }

// row is how a figure is shown.
type row struct {
	name string
	show func(float64) string
}

func millis(v float64) string { return fmt.Sprintf("%.1f ms", v*1000) }
func micros(v float64) string { return fmt.Sprintf("%.1f µs", v*1e6) }
func mebi(v float64) string   { return fmt.Sprintf("%.0f MiB", v/(1<<20)) }
func count(v float64) string  { return fmt.Sprintf("%.0f", v) }

func seconds(v float64) string {
	if v < 0.1 && v > -0.1 {
		return fmt.Sprintf("%.0f ms", v*1000)
	}
	return fmt.Sprintf("%.2f s", v)
}

func rows() []row {
	all := []row{
		{figReady, seconds}, {figBeyond, seconds}, {figReadyCPU, seconds},
		{figMemory, mebi}, {figMemoryAll, mebi},
		{figChangeCPU, seconds}, {figRate, count},
		{figFollow50, millis}, {figFollow99, millis},
		{figUDP50, millis}, {figUDP99, millis}, {figUDPMax, millis},
	}
	for _, way := range []string{clusterIP, nodePort} {
		all = append(all, row{figConnect50(way), micros}, row{figConnect99(way), micros}, row{figDistance(way), micros},
			row{figBeside(way), micros}, row{figPerSecond(way), count}, row{figRefused(way), count})
	}
	for _, kind := range []string{restart, upgrade, takeover} {
		all = append(all, row{figLost(kind), count}, row{figTried(kind), count})
	}
	return all
}

// quantile returns the q-th quantile, 0 of nothing.
func quantile(times []time.Duration, q float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(times))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// median returns the middle, between the two middle ones of an even number; 0 of
// nothing.
func median(values []float64) float64 {
	n := len(values)
	if n == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
