package aws

import (
	"strings"

	"github.com/fairway-lb/fairway/providers/fake/aws/iam"
)

// What the operations of ELBv2 need. Actions, resource types and condition keys:
//
// https://docs.aws.amazon.com/service-authorization/latest/reference/list_awselasticloadbalancingv2.html

// creating is what making an ELBv2 resource needs: the action on target, and when
// tags are given also AddTags on the new resource.
//
// https://docs.aws.amazon.com/elasticloadbalancing/latest/userguide/tagging-resources-during-creation.html
func creating(action string, target access, made string, tags []tagInput) []access {
	target.action, target.context = action, with(target.context, requested(tags))
	list := []access{target}
	if len(tags) > 0 {
		_, name, _ := strings.Cut(action, ":")
		list = append(list, access{
			action: "elasticloadbalancing:AddTags", resource: made,
			context: with(requested(tags), iam.Context{iam.ELBCreateAction: {name}}),
		})
	}
	return list
}

// lookups are the actions of EC2 that ELBv2 performs in the name of its caller.
//
// https://docs.aws.amazon.com/elasticloadbalancing/latest/userguide/elb-api-permissions.html
func lookups(names ...string) []access {
	var list []access
	for _, name := range names {
		list = append(list, access{action: "ec2:" + name, resource: anyResource})
	}
	return list
}

// changing is what changing or deleting an ELBv2 resource needs.
func (a *Account) changing(action, arn string) []access {
	return []access{{action: action, resource: arn, context: a.existing(arn)}}
}

const elbServiceName = "elasticloadbalancing.amazonaws.com"

// needs of CreateLoadBalancer: for an account's first load balancer also the
// service-linked role.
//
// https://docs.aws.amazon.com/elasticloadbalancing/latest/userguide/elb-service-linked-roles.html
func (in *createLoadBalancerInput) needs(a *Account, action string) []access {
	made := a.arn("elasticloadbalancing", "loadbalancer/net/"+in.Name+"/*")
	list := append(creating(action, access{resource: made}, made, in.Tags), lookups("DescribeAccountAttributes",
		"DescribeAddresses", "DescribeInternetGateways", "DescribeSecurityGroups", "DescribeSubnets", "DescribeVpcs")...)
	if !a.hasLoadBalancerRole {
		list = append(list, access{
			action:   "iam:CreateServiceLinkedRole",
			resource: "arn:aws:iam::" + a.id + ":role/aws-service-role/" + elbServiceName + "/AWSServiceRoleForElasticLoadBalancing",
			context:  iam.Context{iam.ServiceName: {elbServiceName}},
		})
	}
	return list
}

func (in *createTargetGroupInput) needs(a *Account, action string) []access {
	made := a.arn("elasticloadbalancing", "targetgroup/"+in.Name+"/*")
	return append(creating(action, access{resource: made}, made, in.Tags), lookups("DescribeInternetGateways", "DescribeVpcs")...)
}

// needs of CreateListener: the resource is the load balancer, what is tagged is the
// listener.
func (in *createListenerInput) needs(a *Account, action string) []access {
	target := access{resource: in.LoadBalancerARN, context: a.existing(in.LoadBalancerARN)}
	made := strings.Replace(in.LoadBalancerARN, ":loadbalancer/", ":listener/", 1) + "/*"
	return creating(action, target, made, in.Tags)
}

func (in *deleteLoadBalancerInput) needs(a *Account, action string) []access {
	return a.changing(action, in.ARN)
}

func (in *modifyLoadBalancerAttributesInput) needs(a *Account, action string) []access {
	return a.changing(action, in.ARN)
}

func (in *setSecurityGroupsInput) needs(a *Account, action string) []access {
	return a.changing(action, in.ARN)
}

func (in *setSubnetsInput) needs(a *Account, action string) []access {
	return append(a.changing(action, in.ARN), lookups("DescribeSubnets")...)
}

func (in *setIPAddressTypeInput) needs(a *Account, action string) []access {
	return append(a.changing(action, in.ARN), lookups("DescribeSubnets")...)
}

func (in *targetGroupARNInput) needs(a *Account, action string) []access {
	return a.changing(action, in.ARN)
}

func (in *modifyTargetGroupInput) needs(a *Account, action string) []access {
	return a.changing(action, in.ARN)
}

func (in *modifyTargetGroupAttributesInput) needs(a *Account, action string) []access {
	return a.changing(action, in.ARN)
}

// needs of RegisterTargets and DeregisterTargets; only the first looks at the
// instances.
func (in *targetsInput) needs(a *Account, action string) []access {
	list := a.changing(action, in.ARN)
	if action == "elasticloadbalancing:RegisterTargets" {
		list = append(list, lookups("DescribeInstances", "DescribeInternetGateways", "DescribeSubnets", "DescribeVpcs")...)
	}
	return list
}

func (in *listenerARNInput) needs(a *Account, action string) []access {
	return a.changing(action, in.ARN)
}

func (in *modifyListenerInput) needs(a *Account, action string) []access {
	return a.changing(action, in.ARN)
}

func (in *modifyListenerAttributesInput) needs(a *Account, action string) []access {
	return a.changing(action, in.ARN)
}

func (in *addTagsInput) needs(a *Account, action string) []access {
	var list []access
	for _, arn := range in.ARNs {
		list = append(list, access{action: action, resource: arn, context: with(a.existing(arn), requested(in.Tags))})
	}
	return list
}

func (in *removeTagsInput) needs(a *Account, action string) []access {
	var list []access
	for _, arn := range in.ARNs {
		list = append(list, access{action: action, resource: arn, context: with(a.existing(arn), iam.Context{iam.TagKeys: in.Keys})})
	}
	return list
}
