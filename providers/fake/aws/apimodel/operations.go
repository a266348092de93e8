package apimodel

// Source is a service model to cut operations out of.
type Source struct {
	// Name is the service's signing name.
	Name string
	// Path is where the model is in the module aws-sdk-go.
	Path       string
	Operations []string
}

// Sources are the services and operations that are served.
var Sources = []Source{
	{Name: "elasticloadbalancing", Path: "models/apis/elasticloadbalancingv2/2015-12-01/api-2.json", Operations: []string{
		"AddTags", "CreateListener", "CreateLoadBalancer", "CreateTargetGroup", "DeleteListener", "DeleteLoadBalancer",
		"DeleteTargetGroup", "DeregisterTargets", "DescribeListeners", "DescribeLoadBalancerAttributes",
		"DescribeLoadBalancers", "DescribeTags", "DescribeTargetGroupAttributes", "DescribeTargetGroups",
		"DescribeTargetHealth", "ModifyListener", "ModifyLoadBalancerAttributes", "ModifyTargetGroup",
		"ModifyTargetGroupAttributes", "RegisterTargets", "RemoveTags", "SetIpAddressType", "SetSecurityGroups",
		"SetSubnets",
	}},
	{Name: "ec2", Path: "models/apis/ec2/2016-11-15/api-2.json", Operations: []string{
		"AuthorizeSecurityGroupEgress", "AuthorizeSecurityGroupIngress", "CreateSecurityGroup", "CreateTags",
		"DeleteSecurityGroup", "DeleteTags", "DescribeAddresses", "DescribeAvailabilityZones", "DescribeInstances",
		"DescribeNetworkInterfaces", "DescribeRouteTables", "DescribeSecurityGroupRules", "DescribeSecurityGroups",
		"DescribeSubnets", "DescribeVpcs", "RevokeSecurityGroupEgress", "RevokeSecurityGroupIngress",
	}},
	{Name: "sts", Path: "models/apis/sts/2011-06-15/api-2.json", Operations: []string{"GetCallerIdentity"}},
}
