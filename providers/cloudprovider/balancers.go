package cloudprovider

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/cloud-provider/api"

	"github.com/fairway-lb/fairway/providers/lb"
)

// balancers implements the framework's LoadBalancer.
type balancers struct{ *Cloud }

// GetLoadBalancer reports that the load balancer exists as long as anything of
// it does: the stock controller drops its finalizer as soon as it does not.
func (b balancers) GetLoadBalancer(ctx context.Context, _ string, s *v1.Service) (*v1.LoadBalancerStatus, bool, error) {
	engine, err := b.open(ctx)
	if err != nil {
		return nil, false, err
	}
	status, exists, err := engine.Exists(ctx, refOf(s))
	if err != nil {
		return nil, false, retry(err)
	}
	return b.status(status, s), exists, nil
}

// GetLoadBalancerName returns the name the framework logs.
func (b balancers) GetLoadBalancerName(_ context.Context, _ string, s *v1.Service) string {
	return refOf(s).String()
}

// EnsureLoadBalancer implements the framework's contract.
func (b balancers) EnsureLoadBalancer(ctx context.Context, _ string, s *v1.Service, nodes []*v1.Node) (*v1.LoadBalancerStatus, error) {
	spec, err := b.config.Service(s, nodes)
	if err != nil {
		return nil, err
	}
	result, err := b.Reconcile(ctx, spec)
	if err != nil {
		return nil, retry(err)
	}
	return b.status(result.Status, s), nil
}

// UpdateLoadBalancer is the same path: only the targets differ.
func (b balancers) UpdateLoadBalancer(ctx context.Context, cluster string, s *v1.Service, nodes []*v1.Node) error {
	_, err := b.EnsureLoadBalancer(ctx, cluster, s, nodes)
	return err
}

// EnsureLoadBalancerDeleted returns nil only when nothing is left.
func (b balancers) EnsureLoadBalancerDeleted(ctx context.Context, _ string, s *v1.Service) error {
	_, err := b.Delete(ctx, refOf(s))
	return retry(err)
}

// retry hands the hint when to try again on in the framework's form.
func retry(err error) error {
	if after := lb.RetryAfterOf(err); after > 0 {
		return api.NewRetryError(err.Error(), max(after, time.Second))
	}
	return err
}

func (b balancers) status(status lb.Status, s *v1.Service) *v1.LoadBalancerStatus {
	result := b.config.Status(status, s.Spec.Ports)
	return &result
}

func refOf(s *v1.Service) lb.ServiceRef {
	return lb.ServiceRef{Namespace: s.Namespace, Name: s.Name, UID: string(s.UID)}
}
