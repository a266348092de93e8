package aws

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// TestEachCategoryHasItsBucket: how many requests of a category pass at once, how
// many more after a second, and with what they share their bucket.
func TestEachCategoryHasItsBucket(t *testing.T) {
	absent := func(kind string) string {
		return "arn:aws:elasticloadbalancing:eu-west-1:111122223333:" + kind + "/0123456789abcdef"
	}
	tg := "TargetGroupArn=" + absent("targetgroup/gone")
	for _, tt := range []struct {
		operation     string
		parameters    []string
		burst, second int
		// same takes from the same bucket, other does not.
		same, other string
	}{
		{"DescribeTargetGroups", nil, 40, 10, "DescribeLoadBalancers", "DescribeSubnets"},
		{"RegisterTargets", []string{tg, "Targets.member.1.Id=" + node1}, 20, 4, "DeregisterTargets", "DescribeTargetGroups"},
		{"DeleteTargetGroup", []string{tg}, 20, 3, "CreateLoadBalancer", "RegisterTargets"},
		{"DescribeSubnets", nil, 100, 20, "DescribeSubnets", "DescribeVpcs"},
		{"DeleteSecurityGroup", []string{"GroupId=sg-0bbbbbbbbbbbbbbbb"}, 50, 5, "DeleteSecurityGroup", "CreateSecurityGroup"},
	} {
		t.Run(tt.operation, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newClient(t, func(w *World) { w.Timing = Timing{} })
				throttled := func(operation string, parameters ...string) bool {
					code := c.ask(operation, parameters...).code
					return code == "Throttling" || code == "RequestLimitExceeded"
				}
				passed := func() (n int) {
					for range 200 {
						if !throttled(tt.operation, tt.parameters...) {
							n++
						}
					}
					return n
				}
				if n := passed(); n != tt.burst {
					t.Errorf("at once %d pass, want %d", n, tt.burst)
				}
				if !throttled(tt.same, tt.parameters...) {
					t.Errorf("%s has a bucket of its own", tt.same)
				}
				if throttled(tt.other) {
					t.Errorf("%s shares the bucket", tt.other)
				}
				time.Sleep(time.Second)
				if n := passed(); n != tt.second {
					t.Errorf("after a second %d pass, want %d", n, tt.second)
				}
			})
		})
	}
}

// TestTargetQuotas: a load balancer's targets are counted over its groups, in each
// zone, and over all zones where nodes send to all of them.
func TestTargetQuotas(t *testing.T) {
	const atA, atB = node1, node2
	quotas := func(w *World) {
		w.Quotas.TargetsPerLoadBalancer, w.Quotas.TargetsPerZone, w.Quotas.TargetsAcrossZones = 3, 2, 1
	}
	target := func(id, port string) []string {
		return []string{"Targets.member.1.Id=" + id, "Targets.member.1.Port=" + port}
	}
	start := func(t *testing.T) (c client, lb, one, two string) {
		c = newClient(t, atOnce, quotas)
		lb, one, two = c.loadBalancerNamed("web"), c.targetGroupNamed("one", "TCP"), c.targetGroupNamed("two", "TCP")
		c.listen(lb, one, "TCP", "80")
		return c, lb, one, two
	}
	t.Run("zone", func(t *testing.T) {
		c, lb, one, two := start(t)
		c.listen(lb, two, "TCP", "81")
		c.must("RegisterTargets", join([]string{"TargetGroupArn=" + one}, target(atA, "1"))...)
		c.must("RegisterTargets", join([]string{"TargetGroupArn=" + two}, target(atA, "1"))...)
		c.wants("TooManyTargets", "RegisterTargets", join([]string{"TargetGroupArn=" + one}, target(atA, "2"))...)
		c.must("RegisterTargets", join([]string{"TargetGroupArn=" + one}, target(atA, "1"))...) // again: not one more
		c.must("RegisterTargets", join([]string{"TargetGroupArn=" + one}, target(atB, "1"))...)
	})
	t.Run("load balancer", func(t *testing.T) {
		c, _, one, _ := start(t)
		for _, p := range [][]string{target(atA, "1"), target(atA, "2"), target(atB, "1")} {
			c.must("RegisterTargets", join([]string{"TargetGroupArn=" + one}, p)...)
		}
		c.wants("TooManyTargets", "RegisterTargets", join([]string{"TargetGroupArn=" + one}, target(atB, "2"))...)
		c.must("DeregisterTargets", join([]string{"TargetGroupArn=" + one}, target(atA, "1"))...) // drains, and counts no more
		c.must("RegisterTargets", join([]string{"TargetGroupArn=" + one}, target(atB, "2"))...)
	})
	t.Run("all zones", func(t *testing.T) {
		c, lb, one, _ := start(t)
		c.must("ModifyLoadBalancerAttributes", "LoadBalancerArn="+lb, "Attributes.member.1.Key="+lbCrossZone, "Attributes.member.1.Value=true")
		c.must("RegisterTargets", join([]string{"TargetGroupArn=" + one}, target(atA, "1"))...)
		c.wants("TooManyTargets", "RegisterTargets", join([]string{"TargetGroupArn=" + one}, target(atB, "1"))...)
	})
	t.Run("group that is taken on", func(t *testing.T) {
		c, lb, one, two := start(t)
		for _, p := range [][]string{target(atA, "1"), target(atA, "2")} {
			c.must("RegisterTargets", join([]string{"TargetGroupArn=" + one}, p)...)
		}
		c.must("RegisterTargets", join([]string{"TargetGroupArn=" + two}, target(atA, "3"))...) // in nobody's use: not counted
		c.wants("TooManyTargets", "CreateListener", forward(lb, two, "TCP", "81")...)
	})
}

// TestWholeCallFailsForOneTarget: and says which one it was, so that the others can
// be registered without it.
func TestWholeCallFailsForOneTarget(t *testing.T) {
	for _, tt := range []struct {
		name    string
		arrange func(c client) error
		want    string
	}{
		{"gone", func(c client) error { return c.RemoveInstance(node2) }, "The following targets are not in the target group VPC '" + vpcID + "': '" + node2 + "'"},
		{"terminated", func(c client) error { return c.SetInstanceState(node2, Terminated) }, "The following targets are not in a running state and cannot be registered: '" + node2 + "'"},
		{"stopped", func(c client) error { return c.SetInstanceState(node2, Stopped) }, "The following targets are not in a running state and cannot be registered: '" + node2 + "'"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newClient(t, atOnce)
			tg := c.targetGroupNamed("web", "TCP")
			if err := tt.arrange(c); err != nil {
				t.Fatal(err)
			}
			all := join([]string{"TargetGroupArn=" + tg}, []string{"Targets.member.1.Id=" + node1, "Targets.member.2.Id=" + node2, "Targets.member.3.Id=" + node3})
			if r := c.ask("RegisterTargets", all...); r.status != http.StatusBadRequest || r.code != "InvalidTarget" || r.text("Message") != tt.want {
				t.Errorf("answered %d %s %q, want %q", r.status, r.code, r.text("Message"), tt.want)
			}
			if got := c.states(tg); got != "" {
				t.Errorf("targets were registered: %s", got)
			}
			c.must("DeregisterTargets", all...) // what is not registered can always be taken away
		})
	}
}
