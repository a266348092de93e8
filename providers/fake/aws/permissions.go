package aws

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/fairway-lb/fairway/providers/fake/aws/iam"
)

// access is one permission that a request needs: an action on a resource, with
// what is known about the two.
type access struct {
	// action is "service:Action"; resource an ARN, or anyResource for an action that
	// has no resource types.
	action, resource string
	context          iam.Context
}

const anyResource = "*"

// authorizer is an input that knows which permissions its operation takes. Inputs
// of operations that only read need not be: those have no resource types.
type authorizer interface {
	needs(a *Account, action string) []access
}

// permissionsOf returns what a request needs to be allowed.
func (a *Account) permissionsOf(c call, in any) []access {
	switch action := c.service.name + ":" + c.operation.name; {
	case c.service == stsService:
		return nil // https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html
	case c.operation.write:
		return in.(authorizer).needs(a, action)
	default:
		return []access{{action: action, resource: anyResource}}
	}
}

// checkPermissions evaluates the account's policies for a request. An account
// without policies allows everything, and so does one to its administrators.
func (a *Account) checkPermissions(c call, in any) error {
	if len(a.policies) == 0 || slices.Contains(a.administrators, c.by.accessKey) {
		return nil
	}
	for _, need := range a.permissionsOf(c, in) {
		decision := iam.Evaluate(a.policies, iam.Request{Action: need.action, Resource: need.resource, Context: need.context})
		if decision != iam.Allowed {
			return c.service.denied(a.principal(), need, decision)
		}
		a.usedActions[need.action] = true
	}
	return nil
}

// UsedActions are the IAM actions that requests have needed so far and that the
// policies allowed, sorted: what a policy has to name, and no more. An account
// without policies remembers none.
func (a *Account) UsedActions() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Sorted(maps.Keys(a.usedActions))
}

// principal is who asks, for all access keys.
func (a *Account) principal() string {
	return "arn:aws:sts::" + a.id + ":assumed-role/cloud-controller-manager/fairway"
}

// denied is what the service answers when a permission is missing.
//
// https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
func (s *service) denied(principal string, need access, decision iam.Decision) error {
	what := "User: " + principal + " is not authorized to perform: " + need.action
	if need.resource != anyResource {
		what += " on resource: " + need.resource
	}
	if decision == iam.Denied {
		what += " with an explicit deny in an identity-based policy"
	} else {
		what += " because no identity-based policy allows the " + need.action + " action"
	}
	if s.protocol == ec2Query {
		return failStatus(http.StatusForbidden, "UnauthorizedOperation", "You are not authorized to perform this operation. %s", what)
	}
	return failStatus(http.StatusForbidden, "AccessDenied", "%s", what)
}

// existing is what conditions can ask about a resource: its tags. One that is not
// there has none, so that a policy which asks for a tag denies access to it before
// the service could say that it is absent.
func (a *Account) existing(id string) iam.Context {
	ctx := iam.Context{}
	prefix := iam.EC2ResourceTag
	if strings.HasPrefix(id, "arn:") {
		prefix = iam.ELBResourceTag
	}
	for key, value := range a.tags[id] {
		ctx[iam.ResourceTag+key], ctx[prefix+key] = []string{value}, []string{value}
	}
	return ctx
}

// requested is what conditions can ask about the tags of a request.
func requested(tags []tagInput) iam.Context {
	ctx := iam.Context{}
	for _, t := range tags {
		ctx[iam.RequestTag+t.Key] = []string{t.Value}
		ctx[iam.TagKeys] = append(ctx[iam.TagKeys], t.Key)
	}
	return ctx
}

// with adds what else is known to a context.
func with(ctx, more iam.Context) iam.Context {
	all := iam.Context{}
	maps.Copy(all, ctx)
	maps.Copy(all, more)
	return all
}
