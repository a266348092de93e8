package reference

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairway-lb/fairway/providers/lb"
)

// The kinds of resources.
const (
	kindPool       lb.Kind = "pool"       // a Service's nodes
	kindBalancer   lb.Kind = "balancer"   // the cluster's document of frontends
	kindFrontend   lb.Kind = "frontend"   // a Service's entry in it
	kindAdmissions lb.Kind = "admissions" // the cluster's list of admitted clients
	kindAdmitted   lb.Kind = "admitted"   // a Service's entry in it
)

const (
	balancerPrefix   = "balancer-"
	admissionsPrefix = "admissions-"
	// schemeAnnotation chooses between the schemes. A frontend cannot move from
	// one to the other, so the scheme is part of the keys.
	schemeAnnotation = "reference.fairway.io/scheme"
)

var schemes = []string{"external", "internal"}

// The owner marks.
const (
	tagCluster  = "cluster-uid"
	tagService  = "service-uid"
	tagResource = "resource"
)

// api is what a controller asks of the cloud.
type api interface {
	listPools(ctx context.Context) ([]pool, error)
	getPool(ctx context.Context, name string) (pool, error)
	createPool(ctx context.Context, p pool) (pool, error)
	updatePool(ctx context.Context, p pool) (pool, error)
	deletePool(ctx context.Context, name, id string) error
	getDocument(ctx context.Context, name string) (*document, error)
	putDocument(ctx context.Context, version string, d *document) (*document, error)
	deleteDocument(ctx context.Context, name, version string) error
}

// Provider is the reference provider, of one cluster.
type Provider struct {
	api     api
	cluster lb.Cluster
	recent  recent
}

var (
	_ lb.Provider  = (*Provider)(nil)
	_ lb.Documents = (*Provider)(nil)
)

func newProvider(a api, cluster lb.Cluster) *Provider { return &Provider{api: a, cluster: cluster} }

// Name returns "reference".
func (p *Provider) Name() string { return "reference" }

// name returns a name that no other cluster, Service or scheme has.
func (p *Provider) name(prefix string, parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(append([]string{p.cluster.Name, p.cluster.UID}, parts...), "\x00")))
	return prefix + hex.EncodeToString(sum[:6])
}

var (
	balancerRef   = lb.Ref{Kind: kindBalancer, Key: "main"}
	admissionsRef = lb.Ref{Kind: kindAdmissions, Key: "main"}
)

func poolRef(s lb.ServiceRef, scheme string) lb.Ref {
	return lb.Ref{Kind: kindPool, Key: s.UID + "/" + scheme}
}

func frontendRef(s lb.ServiceRef, scheme string) lb.Ref {
	return lb.Ref{Kind: kindFrontend, Key: s.UID + "/" + scheme}
}

func admittedRef(s lb.ServiceRef) lb.Ref { return lb.Ref{Kind: kindAdmitted, Key: s.UID} }

// nameOf returns the name in the cloud of what ref refers to.
func (p *Provider) nameOf(ref lb.Ref) string {
	switch ref.Kind {
	case kindBalancer:
		return p.name(balancerPrefix)
	case kindAdmissions:
		return p.name(admissionsPrefix)
	default:
		return p.name(string(ref.Kind)+"-", ref.Key)
	}
}

// marks returns the owner mark of r.
func (p *Provider) marks(r lb.Resource) map[string]string {
	tags := map[string]string{tagCluster: p.cluster.UID, tagResource: r.Key}
	if o := r.Owners[0]; o.Kind == lb.OwnedByService {
		tags[tagService] = o.Service.UID
	}
	return tags
}

// owned reports whether tags are the owner mark of r.
func (p *Provider) owned(tags map[string]string, r lb.Resource) bool {
	if r.Foreign() {
		return false
	}
	for name, value := range p.marks(r) {
		if tags[name] != value {
			return false
		}
	}
	return true
}

// notOurs is for what has our name but not our mark.
func notOurs(op lb.Op, r lb.Resource, name string) error {
	return &lb.Error{Kind: lb.Conflict, Op: string(op), Resource: r.Ref, Message: name + " does not carry this cluster's owner mark; remove or rename it"}
}

// Desired implements lb.Provider.
func (p *Provider) Desired(_ context.Context, s lb.Service) (lb.Desired, error) {
	scheme := schemes[0]
	if asked, ok := s.Annotations[schemeAnnotation]; ok {
		if scheme = asked; !slices.Contains(schemes, scheme) {
			return lb.Desired{}, lb.InvalidField(schemeAnnotation, asked, "it is external or internal")
		}
	}
	var ports, sources, targets []string
	for _, port := range s.Ports {
		ports = append(ports, fmt.Sprintf("%s/%d to %d", port.Protocol, port.Port, port.NodePort))
	}
	for _, prefix := range s.SourceRanges {
		sources = append(sources, prefix.String())
	}
	for _, t := range s.Targets {
		if t.State == lb.TargetActive {
			targets = append(targets, t.ProviderID)
		}
	}
	health := s.HealthCheckNodePort
	if health == 0 {
		health = 10256
	}
	service, cluster := []lb.Owner{lb.ByService(s.ServiceRef)}, []lb.Owner{lb.ByCluster()}
	nodes := poolRef(s.ServiceRef, scheme)
	return lb.Desired{Resources: []lb.Resource{
		{Ref: balancerRef, Owners: cluster, Fields: lb.Fields{"setting": lb.Text("standard")}},
		{Ref: admissionsRef, Owners: cluster, Fields: lb.Fields{"setting": lb.Text("deny")}},
		{Ref: nodes, Owners: service, Fields: lb.Fields{"targets": lb.Set(targets...), "health-port": lb.Number(health)}},
		{Ref: admittedRef(s.ServiceRef), Owners: service, Parent: admissionsRef,
			Fields: lb.Fields{"sources": lb.Set(sources...), "ports": lb.Set(ports...)}},
		{Ref: frontendRef(s.ServiceRef, scheme), Owners: service, Parent: balancerRef, DependsOn: []lb.Ref{nodes},
			Fields: lb.Fields{"pool": lb.Text(nodes.String()), "ports": lb.Set(ports...)}},
	}}, nil
}

// Status implements lb.Provider.
func (p *Provider) Status(resources []lb.Resource) lb.Status {
	var found []netip.Addr
	for _, r := range resources {
		if ip, err := netip.ParseAddr(r.Fields.Text("address")); err == nil && !r.Foreign() {
			found = append(found, ip)
		}
	}
	slices.SortFunc(found, netip.Addr.Compare)
	var status lb.Status
	for _, ip := range found {
		status.Addresses = append(status.Addresses, lb.Address{IP: ip, Mode: lb.ModeProxy})
	}
	return status
}
