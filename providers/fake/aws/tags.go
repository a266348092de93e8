package aws

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Both services keep tags the same way; they differ in the requests.

const maxTags = 50

type tagXML struct {
	Key   string `xml:"key"`
	Value string `xml:"value"`
}

type elbTagXML struct {
	Key   string `xml:"Key"`
	Value string `xml:"Value"`
}

type tagInput struct {
	Key   string `query:"Key,required"`
	Value string `query:"Value"`
}

// tagSpecification is how EC2 tags a thing on creation.
type tagSpecification struct {
	ResourceType string     `query:"ResourceType,required"`
	Tags         []tagInput `query:"Tag"`
}

// setTags replaces all tags of a resource.
func (a *Account) setTags(id string, tags map[string]string) {
	if len(tags) == 0 {
		delete(a.tags, id)
		return
	}
	a.tags[id] = maps.Clone(tags)
}

func (a *Account) tagSet(id string) items[tagXML] {
	var set items[tagXML]
	for _, key := range slices.Sorted(maps.Keys(a.tags[id])) {
		set.Item = append(set.Item, tagXML{Key: key, Value: a.tags[id][key]})
	}
	return set
}

// tagPattern is what keys and values may hold.
//
// https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_Tag.html
var tagPattern = regexp.MustCompile(`^[\p{L}\p{Z}\p{N}_.:/=+\-@]*$`)

// checkTags turns the tags of a request into a map. Codes differ between services:
// duplicate is for a key given twice, invalid for text that is not allowed.
func checkTags(tags []tagInput, duplicate, invalid string) (map[string]string, error) {
	m := make(map[string]string, len(tags))
	for _, t := range tags {
		if _, ok := m[t.Key]; ok {
			return nil, fail(duplicate, "The tag key '%s' is given more than once", t.Key)
		}
		switch {
		case t.Key == "" || len([]rune(t.Key)) > 128 || !tagPattern.MatchString(t.Key):
			return nil, fail(invalid, "The tag key '%s' is not 1 to 128 letters, digits, spaces or _.:/=+-@", t.Key)
		case strings.HasPrefix(strings.ToLower(t.Key), "aws:"):
			return nil, fail(invalid, "The tag key '%s' is reserved: aws: prefixed tag keys are not allowed for external use", t.Key)
		case len([]rune(t.Value)) > 256 || !tagPattern.MatchString(t.Value):
			return nil, fail(invalid, "The value of tag '%s' is not at most 256 letters, digits, spaces or _.:/=+-@", t.Key)
		}
		m[t.Key] = t.Value
	}
	return m, nil
}

// specifiedTags are the tags given on creation of an EC2 resource of a type.
func specifiedTags(specifications []tagSpecification, resourceType string) (map[string]string, error) {
	var tags []tagInput
	for _, s := range specifications {
		if s.ResourceType != resourceType {
			return nil, fail(codeInvalidParameter, "'%s' is not a valid taggable resource type for this operation.", s.ResourceType)
		}
		tags = append(tags, s.Tags...)
	}
	m, err := checkTags(tags, codeInvalidParameter, codeInvalidParameter)
	if err == nil && len(m) > maxTags {
		return nil, fail("TagLimitExceeded", "The maximum number of tags of a resource is %d", maxTags)
	}
	return m, err
}

type createEC2TagsInput struct {
	ec2Request
	Resources []string   `query:"ResourceId,required"`
	Tags      []tagInput `query:"Tag,required"`
}

type ec2Done struct {
	ec2Reply
	Return bool `xml:"return"`
}

func (a *Account) createEC2Tags(in *createEC2TagsInput) (*ec2Done, error) {
	added, err := checkTags(in.Tags, codeInvalidParameter, codeInvalidParameter)
	if err != nil {
		return nil, err
	}
	for _, id := range in.Resources {
		if err := a.findEC2(id); err != nil {
			return nil, err
		}
		if len(merged(a.tags[id], added)) > maxTags {
			return nil, fail("TagLimitExceeded", "The maximum number of tags of a resource is %d", maxTags)
		}
	}
	for _, id := range in.Resources {
		a.setTags(id, merged(a.tags[id], added))
	}
	return &ec2Done{Return: true}, nil
}

func merged(have, added map[string]string) map[string]string {
	all := make(map[string]string, len(have)+len(added))
	maps.Copy(all, have)
	maps.Copy(all, added)
	return all
}

type deleteEC2TagsInput struct {
	ec2Request
	Resources []string      `query:"ResourceId,required"`
	Tags      []tagSelector `query:"Tag"`
}

// tagSelector names a tag; with a value only if it has that value.
type tagSelector struct {
	Key   string  `query:"Key,required"`
	Value *string `query:"Value"`
}

func (a *Account) deleteEC2Tags(in *deleteEC2TagsInput) (*ec2Done, error) {
	for _, id := range in.Resources {
		if err := a.findEC2(id); err != nil {
			return nil, err
		}
	}
	for _, id := range in.Resources {
		if len(in.Tags) == 0 {
			delete(a.tags, id)
		}
		for _, t := range in.Tags {
			if v, ok := a.tags[id][t.Key]; ok && (t.Value == nil || *t.Value == v) {
				delete(a.tags[id], t.Key)
			}
		}
	}
	return &ec2Done{Return: true}, nil
}

