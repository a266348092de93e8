package main

import (
	"context"
	"time"

	"k8s.io/klog/v2"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/metrics"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/sysctl"
)

// settingsEvery is how often the kernel's settings are compared: another program
// may change them.
const settingsEvery = 5 * time.Minute

// initialise sets the kernel's settings. To try the kernel out first has it load
// the modules that the settings belong to, and says here what a kernel lacks.
func (o *options) initialise(ctx context.Context) error {
	table, err := nft.Open(nft.Config{MasqueradeMark: 1 << o.MasqueradeBit})
	if err != nil {
		return err
	}
	if err := table.Close(); err != nil {
		return err
	}
	kernel := sysctl.Running()
	changed, err := kernel.Set(kernel.Wanted(o.Config))
	for _, c := range changed {
		klog.FromContext(ctx).Info("Changed a kernel setting", "setting", c.Name, "from", c.Got, "to", c.Want)
	}
	return err
}

// watchSettings tells which of the kernel's settings are not as they should be,
// once per change, until the context ends. It cannot set them: that takes a
// writable /proc/sys.
func (o *options) watchSettings(ctx context.Context, m *metrics.Metrics) {
	kernel := sysctl.Running()
	wanted := kernel.Wanted(o.Config)
	tick := time.NewTicker(settingsEvery)
	defer tick.Stop()
	told := make(map[string]string)
	for {
		now := make(map[string]string)
		for _, d := range kernel.Compare(wanted) {
			now[d.Name] = d.String()
			if told[d.Name] != now[d.Name] {
				klog.FromContext(ctx).Info("A kernel setting is not as it should be; node-proxy --init-only sets it", "setting", d.String())
			}
		}
		for _, s := range wanted {
			metrics.Set(m.SysctlDiffers.WithLabelValues(s.Name), now[s.Name] != "")
		}
		told = now
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
