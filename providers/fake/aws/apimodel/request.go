package apimodel

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Breach is one way in which a request is not what the model allows.
type Breach struct {
	Kind BreachKind
	// Key is the form's key; Path the same as AWS's messages write it,
	// "tags.1.member.key".
	Key, Path string
	// Value is what was given; empty for a missing parameter.
	Value string
	// Rule says what would be allowed, in the words of AWS's messages.
	Rule string
}

// BreachKind is what is wrong with a parameter.
type BreachKind int

// The kinds of breach.
const (
	// Unknown: the operation has no such parameter.
	Unknown BreachKind = iota
	// Missing: the operation requires the parameter.
	Missing
	// Malformed: the value is not of the parameter's type.
	Malformed
	// OutOfBounds: the value is not in the enumeration, too small or large, too short
	// or long, or does not match the pattern.
	OutOfBounds
)

// CheckRequest returns what is wrong with a request's form, in the order of the
// parameters' keys; nothing when the model allows it. An operation that the model
// does not have is an error.
func (m Model) CheckRequest(service, operation string, form url.Values) ([]Breach, error) {
	s := m[service]
	if s == nil || s.Operations[operation] == nil {
		return nil, fmt.Errorf("the model has no %s:%s", service, operation)
	}
	c := requestChecker{Service: s, form: form, used: map[string]bool{"Action": true, "Version": true}}
	if input := s.Operations[operation].Input; input != "" {
		c.structure(s.Shapes[input], "", "")
	}
	for key := range form {
		if !c.used[key] {
			c.breach(Unknown, key, key, form.Get(key), "")
		}
	}
	slices.SortFunc(c.breaches, func(x, y Breach) int { return strings.Compare(x.Key, y.Key) })
	return c.breaches, nil
}

type requestChecker struct {
	*Service
	form     url.Values
	used     map[string]bool
	breaches []Breach
}

func (c *requestChecker) breach(kind BreachKind, key, path, value, rule string, args ...any) {
	c.breaches = append(c.breaches, Breach{Kind: kind, Key: key, Path: path, Value: value, Rule: fmt.Sprintf(rule, args...)})
}

func (c *requestChecker) structure(shape *Shape, prefix, path string) {
	for _, name := range slices.Sorted(maps.Keys(shape.Members)) {
		m := shape.Members[name]
		key, memberPath := prefix+c.requestName(name, m), path+strings.ToLower(name[:1])+name[1:]
		if !c.value(c.Shapes[m.Shape], key, memberPath) && slices.Contains(shape.Required, name) {
			c.breach(Missing, key, memberPath, "", "Member must not be null")
		}
	}
}

// value checks what stands at key and says whether anything does.
func (c *requestChecker) value(shape *Shape, key, path string) bool {
	switch shape.Type {
	case "structure":
		if !c.under(key) {
			return false
		}
		c.structure(shape, key+".", path+".")
		return true
	case "list":
		return c.list(shape, key, path)
	}
	values, ok := c.form[key]
	if !ok {
		return false
	}
	c.used[key] = true
	if len(values) != 1 {
		c.breach(Malformed, key, path, strings.Join(values, ","), "Member must be given once")
		return true
	}
	c.scalar(shape, key, path, values[0])
	return true
}

func (c *requestChecker) scalar(shape *Shape, key, path, value string) {
	if !scalars[shape.Type].MatchString(value) {
		c.breach(Malformed, key, path, value, "Member must be of type %s", shape.Type)
		return
	}
	if len(shape.Enum) > 0 && !slices.Contains(shape.Enum, value) {
		c.breach(OutOfBounds, key, path, value, "Member must satisfy enum value set: [%s]", strings.Join(shape.Enum, ", "))
	}
	if shape.pattern != nil && !shape.pattern.MatchString(value) {
		c.breach(OutOfBounds, key, path, value, "Member must satisfy regular expression pattern: %s", shape.Pattern)
	}
	size, what := float64(utf8.RuneCountInString(value)), "length"
	if shape.Type == "integer" || shape.Type == "long" {
		size, _ = strconv.ParseFloat(value, 64)
		what = "value"
	}
	c.bounds(shape, key, path, value, size, what)
}

func (c *requestChecker) bounds(shape *Shape, key, path, value string, size float64, what string) {
	if shape.Min != nil && size < *shape.Min {
		c.breach(OutOfBounds, key, path, value, "Member must have %s greater than or equal to %v", what, *shape.Min)
	}
	if shape.Max != nil && size > *shape.Max {
		c.breach(OutOfBounds, key, path, value, "Member must have %s less than or equal to %v", what, *shape.Max)
	}
}

// list checks the elements key.1, key.2, … An empty list is spelled as the list's
// own name without a value.
func (c *requestChecker) list(shape *Shape, key, path string) bool {
	prefix := key
	if c.Protocol == "query" && !shape.Flattened {
		prefix += "." + answerName("member", *shape.Member)
	}
	numbers := c.numbers(prefix)
	if len(numbers) == 0 {
		if values, ok := c.form[key]; !ok || len(values) != 1 || values[0] != "" {
			return false
		}
		c.used[key] = true
	}
	for _, n := range numbers {
		c.value(c.Shapes[shape.Member.Shape], fmt.Sprintf("%s.%d", prefix, n), fmt.Sprintf("%s.%d.member", path, n))
	}
	c.bounds(shape, key, path, fmt.Sprintf("%d elements", len(numbers)), float64(len(numbers)), "length")
	return true
}

func (c *requestChecker) numbers(prefix string) []int {
	var numbers []int
	for k := range c.form {
		rest, ok := strings.CutPrefix(k, prefix+".")
		if !ok {
			continue
		}
		digits, _, _ := strings.Cut(rest, ".")
		if n, err := strconv.Atoi(digits); err == nil && n > 0 && strconv.Itoa(n) == digits {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return slices.Compact(numbers)
}

func (c *requestChecker) under(key string) bool {
	for k := range c.form {
		if strings.HasPrefix(k, key+".") {
			return true
		}
	}
	return false
}
