package aws

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairway-lb/fairway/providers/fake"
	fakeaws "github.com/fairway-lb/fairway/providers/fake/aws"
	"github.com/fairway-lb/fairway/providers/lb"
)

func (b *bench) survey() lb.Survey {
	b.Helper()
	found, err := b.provider.Survey(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	return found
}

func numbered(n int) lb.Service {
	return service(func(s *lb.Service) {
		s.Name, s.UID = fmt.Sprintf("web-%d", n), fmt.Sprintf("uid-%d", n)
		s.Ports[0].NodePort = uint16(30100 + n)
	})
}

// TestSurvey: three lists show what belongs to whom, as far as lists show it, and
// as a look at each Service would.
func TestSurvey(t *testing.T) {
	const services = 20
	simulate(t, func(b *bench) {
		for n := range services {
			b.reconcile(numbered(n))
		}
		for _, more := range []int{2, 0} { // calls for the tags of 40 resources, once
			b.account.Calls().Reset()
			b.survey()
			counts := b.account.Calls().Counts()
			t.Logf("a survey of %d Services: %d reads, of which %d for tags", services, counts.Reads(), counts.Of("DescribeTags"))
			if counts.Reads() > 3+more || counts.Of("DescribeTags") != more || counts.Writes() > 0 {
				t.Errorf("a survey takes\n%s", counts)
			}
		}
		found := b.survey()
		for n := range services {
			s := numbered(n)
			seen := map[lb.Ref]lb.Resource{}
			for _, r := range b.observe(s) {
				seen[r.Ref] = r
			}
			for _, r := range slices.Concat(found.Services[s.ServiceRef], found.Cluster) {
				o := seen[r.Ref]
				if o.ID != r.ID || !slices.Equal(o.Owners, r.Owners) || !slices.Equal(o.DependsOn, r.DependsOn) || o.InUse != r.InUse {
					t.Errorf("the survey shows %+v, a look %+v", r, o)
				}
				for name, v := range r.Fields {
					if !o.Fields[name].Equal(v) {
						t.Errorf("%s of %s is %s in the survey, %s at a look", name, r.Ref, v, o.Fields[name])
					}
				}
				delete(seen, r.Ref)
			}
			for ref, o := range seen {
				if slices.Contains(found.Kinds, ref.Kind) && o.Owners[0].Kind != lb.Attached {
					t.Errorf("the survey does not show %s", ref)
				}
			}
		}
		if len(found.Services) != services {
			t.Errorf("%d Services are seen, there are %d", len(found.Services), services)
		}
	}, func(w *fakeaws.World) { w.Throttle = &fakeaws.Throttle{Off: true} })
}

// TestSurveyShowsHarm: what is missing, changed or left over, and nothing of
// others.
func TestSurveyShowsHarm(t *testing.T) {
	simulate(t, func(b *bench) {
		one, two, three := numbered(1), numbered(2), numbered(3)
		for _, s := range []lb.Service{one, two, three} {
			b.reconcile(s)
		}
		b.survey()
		if _, err := b.operator.elb.DeleteLoadBalancer(b.Context(), &elb.DeleteLoadBalancerInput{LoadBalancerArn: aws.String(b.find(one, kindLoadBalancer).ID)}); err != nil {
			t.Fatal(err)
		}
		if _, err := b.operator.elb.ModifyTargetGroup(b.Context(), &elb.ModifyTargetGroupInput{TargetGroupArn: aws.String(b.find(two, kindTargetGroup).ID), HealthCheckPort: aws.String("99")}); err != nil {
			t.Fatal(err)
		}
		if _, err := b.operator.elb.CreateLoadBalancer(b.Context(), &elb.CreateLoadBalancerInput{Name: aws.String(namePrefix + "theirs"),
			Type: elbtypes.LoadBalancerTypeEnumNetwork, Subnets: []string{"subnet-0000000000000000a"}}); err != nil {
			t.Fatal(err)
		}
		found := b.survey()
		kinds := func(s lb.Service) (all []lb.Kind) {
			for _, r := range found.Services[s.ServiceRef] {
				all = append(all, r.Kind)
			}
			slices.Sort(all)
			return all
		}
		if got := kinds(one); !slices.Equal(got, []lb.Kind{kindSecurityGroup, kindTargetGroup}) {
			t.Errorf("of the first are left %v", got)
		}
		i := slices.IndexFunc(found.Services[two.ServiceRef], func(r lb.Resource) bool { return r.Kind == kindTargetGroup })
		if i < 0 || found.Services[two.ServiceRef][i].Fields.Text("health-check-port") != "99" {
			t.Errorf("the change of the second is not seen: %+v", found.Services[two.ServiceRef])
		}
		if len(found.Services) != 3 || len(found.Cluster) != 1 {
			t.Errorf("seen: %v, and of the cluster %v", slices.Collect(maps.Keys(found.Services)), found.Cluster)
		}
		// To another cluster all of that is foreign.
		b.restart("another-uid")
		if found := b.survey(); len(found.Services)+len(found.Cluster) > 0 {
			t.Errorf("another cluster sees %+v", found)
		}
	})
}

// TestSurveyIsWhole: without one of its answers there is none.
func TestSurveyIsWhole(t *testing.T) {
	simulate(t, func(b *bench) {
		b.reconcile(service())
		for _, operation := range []string{"DescribeLoadBalancers", "DescribeTargetGroups", "DescribeSecurityGroups", "DescribeTags"} {
			b.restart("demo-uid")
			if err := b.account.Faults().Set([]fake.Fault{{Operation: operation, Kind: fake.FaultError, Code: "AccessDenied", Status: 403, Times: -1}}); err != nil {
				t.Fatal(err)
			}
			if found, err := b.provider.Survey(b.Context()); lb.KindOf(err) != lb.Denied || found.Services != nil {
				t.Errorf("without %s: %v, %v", operation, found, err)
			}
		}
	})
}

// TestRestartIsCheap: a controller that remembers only what its Services wanted
// finds all of them as they were by list calls, and one that is not.
func TestRestartIsCheap(t *testing.T) {
	const services = 40
	simulate(t, func(b *bench) {
		hashes := map[int]string{}
		for n := range services {
			hashes[n] = b.reconcile(numbered(n)).Hash
		}
		harmed := b.find(numbered(7), kindTargetGroup).ID
		if _, err := b.operator.elb.ModifyTargetGroup(b.Context(), &elb.ModifyTargetGroupInput{TargetGroupArn: &harmed, HealthCheckPort: aws.String("99")}); err != nil {
			t.Fatal(err)
		}
		b.restart("demo-uid")
		b.account.Calls().Reset()
		for n := range services {
			same, err := b.engine.Confirm(b.Context(), numbered(n), hashes[n])
			if err != nil || same != (n != 7) {
				t.Errorf("Service %d: %v, %v", n, same, err)
			}
		}
		// Four lists of facts, three of the survey, and the tags of 80 resources.
		if counts := b.account.Calls().Counts(); counts.Reads() > 4+3+4 || counts.Writes() > 0 {
			t.Errorf("%d Services take\n%s", services, counts)
		} else {
			t.Logf("%d Services take %d reads", services, counts.Reads())
		}
	}, func(w *fakeaws.World) { w.Throttle = &fakeaws.Throttle{Off: true} })
}
