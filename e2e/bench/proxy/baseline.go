package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
	"github.com/fairway-lb/fairway/e2e/cluster"
)

// measureNothing measures connections to the backends themselves, with no
// netfilter rules on the node.
func measureNothing(ctx context.Context, w *world, f figures, _ bool) error {
	for _, way := range []string{clusterIP, nodePort} {
		timed, more, err := inTurns(ctx, w.client(way), pastTargets(), pastTargets())
		if err != nil {
			return err
		}
		timed = append(timed, more...)
		f[figConnect50(way)], f[figConnect99(way)] = quantile(timed, 0.5).Seconds(), quantile(timed, 0.99).Seconds()
		if err := saturate(ctx, w.client(way), pastTargets(), way, f); err != nil {
			return err
		}
	}
	return nil
}

// informerRole is the argument that makes this program a bare informer, and
// informerSynced what it says when it has read everything.
const (
	informerRole   = "informer"
	informerSynced = "has synced"
)

// measureInformer measures a program that reads all Services and EndpointSlices
// with two of client-go's informers, and does nothing else. In the first round it
// hears of the changes too: what that costs is part of everybody's.
func measureInformer(ctx context.Context, w *world, f figures, first bool) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	p, err := w.start([]string{self, informerRole, w.kubeconfig})
	if err != nil {
		return err
	}
	defer p.kill()
	bounded, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err = poll(bounded, time.Millisecond, func() bool { return p.alive() != nil || p.out.contains(informerSynced) })
	took := time.Since(p.began)
	if err := errors.Join(err, p.alive()); err != nil {
		return err
	}
	cpu, err := p.cpu()
	if err != nil {
		return err
	}
	f[figReady], f[figReadyCPU] = took.Seconds(), cpu.Seconds()
	if first {
		if err := w.changeCosts(ctx, p, f, followNothing); err != nil {
			return err
		}
	}
	alone, together, err := p.peak()
	f[figMemory], f[figMemoryAll] = float64(alone), float64(together)
	return err
}

// runInformer is that program. It stays until it is killed.
func runInformer(ctx context.Context, kubeconfig string, out io.Writer) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	all := []cache.InformerSynced{
		factory.Core().V1().Services().Informer().HasSynced, factory.Discovery().V1().EndpointSlices().Informer().HasSynced,
	}
	factory.Start(ctx.Done())
	for _, synced := range all {
		if err := poll(ctx, time.Millisecond, func() bool { return synced() }); err != nil {
			return err
		}
	}
	fmt.Fprintln(out, informerSynced)
	<-ctx.Done()
	return nil
}

// measureLoader measures how soon the same table is in the kernel for somebody
// who has everything in memory: what is left is netlink and the kernel. It makes
// the same changes too, one transaction each.
func measureLoader(ctx context.Context, w *world, f figures, _ bool) error {
	services := w.objects.desired(w.node.Address)
	return w.node.NetNS.Do(func() (err error) {
		table, err := nft.Open(nft.Config{
			Pods: nft.Pods{By: nft.PodsByAddress}, MasqueradeMark: 1 << 14,
			Ranges: nft.Ranges{Pods: []netip.Prefix{netip.MustParsePrefix(podRanges)}, Services: []netip.Prefix{netip.MustParsePrefix(cluster.ServiceRange)}},
		})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, table.Remove(), table.Close()) }()
		runtime.GC() // what the harness left is not the loader's
		began, cpu := time.Now(), threadTime()
		if err := accepted(table.Load(services)); err != nil {
			return err
		}
		f[figReadyCPU] = (threadTime() - cpu).Seconds()
		took, err := w.untilAnswering(ctx, began, func() error { return nil })
		if err != nil {
			return err
		}
		f[figReady] = took.Seconds()
		return w.changeDirectly(table, f)
	})
}

// changeDirectly changes endpoints as changeAny does, in the table alone.
func (w *world) changeDirectly(table *nft.Table, f figures) error {
	versions := make(map[int]int)
	cpu := threadTime()
	for range changesTotal {
		i := w.objects.anyQuiet()
		if _, changed := versions[i]; !changed {
			versions[i] = int(w.objects.versions[i].Load())
		}
		versions[i]++
		changed := map[string]*nft.Service{serviceName(i): w.objects.desiredOf(i, versions[i], w.node.Address)}
		if err := accepted(table.Apply(changed)); err != nil {
			return err
		}
	}
	f[figChangeCPU] = (threadTime() - cpu).Seconds()
	return nil
}

// accepted is an error if there is one, or a Service that the kernel refused.
func accepted(rejected map[string]error, err error) error {
	for name, reason := range rejected {
		err = errors.Join(err, fmt.Errorf("the kernel refuses %s: %w", name, reason))
	}
	return err
}

// threadTime is the processor time that the calling thread has used.
func threadTime() time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
