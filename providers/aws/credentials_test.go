package aws

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"

	fakeaws "github.com/fairway-lb/fairway/providers/fake/aws"
	"github.com/fairway-lb/fairway/providers/lb"
	"github.com/fairway-lb/fairway/providers/plan"
)

// keyFile is a shared credentials file, as a Secret mounted into a Pod is one.
type keyFile struct {
	t    *testing.T
	path string
}

func (f keyFile) holds(key string) {
	f.t.Helper()
	content := "[default]\naws_access_key_id = " + key + "\naws_secret_access_key = secret-of-" + key + "\n"
	if err := os.WriteFile(f.path, []byte(content), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// withKeyFile runs test with a provider that has its credentials from a file.
func withKeyFile(t *testing.T, test func(*bench, keyFile)) {
	file := keyFile{t, filepath.Join(t.TempDir(), "credentials")}
	file.holds("AKIDFIRST")
	simulate(t, func(b *bench) {
		t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file.path)
		p, err := New(b.Context(), testConfig(), lb.Cluster{Name: "demo", UID: "demo-uid"}, config.WithRegion(testRegion), config.WithBaseEndpoint("http://aws.test"), config.WithHTTPClient(b.client))
		if err != nil {
			b.Fatal(err)
		}
		b.provider, b.engine = p, plan.NewEngine(p, plan.Options{})
		test(b, file)
	}, func(w *fakeaws.World) { w.Throttle = &fakeaws.Throttle{Off: true} })
}

func TestCredentialsFileIsRotated(t *testing.T) {
	withKeyFile(t, func(b *bench, file keyFile) {
		b.reconcile(service())
		file.holds("AKIDSECOND")
		b.account.Revoke("AKIDFIRST")
		s := service()
		s.Targets = append(s.Targets, node(4))
		b.reconcile(s) // fails the test on any error
		b.remove(s)
	})
}

// The new key may come to the file after the old one is gone.
func TestCredentialsFileIsRotatedLate(t *testing.T) {
	withKeyFile(t, func(b *bench, file keyFile) {
		b.reconcile(service())
		b.account.Revoke("AKIDFIRST")
		s := service()
		s.Targets = append(s.Targets, node(4))
		b.account.Calls().Reset()
		if _, err := b.engine.Reconcile(b.Context(), s); lb.KindOf(err) != lb.Denied {
			t.Fatalf("with a revoked key: %v", err)
		}
		if n := b.account.Calls().Counts().Reads(); n > 6 {
			t.Errorf("a revoked key is used for %d calls, each more than once", n)
		}
		file.holds("AKIDSECOND")
		time.Sleep(time.Minute) // virtual
		b.reconcile(s)
	})
}

func TestCallsAreReported(t *testing.T) {
	simulate(t, func(b *bench) {
		var mu sync.Mutex
		codes := map[string]int{}
		report := Reporting(func(c lb.Call) {
			mu.Lock()
			defer mu.Unlock()
			codes[c.Service+" "+c.Operation+" "+c.Code]++
		})
		p, err := New(b.Context(), testConfig(), lb.Cluster{Name: "demo", UID: "demo-uid"}, append(reaching(b.client, providerKey), report)...)
		if err != nil {
			b.Fatal(err)
		}
		b.provider, b.engine = p, plan.NewEngine(p, plan.Options{})
		b.reconcile(service())
		b.account.Revoke(providerKey)
		if _, err := b.engine.Reconcile(b.Context(), service()); err == nil {
			t.Error("a revoked key is accepted")
		}
		if codes["EC2 CreateSecurityGroup OK"] != 2 || codes["Elastic Load Balancing v2 CreateLoadBalancer OK"] != 1 || codes["EC2 DescribeSecurityGroups AuthFailure"]+
			codes["Elastic Load Balancing v2 DescribeLoadBalancers InvalidClientTokenId"]+
			codes["Elastic Load Balancing v2 DescribeTargetGroups InvalidClientTokenId"] == 0 { // whichever came first ended the others
			t.Errorf("reported %v", codes)
		}
	}, func(w *fakeaws.World) { w.Throttle = &fakeaws.Throttle{Off: true} })
}
