package localstack

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairway-lb/fairway/providers/aws"
	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/providertest"
)

// caseTime is how long one account may be in use: a case that takes longer will
// not succeed any more.
const caseTime = time.Minute

// unlimited is how many times AWS's request limits the emulator has, which has none.
const unlimited = 1000

// account is the emulator as the contract suite sees it: the same world again
// and again, swept in between.
type account struct {
	providertest.Meter
	t     providertest.T
	world *world
	ends  time.Time

	mu      sync.Mutex
	refused []string // the last calls that failed
}

var _ providertest.Account = (*account)(nil)

// open is providertest.Cloud's Open. Latency is what it is, and no operation is
// slow here.
func (w *world) open(t providertest.T, c providertest.Conditions) providertest.Account {
	if c.Lag != 0 || c.PageSize != 0 {
		t.Fatalf("the emulator cannot be made to lag or page: this case is for our own fake, list it in ownFake")
	}
	return &account{t: t, world: w, ends: time.Now().Add(caseTime)}
}

// Provider implements providertest.Account.
func (a *account) Provider(ctx context.Context, cluster lb.Cluster) (providertest.Instance, error) {
	if a.over() {
		stillborn := providertest.Instance{Kill: func() {}, Dead: func() bool { return true }}
		return stillborn, fmt.Errorf("the case gets nowhere; the last calls that failed:\n%s", a.failures())
	}
	wire := &wire{account: a}
	p, err := aws.New(ctx, aws.Config{Cluster: aws.ClusterConfig{Name: cluster.Name}, RequestRate: unlimited}, cluster,
		settings(&http.Client{Transport: wire, Timeout: callTime})...)
	return providertest.Instance{
		Provider: p,
		Kill:     func() { wire.dead.Store(true) },
		// A controller that does not get anywhere is dead too: that ends the
		// suite's patience, which is meant for virtual time.
		Dead: func() bool { return wire.dead.Load() || a.over() },
	}, err
}

func (a *account) over() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Now().After(a.ends)
}

func (a *account) failures() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return strings.Join(a.refused, "\n")
}

// Snapshot implements providertest.Account.
func (a *account) Snapshot() []string { return a.picture().named() }

// Raw implements providertest.Account.
func (a *account) Raw() []string { return a.picture().lines }

func (a *account) picture() *picture {
	p, err := a.world.look(context.Background())
	if err != nil {
		a.t.Fatalf("%v", err)
	}
	return p
}

// Inject implements providertest.Account, for what can go wrong at our end.
func (a *account) Inject(f providertest.Fault) {
	if f.Kind != "" && f.Kind != providertest.Gone {
		a.t.Fatalf("%s: the emulator has no faults; this case is for our own fake, list it in ownFake", f.Kind)
	}
	a.Meter.Inject(f)
}

// FailOperation implements providertest.Account: no operation takes long here.
func (a *account) FailOperation() func() bool { return nil }

// Close implements providertest.Account.
func (a *account) Close() {
	if err := a.world.sweep(context.Background()); err != nil {
		a.t.Errorf("sweep up after a case: %v", err)
	}
}

// wire is the connection of one provider to the emulator, which counts and can
// be cut.
type wire struct {
	account *account
	dead    atomic.Bool
}

// errDead is what a dead controller's calls end with. The SDK does not try them
// again.
var errDead error = dead{}

type dead struct{}

func (dead) Error() string       { return "this controller is dead" }
func (dead) CanceledError() bool { return true }

// RoundTrip implements http.RoundTripper.
func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	if w.dead.Load() {
		return nil, errDead
	}
	body, err := io.ReadAll(r.Body)
	r.Body.Close()
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}
	action := form.Get("Action")
	fault := w.account.Count(action, !strings.HasPrefix(action, "Describe"))
	again := r.Clone(r.Context())
	again.Body = io.NopCloser(bytes.NewReader(body))
	response, err := http.DefaultTransport.RoundTrip(again)
	if err != nil {
		return nil, err
	}
	answer, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil {
		return nil, err
	}
	if fault.Kind == providertest.Gone || w.dead.Load() {
		w.dead.Store(true)
		return nil, errDead
	}
	response.Body = io.NopCloser(bytes.NewReader(answer))
	if response.StatusCode/100 != 2 {
		w.account.refuse(fmt.Sprintf("%s\n  %d %s", form.Encode(), response.StatusCode, answer))
	}
	return response, nil
}

// refuse remembers a call that failed.
func (a *account) refuse(call string) {
	const most = 5
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, why := range faulty {
		if strings.Contains(call, why.says) {
			a.ends = time.Now() // the emulator will not change its mind
		}
	}
	a.refused = append(a.refused[max(0, len(a.refused)-most+1):], call)
}
