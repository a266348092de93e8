package sandbox_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairway-lb/fairway/e2e/sandbox"
)

// roleVariable makes the test binary a small program that enters a sandbox of
// its own, below the one that the tests run in.
const roleVariable = "SANDBOX_TEST_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		play(role)
	}
	sandbox.Main(m)
}

// play is main of the small program.
func play(role string) {
	if role == "refused" {
		refuse()
	}
	options := sandbox.Options{}
	if role == "files" {
		options.Files = openListener
	}
	session, err := sandbox.Enter(options)
	if err != nil {
		fmt.Println("refused:", err)
		os.Exit(50)
	}
	if !session.Inside {
		os.Exit(session.ExitCode)
	}
	switch role {
	case "exit":
		os.Exit(7)
	case "killed":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "world":
		describeWorld()
	case "hold":
		hold()
	case "signal":
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM)
		fmt.Println("ready")
		<-signals
		os.Exit(9)
	case "orphans":
		leaveOrphans()
	case "files":
		serveOnce(session.Files)
	}
	os.Exit(0)
}

// command is the test binary in a role, outside of any sandbox it knows of.
func command(t *testing.T, role string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "FAIRWAY_SANDBOX=") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	cmd.Env = append(cmd.Env, roleVariable+"="+role)
	return cmd
}

// start runs the test binary in a role, as a user. Its standard output can be
// read line by line.
func start(t *testing.T, role string, credential *syscall.Credential) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := command(t, role)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd, bufio.NewScanner(stdout)
}

func line(t *testing.T, out *bufio.Scanner) string {
	t.Helper()
	if !out.Scan() {
		t.Fatalf("the program ended without another line: %v", out.Err())
	}
	return out.Text()
}

// users are the users that a sandbox must work for. Under an unprivileged test
// run there is only that one.
func users() map[string]*syscall.Credential {
	users := map[string]*syscall.Credential{"same user": nil}
	if mapping, err := os.ReadFile("/proc/self/uid_map"); err == nil && len(strings.Fields(string(mapping))) == 3 &&
		strings.Fields(string(mapping))[2] != "1" {
		users["unprivileged"] = &syscall.Credential{Uid: 65534, Gid: 65534}
	}
	return users
}

func TestExitCode(t *testing.T) {
	for role, want := range map[string]int{"exit": 7, "killed": 128 + 9} {
		for name, user := range users() {
			t.Run(role+"/"+name, func(t *testing.T) {
				cmd, _ := start(t, role, user)
				_ = cmd.Wait()
				if got := cmd.ProcessState.ExitCode(); got != want {
					t.Errorf("exit code %d, want %d", got, want)
				}
			})
		}
	}
}

