package sandbox

import (
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/mountns"
	"github.com/kilnbuild/kiln/sandbox/program"
)

var update = flag.Bool("update", false, "write the golden files anew")

func goldenSpec() *Spec {
	return &Spec{
		Name: "golden", Path: "/bin/sh", Args: []string{"sh", "-c", "true"}, Env: []string{"A=b"}, Dir: "/build",
		Isolation: Full, Root: "/machine/root",
		Mounts: append(DevMounts()[:1],
			mountns.Mount{Kind: mountns.Bind, Source: "/machine/input", Target: "/data/input"},
			mountns.Mount{Kind: mountns.Bind, Source: "/machine/build", Target: "/build", Writable: true},
			mountns.Mount{Kind: mountns.Proc, Target: "/proc"},
			mountns.Mount{Kind: mountns.Tmpfs, Target: "/dev/shm", Size: "50%"},
			mountns.Mount{Kind: mountns.Devpts, Target: "/dev/pts"}),
		Users:   Users{Namespace: true, OutsideUID: 30001, OutsideGID: 30000, InsideUID: 1000, InsideGID: 100},
		Network: NetworkPrivate, Hostname: "localhost", Domainname: "(none)", FilterSyscalls: true,
	}
}

// TestCompile holds the programs that Specs are compiled to. The numbers of calls
// are not in them, so they are the same everywhere; the size of the filter is not.
func TestCompile(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the golden files have the size of the filter on amd64")
	}
	facts := Facts{Privileged: true, LandlockABI: landlockScopes}
	for _, c := range []struct {
		name   string
		change func(s *Spec, f *Facts)
	}{
		{"root", func(*Spec, *Facts) {}},
		{"ordinary-user", func(s *Spec, f *Facts) { s.Users.OutsideUID, s.Users.OutsideGID, f.Privileged = 1234, 1234, false }},
		{"host-network", func(s *Spec, _ *Facts) { s.Network = NetworkHost }},
		{"user-network", func(s *Spec, f *Facts) {
			s.Network, s.UserNetwork, f.IPv6 = NetworkUser, UserNetwork{Pasta, "/bin/pasta"}, true
		}},
		{"control-groups", func(s *Spec, f *Facts) {
			s.Network, s.UserNetwork, f.Groups = NetworkUser, UserNetwork{Pasta, "/bin/pasta"}, 2
		}},
		{"live", func(s *Spec, _ *Facts) { s.Live = "/data" }},
		{"no-user-namespace", func(s *Spec, _ *Facts) { s.Users.Namespace = false }},
		{"no-landlock-no-filter", func(s *Spec, f *Facts) { s.FilterSyscalls, f.LandlockABI = false, 0 }},
		{"unsandboxed", func(s *Spec, _ *Facts) { s.Isolation, s.Users.Namespace = None, false }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, f := goldenSpec(), facts
			c.change(s, &f)
			golden(t, c.name, compile(s, s.Mounts, f))
		})
	}
}

// TestCompileGuest holds the programs by which guests enter.
func TestCompileGuest(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the golden files have the size of the filter on amd64")
	}
	facts := Facts{Privileged: true, Groups: 1}
	s := goldenSpec()
	s.Terminal = true
	golden(t, "guest", compileGuest(s, facts))
	s.Terminal, s.Users.Namespace, s.Network = false, false, NetworkHost
	golden(t, "guest-without-namespaces", compileGuest(s, Facts{Privileged: true, LandlockABI: landlockScopes}))
	s.Isolation = None
	golden(t, "guest-unsandboxed", compileGuest(s, Facts{Privileged: true}))
}

// TestCompileStack holds the programs by which stacks are started.
func TestCompileStack(t *testing.T) {
	users := goldenSpec().Users
	facts := Facts{Privileged: true, LandlockABI: landlockScopes}
	pasta, slirp := UserNetwork{Pasta, "/bin/pasta"}, UserNetwork{Slirp4netns, "/bin/slirp4netns"}
	golden(t, "pasta", compileStack(pasta, users, true, facts))
	golden(t, "pasta-as-root", compileStack(pasta, users, false, facts))
	golden(t, "slirp4netns", compileStack(slirp, users, true, facts))
	golden(t, "slirp4netns-as-root", compileStack(slirp, users, false, facts))
}

// golden compares a program with how it was.
func golden(t *testing.T, name string, p *program.Program) {
	t.Helper()
	if _, err := p.Encode(); err != nil {
		t.Error(err)
	}
	got := p.String()
	file := filepath.Join("testdata", "program", name+".txt")
	if *update {
		must(t, os.MkdirAll(filepath.Dir(file), 0o755))
		must(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	must(t, err)
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got); go test -update accepts it:\n%s", file, diff)
	}
}
