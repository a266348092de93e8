package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/version"

	"github.com/fairway-lb/fairway/controllers/nodeproxy"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/events"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/metrics"
)

// Where Kubernetes mounts a Pod's credentials.
const (
	serviceAccountToken = "/var/run/secrets/kubernetes.io/serviceaccount/token"
	serviceAccountCA    = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
)

// api returns how to reach the API server.
func (o *options) api() (*rest.Config, error) {
	if o.Kubeconfig == "" && o.Server == "" {
		return nil, errors.New("either --kubeconfig or --server is needed to reach the API server")
	}
	var config *rest.Config
	if o.Kubeconfig != "" {
		var err error
		if config, err = clientcmd.BuildConfigFromFlags("", o.Kubeconfig); err != nil {
			return nil, fmt.Errorf("reading the kubeconfig: %w", err)
		}
	} else {
		config = &rest.Config{
			BearerTokenFile: serviceAccountToken,
			TLSClientConfig: rest.TLSClientConfig{CAFile: serviceAccountCA},
		}
		if _, err := os.Stat(serviceAccountToken); err != nil {
			return nil, fmt.Errorf("no --kubeconfig given and no service account: %w", err)
		}
	}
	if o.Server != "" {
		config.Host = "https://" + o.Server
	}
	config.UserAgent = "fairway-node-proxy/" + version.Get().GitVersion
	return config, nil
}

// newRecorder returns what writes events for the node.
func newRecorder(api *rest.Config, node string, m *metrics.Metrics) (*events.Recorder, error) {
	client, err := nodeproxy.NewClient(api, "/apis", eventsv1.SchemeGroupVersion, eventsv1.AddToScheme)
	if err != nil {
		return nil, err
	}
	core, err := nodeproxy.NewClient(api, "/api", corev1.SchemeGroupVersion, corev1.AddToScheme)
	if err != nil {
		return nil, err
	}
	lookup := func(ctx context.Context, namespace, name string) types.UID {
		var s corev1.Service
		if core.Get().Namespace(namespace).Resource("services").Name(name).Do(ctx).Into(&s) != nil {
			return "" // the event is worth having without it
		}
		return s.UID
	}
	return events.New(client, node, lookup, m.Events), nil
}
