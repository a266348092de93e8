package nft

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func endpoints(ids ...int) []netip.AddrPort {
	out := make([]netip.AddrPort, len(ids))
	for i, id := range ids {
		out[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(id >> 8), byte(id)}), 8080)
	}
	return out
}

func TestPoolSize(t *testing.T) {
	for n, want := range map[int]int{0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 8, 9: 10, 11: 12, 13: 16, 17: 20, 33: 40, 41: 48, 49: 64, 1000: 1024, 1025: 1280} {
		if got := poolSize(n); got != want {
			t.Errorf("poolSize(%d) = %d, want %d", n, got, want)
		}
	}
}

// TestSlotsChangeLittle counts the slots that differ, each of which is one or
// two elements to send.
func TestSlotsChangeLittle(t *testing.T) {
	for _, c := range []struct {
		name          string
		before, after []int
		size, changed int
	}{
		{"from nothing", nil, []int{1, 2, 3}, 3, 3},
		{"replace one", []int{1, 2, 3}, []int{1, 4, 3}, 3, 1},
		{"replace the first", []int{1, 2, 3}, []int{4, 2, 3}, 3, 1},
		{"replace the only one", []int{1}, []int{2}, 1, 1},
		{"one more", []int{1, 2, 3, 4}, []int{1, 2, 3, 4, 5}, 5, 1},
		{"one less leaves a hole", []int{1, 2, 3, 4}, []int{1, 2, 3}, 4, 1},
		{"the first goes: the last takes its slot", []int{1, 2, 3, 4}, []int{2, 3, 4}, 4, 2},
		{"too many holes: the rest moves together", []int{1, 2, 3, 4, 5, 6, 7, 8}, []int{1, 2, 3, 8}, 4, 5},
		{"all go", []int{1, 2}, nil, 0, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := slots(nil).update(endpoints(c.before...))
			after := before.update(endpoints(c.after...))
			changed := 0
			for i := range max(len(before), len(after)) {
				if before.at(i) != after.at(i) {
					changed++
				}
			}
			if len(after) != c.size || changed != c.changed {
				t.Errorf("%v became %v: %d slots with %d changed, want %d with %d", before, after, len(after), changed, c.size, c.changed)
			}
		})
	}
}

// TestSlotsInvariants walks through random changes.
func TestSlotsInvariants(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var s slots
	var want []netip.AddrPort
	for step := range 20000 {
		if step%100 < 50 || len(want) == 0 {
			want = append(want, endpoints(step)...)
		} else {
			want = slices.Delete(slices.Clone(want), 0, 1+random.IntN(min(3, len(want))))
		}
		random.Shuffle(len(want), func(i, j int) { want[i], want[j] = want[j], want[i] })
		s = s.update(want)
		s.verify(t, want)
	}
}

func (s slots) verify(t *testing.T, want []netip.AddrPort) {
	t.Helper()
	var have []netip.AddrPort
	for _, e := range s {
		if e.IsValid() {
			have = append(have, e)
		}
	}
	sorted := slices.SortedFunc(slices.Values(want), netip.AddrPort.Compare)
	slices.SortFunc(have, netip.AddrPort.Compare)
	holes := len(s) - len(have)
	switch {
	case !slices.Equal(have, sorted):
		t.Fatalf("slots hold %v, want %v", have, sorted)
	case len(s) != poolSize(len(s)):
		t.Fatalf("%d slots, for which there is no class", len(s))
	case holes > len(s)/4:
		t.Fatalf("%d of %d slots are holes", holes, len(s))
	case len(s) > 0 && !s[0].IsValid():
		t.Fatal("the slot of last resort is a hole")
	}
}
