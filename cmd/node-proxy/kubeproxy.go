package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/klog/v2"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/events"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/metrics"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/takeover"
)

// kubeProxyEvery is how often to look whether kube-proxy is back.
const kubeProxyEvery = 10 * time.Second

// admit decides whether to start on a node that has kube-proxy's rules. Two
// proxies must not meet by mistake; but where our table is already there, it
// serves, and refusing would only freeze it.
func (o *options) admit(node *takeover.Node) error {
	found, err := node.Find()
	if err != nil || len(found) == 0 {
		return err
	}
	present, err := installed()
	if err != nil || present {
		return err
	}
	if o.takeover && !slices.ContainsFunc(found, func(b takeover.Backend) bool { return !b.Replaceable() }) {
		return nil
	}
	return errors.New(takeover.Advice(found))
}

// installed tells whether an earlier run left a table.
func installed() (bool, error) {
	f, err := nft.OpenForeign()
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	for _, ipv6 := range []bool{false, true} {
		if has, err := f.HasTable(nft.TableRef{IPv6: ipv6, Name: nft.TableName}); has || err != nil {
			return has, err
		}
	}
	return false, nil
}

// kubeProxyWatch takes kube-proxy's place, if asked to, and tells when it is
// beside us: a cluster upgrade may bring it back.
type kubeProxyWatch struct {
	node     *takeover.Node
	nodeName string
	every    time.Duration
	metrics  *metrics.Metrics
	events   *events.Recorder
	// takeOver is closed when our rules carry packets and kube-proxy's shall
	// go; nil when they shall not.
	takeOver <-chan struct{}
}

// run looks until the context ends.
func (w kubeProxyWatch) run(ctx context.Context) {
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	var before []takeover.Backend
	failed := false // to take over
	for {
		found, err := w.node.Find()
		if err != nil {
			klog.FromContext(ctx).Error(err, "Cannot tell whether kube-proxy is here")
		} else {
			w.tell(ctx, before, found)
			before = found
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			failed = failed && !w.remove(ctx)
		case <-w.takeOver:
			w.takeOver, failed = nil, !w.remove(ctx)
		}
	}
}

func (w kubeProxyWatch) tell(ctx context.Context, before, found []takeover.Backend) {
	for _, b := range takeover.Backends {
		metrics.Set(w.metrics.KubeProxyPresent.WithLabelValues(string(b)), slices.Contains(found, b))
	}
	if len(found) == 0 {
		return
	}
	var names []string
	for _, b := range found {
		names = append(names, string(b))
	}
	note := fmt.Sprintf("kube-proxy has rules on this node (%s) beside node-proxy's, which goes on serving. "+
		"Of two that translate, the one installed last decides. Take kube-proxy's DaemonSet away from this node, then %s",
		strings.Join(names, ", "), cure(found))
	if !slices.Equal(before, found) {
		klog.FromContext(ctx).Info(note)
	}
	w.events.Record(events.Event{Regarding: events.Node(w.nodeName), Reason: "KubeProxyPresent", Action: "Verify", Note: note})
}

func cure(found []takeover.Backend) string {
	if slices.ContainsFunc(found, func(b takeover.Backend) bool { return !b.Replaceable() }) {
		return `run "kube-proxy --cleanup" there`
	}
	return "start node-proxy with --takeover"
}

// remove takes kube-proxy's rules away and returns whether it did.
func (w kubeProxyWatch) remove(ctx context.Context) bool {
	logger := klog.FromContext(ctx)
	if found, err := w.node.Find(); err != nil || !slices.ContainsFunc(found, takeover.Backend.Replaceable) {
		return err == nil
	}
	droppers, err := w.node.Remove()
	if err != nil {
		logger.Error(err, "Could not take kube-proxy's place, trying again")
		w.events.Record(events.Event{Regarding: events.Node(w.nodeName), Reason: "TakeoverFailed", Action: "Takeover",
			Note: fmt.Sprintf("kube-proxy's rules are still here: %v. Both serve until it works", err)})
		return false
	}
	note := "Took kube-proxy's place: its nftables and iptables-nft rules are gone, connections go on"
	if len(droppers) > 0 {
		note += fmt.Sprintf(". The policy of %s is to drop, and kube-proxy's rules did accept packets to Services there: see that yours do",
			strings.Join(droppers, " and "))
	}
	logger.Info(note)
	w.events.Record(events.Event{Regarding: events.Node(w.nodeName), Reason: "TookOver", Action: "Takeover", Note: note, Normal: len(droppers) == 0})
	return true
}
