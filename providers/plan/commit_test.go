package plan

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
)

// ledger is a cloud with one document: named entries and a version.
type ledger struct {
	mu       sync.Mutex
	exists   bool
	version  int
	entries  map[string]string
	reads    int
	writes   int // accepted ones
	attempts int
	latency  time.Duration // of a write
	reading  time.Duration
	// meddle, when set, is called with the lock held before a write is judged.
	meddle func(*ledger)
	fail   error
}

func (l *ledger) IsDocument(k lb.Kind) bool { return k == "ledger" }

func (l *ledger) ReadDocument(_ context.Context, ref lb.Ref, _ lb.Lookup) (lb.Document, error) {
	time.Sleep(l.reading) // virtual
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
	if !l.exists {
		return lb.Document{}, &lb.Error{Kind: lb.NotFound, Op: "read", Resource: ref}
	}
	return lb.Document{Ref: ref, Version: fmt.Sprint(l.version), Content: maps.Clone(l.entries)}, nil
}

func (l *ledger) WriteDocument(_ context.Context, d lb.Document, changes []lb.Change, _ lb.Lookup) (lb.Document, []lb.Resource, error) {
	time.Sleep(l.latency) // virtual
	l.mu.Lock()
	defer l.mu.Unlock()
	l.attempts++
	if l.meddle != nil {
		l.meddle(l)
	}
	if l.fail != nil {
		return lb.Document{}, nil, l.fail
	}
	if d.Version != fmt.Sprint(l.version) {
		return lb.Document{}, nil, &lb.Error{Kind: lb.Conflict, Op: "write", Resource: d.Ref}
	}
	entries := maps.Clone(d.Content.(map[string]string))
	var now []lb.Resource
	for _, c := range changes {
		if c.Op == lb.Delete {
			delete(entries, c.Before.Key)
			now = append(now, lb.Resource{})
			continue
		}
		if c.After.Fields.Text("value") == "bad" {
			return lb.Document{}, nil, &lb.Error{Kind: lb.Invalid, Op: "write", Resource: d.Ref, Message: "something in it is bad"}
		}
		entries[c.After.Key] = c.After.Fields.Text("value")
		r := c.After
		r.ID = "id-" + r.Key
		now = append(now, r)
	}
	l.entries = entries
	l.version++
	l.writes++
	return lb.Document{Ref: d.Ref, Version: fmt.Sprint(l.version), Content: maps.Clone(entries)}, now, nil
}

func entry(key, value string) lb.Change {
	return lb.Change{Op: lb.Create, After: lb.Resource{Ref: ref("entry", key), Parent: ref("ledger", "main"), Fields: lb.Fields{"value": lb.Text(value)}}}
}

func nothingKnown(lb.Ref) (lb.Resource, bool) { return lb.Resource{}, false }

// submit commits changes at the same time and returns each one's error.
func submit(k *committer, changes ...lb.Change) []error {
	errs := make([]error, len(changes))
	var all sync.WaitGroup
	for i, c := range changes {
		all.Go(func() { _, errs[i] = k.commit(context.Background(), c, nothingKnown) })
	}
	all.Wait()
	return errs
}

func newLedger() *ledger {
	return &ledger{exists: true, entries: map[string]string{"theirs": "untouched"}, latency: time.Second}
}

func TestCommitGathersWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		k := newCommitter(l)
		const n = 200
		changes := make([]lb.Change, n)
		for i := range changes {
			changes[i] = entry(fmt.Sprint(i), "v")
		}
		if err := errors.Join(submit(k, changes...)...); err != nil {
			t.Fatal(err)
		}
		if len(l.entries) != n+1 || l.entries["theirs"] != "untouched" {
			t.Errorf("the document has %d entries, want %d and the foreign one", len(l.entries)-1, n)
		}
		if l.reads != 1 || l.writes > 2 {
			t.Errorf("%d reads and %d writes, want 1 and at most 2", l.reads, l.writes)
		}
	})
}

