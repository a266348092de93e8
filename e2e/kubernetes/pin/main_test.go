package main

import (
	"encoding/json"
	"slices"
	"testing"
)

func parse(t *testing.T, text string) (m module) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestEditsFollowTheGoModOfKubernetes(t *testing.T) {
	theirs := parse(t, `{"Go": "1.27.0", "Godebug": [{"Key": "default", "Value": "go1.27"}],
		"Require": [{"Path": "go.etcd.io/etcd/server/v3", "Version": "v3.8.0", "Indirect": true}, {"Path": "k8s.io/klog/v2", "Version": "v2.9.0"}],
		"Replace": [
			{"Old": {"Path": "k8s.io/api"}, "New": {"Path": "./staging/src/k8s.io/api"}},
			{"Old": {"Path": "k8s.io/newcomer"}, "New": {"Path": "./staging/src/k8s.io/newcomer"}},
			{"Old": {"Path": "example.com/fork"}, "New": {"Path": "example.com/other", "Version": "v1.0.0"}}]}`)
	ours := parse(t, `{"Require": [
			{"Path": "k8s.io/api", "Version": "v0.37.2"},
			{"Path": "k8s.io/klog/v2", "Version": "v2.8.0"},
			{"Path": "k8s.io/newcomer", "Version": "v0.0.0", "Indirect": true}],
		"Replace": [
			{"Old": {"Path": "k8s.io/api"}, "New": {"Path": "k8s.io/api", "Version": "v0.37.2"}},
			{"Old": {"Path": "k8s.io/gone"}, "New": {"Path": "k8s.io/gone", "Version": "v0.37.2"}}]}`)
	got, err := editsFor("v1.38.1", "v0.38.1", theirs, ours)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"-go=1.27.0",
		"-require=k8s.io/kubernetes@v1.38.1",
		"-dropreplace=k8s.io/gone",
		"-replace=k8s.io/api=k8s.io/api@v0.38.1",
		"-replace=k8s.io/newcomer=k8s.io/newcomer@v0.38.1",
		"-require=k8s.io/api@v0.38.1",
		"-godebug=default=go1.27",
		"-require=go.etcd.io/etcd/server/v3@v3.8.0",
	}
	if !slices.Equal(got, want) {
		t.Errorf("edits:\n%q\nwant:\n%q", got, want)
	}
}

func TestNoEtcdIsAnError(t *testing.T) {
	if edits, err := editsFor("v1.38.1", "v0.38.1", module{}, module{}); err == nil {
		t.Errorf("edits %q without any etcd", edits)
	}
}

func TestOnlyAReleaseIsAccepted(t *testing.T) {
	for _, args := range [][]string{nil, {"1.37.2"}, {"v1.37"}, {"v1.38.0-rc.1"}, {"latest"}, {"v1.37.2", "v1.37.3"}} {
		if err := pin(args); err == nil {
			t.Errorf("%q accepted", args)
		}
	}
}
