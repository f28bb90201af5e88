package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// stacks are the stacks to test: those in PATH, and what KILN_TEST_USER_NETWORKS
// names, as other versions of them.
func stacks(t *testing.T) []string {
	t.Helper()
	var programs []string
	for _, name := range []UserStack{Pasta, Slirp4netns} {
		program, err := exec.LookPath(string(name))
		must(t, err)
		programs = append(programs, program)
	}
	return append(programs, filepath.SplitList(os.Getenv("KILN_TEST_USER_NETWORKS"))...)
}

// eachStack runs a test with each stack.
func eachStack(t *testing.T, f func(t *testing.T, s *scene, l *Launcher, n UserNetwork)) {
	t.Helper()
	inScene(t, func(t *testing.T, s *scene) {
		for _, program := range stacks(t) {
			l := newLauncher(t)
			n, err := tryProgram(t, l, program)
			if err != nil {
				t.Fatalf("%s: %v", program, err)
			}
			t.Logf("%s, %s", t.Name(), program)
			f(t, s, l, n)
			must(t, l.Close())
			noStacks(t)
		}
	})
}

// tryProgram finds out whether a stack works.
func tryProgram(t *testing.T, l *Launcher, program string) (UserNetwork, error) {
	t.Helper()
	n, err := l.UserNetwork(t.Context(), program)
	if err == nil {
		err = l.TryUserNetwork(t.Context(), n)
	}
	return n, err
}

// stackProcesses are the stacks whose way out is the scene.
func stackProcesses(t *testing.T) (found []string) {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	must(t, err)
	ours, err := os.Readlink("/proc/self/ns/net")
	must(t, err)
	for _, dir := range dirs {
		words, _ := os.ReadFile(dir + "/cmdline")
		if !strings.HasPrefix(string(words), "pasta") && !strings.HasPrefix(string(words), "slirp4netns") {
			continue
		}
		if ns, err := os.Readlink(dir + "/ns/net"); err == nil && ns == ours {
			found = append(found, dir+": "+strings.ReplaceAll(string(words), "\x00", " "))
		}
	}
	return found
}

func noStacks(t *testing.T) {
	t.Helper()
	for _, p := range stackProcesses(t) {
		t.Errorf("a stack is left: %s", p)
	}
}

// networked gives the box a user-mode network.
func (b *box) networked(n UserNetwork) *box {
	b.Network, b.UserNetwork = NetworkUser, n
	text, _ := n.ResolvConf(machineResolvConf)
	b.Tree = append(b.Tree, File("/etc/resolv.conf", 0o644, text))
	return b
}

func init() {
	// It prints each target with what became of it. One with a "+" before it is
	// tried for some time.
	roles["reaches"] = func() {
		answers := make([]string, len(os.Args))
		var all sync.WaitGroup
		for i, target := range os.Args[1:] {
			all.Go(func() { answers[i] = reach(target) })
		}
		all.Wait()
		for i, target := range os.Args[1:] {
			fmt.Printf("%s\t%s\n", target, answers[i])
		}
	}
}

func reach(target string) (answer string) {
	target, patient := strings.CutPrefix(target, "+")
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if answer = reachOnce(target); answer == "hello" || !patient || time.Now().After(end) {
			return answer
		}
	}
}

func reachOnce(target string) string {
	const long = time.Second
	network, addr, _ := strings.Cut(target, " ")
	switch network {
	case "namespace":
		ns, _ := os.Readlink("/proc/self/ns/net")
		return ns
	case "name":
		addrs, err := (&net.Resolver{PreferGo: true}).LookupHost(context.Background(), addr)
		if err != nil {
			return err.Error()
		}
		return strings.Join(addrs, " ")
	}
	c, err := net.DialTimeout(network, addr, long)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(long))
	if network == "udp" {
		c.Write([]byte("hello?"))
		buf := make([]byte, 16)
		n, err := c.Read(buf)
		if err != nil {
			return err.Error()
		}
		return string(buf[:n])
	}
	text, err := io.ReadAll(c)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// TestUserNetworkReaches holds what is reached through a stack, and what is not:
