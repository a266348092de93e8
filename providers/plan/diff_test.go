package plan

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairway-lb/fairway/providers/lb"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var web = lb.ServiceRef{Namespace: "default", Name: "web", UID: "u1"}

func mine() []lb.Owner { return []lb.Owner{lb.ByService(web)} }

func ref(kind lb.Kind, key string) lb.Ref { return lb.Ref{Kind: kind, Key: key} }

// stack is a load balancer as a provider would want it: a group of the cluster,
// a group of the Service, a balancer in both, a target group with its targets
// and a listener that needs them.
func stack() []lb.Resource {
	backend := ref("security-group", "backend")
	frontend := ref("security-group", "default/web")
	balancer := ref("load-balancer", "default/web")
	group := ref("target-group", "default/web:80")
	targets := ref("targets", "default/web:80")
	return []lb.Resource{
		{Ref: ref("listener", "default/web:80"), Owners: mine(), Parent: balancer, DependsOn: []lb.Ref{group, targets},
			Fields: lb.Fields{"protocol": lb.Text("TCP"), "target-group": lb.Text(group.String())}},
		{Ref: balancer, Owners: mine(), DependsOn: []lb.Ref{frontend, backend},
			Fields: lb.Fields{"subnets": lb.Set("b", "a"), "scheme": lb.Text("internal")}},
		{Ref: targets, Owners: mine(), Parent: group, Brake: "instances", Fields: lb.Fields{"instances": lb.Set("i-1", "i-2")}},
		{Ref: group, Owners: mine(), Fields: lb.Fields{"health-check-port": lb.Number(10256)}},
		{Ref: frontend, Owners: mine(), Fields: lb.Fields{"ingress": lb.Set("tcp/80 from 0.0.0.0/0")}},
		{Ref: backend, Owners: []lb.Owner{lb.ByCluster()}, InUse: true, Fields: lb.Fields{}},
	}
}

// observedStack is stack as a cloud would show it: with IDs and with fields
// that nobody asked for.
func observedStack() []lb.Resource {
	seen := stack()
	for i := range seen {
		seen[i].ID = "id-" + seen[i].Key
		fields := lb.Fields{"created": lb.Text("today")}
		for name, v := range seen[i].Fields {
			fields[name] = v
		}
		seen[i].Fields = fields
	}
	return seen
}

func edit(resources []lb.Resource, r lb.Ref, change func(*lb.Resource)) []lb.Resource {
	for i := range resources {
		if resources[i].Ref == r {
			change(&resources[i])
		}
	}
	return resources
}

func except(resources []lb.Resource, kinds ...lb.Kind) []lb.Resource {
	var rest []lb.Resource
	for _, r := range resources {
		keep := true
		for _, k := range kinds {
			keep = keep && r.Kind != k
		}
		if keep {
			rest = append(rest, r)
		}
	}
	return rest
}

func sharedBy(names ...string) []lb.Owner {
	var owners []lb.Owner
	for _, n := range names {
		owners = append(owners, lb.Owner{Kind: lb.OwnedByServices, Service: lb.ServiceRef{Namespace: "default", Name: n, UID: n}})
	}
	return owners
}

// share is one load balancer of several Services with a listener of one of them.
func share(id, port, scheme string, owners []lb.Owner, listener string) []lb.Resource {
	balancer := ref("load-balancer", "shared")
	return []lb.Resource{
		{Ref: balancer, ID: id, Owners: owners, Fields: lb.Fields{"scheme": lb.Text(scheme)}},
		{Ref: ref("listener", "shared:"+port), ID: id, Parent: balancer,
			Owners: []lb.Owner{lb.ByService(lb.ServiceRef{Namespace: "default", Name: listener, UID: listener})}, Fields: lb.Fields{}},
	}
}

func scope(name string) lb.Owner {
	return lb.ByService(lb.ServiceRef{Namespace: "default", Name: name, UID: name})
}

