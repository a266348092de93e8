package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/config"
)

var update = flag.Bool("update", false, "rewrite the generated part of the page")

const page = "../../docs/node-proxy.md"

// part returns what the page has between two marks, and all around it.
func part(t *testing.T, mark string) (before, inside, after string) {
	t.Helper()
	text, err := os.ReadFile(page)
	must(t, err)
	begin, end := "<!-- "+mark+" -->\n", "<!-- end of "+mark+" -->"
	before, rest, ok := strings.Cut(string(text), begin)
	inside, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s lacks the marks %q", page, mark)
	}
	return before + begin, inside, end + after
}

// TestPageFlags compares the table of flags with the flags there are.
func TestPageFlags(t *testing.T) {
	var want strings.Builder
	want.WriteString("| flag | default | meaning |\n|---|---|---|\n")
	newFlags(&options{Config: config.Default()}).VisitAll(func(f *pflag.Flag) {
		value, usage := pflag.UnquoteUsage(f)
		if value != "" {
			value = " " + value
		}
		byDefault := f.DefValue
		if byDefault != "" && byDefault != "[]" {
			byDefault = "`" + strings.Trim(byDefault, "[]") + "`"
		} else {
			byDefault = ""
		}
		fmt.Fprintf(&want, "| `--%s%s` | %s | %s |\n", f.Name, value, byDefault, usage)
	})
	before, got, after := part(t, "flags")
	if *update {
		must(t, os.WriteFile(page, []byte(before+want.String()+after), 0o600))
		return
	}
	if got != want.String() {
		t.Errorf("the flags of %s are not those there are; go test ./cmd/node-proxy -run Page -update writes them\ngot\n%s\nwant\n%s", page, got, &want)
	}
}

// TestPageEvents looks for every reason of an event on the page.
func TestPageEvents(t *testing.T) {
	text, err := os.ReadFile(page)
	must(t, err)
	reason := regexp.MustCompile(`Reason: +"(\w+)"|"(FailedToStart\w+)"`)
	found := 0
	for _, pattern := range []string{"*.go", "../../controllers/nodeproxy/*.go"} {
		files, err := filepath.Glob(pattern)
		must(t, err)
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			source, err := os.ReadFile(file)
			must(t, err)
			for _, m := range reason.FindAllStringSubmatch(string(source), -1) {
				found++
				if name := m[1] + m[2]; !strings.Contains(string(text), "`"+name+"`") {
					t.Errorf("%s does not explain the event %s (%s)", page, name, file)
				}
			}
		}
	}
	if found < 8 {
		t.Errorf("only %d reasons found: the test no longer sees how they are written", found)
	}
}

// TestPageConfig holds the page's configuration file to what there is: it is
// valid, and has every field.
func TestPageConfig(t *testing.T) {
	_, text, _ := part(t, "config")
	text = strings.TrimSuffix(strings.TrimPrefix(text, "```yaml\n"), "```\n")
	c, _, err := config.Load([]byte(text))
	must(t, err)
	must(t, c.Validate())
	var fields map[string]any
	must(t, yaml.Unmarshal([]byte(text), &fields))
	got := make(map[string]bool)
	flatten("", fields, got)
	want := make(map[string]bool)
	leaves("", reflect.TypeFor[config.Config](), want)
	if !maps.Equal(got, want) {
		t.Errorf("the page has the fields\n%v\nthere are\n%v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
	// Where it shows a default, it is the default.
	d := config.Default()
	c.Kubeconfig, c.Server, c.NodeName, c.DetectLocal.ClusterCIDRs, c.AffinitySize = "", "", "", nil, 0
	if !reflect.DeepEqual(c, d) {
		t.Errorf("the page's defaults are\n%+v\nthe defaults are\n%+v", c, d)
	}
}

func flatten(prefix string, in map[string]any, out map[string]bool) {
	for name, value := range in {
		if below, ok := value.(map[string]any); ok {
			flatten(prefix+name+".", below, out)
			continue
		}
		out[prefix+name] = true
	}
}

// leaves notes the fields of a struct as the file names them.
func leaves(prefix string, of reflect.Type, out map[string]bool) {
	for i := range of.NumField() {
		f := of.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous:
			leaves(prefix, f.Type, out)
		case f.Type.Kind() == reflect.Struct && f.Type != reflect.TypeFor[metav1.Duration]():
			leaves(prefix+name+".", f.Type, out)
		default:
			out[prefix+name] = true
		}
	}
}
