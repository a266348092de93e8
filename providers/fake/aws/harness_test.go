package aws

import (
	"encoding/xml"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
)

// Things of testdata/world.yaml.
const (
	vpcID     = "vpc-0fa1fa1fa1fa1fa10"
	subnetA   = "subnet-0a0000000000000a1"
	subnetB   = "subnet-0a0000000000000b1"
	subnetC   = "subnet-0a0000000000000c1"
	privateA  = "subnet-0a0000000000000a2"
	nodeGroup = "sg-0a00000000000000a"
	node1     = "i-0a000000000000001"
	node2     = "i-0a000000000000002"
	node3     = "i-0a000000000000003"
	eip       = "eipalloc-0e000000000000001"
)

// client asks an account over the wire, without any SDK.
type client struct {
	*Account
	t testing.TB
	// accessKey is whose requests they are.
	accessKey string
}

// newClient returns a client of an account with testdata/world.yaml, changed by
// edit.
func newClient(t testing.TB, edit ...func(*World)) client {
	t.Helper()
	data, err := os.ReadFile("testdata/world.yaml")
	if err != nil {
		t.Fatal(err)
	}
	w, err := ParseWorld(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range edit {
		e(&w)
	}
	a, err := New(w)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return client{Account: a, t: t, accessKey: ownKey}
}

// atOnce makes the cloud take no time and never throttle.
func atOnce(w *World) {
	w.Timing = Timing{}
	w.Throttle = &Throttle{Off: true}
}

// reply is an answer; text and texts find elements by their local names.
type reply struct {
	status int
	body   string
	code   string
}

// ask sends one request: an operation and its parameters as pairs "Name=value".
func (c client) ask(operation string, parameters ...string) reply {
	c.t.Helper()
	s := elbService
	if ec2Service.operations[operation] != nil {
		s = ec2Service
	} else if stsService.operations[operation] != nil {
		s = stsService
	}
	form := url.Values{"Action": {operation}, "Version": {s.version}}
	for _, p := range parameters {
		name, value, ok := strings.Cut(p, "=")
		if !ok {
			c.t.Fatalf("parameter %q is not name=value", p)
		}
		form.Add(name, value)
	}
	r := c.send(form.Encode(), authorization(c.accessKey, s.name, "eu-west-1"))
	if r.status == http.StatusOK {
		mistakes, err := c.model.CheckAnswer(s.name, operation, []byte(r.body))
		if err != nil || len(mistakes) > 0 {
			c.t.Errorf("%s %q is answered as AWS does not: %q %v\n%s", operation, parameters, mistakes, err, r.body)
		}
	}
	return r
}

// ownKey is the access key of requests by default.
const ownKey = "AKIDEXAMPLE"

func authorization(accessKey, service, region string) string {
	return fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s/20260102/%s/%s/aws4_request, SignedHeaders=host;x-amz-date, Signature=00", accessKey, region, service)
}

func (c client) send(form, authorization string) reply {
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(form))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	w := httptest.NewRecorder()
	c.ServeHTTP(w, r)
	out := reply{status: w.Code, body: w.Body.String()}
	if w.Code != http.StatusOK {
		out.code = out.text("Code")
	}
	return out
}

func (c client) serve(r *http.Request) int {
	w := httptest.NewRecorder()
	c.ServeHTTP(w, r)
	return w.Code
}

// must is ask for a request that has to succeed.
func (c client) must(operation string, parameters ...string) reply {
	c.t.Helper()
	r := c.ask(operation, parameters...)
	if r.status != http.StatusOK {
		c.t.Fatalf("%s %q: %d\n%s", operation, parameters, r.status, r.body)
	}
	return r
}

// wants fails unless the request is answered with this error code; "" is success.
func (c client) wants(code, operation string, parameters ...string) {
	c.t.Helper()
	if r := c.ask(operation, parameters...); r.code != code {
		c.t.Errorf("%s %q: answered %q, want %q\n%s", operation, parameters, r.code, code, r.body)
	}
}

func (r reply) texts(name string) []string {
	var found []string
	d := xml.NewDecoder(strings.NewReader(r.body))
	for {
		token, err := d.Token()
		if err != nil {
			return found
		}
		start, ok := token.(xml.StartElement)
		if !ok || start.Name.Local != name {
			continue
		}
		var text string
		if d.DecodeElement(&text, &start) == nil {
			found = append(found, strings.TrimSpace(text))
		}
	}
}

func (r reply) text(name string) string {
	if all := r.texts(name); len(all) > 0 {
		return all[0]
	}
	return ""
}

// numbered spells a list: numbered("Names.member", "a", "b").
func numbered(prefix string, values ...string) []string {
	var parameters []string
	for i, v := range values {
		parameters = append(parameters, fmt.Sprintf("%s.%d=%s", prefix, i+1, v))
	}
	return parameters
}

func join(lists ...[]string) []string {
	var all []string
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// Short ways to the things most tests need.

func (c client) loadBalancerNamed(name string, more ...string) (arn string) {
	c.t.Helper()
	parameters := join([]string{"Name=" + name, "Type=network"}, numbered("Subnets.member", subnetA, subnetB), more)
	return c.must("CreateLoadBalancer", parameters...).text("LoadBalancerArn")
}

func (c client) targetGroupNamed(name, protocol string, more ...string) (arn string) {
	c.t.Helper()
	parameters := join([]string{"Name=" + name, "Protocol=" + protocol, "Port=30080", "VpcId=" + vpcID}, more)
	return c.must("CreateTargetGroup", parameters...).text("TargetGroupArn")
}

func (c client) listen(loadBalancer, targetGroup, protocol, port string) (arn string) {
	c.t.Helper()
	return c.must("CreateListener", forward(loadBalancer, targetGroup, protocol, port)...).text("ListenerArn")
}

func forward(loadBalancer, targetGroup, protocol, port string) []string {
	return []string{
		"LoadBalancerArn=" + loadBalancer, "Protocol=" + protocol, "Port=" + port,
		"DefaultActions.member.1.Type=forward", "DefaultActions.member.1.TargetGroupArn=" + targetGroup,
	}
}

func (c client) groupNamed(name string) (id string) {
	c.t.Helper()
	return c.must("CreateSecurityGroup", "GroupName="+name, "GroupDescription=test", "VpcId="+vpcID).text("groupId")
}

// permission spells the first IpPermissions of a request.
func permission(protocol, from, to string, source ...string) []string {
	p := []string{"IpPermissions.1.IpProtocol=" + protocol}
	if from != "" {
		p = append(p, "IpPermissions.1.FromPort="+from, "IpPermissions.1.ToPort="+to)
	}
	for _, s := range source {
		p = append(p, "IpPermissions.1."+s)
	}
	return p
}

// states are the states of a group's targets in order.
func (c client) states(targetGroup string) string {
	c.t.Helper()
	return strings.Join(c.must("DescribeTargetHealth", "TargetGroupArn="+targetGroup).texts("State"), " ")
}
