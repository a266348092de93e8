package aws

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairway-lb/fairway/providers/lb"
)

// Tags that operators and Services ask for are the field "tags" of what is made,
// a set of "key=value". Which of a resource's tags that are is told by markTags:
// all others are somebody else's and stay.

// maxUserTags leaves room for the marks among the 50 tags of a resource, and for
// all keys in markTags.
// https://docs.aws.amazon.com/general/latest/gr/elb.html
const maxUserTags = 40

// checkTag says what is wrong with a tag, nil when it can be one.
func checkTag(key, value string) error {
	switch {
	case key == "" || len(key) > 128 || len(value) > 256 || !tagText.MatchString(key) || !tagText.MatchString(value) || strings.Contains(key, "="):
		return fmt.Errorf("%q=%q is not a tag that can be set", key, value)
	case strings.HasPrefix(strings.ToLower(key), "aws:") || strings.HasPrefix(key, markPrefix):
		return fmt.Errorf("the key %q is reserved", key)
	default:
		return nil
	}
}

func parseTags(o *options, value string) error {
	items, err := parseList(value, func(s string) bool { return strings.Index(s, "=") > 0 }, "key=value")
	if err != nil {
		return err
	}
	o.tags = map[string]string{}
	for _, item := range items {
		key, v, _ := strings.Cut(item, "=")
		key, v = strings.TrimSpace(key), strings.TrimSpace(v)
		if err := checkTag(key, v); err != nil {
			return err
		}
		if have, twice := o.tags[key]; twice {
			return fmt.Errorf("%s is both %q and %q", key, have, v)
		}
		if all, set := o.config.Tags[key]; set && all != v {
			return fmt.Errorf("%s is %q on everything of this cluster, by its configuration", key, all)
		}
		o.tags[key] = v
	}
	all := maps.Clone(o.config.Tags)
	if all == nil {
		all = map[string]string{}
	}
	if maps.Copy(all, o.tags); len(all) > maxUserTags {
		return fmt.Errorf("with those of the configuration %d tags are asked for, at most %d fit", len(all), maxUserTags)
	}
	return nil
}

// tagField returns the field "tags" of several maps of tags together.
func tagField(maps ...map[string]string) lb.Value {
	var items []string
	for _, tags := range maps {
		for key, value := range tags {
			items = append(items, key+"="+value)
		}
	}
	return lb.Set(items...)
}

// keyMark stands for a tag's key in markTags, whose value has room for 256
// characters only.
func keyMark(key string) string { return digest(6, "tag", key) }

// listed is the value of markTags for a field "tags".
func listed(field lb.Value) string {
	var all strings.Builder
	for _, item := range field {
		key, _, _ := strings.Cut(item, "=")
		all.WriteString(keyMark(key))
	}
	return all.String()
}

// ourTags returns the field "tags" of what carries these tags.
func ourTags(tags map[string]string) lb.Value {
	ours := map[string]bool{}
	for chunk := range slices.Chunk([]byte(tags[markTags]), len(keyMark(""))) {
		ours[string(chunk)] = true
	}
	set := map[string]string{}
	for key, value := range tags {
		if ours[keyMark(key)] {
			set[key] = value
		}
	}
	return tagField(set)
}

// tagChanges returns what to remove, and then to set, to get from one field
// "tags" to another. What is set comes with markTags, so that no tag of ours is
// ever without it.
func tagChanges(before, after lb.Value) (remove []string, set map[string]string) {
	set = map[string]string{}
	for _, item := range missing(after, before) {
		key, value, _ := strings.Cut(item, "=")
		set[key] = value
	}
	for _, item := range before {
		key, _, _ := strings.Cut(item, "=")
		if !slices.ContainsFunc(after, func(s string) bool { return strings.HasPrefix(s, key+"=") }) {
			remove = append(remove, key)
		}
	}
	if len(after) == 0 {
		return append(remove, markTags), set
	}
	set[markTags] = listed(after)
	return remove, set
}

// retag makes the change of the field "tags" of c, if it has one.
func (p *Provider) retag(ctx context.Context, c lb.Change) error {
	if !c.Changes("tags") {
		return nil
	}
	remove, set := tagChanges(c.Before.Fields["tags"], c.After.Fields["tags"])
	id := c.Before.ID
	untag, tag := p.removeTags, p.addTags
	if c.Ref().Kind == kindSecurityGroup {
		untag, tag = p.removeEC2Tags, p.addEC2Tags
	}
	if len(remove) > 0 {
		if err := untag(ctx, c.Ref(), id, remove); err != nil {
			return err
		}
	}
	if len(set) == 0 {
		return nil
	}
	return tag(ctx, c.Ref(), id, set)
}

func (p *Provider) addTags(ctx context.Context, ref lb.Ref, arn string, tags map[string]string) error {
	_, err := p.elb.AddTags(ctx, &elb.AddTagsInput{ResourceArns: []string{arn}, Tags: toPairs[elbtypes.Tag](tags)})
	if err != nil {
		return failed("tag", ref, err)
	}
	return nil
}

func (p *Provider) removeTags(ctx context.Context, ref lb.Ref, arn string, keys []string) error {
	_, err := p.elb.RemoveTags(ctx, &elb.RemoveTagsInput{ResourceArns: []string{arn}, TagKeys: keys})
	if err != nil {
		return failed("remove tags of", ref, err)
	}
	return nil
}

func (p *Provider) addEC2Tags(ctx context.Context, ref lb.Ref, id string, tags map[string]string) error {
	_, err := p.ec2.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{id}, Tags: toEC2Tags(tags)})
	if err != nil {
		return failed("tag", ref, err)
	}
	return nil
}

func (p *Provider) removeEC2Tags(ctx context.Context, ref lb.Ref, id string, keys []string) error {
	var tags []ec2types.Tag
	for _, key := range keys {
		tags = append(tags, ec2types.Tag{Key: aws.String(key)})
	}
	_, err := p.ec2.DeleteTags(ctx, &ec2.DeleteTagsInput{Resources: []string{id}, Tags: tags})
	if err != nil {
		return failed("remove tags of", ref, err)
	}
	return nil
}
