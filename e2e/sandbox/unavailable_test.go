package sandbox

import (
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
)

// TestRefusalReason checks that each way to forbid namespaces is told apart and
// named with what the reader has to change.
func TestRefusalReason(t *testing.T) {
	tests := map[string]struct {
		files map[string]string
		errno syscall.Errno
		root  bool
		want  string
	}{
		"switched off on Debian": {
			files: map[string]string{"sys/kernel/unprivileged_userns_clone": "0\n"},
			errno: syscall.EPERM, want: "kernel.unprivileged_userns_clone=1",
		},
		"none allowed": {
			files: map[string]string{"sys/user/max_user_namespaces": "0\n"},
			errno: syscall.ENOSPC, want: "user.max_user_namespaces=15000",
		},
		"limit reached": {
			files: map[string]string{"sys/user/max_user_namespaces": "17\n"},
			errno: syscall.ENOSPC, want: "(now 17)",
		},
		"AppArmor": {
			files: map[string]string{
				"sys/kernel/unprivileged_userns_clone":             "1\n",
				"sys/kernel/apparmor_restrict_unprivileged_userns": "1\n",
			},
			errno: syscall.EACCES, want: "kernel.apparmor_restrict_unprivileged_userns=0",
		},
		"seccomp":       {files: map[string]string{"self/status": "Name:\tx\nSeccomp:\t2\n"}, errno: syscall.EPERM, want: "seccomp=unconfined"},
		"old kernel":    {errno: syscall.EINVAL, want: "another kernel"},
		"something":     {files: map[string]string{"self/status": "Seccomp:\t0\n"}, errno: syscall.EPERM, want: "security module"},
		"root confined": {errno: syscall.EPERM, root: true, want: "CAP_SYS_ADMIN"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			proc := fstest.MapFS{}
			for path, content := range test.files {
				proc[path] = &fstest.MapFile{Data: []byte(content)}
			}
			if got := refusalReason(proc, test.errno, !test.root); !strings.Contains(got, test.want) {
				t.Errorf("got %q, want something with %q", got, test.want)
			}
		})
	}
}
