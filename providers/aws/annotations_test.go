package aws

import (
	"strings"
	"testing"

	"github.com/fairway-lb/fairway/providers/lb"
)

func TestAnnotationValues(t *testing.T) {
	cases := []struct {
		set   []string // annotation, value, …
		fails string   // what the error says; "" when it is taken
	}{
		{[]string{"type", "nlb"}, ""},
		{[]string{"type", "external"}, "AWS Load Balancer Controller"},
		{[]string{"type", "nlb-ip"}, "AWS Load Balancer Controller"},
		{[]string{"type", "clb"}, "want nlb"},
		{[]string{"nlb-target-type", "instance"}, ""},
		{[]string{"nlb-target-type", "ip"}, "want instance"},
		{[]string{"scheme", " internal "}, ""},
		{[]string{"scheme", "interal"}, `aws-load-balancer-scheme: "interal": want internet-facing or internal`},
		{[]string{"internal", "0.0.0.0/0"}, ""},
		{[]string{"internal", "yes"}, "want true or false"},
		{[]string{"internal", "true", "scheme", "internal"}, ""},
		{[]string{"internal", "true", "scheme", "internet-facing"}, "contradict"},
		{[]string{"fairway.io/scheme", "internal"}, ""},
		{[]string{"fairway.io/scheme", "internal", "scheme", "internal"}, ""},
		{[]string{"fairway.io/scheme", "internal", "scheme", "internet-facing"}, "must agree"},
		{[]string{"subnets", "subnet-1, my subnet"}, ""},
		{[]string{"subnets", "subnet-1,,subnet-2"}, "separated by commas"},
		{[]string{"subnets", "subnet-1,subnet-1"}, "listed twice"},
		{[]string{"subnets", ""}, "want a list"},
		{[]string{"security-groups", "sg-1,sg-2"}, ""},
		{[]string{"security-groups", "web"}, "sg-"},
		{[]string{"security-groups", "sg-1,sg-2,sg-3,sg-4,sg-5"}, "at most 4"},
		{[]string{"security-groups", "sg-1", "security-group-prefix-lists", "pl-1"}, "remove the source ranges"},
		{[]string{"security-group-prefix-lists", "pl-1,10.0.0.0/8"}, "pl-"},
		{[]string{"enable-icmp-for-path-mtu-discovery", "maybe"}, "want on or off"},
		{[]string{"target-node-labels", "pool=edge, zone = a"}, ""},
		{[]string{"target-node-labels", "pool"}, "label=value"},
		{[]string{"target-node-labels", "=edge"}, "label=value"},
		{[]string{"healthcheck-protocol", "http"}, ""},
		{[]string{"healthcheck-protocol", "UDP"}, "TCP, HTTP, HTTPS"},
		{[]string{"healthcheck-port", "traffic-port"}, ""},
		{[]string{"healthcheck-port", "http"}, ""},
		{[]string{"healthcheck-port", "30080"}, ""},
		{[]string{"healthcheck-port", "10256"}, ""},
		{[]string{"healthcheck-port", "8080"}, "nodes admit no other ports"},
		{[]string{"healthcheck-port", "https"}, "want traffic-port"},
		{[]string{"healthcheck-port", "-1"}, "want traffic-port"},
		{[]string{"healthcheck-path", "ready"}, "begins with /"},
		{[]string{"healthcheck-success-codes", "200,204,300-399"}, ""},
		{[]string{"healthcheck-success-codes", "99"}, "200 to 599"},
		{[]string{"healthcheck-interval", "4"}, "5 to 300"},
		{[]string{"healthcheck-interval", "10s"}, "whole number"},
		{[]string{"healthcheck-timeout", "121"}, "2 to 120"},
		{[]string{"healthcheck-timeout", "11"}, "more than the interval of 10 seconds"},
		{[]string{"healthcheck-timeout", "11", "healthcheck-interval", "11"}, ""},
		{[]string{"healthcheck-healthy-threshold", "11"}, "2 to 10"},
		{[]string{"healthcheck-unhealthy-threshold", "two"}, "2 to 10"},
		{[]string{"attributes", "load_balancing.cross_zone.enabled=true, deletion_protection.enabled=false"}, ""},
		{[]string{"attributes", "deletion_protection.enabled"}, "key=value"},
		{[]string{"attributes", "deletion_protection.enabled=on"}, `cannot be "on"; want true or false`},
		{[]string{"attributes", "deletion_protection.enable=true"}, "did you mean deletion_protection.enabled?"},
		{[]string{"attributes", "dns_record.client_routing_policy=nearest"}, "availability_zone_affinity"},
		{[]string{"cross-zone-load-balancing-enabled", "yes"}, "true or false"},
		{[]string{"cross-zone-load-balancing-enabled", "true", "attributes", "load_balancing.cross_zone.enabled=true"}, ""},
		{[]string{"cross-zone-load-balancing-enabled", "true", "attributes", "load_balancing.cross_zone.enabled=false"}, "another annotation wants"},
		{[]string{"target-group-attributes", "deregistration_delay.timeout_seconds=3601"}, "0 to 3600"},
		{[]string{"target-group-attributes", "target_group_health.dns_failover.minimum_healthy_targets.percentage=50"}, ""},
		{[]string{"target-group-attributes", "target_group_health.dns_failover.minimum_healthy_targets.percentage=0"}, "1 to 100 or off"},
		{[]string{"target-group-attributes.80", "preserve_client_ip.enabled=false"}, ""},
		{[]string{"target-group-attributes.81", "preserve_client_ip.enabled=false"}, `has no port "81"`},
		{[]string{"target-group-attributes.http", "preserve_client_ip.enabled=false"}, `has no port "http"`},
		{[]string{"target-group-attributes.80", "preserve_client_ip.enable=false"}, "did you mean preserve_client_ip.enabled?"},
		{[]string{"proxy-protocol", "*"}, ""},
		{[]string{"proxy-protocol", "true"}, "want *"},
		{[]string{"proxy-protocol", "*", "target-group-attributes", "proxy_protocol_v2.enabled=false"}, "another annotation wants"},
		{[]string{"proxy-protocol-per-target-group", "80"}, ""},
		{[]string{"proxy-protocol-per-target-group", "80,443"}, `has no port "443"`},
		{[]string{"connection-draining-enabled", "false"}, ""},
		{[]string{"connection-draining-enabled", "no"}, "true or false"},
		{[]string{"connection-draining-timeout", "60"}, ""},
		{[]string{"connection-draining-timeout", "1h"}, "0 to 3600"},
		{[]string{"connection-draining-timeout", "60", "connection-draining-enabled", "false"}, "another annotation wants"},
	}
	for _, c := range cases {
		t.Run(strings.Join(c.set, " "), func(t *testing.T) {
			o, err := parseAnnotations(service(annotate(c.set...)), testConfig())
			if err == nil {
				_, err = o.healthCheck()
			}
			switch {
			case c.fails == "" && err != nil:
				t.Error(err)
			case c.fails != "" && (lb.KindOf(err) != lb.Invalid || err == nil || !strings.Contains(err.Error(), c.fails)):
				t.Errorf("got %v, want Invalid with %q", err, c.fails)
			case c.fails != "" && !strings.Contains(err.Error(), "aws-load-balancer-") && !strings.Contains(err.Error(), "fairway.io/"):
				t.Errorf("%v does not name the annotation", err)
			}
		})
	}
}

