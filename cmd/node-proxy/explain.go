package main

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/explain"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
)

var protocols = map[string]nft.Protocol{"tcp": nft.TCP, "udp": nft.UDP, "sctp": nft.SCTP}

func newExplainCommand() *cobra.Command {
	var from, protocol, program string
	c := &cobra.Command{
		Use:   "explain ADDRESS:PORT",
		Short: "Say what this node does with packets to an address and port",
		Long: `Say what this node does with packets to an address and port: whose Service it
is, its policy and endpoints, whom session affinity remembers, which connections
are tracked, and whether the Service is in quarantine.

It reads the kernel, so it needs no shell, no API server and, but for the
quarantine, no running node-proxy. It needs NET_ADMIN in the node's network.`,
		Example: `  node-proxy explain 10.96.0.10:53 --protocol udp
  kubectl -n kube-system exec ds/fairway-node-proxy -- /node-proxy explain 10.0.0.11:30080 --from 198.51.100.7`,
		Args:          cobra.ExactArgs(1),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := question(args[0], protocol, from)
			if err != nil {
				return err
			}
			q.Program = program
			answer, err := explain.Ask(cmd.Context(), q)
			if err != nil {
				return err
			}
			return answer.Write(cmd.OutOrStdout())
		},
	}
	c.Flags().SortFlags = false
	c.Flags().StringVar(&from, "from", "", "explain it for packets of this source `address`, and show no other client's")
	c.Flags().StringVar(&protocol, "protocol", "tcp", "`tcp`, udp or sctp")
	c.Flags().StringVar(&program, "metrics-address", "127.0.0.1:10249", "`address:port` at which the running program serves metrics, to ask it about quarantine")
	return c
}

func question(at, protocol, from string) (explain.Question, error) {
	var q explain.Question
	to, err := netip.ParseAddrPort(at)
	if err != nil {
		return q, fmt.Errorf("%q is not an address:port such as 10.96.0.10:80 or [fd00::1]:80", at)
	}
	p, ok := protocols[strings.ToLower(protocol)]
	if !ok {
		return q, fmt.Errorf("--protocol is tcp, udp or sctp, not %q", protocol)
	}
	q.Frontend = nft.Frontend{Addr: to.Addr().Unmap(), Protocol: p, Port: to.Port()}
	if from == "" {
		return q, nil
	}
	if q.From, err = netip.ParseAddr(from); err != nil {
		return q, fmt.Errorf("--from: %q is not an address", from)
	}
	if q.From = q.From.Unmap(); q.From.Is6() != q.Frontend.Addr.Is6() {
		return q, fmt.Errorf("--from %v and %v are of different families", q.From, q.Frontend.Addr)
	}
	return q, nil
}
