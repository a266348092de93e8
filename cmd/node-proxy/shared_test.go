package main

import "testing"

// TestSharedTable asks the program to leave its table open: another program's
// flush takes it away, and the program puts it back.
func TestSharedTable(t *testing.T) {
	s := newStage(t)
	s.nft("list", "ruleset") // skips the test where there is no tool
	s.start("run", "--shared-table")
	s.healthy()
	for _, family := range []string{"IPv4", "IPv6"} {
		if !s.metric(`fairway_nodeproxy_table_owned{ip_family="` + family + `"} 0`) {
			t.Errorf("the table of %s is owned", family)
		}
	}
	s.nft("flush", "ruleset")
	s.until("the flush is told", func() bool { return s.metric(`fairway_nodeproxy_foreign_changes_total{ip_family="IPv4"} 1`) })
	for _, f := range families {
		s.until("the Service is back", func() bool { _, err := s.ask("a", f.clusterIP); return err == nil })
	}
}
