package plan

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
)

const (
	// commitTimeout bounds one write of a document, reads and retries included.
	// It is not the deadline of any one Service: several wait for the write.
	commitTimeout = time.Minute
	// commitAttempts is how often a write is tried when others write the same
	// document in between; each attempt reads it anew.
	commitAttempts = 5
)

// committer writes documents: the fragments that wait are merged into the last
// known document and written at once, one write per document at a time. While
// one is under way the next batch gathers.
type committer struct {
	documents lb.Documents

	mu      sync.Mutex // guards parents
	parents map[lb.Ref]*parent
}

// parent is one document with what waits to be written into it.
type parent struct {
	waiting []*fragment
	writing bool
	// last is the document as last read or written; its zero Ref means that it
	// must be read. Only the one goroutine that is writing uses it.
	last lb.Document
}

// fragment is a change of one fragment and, once done is closed, its result.
type fragment struct {
	change lb.Change
	known  lb.Lookup
	done   chan struct{}
	now    lb.Resource
	err    error
}

func newCommitter(d lb.Documents) *committer {
	return &committer{documents: d, parents: map[lb.Ref]*parent{}}
}

// commit writes c into its parent and returns the fragment as it then is, when
// the write that holds it has ended. If ctx ends first the error is
// Unavailable: the write goes on and its effect will be observed later.
func (k *committer) commit(ctx context.Context, c lb.Change, known lb.Lookup) (lb.Resource, error) {
	f := &fragment{change: c, known: known, done: make(chan struct{})}
	k.enqueue(f)
	select {
	case <-f.done:
		if c.Op == lb.Delete && lb.KindOf(f.err) == lb.NotFound {
			return lb.Resource{}, nil // it went with its document
		}
		return f.now, f.err
	case <-ctx.Done():
		return lb.Resource{}, &lb.Error{Kind: lb.Unavailable, Op: string(c.Op), Resource: c.Ref(),
			Message: "ran out of time while its document is being written", Err: ctx.Err()}
	}
}

func (k *committer) enqueue(f *fragment) {
	k.mu.Lock()
	defer k.mu.Unlock()
	ref := subject(f.change).Parent
	p := k.parents[ref]
	if p == nil {
		p = &parent{}
		k.parents[ref] = p
	}
	p.waiting = append(p.waiting, f)
	if !p.writing {
		p.writing = true
		go k.drain(ref, p)
	}
}

// drain writes batch after batch until nothing waits. The document is read
// first and the batch taken then, so that what asks for a write during the read
// is in it: where writes take long, one write each would take forever.
func (k *committer) drain(ref lb.Ref, p *parent) {
	for {
		waiting := k.waiting(ref, p)
		if len(waiting) == 0 {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
		err := k.read(ctx, ref, p, waiting)
		batch := k.take(p)
		if err == nil {
			k.write(ctx, ref, p, batch)
		}
		cancel()
		for _, f := range batch {
			f.err = cmp.Or(f.err, err)
			close(f.done)
		}
	}
}

// waiting returns what waits. When that is nothing the writing has ended.
func (k *committer) waiting(ref lb.Ref, p *parent) []*fragment {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(p.waiting) == 0 {
		p.writing = false
		if p.last.IsZero() {
			delete(k.parents, ref)
		}
	}
	return p.waiting
}

// take returns what waits, which does so no more.
func (k *committer) take(p *parent) []*fragment {
	k.mu.Lock()
	defer k.mu.Unlock()
	batch := p.waiting
	p.waiting = nil
	return batch
}

// read reads the document on behalf of some fragments unless it is known.
func (k *committer) read(ctx context.Context, ref lb.Ref, p *parent, some []*fragment) error {
	if !p.last.IsZero() {
		return nil
	}
	d, err := k.documents.ReadDocument(ctx, ref, lookupAny(some))
	if err == nil {
		p.last = d
	}
	return err
}

// write gives every fragment of the batch its result. A whole that the cloud
// rejects is halved until the one fragment that is to blame stands alone.
func (k *committer) write(ctx context.Context, ref lb.Ref, p *parent, batch []*fragment) {
	now, err := k.attempt(ctx, ref, p, batch)
	if lb.KindOf(err) == lb.Invalid && len(batch) > 1 {
		half := len(batch) / 2
		k.write(ctx, ref, p, batch[:half])
		k.write(ctx, ref, p, batch[half:])
		return
	}
	for i, f := range batch {
		f.err = err
		if err == nil {
			f.now = now[i]
		}
	}
}

// attempt writes the batch as one, again and again as long as somebody else was
// quicker. After any error the document is read anew the next time, for nobody
// knows what it holds.
func (k *committer) attempt(ctx context.Context, ref lb.Ref, p *parent, batch []*fragment) ([]lb.Resource, error) {
	changes := make([]lb.Change, len(batch))
	for i, f := range batch {
		changes[i] = f.change
	}
	known := lookupAny(batch)
	var err error
	for range commitAttempts {
		if err = k.read(ctx, ref, p, batch); err != nil {
			return nil, err
		}
		var now []lb.Resource
		if p.last, now, err = k.documents.WriteDocument(ctx, p.last, changes, known); err == nil {
			return now, nil
		}
		p.last = lb.Document{}
		if lb.KindOf(err) != lb.Conflict {
			return nil, err
		}
	}
	return nil, err
}

// lookupAny finds what any of the batch's Services knows.
func lookupAny(batch []*fragment) lb.Lookup {
	return func(ref lb.Ref) (lb.Resource, bool) {
		for _, f := range batch {
			if r, ok := f.known(ref); ok {
				return r, true
			}
		}
		return lb.Resource{}, false
	}
}
