package aws

import (
	"strings"
	"testing"

	"github.com/fairway-lb/fairway/providers/lb"
)

func TestSubnetDiscovery(t *testing.T) {
	type tags = map[string]string
	one := map[string]subnet{
		"public":     {id: "public", zone: "eu-west-1a", public: true, free: 50},
		"private":    {id: "private", zone: "eu-west-1a", free: 50},
		"public2":    {id: "public2", zone: "eu-west-1a", public: true, free: 50},
		"other-zone": {id: "other-zone", zone: "eu-west-1b", public: true, free: 50},
		"private-b":  {id: "private-b", zone: "eu-west-1b", free: 50},
		"role":       {id: "role", zone: "eu-west-1a", free: 50, tags: tags{rolePublic: "1"}},
		"role-empty": {id: "role-empty", zone: "eu-west-1b", free: 50, tags: tags{rolePublic: ""}},
		"role-off":   {id: "role-off", zone: "eu-west-1a", free: 50, tags: tags{rolePublic: "0"}},
		"role-int":   {id: "role-int", zone: "eu-west-1a", public: true, free: 50, tags: tags{roleInternal: "1"}},
		"own":        {id: "own", zone: "eu-west-1a", public: true, free: 50, tags: tags{clusterTagStart + "demo": "shared"}},
		"others":     {id: "others", zone: "eu-west-1a", public: true, free: 50, tags: tags{clusterTagStart + "prod": "owned"}},
		"both":       {id: "both", zone: "eu-west-1a", public: true, free: 50, tags: tags{clusterTagStart + "prod": "shared", clusterTagStart + "demo": "shared"}},
		"local":      {id: "local", zone: "eu-west-1-lon-1a", public: true, free: 50},
		"wavelength": {id: "wavelength", zone: "eu-west-1-wl1-lon-wlz-1", public: true, free: 50},
		"outpost":    {id: "outpost", zone: "eu-west-1a", public: true, free: 50, outpost: true},
		"full":       {id: "full", zone: "eu-west-1a", public: true, free: minFree - 1},
	}
	cases := []struct {
		name, scheme string
		subnets      string
		placed       string // where the load balancer is
		want         string // "" when there is none
		says         string
	}{
		{"public by route", schemeInternet, "private public other-zone private-b", "", "public other-zone", ""},
		{"internal prefers private", schemeInternal, "private public other-zone", "", "private other-zone", ""},
		{"role before route", schemeInternet, "public role role-empty other-zone", "", "role role-empty", ""},
		{"role switched off", schemeInternet, "public role-off", "", "public", ""},
		{"the other scheme's role", schemeInternet, "public role-int", "", "public", ""},
		{"internal role", schemeInternal, "private role-int", "", "role-int", ""},
		{"lowest id", schemeInternet, "public2 public", "", "public", ""},
		{"own tag first", schemeInternet, "public own public2", "", "own", ""},
		{"others' left out", schemeInternet, "others other-zone", "", "other-zone", ""},
		{"shared with others", schemeInternet, "both", "", "both", ""},
		{"stays where it is", schemeInternet, "public public2", "public2", "public2", ""},
		{"stays though full", schemeInternet, "full public2", "full", "full", ""},
		{"full left out", schemeInternet, "full public2", "", "public2", ""},
		{"odd zones left out", schemeInternet, "local wavelength outpost other-zone", "", "other-zone", ""},
		{"none", schemeInternet, "", "", "", "it has none"},
		{"none fits", schemeInternet, "private others full local", "", "", "of its 4, 1 in a local, wavelength or outpost zone, 1 tagged for another cluster, 1 with less than 8 free addresses, 1 without a route"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f := facts{region: testRegion, vpc: "vpc-1", placed: map[string][]string{"it": strings.Fields(c.placed)}}
			for name := range strings.FieldsSeq(c.subnets) {
				f.subnets = append(f.subnets, one[name])
			}
			chosen, err := chooser{facts: f, cluster: "demo", scheme: c.scheme, balancer: "it"}.discover()
			if c.want == "" {
				if lb.KindOf(err) != lb.Invalid || !strings.Contains(err.Error(), c.says) || lb.RetryAfterOf(err) == 0 {
					t.Errorf("got %v and %v, want Invalid with %q and a time to look again", chosen, err, c.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := ids(chosen); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func ids(subnets []subnet) string {
	var all []string
	for _, s := range subnets {
		all = append(all, s.id)
	}
	return strings.Join(all, " ")
}

func TestNamedSubnets(t *testing.T) {
	f := testFacts()
	f.subnets[0].tags = map[string]string{"Name": "edge a"}
	f.subnets[2].tags = map[string]string{"Name": "twin"}
	f.subnets[4].tags = map[string]string{"Name": "twin"}
	cases := []struct{ list, want, says string }{
		{"edge a,subnet-b-private", "subnet-a-public subnet-b-private", ""},
		{"twin", "", "2 subnets"},
		{"nowhere", "", "no subnet of vpc-1"},
		{"subnet-a-public,subnet-a-private", "", "one subnet per zone"},
	}
	for _, c := range cases {
		t.Run(c.list, func(t *testing.T) {
			chosen, err := chooser{facts: f}.named(strings.Split(c.list, ","))
			if c.says != "" {
				if lb.KindOf(err) != lb.Invalid || !strings.Contains(err.Error(), c.says) {
					t.Errorf("got %v, want Invalid with %q", err, c.says)
				}
				return
			}
			if err != nil || ids(chosen) != c.want {
				t.Errorf("got %s and %v, want %s", ids(chosen), err, c.want)
			}
		})
	}
}
