package iam

import (
	"fmt"
	"strings"
	"testing"
)

func document(statements ...string) []byte {
	return fmt.Appendf(nil, `{"Version": "2012-10-17", "Statement": [%s]}`, strings.Join(statements, ","))
}

// statementWith is a statement that allows everything under a condition.
func statementWith(condition string) string {
	return fmt.Sprintf(`{"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {%s}}`, condition)
}

func TestPoliciesAreReadStrictly(t *testing.T) {
	tests := []struct{ name, document, want string }{
		{"no JSON", `{`, "unexpected EOF"},
		{"two documents", string(document(`{"Effect": "Allow", "Action": "*", "Resource": "*"}`)) + "{}", "follows"},
		{"old version", `{"Version": "2008-10-17", "Statement": []}`, "2008-10-17"},
		{"no statement", `{"Version": "2012-10-17"}`, "no statement"},
		{"unknown element", string(document(`{"Effect": "Allow", "Actions": "*", "Resource": "*"}`)), "Actions"},
		{"NotAction is not served", string(document(`{"Effect": "Allow", "NotAction": "ec2:*", "Resource": "*"}`)), "NotAction"},
		{"effect", string(document(`{"Effect": "allow", "Action": "*", "Resource": "*"}`)), `"allow"`},
		{"no action", string(document(`{"Effect": "Allow", "Resource": "*"}`)), "no Action"},
		{"no resource", string(document(`{"Effect": "Allow", "Action": "*"}`)), "no Resource"},
		{"action without service", string(document(`{"Effect": "Allow", "Action": "DescribeInstances", "Resource": "*"}`)), "DescribeInstances"},
		{"wildcard for the service", string(document(`{"Effect": "Allow", "Action": "e*:Describe", "Resource": "*"}`)), "e*:Describe"},
		{"resource is no ARN", string(document(`{"Effect": "Allow", "Action": "*", "Resource": "vpc/*"}`)), "vpc/*"},
		{"short ARN", string(document(`{"Effect": "Allow", "Action": "*", "Resource": "arn:aws:ec2:*"}`)), "arn:aws:ec2:*"},
		{"variable in a resource", string(document(`{"Effect": "Allow", "Action": "*", "Resource": "arn:aws:ec2:*:*:vpc/${aws:username}"}`)), "variable"},
		{"same Sid twice", string(document(`{"Sid": "A", "Effect": "Allow", "Action": "*", "Resource": "*"}`, `{"Sid": "A", "Effect": "Allow", "Action": "*", "Resource": "*"}`)), "taken"},
		{"unknown operator", string(document(statementWith(`"StringMatches": {"aws:RequestTag/a": "b"}`))), "operator"},
		{"unknown quantifier", string(document(statementWith(`"ForSomeValues:StringLike": {"aws:TagKeys": "b"}`))), "ForSomeValues"},
		{"unknown key", string(document(statementWith(`"StringEquals": {"aws:PrincipalTag/a": "b"}`))), "aws:PrincipalTag/a"},
		{"tag key left out", string(document(statementWith(`"StringEquals": {"aws:RequestTag/": "b"}`))), "aws:RequestTag/"},
		{"no values", string(document(statementWith(`"StringEquals": {"aws:RequestTag/a": []}`))), "no values"},
		{"number as a value", string(document(statementWith(`"StringEquals": {"aws:RequestTag/a": 1}`))), "number"},
		{"placeholder in a value", string(document(statementWith(`"StringEquals": {"aws:RequestTag/a": "${CLUSTER_NAME}"}`))), "placeholder"},
		{"placeholder in a key", string(document(statementWith(`"StringEquals": {"aws:RequestTag/${CLUSTER_NAME}": "a"}`))), "placeholder"},
		{"many values without a quantifier", string(document(statementWith(`"StringEquals": {"aws:TagKeys": "a"}`))), forAll},
		{"Null of text", string(document(statementWith(`"Null": {"aws:RequestTag/a": "no"}`))), "true or false"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Parse([]byte(tt.document)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one that says %s", err, tt.want)
			}
		})
	}
}

