// Package aws is the lb.Provider for Amazon Web Services: Network Load
// Balancers whose targets are the cluster's instances at their NodePorts,
// through aws-sdk-go-v2. Load balancers are always made with two security
// groups: a frontend group of the Service that admits its clients, and a
// backend group of the cluster that the nodes' own security group admits by a
// few fixed rules, written once. What a Service wants is a pure function of the
// Service, the configuration and facts about the account that are read through
// a cache; what exists is always read from the account.
package aws
