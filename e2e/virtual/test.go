package virtual

import (
	"testing"
	"testing/synctest"
)

// Test runs f in virtual time, with nothing of what the machine's environment says
// about AWS. What f starts it must end.
func Test(t *testing.T, f func(*testing.T)) {
	t.Helper()
	for _, name := range []string{"AWS_CA_BUNDLE", "AWS_PROFILE", "AWS_ENDPOINT_URL"} {
		t.Setenv(name, "")
	}
	synctest.Test(t, f)
}
