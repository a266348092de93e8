// Package datapath makes the load balancers of a fake cloud carry packets, on
// Linux, in the network namespace that plays the cloud's network: every host is
// connected to it, so that it is their router, and it is where the addresses of
// load balancers live. It is a fake.Carrier: for each fake.Dataplane it is given it
// puts the addresses on the loopback device and replaces one nftables table,
// which gives each new connection to a load balancer a target (connection
// tracking keeps it there), and filters by security groups what reaches load
// balancers and instances. It makes the health checks from the load balancers'
// own addresses and reports their verdicts to the account, which answers with the
// next Dataplane. Where targets are told of the client by the proxy protocol, the
// connection ends in the data path, which makes another one to the target from the
// load balancer's address. IPv4 only.
//
// A client that is itself the target it is sent to, with its address preserved,
// gets its own packet back from outside with its own source address, and drops
// it: the connection times out, as it does in AWS
// (https://docs.aws.amazon.com/elasticloadbalancing/latest/network/load-balancer-troubleshooting.html).
package datapath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairway-lb/fairway/providers/fake"
)

// Datapath carries the load balancers of one account in one network namespace.
// Its methods may be called concurrently.
type Datapath struct {
	log       *slog.Logger
	table     *table // used by the worker only, as marks is
	routes    *netlink.Handle
	conntrack *netlink.Handle
	checker   *checker
	relays    *relays
	marks     marks

	mu      sync.Mutex
	wanted  *fake.Dataplane
	reached uint64        // generation last carried
	waiting chan struct{} // closed when reached rises
	// Replaced, never changed:
	carried      map[frontendKey]frontend
	outOfService []netip.Addr

	wake   chan struct{}
	cancel context.CancelFunc
	done   chan struct{}
}

// New makes a data path in the network namespace of the calling thread, with
// nothing in it yet, and takes over what an earlier one left there. Verdicts of
// health checks go to report, from goroutines of the data path; log may be nil.
// It needs CAP_NET_ADMIN in that namespace and net.ipv4.ip_forward on there; an
// error says which is missing. The health checks are made from the process's
// main network namespace: it must be the same one.
func New(report fake.HealthReporter, log *slog.Logger) (*Datapath, error) {
	if err := forwards(); err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	table, err := newTable()
	if err != nil {
		return nil, err
	}
	d := &Datapath{
		log: log, table: table, checker: newChecker(report), relays: newRelays(log), marks: marks{},
		waiting: make(chan struct{}), wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	if err := d.open(); err != nil {
		d.release()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	go d.work(ctx)
	return d, nil
}

// open opens the remaining sockets and clears what a crash left behind.
func (d *Datapath) open() (err error) {
	// Naming the families matters: not every kernel has all that the library
	// would open.
	if d.routes, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("opening netlink for addresses: %w", err)
	}
	if d.conntrack, err = netlink.NewHandle(unix.NETLINK_NETFILTER); err != nil {
		return fmt.Errorf("opening netlink for connection tracking: %w", err)
	}
	return errors.Join(d.table.remove(), setAddresses(d.routes, nil))
}

func (d *Datapath) release() {
	if d.routes != nil {
		d.routes.Close()
	}
	if d.conntrack != nil {
		d.conntrack.Close()
	}
}

// forwards checks that the kernel routes between the hosts at all.
func forwards() error {
	const path = "/proc/sys/net/ipv4/ip_forward"
	value, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading whether packets are forwarded: %w", err)
	}
	if strings.TrimSpace(string(value)) == "0" {
		return errors.New("net.ipv4.ip_forward is 0 in this network namespace, so load balancers cannot forward: set it to 1")
	}
	return nil
}

