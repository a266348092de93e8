package localstack

import (
	"slices"
	"strings"
	"testing"

	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/plan"
	"github.com/fairway-lb/fairway/providers/providertest"
)

// TestDrift is the contract suite's case of that name with a new controller in
// place of the ten minutes that the suite lets pass, in virtual time, until
// nothing the old one made is new any more.
func TestDrift(t *testing.T) {
	w := theWorld(t)
	for _, d := range drifts {
		t.Run(d.Name, func(t *testing.T) {
			a := w.open(part{T: t}, providertest.Conditions{}).(*account)
			defer a.Close()
			empty := a.Snapshot()
			service := w.service(0)
			reconcile(t, a, service)
			whole := a.Snapshot()
			if err := d.Do(a, service); err != nil {
				t.Fatalf("cannot do the harm: %v", err)
			}
			if slices.Equal(a.Snapshot(), whole) {
				t.Fatal("the harm cannot be seen")
			}
			if r := reconcile(t, a, service); r.Plan.Empty() {
				t.Error("the harm was not found")
			}
			if now := a.Snapshot(); !slices.Equal(now, whole) {
				t.Errorf("it was not repaired:\n%s\nwant:\n%s", strings.Join(now, "\n"), strings.Join(whole, "\n"))
			}
			before := a.Calls().Writes
			if r := reconcile(t, a, service); !r.Plan.Empty() || a.Calls().Writes > before {
				t.Errorf("there is still something to do:\n%s", r.Plan)
			}
			if r, err := controller(t, a).Delete(t.Context(), service.ServiceRef); err != nil {
				t.Fatalf("delete: %v\n%s", err, r.Plan)
			}
			if now := a.Snapshot(); !slices.Equal(now, empty) {
				t.Errorf("something is left:\n%s", strings.Join(now, "\n"))
			}
		})
	}
}

// controller is the engine of a new controller.
func controller(t *testing.T, a *account) *plan.Engine {
	t.Helper()
	instance, err := a.Provider(t.Context(), lb.Cluster{Name: clusterName, UID: "cluster-uid-1"})
	if err != nil {
		t.Fatal(err)
	}
	return plan.NewEngine(instance.Provider, plan.Options{})
}

func reconcile(t *testing.T, a *account, s lb.Service) plan.Result {
	t.Helper()
	r, err := controller(t, a).Reconcile(t.Context(), s)
	if err != nil {
		t.Fatalf("reconcile: %v\n%s\nthe last calls that failed:\n%s", err, r.Plan, a.failures())
	}
	return r
}
