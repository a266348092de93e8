package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	cloudprovider "k8s.io/cloud-provider"
	cloudconfig "k8s.io/cloud-provider/app/config"
	"k8s.io/cloud-provider/controllers/service"
	genericmanager "k8s.io/controller-manager/app"
)

// The values of --service-controller.
const (
	ownServices   = "fairway"
	stockServices = "stock"
)

// checkServices refuses what the stock controller cannot do.
func (m *manager) checkServices(cmd *cobra.Command) {
	before := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case m.services != ownServices && m.services != stockServices:
			return fmt.Errorf("--service-controller=%s is neither %s nor %s", m.services, ownServices, stockServices)
		case m.services == stockServices && m.options.Class != "":
			return fmt.Errorf("--service-controller=%s serves no --load-balancer-class", stockServices)
		case m.services == stockServices && m.options.DryRun:
			return fmt.Errorf("--service-controller=%s knows no --dry-run", stockServices)
		}
		return before(cmd, args)
	}
}

// startStockServices starts the framework's own Service controller. It is the way
// out for who meets a fault of ours; its work ends with the program, but its lease
// runs out instead of being given back.
func (m *manager) startStockServices(clientName string, config *cloudconfig.CompletedConfig, cloud cloudprovider.Interface) (func(context.Context, genericmanager.ControllerContext), error) {
	core, settings := config.SharedInformers.Core().V1(), config.ComponentConfig
	c, err := service.New(cloud, config.ClientBuilder.ClientOrDie(clientName), core.Services(), core.Nodes(), settings.KubeCloudShared.ClusterName, utilfeature.DefaultFeatureGate)
	if err != nil {
		return nil, fmt.Errorf("make the stock service controller: %w", err)
	}
	return func(ctx context.Context, g genericmanager.ControllerContext) {
		c.Run(ctx, int(settings.ServiceController.ConcurrentServiceSyncs), g.ControllerManagerMetrics)
	}, nil
}
