// Package aws is a simulated AWS account in one region, as an http.Handler that
// speaks the real wire protocols of EC2 (ec2Query), Elastic Load Balancing v2
// (awsQuery) and, of STS, GetCallerIdentity. It serves what a controller of
// Network Load Balancers calls and is as strict as AWS where it serves:
// idempotent creation against Duplicate errors, resources in use, limits, names
// and batches. Each request is checked against AWS's published API model (package
// apimodel), and by IAM policies if the account is given any (package iam); what
// the model does not allow, or the account does not serve, is an error, never
// ignored. The account decides the state of load balancers and targets; a data path
// (fake.Carrier) may carry the packets and report the health.
//
// It has one VPC and IPv4 only. Not served, and refused with an error that says
// so: other kinds of load balancers, TLS and QUIC, IP and weighted targets,
// certificates, prefix lists.
package aws

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fairway-lb/fairway/providers/fake"
	"github.com/fairway-lb/fairway/providers/fake/aws/apimodel"
	"github.com/fairway-lb/fairway/providers/fake/aws/iam"
)

// Account is the simulated account. It is safe for concurrent use. Make one with
// New and Close it in the end.
type Account struct {
	region, id string
	zones      []string
	publicPool netip.Prefix
	timing     timing
	quotas     Quotas
	calls      fake.CallLog
	faults     fake.Faults
	throttle   *fake.Throttle
	// model is AWS's description of what is served.
	model apimodel.Model
	// policies bind all but the administrators' access keys.
	policies       []iam.Policy
	administrators []string

	mu            sync.Mutex
	revoked       map[string]bool // access keys
	ids           *fake.IDs
	agenda        *fake.Agenda
	vpc           *vpc
	subnets       map[string]*subnet
	routeTables   []*routeTable
	groups        map[string]*securityGroup
	instances     map[string]*instance
	interfaces    map[string]*networkInterface
	addresses     map[string]*address
	loadBalancers map[string]*loadBalancer
	targetGroups  map[string]*targetGroup
	listeners     map[string]*listener
	tags          map[string]map[string]string
	seed          seed
	violations    []string
	// hasLoadBalancerRole: ELBv2 has its service-linked role since a first load
	// balancer was made.
	hasLoadBalancerRole bool
	// doomed is set while an operation runs whose outcome shall be a failure.
	doomed      bool
	usedActions map[string]bool

	carrier    fake.Carrier
	carried    fake.Dataplane
	nextPublic netip.Addr
}

// timing is Timing in the unit the code uses.
type timing struct {
	latency, provisioning, registration, interfaceLinger, releaseLag, visibilityLag, instanceLinger, maxDraining time.Duration
}

// New returns an account that holds w, or an error that says what of w does not
// fit together.
func New(w World) (*Account, error) {
	if err := w.complete(); err != nil {
		return nil, fmt.Errorf("world: %w", err)
	}
	policies, err := w.policies()
	if err != nil {
		return nil, fmt.Errorf("world: %w", err)
	}
	model, err := apimodel.Published()
	if err != nil {
		return nil, err
	}
	a := &Account{
		model: model, policies: policies, administrators: w.Administrators,
		region: w.Region, id: w.AccountID, zones: w.Zones, publicPool: w.PublicPool, quotas: w.Quotas,
		timing: timing{
			latency:         time.Duration(w.Timing.Latency),
			provisioning:    time.Duration(w.Timing.Provisioning),
			registration:    time.Duration(w.Timing.Registration),
			interfaceLinger: time.Duration(w.Timing.InterfaceLinger),
			releaseLag:      time.Duration(w.Timing.ReleaseLag),
			visibilityLag:   time.Duration(w.Timing.VisibilityLag),
			instanceLinger:  time.Duration(w.Timing.InstanceLinger),
			maxDraining:     time.Duration(w.Timing.MaxDraining),
		},
		throttle:      w.Throttle.build(),
		ids:           fake.NewIDs(w.AccountID + w.Region),
		subnets:       map[string]*subnet{},
		groups:        map[string]*securityGroup{},
		instances:     map[string]*instance{},
		interfaces:    map[string]*networkInterface{},
		addresses:     map[string]*address{},
		loadBalancers: map[string]*loadBalancer{},
		targetGroups:  map[string]*targetGroup{},
		listeners:     map[string]*listener{},
		tags:          map[string]map[string]string{},
		usedActions:   map[string]bool{},
		nextPublic:    w.PublicPool.Masked().Addr().Next(),
	}
	a.agenda = fake.NewAgenda(&a.mu)
	a.seedNetwork(w)
	a.seedSecurityGroups(w.SecurityGroups)
	for _, i := range w.Instances {
		if err := a.addInstance(i); err != nil {
			return nil, fmt.Errorf("world: %w", err)
		}
	}
	a.rememberSeed()
	return a, nil
}