// Where a write takes minutes and the next is refused until its end, Services
// that come while the document is read must not each wait for a write of their
// own.
func TestCommitTakesWhatComesDuringTheRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.reading = time.Second
		k := newCommitter(l)
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * 10 * time.Millisecond)
				if _, err := k.commit(t.Context(), entry(fmt.Sprint(i), "v"), nothingKnown); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if l.reads != 1 || l.attempts != 1 || len(l.entries) != 20+1 {
			t.Errorf("%d reads and %d writes left %d entries, want 1, 1 and 21", l.reads, l.attempts, len(l.entries))
		}
	})
}

func TestCommitRetriesOnConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		rounds := 0
		l.meddle = func(l *ledger) {
			if rounds++; rounds <= commitAttempts-1 {
				l.version++
				l.entries["stranger"] = fmt.Sprint(rounds)
			}
		}
		if err := errors.Join(submit(newCommitter(l), entry("a", "1"))...); err != nil {
			t.Fatal(err)
		}
		if want := (map[string]string{"theirs": "untouched", "stranger": "4", "a": "1"}); !maps.Equal(l.entries, want) {
			t.Errorf("got %v, want %v", l.entries, want)
		}
	})
}

func TestCommitGivesUpOnEndlessConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.meddle = func(l *ledger) { l.version++ }
		errs := submit(newCommitter(l), entry("a", "1"), entry("b", "2"))
		for _, err := range errs {
			if lb.KindOf(err) != lb.Conflict {
				t.Errorf("got %v, want a Conflict", err)
			}
		}
	})
}

func TestCommitFindsTheOneToBlame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		var changes []lb.Change
		for i := range 16 {
			value := "good"
			if i == 11 {
				value = "bad"
			}
			changes = append(changes, entry(fmt.Sprint(i), value))
		}
		errs := submit(newCommitter(l), changes...)
		for i, err := range errs {
			if want := i == 11; (err != nil) != want || want && lb.KindOf(err) != lb.Invalid {
				t.Errorf("fragment %d: %v", i, err)
			}
		}
		if len(l.entries) != 15+1 {
			t.Errorf("got %v", slices.Sorted(maps.Keys(l.entries)))
		}
	})
}

func TestCommitReadsAnewAfterAnyError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		k := newCommitter(l)
		l.fail = &lb.Error{Kind: lb.Unavailable, Op: "write", Message: "connection reset"}
		if err := submit(k, entry("a", "1"))[0]; lb.KindOf(err) != lb.Unavailable {
			t.Fatal(err)
		}
		l.fail = nil
		l.entries["late"], l.version = "effect", l.version+1 // the lost write had one
		if err := submit(k, entry("a", "1"))[0]; err != nil {
			t.Fatal(err)
		}
		if l.entries["late"] != "effect" || l.entries["a"] != "1" {
			t.Errorf("got %v", l.entries)
		}
	})
}

func TestCommitOfAMissingDocument(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.exists = false
		if err := submit(newCommitter(l), entry("a", "1"))[0]; lb.KindOf(err) != lb.NotFound {
			t.Errorf("got %v", err)
		}
	})
}

func TestDeletionInAMissingDocumentSucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.exists = false
		gone := lb.Change{Op: lb.Delete, Before: entry("a", "1").After}
		if err := submit(newCommitter(l), gone)[0]; err != nil {
			t.Error(err)
		}
	})
}

func TestCommitOutlivesTheOneWhoAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		k := newCommitter(l)
		ctx, cancel := context.WithTimeout(t.Context(), l.latency/2)
		defer cancel()
		if _, err := k.commit(ctx, entry("a", "1"), nothingKnown); lb.KindOf(err) != lb.Unavailable || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		if err := submit(k, entry("b", "2"))[0]; err != nil {
			t.Fatal(err)
		}
		if l.entries["a"] != "1" || l.entries["b"] != "2" {
			t.Errorf("got %v", l.entries)
		}
	})
}
