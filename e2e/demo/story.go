package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/fairway-lb/fairway/e2e/environment"
	"github.com/fairway-lb/fairway/e2e/manifests"
)

const (
	service = "my-loadbalancer-service"
	// patience bounds each thing that is waited for.
	patience = 90 * time.Second
)

// story is the demo: it does things, and tells about them.
type story struct {
	out     io.Writer
	logs    string
	dryRun  bool
	started time.Time
	chapter int

	env     *environment.Environment
	outside *environment.Client
	// host is the load balancer's name, once it is known.
	host string
}

func newStory(out io.Writer, logs string, dryRun bool) *story {
	return &story{out: out, logs: logs, dryRun: dryRun, started: time.Now()}
}

type chapter struct {
	title string
	tell  func(context.Context) error
}

func (s *story) chapters() []chapter {
	if s.dryRun {
		return []chapter{
			{"A Kubernetes cluster, a cloud, and Fairway with --dry-run between the two", s.boot},
			{"A Service of each type, as one would write it anywhere", s.apply},
			{"The plan the controller made for the load balancer", s.plan},
			{"Nothing of it was done", s.nothing},
		}
	}
	return []chapter{
		{"A Kubernetes cluster, a cloud, and Fairway between the two", s.boot},
		{"A Service of each type, as one would write it anywhere", s.apply},
		{"The plan the controller made for the load balancer", s.plan},
		{"The address, written back to the Service", s.address},
		{"A dozen requests from the internet", s.requests},
		{"A Pod is deleted under traffic", s.disturb},
		{"A node joins and another is drained, under traffic", s.exchange},
		{"An annotation that cannot be", s.mistake},
		{"Somebody deletes the listener by hand", s.drift},
		{"The cloud throttles, and loses an answer", s.faults},
		{"The Service is deleted", s.remove},
		{"What the cloud was asked, in all", s.bill},
	}
}

// tell runs the chapters in order; the first that fails ends the story.
func (s *story) tell(ctx context.Context) error {
	for _, chapter := range s.chapters() {
		s.chapter++
		fmt.Fprintf(s.out, "\n%d. %s\n\n", s.chapter, chapter.title)
		if err := chapter.tell(ctx); err != nil {
			return fmt.Errorf("%s: %w", strings.ToLower(chapter.title), err)
		}
	}
	fmt.Fprintf(s.out, "\nThat was Fairway, in %s.\n", time.Since(s.started).Round(time.Second))
	return nil
}

// say prints a paragraph, indented.
func (s *story) say(format string, args ...any) {
	for line := range strings.Lines(fmt.Sprintf(format, args...)) {
		fmt.Fprintf(s.out, "   %s", line)
	}
	fmt.Fprintln(s.out)
}

// kubectl shows a command, runs it and shows what it printed.
func (s *story) kubectl(ctx context.Context, stdin, shown string, args ...string) error {
	if shown == "" {
		shown = strings.Join(args, " ")
	}
	s.say("$ kubectl %s", shown)
	out, err := s.env.Kubectl(ctx, stdin, args...)
	if err != nil {
		return err
	}
	s.say("%s", strings.TrimRight(out, "\n"))
	return nil
}

// until polls f; the error is its last one and what was awaited.
func (s *story) until(ctx context.Context, awaited string, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return s.env.Wait(ctx, awaited, f)
}

func (s *story) boot(ctx context.Context) (err error) {
	s.say("Everything here is real but the cloud: etcd, the API server, controllers and scheduler are processes;\n" +
		"a node is a network namespace with Fairway's node proxy; the fake cloud answers AWS's own protocol,\n" +
		"carries packets, checks health and filters by security group.\n")
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s.env, err = environment.Start(ctx, environment.Config{
		LogDir: s.logs,
		Stage:  func(what string) { s.say("%5.1f s  %s", time.Since(s.started).Seconds(), what) },
		// Hourly would be the default; nobody wants to wait for that here.
		ControllerArgs: []string{"--verify-interval=10s", fmt.Sprintf("--dry-run=%v", s.dryRun)},
	})
	if err != nil {
		return err
	}
	s.outside = environment.ClientIn(s.env.Outside)
	fmt.Fprintln(s.out)
	return s.kubectl(ctx, "", "get nodes", "get", "nodes", "-o",
		"custom-columns=NAME:.metadata.name,ZONE:.metadata.labels.topology\\.kubernetes\\.io/zone,ADDRESS:.status.addresses[0].address,PODS:.spec.podCIDR,INSTANCE:.spec.providerID")
}

