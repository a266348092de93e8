// Command fakecloud serves a simulated AWS account over HTTP, DNS names for its
// load balancers and, on request, a data path that makes them carry packets. It is
// for demonstrations, end-to-end tests and people trying things out.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := newCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}
