package plan

import (
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
)

// alter replaces fields of a thing behind our back.
func (s *surveyed) alter(r lb.Ref, fields lb.Fields) {
	thing := s.things[r]
	all := maps.Clone(thing.Fields)
	maps.Copy(all, fields)
	thing.Fields = all
	s.things[r] = thing
}

func TestSweepShowsDriftThatTheNextRunRepairs(t *testing.T) {
	balancer, backend := ref("load-balancer", "default/web"), ref("security-group", "backend")
	stray := ref("load-balancer", "default/web-old")
	cases := []struct {
		name string
		harm func(*surveyed)
		want string
	}{
		{"nothing", func(*surveyed) {}, ""},
		{"load balancer deleted", func(c *surveyed) { delete(c.things, balancer) }, "load-balancer default/web is missing"},
		{"scalar changed", func(c *surveyed) { c.alter(balancer, lb.Fields{"scheme": lb.Text("public")}) },
			"scheme of load-balancer default/web is public instead of internal"},
		{"set changed", func(c *surveyed) { c.alter(balancer, lb.Fields{"subnets": lb.Set("a", "c")}) },
			"subnets of load-balancer default/web differs: +c -b"},
		{"leftover", func(c *surveyed) { c.things[stray] = lb.Resource{Ref: stray, ID: "id", Owners: mine()} },
			"load-balancer default/web-old is not wanted"},
		{"what the cluster owns deleted", func(c *surveyed) { delete(c.things, backend) }, "security-group backend is missing"},
		{"what a sweep does not see", func(c *surveyed) { delete(c.things, ref("listener", "default/web:80")) }, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cloud := &surveyed{memory: newMemory()}
				e := remembering(t, cloud)
				time.Sleep(5 * time.Minute) // virtual
				c.harm(cloud)
				cloud.calls, cloud.looks = nil, 0
				swept, err := e.Sweep(t.Context())
				if err != nil || describe(swept.Drift[web]) != c.want {
					t.Errorf("got %q, %v; want %q", describe(swept.Drift[web]), err, c.want)
				}
				if len(cloud.calls) > 0 || cloud.looks > 0 || cloud.surveys != 1 {
					t.Errorf("a sweep takes %d surveys, %d looks and calls %v", cloud.surveys, cloud.looks, cloud.calls)
				}
				result, err := e.Reconcile(t.Context(), lb.Service{ServiceRef: web})
				if err != nil || (cloud.looks > 0) != (c.want != "") {
					t.Errorf("the next run: %d looks, error %v", cloud.looks, err)
				}
				if got := describe(DriftIn(result.Plan)); c.want != "" && len(DriftIn(result.Plan)) == 0 {
					t.Errorf("the next run repairs %q", got)
				}
				time.Sleep(5 * time.Minute)
				if swept, err := e.Sweep(t.Context()); err != nil || len(swept.Drift) > 0 {
					t.Errorf("after the repair: %v, %v", swept.Drift, err)
				}
			})
		})
	}
}

func TestSweepTellsOfOneServiceWhatTheClusterLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := &surveyed{memory: newMemory()}
		e := remembering(t, cloud)
		other := lb.ServiceRef{Namespace: "default", Name: "other", UID: "u2"}
		e.rest.lay(other, []lb.Resource{{Ref: ref("security-group", "backend"), Owners: []lb.Owner{lb.ByCluster()}}}, resting{}, false)
		time.Sleep(5 * time.Minute)
		delete(cloud.things, ref("security-group", "backend"))
		swept, err := e.Sweep(t.Context())
		if err != nil || len(swept.Drift) != 1 {
			t.Errorf("got %v, %v", swept.Drift, err)
		}
	})
}

// The cloud's lists lag behind what was just changed.
func TestSweepWaitsUntilListsHaveSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := &surveyed{memory: newMemory()}
		e := remembering(t, cloud)
		delete(cloud.things, ref("load-balancer", "default/web"))
		for _, want := range []int{0, 1} {
			if swept, err := e.Sweep(t.Context()); err != nil || len(swept.Drift) != want {
				t.Errorf("want %d Services, got %v, %v", want, swept.Drift, err)
			}
			time.Sleep(2 * time.Minute)
		}
	})
}

// A list that always differs from the look must not cost a look at each sweep.
func TestRefutedDriftIsNotToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := &surveyed{memory: newMemory()}
		e := remembering(t, cloud)
		balancer := ref("load-balancer", "default/web")
		cloud.lie = func(found *lb.Survey) {
			found.Services[web] = slices.Clone(found.Services[web])
			for i, r := range found.Services[web] {
				if r.Ref == balancer {
					found.Services[web][i].Fields = lb.Fields{"scheme": lb.Text("INTERNAL")}
				}
			}
		}
		told := 0
		for range 5 {
			time.Sleep(10 * time.Minute)
			swept, err := e.Sweep(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if told += len(swept.Drift); len(swept.Drift) > 0 {
				if _, err := e.Reconcile(t.Context(), lb.Service{ServiceRef: web}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if told != 1 || cloud.looks != 2 {
			t.Errorf("told %d times, %d looks; want 1 and 2", told, cloud.looks)
		}
		delete(cloud.things, balancer)
		if swept, err := e.Sweep(t.Context()); err != nil || describe(swept.Drift[web]) != "load-balancer default/web is missing" {
			t.Errorf("another difference: %v, %v", swept.Drift, err)
		}
	})
}

func TestSweepOfACloudWithoutSurveys(t *testing.T) {
	swept, err := remembering(t, newMemory()).Sweep(t.Context())
	if err != nil || len(swept.Found.Kinds)+len(swept.Drift) > 0 {
		t.Errorf("got %v, %v", swept, err)
	}
}
