package environment

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"

	"github.com/fairway-lb/fairway/e2e/cluster"
	"github.com/fairway-lb/fairway/e2e/sandbox"
	"github.com/fairway-lb/fairway/providers/fake"
	fakeaws "github.com/fairway-lb/fairway/providers/fake/aws"
	"github.com/fairway-lb/fairway/providers/fake/datapath"
)

// Cloud is the fake cloud seen from behind the scenes: what it was asked, what
// it holds, what passes through it.
type Cloud struct {
	endpoint string
	http     *http.Client
}

func newCloud(endpoint string, from *sandbox.NetNS) *Cloud {
	return &Cloud{endpoint: endpoint, http: &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{DialContext: from.DialContext},
	}}
}

// Calls returns what the cloud was asked so far, oldest first.
func (c *Cloud) Calls(ctx context.Context) (calls []fake.Call, err error) {
	return calls, c.ask(ctx, http.MethodGet, "calls", nil, &calls)
}

// Counts returns how often each operation was asked for.
func (c *Cloud) Counts(ctx context.Context) (counts fake.Counts, err error) {
	return counts, c.ask(ctx, http.MethodGet, "calls?format=counts", nil, &counts)
}

// ForgetCalls empties the log of calls.
func (c *Cloud) ForgetCalls(ctx context.Context) error {
	return c.ask(ctx, http.MethodDelete, "calls", nil, nil)
}

// Leftovers returns what the account holds beyond what it began with.
func (c *Cloud) Leftovers(ctx context.Context) (left []fakeaws.Resource, err error) {
	return left, c.ask(ctx, http.MethodGet, "leftovers", nil, &left)
}

// Flows returns the connections that load balancers carry or carried a moment
// ago.
func (c *Cloud) Flows(ctx context.Context) (flows []datapath.Flow, err error) {
	return flows, c.ask(ctx, http.MethodGet, "flows", nil, &flows)
}

// AddInstance starts a virtual machine for a node.
func (c *Cloud) AddInstance(ctx context.Context, node cluster.NodeConfig) error {
	return c.ask(ctx, http.MethodPost, "instances", asInstance(node), nil)
}

// RemoveInstance makes a node's virtual machine disappear.
func (c *Cloud) RemoveInstance(ctx context.Context, node cluster.NodeConfig) error {
	return c.ask(ctx, http.MethodDelete, "instances/"+asInstance(node).ID, nil, nil)
}

// SetInstanceState starts, stops or terminates a node's virtual machine.
func (c *Cloud) SetInstanceState(ctx context.Context, node cluster.NodeConfig, state fakeaws.InstanceState) error {
	return c.ask(ctx, http.MethodPut, "instances/"+asInstance(node).ID, map[string]any{"state": state}, nil)
}

// Violations returns the requests that no correct client makes.
func (c *Cloud) Violations(ctx context.Context) (violations []string, err error) {
	return violations, c.ask(ctx, http.MethodGet, "violations", nil, &violations)
}

// PlanFaults replaces what will go wrong with the calls to come.
func (c *Cloud) PlanFaults(ctx context.Context, faults ...fake.Fault) error {
	return c.ask(ctx, http.MethodPut, "faults", append([]fake.Fault{}, faults...), nil)
}

// administratorKey is the access key of a person whom no policy binds.
const administratorKey = "AKIDADMINISTRATOR001"

// Administrator returns AWS's own client of load balancers, as a person with
// all rights would use it.
func (c *Cloud) Administrator() *elb.Client {
	return elb.New(elb.Options{
		Region:       region,
		BaseEndpoint: aws.String(c.endpoint),
		HTTPClient:   c.http,
		Credentials:  credentials.NewStaticCredentialsProvider(administratorKey, "no-secret-at-all", ""),
	})
}

func (c *Cloud) healthy(ctx context.Context) error {
	return c.ask(ctx, http.MethodGet, "healthz", nil, nil)
}

// ask calls the fake's own interface, which no real cloud has.
func (c *Cloud) ask(ctx context.Context, method, path string, body, answer any) error {
	var payload io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		payload = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.endpoint+"/_fake/"+path, payload)
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("ask the fake cloud: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 16<<20))
	if err != nil {
		return fmt.Errorf("ask the fake cloud: %w", err)
	}
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %s", method, request.URL.Path, response.Status, bytes.TrimSpace(text))
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(text, answer)
}
