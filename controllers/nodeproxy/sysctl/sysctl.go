// Package sysctl knows the kernel settings that the node proxy needs. Setting
// them takes a writable /proc/sys, which only a privileged container has; the
// long-running program compares them and says what differs.
package sysctl

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/config"
)

// Files behind the settings, below the root of the file system.
const (
	conntrackDir = "proc/sys/net/netfilter/nf_conntrack_"
	hashSize     = "sys/module/nf_conntrack/parameters/hashsize"
	onlineCPUs   = "sys/devices/system/cpu/online"
)

// maxConnections caps what MaxPerCore asks for, as kube-proxy does: a machine
// with many CPUs would give gigabytes to the table.
const maxConnections = 1 << 20

// Setting is one number the kernel should have.
type Setting struct {
	// Name is what people know it as: "net.netfilter.nf_conntrack_max".
	Name string
	// Want is the value, or the least where AtLeast.
	Want    int
	AtLeast bool
	// Why says what goes wrong otherwise.
	Why  string
	file string
}

// Difference is a setting that is not as it should be.
type Difference struct {
	Setting
	// Got is what the kernel has; Err why that cannot be read, if it cannot.
	Got int
	Err error
}

// String says what differs, for people.
func (d Difference) String() string {
	want := fmt.Sprintf("%d", d.Want)
	if d.AtLeast {
		want = "at least " + want
	}
	if d.Err != nil {
		return fmt.Sprintf("%s cannot be read (%v), it should be %s: %s", d.Name, d.Err, want, d.Why)
	}
	return fmt.Sprintf("%s is %d, it should be %s: %s", d.Name, d.Got, want, d.Why)
}

// Kernel is where settings are read and written.
type Kernel struct {
	root string
}

// Running is the kernel this program runs on, and of what belongs to a network
// namespace, that of the calling thread.
func Running() Kernel { return Kernel{"/"} }

// Wanted returns the settings that a configuration asks for. route_localnet,
// which kube-proxy sets in its iptables mode, is none of them: it lets neighbours
// on the network reach what listens on loopback, and NodePorts there do without.
func (k Kernel) Wanted(c config.Config) []Setting {
	var out []Setting
	conntrack := func(name string, want int, atLeast bool, why string) {
		out = append(out, Setting{"net.netfilter.nf_conntrack_" + name, want, atLeast, why, conntrackDir + name})
	}
	if c.Conntrack.MaxPerCore > 0 {
		most := min(int(c.Conntrack.MaxPerCore)*k.cpus(), maxConnections)
		if most < maxConnections {
			most = max(most, int(c.Conntrack.Min))
		}
		conntrack("max", most, true, "more connections than that are dropped")
		out = append(out, Setting{"the parameter hashsize of the module nf_conntrack", most / 4, true, "finding a connection takes long in a full table", hashSize})
	}
	for _, t := range []struct {
		name string
		d    time.Duration
		why  string
	}{
		{"tcp_timeout_established", c.Conntrack.TCPEstablishedTimeout.Duration, "idle connections are forgotten earlier or later than configured"},
		{"tcp_timeout_close_wait", c.Conntrack.TCPCloseWaitTimeout.Duration, "half-closed connections are forgotten before their program closes them"},
		{"udp_timeout", c.Conntrack.UDPTimeout.Duration, "unanswered UDP flows are forgotten earlier or later than configured"},
		{"udp_timeout_stream", c.Conntrack.UDPStreamTimeout.Duration, "UDP flows are forgotten earlier or later than configured"},
	} {
		if t.d > 0 {
			conntrack(t.name, int(t.d/time.Second), false, t.why)
		}
	}
	if c.Conntrack.TCPBeLiberal {
		conntrack("tcp_be_liberal", 1, false, "packets out of the expected window pass untranslated and reset their connection")
	}
	return out
}

// cpus counts the node's CPUs: those that this program may use can be fewer.
func (k Kernel) cpus() int {
	data, err := os.ReadFile(filepath.Join(k.root, onlineCPUs))
	if err != nil {
		return runtime.NumCPU()
	}
	n := 0
	for part := range strings.SplitSeq(strings.TrimSpace(string(data)), ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err1 := strconv.Atoi(first)
		to, err2 := strconv.Atoi(last)
		if err1 != nil || err2 != nil || to < from {
			return runtime.NumCPU()
		}
		n += to - from + 1
	}
	return n
}

// Compare returns the settings that are not as wanted.
func (k Kernel) Compare(wanted []Setting) []Difference {
	var out []Difference
	for _, s := range wanted {
		got, err := k.read(s)
		if err != nil || !s.met(got) {
			out = append(out, Difference{s, got, err})
		}
	}
	return out
}

func (s Setting) met(got int) bool { return got == s.Want || s.AtLeast && got > s.Want }

// Set makes the kernel as wanted and returns what it changed. It goes on after
// an error.
func (k Kernel) Set(wanted []Setting) (changed []Difference, err error) {
	var errs []error
	for _, d := range k.Compare(wanted) {
		if d.Err == nil {
			d.Err = os.WriteFile(filepath.Join(k.root, d.file), []byte(strconv.Itoa(d.Want)), 0o644)
		}
		if d.Err != nil {
			errs = append(errs, fmt.Errorf("setting %s to %d: %w", d.Name, d.Want, d.Err))
			continue
		}
		changed = append(changed, d)
	}
	return changed, errors.Join(errs...)
}

func (k Kernel) read(s Setting) (int, error) {
	data, err := os.ReadFile(filepath.Join(k.root, s.file))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}