// Close stops everything that would still happen in the account. Requests are
// still answered.
func (a *Account) Close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.agenda.Stop()
}

// Calls is the log of all requests; it may be reset.
func (a *Account) Calls() *fake.CallLog { return &a.calls }

// Faults is the plan of what will go wrong with requests.
func (a *Account) Faults() *fake.Faults { return &a.faults }

// Violations are the requests so far that no correct client makes: unknown
// operations or parameters, values that AWS's API model does not allow, missing or
// foreign credentials. Each was answered with an error. Tests assert that there are
// none. A request that a policy denies is not among them.
func (a *Account) Violations() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.violations)
}

// Revoke makes an access key unknown, as an operator deletes one in IAM.
func (a *Account) Revoke(accessKey string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.revoked == nil {
		a.revoked = map[string]bool{}
	}
	a.revoked[accessKey] = true
}

func (a *Account) isRevoked(accessKey string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.revoked[accessKey]
}

func (a *Account) violation(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.violations = append(a.violations, err.Error())
	return err
}

// SetCarrier hands the data plane to c, now and on each change, and leaves the
// health of targets to what is reported by ReportHealth. Set it before the first
// target is registered.
func (a *Account) SetCarrier(c fake.Carrier) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.carrier = c
	a.carried = fake.Dataplane{Generation: a.carried.Generation}
	a.publish()
}

// Resolve returns the addresses the DNS name of a load balancer stands for: the
// public ones of an internet-facing load balancer, the private ones of an
// internal one, sorted; none for a name that is not a load balancer's. The name
// may end in a dot and is compared without regard to case.
func (a *Account) Resolve(name string) []netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.agenda.RunDue()
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	for _, lb := range a.loadBalancers {
		if strings.ToLower(lb.dnsName) != name {
			continue
		}
		var addrs []netip.Addr
		for _, z := range lb.zones {
			nic := a.interfaces[z.nic]
			if lb.internal() {
				addrs = append(addrs, nic.private)
			} else {
				addrs = append(addrs, nic.public)
			}
		}
		slices.SortFunc(addrs, netip.Addr.Compare)
		return addrs
	}
	return nil
}

func (a *Account) requestID() string {
	h := a.ids.Hex("request", 32)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// newID returns an identifier in EC2's form, "sg-0123456789abcdef0".
func (a *Account) newID(prefix string) string { return prefix + "-0" + a.ids.Hex(prefix, 16) }

func (a *Account) arn(service, resource string) string {
	return fmt.Sprintf("arn:aws:%s:%s:%s:%s", service, a.region, a.id, resource)
}

// seed is what the account held at first and what was added from outside of the
// API: everything else is left over by clients.
type seed struct {
	resources map[string]bool
	rules     map[string]bool
	tags      map[string]map[string]string
}

func (a *Account) rememberSeed() {
	a.seed = seed{resources: map[string]bool{}, rules: map[string]bool{}, tags: map[string]map[string]string{}}
	for id := range a.groups {
		a.seed.resources[id] = true
		for _, r := range a.groups[id].rules {
			a.seed.rules[r.id] = true
		}
	}
	for id := range a.interfaces {
		a.seed.resources[id] = true
	}
	for id, tags := range a.tags {
		a.seed.tags[id] = maps.Clone(tags)
	}
}