// Carry makes dp what is carried, soon: it does not block. A generation that is
// not newer than one given before is ignored. What cannot be carried is logged,
// with what was carried before left in place, and tried again.
func (d *Datapath) Carry(dp fake.Dataplane) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.wanted != nil && dp.Generation <= d.wanted.Generation {
		return
	}
	d.wanted = &dp
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Wait waits until a generation, or a newer one, is carried.
func (d *Datapath) Wait(ctx context.Context, generation uint64) error {
	for {
		d.mu.Lock()
		reached, waiting := d.reached, d.waiting
		d.mu.Unlock()
		if reached >= generation {
			return nil
		}
		select {
		case <-waiting:
		case <-d.done:
			return errors.New("waiting for the data path: it is closed")
		case <-ctx.Done():
			return fmt.Errorf("waiting for generation %d in the data path, which carries %d: %w", generation, reached, ctx.Err())
		}
	}
}

// InService returns those of a load balancer's addresses that its DNS name is to
// answer with: a zone without a healthy target for some listener is left out,
// unless that leaves none.
func (d *Datapath) InService(addrs []netip.Addr) []netip.Addr {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool {
		return slices.Contains(d.outOfService, a)
	})
}

// Close stops the health checks and removes the table and the addresses.
// Connections through the load balancers end. No method may be called after it.
func (d *Datapath) Close() error {
	d.cancel()
	<-d.done
	d.checker.stop()
	d.relays.stop()
	_, cutErr := d.cut(nil)
	err := errors.Join(d.table.remove(), setAddresses(d.routes, nil), cutErr)
	d.release()
	if err != nil {
		return fmt.Errorf("closing the data path: %w", err)
	}
	return nil
}

// The pause after a failed attempt to carry something, doubled each time.
const firstRetry, lastRetry = time.Second, 30 * time.Second

// work carries what is wanted, until ctx ends. It is the only one that changes
// the kernel's state.
func (d *Datapath) work(ctx context.Context) {
	defer close(d.done)
	pause := firstRetry
	for {
		var retry <-chan time.Time
		d.mu.Lock()
		wanted, reached := d.wanted, d.reached
		d.mu.Unlock()
		if wanted != nil && (d.carried == nil || wanted.Generation > reached) {
			if err := d.carry(ctx, *wanted); err != nil {
				d.log.Error("data path not changed", "generation", wanted.Generation, "err", err, "retryIn", pause)
				retry = time.After(pause)
				pause = min(2*pause, lastRetry)
			} else {
				pause = firstRetry
			}
		}
		select {
		case <-d.wake:
		case <-retry:
		case <-ctx.Done():
			return
		}
	}
}

// carry makes the kernel and the health checks agree with dp. The table comes
// before the addresses, so that the namespace's own services are never reached
// at an address of a load balancer.
func (d *Datapath) carry(ctx context.Context, dp fake.Dataplane) error {
	rules, err := compile(dp, d.marks)
	if err != nil {
		return err
	}
	if err := d.table.replace(rules); err != nil {
		return err
	}
	if err := setAddresses(d.routes, rules.addresses); err != nil {
		return err
	}
	frontends := map[frontendKey]frontend{}
	for _, f := range rules.frontends {
		frontends[f.frontendKey] = f
	}
	cut, err := d.cut(frontends)
	if err != nil {
		return err
	}
	if err := d.relays.set(frontends); err != nil {
		return err
	}
	d.checker.set(ctx, rules.probes)
	d.log.Debug("data path changed", "generation", dp.Generation, "loadBalancers", len(dp.LoadBalancers),
		"frontends", len(frontends), "filters", len(rules.filters), "healthChecks", len(rules.probes), "connectionsEnded", cut)

	d.mu.Lock()
	defer d.mu.Unlock()
	d.carried, d.outOfService, d.reached = frontends, rules.outOfService, dp.Generation
	close(d.waiting)
	d.waiting = make(chan struct{})
	return nil
}

// cut ends the connections that have no place under the frontends now.
func (d *Datapath) cut(now map[frontendKey]frontend) (uint, error) {
	d.mu.Lock()
	s := severed{before: d.carried, now: now}
	d.mu.Unlock()
	if !s.losesAny() {
		return 0, nil
	}
	n, err := d.conntrack.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, s)
	if err != nil {
		return 0, fmt.Errorf("ending connections to what is gone: %w", err)
	}
	return n, nil
}
