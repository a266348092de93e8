package nodeproxy

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// list lets the distribution's nft list the node's tables and returns the text:
// what we install must not hinder anybody's look at the packet filter.
func (w *world) list(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		if os.Getenv("CI") == "true" || os.Getenv("FAIRWAY_REQUIRE_NFT") == "1" {
			t.Fatal("the nft tool is missing (apt-get install nftables)")
		}
		t.Log("NOT CHECKED, for there is no nft tool (apt-get install nftables): that nft can list our tables")
		return ""
	}
	w.nft(t, "-j", "list", "ruleset")
	return w.nft(t, "list", "ruleset")
}

// requireTool ends a test that cannot do without the nft tool where there is none:
// as failed where it must be there, or else as skipped.
func requireTool(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err == nil {
		return
	}
	if os.Getenv("CI") == "true" || os.Getenv("FAIRWAY_REQUIRE_NFT") == "1" {
		t.Fatal("the nft tool is missing (apt-get install nftables)")
	}
	t.Skip("NOT CHECKED, for there is no nft tool (apt-get install nftables): how we get on with others' rules")
}

// nft runs the tool on the node.
func (w *world) nft(t *testing.T, args ...string) string {
	t.Helper()
	out, err := w.tryNFT(t, args...)
	must(t, err)
	return out
}

// tryNFT is nft where the tool may fail.
func (w *world) tryNFT(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command("nft", args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	must(t, w.hosts["node"].Start(cmd))
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("nft %v: %w\n%s", args, err, out.String())
	}
	return out.String(), nil
}