// findEC2 gives the error of a taggable resource that is not there.
func (a *Account) findEC2(id string) error {
	kind, _, _ := cutID(id)
	switch kind {
	case "sg":
		_, err := a.group(id)
		return err
	case "sgr":
		for _, g := range a.groups {
			if slices.ContainsFunc(g.rules, func(r *rule) bool { return r.id == id }) {
				return nil
			}
		}
		return fail("InvalidSecurityGroupRuleId.NotFound", "The security group rule ID '%s' does not exist", id)
	case "i":
		if i, ok := a.instances[id]; ok && i.state != Terminated {
			return nil
		}
		return fail("InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", id)
	case "subnet":
		if _, ok := a.subnets[id]; ok {
			return nil
		}
		return fail("InvalidSubnetID.NotFound", "The subnet ID '%s' does not exist", id)
	case "vpc":
		if id == a.vpc.id {
			return nil
		}
		return fail("InvalidVpcID.NotFound", "The vpc ID '%s' does not exist", id)
	case "eipalloc":
		if _, ok := a.addresses[id]; ok {
			return nil
		}
		return fail("InvalidAllocationID.NotFound", "The allocation ID '%s' does not exist", id)
	}
	return fail("InvalidID", "The ID '%s' is not valid", id)
}

// maxTagARNs is how many resources one call of ELBv2's tag operations takes.
const maxTagARNs = 20

type addTagsInput struct {
	ARNs []string   `query:"ResourceArns.member,required"`
	Tags []tagInput `query:"Tags.member,required"`
}

type emptyResult struct{}

func (a *Account) addTags(in *addTagsInput) (*emptyResult, error) {
	added, err := checkTags(in.Tags, "DuplicateTagKeys", codeValidation)
	if err != nil {
		return nil, err
	}
	if err := a.checkTagged(in.ARNs); err != nil {
		return nil, err
	}
	for _, arn := range in.ARNs {
		if len(merged(a.tags[arn], added)) > maxTags {
			return nil, fail("TooManyTags", "The maximum number of tags of a resource is %d", maxTags)
		}
	}
	for _, arn := range in.ARNs {
		a.setTags(arn, merged(a.tags[arn], added))
	}
	return &emptyResult{}, nil
}

type removeTagsInput struct {
	ARNs []string `query:"ResourceArns.member,required"`
	Keys []string `query:"TagKeys.member,required"`
}

func (a *Account) removeTags(in *removeTagsInput) (*emptyResult, error) {
	if err := a.checkTagged(in.ARNs); err != nil {
		return nil, err
	}
	for _, arn := range in.ARNs {
		for _, key := range in.Keys {
			delete(a.tags[arn], key)
		}
	}
	return &emptyResult{}, nil
}

type describeTagsInput struct {
	ARNs []string `query:"ResourceArns.member,required"`
}

type tagDescriptionXML struct {
	ARN  string             `xml:"ResourceArn"`
	Tags members[elbTagXML] `xml:"Tags"`
}

type describeTagsResult struct {
	Descriptions members[tagDescriptionXML] `xml:"TagDescriptions"`
}

func (a *Account) describeTags(in *describeTagsInput) (*describeTagsResult, error) {
	if err := a.checkTagged(in.ARNs); err != nil {
		return nil, err
	}
	out := &describeTagsResult{}
	for _, arn := range in.ARNs {
		d := tagDescriptionXML{ARN: arn}
		for _, key := range slices.Sorted(maps.Keys(a.tags[arn])) {
			d.Tags.Member = append(d.Tags.Member, elbTagXML{Key: key, Value: a.tags[arn][key]})
		}
		out.Descriptions.Member = append(out.Descriptions.Member, d)
	}
	return out, nil
}

// checkTagged checks the resources of a tag operation: none of them missing, not
// too many, none twice.
func (a *Account) checkTagged(arns []string) error {
	if len(arns) > maxTagARNs {
		return fail(codeValidation, "A maximum of %d ResourceArns can be specified, not %d", maxTagARNs, len(arns))
	}
	for i, arn := range arns {
		if slices.Contains(arns[:i], arn) {
			return fail(codeValidation, "ResourceArn '%s' is given more than once", arn)
		}
		if err := a.findELB(arn); err != nil {
			return err
		}
	}
	return nil
}

// findELB gives the error of a load balancer, target group or listener that is not
// there.
func (a *Account) findELB(arn string) error {
	resource := shortARN(arn)
	var err error
	switch {
	case strings.HasPrefix(resource, "loadbalancer/"):
		_, err = a.loadBalancer(arn)
	case strings.HasPrefix(resource, "targetgroup/"):
		_, err = a.targetGroup(arn)
	case strings.HasPrefix(resource, "listener/"):
		_, err = a.listener(arn)
	default:
		err = fail(codeValidation, "'%s' is not a valid load balancer, target group or listener ARN", arn)
	}
	return err
}

// elbTags are the tags given on creation of an ELBv2 resource.
func elbTags(tags []tagInput) (map[string]string, error) {
	m, err := checkTags(tags, "DuplicateTagKeys", codeValidation)
	if err == nil && len(m) > maxTags {
		return nil, fail("TooManyTags", "The maximum number of tags of a resource is %d", maxTags)
	}
	return m, err
}
