package aws

import (
	"context"
	"maps"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/fairway-lb/fairway/providers/lb"
)

// securityGroups drives the frontend groups and the backend group.
type securityGroups struct{ *Provider }

func (d securityGroups) create(ctx context.Context, want lb.Resource, known lb.Lookup) (lb.Resource, error) {
	out, err := d.ec2.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{
		GroupName:   aws.String(want.Fields.Text("name")),
		Description: aws.String(d.description(want)),
		VpcId:       aws.String(want.Fields.Text("vpc")),
		TagSpecifications: []ec2types.TagSpecification{
			{ResourceType: ec2types.ResourceTypeSecurityGroup, Tags: toEC2Tags(d.marks.tags(want))}},
	})
	if isCode(err, "InvalidGroup.Duplicate") {
		return d.adopt(ctx, want, known, err)
	}
	if err != nil {
		return lb.Resource{}, failed("create", want.Ref, err)
	}
	want.ID = aws.ToString(out.GroupId)
	edit := ingressEdit{Provider: d.Provider, ref: want.Ref, group: want.ID, description: d.description(want), mine: anyRule, known: known}
	err = untilVisible(ctx, func() error { return edit.apply(ctx, nil, want.Fields["ingress"]) })
	if lb.KindOf(err) == lb.NotFound {
		err = notYetVisible("create", want.Ref, err)
	}
	return want, err
}

// adopt takes over the group that has the wanted name, if it is ours.
func (d securityGroups) adopt(ctx context.Context, want lb.Resource, known lb.Lookup, cause error) (lb.Resource, error) {
	groups, err := d.listSecurityGroups(ctx,
		ec2types.Filter{Name: aws.String("group-name"), Values: []string{want.Fields.Text("name")}},
		ec2types.Filter{Name: aws.String("vpc-id"), Values: []string{want.Fields.Text("vpc")}})
	if err != nil {
		return lb.Resource{}, err
	}
	if len(groups) == 0 {
		return lb.Resource{}, notYetVisible("create", want.Ref, cause)
	}
	g := groups[0]
	if !d.marks.owns(ec2Tags(g.Tags), want) {
		return lb.Resource{}, foreign(want.Ref, want.Fields.Text("name"), aws.ToString(g.GroupId))
	}
	have := lb.Resource{ID: aws.ToString(g.GroupId), Fields: lb.Fields{
		"name": want.Fields["name"], "vpc": want.Fields["vpc"],
		"ingress": lb.Set(rulesIn(g, anyRule, sameName)...), "tags": ourTags(ec2Tags(g.Tags)),
	}}
	return adopt(ctx, d, have, want, known)
}

func (d securityGroups) update(ctx context.Context, c lb.Change, known lb.Lookup) (lb.Resource, error) {
	if err := unchangeable(c, "name", "vpc"); err != nil {
		return lb.Resource{}, err
	}
	if c.Changes("ingress") {
		edit := ingressEdit{Provider: d.Provider, ref: c.Ref(), group: c.Before.ID, description: d.description(c.After), mine: anyRule, known: known}
		if err := edit.apply(ctx, c.Before.Fields["ingress"], c.After.Fields["ingress"]); err != nil {
			return lb.Resource{}, err
		}
	}
	return changed(c), d.retag(ctx, c)
}

func (d securityGroups) delete(ctx context.Context, have lb.Resource, _ lb.Lookup) error {
	_, err := d.ec2.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: &have.ID})
	if err == nil || isCode(err, "InvalidGroup.NotFound") {
		return nil
	}
	e := failed("delete", have.Ref, err)
	if e.Code == "DependencyViolation" {
		e.Message = "interfaces of a deleted load balancer still use it, which AWS takes a minute or two to clear"
	}
	return e
}

// maxDescription is EC2's limit for descriptions of groups and rules.
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateSecurityGroup.html
const maxDescription = 255

// description tells people in the console what a group is for. It cannot be
// changed later and is not compared.
func (d securityGroups) description(r lb.Resource) string {
	text := "Fairway, cluster " + d.names.cluster.Name + ": "
	for _, o := range r.Owners {
		if o.Kind == lb.OwnedByService {
			text += "clients of Service " + o.Service.String()
			return text[:min(len(text), maxDescription)]
		}
	}
	return text + "what its load balancers send to nodes"
}

func toEC2Tags(tags map[string]string) []ec2types.Tag {
	var list []ec2types.Tag
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		list = append(list, ec2types.Tag{Key: aws.String(k), Value: aws.String(tags[k])})
	}
	return list
}

// nodeRules drives our rules in the nodes' groups; whatever else is in there is
// not ours.
type nodeRules struct{ *Provider }