func TestAnnotationNotices(t *testing.T) {
	cases := []struct {
		name string
		set  []string
		want []string // reason and part of the message
	}{
		{"honoured", []string{"scheme", "internal"}, nil},
		{"others' annotations", []string{"example.com/aws-load-balancer-x", "y", "service.beta.kubernetes.io/load-balancer-source-ranges", "10.0.0.0/8"}, nil},
		{"later", []string{"ssl-cert", "arn:aws:acm:x"}, []string{"AnnotationNotHonoured", annotationPrefix + "ssl-cert"}},
		{"later, at its default", []string{"access-log-enabled", "false"}, nil},
		{"later, not at its default", []string{"access-log-enabled", "true"}, []string{"AnnotationNotHonoured", "access-log"}},
		{"by port", []string{"listener-attributes.TCP-80", "a=b"}, []string{"AnnotationNotHonoured", "listener-attributes.TCP-80"}},
		{"attribute for later", []string{"attributes", "access_logs.s3.enabled=true"}, []string{"AttributeNotHonoured", "access_logs.s3.enabled"}},
		{"misspelled", []string{"shceme", "internal"}, []string{"UnknownAnnotation", "did you mean " + annotationPrefix + "scheme?"}},
		{"unknown", []string{"flux-capacitor-gigawatts", "1.21"}, []string{"UnknownAnnotation", "has no effect"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			o, err := parseAnnotations(service(annotate(c.set...)), testConfig())
			if err != nil {
				t.Fatal(err)
			}
			if c.want == nil {
				if len(o.notices) > 0 {
					t.Errorf("unwanted %v", o.notices)
				}
				return
			}
			if len(o.notices) != 1 || o.notices[0].Reason != c.want[0] || !strings.Contains(o.notices[0].Message, c.want[1]) {
				t.Errorf("got %v, want one %s with %q", o.notices, c.want[0], c.want[1])
			}
		})
	}
}

