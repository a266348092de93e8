package main

import (
	"context"
	"fmt"

	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/app"
	cloudconfig "k8s.io/cloud-provider/app/config"
	"k8s.io/cloud-provider/controllers/node"
	"k8s.io/cloud-provider/controllers/nodelifecycle"
	"k8s.io/cloud-provider/names"
	genericmanager "k8s.io/controller-manager/app"
	"k8s.io/controller-manager/controller"
	"k8s.io/klog/v2"
)

// withoutNodeControllers is what --controllers is in class mode, unless the user
// sets it: there, the cluster's own cloud controller sees to the nodes.
const withoutNodeControllers = "*,-" + names.CloudNodeController + ",-" + names.CloudNodeLifecycleController

// nodeControllers are the framework's own, under their own names: one initialises
// nodes and keeps their addresses, the other deletes the Nodes of machines that
// are gone and taints those of machines that are off. They end with the program,
// which the framework's way of starting them does not see to: after its lease is
// given back, nothing here deletes a Node.
func (m *manager) nodeControllers() map[string]app.ControllerInitFuncConstructor {
	client := app.ControllerInitContext{ClientName: "node-controller"}
	return map[string]app.ControllerInitFuncConstructor{
		names.CloudNodeController:          {InitContext: client, Constructor: m.starts(m.initialiseNodes)},
		names.CloudNodeLifecycleController: {InitContext: client, Constructor: m.starts(m.followNodes)},
	}
}

// startNodes makes one of the controllers and returns how it is run.
type startNodes func(clientName string, config *cloudconfig.CompletedConfig, cloud cloudprovider.Interface) (run func(context.Context, genericmanager.ControllerContext), err error)

func (m *manager) starts(start startNodes) func(app.ControllerInitContext, *cloudconfig.CompletedConfig, cloudprovider.Interface) app.InitFunc {
	return func(init app.ControllerInitContext, config *cloudconfig.CompletedConfig, cloud cloudprovider.Interface) app.InitFunc {
		return func(ctx context.Context, c genericmanager.ControllerContext) (controller.Interface, bool, error) {
			if m.options.DryRun {
				klog.FromContext(ctx).Info("Nodes are left as they are: this is a dry run")
				return nil, false, nil
			}
			run, err := start(init.ClientName, config, cloud)
			if err != nil {
				return nil, false, err
			}
			m.run(ctx, func(ctx context.Context) { run(ctx, c) })
			return nil, true, nil
		}
	}
}

func (m *manager) initialiseNodes(clientName string, config *cloudconfig.CompletedConfig, cloud cloudprovider.Interface) (func(context.Context, genericmanager.ControllerContext), error) {
	settings := config.ComponentConfig
	c, err := node.NewCloudNodeController(config.SharedInformers.Core().V1().Nodes(), config.ClientBuilder.ClientOrDie(clientName), cloud,
		settings.NodeStatusUpdateFrequency.Duration, settings.NodeController.ConcurrentNodeSyncs, settings.NodeController.ConcurrentNodeStatusUpdates)
	if err != nil {
		return nil, fmt.Errorf("make the node controller: %w", err)
	}
	return func(ctx context.Context, g genericmanager.ControllerContext) {
		c.RunWithContext(ctx, g.ControllerManagerMetrics)
	}, nil
}

func (m *manager) followNodes(clientName string, config *cloudconfig.CompletedConfig, cloud cloudprovider.Interface) (func(context.Context, genericmanager.ControllerContext), error) {
	settings := config.ComponentConfig.NodeLifecycleController
	c, err := nodelifecycle.NewCloudNodeLifecycleController(config.SharedInformers.Core().V1().Nodes(), config.ClientBuilder.ClientOrDie(clientName), cloud,
		settings.NodeMonitorPeriod.Duration, int(settings.ConcurrentNodeLifecycleSyncs))
	if err != nil {
		return nil, fmt.Errorf("make the node lifecycle controller: %w", err)
	}
	return func(ctx context.Context, g genericmanager.ControllerContext) { c.Run(ctx, g.ControllerManagerMetrics) }, nil
}
