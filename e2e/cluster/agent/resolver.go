package agent

import (
	"fmt"
	"os"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// clusterDomain is what names of Services end with.
const clusterDomain = "cluster.local"

// resolverFile is where programs look for their name server.
const resolverFile = "/etc/resolv.conf"

// resolverConfig is the resolv.conf(5) that a kubelet gives a Pod; see
// pkg/kubelet/network/dns/dns.go of Kubernetes. It is empty for Pods that use
// the node's own.
func (a *Agent) resolverConfig(object *corev1.Pod) string {
	var servers, search, options []string
	policy := object.Spec.DNSPolicy
	if policy == corev1.DNSClusterFirst && object.Spec.HostNetwork {
		policy = corev1.DNSDefault
	}
	switch {
	case policy == corev1.DNSDefault:
		return ""
	case policy != corev1.DNSNone:
		if !a.config.ClusterDNS.IsValid() {
			return ""
		}
		servers = []string{a.config.ClusterDNS.String()}
		search = []string{object.Namespace + ".svc." + clusterDomain, "svc." + clusterDomain, clusterDomain}
		options = []string{"ndots:5"}
	}
	if more := object.Spec.DNSConfig; more != nil {
		servers = append(servers, more.Nameservers...)
		search = append(search, more.Searches...)
		for _, option := range more.Options {
			// The Pod's word on an option is the last.
			options = slices.DeleteFunc(options, func(have string) bool {
				name, _, _ := strings.Cut(have, ":")
				return name == option.Name
			})
			text := option.Name
			if option.Value != nil && *option.Value != "" {
				text += ":" + *option.Value
			}
			options = append(options, text)
		}
	}
	var b strings.Builder
	if len(search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	for _, server := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	if len(options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(options, " "))
	}
	return b.String()
}

// writeFiles makes the files that programs in the Pod see in place of the
// machine's.
func (p *pod) writeFiles(object *corev1.Pod) error {
	p.files = nil
	text := p.agent.resolverConfig(object)
	if text == "" {
		return nil
	}
	file, err := os.CreateTemp("", "resolv-*.conf")
	if err != nil {
		return err
	}
	defer file.Close()
	p.files = map[string]string{resolverFile: file.Name()}
	if _, err := file.WriteString(text); err != nil {
		return fmt.Errorf("writing a Pod's resolver configuration: %w", err)
	}
	return nil
}

// removeFiles takes them away; nothing starts in the Pod any more.
func (p *pod) removeFiles() {
	for _, file := range p.files {
		_ = os.Remove(file)
	}
}
