package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/fairway-lb/fairway/controllers/nodes"
	"github.com/fairway-lb/fairway/providers/lb"
)

// cloud is one cloud this program was built with. There is a file for each,
// behind a build tag, that adds it to clouds.
type cloud struct {
	// load reads the configuration and returns the cluster's name and how the
	// provider is opened. A configuration that cannot be is an error that names
	// what is wrong.
	load func(config io.Reader) (clusterName string, open openProvider, err error)
	// nodes tells this cloud's machines from the Nodes of others.
	nodes nodes.Filter
}

type openProvider func(ctx context.Context, cluster lb.Cluster) (lb.Provider, error)

// find returns the cloud of that name, or an error that lists the names there
// are.
func find(name string) (cloud, error) {
	c, ok := clouds[name]
	if !ok {
		return cloud{}, fmt.Errorf("--cloud-provider=%s: there is no such cloud, this program has %s", name, strings.Join(slices.Sorted(maps.Keys(clouds)), ", "))
	}
	return c, nil
}

// clouds is what this program was built with, by the name that --cloud-provider
// takes. The clouds' own files fill it before main begins, and nothing changes
// it after.
var clouds = map[string]cloud{}
