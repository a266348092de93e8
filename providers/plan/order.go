package plan

import (
	"slices"

	"github.com/fairway-lb/fairway/providers/lb"
)

// requirements returns, for each change, the indexes of the changes whose
// resources its own resource requires. All changes point the same way: either
// none is a deletion or all are.
//
// A child that goes with its parent makes no call of its own, so that whatever
// it requires is set free only by the deletion of the ancestor that carries it
// away: the child's requirements count as that ancestor's.
func requirements(changes []lb.Change) [][]int {
	at := make(map[lb.Ref]int, len(changes))
	for i, c := range changes {
		at[c.Ref()] = i
	}
	carrier := func(i int) int {
		for changes[i].Implied {
			i = at[changes[i].Before.Parent]
		}
		return i
	}
	needs := make([][]int, len(changes))
	for i, c := range changes {
		if c.Implied {
			needs[i] = append(needs[i], at[c.Before.Parent])
		}
		from := carrier(i)
		for _, ref := range subject(c).Requires() {
			j, ok := at[ref]
			if !ok {
				continue
			}
			if to := carrier(j); to != from && !slices.Contains(needs[from], to) {
				needs[from] = append(needs[from], to)
			}
		}
	}
	return needs
}

// subject is the resource whose requirements order the change.
func subject(c lb.Change) lb.Resource {
	if c.Op == lb.Delete {
		return c.Before
	}
	return c.After
}

// inOrder sorts changes of one direction so that each comes after those it
// requires, and otherwise keeps their order. A circle is an Invalid error.
func inOrder(changes []lb.Change) ([]lb.Change, error) {
	const (
		unseen = iota
		open
		done
	)
	needs := requirements(changes)
	state := make([]int, len(changes))
	sorted := make([]lb.Change, 0, len(changes))
	var visit func(i int) error
	visit = func(i int) error {
		switch state[i] {
		case done:
			return nil
		case open:
			return &lb.Error{Kind: lb.Invalid, Op: "order", Resource: changes[i].Ref(), Message: "it requires itself"}
		}
		state[i] = open
		for _, j := range needs[i] {
			if err := visit(j); err != nil {
				return err
			}
		}
		state[i] = done
		sorted = append(sorted, changes[i])
		return nil
	}
	for i := range changes {
		if err := visit(i); err != nil {
			return nil, err
		}
	}
	return sorted, nil
}

// markImplied marks the deletions of children whose parent is deleted in the
// same plan, and of their children in turn.
func markImplied(deletions []lb.Change) {
	going := make(map[lb.Ref]bool, len(deletions))
	for _, c := range deletions {
		going[c.Before.Ref] = true
	}
	for i, c := range deletions {
		deletions[i].Implied = going[c.Before.Parent]
	}
}

// predecessors returns, for each change of a plan, the indexes of the changes
// that must have succeeded before it may start. A creation or update waits for
// what it requires. A deletion waits for the deletions of what requires it, and
// for all creations and updates: nothing is taken away before its replacement
// stands. A child that goes with its parent waits for the parent.
func predecessors(changes []lb.Change) [][]int {
	first := slices.IndexFunc(changes, func(c lb.Change) bool { return c.Op == lb.Delete })
	if first < 0 {
		return requirements(changes)
	}
	waits := append(requirements(changes[:first]), make([][]int, len(changes)-first)...)
	for i, needs := range requirements(changes[first:]) {
		for up := range first {
			waits[first+i] = append(waits[first+i], up)
		}
		for _, j := range needs {
			if changes[first+i].Implied {
				waits[first+i] = append(waits[first+i], first+j)
			} else {
				waits[first+j] = append(waits[first+j], first+i)
			}
		}
	}
	return waits
}
