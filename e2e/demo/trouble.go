package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"

	"github.com/fairway-lb/fairway/e2e/manifests"
	"github.com/fairway-lb/fairway/providers/fake"
)

// drift deletes the listener behind the controller's back, with AWS's own
// client, and waits for it to be repaired.
func (s *story) drift(ctx context.Context) error {
	account := s.env.Cloud.Administrator()
	balancers, err := account.DescribeLoadBalancers(ctx, &elb.DescribeLoadBalancersInput{})
	if err != nil {
		return err
	}
	listeners, err := account.DescribeListeners(ctx, &elb.DescribeListenersInput{LoadBalancerArn: balancers.LoadBalancers[0].LoadBalancerArn})
	if err != nil {
		return err
	}
	for _, l := range listeners.Listeners {
		if _, err := account.DeleteListener(ctx, &elb.DeleteListenerInput{ListenerArn: l.ListenerArn}); err != nil {
			return err
		}
	}
	deleted := time.Now()
	s.say("The listener is gone, and with it the way in. Kubernetes has noticed nothing, and no stock controller would.\n")
	if err := s.until(ctx, "the repair", func(ctx context.Context) error {
		_, err := s.outside.Get(ctx, s.host, 80)
		return err
	}); err != nil {
		return err
	}
	text, err := s.env.LoggedPlan("default/" + service)
	if err != nil {
		return err
	}
	s.say("%.0f seconds later, at the next verification (hourly by default, every 10 seconds here):\n", time.Since(deleted).Seconds())
	s.say("%s", strings.TrimRight(text, "\n"))
	return nil
}

// faults makes a second Service while the cloud throttles and the answer to the
// most delicate call gets lost: the load balancer is made, and nobody is told.
func (s *story) faults(ctx context.Context) error {
	if err := s.env.Cloud.PlanFaults(ctx,
		fake.Fault{Operation: "CreateLoadBalancer", Kind: fake.FaultLost},
		fake.Fault{Operation: "CreateTargetGroup", Times: 2, Kind: fake.FaultThrottle},
	); err != nil {
		return err
	}
	const second = "my-second-service"
	manifest := strings.Replace(manifests.LoadBalancer, service, second, 1)
	if err := s.kubectl(ctx, manifest, "apply -f second.yaml", "apply", "-f", "-"); err != nil {
		return err
	}
	if err := s.until(ctx, "an answer through the second load balancer", func(ctx context.Context) error {
		host, err := s.env.Address(ctx, "default", second)
		if err == nil {
			_, err = s.outside.Get(ctx, host, 80)
		}
		return err
	}); err != nil {
		return err
	}
	calls, err := s.env.Cloud.Calls(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintln(s.out)
	for _, c := range calls {
		if c.Fault != "" || c.Operation == "CreateLoadBalancer" || c.Operation == "CreateTargetGroup" {
			s.say("%s", c)
		}
	}
	balancers, err := s.env.Cloud.Administrator().DescribeLoadBalancers(ctx, &elb.DescribeLoadBalancersInput{})
	if err != nil {
		return err
	}
	if n := len(balancers.LoadBalancers); n != 2 {
		return fmt.Errorf("the account has %d load balancers for 2 Services", n)
	}
	s.say("\nIt came up all the same, and nothing was made twice: 2 Services, 2 load balancers.\n")
	return s.kubectl(ctx, "", "", "delete", "service", second)
}

// mistake gives the Service an annotation that cannot be, shows how it is told,
// and that clients are none the worse for it.
func (s *story) mistake(ctx context.Context) error {
	const annotation = "service.beta.kubernetes.io/aws-load-balancer-scheme"
	if err := s.kubectl(ctx, "", "", "annotate", "service", service, annotation+"=internet"); err != nil {
		return err
	}
	said := func(reason string) error {
		return s.until(ctx, "the condition to say "+reason, func(ctx context.Context) error {
			got, err := s.env.Kubectl(ctx, "", "get", "svc", service, "-o", "jsonpath={.status.conditions[0].reason}")
			if err == nil && got != reason {
				err = fmt.Errorf("it says %q", got)
			}
			return err
		})
	}
	if err := said("Invalid"); err != nil {
		return err
	}
	show := []string{"get", "svc", service, "-o", "jsonpath={.status.conditions[0].message}"}
	fmt.Fprintln(s.out)
	if err := s.kubectl(ctx, "", "", show...); err != nil {
		return err
	}
	if _, err := s.outside.Get(ctx, s.host, 80); err != nil {
		return err
	}
	s.say("\nNothing was changed in the cloud, and clients are answered as before. Without the annotation:\n")
	if err := s.kubectl(ctx, "", "", "annotate", "service", service, annotation+"-"); err != nil {
		return err
	}
	if err := said("Ready"); err != nil {
		return err
	}
	return s.kubectl(ctx, "", "", show...)
}
