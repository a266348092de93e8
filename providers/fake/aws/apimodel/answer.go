package apimodel

import (
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
)

// CheckAnswer returns what in the body of a successful answer is not what the model
// describes: elements it does not have, elements twice, values that are not of
// their type or not in their enumeration. An operation that the model does not
// have, or a body that is not XML, is an error.
func (m Model) CheckAnswer(service, operation string, body []byte) ([]string, error) {
	s := m[service]
	if s == nil || s.Operations[operation] == nil {
		return nil, fmt.Errorf("the model has no %s:%s", service, operation)
	}
	var root node
	if err := xml.Unmarshal(body, &root); err != nil {
		return nil, err
	}
	c := answerChecker{Service: s}
	if root.XMLName.Local != operation+"Response" {
		c.wrong(root.XMLName.Local, "is not %sResponse", operation)
	}
	result := root.without("requestId")
	if s.Protocol == "query" {
		result = node{}
		for _, child := range root.Children {
			switch child.XMLName.Local {
			case operation + "Result":
				result = child
			case "ResponseMetadata":
			default:
				c.wrong(child.XMLName.Local, "is neither %sResult nor ResponseMetadata", operation)
			}
		}
	}
	output := s.Shapes[s.Operations[operation].Output]
	if output == nil {
		// EC2 says with "return" that an operation without output succeeded.
		output = &Shape{Type: "structure"}
		result = result.without("return")
	}
	c.value(output, result, operation)
	return c.mistakes, nil
}

type node struct {
	XMLName  xml.Name
	Text     string `xml:",chardata"`
	Children []node `xml:",any"`
}

func (n node) without(name string) node {
	n.Children = slices.DeleteFunc(slices.Clone(n.Children), func(c node) bool { return c.XMLName.Local == name })
	return n
}

type answerChecker struct {
	*Service
	mistakes []string
}

func (c *answerChecker) wrong(path, format string, args ...any) {
	c.mistakes = append(c.mistakes, path+" "+fmt.Sprintf(format, args...))
}

func (c *answerChecker) value(shape *Shape, n node, path string) {
	switch shape.Type {
	case "structure":
		c.structure(shape, n, path)
		return
	case "list":
		item := answerName("member", *shape.Member)
		for _, child := range n.Children {
			if child.XMLName.Local != item {
				c.wrong(path+"."+child.XMLName.Local, "is not %s", item)
				continue
			}
			c.value(c.Shapes[shape.Member.Shape], child, path+"."+item)
		}
		return
	}
	text := strings.TrimSpace(n.Text)
	switch {
	case len(n.Children) > 0:
		c.wrong(path, "has elements, but is a %s", shape.Type)
	case !scalars[shape.Type].MatchString(text):
		c.wrong(path, "%q is not a %s", text, shape.Type)
	case len(shape.Enum) > 0 && !slices.Contains(shape.Enum, text):
		c.wrong(path, "%q is not one of %s", text, strings.Join(shape.Enum, ", "))
	}
}

func (c *answerChecker) structure(shape *Shape, n node, path string) {
	if text := strings.TrimSpace(n.Text); text != "" {
		c.wrong(path, "has text %q, but is a structure", text)
	}
	seen := map[string]bool{}
	for _, child := range n.Children {
		name := child.XMLName.Local
		member := ""
		for key, m := range shape.Members {
			if answerName(key, m) == name {
				member = m.Shape
			}
		}
		switch {
		case member == "":
			c.wrong(path+"."+name, "is not in the model")
		case seen[name]:
			c.wrong(path+"."+name, "is there twice")
		default:
			c.value(c.Shapes[member], child, path+"."+name)
		}
		seen[name] = true
	}
}