func TestSignalIsPassedOn(t *testing.T) {
	cmd, out := start(t, "signal", nil)
	if got := line(t, out); got != "ready" {
		t.Fatalf("got %q", got)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 9 {
		t.Errorf("exit code %d, want the 9 of the program's own signal handler", got)
	}
}

// describeWorld prints what the inner program sees.
func describeWorld() {
	interfaces, _ := net.Interfaces()
	for _, i := range interfaces {
		fmt.Println("device", i.Name, i.Flags&net.FlagUp != 0)
	}
	entries, _ := os.ReadDir("/run")
	for _, e := range entries {
		fmt.Println("run", e.Name())
	}
	fmt.Println("user", os.Getuid(), os.Getgid())
	fmt.Println("temporary", os.TempDir())
	fmt.Println("writable", os.WriteFile(filepath.Join(os.TempDir(), "x"), nil, 0o600) == nil)
	processes, _ := filepath.Glob("/proc/[0-9]*")
	fmt.Println("processes", len(processes))
}

func TestInsideIsAWorldOfItsOwn(t *testing.T) {
	want := []string{
		"device lo true", "run netns", "run work", "user 0 0", "temporary " + sandbox.WorkDir, "writable true", "processes 2",
	}
	for name, user := range users() {
		t.Run(name, func(t *testing.T) {
			_, out := start(t, "world", user)
			var got []string
			for out.Scan() {
				// Some kernels give every namespace tunnel devices of its own.
				if text := out.Text(); !strings.HasPrefix(text, "device ") || strings.HasPrefix(text, "device lo ") {
					got = append(got, text)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

// hold makes everything that could be left behind, and stays.
func hold() {
	n, err := sandbox.NewNetNS("held")
	if err == nil {
		err = n.Start(exec.Command("sleep", "1000"))
	}
	if err == nil {
		cmd := exec.Command("sleep", "1000")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		err = cmd.Start()
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	select {}
}

// TestNothingIsLeft kills each process of the chain with a signal it cannot
// handle, and looks for processes and mounts that outlive it.
func TestNothingIsLeft(t *testing.T) {
	victims := map[string]func(outer int) int{
		"outer process": func(outer int) int { return outer },
		"process 1":     childOf,
		"inner program": func(outer int) int { return childOf(childOf(outer)) },
	}
	for victim, pid := range victims {
		for name, user := range users() {
			t.Run(victim+"/"+name, func(t *testing.T) {
				before := mounts(t)
				cmd, out := start(t, "hold", user)
				if got := line(t, out); got != "ready" {
					t.Fatalf("got %q", got)
				}
				if got := len(foreignProcesses(t)); got != 4 {
					t.Fatalf("%d processes in other namespaces, want 4: process 1, the program and two sleeping ones", got)
				}
				if err := syscall.Kill(pid(cmd.Process.Pid), syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				_ = cmd.Wait()
				eventually(t, func() error {
					if left := foreignProcesses(t); len(left) > 0 {
						return fmt.Errorf("processes left: %v", left)
					}
					return nil
				})
				if after := mounts(t); after != before {
					t.Errorf("mounts before:\n%s\nafter:\n%s", before, after)
				}
			})
		}
	}
}

func mounts(t *testing.T) string {
	content, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func childOf(pid int) (child int) {
	children, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, path := range children {
		content, _ := os.ReadFile(path)
		if n, _ := fmt.Sscan(string(content), &child); n == 1 {
			return child
		}
	}
	return -1
}

// foreignProcesses are those in a pid or net namespace other than ours.
func foreignProcesses(t *testing.T) (found []string) {
	t.Helper()
	directories, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, directory := range directories {
		for _, kind := range []string{"pid", "net"} {
			own, _ := os.Readlink("/proc/self/ns/" + kind)
			other, err := os.Readlink(directory + "/ns/" + kind)
			if err == nil && other != own {
				found = append(found, directory)
				break
			}
		}
	}
	return found
}

// leaveOrphans makes processes whose parent ends before they do, and prints how
// many dead ones stay unreaped.
func leaveOrphans() {
	for range 20 {
		if err := exec.Command("sh", "-c", "sh -c true & exit 3").Run(); err == nil {
			fmt.Println("the exit status of a child got lost")
		}
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		zombies := 0
		stats, _ := filepath.Glob("/proc/[0-9]*/stat")
		for _, path := range stats {
			if content, _ := os.ReadFile(path); bytes.Contains(content, []byte(") Z ")) {
				zombies++
			}
		}
		if zombies == 0 || time.Now().After(deadline) {
			fmt.Println("zombies", zombies)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestOrphansAreReaped(t *testing.T) {
	_, out := start(t, "orphans", nil)
	if got := line(t, out); got != "zombies 0" {
		t.Error(got)
	}
}

func openListener() ([]*os.File, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	fmt.Println(listener.Addr())
	file, err := listener.(*net.TCPListener).File()
	return []*os.File{file}, err
}

func serveOnce(files []*os.File) {
	listener, err := net.FileListener(files[0])
	if err != nil {
		fmt.Println(err)
		return
	}
	conn, err := listener.Accept()
	if err != nil {
		fmt.Println(err)
		return
	}
	interfaces, _ := net.Interfaces()
	fmt.Fprintf(conn, "hello from inside, with %s", interfaces[0].Name)
	conn.Close()
}

func TestListenerHandedIn(t *testing.T) {
	for name, user := range users() {
		t.Run(name, func(t *testing.T) {
			_, out := start(t, "files", user)
			conn, err := net.DialTimeout("tcp", line(t, out), 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			answer, err := io.ReadAll(conn)
			if want := "hello from inside, with lo"; err != nil || string(answer) != want {
				t.Errorf("got %q, %v; want %q", answer, err, want)
			}
		})
	}
}

// refuse plays a package's TestMain on a machine that allows no namespaces.
func refuse() {
	// The limit is one of the user namespace that the test put this process in.
	if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(60)
	}
	sandbox.Main(noTests{})
}

type noTests struct{}

func (noTests) Run() int { return 61 }

func TestRefusedNamespaces(t *testing.T) {
	for _, test := range []struct {
		ci, word string
		code     int
	}{
		{ci: "true", word: "FAIL", code: 1},
		{ci: "", word: "SKIP", code: 0},
	} {
		t.Run(test.word, func(t *testing.T) {
			cmd := command(t, "refused")
			cmd.Env = append(cmd.Env, "CI="+test.ci)
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  unix.CLONE_NEWUSER,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: 1000, HostID: os.Geteuid(), Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{ContainerID: 1000, HostID: os.Getegid(), Size: 1}},
				AmbientCaps: []uintptr{unix.CAP_SYS_RESOURCE},
			}
			var stderr strings.Builder
			cmd.Stderr = &stderr
			_ = cmd.Run()
			if got := cmd.ProcessState.ExitCode(); got != test.code {
				t.Errorf("exit code %d, want %d", got, test.code)
			}
			for _, want := range []string{test.word + ":", "sysctl -w user.max_user_namespaces"} {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("message %q, want it to hold %q", stderr.String(), want)
				}
			}
		})
	}
}

// eventually waits for a condition, and fails the test with its last error.
func eventually(t *testing.T, condition func() error) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal(err)
		}
	}
}

func TestUnavailableErrorKeepsTheCause(t *testing.T) {
	err := error(&sandbox.UnavailableError{Attempted: "mounting /proc", Reason: "because", Err: syscall.EPERM})
	if !errors.Is(err, syscall.EPERM) {
		t.Error("the kernel's answer cannot be found in the error")
	}
	if want := "no sandbox on this machine: mounting /proc: operation not permitted: because"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}
