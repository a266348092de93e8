package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairway-lb/fairway/controllers/nodeproxy/config"
	"github.com/fairway-lb/fairway/controllers/nodeproxy/nft"
	"github.com/fairway-lb/fairway/e2e/sandbox"
)

func TestMain(m *testing.M) { sandbox.Main(m) }

// fake is a kernel made of files.
func fake(t *testing.T, files map[string]string) Kernel {
	t.Helper()
	k := Kernel{t.TempDir()}
	for name, content := range files {
		path := filepath.Join(k.root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

func TestWanted(t *testing.T) {
	for _, c := range []struct {
		name, cpus string
		edit       func(*config.Config)
		want       string
	}{
		{"two CPUs", "0-1", func(*config.Config) {}, "max>=131072 hashsize>=32768 tcp_timeout_established=86400 tcp_timeout_close_wait=3600 tcp_be_liberal=1"},
		{"eight CPUs", "0-3,8-10,12", func(*config.Config) {}, "max>=262144 hashsize>=65536 tcp_timeout_established=86400 tcp_timeout_close_wait=3600 tcp_be_liberal=1"},
		{"very many CPUs", "0-255", func(c *config.Config) { c.Conntrack.Min = 2 << 20 }, "max>=1048576 hashsize>=262144 tcp_timeout_established=86400 tcp_timeout_close_wait=3600 tcp_be_liberal=1"},
		{"all left alone", "0-1", func(c *config.Config) { c.Conntrack = config.Conntrack{} }, ""},
		{"UDP", "0", func(c *config.Config) {
			c.Conntrack = config.Conntrack{}
			c.Conntrack.UDPTimeout.Duration, c.Conntrack.UDPStreamTimeout.Duration = 5e9, 6e9
		}, "udp_timeout=5 udp_timeout_stream=6"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conf := config.Default()
			c.edit(&conf)
			var got []string
			for _, s := range fake(t, map[string]string{onlineCPUs: c.cpus}).Wanted(conf) {
				sign := "="
				if s.AtLeast {
					sign = ">="
				}
				name := strings.TrimPrefix(filepath.Base(s.file), "nf_conntrack_")
				got = append(got, fmt.Sprintf("%s%s%d", name, sign, s.Want))
			}
			if text := strings.Join(got, " "); text != c.want {
				t.Errorf("got  %s\nwant %s", text, c.want)
			}
		})
	}
}

func TestCompareAndSet(t *testing.T) {
	k := fake(t, map[string]string{
		onlineCPUs:                               "0-1",
		conntrackDir + "max":                     "200000", // more than asked for
		hashSize:                                 "1024",
		conntrackDir + "tcp_timeout_established": "432000",
		conntrackDir + "tcp_timeout_close_wait":  "3600",
	})
	wanted := k.Wanted(config.Default())
	var got []string
	for _, d := range k.Compare(wanted) {
		got = append(got, d.String())
	}
	text := strings.Join(got, "\n")
	for _, want := range []string{
		"hashsize of the module nf_conntrack is 1024, it should be at least 32768",
		"nf_conntrack_tcp_timeout_established is 432000, it should be 86400",
		"nf_conntrack_tcp_be_liberal cannot be read",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if len(got) != 3 {
		t.Errorf("%d differences, want 3", len(got))
	}
	changed, err := k.Set(wanted)
	if !errors.Is(err, fs.ErrNotExist) || len(changed) != 2 {
		t.Errorf("changed %v, error %v", changed, err)
	}
	left := k.Compare(wanted)
	if len(left) != 1 || !strings.HasSuffix(left[0].Name, "tcp_be_liberal") {
		t.Errorf("after setting what can be, these differ: %v", left)
	}
}

// TestRealKernel sets what belongs to a network namespace, in one of its own.
func TestRealKernel(t *testing.T) {
	host, err := sandbox.NewNetNS("sysctl")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	c := config.Default()
	c.Conntrack.MaxPerCore = 0 // the whole machine's
	k := Running()
	wanted := k.Wanted(c)
	err = host.Do(func() error {
		// Has the kernel load the module that has these settings.
		table, err := nft.Open(nft.Config{MasqueradeMark: 1})
		if err != nil {
			return err
		}
		if err := table.Close(); err != nil {
			return err
		}
		for _, s := range wanted { // the namespace may have inherited them
			if err := os.WriteFile("/"+s.file, []byte("0"), 0o644); err != nil {
				return err
			}
		}
		if d := k.Compare(wanted); len(d) != 3 {
			t.Errorf("before: %v", d)
		}
		changed, err := k.Set(wanted)
		if len(changed) != 3 {
			t.Errorf("changed: %v", changed)
		}
		if d := k.Compare(wanted); len(d) != 0 {
			t.Errorf("after: %v", d)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
