package aws

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"

	fakeaws "github.com/fairway-lb/fairway/providers/fake/aws"
	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/plan"
)

// policyDocument is the IAM policy file of the documentation.
type policyDocument struct {
	Version   string
	Statement []struct {
		Sid, Effect string
		Action      []string
		Resource    any
		Condition   json.RawMessage `json:",omitempty"`
	}
}

func readPolicy(t interface {
	Helper()
	Fatalf(string, ...any)
}) policyDocument {
	t.Helper()
	text, err := os.ReadFile("../../docs/aws/iam-policy.json")
	if err != nil {
		t.Fatalf("%v", err)
	}
	var d policyDocument
	if err := json.Unmarshal([]byte(strings.ReplaceAll(string(text), "${CLUSTER_NAME}", "demo")), &d); err != nil {
		t.Fatalf("%v", err)
	}
	return d
}

// bound puts an account under a policy, which does not bind the operator. The
// nodes' group gets the tag by which the policy knows it.
func (d policyDocument) bound(w *fakeaws.World) {
	text, err := json.Marshal(d)
	if err != nil {
		panic(err)
	}
	w.Policies, w.Administrators = []json.RawMessage{text}, []string{operatorKey}
	w.SecurityGroups[0].Tags = map[string]string{"kubernetes.io/cluster/demo": "owned"}
}

// wholeLife takes a Service through everything that can be asked of the provider
// and returns the requests that were denied.
func wholeLife(b *bench) []string {
	b.Helper()
	settle := func(do func() (plan.Result, error)) {
		for deadline := time.Now().Add(10 * time.Minute); time.Now().Before(deadline); {
			_, err := do()
			if kind := lb.KindOf(err); err == nil || kind != lb.Pending && kind != lb.Throttled && kind != lb.Unavailable {
				return
			}
			time.Sleep(max(lb.RetryAfterOf(err), time.Second)) // in virtual time: this is the queue's own wait
		}
	}
	reach := func(s lb.Service) { settle(func() (plan.Result, error) { return b.engine.Reconcile(b.Context(), s) }) }

	s := service()
	reach(s)
	s.Targets = []lb.Target{node(1), node(2), node(4)}
	reach(s)
	s.Annotations = map[string]string{annotationPrefix + "healthcheck-interval": "20",
		annotationPrefix + "proxy-protocol": "*", annotationPrefix + "cross-zone-load-balancing-enabled": "true",
		annotationPrefix + "additional-resource-tags": "team=edge"}
	reach(s)
	b.restart("demo-uid") // which reads the attributes
	s.Annotations = map[string]string{}
	reach(s)
	s.Annotations[annotationPrefix+"subnets"] = fmt.Sprintf("subnet-0%015da,subnet-0%015da", 0, 1)
	reach(s)
	s.Ports[0].NodePort = 30081
	reach(s)
	s.Ports[0].Port = 81
	reach(s)
	if observed, err := b.provider.Observe(b.Context(), lb.ByService(s.ServiceRef)); err == nil {
		if i := slices.IndexFunc(observed, func(r lb.Resource) bool { return r.Kind == kindLoadBalancer }); i >= 0 {
			if _, err := b.operator.elb.SetSecurityGroups(b.Context(), &elb.SetSecurityGroupsInput{LoadBalancerArn: aws.String(observed[i].ID), SecurityGroups: []string{testNodes}}); err != nil {
				b.Error(err)
			}
		}
	}
	b.restart("demo-uid")
	reach(s)
	settle(func() (plan.Result, error) { return b.engine.Delete(b.Context(), s.ServiceRef) })

	var denied []string
	for _, c := range b.account.Calls().Calls() {
		if c.Code == "AccessDenied" || c.Code == "UnauthorizedOperation" {
			denied = append(denied, c.Operation)
		}
	}
	return denied
}

// TestPolicyIsEnough: a Service's whole life under the shipped policy, and nothing
// in the policy that it does not take.
func TestPolicyIsEnough(t *testing.T) {
	policy := readPolicy(t)
	simulate(t, func(b *bench) {
		if denied := wholeLife(b); len(denied) > 0 {
			t.Errorf("denied: %v\n%s", denied, b.log())
		}
		b.expectLeft()
		used := b.account.UsedActions()
		for _, s := range policy.Statement {
			for _, action := range s.Action {
				if !slices.Contains(used, action) {
					t.Errorf("statement %s allows %s, which nothing uses", s.Sid, action)
				}
			}
		}
	}, policy.bound)
}

// TestPolicyIsLeast: without any one of its statements, something is denied.
func TestPolicyIsLeast(t *testing.T) {
	for i, s := range readPolicy(t).Statement {
		t.Run(s.Sid, func(t *testing.T) {
			policy := readPolicy(t)
			policy.Statement = slices.Delete(policy.Statement, i, i+1)
			simulate(t, func(b *bench) {
				if denied := wholeLife(b); len(denied) == 0 {
					t.Error("nothing is denied without this statement")
				}
			}, policy.bound)
		})
	}
}
