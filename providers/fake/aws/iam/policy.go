// Package iam evaluates identity-based policies as AWS Identity and Access
// Management does, as far as the simulated account needs it: statements that allow
// or deny actions on resources, under conditions. A policy is checked strictly
// when it is read: an element, operator or condition key that is not known here is
// an error then, and never silently true or false.
//
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
package iam

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Policy is a policy document that has been checked. The zero value allows
// nothing.
type Policy struct {
	statements []statement
}

type statement struct {
	deny               bool
	actions, resources []string
	conditions         []condition
}

// Parse reads a policy document. Everything it does not understand is an error:
// unknown elements, operators and condition keys, policy variables (and so
// placeholders that nobody replaced), resources that are not ARNs.
//
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements.html
func Parse(document []byte) (Policy, error) {
	var raw struct {
		Version   string
		ID        string `json:"Id"`
		Statement oneOrMore[rawStatement]
	}
	if err := decode(document, &raw); err != nil {
		return Policy{}, fmt.Errorf("policy: %w", err)
	}
	if raw.Version != "2012-10-17" {
		return Policy{}, fmt.Errorf("policy: version %q is not 2012-10-17", raw.Version)
	}
	if len(raw.Statement) == 0 {
		return Policy{}, errors.New("policy: no statement")
	}
	var p Policy
	sids := map[string]bool{}
	for i, r := range raw.Statement {
		s, err := r.check()
		if err == nil && r.SID != "" && sids[r.SID] {
			err = errors.New("the Sid is taken")
		}
		if err != nil {
			return Policy{}, fmt.Errorf("policy: statement %d %s: %w", i+1, r.SID, err)
		}
		sids[r.SID] = true
		p.statements = append(p.statements, s)
	}
	return p, nil
}

type rawStatement struct {
	SID       string `json:"Sid"`
	Effect    string
	Action    oneOrMore[string]
	Resource  oneOrMore[string]
	Condition map[string]map[string]oneOrMore[text]
}

func (r rawStatement) check() (statement, error) {
	s := statement{deny: r.Effect == "Deny", resources: r.Resource}
	for _, a := range r.Action {
		s.actions = append(s.actions, strings.ToLower(a))
	}
	if r.Effect != "Allow" && r.Effect != "Deny" {
		return s, fmt.Errorf("effect %q is neither Allow nor Deny", r.Effect)
	}
	if len(r.Action) == 0 || len(r.Resource) == 0 {
		return s, errors.New("no Action or no Resource")
	}
	for _, a := range r.Action {
		if service, name, ok := strings.Cut(a, ":"); a != "*" && (!ok || service == "" || name == "" || strings.ContainsAny(service, "*?")) {
			return s, fmt.Errorf("action %q is not service:Action", a)
		}
	}
	for _, resource := range r.Resource {
		if err := checkResource(resource); err != nil {
			return s, err
		}
	}
	for operator, keys := range r.Condition {
		for key, values := range keys {
			c, err := newCondition(operator, key, values)
			if err != nil {
				return s, fmt.Errorf("condition %s %s: %w", operator, key, err)
			}
			s.conditions = append(s.conditions, c)
		}
	}
	return s, nil
}

func checkResource(resource string) error {
	switch segments := strings.Split(resource, ":"); {
	case resource == "*":
		return nil
	case len(segments) < arnSegments || segments[0] != "arn":
		return fmt.Errorf("resource %q is neither * nor an ARN", resource)
	}
	return checkNoVariable(resource)
}

// checkNoVariable refuses policy variables, which are not served here.
func checkNoVariable(s string) error {
	if strings.Contains(s, "${") {
		return fmt.Errorf("%q holds a policy variable, or a placeholder that was not replaced", s)
	}
	return nil
}

// oneOrMore is a JSON array, or a single element that stands for an array of one.
type oneOrMore[T any] []T

// UnmarshalJSON takes both forms.
func (l *oneOrMore[T]) UnmarshalJSON(data []byte) error {
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("[")) {
		return decode(data, (*[]T)(l))
	}
	var one T
	if err := decode(data, &one); err != nil {
		return err
	}
	*l = oneOrMore[T]{one}
	return nil
}

// text is a condition's value, which may also be written as a JSON boolean.
type text string

// UnmarshalJSON takes a string, true or false.
func (t *text) UnmarshalJSON(data []byte) error {
	if s := string(data); s == "true" || s == "false" {
		*t = text(s)
		return nil
	}
	return json.Unmarshal(data, (*string)(t))
}

func decode(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if d.More() {
		return errors.New("something follows the document")
	}
	return nil
}
