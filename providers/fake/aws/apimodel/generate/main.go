// Command generate cuts the operations that the simulated account serves out of
// the service models of aws-sdk-go, and writes them to model.json. The module is
// the one that tools/go.mod names; nothing of it is linked into anything.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/fairway-lb/fairway/providers/fake/aws/apimodel"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) > 2 {
		log.Fatal("usage: generate [FILE]")
	}
	out := "model.json"
	if len(os.Args) == 2 {
		out = os.Args[1]
	}
	text, err := generate()
	if err == nil {
		err = os.WriteFile(out, text, 0o644)
	}
	if err != nil {
		log.Fatal("generate: ", err)
	}
}

func generate() ([]byte, error) {
	dir, err := module()
	if err != nil {
		return nil, err
	}
	m := apimodel.Model{}
	for _, s := range apimodel.Sources {
		data, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(s.Path)))
		if err != nil {
			return nil, err
		}
		if m[s.Name], err = reduce(data, s.Operations); err != nil {
			return nil, fmt.Errorf("%s: %w", s.Path, err)
		}
	}
	return write(m)
}

// module returns where the module with the models is, and downloads it if need be.
func module() (string, error) {
	root, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("finding the repository: %w", err)
	}
	cmd := exec.Command("go", "mod", "download", "-json", "github.com/aws/aws-sdk-go")
	cmd.Dir = filepath.Join(filepath.Dir(string(bytes.TrimSpace(root))), "tools")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("downloading the models: %w %s", err, out)
	}
	var found struct{ Dir string }
	if err := json.Unmarshal(out, &found); err != nil {
		return "", fmt.Errorf("downloading the models: %w", err)
	}
	return found.Dir, nil
}

// reduce keeps the operations with the shapes they lead to.
func reduce(data []byte, operations []string) (*apimodel.Service, error) {
	type reference struct{ Shape string }
	var full struct {
		Metadata   struct{ Protocol string }
		Operations map[string]struct{ Input, Output reference }
		Shapes     map[string]*apimodel.Shape
	}
	if err := json.Unmarshal(data, &full); err != nil {
		return nil, err
	}
	s := &apimodel.Service{Protocol: full.Metadata.Protocol, Operations: map[string]*apimodel.Operation{}, Shapes: map[string]*apimodel.Shape{}}
	var keep func(name string)
	keep = func(name string) {
		shape, ok := full.Shapes[name]
		if !ok || s.Shapes[name] != nil {
			return
		}
		s.Shapes[name] = shape
		// Maps are in the actions of Application Load Balancers only.
		maps.DeleteFunc(shape.Members, func(_ string, m apimodel.Member) bool { return full.Shapes[m.Shape].Type == "map" })
		for _, m := range shape.Members {
			keep(m.Shape)
		}
		if shape.Member != nil {
			keep(shape.Member.Shape)
		}
	}
	for _, name := range operations {
		op, ok := full.Operations[name]
		if !ok {
			return nil, fmt.Errorf("no operation %s", name)
		}
		s.Operations[name] = &apimodel.Operation{Input: op.Input.Shape, Output: op.Output.Shape}
		keep(op.Input.Shape)
		keep(op.Output.Shape)
	}
	return s, nil
}

// write spells the model with one operation or shape a line, so that a newer one
// can be reviewed.
func write(m apimodel.Model) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("{\n")
	for i, s := range apimodel.Sources {
		fmt.Fprintf(&b, "%q: {\"protocol\": %q, \"operations\": {\n", s.Name, m[s.Name].Protocol)
		if err := lines(&b, m[s.Name].Operations); err != nil {
			return nil, err
		}
		b.WriteString("}, \"shapes\": {\n")
		if err := lines(&b, m[s.Name].Shapes); err != nil {
			return nil, err
		}
		b.WriteString("}}")
		if i < len(apimodel.Sources)-1 {
			b.WriteString(",")
		}
		b.WriteString("\n")
	}
	b.WriteString("}\n")
	return b.Bytes(), nil
}

// lines writes the entries of a JSON object, sorted, each on a line.
func lines[T any](b *bytes.Buffer, entries map[string]T) error {
	names := slices.Sorted(maps.Keys(entries))
	for i, name := range names {
		text, err := json.Marshal(entries[name])
		if err != nil {
			return err
		}
		fmt.Fprintf(b, "%q: %s", name, text)
		if i < len(names)-1 {
			b.WriteString(",")
		}
		b.WriteString("\n")
	}
	return nil
}
