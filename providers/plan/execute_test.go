package plan

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/fairway-lb/fairway/providers/lb"
)

// One at a time, changes come in the order of the plan, every time; what waits
// for one that failed is not tried, and the rest is.
func TestChangesStartInOrderOfThePlan(t *testing.T) {
	var desired []lb.Resource
	for i := range 12 {
		r := lb.Resource{Ref: ref("thing", fmt.Sprintf("%02d", i)), Owners: mine()}
		if i%3 == 2 {
			r.DependsOn = []lb.Ref{desired[i-1].Ref}
		}
		desired = append(desired, r)
	}
	p, err := Diff(desired, nil, lb.ByService(web))
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	for _, parallelism := range []int{1, 4, 100} {
		for range 20 {
			var mu sync.Mutex
			var tried []string
			after, err := execute(t.Context(), func(_ context.Context, c lb.Change, _ lb.Lookup) (lb.Resource, error) {
				mu.Lock()
				defer mu.Unlock()
				tried = append(tried, c.Ref().Key)
				if c.Ref().Key == "04" {
					return lb.Resource{}, broken
				}
				return c.After, nil
			}, p, nil, parallelism)
			if !errors.Is(err, broken) || len(after) != 10 || after[0].Key != "00" || after[9].Key != "11" {
				t.Fatalf("error %v, afterwards %v", err, after)
			}
			if parallelism > 1 {
				slices.Sort(tried)
			}
			if got := strings.Join(tried, " "); got != "00 01 02 03 04 06 07 08 09 10 11" {
				t.Fatalf("%d at a time, tried %s", parallelism, got)
			}
		}
	}
}
