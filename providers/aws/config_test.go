package aws

import (
	"strings"
	"testing"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
)

const header = "apiVersion: fairway.io/v1alpha1\nkind: AWSConfig\n"

func TestLoad(t *testing.T) {
	cases := []struct {
		name, file string
		fails      string // what the error says; "" when it loads
	}{
		{"minimal", header + "cluster: {name: demo}\n", ""},
		{"with comments and a document mark", "# ours\n---\n" + header + "cluster: {name: demo}\n---\n# nothing\n", ""},
		{"full", header + `
cluster: {name: demo.example_1-a}
region: us-gov-west-1
vpc: vpc-0123abcd
nodeSecurityGroup: sg-0123abcd
nodePortRange: 31000-31999
requestRate: 2.5
healthCheck: {protocol: TCP, port: 80, interval: 30s, timeout: 2s, healthyThreshold: 3, unhealthyThreshold: 10}
tags: {team: "edge @ home", "cost/centre": "42"}
`, ""},
		{"empty", " \n", "empty"},
		{"not YAML", header + "\t:", "not valid YAML"},
		{"no cluster", header, "cluster.name is missing"},
		{"cluster with a space", header + "cluster: {name: my demo}", "cluster.name"},
		{"unknown key", header + "cluster: {name: demo}\nregoin: eu-west-1\n", `unknown key "regoin" (did you mean region?)`},
		{"unknown nested key", header + "cluster: {nam: demo}\n", `unknown key "nam" (did you mean name?)`},
		{"unknown key like nothing", header + "cluster: {name: demo}\nloadBalancerFlavour: x\n", `unknown key "loadBalancerFlavour"`},
		{"key twice", header + "cluster: {name: demo}\nregion: eu-west-1\nregion: eu-west-2\n", `"region" already set`},
		{"another version", "apiVersion: fairway.io/v2\nkind: AWSConfig\nnewKey: 1\n", `apiVersion "fairway.io/v2"`},
		{"another kind", "apiVersion: fairway.io/v1alpha1\nkind: AzureConfig\n", `kind "AzureConfig"`},
		{"two documents", header + "cluster: {name: demo}\n---\nregion: eu-west-1\n", "more than one YAML document"},
		{"region", header + "cluster: {name: demo}\nregion: Ireland", `region "Ireland"`},
		{"zone for a region", header + "cluster: {name: demo}\nregion: eu-west-1a", `region "eu-west-1a"`},
		{"vpc", header + "cluster: {name: demo}\nvpc: default", `vpc "default"`},
		{"group", header + "cluster: {name: demo}\nnodeSecurityGroup: nodes", `nodeSecurityGroup "nodes"`},
		{"range", header + "cluster: {name: demo}\nnodePortRange: 32767-30000", "port range"},
		{"protocol", header + "cluster: {name: demo}\nhealthCheck: {protocol: ICMP}", `healthCheck.protocol "ICMP"`},
		{"interval in numbers", header + "cluster: {name: demo}\nhealthCheck: {interval: 10}", "10 is not a duration"},
		{"interval in parts", header + "cluster: {name: demo}\nhealthCheck: {interval: 1500ms}", "whole seconds"},
		{"interval too long", header + "cluster: {name: demo}\nhealthCheck: {interval: 301s}", "healthCheck.interval 5m1s"},
		{"timeout above interval", header + "cluster: {name: demo}\nhealthCheck: {interval: 10s, timeout: 11s}", "healthCheck.timeout 11s"},
		{"threshold", header + "cluster: {name: demo}\nhealthCheck: {unhealthyThreshold: 1}", "healthCheck.unhealthyThreshold 1"},
		{"request rate", header + "cluster: {name: demo}\nrequestRate: -1", "requestRate -1"},
		{"request rate without end", header + "cluster: {name: demo}\nrequestRate: 1e9", "requestRate 1e+09"},
		{"TCP with a path", header + "cluster: {name: demo}\nhealthCheck: {protocol: TCP, path: /x}", "healthCheck.path"},
		{"our tag", header + "cluster: {name: demo}\ntags: {fairway.io/cluster: x}", "reserved"},
		{"AWS's tag", header + "cluster: {name: demo}\ntags: {'aws:x': y}", "reserved"},
		{"tag with a forbidden letter", header + "cluster: {name: demo}\ntags: {a: 'b;c'}", "tags"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := Load(strings.NewReader(c.file))
			if c.fails == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if lb.KindOf(err) != lb.Invalid || err == nil || !strings.Contains(err.Error(), c.fails) {
				t.Errorf("got %v (%s), want Invalid with %q", err, lb.KindOf(err), c.fails)
			}
		})
	}
}

func TestLoadWithoutFile(t *testing.T) {
	if _, err := Load(nil); lb.KindOf(err) != lb.Invalid || !strings.Contains(err.Error(), "cluster") {
		t.Errorf("got %v, want an Invalid error that says what a file must hold", err)
	}
}

func TestLoadDefaults(t *testing.T) {
	c, err := Load(strings.NewReader(header + "cluster: {name: demo}\nhealthCheck: {interval: 5s}"))
	if err != nil {
		t.Fatal(err)
	}
	want := HealthCheckConfig{Protocol: "HTTP", Port: 10256, Path: "/healthz", Interval: Duration(5 * time.Second), Timeout: Duration(5 * time.Second),
		HealthyThreshold: 2, UnhealthyThreshold: 2}
	if c.HealthCheck != want || c.NodePortRange != (PortRange{30000, 32767}) {
		t.Errorf("got %+v and %s", c.HealthCheck, c.NodePortRange)
	}
}
