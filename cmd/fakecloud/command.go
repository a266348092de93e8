package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairway-lb/fairway/providers/fake/aws"
	"github.com/fairway-lb/fairway/providers/fake/datapath"
)

// options are the command's flags.
type options struct {
	world, listen, dns, datapath string
	verbose                      bool
}

const long = `Serve a simulated AWS account, with EC2 and Elastic Load Balancing v2, from a
file that says what the account holds to begin with. Any AWS client can be pointed
at it by AWS_ENDPOINT_URL; any credentials will do. There is no authentication:
listen only where everybody may do everything.

Load balancers carry packets, unless --datapath=off. For that the program runs in
the network namespace through which all hosts reach each other, which needs
CAP_NET_ADMIN and net.ipv4.ip_forward=1 there, and each instance of the world names
the network device through which it is reached.

Look inside over HTTP:
  /_fake/healthz              answers once everything is up
  /_fake/flows                connections through the load balancers, and their targets
  /_fake/calls?format=text    what the cloud was asked; ?format=counts
  /_fake/leftovers            what clients made and did not remove
  /_fake/violations           requests that no correct client makes
  /_fake/dataplane            what the data path is to carry`

func newCommand() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:           "fakecloud --world FILE",
		Short:         "Serve a simulated AWS account",
		Long:          long,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error {
			return run(c.Context(), o, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	f := c.Flags()
	f.StringVar(&o.world, "world", "", "YAML `file` with what the account holds; an example is cmd/fakecloud/world.example.yaml")
	f.StringVar(&o.listen, "listen", "127.0.0.1:4566", "`address` of the cloud's API")
	f.StringVar(&o.dns, "dns", "127.0.0.1:4553", "`address` of the DNS server, UDP and TCP, that knows the names of load balancers; empty for none")
	f.StringVar(&o.datapath, "datapath", "on", "`on or off`: whether load balancers carry packets, in this network namespace")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "log every change of the data path")
	if err := c.MarkFlagRequired("world"); err != nil {
		panic(err) // the flag is defined right above
	}
	return c
}

// grace is how long requests underway may take to end at the end.
const grace = 5 * time.Second

// run serves until ctx ends or a part of it fails.
func run(ctx context.Context, o options, stdout, stderr io.Writer) (err error) {
	level := slog.LevelInfo
	if o.verbose {
		level = slog.LevelDebug
	}
	if o.datapath != "on" && o.datapath != "off" {
		return fmt.Errorf("--datapath is %q: it must be on or off", o.datapath)
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	world, account, err := load(o.world)
	if err != nil {
		return err
	}
	defer account.Close()

	carried, err := carry(world, account, o.datapath == "on", log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, carried.close()) }()

	failed := make(chan error, 3)
	api, err := listen(ctx, o.listen)
	if err != nil {
		return err
	}
	server := newServer(account, carried, log)
	go func() { failed <- server.Serve(api) }()
	defer shutdown(server)

	n := newNames(world.Region, account, carried)
	if o.dns != "" {
		if err := n.serve(ctx, o.dns, failed); err != nil {
			return err
		}
		defer n.shutdown()
	}
	announce(stdout, world, api.Addr(), n, carried)
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return fmt.Errorf("serving: %w", err)
	}
}

func load(path string) (aws.World, *aws.Account, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return aws.World{}, nil, fmt.Errorf("reading the world: %w", err)
	}
	world, err := aws.ParseWorld(data)
	if err != nil {
		return aws.World{}, nil, fmt.Errorf("%s: %w", path, err)
	}
	account, err := aws.New(world)
	if err != nil {
		return aws.World{}, nil, fmt.Errorf("%s: %w", path, err)
	}
	return world, account, nil
}

// carriage is the data path, if there is one.
type carriage struct{ *datapath.Datapath }

// carry starts the data path if it is wanted, and makes the account use it.
func carry(world aws.World, account *aws.Account, wanted bool, log *slog.Logger) (carriage, error) {
	if !wanted {
		return carriage{}, nil
	}
	for _, i := range world.Instances {
		if i.Device == "" {
			return carriage{}, fmt.Errorf("instance %s has no device: the data path needs the name of the network device each is reached through (--datapath=off does without)", i.ID)
		}
	}
	d, err := datapath.New(account.ReportHealth, log)
	if err != nil {
		return carriage{}, fmt.Errorf("starting the data path (--datapath=off does without): %w", err)
	}
	account.SetCarrier(d)
	return carriage{d}, nil
}

func (c carriage) close() error {
	if c.Datapath == nil {
		return nil
	}
	return c.Close()
}

// inService are those of a load balancer's addresses that DNS answers with;
// without a data path all are.
func (c carriage) inService(addrs []netip.Addr) []netip.Addr {
	if c.Datapath == nil {
		return addrs
	}
	return c.InService(addrs)
}

func listen(ctx context.Context, address string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening for the API: %w", err)
	}
	return l, nil
}

func shutdown(server *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if server.Shutdown(ctx) != nil {
		_ = server.Close()
	}
}

// announce says what is served and how to use it. Its last line is "ready".
func announce(w io.Writer, world aws.World, api net.Addr, n *names, carried carriage) {
	at := netip.MustParseAddrPort(api.String())
	if at.Addr().IsUnspecified() {
		at = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), at.Port())
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Fake AWS account %s with %d instances in %d zones of %s. To use it:\n",
		world.AccountID, len(world.Instances), len(world.Zones), world.Region)
	fmt.Fprintf(&b, "  export AWS_ENDPOINT_URL=http://%v AWS_REGION=%s AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any\n", at, world.Region)
	if n.addr != "" {
		fmt.Fprintf(&b, "Names of load balancers, below %s, are resolved by the DNS server %s.\n", strings.TrimSuffix(n.zone, "."), n.addr)
	}
	if carried.Datapath != nil {
		fmt.Fprintf(&b, "Load balancers carry packets; their connections: http://%v/_fake/flows\n", at)
	} else {
		fmt.Fprintln(&b, "Load balancers carry no packets (--datapath=off); their targets count as healthy while their instances run.")
	}
	fmt.Fprintf(&b, "What the cloud is asked: http://%v/_fake/calls?format=text\nready\n", at)
	_, _ = io.WriteString(w, b.String())
}