func (s *story) apply(ctx context.Context) error {
	if err := s.kubectl(ctx, manifests.MyApp, "apply -f my-app.yaml", "apply", "-f", "-"); err != nil {
		return err
	}
	for _, m := range []struct{ name, content string }{
		{"clusterip.yaml", manifests.ClusterIP}, {"nodeport.yaml", manifests.NodePort}, {"loadbalancer.yaml", manifests.LoadBalancer},
	} {
		if err := s.kubectl(ctx, m.content, "apply -f "+m.name, "apply", "-f", "-"); err != nil {
			return err
		}
	}
	s.say("\nThe last one, word for word:\n")
	s.say("%s", strings.TrimRight(manifests.LoadBalancer, "\n"))
	return nil
}

// plan shows the plan as the controller logged it, before it carried it out.
func (s *story) plan(ctx context.Context) error {
	var text string
	if err := s.until(ctx, "the controller's plan", func(context.Context) (err error) {
		text, err = s.env.LoggedPlan("default/" + service)
		return err
	}); err != nil {
		return err
	}
	s.say("%s", text)
	return nil
}

func (s *story) address(ctx context.Context) error {
	if err := s.until(ctx, "the Service's address", func(ctx context.Context) (err error) {
		s.host, err = s.env.Address(ctx, "default", service)
		return err
	}); err != nil {
		return err
	}
	if err := s.kubectl(ctx, "", "", "get", "svc"); err != nil {
		return err
	}
	s.say("\n$ kubectl get events --field-selector involvedObject.name=%s", service)
	events, err := s.env.Kubectl(ctx, "", "get", "events", "--field-selector", "involvedObject.name="+service,
		"-o", "custom-columns=TYPE:.type,REASON:.reason,MESSAGE:.message")
	if err != nil {
		return err
	}
	s.say("%s", strings.TrimRight(events, "\n"))
	return nil
}

func (s *story) remove(ctx context.Context) error {
	before, err := s.env.Cloud.Leftovers(ctx)
	if err != nil {
		return err
	}
	s.say("The account holds %d things that it did not hold before:\n", len(before))
	for _, r := range before {
		s.say("  %s", r)
	}
	fmt.Fprintln(s.out)
	// kubectl waits for the finalizer, and that for the cloud.
	if err := s.kubectl(ctx, "", "", "delete", "service", service); err != nil {
		return err
	}
	left, err := s.env.Cloud.Leftovers(ctx)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("the account still holds %v", left)
	}
	s.say("\nThe account is empty again: load balancer, listener, target group and security groups are gone,\n" +
		"and the nodes' own group is as it was.")
	return nil
}

func (s *story) bill(ctx context.Context) error {
	counts, err := s.env.Cloud.Counts(ctx)
	if err != nil {
		return err
	}
	s.say("%s", strings.TrimRight(counts.String(), "\n"))
	return nil
}

// nothing shows that a dry run left no trace, in the cloud or on the Service.
func (s *story) nothing(ctx context.Context) error {
	if err := s.kubectl(ctx, "", "", "get", "svc", service); err != nil {
		return err
	}
	left, err := s.env.Cloud.Leftovers(ctx)
	if err != nil {
		return err
	}
	counts, err := s.env.Cloud.Counts(ctx)
	if err != nil {
		return err
	}
	if len(left) > 0 || counts.Writes() > 0 {
		return fmt.Errorf("%d calls wrote, and the account holds %v", counts.Writes(), left)
	}
	s.say("\nThe account is empty, the Service has neither address nor finalizer, and the cloud was asked only to look:\n")
	s.say("%s", strings.TrimRight(counts.String(), "\n"))
	return nil
}

// close takes everything down.
func (s *story) close() error {
	if s.env == nil {
		return nil
	}
	return s.env.Stop()
}
