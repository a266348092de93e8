// Package apimodel holds AWS's published description of the operations that the
// simulated account serves, and checks requests and answers against it. It is the
// account's protection from its own mistakes: a parameter, an element or a limit
// that exists only in the fake, or only in a driver, does not pass.
//
// The description is a part of the service models of aws-sdk-go, cut out by the
// program in generate, and an overlay of what AWS has added since, each entry with
// the page that documents it.
package apimodel

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
)

//go:generate go run ./generate

//go:embed model.json
var published []byte

//go:embed overlay.json
var overlay []byte

// Model is the services by their signing names.
type Model map[string]*Service

// Service is a service's operations and the shapes of what they take and return.
type Service struct {
	// Protocol is "query" or "ec2".
	Protocol   string                `json:"protocol"`
	Operations map[string]*Operation `json:"operations"`
	Shapes     map[string]*Shape     `json:"shapes"`
}

// Operation of a service. Input and Output name shapes; they are empty where
// there is nothing to say.
type Operation struct {
	Input  string `json:"input,omitempty"`
	Output string `json:"output,omitempty"`
}

// Shape is a type: a structure, a list or a scalar with its limits.
type Shape struct {
	Type     string            `json:"type"`
	Required []string          `json:"required,omitempty"`
	Members  map[string]Member `json:"members,omitempty"`
	// Member is what a list holds.
	Member    *Member  `json:"member,omitempty"`
	Flattened bool     `json:"flattened,omitempty"`
	Enum      []string `json:"enum,omitempty"`
	// Min and Max limit an integer's value, a string's length in characters or a
	// list's number of elements.
	Min     *float64 `json:"min,omitempty"`
	Max     *float64 `json:"max,omitempty"`
	Pattern string   `json:"pattern,omitempty"`

	pattern *regexp.Regexp
}

// Member is a shape in another one, with its name on the wire where that is not
// the member's own.
type Member struct {
	Shape        string `json:"shape"`
	LocationName string `json:"locationName,omitempty"`
	QueryName    string `json:"queryName,omitempty"`
}

// addition is an entry of the overlay: what AWS has added to one service since the
// model was published.
type addition struct {
	// Source is the page that documents it.
	Source     string                `json:"source"`
	Service    string                `json:"service"`
	Operations map[string]*Operation `json:"operations,omitempty"`
	Shapes     map[string]*Shape     `json:"shapes,omitempty"`
	// Members are added to shapes, Values to enumerations.
	Members map[string]map[string]Member `json:"members,omitempty"`
	Values  map[string][]string          `json:"values,omitempty"`
	// Outputs are those of operations that returned nothing before.
	Outputs map[string]string `json:"outputs,omitempty"`
}

// Published returns the model with its overlay. It is read once and must not be
// changed.
var Published = sync.OnceValues(func() (Model, error) { return read(published, overlay) })