// T03 and T10 need a builder that can reach nobody on the machine.
func TestUserNetworkReaches(t *testing.T) {
	eachStack(t, func(t *testing.T, s *scene, l *Launcher, n UserNetwork) {
		targets := []string{"name kiln.test", "namespace ", s.Abstract}
		for _, target := range s.Outside {
			targets = append(targets, "+"+target) // slirp4netns needs a while for IPv6
		}
		targets = append(targets, s.Loopback...)
		// Addresses by which a stack may mean the machine.
		for _, target := range s.Loopback {
			for _, alias := range []string{
				userGateway4, userResolver4, "198.51.100.1", "198.51.100.99", "10.0.2.2",
				"fe80::1%tap0", "fe80::2%tap0", "fe80::3%tap0", userResolver6, "fd6b:696c:6e::1", "fd00::2", "fd00::3",
			} {
				targets = append(targets, elsewhere(target, alias))
			}
		}
		for _, target := range s.Metadata {
			targets = append(targets, strings.Replace(target, "%out", "%tap0", 1))
		}
		b := newBox(t, "").networked(n).plays(t, "reaches", targets...)
		p, r := b.start(t, l)
		got := map[string]string{}
		for line := range strings.Lines(readAll(t, r)) {
			target, answer, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
			got[target] = answer
		}
		if exit := wait(t, p); exit.Code != 0 {
			t.Fatalf("it ended with %v: %v", exit, got)
		}
		for _, target := range targets {
			if want := strings.HasPrefix(target, "+"); (got[target] == "hello") != want {
				t.Errorf("%s: %q", target, got[target])
			}
		}
		if got["name kiln.test"] != resolved {
			t.Errorf("the name is %q", got["name kiln.test"])
		}
		ours, err := os.Readlink("/proc/self/ns/net")
		must(t, err)
		if ns := got["namespace "]; ns == ours || !strings.HasPrefix(ns, "net:[") {
			t.Errorf("its namespace is %s, ours is %s", ns, ours)
		} else {
			noNamespace(t, ns)
		}
		want := Layer{Name: "network", Asked: n.String(), InForce: n.String(), Why: "a namespace of its own; the machine's loopback and link-local addresses are out of reach"}
		report := p.Report()
		for _, layer := range report.Layers {
			if layer.Name == "network" && layer != want {
				t.Errorf("the report says %+v", layer)
			}
		}
		if report.Level != "full" {
			t.Errorf("the level is %s", report.Level)
		}
		b.nothingLeft(t)
	})
}

// noNamespace fails the test if a process is in a network namespace.
func noNamespace(t *testing.T, ns string) {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/task/[0-9]*/ns/net")
	must(t, err)
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && to == ns {
			t.Errorf("%s is %s still", link, ns)
		}
	}
}

// TestUserNetworkEnds ends a program, its launcher or its stack: the others end too.
func TestUserNetworkEnds(t *testing.T) {
	eachStack(t, func(t *testing.T, _ *scene, _ *Launcher, n UserNetwork) {
		var lost *UserNetworkError
		for _, c := range []struct {
			name string
			end  func(*Launcher, *Process)
			good func(Exit, error) bool
		}{
			{"by itself", func(*Launcher, *Process) {}, func(e Exit, err error) bool { return e.Code == 3 && err == nil }},
			{"killed", func(_ *Launcher, p *Process) { p.Kill() }, func(e Exit, err error) bool { return e.Signal == unix.SIGKILL && err == nil }},
			{"launcher closed", func(l *Launcher, _ *Process) { l.Close() }, func(_ Exit, err error) bool { return err != nil }},
			{"launcher killed", func(l *Launcher, _ *Process) { unix.Kill(l.launcherPID(), unix.SIGKILL) }, func(_ Exit, err error) bool { return errors.Is(err, ErrInterrupted) }},
			{"stack killed", func(_ *Launcher, p *Process) { p.network.stack.Kill() }, func(e Exit, err error) bool {
				return e.Signal == unix.SIGKILL && errors.As(err, &lost) && strings.Contains(lost.Reason, " ended with signal 9")
			}},
		} {
			l := NewLauncher()
			script := "echo ready; sleep 600 & sleep 600"
			if c.name == "by itself" {
				script = "echo ready; sleep 600 & exit 3"
			}
			b := newBox(t, script).networked(n)
			p, r := b.start(t, l)
			_, err := io.ReadFull(r, make([]byte, 6))
			must(t, err)
			stack := machinePID(t, p.network.stack)
			if state := processState(stack); state == "" || state == "Z" {
				t.Errorf("%s: the stack is in state %q while it is needed", c.name, state)
			}
			c.end(l, p)
			exit, err := p.Wait(t.Context())
			if !c.good(exit, err) {
				t.Errorf("%s: it ended with %v, %v", c.name, exit, err)
			}
			must(t, l.Close())
			if state := processState(stack); state != "" && state != "Z" {
				t.Errorf("%s: the stack is in state %q when the launcher is gone", c.name, state)
			}
			noStacks(t)
			b.nothingLeft(t)
		}
	})
}

