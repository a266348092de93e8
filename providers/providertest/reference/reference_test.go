package reference

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/fairway-lb/fairway/providers/lb"
	pt "github.com/fairway-lb/fairway/providers/providertest"
)

func TestContract(t *testing.T) { pt.Run(t, description()) }

func node(n int) lb.Target {
	return lb.Target{Node: fmt.Sprint("node-", n), ProviderID: fmt.Sprint("reference://node-", n), State: lb.TargetActive}
}

func service(n int) lb.Service {
	return lb.Service{
		ServiceRef: lb.ServiceRef{Namespace: "default", Name: fmt.Sprint("web-", n), UID: fmt.Sprint("uid-", n)},
		Ports:      []lb.Port{{Protocol: lb.TCP, Port: 80, NodePort: uint16(30000 + n)}},
		Targets:    []lb.Target{node(1), node(2), node(3)}, IPv4: true,
	}
}

func description() pt.Cloud {
	return pt.Cloud{
		Open:    func(_ pt.T, c pt.Conditions) pt.Account { return NewAccount(c) },
		Service: service,
		Updates: []pt.Edit{
			{Name: "ports", Edit: func(s *lb.Service) {
				s.Ports = append(s.Ports, lb.Port{Protocol: lb.UDP, Port: 53, NodePort: 30500})
			}},
			{Name: "sources", Edit: func(s *lb.Service) { s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} }},
			{Name: "targets", Edit: func(s *lb.Service) { s.Targets = []lb.Target{node(3), node(4)} }},
			{Name: "health port", Edit: func(s *lb.Service) { s.ExternalTrafficPolicy, s.HealthCheckNodePort = lb.PolicyLocal, 31000 }},
			{Name: "scheme", Edit: func(s *lb.Service) { s.Annotations = map[string]string{schemeAnnotation: "internal"} }},
		},
		NodeChange: func(s *lb.Service) { s.Targets = append(s.Targets[1:], node(4)) },
		Invalid:    func(s *lb.Service) { s.Annotations = map[string]string{schemeAnnotation: "interal"} },
		Drifts:     drifts(),
		Strangers:  strangers(),
		Usurpers: []pt.Stranger{{Name: "pool made anew by someone else", Plant: func(a pt.Account, s lb.Service) error {
			c, name := a.(*Account).cloud, tester.nameOf(poolRef(s.ServiceRef, "external"))
			c.mu.Lock()
			c.setPool(name, nil)
			c.mu.Unlock()
			_, err := c.createPool(pool{Name: name, Targets: []string{"theirs"}, HealthPort: "1"})
			return err
		}}},
		Takeovers: []pt.Drift{
			{Name: "pool", Do: func(a pt.Account, s lb.Service) error {
				c, name := a.(*Account).cloud, tester.nameOf(poolRef(s.ServiceRef, "external"))
				p, err := c.getPool(name)
				if err != nil {
					return err
				}
				p.Tags = theirs
				c.mu.Lock()
				defer c.mu.Unlock()
				c.setPool(name, &p)
				return nil
			}},
			{Name: "frontend", Do: edit(balancerRef, func(d *document) { d.Entries[0].Tags = theirs })},
			{Name: "admission", Do: edit(admissionsRef, func(d *document) { d.Entries[0].Tags = theirs })},
		},
		Constant: map[string]string{
			"balancer setting":   "it is the cluster's",
			"admissions setting": "it is the cluster's",
		},
		Hints: true,
	}
}

// theirs is another cluster's mark.
var theirs = map[string]string{tagCluster: "cluster-uid-9", tagService: "uid-0", tagResource: "uid-0/external"}

// tester is the reference provider's own view of names and marks.
var tester = newProvider(nil, lb.Cluster{Name: "demo", UID: "cluster-uid-1"})

// edit returns what changes a document behind the provider's back.
func edit(ref lb.Ref, change func(*document)) func(pt.Account, lb.Service) error {
	return func(a pt.Account, _ lb.Service) error {
		c := a.(*Account).cloud
		d, err := c.getDocument(tester.nameOf(ref))
		if err != nil {
			return err
		}
		change(d)
		_, err = c.putDocument(d.Version, d)
		return err
	}
}

func editPool(change func(*pool)) func(pt.Account, lb.Service) error {
	return func(a pt.Account, s lb.Service) error {
		c := a.(*Account).cloud
		p, err := c.getPool(tester.nameOf(poolRef(s.ServiceRef, "external")))
		if err != nil {
			return err
		}
		change(&p)
		_, err = c.updatePool(p)
		return err
	}
}

func emptied(d *document) { d.Entries = nil }

func set(name, value string) func(*document) {
	return func(d *document) { d.Entries[0].Values[name] = value }
}

