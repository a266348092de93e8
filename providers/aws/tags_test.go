package aws

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/plan"
)

// userTags returns, by kind and then key, the tags of what s has besides the
// marks.
func (b *bench) userTags(s lb.Service) map[lb.Kind]map[string]string {
	b.Helper()
	all := map[lb.Kind]map[string]string{}
	for _, r := range b.observe(s) {
		var tags map[string]string
		switch {
		case !r.OwnedBy(lb.ByService(s.ServiceRef)) || r.Kind == kindTargets:
			continue
		case r.Kind == kindSecurityGroup:
			groups, err := b.provider.listSecurityGroups(b.Context(), ec2types.Filter{Name: aws.String("group-id"), Values: []string{r.ID}})
			if err != nil {
				b.Fatal(err)
			}
			tags = ec2Tags(groups[0].Tags)
		default:
			found, err := b.provider.tagsOf(b.Context(), []string{r.ID})
			if err != nil {
				b.Fatal(err)
			}
			tags = found[r.ID]
		}
		maps.DeleteFunc(tags, func(key, _ string) bool { return strings.HasPrefix(key, markPrefix) })
		all[r.Kind] = tags
	}
	return all
}

// tag puts tags on everything that s alone has, as somebody else would.
func (b *bench) tag(s lb.Service, tags map[string]string) {
	b.Helper()
	for _, r := range b.observe(s) {
		if !r.OwnedBy(lb.ByService(s.ServiceRef)) || r.Kind == kindTargets {
			continue
		}
		tag := b.provider.addTags
		if r.Kind == kindSecurityGroup {
			tag = b.provider.addEC2Tags
		}
		if err := tag(b.Context(), r.Ref, r.ID, tags); err != nil {
			b.Fatal(err)
		}
	}
}

// operatorTags puts tags on something of EC2, as somebody else.
func (b *bench) operatorTags(id string, tags map[string]string) error {
	_, err := b.operator.ec2.CreateTags(b.Context(), &ec2.CreateTagsInput{Resources: []string{id}, Tags: toEC2Tags(tags)})
	return err
}

func (b *bench) operatorUntag(id string, tags map[string]string) error {
	_, err := b.operator.ec2.DeleteTags(b.Context(), &ec2.DeleteTagsInput{Resources: []string{id}, Tags: toEC2Tags(tags)})
	return err
}

var taggedKinds = []lb.Kind{kindSecurityGroup, kindLoadBalancer, kindTargetGroup, kindListener}

func (b *bench) expectTags(s lb.Service, want map[string]string) {
	b.Helper()
	got := b.userTags(s)
	for _, kind := range taggedKinds {
		if !maps.Equal(got[kind], want) {
			b.Errorf("%s has tags %v, want %v", kind, got[kind], want)
		}
	}
}

// TestTags: what configuration and Service ask for is added, changed and removed
// on everything made; what others put on stays.
func TestTags(t *testing.T) {
	simulate(t, func(b *bench) {
		with := func(tags string) lb.Service { return service(annotate("additional-resource-tags", tags)) }
		configured := func(tags map[string]string) func(*Config) { return func(c *Config) { c.Tags = tags } }
		b.restart("demo-uid", configured(map[string]string{"owner": "platform"}))
		_, writes := b.perform(with("team=edge, cost=a=b"))
		if slices.Contains(writes, "AddTags") || slices.Contains(writes, "CreateTags") {
			t.Errorf("tags are not given on creation: %v", writes)
		}
		b.expectTags(service(), map[string]string{"owner": "platform", "team": "edge", "cost": "a=b"})
		b.settled(with("cost=a=b,team=edge"))

		b.tag(service(), map[string]string{"theirs": "1", "stage": "old"})
		b.settled(with("team=edge,cost=a=b"))
		// One more, one changed, one fewer; and one that somebody had set.
		b.reconcile(with("team=core,stage=new"))
		b.expectTags(service(), map[string]string{"owner": "platform", "team": "core", "stage": "new", "theirs": "1"})
		b.settled(with("team=core,stage=new"))

		b.tag(service(), map[string]string{"team": "other"})
		b.reconcile(with("team=core,stage=new"))
		b.expectTags(service(), map[string]string{"owner": "platform", "team": "core", "stage": "new", "theirs": "1"})

		b.reconcile(service())
		b.expectTags(service(), map[string]string{"owner": "platform", "theirs": "1"})
		b.settled(service())

		b.restart("demo-uid", configured(map[string]string{"unit": "7"}))
		r := b.reconcile(service())
		b.expectTags(service(), map[string]string{"unit": "7", "theirs": "1"})
		if !strings.Contains(r.Plan.String(), "security-group backend@"+testVPC) {
			t.Errorf("the cluster's group keeps its tags:\n%s", r.Plan)
		}
		b.settled(service())
		b.restart("demo-uid")
		b.reconcile(service())
		b.expectTags(service(), map[string]string{"theirs": "1"})
		b.settled(service())
		for _, r := range b.observe(service()) {
			if len(r.Fields["tags"]) > 0 {
				t.Errorf("%s has %s", r.Ref, r.Fields["tags"])
			}
		}
		b.remove(service())
	})
}

