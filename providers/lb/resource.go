package lb

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Kind names a type of cloud resource in the cloud's own words, lower-case and
// hyphenated: "load-balancer", "target-group", "forwarding-rule".
type Kind string

// Ref names a resource before it exists: its kind and its key.
type Ref struct {
	Kind Kind
	// Key is unique among the resources of its kind in one cluster and chosen
	// by the provider. What a cloud cannot change in place is part of the key:
	// such a change is then the creation of one resource and the deletion of
	// another, in that order, and needs no case of its own.
	Key string
}

// IsZero reports whether r names nothing.
func (r Ref) IsZero() bool { return r == Ref{} }

// String returns "kind key". Fields hold references in this form, so that a
// desired field can name a resource that has no ID yet.
func (r Ref) String() string { return string(r.Kind) + " " + r.Key }

// OwnerKind tells on whose behalf a resource exists.
type OwnerKind string

const (
	// OwnedByService resources go with their one Service.
	OwnedByService OwnerKind = "service"
	// OwnedByServices resources are shared by name by several Services and go
	// with the last of them.
	OwnedByServices OwnerKind = "services"
	// OwnedByCluster resources serve all Services of a cluster and go when a
	// fresh Observe finds no user left.
	OwnedByCluster OwnerKind = "cluster"
	// Attached resources were made by someone else. We own only our children
	// in them and never change or delete the thing itself.
	Attached OwnerKind = "attached"
)

// Owner is one owner of a resource.
type Owner struct {
	Kind OwnerKind
	// Service is set for OwnedByService and OwnedByServices.
	Service ServiceRef
}

// ByService is the owner of what belongs to one Service alone.
func ByService(s ServiceRef) Owner { return Owner{Kind: OwnedByService, Service: s} }

// ByCluster is the owner of what all Services of the cluster use.
func ByCluster() Owner { return Owner{Kind: OwnedByCluster} }

// Covers reports whether p is o, or the same Service's share in something that
// several Services own.
func (o Owner) Covers(p Owner) bool {
	return o == p || o.Kind == OwnedByService && p.Kind == OwnedByServices && o.Service == p.Service
}

// String returns the owner as a person would say it.
func (o Owner) String() string {
	switch o.Kind {
	case OwnedByService, OwnedByServices:
		return "service " + o.Service.String()
	case OwnedByCluster:
		return "the cluster"
	default:
		return string(o.Kind)
	}
}

// Resource is one thing in a cloud, wanted or seen.
type Resource struct {
	Ref
	// ID is the cloud's own identifier. It is empty in desired resources.
	ID string
	// Owners is empty in an observed resource that carries no owner mark of
	// this cluster: it is foreign and must be neither changed nor deleted.
	Owners []Owner
	// Parent is the resource this one lives inside, zero when it stands alone.
	// A child vanishes with its parent; where the parent is a document, its
	// children are fragments that one committer writes together.
	Parent Ref
	// DependsOn lists what must exist before this resource can, besides its
	// parent; it is deleted before them.
	DependsOn []Ref
	// Fields are compared one by one, and only those the desired resource
	// names: a field that only the observed one has is not ours to change.
	Fields Fields
	// Brake names a set field of a desired resource that must not lose more
	// than half of its items, nor the last one, in a single step, unless a
	// Verifier finds that each is really gone; "" when there is no such field.
	Brake string
	// InUse is set by every Observe on resources of the cluster or of several
	// Services while any load balancer still needs them.
	InUse bool
}

// OwnedBy reports whether o is one of the resource's owners, alone or with
// others.
func (r Resource) OwnedBy(o Owner) bool { return slices.ContainsFunc(r.Owners, o.Covers) }

// Foreign reports whether the resource carries no owner mark of this cluster.
func (r Resource) Foreign() bool { return len(r.Owners) == 0 }

// Requires returns Parent, when there is one, and DependsOn.
func (r Resource) Requires() []Ref {
	if r.Parent.IsZero() {
		return r.DependsOn
	}
	return append([]Ref{r.Parent}, r.DependsOn...)
}

// FieldOwners is the name under which a Change lists that a resource's owners
// differ: a Service joins those that share it, or leaves them. It is no field
// that a provider sets.
const FieldOwners = "owners"

// Fields are a resource's properties by name, in the cloud's own words.
type Fields map[string]Value

// Value is a field's value: one item for a scalar, any number for a set. Sets
// are sorted and without duplicates, so that two Values are equal exactly when
// their items are.
type Value []string

// Text is a scalar. The empty string is a value like any other.
func Text(s string) Value { return Value{s} }

// Number is a scalar in decimal.
func Number[N ~int | ~int32 | ~int64 | ~uint16](n N) Value {
	return Value{strconv.FormatInt(int64(n), 10)}
}

// Bool is the scalar "true" or "false".
func Bool(b bool) Value { return Value{strconv.FormatBool(b)} }

// Set is an unordered set; without items it is the empty set.
func Set(items ...string) Value {
	set := slices.Clone(items)
	slices.Sort(set)
	return slices.Compact(set)
}

// Equal reports whether v and w hold the same items.
func (v Value) Equal(w Value) bool { return slices.Equal(v, w) }

// String returns the items joined by commas, "none" for the empty set.
func (v Value) String() string {
	if len(v) == 0 {
		return "none"
	}
	return strings.Join(v, ", ")
}

// Text returns the value of a scalar field, "" when the field is absent.
func (f Fields) Text(name string) string {
	if v := f[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// Int returns a scalar field as a number. An absent field or one that is not
// an integer is an Invalid error naming it.
func (f Fields) Int(name string) (int, error) {
	n, err := strconv.Atoi(f.Text(name))
	if err != nil {
		return 0, &Error{Kind: Invalid, Op: "read field " + name, Message: fmt.Sprintf("%q is not an integer", f.Text(name))}
	}
	return n, nil
}

// Hash returns a short fingerprint of resources that does not depend on their
// order. IDs and InUse, which only observation knows, do not enter it.
func Hash(resources []Resource) string {
	sorted := slices.SortedFunc(slices.Values(resources), func(a, b Resource) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key, b.Key))
	})
	sum := sha256.New()
	for _, r := range sorted {
		fmt.Fprintf(sum, "%q %q %q %q\n", r.Ref, r.Parent, r.Owners, r.DependsOn)
		for _, name := range slices.Sorted(maps.Keys(r.Fields)) {
			fmt.Fprintf(sum, "  %q %q\n", name, []string(r.Fields[name]))
		}
	}
	return hex.EncodeToString(sum.Sum(nil)[:12])
}