func (d nodeRules) edit(r lb.Resource, known lb.Lookup) ingressEdit {
	mine := func(description string) bool { return description == d.marks.rule() }
	return ingressEdit{Provider: d.Provider, ref: r.Ref, group: r.Parent.Key, description: d.marks.rule(), mine: mine, known: known}
}

func (d nodeRules) create(ctx context.Context, want lb.Resource, known lb.Lookup) (lb.Resource, error) {
	want.ID = want.Parent.Key
	err := untilVisible(ctx, func() error { return d.edit(want, known).apply(ctx, nil, want.Fields["ingress"]) })
	if lb.KindOf(err) == lb.NotFound {
		// Either the backend group is too new to be seen, or the nodes' group is
		// gone, which reading the facts again will tell.
		err = notYetVisible("create", want.Ref, err)
		d.facts.forget()
	}
	return want, err
}

func (d nodeRules) update(ctx context.Context, c lb.Change, known lb.Lookup) (lb.Resource, error) {
	return changed(c), d.edit(c.After, known).apply(ctx, c.Before.Fields["ingress"], c.After.Fields["ingress"])
}

func (d nodeRules) delete(ctx context.Context, have lb.Resource, known lb.Lookup) error {
	return d.edit(have, known).apply(ctx, have.Fields["ingress"], nil)
}

func sameName(id string) string { return id }

// ingressEdit changes the rules of one group.
type ingressEdit struct {
	*Provider
	ref         lb.Ref
	group       string
	description string
	// mine tells by its description which rule of the group is ours.
	mine  func(description string) bool
	known lb.Lookup
}

// apply adds what want has and have lacks, and removes the reverse. When the
// group proves to be other than have, it is read again, once.
func (e ingressEdit) apply(ctx context.Context, have, want []string) error {
	want, err := e.resolved(want)
	if err != nil {
		return err
	}
	if have, err = e.resolved(have); err != nil {
		return err
	}
	err = e.change(ctx, missing(want, have), missing(have, want))
	if !isCode(err, "InvalidPermission.Duplicate", "InvalidPermission.NotFound") {
		return err
	}
	groups, err := e.listSecurityGroups(ctx, ec2types.Filter{Name: aws.String("group-id"), Values: []string{e.group}})
	if err != nil {
		return err
	}
	if len(groups) == 0 {
		return &lb.Error{Kind: lb.NotFound, Op: "change rules of", Resource: e.ref, Message: e.group + " does not exist"}
	}
	all := rulesIn(groups[0], anyRule, sameName)
	ours := rulesIn(groups[0], e.mine, sameName)
	return e.change(ctx, missing(want, all), missing(ours, want))
}

// resolved names groups in rules by ID, not by reference.
func (e ingressEdit) resolved(rules []string) ([]string, error) {
	out := make([]string, 0, len(rules))
	for _, text := range rules {
		r, err := parseRule(text)
		if err != nil {
			return nil, &lb.Error{Kind: lb.Invalid, Op: "change rules of", Resource: e.ref, Err: err}
		}
		if r.source, err = lookup(e.known, r.source); err != nil {
			return nil, err
		}
		out = append(out, r.String())
	}
	return out, nil
}

// change adds before it removes, so that no client is shut out in between,
// except where the group is too full for that.
func (e ingressEdit) change(ctx context.Context, add, remove []string) error {
	err := e.authorize(ctx, add)
	if isCode(err, "RulesPerSecurityGroupLimitExceeded") && len(remove) > 0 {
		if err := e.revoke(ctx, remove); err != nil {
			return err
		}
		return e.authorize(ctx, add)
	}
	if err != nil {
		return err
	}
	return e.revoke(ctx, remove)
}

func (e ingressEdit) authorize(ctx context.Context, rules []string) error {
	if len(rules) == 0 {
		return nil
	}
	permissions, err := permissions(rules, e.description)
	if err != nil {
		return &lb.Error{Kind: lb.Invalid, Op: "add rules to", Resource: e.ref, Err: err}
	}
	if _, err = e.ec2.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &e.group, IpPermissions: permissions}); err != nil {
		return failed("add rules to", e.ref, err)
	}
	return nil
}

func (e ingressEdit) revoke(ctx context.Context, rules []string) error {
	if len(rules) == 0 {
		return nil
	}
	permissions, err := permissions(rules, "")
	if err != nil {
		return &lb.Error{Kind: lb.Invalid, Op: "remove rules from", Resource: e.ref, Err: err}
	}
	_, err = e.ec2.RevokeSecurityGroupIngress(ctx, &ec2.RevokeSecurityGroupIngressInput{GroupId: &e.group, IpPermissions: permissions})
	if err == nil || isCode(err, "InvalidGroup.NotFound") {
		return nil
	}
	return failed("remove rules from", e.ref, err)
}
