package cluster_test

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/fairway-lb/fairway/e2e/cluster"
)

// localService is health-checked by load balancers at its own port.
const localService = `
apiVersion: v1
kind: Service
metadata: {name: local}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  healthCheckNodePort: 31999
  selector: {app: web}
  ports: [{name: http, port: 80}]
`

// TestProxyEvents has a node proxy tell a real API server of a port that another
// program holds, with the permissions that are shipped.
func TestProxyEvents(t *testing.T) {
	c := boot(t, cluster.Config{Nodes: nodes(1), NodeProxy: filepath.Join(os.Getenv(programsVariable), "node-proxy")})
	granted, err := c.Client.RbacV1().ClusterRoles().Get(t.Context(), "fairway:node-proxy", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if shipped := shippedRole(t); !reflect.DeepEqual(granted.Rules, shipped.Rules) {
		t.Errorf("the cluster grants\n%+v\nrbac.yaml ships\n%+v", granted.Rules, shipped.Rules)
	}

	l, err := c.Nodes()[0].NetNS.Listen(t.Context(), "tcp", "0.0.0.0:31999")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	kubectl(t, c, localService, "apply", "-f", "-")
	service, err := c.Client.CoreV1().Services("default").Get(t.Context(), "local", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		events, err := c.Client.EventsV1().Events("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events.Items {
			if e.Reason == "FailedToStartServiceHealthcheck" {
				if e.Regarding.UID != service.UID || e.ReportingController != "fairway.io/node-proxy" || e.Type != "Warning" {
					t.Errorf("the event is %+v", e)
				}
				return
			}
		}
		if time.Now().After(end) {
			t.Fatalf("no event arrived; there are %v", events.Items)
		}
	}
}

func shippedRole(t *testing.T) (role rbacv1.ClusterRole) {
	t.Helper()
	data, err := os.ReadFile("../../cmd/node-proxy/rbac.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for doc := range bytes.SplitSeq(data, []byte("\n---\n")) {
		if bytes.Contains(doc, []byte("\nkind: ClusterRole\n")) {
			if err := yaml.UnmarshalStrict(doc, &role); err != nil {
				t.Fatal(err)
			}
			return role
		}
	}
	t.Fatal("rbac.yaml has no ClusterRole")
	return role
}