func drifts() []pt.Drift {
	return []pt.Drift{
		{Name: "pool and its frontend deleted", Do: func(a pt.Account, s lb.Service) error {
			if err := edit(balancerRef, emptied)(a, s); err != nil {
				return err
			}
			c := a.(*Account).cloud
			p, err := c.getPool(tester.nameOf(poolRef(s.ServiceRef, "external")))
			if err != nil {
				return err
			}
			return c.deletePool(p.Name, p.ID)
		}},
		{Name: "targets", Do: editPool(func(p *pool) { p.Targets = p.Targets[1:] })},
		{Name: "health port", Do: editPool(func(p *pool) { p.HealthPort = "1" })},
		{Name: "frontend deleted", Do: edit(balancerRef, emptied)},
		{Name: "frontend's ports", Do: edit(balancerRef, set("ports", "TCP/81 to 1"))},
		{Name: "frontend's pool", Do: func(a pt.Account, s lb.Service) error {
			other, err := a.(*Account).cloud.createPool(pool{Name: "other"})
			if err != nil {
				return err
			}
			if err := edit(balancerRef, set("pool", other.ID))(a, s); err != nil {
				return err
			}
			// It stays behind as nobody's, so the entry must name it by ID only.
			delete(a.(*Account).cloud.pools, "other")
			return nil
		}},
		{Name: "admission deleted", Do: edit(admissionsRef, emptied)},
		{Name: "admitted sources", Do: edit(admissionsRef, set("sources", "0.0.0.0/0"))},
		{Name: "admitted ports", Do: edit(admissionsRef, set("ports", ""))},
		{Name: "balancer's setting", Do: edit(balancerRef, func(d *document) { d.Setting = "premium" })},
		{Name: "list's setting", Do: edit(admissionsRef, func(d *document) { d.Setting = "admit" })},
		{Name: "balancer deleted", Do: erase(balancerRef)},
		{Name: "list deleted", Do: erase(admissionsRef)},
	}
}

func erase(ref lb.Ref) func(pt.Account, lb.Service) error {
	return func(a pt.Account, s lb.Service) error {
		if err := edit(ref, emptied)(a, s); err != nil {
			return err
		}
		c := a.(*Account).cloud
		d, err := c.getDocument(tester.nameOf(ref))
		if err != nil {
			return err
		}
		return c.deleteDocument(d.Name, d.Version)
	}
}

func strangers() []pt.Stranger {
	plantPool := func(name func(lb.Service) string, tags map[string]string) func(pt.Account, lb.Service) error {
		return func(a pt.Account, s lb.Service) error {
			_, err := a.(*Account).cloud.createPool(pool{Name: name(s), Tags: tags, Targets: []string{"theirs"}, HealthPort: "1"})
			return err
		}
	}
	plantDocument := func(d document) func(pt.Account, lb.Service) error {
		return func(a pt.Account, _ lb.Service) error {
			_, err := a.(*Account).cloud.putDocument("", &d)
			return err
		}
	}
	foreign := func(d *document) {
		d.Entries = append([]entry{{Name: "theirs", Tags: map[string]string{tagService: "uid-0"}, Values: map[string]string{"ports": "TCP/1 to 1"}}}, d.Entries...)
	}
	ours := map[string]string{tagCluster: "cluster-uid-1", tagResource: "main"}
	ourPool := func(s lb.Service) string { return tester.nameOf(poolRef(s.ServiceRef, "external")) }
	return []pt.Stranger{
		{Name: "pool", Plant: plantPool(func(lb.Service) string { return "pool-of-others" }, nil)},
		{Name: "pool of a Service with our UID in another cluster", Plant: plantPool(func(lb.Service) string { return "pool-elsewhere" },
			theirs)},
		{Name: "pool with our name", Plant: plantPool(ourPool, nil), Blocks: true},
		{Name: "pool with our name and another cluster's mark", Plant: plantPool(ourPool, theirs), Blocks: true},
		{Name: "entry in the balancer", Plant: edit(balancerRef, foreign), InPlace: true},
		{Name: "entry in the list", Plant: edit(admissionsRef, foreign), InPlace: true},
		{Name: "entry with our name", Plant: plantDocument(document{Name: tester.nameOf(balancerRef), Tags: ours, Setting: "standard",
			Entries: []entry{{Name: tester.nameOf(frontendRef(service(0).ServiceRef, "external")), Values: map[string]string{"ports": "theirs"}}}}), Blocks: true},
		{Name: "balancer with our name", Plant: plantDocument(document{Name: tester.nameOf(balancerRef), Setting: "theirs"}), Blocks: true},
		{Name: "list with our name", Plant: plantDocument(document{Name: tester.nameOf(admissionsRef), Setting: "theirs"}), Blocks: true},
	}
}