func read(published, overlay []byte) (Model, error) {
	var m Model
	if err := decode(published, &m); err != nil {
		return nil, fmt.Errorf("reading the model: %w", err)
	}
	var additions []addition
	if err := decode(overlay, &additions); err != nil {
		return nil, fmt.Errorf("reading the overlay: %w", err)
	}
	for _, a := range additions {
		if err := m.add(a); err != nil {
			return nil, fmt.Errorf("overlay from %s: %w", a.Source, err)
		}
	}
	for name, s := range m {
		if err := s.complete(); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return m, nil
}

// add merges an addition; one that the model has already is an error, for it can
// be removed.
func (m Model) add(a addition) error {
	s, ok := m[a.Service]
	if !ok {
		return fmt.Errorf("no service %q", a.Service)
	}
	if err := addTo(s.Operations, a.Operations); err != nil {
		return err
	}
	if err := addTo(s.Shapes, a.Shapes); err != nil {
		return err
	}
	for name, members := range a.Members {
		shape, ok := s.Shapes[name]
		if !ok || shape.Type != "structure" {
			return fmt.Errorf("no structure %s", name)
		}
		if err := addTo(shape.Members, members); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for name, values := range a.Values {
		shape, ok := s.Shapes[name]
		if !ok || len(shape.Enum) == 0 {
			return fmt.Errorf("no enumeration %s", name)
		}
		for _, v := range values {
			if slices.Contains(shape.Enum, v) {
				return fmt.Errorf("%s has %s already", name, v)
			}
		}
		shape.Enum = append(shape.Enum, values...)
	}
	for name, output := range a.Outputs {
		op, ok := s.Operations[name]
		if !ok || op.Output != "" {
			return fmt.Errorf("no operation %s without output", name)
		}
		op.Output = output
	}
	return nil
}

func addTo[T any](have, added map[string]T) error {
	for name := range added {
		if _, ok := have[name]; ok {
			return fmt.Errorf("%s is there already", name)
		}
	}
	maps.Copy(have, added)
	return nil
}

// scalars are the types without members, with what their text must look like.
var scalars = map[string]*regexp.Regexp{
	"string":    regexp.MustCompile(`(?s)^.*$`),
	"boolean":   regexp.MustCompile(`^(true|false)$`),
	"integer":   regexp.MustCompile(`^-?\d{1,10}$`),
	"long":      regexp.MustCompile(`^-?\d{1,19}$`),
	"float":     regexp.MustCompile(`^-?\d+(\.\d+)?$`),
	"double":    regexp.MustCompile(`^-?\d+(\.\d+)?$`),
	"timestamp": regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$`),
}

// unicodeEscape is how the models write characters, which package regexp writes
// otherwise.
var unicodeEscape = regexp.MustCompile(`\\u([0-9A-Fa-f]{4})`)

// complete compiles the patterns and checks that all names lead somewhere.
func (s *Service) complete() error {
	known := func(shape string) error {
		if _, ok := s.Shapes[shape]; !ok {
			return fmt.Errorf("no shape %q", shape)
		}
		return nil
	}
	for name, op := range s.Operations {
		for _, shape := range []string{op.Input, op.Output} {
			if err := known(shape); shape != "" && err != nil {
				return fmt.Errorf("operation %s: %w", name, err)
			}
		}
	}
	for name, shape := range s.Shapes {
		members := slices.Collect(maps.Values(shape.Members))
		if shape.Member != nil {
			members = append(members, *shape.Member)
		}
		for _, m := range members {
			if err := known(m.Shape); err != nil {
				return fmt.Errorf("shape %s: %w", name, err)
			}
		}
		if scalars[shape.Type] == nil && shape.Type != "structure" && (shape.Type != "list" || shape.Member == nil) {
			return fmt.Errorf("shape %s: type %q", name, shape.Type)
		}
		if shape.Pattern != "" {
			var err error
			if shape.pattern, err = regexp.Compile("^(?:" + unicodeEscape.ReplaceAllString(shape.Pattern, `\x{$1}`) + ")$"); err != nil {
				return fmt.Errorf("shape %s: %w", name, err)
			}
		}
	}
	return nil
}

// requestName is what a member is called in requests.
//
// https://smithy.io/2.0/aws/protocols/aws-ec2-query-protocol.html#query-key-resolution
func (s *Service) requestName(name string, m Member) string {
	switch {
	case s.Protocol == "ec2" && m.QueryName != "":
		return m.QueryName
	case s.Protocol == "ec2" && m.LocationName != "":
		return strings.ToUpper(m.LocationName[:1]) + m.LocationName[1:]
	case s.Protocol == "ec2":
		return strings.ToUpper(name[:1]) + name[1:]
	}
	return answerName(name, m)
}

// answerName is what a member is called in answers.
func answerName(name string, m Member) string {
	if m.LocationName != "" {
		return m.LocationName
	}
	return name
}

func decode(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	return d.Decode(into)
}
