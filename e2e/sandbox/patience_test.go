package sandbox

import (
	"testing"
	"time"
)

func TestPatience(t *testing.T) {
	for _, c := range []struct {
		slowness string
		want     time.Duration // 0: refused
	}{
		{"", time.Second}, {"1", time.Second}, {"10", 10 * time.Second},
		{"0", 0}, {"-2", 0}, {"2.5", 0}, {"slow", 0},
	} {
		t.Setenv(slownessVariable, c.slowness)
		got := func() (got time.Duration) {
			defer func() { _ = recover() }()
			return Patience(time.Second)
		}()
		if got != c.want {
			t.Errorf("slowness %q: %v, want %v", c.slowness, got, c.want)
		}
	}
}
