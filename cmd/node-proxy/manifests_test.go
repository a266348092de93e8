package main

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/config"
)

// document reads the document of a kind from a manifest, strictly.
func document(t *testing.T, file, kind string, into any) {
	t.Helper()
	data, err := os.ReadFile(file)
	must(t, err)
	for doc := range bytes.SplitSeq(data, []byte("\n---\n")) {
		if bytes.Contains(doc, []byte("\nkind: "+kind+"\n")) {
			must(t, yaml.UnmarshalStrict(doc, into))
			return
		}
	}
	t.Fatalf("%s has no %s", file, kind)
}

// permissions compares what the program asked of the API server so far with what
// the shipped role grants.
func (s *stage) permissions() {
	s.t.Helper()
	var role rbacv1.ClusterRole
	document(s.t, "rbac.yaml", "ClusterRole", &role)
	// Needs five minutes of the same trouble to be used.
	granted := map[string]bool{"patch events.k8s.io/events": false}
	for _, rule := range role.Rules {
		for _, verb := range rule.Verbs {
			group := rule.APIGroups[0]
			if group == "" {
				group = "core"
			}
			key := verb + " " + group + "/" + rule.Resources[0]
			_, excused := granted[key]
			granted[key] = !excused
		}
	}
	s.api.mu.Lock()
	defer s.api.mu.Unlock()
	for used := range s.api.used {
		if _, ok := granted[used]; !ok {
			s.t.Errorf("rbac.yaml does not grant %q, which the program uses", used)
		}
	}
	for key, must := range granted {
		if must && !s.api.used[key] {
			s.t.Errorf("rbac.yaml grants %q, which the program does not use", key)
		}
	}
}

// TestDaemonSet holds the shipped manifest to what the program takes, and to the
// rights that TestConfined runs it with.
func TestDaemonSet(t *testing.T) {
	var files corev1.ConfigMap
	document(t, "daemonset.yaml", "ConfigMap", &files)
	c, notes, err := config.Load([]byte(files.Data["config.yaml"]))
	must(t, err)
	must(t, c.Validate())
	if len(notes) > 0 {
		t.Errorf("notes on the configuration: %v", notes)
	}
	var set appsv1.DaemonSet
	document(t, "daemonset.yaml", "DaemonSet", &set)
	pod := set.Spec.Template.Spec
	for _, container := range append(pod.InitContainers, pod.Containers...) {
		o := options{Config: config.Default()}
		if err := newFlags(&o).Parse(container.Args); err != nil {
			t.Errorf("%s: %v", container.Name, err)
		}
		if o.file != "/etc/fairway/config.yaml" || o.initOnly != (container.Name == "settings") {
			t.Errorf("%s: file %s, init-only %v", container.Name, o.file, o.initOnly)
		}
		if !*container.SecurityContext.ReadOnlyRootFilesystem {
			t.Errorf("%s: can write to its root file system", container.Name)
		}
	}
	s := pod.Containers[0].SecurityContext
	if *s.AllowPrivilegeEscalation || s.Privileged != nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) ||
		!slices.Equal(s.Capabilities.Add, []corev1.Capability{"NET_ADMIN"}) {
		t.Errorf("the program has more rights than it needs: %+v", s)
	}
	if !pod.HostNetwork || !strings.Contains(pod.ServiceAccountName, "fairway-node-proxy") {
		t.Error("the Pod is not in the node's network, or has no account")
	}
}
