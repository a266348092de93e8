package nft

import (
	"strings"
	"testing"
)

// TestElementsNameTheirService looks for the longest name a Service can have,
// with the distribution's tool.
func TestElementsNameTheirService(t *testing.T) {
	host := newHost(t)
	table := open(t, host, true)
	longest := strings.Repeat("n", 63) + "/" + strings.Repeat("s", 63)
	mustLoad(t, table, map[string]*Service{longest: ofSize(1, 2)})
	out, err := nft(t, host, "list", "map", "ip", TableName, mapServices)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !strings.Contains(out, `comment "`+longest+`"`) {
		t.Errorf("the frontend does not say whose it is:\n%s", out)
	}
}
