package iam

import (
	"slices"
	"strings"
)

// Request is one permission that is asked for.
type Request struct {
	// Action is "service:Action"; it is compared without regard to case.
	Action string
	// Resource is an ARN, which may itself end in * when the identifier is not
	// known yet; "*" for an action that has no resource types. Only a statement with
	// the resource * allows such an action.
	Resource string
	Context  Context
}

// Decision is the outcome of an evaluation.
type Decision int

// The decisions: no statement allows the request, one allows it, one denies it
// whatever the others say.
const (
	Unmentioned Decision = iota
	Allowed
	Denied
)

// Evaluate decides a request by all the policies together. Without policies
// nothing is allowed.
//
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic_policy-eval-basics.html
func Evaluate(policies []Policy, r Request) Decision {
	r.Action = strings.ToLower(r.Action)
	decision := Unmentioned
	for _, p := range policies {
		for _, s := range p.statements {
			switch {
			case !s.covers(r):
			case s.deny:
				return Denied
			default:
				decision = Allowed
			}
		}
	}
	return decision
}

// covers says whether a statement is about a request, whose action is in lower
// case.
func (s statement) covers(r Request) bool {
	return slices.ContainsFunc(s.actions, func(a string) bool { return glob(a, r.Action) }) &&
		slices.ContainsFunc(s.resources, func(pattern string) bool { return coversResource(pattern, r.Resource) }) &&
		!slices.ContainsFunc(s.conditions, func(c condition) bool { return !c.holds(r.Context) })
}

// arnSegments is how many parts an ARN has; colons in the last belong to it.
//
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html
const arnSegments = 6

// coversResource compares ARNs part by part: a wildcard does not reach beyond the
// part it stands in.
func coversResource(pattern, resource string) bool {
	if pattern == "*" {
		return true
	}
	patterns, parts := strings.SplitN(pattern, ":", arnSegments), strings.SplitN(resource, ":", arnSegments)
	if len(parts) != arnSegments {
		return false
	}
	for i := range arnSegments {
		if !glob(patterns[i], parts[i]) {
			return false
		}
	}
	return true
}

// glob matches text against a pattern in which * is any text and ? any one
// character.
func glob(pattern, text string) bool {
	if !strings.ContainsAny(pattern, "*?") {
		return pattern == text
	}
	pat, s := []rune(pattern), []rune(text)
	star, resume := -1, 0
	p, i := 0, 0
	for i < len(s) {
		switch {
		case p < len(pat) && pat[p] == '*':
			star, resume = p, i
			p++
		case p < len(pat) && (pat[p] == '?' || pat[p] == s[i]):
			p++
			i++
		case star >= 0:
			resume++
			p, i = star+1, resume
		default:
			return false
		}
	}
	return strings.Trim(string(pat[p:]), "*") == ""
}
