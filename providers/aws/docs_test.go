package aws

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Every configuration file that the documentation shows is one that Load takes.
func TestDocumentedConfigurationsLoad(t *testing.T) {
	block := regexp.MustCompile("(?ms)^( *)```yaml\n(.*?)^ *```$")
	for _, path := range []string{"../../README.md", "../../docs/aws.md"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, m := range block.FindAllStringSubmatch(string(text), -1) {
			content := regexp.MustCompile("(?m)^"+m[1]).ReplaceAllString(m[2], "")
			if !strings.Contains(content, ConfigKind) {
				continue
			}
			found++
			if c, err := Load(strings.NewReader(content)); err != nil || c.Cluster.Name != "my-cluster" {
				t.Errorf("%s: cluster %q, %v, from\n%s", path, c.Cluster.Name, err, content)
			}
		}
		if found == 0 {
			t.Errorf("%s shows no configuration file", path)
		}
	}
}
