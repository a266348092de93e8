package loadbalancer

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairway-lb/fairway/providers/lb"
)

func TestHealthCheckTellsAStuckWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Controller{Options: Options{SyncTimeout: 2 * time.Minute}, busy: map[string]time.Time{}, queue: newWorkQueue()}
		defer c.queue.ShutDown()
		c.begin("default/web")
		time.Sleep(2 * time.Minute)
		if err := c.Check(nil); err != nil {
			t.Errorf("within its time: %v", err)
		}
		time.Sleep(2 * time.Minute)
		if err := c.Check(nil); err == nil || !strings.Contains(err.Error(), "default/web") {
			t.Errorf("got %v", err)
		}
		c.end("default/web")
		if err := c.Check(nil); err != nil {
			t.Errorf("after it ended: %v", err)
		}
	})
}

func TestHealthCheckTellsAStuckQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Controller{Options: Options{SyncTimeout: 2 * time.Minute}, busy: map[string]time.Time{}, queue: newWorkQueue()}
		defer c.queue.ShutDown()
		check := func(what string, healthy bool) {
			t.Helper()
			if err := c.Check(nil); (err == nil) != healthy {
				t.Errorf("%s: %v", what, err)
			}
		}
		check("with nothing to do", true)
		time.Sleep(24 * time.Hour)
		c.queue.add("default/web", byUser)
		check("with a Service that has just come", true)
		time.Sleep(2 * time.Minute)
		check("while it waits", true)
		c.begin("default/other")
		c.end("default/other")
		time.Sleep(2 * time.Minute)
		check("while others are worked on", true)
		time.Sleep(4 * time.Minute)
		check("when nothing is", false)
		key, _ := c.queue.Get()
		c.begin(key)
		check("once it is", true)
	})
}

// A restart would not bring the cloud back, and would take the memory of what is
// known away.
func TestHealthCheckIsFineWhileTheCloudIsDown(t *testing.T) {
	for name, answer := range map[string]func(context.Context) error{
		"every call hangs": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"every call fails": func(context.Context) error {
			return &lb.Error{Kind: lb.Unavailable, Op: "apply", Message: "connection refused"}
		},
		"every call is denied": func(context.Context) error { return &lb.Error{Kind: lb.Denied, Op: "apply", Code: "AccessDenied"} },
	} {
		t.Run(name, func(t *testing.T) {
			in(t, func(w *world) {
				w.cloud.apply = func(ctx context.Context, _ lb.Change) error { return answer(ctx) }
				for _, name := range []string{"a", "b", "c", "d"} {
					w.create(service(name))
				}
				for range 3 * 60 {
					w.pass(time.Minute)
					if err := w.controller.Check(nil); err != nil {
						t.Fatal(err)
					}
				}
			}, func(w *world) { w.options.Workers = 2 })
		})
	}
}
