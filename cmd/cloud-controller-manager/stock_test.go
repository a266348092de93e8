//go:build !no_aws

package main

import (
	"strings"
	"testing"
	"time"
)

// The way out: the framework's Service controller gives a Service its load balancer
// on our provider. Back again, our controller goes on with what was its own before,
// and leaves alone what it knows as another's by the addresses in its status.
func TestStockServiceController(t *testing.T) {
	withServices(t, func(w *serviceWorld) {
		w.create("old")
		pass(time.Minute)
		w.stop()
		w.stock = true
		w.start()
		w.create("new")
		pass(time.Minute)
		made := w.get("new").Status.LoadBalancer.Ingress
		if len(made) != 1 || made[0].Hostname == "" {
			t.Fatalf("status %v", made)
		}
		w.expect("our condition", w.condition("new"), "")
		if got := w.get("new").Finalizers; len(got) != 1 {
			t.Errorf("finalizers %v", got)
		}
		w.stop()
		before := w.left()

		w.stock = false
		w.start()
		pass(time.Minute)
		w.expect("what is in the account after the exchange", w.left(), before)
		w.expect("ours", w.condition("old"), "True Ready")
		w.expect("the other's", w.condition("new"), "False ServedByAnotherController")
	})
}

func TestStockServiceControllerIsNotAskedForWhatItCannot(t *testing.T) {
	cases := []struct {
		args []string
		says string
	}{
		{[]string{"--service-controller=other"}, "neither fairway nor stock"},
		{[]string{"--service-controller=stock", "--load-balancer-class=fairway.io/nlb"}, "serves no --load-balancer-class"},
		{[]string{"--service-controller=stock", "--dry-run"}, "knows no --dry-run"},
	}
	for _, c := range cases {
		cmd := newManager(t.Context()).command(nil)
		if err := cmd.ParseFlags(c.args); err != nil {
			t.Fatal(err)
		}
		if err := cmd.PreRunE(cmd, nil); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: error %v, want %q", c.args, err, c.says)
		}
	}
}