func TestDiff(t *testing.T) {
	moved := func() []lb.Resource { // port 80 becomes 81
		d := except(stack(), "listener", "target-group", "targets")
		return append(d,
			lb.Resource{Ref: ref("listener", "default/web:81"), Owners: mine(), Parent: ref("load-balancer", "default/web"),
				DependsOn: []lb.Ref{ref("target-group", "default/web:81")}, Fields: lb.Fields{"protocol": lb.Text("UDP")}},
			lb.Resource{Ref: ref("target-group", "default/web:81"), Owners: mine(), Fields: lb.Fields{"health-check-port": lb.Number(10256)}})
	}
	cases := []struct {
		name              string
		desired, observed []lb.Resource
		scope             lb.Owner
	}{
		{"create", stack(), nil, lb.ByService(web)},
		{"unchanged", stack(), observedStack(), lb.ByService(web)},
		{"resume", stack(), except(observedStack(), "listener", "targets"), lb.ByService(web)},
		{"delete", nil, observedStack(), lb.ByService(web)},
		{"delete-leftovers", nil, except(observedStack(), "load-balancer", "listener"), lb.ByService(web)},
		{"node-change", edit(stack(), ref("targets", "default/web:80"), func(r *lb.Resource) {
			r.Fields = lb.Fields{"instances": lb.Set("i-2", "i-3")}
		}), observedStack(), lb.ByService(web)},
		{"fields-update", edit(edit(stack(), ref("load-balancer", "default/web"), func(r *lb.Resource) {
			r.Fields = lb.Fields{"subnets": lb.Set("a", "c"), "scheme": lb.Text("internal")}
		}), ref("target-group", "default/web:80"), func(r *lb.Resource) {
			r.Fields = lb.Fields{"health-check-port": lb.Number(30001)}
		}), observedStack(), lb.ByService(web)},
		{"port-moves", moved(), observedStack(), lb.ByService(web)},
		{"cluster-in-use", nil, observedStack(), lb.ByCluster()},
		{"cluster-unused", nil, edit(observedStack(), ref("security-group", "backend"), func(r *lb.Resource) { r.InUse = false }), lb.ByCluster()},
		{"another-services", nil, edit(observedStack(), ref("target-group", "default/web:80"), func(r *lb.Resource) {
			r.Owners = []lb.Owner{lb.ByService(lb.ServiceRef{Namespace: "default", Name: "web", UID: "u2"})}
		}), lb.ByService(web)},
		{"share-join", share("", "81", "internal", sharedBy("b"), "b"), share("x", "80", "internal", sharedBy("a"), "a"), scope("b")},
		{"share-leave", nil, append(share("x", "80", "internal", sharedBy("a", "b"), "a"), share("x", "81", "internal", nil, "b")[1]), scope("b")},
		{"share-last-goes", nil, share("x", "80", "internal", sharedBy("a"), "a"), scope("a")},
		{"share-first-changes", share("", "80", "public", sharedBy("a"), "a"), share("x", "80", "internal", sharedBy("a", "b"), "a"), scope("a")},
		{"foreign-leftover", nil, edit(observedStack(), ref("security-group", "default/web"), func(r *lb.Resource) { r.Owners = nil }), lb.ByService(web)},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p, err := Diff(c.desired, c.observed, c.scope)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, c.name, p.String())
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("plan differs from %s (run with -update after reading it)\ngot:\n%s\nwant:\n%s", path, got, want)
	}
}

func TestDiffRefuses(t *testing.T) {
	circle := []lb.Resource{
		{Ref: ref("a", "1"), Owners: mine(), DependsOn: []lb.Ref{ref("b", "1")}},
		{Ref: ref("b", "1"), Owners: mine(), Parent: ref("a", "1")},
	}
	attached := func() []lb.Resource {
		return edit(stack(), ref("security-group", "backend"), func(r *lb.Resource) {
			r.Owners = []lb.Owner{{Kind: lb.Attached}}
			r.Fields = lb.Fields{"anything": lb.Text("else")}
		})
	}
	cases := []struct {
		name              string
		desired, observed []lb.Resource
		kind              lb.ErrorKind
		says              string
	}{
		{"what is foreign", stack(), edit(observedStack(), ref("target-group", "default/web:80"), func(r *lb.Resource) { r.Owners = nil }),
			lb.Conflict, "target-group default/web:80"},
		{"a port that another Service has", share("", "80", "internal", sharedBy("b"), "b"), share("x", "80", "internal", sharedBy("a"), "a"),
			lb.Conflict, "belongs to service default/a"},
		{"what the first of several wants otherwise", share("", "81", "public", sharedBy("b"), "b"), share("x", "80", "internal", sharedBy("a", "b"), "a"),
			lb.Conflict, "service default/a shares it"},
		{"what belongs to another life of the Service", stack(), edit(observedStack(), ref("target-group", "default/web:80"), func(r *lb.Resource) {
			r.Owners = []lb.Owner{lb.ByService(lb.ServiceRef{Namespace: "default", Name: "web", UID: "u0"})}
		}), lb.Conflict, "belongs to service default/web"},
		{"a resource named twice", append(stack(), stack()[0]), nil, lb.Invalid, "listed twice"},
		{"an observation named twice", nil, append(observedStack(), observedStack()[0]), lb.Invalid, "listed twice"},
		{"a circle", circle, nil, lb.Invalid, "requires itself"},
		{"a circle to delete", nil, circle[:1:1], "", ""}, // half a circle is none
		{"an attached thing that is not there", attached(), nil, lb.NotFound, "does not exist"},
		{"nothing about an attached thing that is there", attached(), observedStack(), "", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p, err := Diff(c.desired, c.observed, lb.ByService(web))
			if lb.KindOf(err) != c.kind {
				t.Fatalf("got error %v of kind %q, want kind %q", err, lb.KindOf(err), c.kind)
			}
			if err == nil {
				return
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %q does not say %q", err, c.says)
			}
			if !p.Empty() {
				t.Errorf("an error came with a plan:\n%s", p)
			}
		})
	}
}

func TestHashIgnoresOrderAndObservation(t *testing.T) {
	a, b := stack(), stack()
	b[0], b[3] = b[3], b[0]
	b[1].ID, b[5].InUse = "id", false
	if lb.Hash(a) != lb.Hash(b) {
		t.Error("order, ID or InUse changed the hash")
	}
	b[2].Fields = lb.Fields{"instances": lb.Set("i-1")}
	if lb.Hash(a) == lb.Hash(b) {
		t.Error("a changed field did not change the hash")
	}
}
