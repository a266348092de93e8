package aws

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func TestWorldsAreStrict(t *testing.T) {
	data, err := os.ReadFile("testdata/world.yaml")
	if err != nil {
		t.Fatal(err)
	}
	good := string(data)
	tests := []struct{ name, old, new, want string }{
		{"unknown key", "publicPool:", "publicPoll:", "publicPoll"},
		{"unknown key inside", "public: true", "pubic: true", "pubic"},
		{"region", "region: eu-west-1", "region: europe", "europe"},
		{"account", `"111122223333"`, `"1111"`, "twelve digits"},
		{"VPC with host bits", "cidr: 10.0.0.0/16", "cidr: 10.0.0.1/16", "10.0.0.1/16"},
		{"pool inside the VPC", "203.0.113.0/24", "10.0.200.0/24", "publicPool"},
		{"subnet outside", "cidr: 10.0.16.0/20", "cidr: 10.1.16.0/20", "10.1.16.0/20"},
		{"subnets overlap", "cidr: 10.0.16.0/20", "cidr: 10.0.8.0/21", "clashes"},
		{"zone of another region", "zone: eu-west-1b", "zone: us-east-1b", "us-east-1b"},
		{"rule of an unknown group", "groups: [sg-0a00000000000000a]", "groups: [sg-0bbbbbbbbbbbbbbbb]", "sg-0bbbbbbbbbbbbbbbb"},
		{"rule protocol", "protocol: all, cidrs", "protocol: any, cidrs", `"any"`},
		{"group id", "- id: sg-0a00000000000000a", "- id: nodes", `"nodes"`},
		{"duration without unit", "provisioning: 2m", "provisioning: 2", "duration"},
		{"address outside of its subnet", "privateIP: 10.0.0.11", "privateIP: 10.0.16.12", "10.0.16.12"},
		{"instance twice", "id: i-0a000000000000002", "id: i-0a000000000000001", "there already"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			changed := strings.Replace(good, tt.old, tt.new, 1)
			if changed == good {
				t.Fatalf("testdata/world.yaml has no %q", tt.old)
			}
			w, err := ParseWorld([]byte(changed))
			if err == nil {
				_, err = New(w)
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one that says %s", err, tt.want)
			}
		})
	}
}

// TestWorldSurvivesYAML: a World made by a program can be handed on in a file.
func TestWorldSurvivesYAML(t *testing.T) {
	data, err := os.ReadFile("testdata/world.yaml")
	if err != nil {
		t.Fatal(err)
	}
	w, err := ParseWorld(data)
	if err != nil {
		t.Fatal(err)
	}
	under(shippedPolicy(t, "demo"))(&w)
	written, err := yaml.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseWorld(written)
	if err != nil {
		t.Fatalf("%v\n%s", err, written)
	}
	rewritten, err := yaml.Marshal(again)
	if err != nil || string(written) != string(rewritten) {
		t.Errorf("%v: written\n%s\nread and written again\n%s", err, written, rewritten)
	}
	if len(again.Policies) != 1 || len(again.Administrators) != 1 {
		t.Errorf("%d policies and %d administrators arrive", len(again.Policies), len(again.Administrators))
	}
}

func TestAdmin(t *testing.T) {
	c := newClient(t, atOnce)
	h := c.Admin()
	do := func(method, path, body string) (int, string) {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code, strings.TrimSpace(w.Body.String())
	}
	c.loadBalancerNamed("web")
	const fresh = `{"id": "i-0a000000000000009", "subnet": "` + subnetA + `", "privateIP": "10.0.0.19"}`
	for _, tt := range []struct {
		name, method, path, body string
		status                   int
		contains                 string
	}{
		{"log", "GET", "/_fake/calls", "", 200, `"operation": "CreateLoadBalancer"`},
		{"counts", "GET", "/_fake/calls?format=counts", "", 200, `"calls": 1`},
		{"text", "GET", "/_fake/calls?format=text", "", 200, "0 reads, 1 writes"},
		{"unknown format", "GET", "/_fake/calls?format=xml", "", 400, "xml"},
		{"leftovers", "GET", "/_fake/leftovers", "", 200, `"name": "web"`},
		{"violations", "GET", "/_fake/violations", "", 200, "[]"},
		{"data plane", "GET", "/_fake/dataplane", "", 200, `"Device": "node-1"`},
		{"log forgotten", "DELETE", "/_fake/calls", "", 204, ""},
		{"empty log", "GET", "/_fake/calls", "", 200, "[]"},
		{"instance", "POST", "/_fake/instances", fresh, 204, ""},
		{"instance again", "POST", "/_fake/instances", fresh, 422, "there already"},
		{"unknown field", "POST", "/_fake/instances", `{"colour": "red"}`, 400, "colour"},
		{"stopped", "PUT", "/_fake/instances/i-0a000000000000009", `{"state": "stopped"}`, 204, ""},
		{"asleep", "PUT", "/_fake/instances/i-0a000000000000009", `{"state": "asleep"}`, 422, "asleep"},
		{"gone", "DELETE", "/_fake/instances/i-0a000000000000009", "", 204, ""},
		{"gone already", "DELETE", "/_fake/instances/i-0a000000000000009", "", 422, "no instance"},
		{"faults", "PUT", "/_fake/faults", `[{"operation": "Describe*", "kind": "throttle"}]`, 204, ""},
		{"wrong faults", "PUT", "/_fake/faults", `[{"kind": "explode"}]`, 422, "explode"},
		{"unknown page", "GET", "/_fake/else", "", 404, ""},
	} {
		status, body := do(tt.method, tt.path, tt.body)
		if status != tt.status || !strings.Contains(body, tt.contains) {
			t.Errorf("%s: %d %s, want %d with %q", tt.name, status, body, tt.status, tt.contains)
		}
	}
	c.wants("Throttling", "DescribeLoadBalancers")
	var left []Resource
	if _, body := do(http.MethodGet, "/_fake/leftovers", ""); json.Unmarshal([]byte(body), &left) != nil || len(left) != 1 {
		t.Errorf("leftovers do not read back: %s", body)
	}
}