// TestAnnotationTable: what the reference is generated from is complete.
func TestAnnotationTable(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range Annotations() {
		if seen[a.Name] || a.Neutral != "" && seen[a.Neutral] {
			t.Errorf("%s is listed twice", a.Name)
		}
		seen[a.Name], seen[a.Neutral] = true, true
		if a.Type == "" || a.Doc == "" || a.Honoured && a.Default == "" {
			t.Errorf("%s is not described in full", a.Name)
		}
	}
}

func TestHealthCheck(t *testing.T) {
	local := func(s *lb.Service) { s.ExternalTrafficPolicy, s.HealthCheckNodePort = lb.PolicyLocal, 31234 }
	cases := []struct {
		name string
		s    lb.Service
		want string // protocol port path
	}{
		{"cluster", service(), "HTTP 10256 /healthz"},
		{"local", service(local), "HTTP 31234 /healthz"},
		{"path only", service(annotate("healthcheck-path", "/ready")), "HTTP 10256 /ready"},
		{"another port", service(annotate("healthcheck-port", "30080")), "TCP 30080 "},
		{"another port with HTTP", service(annotate("healthcheck-port", "http", "healthcheck-protocol", "HTTP")), "HTTP 30080 /"},
		{"traffic port over HTTPS", service(annotate("healthcheck-port", "traffic-port", "healthcheck-protocol", "https", "healthcheck-path", "/up")), "HTTPS traffic-port /up"},
		{"TCP", service(annotate("healthcheck-protocol", "TCP")), "TCP 10256 "},
		{"local with the cluster's port", service(annotate("healthcheck-port", "10256"), local), "TCP 10256 "},
		{"local with its own port", service(annotate("healthcheck-port", "31234"), local), "HTTP 31234 /healthz"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			o, err := parseAnnotations(c.s, testConfig())
			if err != nil {
				t.Fatal(err)
			}
			f, err := o.healthCheck()
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join([]string{f.Text("health-check-protocol"), f.Text("health-check-port"), f.Text("health-check-path")}, " ")
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	t.Run("local without a port", func(t *testing.T) {
		o, err := parseAnnotations(service(func(s *lb.Service) { s.ExternalTrafficPolicy = lb.PolicyLocal }), testConfig())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.healthCheck(); lb.KindOf(err) != lb.Invalid {
			t.Errorf("got %v, want Invalid", err)
		}
	})
}