// TestUserNetworkFails has stacks that do not work, and programs that do not start.
func TestUserNetworkFails(t *testing.T) {
	inScene(t, func(t *testing.T, _ *scene) {
		dir := t.TempDir()
		must(t, os.Chmod(dir, 0o755))
		must(t, os.Chmod(filepath.Dir(dir), 0o755))
		write := func(name, script string, mode os.FileMode) string {
			program := filepath.Join(dir, name)
			must(t, os.WriteFile(program, []byte(script), mode))
			return program
		}
		l := newLauncher(t)
		for _, c := range []struct{ program, want string }{
			{"pasta", "'pasta' is not an absolute path"},
			{filepath.Join(dir, "passt"), "is neither called pasta nor slirp4netns"},
			{filepath.Join(dir, "pasta-missing"), "no such file or directory"},
			{write("pasta-forbidden", "", 0o644), "permission denied"},
			{write("pasta-broken", "#!/bin/sh\necho one >&2; echo it is broken >&2; exit 3\n", 0o755), "pasta-broken ended with exit code 3: one; it is broken"},
			{write("slirp4netns-silent", "#!/bin/sh\nexit 0\n", 0o755), "slirp4netns-silent ended with exit code 0"},
			{write("pasta-no-program", "#!/missing\n", 0o755), "No such file or directory"},
		} {
			_, err := tryProgram(t, l, c.program)
			var network *UserNetworkError
			if !errors.As(err, &network) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: the probe says %v, want %q", c.program, err, c.want)
			}
			if !strings.Contains(c.program, "broken") {
				continue
			}
			// If it is used in spite of that.
			_, err = l.Start(t.Context(), newBox(t, "true").networked(UserNetwork{Pasta, c.program}).Spec, Stdio{})
			if !errors.As(err, &network) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: start gives %v, want %q", c.program, err, c.want)
			}
		}

		n, err := tryProgram(t, l, "")
		must(t, err)
		b := newBox(t, "true").networked(n)
		b.Path = "/missing"
		_, err = l.Start(t.Context(), b.Spec, Stdio{})
		var exec *ExecError
		if !errors.As(err, &exec) {
			t.Errorf("start of a missing program gives %v", err)
		}

		// One that does not get ready.
		slow := UserNetwork{Pasta, write("pasta-slow", "#!/bin/sh\nsleep 600 & sleep 600\n", 0o755)}
		cancelled := errors.New("cancelled by the test")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(100*time.Millisecond, func() { cancel(cancelled) })
		if _, err := l.Start(ctx, newBox(t, "true").networked(slow).Spec, Stdio{}); !errors.Is(err, cancelled) {
			t.Errorf("start gives %v, want what it was cancelled with", err)
		}
		must(t, l.Close())
		noStacks(t)
		if left := processesNamed(t, dir); len(left) > 0 {
			t.Errorf("processes are left: %q", left)
		}
	})
}

// processesNamed are the command lines with a text in them.
func processesNamed(t *testing.T, text string) (found []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, file := range files {
		if words, _ := os.ReadFile(file); strings.Contains(string(words), text) {
			found = append(found, strings.ReplaceAll(string(words), "\x00", " "))
		}
	}
	return found
}

