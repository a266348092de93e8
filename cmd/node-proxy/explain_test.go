package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestExplain asks a real kernel, as kubectl exec would, while the program runs
// and when it does not.
func TestExplain(t *testing.T) {
	s := newStage(t)
	p := s.start("run")
	s.healthy()
	c, err := s.hosts["client"].DialContext(t.Context(), "tcp", atNode)
	must(t, err)
	defer c.Close()
	pod, err := hear(c)
	must(t, err)
	endpoint := map[string]string{"a": "10.244.1.10:8080", "b": "10.244.1.11:8080"}[pod]

	explained := func(want []string, args ...string) {
		t.Helper()
		out := s.explain(args...)
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("explain %v does not say %q:\n%s", args, w, out)
			}
		}
	}
	web := []string{"Service       default/web", "2 in 2 slots", "10.244.1.10:8080", "10.244.1.11:8080", "affinity      none"}
	tracked := []string{"external: any endpoint", "1 tracked", c.LocalAddr().String() + " to " + endpoint + ", which sees 10.0.0.11:", "ESTABLISHED"}
	explained(append(web, tracked...), atNode)
	explained(append(web, tracked...), atNode, "--from", "198.51.100.10")
	explained([]string{"quarantine    no"}, atNode)
	explained([]string{"0 tracked", "10.244.1.10 is a Pod's address (Pods are in 10.244.0.0/16)"}, clusterIP, "--from", "10.244.1.10")
	explained([]string{"refused", "10.96.0.10:80/tcp, Service default/web"}, "10.96.0.10:81")
	explained([]string{"no Service is reached here"}, "192.0.2.1:80", "--protocol", "udp")
	s.stop(p)
	explained(append(web, tracked...), atNode)
	explained([]string{"quarantine    unknown: the program does not answer"}, atNode)
}

// explain returns what the program explains on the node.
func (s *stage) explain(args ...string) string {
	s.t.Helper()
	var out lockedBuffer
	cmd := exec.Command("/proc/self/exe", append([]string{"explain"}, args...)...)
	cmd.Env = append(os.Environ(), roleVariable+"=confined")
	cmd.Stdout, cmd.Stderr = &out, &out
	must(s.t, s.hosts["node"].Start(cmd))
	if err := cmd.Wait(); err != nil {
		s.t.Fatalf("explain %v: %v\n%s", args, err, out.String())
	}
	return out.String()
}

func TestExplainRefuses(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"", "accepts 1 arg"},
		{"10.96.0.10", "is not an address:port"},
		{"web.default:80", "is not an address:port"},
		{"10.96.0.10:80 --protocol icmp", "tcp, udp or sctp"},
		{"10.96.0.10:80 --from client", "is not an address"},
		{"10.96.0.10:80 --from fd00::1", "different families"},
	} {
		command := newCommand()
		command.SetArgs(append([]string{"explain"}, strings.Fields(c.args)...))
		if err := command.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("explain %s: %v, want %q", c.args, err, c.want)
		}
	}
}
