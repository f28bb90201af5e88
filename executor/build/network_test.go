package build

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/internal/rmtree"
	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/mountns"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/sandbox"
)

func fixedOutput(a *Attempt) *Attempt {
	a.Drv.Outputs["out"] = nix.DerivationOutput{Kind: nix.Fixed, Path: testOut, Hash: nix.HashBytes(nix.SHA256, nil)}
	return a
}

// networkRun is an attempt that got as far as its description.
func networkRun(t *testing.T, a *Attempt, s *Settings) *run {
	t.Helper()
	spec, err := describe(a, s, testSite(), &surroundings{args: []string{"sh"}}, map[nix.OutputName]nix.StorePath{"out": testOut})
	if err != nil {
		t.Fatal(err)
	}
	l := sandbox.NewLauncher()
	t.Cleanup(func() { l.Close() })
	return &run{machine: &Machine{Launcher: l}, attempt: a, settings: s, spec: spec}
}

// TestUserNetworkIsWanted has the cases in which no stack is looked for, or it is
// not there.
func TestUserNetworkIsWanted(t *testing.T) {
	const missing = "/missing/pasta"
	for _, c := range []struct {
		name     string
		pure     bool
		mode     UserNetworkMode
		env      []string
		network  sandbox.Network
		fallback string // a part of it
		err      string
	}{
		{name: "pure", pure: true, network: sandbox.NetworkPrivate},
		{name: "off", mode: UserNetworkOff, network: sandbox.NetworkHost},
		{name: "auto", network: sandbox.NetworkHost, fallback: missing},
		{name: "proxy", env: []string{"https_proxy=http://localhost:3128"}, network: sandbox.NetworkHost,
			fallback: "the builder uses 'http://localhost:3128', which is on the machine's loopback interface"},
		{name: "require", mode: UserNetworkRequire, network: sandbox.NetworkHost, err: "`user-network = require`"},
		{name: "require, proxy", mode: UserNetworkRequire, env: []string{"http_proxy=127.0.0.1:1"}, network: sandbox.NetworkHost, err: missing},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, s := testAttempt(), testSettings()
			if !c.pure {
				fixedOutput(a)
			}
			s.UserNetwork = UserNetworkSettings{Mode: c.mode, Program: missing}
			r := networkRun(t, a, s)
			r.spec.Env = append(r.spec.Env, c.env...)
			err := r.separateNetwork(t.Context())
			if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("it gives %v, want %q", err, c.err)
			}
			if r.spec.Network != c.network || !strings.Contains(r.spec.NetworkFallback, c.fallback) || c.fallback == "" && r.spec.NetworkFallback != "" {
				t.Errorf("the network is %s, %q", r.spec.Network, r.spec.NetworkFallback)
			}
		})
	}
}

// TestUseNetwork looks at the name servers that a builder finds.
func TestUseNetwork(t *testing.T) {
	pasta := sandbox.UserNetwork{Stack: sandbox.Pasta, Program: "/bin/pasta"}
	isResolvConf := func(m mountns.Mount) bool { return m.Target == resolvConf }
	spec := networkRun(t, fixedOutput(testAttempt()), testSettings()).spec
	if !slices.ContainsFunc(spec.Mounts, isResolvConf) {
		t.Fatal("the machine's resolv.conf is not mounted")
	}
	if !slices.ContainsFunc(useNetwork(spec, pasta, "nameserver 192.0.2.1\n").Mounts, isResolvConf) {
		t.Error("a good resolv.conf is not mounted")
	}
	host := spec
	spec = useNetwork(host, pasta, "nameserver 127.0.0.53\n")
	if host.Network != sandbox.NetworkHost || !slices.ContainsFunc(host.Mounts, isResolvConf) {
		t.Error("what it is a copy of has changed")
	}
	file := spec.Tree[len(spec.Tree)-1]
	if slices.ContainsFunc(spec.Mounts, isResolvConf) || file.Path != resolvConf || strings.Contains(file.Text, "127.0.0.53") {
		t.Errorf("name servers on the loopback interface stay: %+v", file)
	}
	if err := spec.Validate(); err != nil || spec.Network != sandbox.NetworkUser {
		t.Errorf("the network is %s, %v", spec.Network, err)
	}

	s := testSettings()
	s.SandboxPaths = append(s.SandboxPaths, SandboxPath{Target: resolvConf, Source: "/mine"})
	spec = networkRun(t, fixedOutput(testAttempt()), s).spec
	entries := len(spec.Tree)
	spec = useNetwork(spec, pasta, "nameserver 127.0.0.53\n")
	if !slices.ContainsFunc(spec.Mounts, isResolvConf) || len(spec.Tree) != entries {
		t.Error("what sandbox-paths puts there is replaced")
	}
}

// TestStackThatDoesNotWork has one that fails when it is needed: the builder gets the
// machine's network, or does not start.
func TestStackThatDoesNotWork(t *testing.T) {
	testenv.Sandbox(t)
	busybox := testenv.Busybox(t)
	dir, err := os.MkdirTemp("", "kiln-network-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rmtree.RemoveTree(dir); err != nil {
			t.Error(err)
		}
	})
	broken := filepath.Join(dir, "pasta")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(broken, []byte("#!/bin/sh\necho no route >&2; exit 1\n"), 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []UserNetworkMode{UserNetworkAuto, UserNetworkRequire} {
		r := networkRun(t, fixedOutput(testAttempt()), testSettings())
		r.settings.UserNetwork = UserNetworkSettings{Mode: mode, Program: broken}
		r.hostSpec = &sandbox.Spec{
			Name: "test", Path: "/bin/busybox", Args: []string{"busybox", "true"}, Dir: "/", Isolation: sandbox.Full,
			Root: filepath.Join(dir, "root"), Tree: []sandbox.Entry{sandbox.Dir("/etc", 0o555)},
			Mounts:  []mountns.Mount{{Kind: mountns.Bind, Source: busybox, Target: "/bin/busybox"}},
			Users:   sandbox.Users{Namespace: true, OutsideUID: os.Getuid(), OutsideGID: os.Getgid(), InsideUID: 1000, InsideGID: 100},
			Network: sandbox.NetworkHost,
		}
		r.spec = useNetwork(r.hostSpec, sandbox.UserNetwork{Stack: sandbox.Pasta, Program: broken}, "")
		p, err := r.start(t.Context(), sandbox.Stdio{})
		if mode == UserNetworkRequire {
			if err == nil || !strings.Contains(err.Error(), "no route") || !strings.Contains(err.Error(), "user-network") {
				t.Errorf("it gives %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if exit, err := p.Wait(t.Context()); err != nil || exit.Code != 0 {
			t.Errorf("it ended with %v, %v", exit, err)
		}
		if r.spec.Network != sandbox.NetworkHost || !strings.HasSuffix(r.spec.NetworkFallback, "ended with exit code 1: no route") {
			t.Errorf("the network is %s, %q", r.spec.Network, r.spec.NetworkFallback)
		}
		if err := rmtree.RemoveTree(r.spec.Root); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOnLoopback(t *testing.T) {
	for text, want := range map[string]bool{
		"": false, "http://127.0.0.1:3128": true, "localhost:8080": true, "https://cache.localhost/": true, "http://[::1]/x": true,
		"127.1.2.3": true, "socks5://LOCALHOST.:1": true, "http://0.0.0.0:1": true, "http://[::ffff:127.0.0.1]:1": true,
		"http://proxy.example:3128": false, "10.0.0.1:3128": false, "http://localhost.example": false, "%zz": false,
	} {
		if onLoopback(text) != want {
			t.Errorf("%q: %v", text, !want)
		}
	}
}
