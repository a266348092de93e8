// Command cloud-controller-manager gives a cluster's Services of type
// LoadBalancer their load balancers. It is the framework's cloud controller
// manager, with its flags, health endpoints and leader election, and our
// Service controller in the place of the stock one.
package main

import (
	"context"
	"os"

	"k8s.io/apiserver/pkg/server"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // metrics of the API client and the queues
	_ "k8s.io/component-base/metrics/prometheus/version"  // build information as a metric
)

func main() {
	// The framework hands its leader's work a context of its own that no signal
	// ends; work started here ends with this one.
	ctx, stop := context.WithCancel(context.Background())
	manager := newManager(ctx)
	code := cli.Run(manager.command(server.SetupSignalHandler()))
	stop()
	manager.wait()
	os.Exit(code)
}