// TestNoUserNetwork looks for reasons that a machine may give.
func TestNoUserNetwork(t *testing.T) {
	everyone(t, func(t *testing.T) {
		l := newLauncher(t)
		n, err := tryProgram(t, l, "")
		t.Logf("the probe says %v, %v", n, err)
		checkProbe(t, n, err)
		t.Setenv("PATH", t.TempDir())
		_, err = NewLauncher().UserNetwork(t.Context(), "")
		var network *UserNetworkError
		if !errors.As(err, &network) || network.Reason != "neither pasta nor slirp4netns is in PATH" || !strings.Contains(network.Remedy, "passt") {
			t.Errorf("without programs the probe says %v", err)
		}
	})
}

// TestReportOfNetwork holds what reports say of each network.
func TestReportOfNetwork(t *testing.T) {
	for _, c := range []struct {
		change func(*Spec)
		want   Layer
		level  string
	}{
		{func(*Spec) {}, Layer{"network", "private", "private", "loopback only"}, "full"},
		{func(s *Spec) { s.Network = NetworkHost }, Layer{"network", "the machine's", "the machine's", "the program may use the network"}, "partial"},
		{func(s *Spec) { s.Network, s.NetworkFallback = NetworkHost, "no pasta" }, Layer{"network", "user-mode", "the machine's", "no pasta"}, "partial"},
		{func(s *Spec) { s.Network, s.UserNetwork = NetworkUser, UserNetwork{Pasta, "/pasta"} },
			Layer{"network", "user-mode (pasta)", "user-mode (pasta)", "a namespace of its own; the machine's loopback and link-local addresses are out of reach"}, "full"},
		{func(s *Spec) {
			s.Network, s.UserNetwork, s.Users.Count = NetworkUser, UserNetwork{Pasta, "/pasta"}, 65536
		},
			Layer{"network", "user-mode (pasta)", "user-mode (pasta)", "a namespace of its own; the machine's loopback is out of reach, but not link-local addresses: the program is the root of its namespace"}, ""},
		{func(s *Spec) { s.Isolation, s.Fallback = None, "no namespaces" }, Layer{"network", "private", "the machine's", "no namespaces"}, "none"},
		{func(s *Spec) { s.Isolation, s.Network = None, "" }, Layer{"network", "the machine's", "the machine's", ""}, "none"},
	} {
		s := goldenSpec()
		c.change(s)
		r := report(s, Facts{LandlockABI: landlockScopes}, nil)
		for _, layer := range r.Layers {
			if layer.Name == "network" && layer != c.want {
				t.Errorf("the report says %+v, want %+v", layer, c.want)
			}
		}
		if c.level != "" && r.Level != c.level {
			t.Errorf("%+v: the level is %s, want %s", c.want, r.Level, c.level)
		}
	}
}

func TestResolvConf(t *testing.T) {
	for _, c := range []struct {
		stack         UserStack
		machine, want string
		changed       bool
	}{
		{Pasta, "# by hand\nsearch a b\nnameserver 192.0.2.1\noptions edns0", "# by hand\nsearch a b\nnameserver 192.0.2.1\noptions edns0\n", false},
		{Pasta, "nameserver 127.0.0.53\noptions edns0\n", "nameserver 198.51.100.3\noptions edns0\n", true},
		{Slirp4netns, "nameserver 127.0.0.53\nnameserver 127.0.0.1\nnameserver 192.0.2.1\n", "nameserver 198.51.100.3\nnameserver 192.0.2.1\n", true},
		{Pasta, "nameserver ::1\nnameserver fe80::1%eth0\n", "nameserver fd6b:696c:6e::3\n", true},
		{Slirp4netns, "nameserver ::1\n", "nameserver fd00::3\n", true},
		{Pasta, "nameserver 169.254.169.253\n", "nameserver 198.51.100.3\n", true},
		{Pasta, "nameserver ::ffff:127.0.0.1\nnameserver nonsense\nnameserver\n", "nameserver 198.51.100.3\nnameserver nonsense\nnameserver\n", true},
		{Pasta, "", "nameserver 198.51.100.3\n", true},
	} {
		got, changed := UserNetwork{Stack: c.stack}.ResolvConf(c.machine)
		if d := cmp.Diff(c.want, got); d != "" || changed != c.changed {
			t.Errorf("of %q, changed %v (-want +got):\n%s", c.machine, changed, d)
		}
	}
}