// TestTagsAfterACrash: whichever call was the last, no tag of ours becomes
// somebody else's.
func TestTagsAfterACrash(t *testing.T) {
	before, after := service(annotate("additional-resource-tags", "a=1,b=2,c=3")), service(annotate("additional-resource-tags", "a=1,b=9,d=4"))
	for k := 1; k <= 16; k++ {
		simulate(t, func(b *bench) {
			b.reconcile(before)
			b.failFrom(k)
			if _, err := b.engine.Reconcile(b.Context(), after); err == nil && k < 14 {
				t.Errorf("call %d did not fail", k)
			}
			b.failFrom(0)
			b.restart("demo-uid")
			b.settle(func() (plan.Result, error) { return b.engine.Reconcile(b.Context(), after) })
			b.expectTags(after, map[string]string{"a": "1", "b": "9", "d": "4"})
			b.settled(after)
		})
	}
}

// TestManyTags: as many as can be asked for fit beside the marks.
func TestManyTags(t *testing.T) {
	list := func(n int) string {
		var tags []string
		for i := range n {
			tags = append(tags, fmt.Sprintf("%s-%d=%s", strings.Repeat("k", 120), i, strings.Repeat("v", 256)))
		}
		return strings.Join(tags, ",")
	}
	simulate(t, func(b *bench) {
		s := service(annotate("additional-resource-tags", list(maxUserTags), "proxy-protocol", "*"))
		b.reconcile(s)
		b.settled(s)
		if got := len(b.userTags(s)[kindTargetGroup]); got != maxUserTags {
			t.Errorf("%d tags, want %d", got, maxUserTags)
		}
		b.remove(s)
		if _, err := b.engine.Reconcile(b.Context(), service(annotate("additional-resource-tags", list(maxUserTags+1)))); lb.KindOf(err) != lb.Invalid {
			t.Errorf("got %v, want Invalid", err)
		}
	})
}

func TestTagsRefused(t *testing.T) {
	cfg := testConfig()
	cfg.Tags = map[string]string{"owner": "platform"}
	for value, says := range map[string]string{
		"team":                      "key=value",
		"":                          "key=value",
		"=edge":                     "key=value",
		"team=a,team=b":             `both "a" and "b"`,
		"aws:x=y":                   "reserved",
		"fairway.io/cluster=y":      "reserved",
		"team=a;b":                  "not a tag that can be set",
		"owner=me":                  `"platform" on everything of this cluster`,
		"owner=platform,team=edge":  "",
		"team=" + longText(257):     "not a tag that can be set",
		longText(129) + "=x":        "not a tag that can be set",
		"kubernetes.io/x=y, z = zz": "",
	} {
		_, err := parseAnnotations(service(annotate("additional-resource-tags", value)), cfg)
		if says == "" && err != nil || says != "" && (lb.KindOf(err) != lb.Invalid || err == nil || !strings.Contains(err.Error(), says)) {
			t.Errorf("%q: got %v, want %q", value, err, says)
		}
	}
}

func longText(n int) string { return strings.Repeat("x", n) }
