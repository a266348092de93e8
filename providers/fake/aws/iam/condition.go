package iam

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Context is what is known about a request: for each condition key its values.
// Keys are written as in policies and compared without regard to case, the key of
// a tag in them included; values are compared as they are.
//
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html
type Context map[string][]string

func (c Context) values(key string) []string {
	for k, values := range c {
		if strings.EqualFold(k, key) {
			return values
		}
	}
	return nil
}

// Condition keys that a Context can have; those of tags are followed by the tag's
// key. A policy that asks for another one is refused.
//
// https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html
// https://docs.aws.amazon.com/service-authorization/latest/reference/list_awselasticloadbalancingv2.html
const (
	RequestTag      = "aws:RequestTag/"
	ResourceTag     = "aws:ResourceTag/"
	EC2ResourceTag  = "ec2:ResourceTag/"
	ELBResourceTag  = "elasticloadbalancing:ResourceTag/"
	TagKeys         = "aws:TagKeys"
	EC2CreateAction = "ec2:CreateAction"
	ELBCreateAction = "elasticloadbalancing:CreateAction"
	ServiceName     = "iam:AWSServiceName"
)

func knownKey(key string) bool {
	for _, known := range []string{TagKeys, EC2CreateAction, ELBCreateAction, ServiceName} {
		if strings.EqualFold(key, known) {
			return true
		}
	}
	return slices.ContainsFunc([]string{RequestTag, ResourceTag, EC2ResourceTag, ELBResourceTag}, func(prefix string) bool {
		return len(key) > len(prefix) && strings.EqualFold(key[:len(prefix)], prefix)
	})
}

// condition is one operator applied to one key.
type condition struct {
	key    string
	values []string
	// null is set for the operator Null: whether the key must be absent.
	null *bool
	// matches compares a policy's value with a request's; negated turns the verdict
	// round, ifExists makes it true for an absent key.
	matches           func(policy, request string) bool
	negated, ifExists bool
	quantifier        string
}

const (
	forAll = "ForAllValues"
	forAny = "ForAnyValue"
)

// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
var operators = map[string]func(policy, request string) bool{
	"StringEquals":           func(policy, request string) bool { return policy == request },
	"StringEqualsIgnoreCase": strings.EqualFold,
	"StringLike":             glob,
	"Bool":                   strings.EqualFold,
}

var negatedOperators = map[string]string{
	"StringNotEquals":           "StringEquals",
	"StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
	"StringNotLike":             "StringLike",
}

func newCondition(operator, key string, values []text) (condition, error) {
	c := condition{key: key}
	if !knownKey(key) {
		return c, errors.New("the condition key is not known")
	}
	if len(values) == 0 {
		return c, errors.New("no values")
	}
	for _, v := range values {
		c.values = append(c.values, string(v))
	}
	for _, s := range append([]string{key}, c.values...) {
		if err := checkNoVariable(s); err != nil {
			return c, err
		}
	}
	if operator == "Null" {
		return c, c.setNull()
	}
	name := operator
	if quantifier, rest, ok := strings.Cut(operator, ":"); ok {
		if quantifier != forAll && quantifier != forAny {
			return c, fmt.Errorf("%q is neither %s nor %s", quantifier, forAll, forAny)
		}
		c.quantifier, name = quantifier, rest
	}
	if c.quantifier == "" && strings.EqualFold(key, TagKeys) {
		return c, fmt.Errorf("a key with many values needs %s or %s", forAll, forAny)
	}
	name, c.ifExists = strings.CutSuffix(name, "IfExists")
	if positive, ok := negatedOperators[name]; ok {
		name, c.negated = positive, true
	}
	c.matches = operators[name]
	if c.matches == nil {
		return c, errors.New("the operator is not known")
	}
	return c, nil
}

func (c *condition) setNull() error {
	if len(c.values) != 1 || c.values[0] != "true" && c.values[0] != "false" {
		return fmt.Errorf("the value of Null must be true or false, not %q", c.values)
	}
	absent := c.values[0] == "true"
	c.null = &absent
	return nil
}

// holds evaluates the condition. Without a quantifier, an absent key makes an
// operator false and a negated one true.
//
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-logic-multiple-context-keys-or-values.html
func (c condition) holds(ctx Context) bool {
	have := ctx.values(c.key)
	if c.null != nil {
		return *c.null == (len(have) == 0)
	}
	if len(have) == 0 {
		switch c.quantifier {
		case forAll:
			return true
		case forAny:
			return c.ifExists
		}
		return c.ifExists || c.negated
	}
	one := func(request string) bool {
		return c.negated != slices.ContainsFunc(c.values, func(policy string) bool { return c.matches(policy, request) })
	}
	if c.quantifier == forAll {
		return !slices.ContainsFunc(have, func(v string) bool { return !one(v) })
	}
	return slices.ContainsFunc(have, one)
}
