// Package manifests holds what the demo and the end-to-end tests apply. The
// three Services are those of the document the project began from, word for
// word; the workloads behind them are ours.
package manifests

import _ "embed" // for the manifests below

// The Services, one of each type.
var (
	//go:embed clusterip.yaml
	ClusterIP string
	//go:embed nodeport.yaml
	NodePort string
	//go:embed loadbalancer.yaml
	LoadBalancer string
)

// KubeDNS is the cluster's name server: a Deployment of CoreDNS, its permissions
// and the Service kube-system/kube-dns. ${COREFILE} is the path of its
// configuration.
//
//go:embed kube-dns.yaml
var KubeDNS string

// Corefile is that configuration. ${KUBECONFIG} is the path of its credentials,
// ${UPSTREAM} the name server for all that is not the cluster's.
//
//go:embed Corefile
var Corefile string

// The workloads.
var (
	// MyApp is the Deployment that the three Services select.
	//go:embed my-app.yaml
	MyApp string
	// Exposed is a Pod and a Deployment, both named myapp, without a Service.
	//go:embed myapp.yaml
	Exposed string
)
