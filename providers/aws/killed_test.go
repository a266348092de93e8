package aws

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"

	fakeaws "github.com/fairway-lb/fairway/providers/fake/aws"
	"github.com/fairway-lb/fairway/providers/plan"
)

// The environment that makes this test binary a controller.
const (
	envEndpoint = "FAIRWAY_TEST_ENDPOINT"
	envTask     = "FAIRWAY_TEST_TASK"
)

func TestMain(m *testing.M) {
	endpoint := os.Getenv(envEndpoint)
	if endpoint == "" {
		// Thousands of short lives make much garbage and keep little: a quarter of
		// all work would be collecting it.
		debug.SetGCPercent(400)
		os.Exit(m.Run())
	}
	if err := control(endpoint, os.Getenv(envTask)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// control carries out one task, as a controller does that was just started.
func control(endpoint, task string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	p, err := New(ctx, testConfig(), contractNames.cluster, config.WithRegion(testRegion), config.WithBaseEndpoint(endpoint),
		config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider("AKIDTEST", "secret", "")))
	if err != nil {
		return err
	}
	engine, s := plan.NewEngine(p, plan.Options{}), contractService(0)
	do := func() (plan.Result, error) { return engine.Reconcile(ctx, s) }
	switch task {
	case "update":
		for _, u := range contractUpdates() {
			u.Edit(&s)
		}
	case "delete":
		do = func() (plan.Result, error) { return engine.Delete(ctx, s.ServiceRef) }
	}
	for {
		_, err := do()
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond) // the queue's own wait, in a process of its own
	}
}

// killer is the account's handler that kills the process that calls, when it has
// done a certain call and before it answers.
type killer struct {
	account *fakeaws.Account
	calls   atomic.Int64
	at      atomic.Int64 // 0: never

	mu     sync.Mutex // held while a process is started
	victim *os.Process
}

func (k *killer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if n, at := k.calls.Add(1), k.at.Load(); at == 0 || n < at {
		k.account.ServeHTTP(w, r)
		return
	} else if n == at {
		k.account.ServeHTTP(httptest.NewRecorder(), r)
		k.mu.Lock()
		defer k.mu.Unlock()
		_ = k.victim.Kill() // it may have ended
	}
	panic(http.ErrAbortHandler)
}

// TestKilledProcess kills a real controller with SIGKILL at calls throughout the
// life of a Service. The next one ends where an undisturbed one does.
func TestKilledProcess(t *testing.T) {
	const samples = 8 // of each task
	killed := 0
	for _, task := range []struct {
		name   string
		before []string
	}{{"create", nil}, {"update", []string{"create"}}, {"delete", []string{"create"}}} {
		t.Run(task.name, func(t *testing.T) {
			clean := newAccountOnLoopback(t, task.before...)
			clean.run(t, task.name)
			n := clean.calls.Load()
			want := clean.snapshot(t)
			for i := range int64(samples) {
				at := 1 + i*(n-1)/(samples-1)
				a := newAccountOnLoopback(t, task.before...)
				a.at.Store(at)
				err := a.start(t, task.name).Wait()
				if a.calls.Load() < at {
					continue // what runs in parallel took fewer calls this time
				}
				if err == nil {
					t.Fatalf("killed at call %d of %d, the controller ended well", at, n)
				}
				a.at.Store(0)
				killed++
				a.run(t, task.name)
				if got := a.snapshot(t); !slices.Equal(got, want) {
					t.Fatalf("killed at call %d of %d, the account ends as\n%s\nwant\n%s", at, n, strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
			}
		})
	}
	if killed < 20 {
		t.Errorf("%d processes were killed, want 20 or more", killed)
	}
	t.Logf("%d processes killed", killed)
}

type loopback struct {
	*killer
	server *httptest.Server
}

// newAccountOnLoopback returns an account in which some tasks were done.
func newAccountOnLoopback(t *testing.T, before ...string) *loopback {
	t.Helper()
	w := world()
	readPolicy(t).bound(&w)
	w.Throttle = &fakeaws.Throttle{Off: true}
	account, err := fakeaws.New(w)
	if err != nil {
		t.Fatal(err)
	}
	a := &loopback{killer: &killer{account: account}}
	a.server = httptest.NewServer(a)
	t.Cleanup(func() {
		a.server.Close()
		account.Close()
	})
	for _, task := range before {
		a.run(t, task)
	}
	a.calls.Store(0)
	return a
}

// start starts a controller.
func (a *loopback) start(t *testing.T, task string) *exec.Cmd {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), program)
	c.Env = []string{envEndpoint + "=" + a.server.URL, envTask + "=" + task, "AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONFIG_FILE=" + os.DevNull, "GORACE=atexit_sleep_ms=0", "AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull}
	c.Stderr = os.Stderr
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	a.victim = c.Process
	return c
}

func (a *loopback) run(t *testing.T, task string) {
	t.Helper()
	if err := a.start(t, task).Wait(); err != nil {
		t.Fatalf("%s: %v", task, err)
	}
}

func (a *loopback) snapshot(t *testing.T) []string {
	t.Helper()
	operator, err := newClients(t.Context(), testRegion, []func(*config.LoadOptions) error{config.WithBaseEndpoint(a.server.URL),
		config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider("AKIDTEST", "secret", ""))})
	if err != nil {
		t.Fatal(err)
	}
	s := &survey{clients: operator, names: map[string]string{}}
	if err := s.take(t.Context()); err != nil {
		t.Fatal(err)
	}
	slices.Sort(s.lines)
	return s.lines
}