func TestConditions(t *testing.T) {
	tags := Context{"aws:RequestTag/team": {"red"}, "aws:TagKeys": {"team", "cost"}}
	tests := []struct {
		condition string
		ctx       Context
		want      bool
	}{
		{`"StringEquals": {"aws:RequestTag/team": "red"}`, tags, true},
		{`"StringEquals": {"aws:RequestTag/team": ["blue", "red"]}`, tags, true},
		{`"StringEquals": {"aws:RequestTag/team": "Red"}`, tags, false},
		{`"StringEquals": {"AWS:requesttag/TEAM": "red"}`, tags, true},
		{`"StringEquals": {"aws:RequestTag/cost": "red"}`, tags, false},
		{`"StringEquals": {"aws:ResourceTag/team": "red"}`, tags, false},
		{`"StringEqualsIfExists": {"aws:ResourceTag/team": "red"}`, tags, true},
		{`"StringEqualsIfExists": {"aws:RequestTag/team": "blue"}`, tags, false},
		{`"StringEqualsIgnoreCase": {"aws:RequestTag/team": "RED"}`, tags, true},
		{`"StringNotEquals": {"aws:RequestTag/team": ["red", "blue"]}`, tags, false},
		{`"StringNotEquals": {"aws:RequestTag/team": "blue"}`, tags, true},
		{`"StringNotEquals": {"aws:RequestTag/absent": "blue"}`, tags, true},
		{`"StringLike": {"aws:RequestTag/team": "r?d"}`, tags, true},
		{`"StringLike": {"aws:RequestTag/team": "*e*"}`, tags, true},
		{`"StringLike": {"aws:RequestTag/team": "r?"}`, tags, false},
		{`"StringNotLike": {"aws:RequestTag/team": "r*"}`, tags, false},
		{`"StringLike": {"aws:RequestTag/team": "gr?n"}`, Context{"aws:RequestTag/team": {"grün"}}, true},
		{`"Null": {"aws:RequestTag/team": "false"}`, tags, true},
		{`"Null": {"aws:RequestTag/team": true}`, tags, false},
		{`"Null": {"aws:RequestTag/absent": "true"}`, tags, true},
		{`"Bool": {"aws:ResourceTag/spot": true}`, Context{"aws:ResourceTag/spot": {"true"}}, true},
		{`"Bool": {"aws:ResourceTag/spot": true}`, Context{"aws:ResourceTag/spot": {"false"}}, false},
		{`"ForAllValues:StringEquals": {"aws:TagKeys": ["team", "cost"]}`, tags, true},
		{`"ForAllValues:StringEquals": {"aws:TagKeys": ["team"]}`, tags, false},
		{`"ForAllValues:StringEquals": {"aws:TagKeys": ["team"]}`, Context{}, true},
		{`"ForAnyValue:StringLike": {"aws:TagKeys": "co*"}`, tags, true},
		{`"ForAnyValue:StringLike": {"aws:TagKeys": "x*"}`, tags, false},
		{`"ForAnyValue:StringLike": {"aws:TagKeys": "*"}`, Context{}, false},
		{`"ForAllValues:StringNotEquals": {"aws:TagKeys": "team"}`, tags, false},
		{`"StringEquals": {"aws:RequestTag/team": "red", "aws:ResourceTag/team": "red"}`, tags, false},
		{`"StringEquals": {"aws:RequestTag/team": "red"}, "Null": {"aws:TagKeys": "false"}`, tags, true},
	}
	for _, tt := range tests {
		t.Run(tt.condition, func(t *testing.T) {
			p, err := Parse(document(statementWith(tt.condition)))
			if err != nil {
				t.Fatal(err)
			}
			if got := Evaluate([]Policy{p}, Request{Action: "ec2:CreateTags", Resource: "*", Context: tt.ctx}) == Allowed; got != tt.want {
				t.Errorf("holds: %v, want %v", got, tt.want)
			}
		})
	}
}

func TestStatements(t *testing.T) {
	const group = "arn:aws:ec2:eu-west-1:111122223333:security-group/sg-1"
	allow := func(action, resource string) string {
		return fmt.Sprintf(`{"Effect": "Allow", "Action": %q, "Resource": %q}`, action, resource)
	}
	deny := func(action, resource string) string {
		return fmt.Sprintf(`{"Effect": "Deny", "Action": %q, "Resource": %q}`, action, resource)
	}
	tests := []struct {
		name, action, resource string
		statements             []string
		want                   Decision
	}{
		{"the same action", "ec2:DeleteSecurityGroup", group, []string{allow("ec2:DeleteSecurityGroup", group)}, Allowed},
		{"another case", "ec2:DeleteSecurityGroup", group, []string{allow("EC2:deletesecuritygroup", group)}, Allowed},
		{"another action", "ec2:CreateTags", group, []string{allow("ec2:DeleteTags", group)}, Unmentioned},
		{"another service", "elasticloadbalancing:AddTags", group, []string{allow("ec2:*", "*")}, Unmentioned},
		{"wildcard action", "ec2:DescribeSubnets", "*", []string{allow("ec2:Describe*", "*")}, Allowed},
		{"an action without resources under an ARN", "ec2:DescribeSubnets", "*", []string{allow("ec2:Describe*", "arn:aws:ec2:*:*:*")}, Unmentioned},
		{"wildcards in an ARN", "ec2:CreateTags", group, []string{allow("ec2:CreateTags", "arn:aws:ec2:*:*:security-group/*")}, Allowed},
		{"another account", "ec2:CreateTags", group, []string{allow("ec2:CreateTags", "arn:aws:ec2:*:444455556666:security-group/*")}, Unmentioned},
		{"a wildcard stays in its part", "ec2:CreateTags", group, []string{allow("ec2:CreateTags", "arn:aws:ec2:*/sg-1::::")}, Unmentioned},
		{"resource names keep their case", "ec2:CreateTags", group, []string{allow("ec2:CreateTags", "arn:aws:ec2:*:*:Security-Group/*")}, Unmentioned},
		{"deny wins", "ec2:CreateTags", group, []string{deny("ec2:CreateTags", "*"), allow("*", "*")}, Denied},
		{"deny of something else", "ec2:CreateTags", group, []string{deny("ec2:DeleteTags", "*"), allow("*", "*")}, Allowed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Parse(document(tt.statements...))
			if err != nil {
				t.Fatal(err)
			}
			if got := Evaluate([]Policy{p}, Request{Action: tt.action, Resource: tt.resource}); got != tt.want {
				t.Errorf("decision %v, want %v", got, tt.want)
			}
		})
	}
	if got := Evaluate(nil, Request{Action: "ec2:DescribeSubnets", Resource: "*"}); got != Unmentioned {
		t.Errorf("without policies: %v", got)
	}
}

func TestPoliciesAddUp(t *testing.T) {
	var policies []Policy
	for _, statement := range []string{
		`{"Effect": "Allow", "Action": "ec2:CreateTags", "Resource": "*"}`,
		`{"Effect": "Allow", "Action": ["ec2:DeleteTags"], "Resource": ["*"]}`,
	} {
		p, err := Parse(document(statement))
		if err != nil {
			t.Fatal(err)
		}
		policies = append(policies, p)
	}
	for _, action := range []string{"ec2:CreateTags", "ec2:DeleteTags"} {
		if got := Evaluate(policies, Request{Action: action, Resource: "*"}); got != Allowed {
			t.Errorf("%s: %v", action, got)
		}
	}
}
