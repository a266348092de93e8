//go:build !no_aws

package main

import (
	"context"
	"io"

	"github.com/fairway-lb/fairway/controllers/loadbalancer"
	"github.com/fairway-lb/fairway/controllers/nodes"
	"github.com/fairway-lb/fairway/providers/aws"
	"github.com/fairway-lb/fairway/providers/lb"
)

func init() { clouds["aws"] = cloud{load: loadAWS, nodes: nodes.Filter{ProviderIDPrefix: "aws://"}} }

func loadAWS(file io.Reader) (string, openProvider, error) {
	config, err := aws.Load(file)
	if err != nil {
		return "", nil, err
	}
	return config.Cluster.Name, func(ctx context.Context, cluster lb.Cluster) (lb.Provider, error) {
		return aws.New(ctx, config, cluster, aws.Reporting(loadbalancer.ObserveCall))
	}, nil
}
