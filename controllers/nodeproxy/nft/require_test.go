package nft

import (
	"os"
	"testing"
)

// requireTool ends a test for want of the nft tool: as failed where it must be
// there, or else as skipped.
func requireTool(t *testing.T) {
	t.Helper()
	if os.Getenv("CI") == "true" || os.Getenv("FAIRWAY_REQUIRE_NFT") == "1" {
		t.Fatal("the nft tool is missing (apt-get install nftables)")
	}
	t.Skip("NOT CHECKED, for there is no nft tool (apt-get install nftables): what the kernel really has")
}
