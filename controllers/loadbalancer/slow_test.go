package loadbalancer

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
)

// hang leaves the changes for Services of names that begin with "sick" without an
// answer for twenty seconds, while it is on.
func (w *world) hang(on *bool) {
	w.cloud.apply = func(ctx context.Context, c lb.Change) error {
		if !*on || !strings.Contains(c.Ref().Key, "/sick") {
			return nil
		}
		select {
		case <-time.After(20 * time.Second):
		case <-ctx.Done():
		}
		return &lb.Error{Kind: lb.Unavailable, Op: string(c.Op), Resource: c.Ref(), Message: "no answer"}
	}
}

// Thirty Services that the cloud does not answer for must not keep ten workers from
// those it does answer for, however long that goes on; and they are not forgotten.
func TestServicesWithoutAnswerKeepNoWorkerFromOthers(t *testing.T) {
	on := true
	in(t, func(w *world) {
		for i := range 30 {
			w.create(service(fmt.Sprint("sick-", i)))
		}
		w.pass(2 * time.Minute) // each has been waited for once by now
		for i := range 20 {
			name := fmt.Sprint("web-", i)
			w.create(service(name)) // which lets a second pass
			w.expect(name, w.condition(name), "True Ready")
			w.pass(9 * time.Second)
		}

		// The same after a restart: what is wrong is known from the conditions.
		w.stop()
		w.start()
		w.create(service("web-late"))
		w.expect("after a restart", w.condition("web-late"), "True Ready")

		on = false
		w.pass(10 * time.Minute)
		for i := range 30 {
			name := fmt.Sprint("sick-", i)
			w.expect(name+" when the cloud answers again", w.condition(name), "True Ready")
		}
	}, func(w *world) { w.hang(&on) })
}

// What ends soon, though badly, is for the workers.
func TestRefusalsAreNotWaitedFor(t *testing.T) {
	refused := 0
	in(t, func(w *world) {
		for i := range 30 {
			w.create(service(fmt.Sprint("sick-", i)))
		}
		w.expect("refusals by now", refused, 30)
		w.create(service("web"))
		w.expect("a healthy one", w.condition("web"), "True Ready")
	}, func(w *world) {
		w.cloud.apply = func(_ context.Context, c lb.Change) error {
			if !strings.Contains(c.Ref().Key, "/sick") {
				return nil
			}
			refused++
			return &lb.Error{Kind: lb.Denied, Op: string(c.Op), Resource: c.Ref(), Message: "not allowed"}
		}
	})
}
