package aws

import (
	"strings"

	"github.com/fairway-lb/fairway/providers/fake/aws/iam"
)

// What the operations of EC2 need. Actions, resource types and condition keys:
//
// https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html

// resourceTypes are what ARNs call the kinds of EC2's ids.
var resourceTypes = map[string]string{
	"sg": "security-group", "sgr": "security-group-rule", "i": "instance", "subnet": "subnet", "vpc": "vpc", "eipalloc": "elastic-ip",
}

// ec2ARN is the ARN of an EC2 resource; that of an unknown kind keeps the kind.
func (a *Account) ec2ARN(id string) string {
	kind, _, _ := cutID(id)
	if t, ok := resourceTypes[kind]; ok {
		kind = t
	}
	return a.arn("ec2", kind+"/"+id)
}

// tagging is what tags given on creation of an EC2 resource need besides; nothing
// without tags.
//
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/supported-iam-actions-tagging.html
func tagging(action, made string, specifications []tagSpecification) []access {
	tags := specified(specifications)
	if len(tags) == 0 {
		return nil
	}
	_, name, _ := strings.Cut(action, ":")
	return []access{{
		action: "ec2:CreateTags", resource: made,
		context: with(requested(tags), iam.Context{iam.EC2CreateAction: {name}}),
	}}
}

func specified(specifications []tagSpecification) []tagInput {
	var tags []tagInput
	for _, s := range specifications {
		tags = append(tags, s.Tags...)
	}
	return tags
}

// needs of CreateSecurityGroup: both the new group and the VPC are its resources;
// the tags of the request are known for the group only.
func (in *createSecurityGroupInput) needs(a *Account, action string) []access {
	made := a.arn("ec2", "security-group/*")
	return append([]access{
		{action: action, resource: made, context: requested(specified(in.Tags))},
		{action: action, resource: a.ec2ARN(in.VPCID), context: a.existing(in.VPCID)},
	}, tagging(action, made, in.Tags)...)
}

func (in *deleteSecurityGroupInput) needs(a *Account, action string) []access {
	return a.changingGroup(action, in.GroupID)
}

// needs of AuthorizeSecurityGroupIngress and -Egress: rules are a resource of
// theirs only when tagged.
func (in *authorizeInput) needs(a *Account, action string) []access {
	list := a.changingGroup(action, in.GroupID)
	if tags := specified(in.Tags); len(tags) > 0 {
		made := a.arn("ec2", "security-group-rule/*")
		list = append(list, access{action: action, resource: made, context: requested(tags)})
		list = append(list, tagging(action, made, in.Tags)...)
	}
	return list
}

func (in *revokeInput) needs(a *Account, action string) []access {
	return a.changingGroup(action, in.GroupID)
}

func (a *Account) changingGroup(action, id string) []access {
	return []access{{action: action, resource: a.ec2ARN(id), context: a.existing(id)}}
}

func (in *createEC2TagsInput) needs(a *Account, action string) []access {
	var list []access
	for _, id := range in.Resources {
		list = append(list, access{action: action, resource: a.ec2ARN(id), context: with(a.existing(id), requested(in.Tags))})
	}
	return list
}

// needs of DeleteTags: a tag that is named without its value has the empty one in
// the request.
func (in *deleteEC2TagsInput) needs(a *Account, action string) []access {
	var tags []tagInput
	for _, t := range in.Tags {
		tag := tagInput{Key: t.Key}
		setIf(&tag.Value, t.Value)
		tags = append(tags, tag)
	}
	var list []access
	for _, id := range in.Resources {
		list = append(list, access{action: action, resource: a.ec2ARN(id), context: with(a.existing(id), requested(tags))})
	}
	return list
}
