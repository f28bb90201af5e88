package conf

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var byHand = Source{Kind: FromUser, Name: "/home/u/.config/nix/nix.conf", Line: 7}

// What Nix 2.34 was seen to make of each, but where a comment says otherwise.
func TestSetReadsTheNotationOfNix(t *testing.T) {
	for _, tt := range []struct{ line, want, err string }{
		{line: "cores = 5", want: "5"},
		{line: "cores = +5", want: "5"},
		{line: "cores = 00012", want: "12"},
		{line: "cores = 5k", want: "5120"},
		{line: "cores = -5", err: "setting 'cores' has invalid value '-5'"},
		{line: "cores = 5Q", err: "setting 'cores' has invalid value '5Q'"},
		{line: "cores = 5 6", err: "setting 'cores' has invalid value '5 6'"},
		{line: "cores = ", err: "setting 'cores' has invalid value ''"},
		{line: "cores = +", err: "setting 'cores' has invalid value '+'"},
		{line: "cores = K", err: "setting 'cores' has invalid value 'K'"},
		{line: "cores = 0x10", err: "setting 'cores' has invalid value '0x10'"},
		{line: "cores = 1_0", err: "setting 'cores' has invalid value '1_0'"},
		{line: "cores = 99999999999", err: "setting 'cores' has invalid value '99999999999'"},
		{line: "cores = 4194304K", err: "setting 'cores' has invalid value '4194304K'"}, // Nix: 0
		{line: "build-cores = 3", want: "3"},
		{line: "extra-cores = 3", err: "unknown setting 'extra-cores'"},
		{line: "timeout = 1M", want: "1048576"},
		{line: "timeout = -1", err: "setting 'timeout' has invalid value '-1'"}, // Nix: -1
		{line: "filetransfer-retry-delay = 250", want: "250"},
		{line: "min-free = 1T", want: "1099511627776"},
		{line: "min-free = 18446744073709551615", want: "18446744073709551615"},
		{line: "min-free = 18446744073709551616", err: "setting 'min-free' has invalid value '18446744073709551616'"},
		{line: "min-free = 99999999999G", err: "setting 'min-free' has invalid value '99999999999G'"}, // Nix: wraps around
		{line: "max-jobs = auto", want: "2"},
		{line: "max-jobs = 0", want: "0"},
		{line: "max-jobs = 5K", err: "configuration setting 'max-jobs' should be 'auto' or an integer"},
		{line: "max-jobs = 4294967296", err: "configuration setting 'max-jobs' should be 'auto' or an integer"},
		{line: "sandbox = relaxed", want: "relaxed"},
		{line: "build-use-chroot = false", want: "false"},
		{line: "sandbox = yes", err: "option 'sandbox' has invalid value 'yes' (expected 'true', 'relaxed', or 'false')"},
		{line: "recursive-nix-fixed-output = refuse", want: "refuse"},
		{line: "recursive-nix-fixed-output = true", err: "option 'recursive-nix-fixed-output' has invalid value 'true' (expected 'offline', 'refuse', or 'allow')"},
		{line: "user-network = require", want: "require"},
		{line: "user-network = true", err: "option 'user-network' has invalid value 'true' (expected 'auto', 'require', or 'off')"},
		{line: "user-network-program = pasta", err: "setting 'user-network-program' has invalid value 'pasta': not an absolute path"},
		{line: "keep-going = yes", want: "true"},
		{line: "keep-going = 1", want: "true"},
		{line: "http2 = no", want: "false"},
		{line: "http2 = 0", want: "false"},
		{line: "keep-going = YES", err: "Boolean setting 'keep-going' has invalid value 'YES'"},
		{line: "keep-going = ", err: "Boolean setting 'keep-going' has invalid value ''"},
		{line: "build-dir = ", want: ""},
		{line: "build-dir = /a//b/../c/", want: "/a/c"},
		{line: "build-dir = foo", err: "setting 'build-dir' has invalid value 'foo': not an absolute path"},
		{line: "sandbox-build-dir = ", err: "setting 'sandbox-build-dir' is a path and paths cannot be empty"},
		{line: "netrc-file = ~/x", err: "setting 'netrc-file' has invalid value '~/x': not an absolute path"},
		{line: "trusted-users = b a b a", want: "b a b a"},
		{line: "extra-trusted-users = bob", want: "root bob"},
		{line: "extra-binary-caches = x://y", want: "https://cache.nixos.org/ x://y"},
		{line: "system-features = b a b a", want: "a b"},
		{line: "extra-ignored-acls = a security.csm", want: "a security.csm security.selinux system.nfs4_acl"},
		{line: "access-tokens = a=1 b=2=3 a=4 c", want: "a=1 b=2=3"},
		{line: "sandbox-paths = /a=/b? /c /a=/z", want: "/a=/z /c"},
		{line: "sandbox-paths = /x/=/y/./z?", want: "/x=/y/z?"},
		{line: "sandbox-paths = =?", err: "setting 'sandbox-paths' has invalid value '=?': parse sandbox path '=?': '' is not an absolute path"}, // Nix: takes it
		{line: "sandbox-paths = /a=b", err: "setting 'sandbox-paths' has invalid value '/a=b': parse sandbox path '/a=b': 'b' is not an absolute path"},
		{line: "store = daemon?root=/x", want: "daemon?root=/x"},
		{line: "store = foo", err: "setting 'store' has invalid value: parse store 'foo': it is neither auto, daemon, local, a URL, nor a path with a '/' in it"},
		{line: "lint-url-literals = nope", err: "option 'lint-url-literals' has invalid value 'nope' (expected 'ignore', 'warn', or 'fatal')"},
		{line: "external-builders = {", err: "parsing setting 'external-builders': unexpected end of JSON input"},
		{line: "experimental-features = flakes nix-command", want: "fetch-tree flakes nix-command"},
		{line: "foo = bar", err: "unknown setting 'foo'"},
		{line: "extra-extra-trusted-users = x", err: "unknown setting 'extra-extra-trusted-users'"},
	} {
		name, text, _ := strings.Cut(tt.line, " = ")
		s := New(goldenMachine())
		before, _ := s.Value(strings.TrimPrefix(name, "extra-"))
		_, err := s.Set(name, text, byHand)
		got, _ := s.Value(strings.TrimPrefix(name, "extra-"))
		switch {
		case tt.err != "" && (err == nil || err.Error() != tt.err):
			t.Errorf("%s: error %v, want %s", tt.line, err, tt.err)
		case tt.err != "" && (got != before || s.Overridden(name)):
			t.Errorf("%s: changed the value to %q in spite of the error", tt.line, got)
		case tt.err == "" && (err != nil || got != tt.want):
			t.Errorf("%s: got %q, %v, want %q", tt.line, got, err, tt.want)
		}
		if unknown := strings.HasPrefix(tt.err, "unknown"); errors.Is(err, ErrUnknown) != unknown {
			t.Errorf("%s: error %v, wraps ErrUnknown: %v", tt.line, err, !unknown)
		}
	}
}

func TestSetFillsTheFields(t *testing.T) {
	s := enabled()
	for _, line := range []string{
		"sandbox = relaxed", "max-jobs = 7", "cores = 3", "timeout = 60", "filetransfer-retry-delay = 1500",
		"min-free = 1G", "build-users-group = builders", "sandbox-paths = /bin/sh=/busybox /dev/x?",
		"extra-system-features = recursive-nix", "impure-env = http_proxy=x", "trusted-users = root @wheel",
		"narinfo-cache-positive-ttl = 99999999999999999", "recursive-nix-fixed-output = allow", "start-id = 4294967295",
	} {
		name, text, _ := strings.Cut(line, " = ")
		if _, err := s.Set(name, text, byHand); err != nil {
			t.Fatal(err)
		}
	}
	type picked struct {
		Sandbox  SandboxMode
		MaxJobs  int
		Cores    int
		Timeout  time.Duration
		Retry    time.Duration
		MinFree  Size
		Group    string
		Paths    []SandboxPath
		KVM, RN  bool
		Env      map[string]string
		Trusted  []string
		TTL      time.Duration
		Nested   NestedFetch
		StartID  uint32
		Disabled bool
	}
	got := picked{
		s.Sandbox, s.MaxJobs, s.Cores, s.Timeout, s.RetryDelay, s.MinFree, s.BuildUsersGroup, s.SandboxPaths,
		s.SystemFeatures.Has("kvm"), s.SystemFeatures.Has("recursive-nix"), s.ImpureEnv, s.TrustedUsers,
		s.NarinfoCachePositiveTTL, s.RecursiveNixFixedOutput, s.StartID, s.SystemFeatures.Has("recursive"),
	}
	want := picked{
		SandboxRelaxed, 7, 3, time.Minute, 1500 * time.Millisecond, 1 << 30, "builders",
		[]SandboxPath{{"/bin/sh", "/busybox", false}, {"/dev/x", "/dev/x", true}},
		true, true, map[string]string{"http_proxy": "x"}, []string{"root", "@wheel"},
		math.MaxInt64 / time.Second * time.Second, NestedFetchAllow, math.MaxUint32, false,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	// Values follow the fields.
	s.MaxJobs = 9
	if v, _ := s.Value("build-max-jobs"); v != "9" {
		t.Errorf("max-jobs is %q after the field was set to 9", v)
	}
}

func TestAddedEntriesDoNotReplace(t *testing.T) {
	s := enabled()
	for _, line := range []string{
		"sandbox-paths = /bin/sh=/a", "extra-sandbox-paths = /bin/sh=/b /x", "impure-env = a=1", "extra-impure-env = a=2 b=3",
	} {
		name, text, _ := strings.Cut(line, " = ")
		if _, err := s.Set(name, text, byHand); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"sandbox-paths": "/bin/sh=/a /x", "impure-env": "a=1 b=3"} {
		if got, _ := s.Value(name); got != want {
			t.Errorf("%s = %s, want %s", name, got, want)
		}
	}
}

func TestSetWarns(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string
		value      string
	}{
		{"auto-allocate-uids", "true",
			[]string{"Ignoring setting 'auto-allocate-uids' because experimental feature 'auto-allocate-uids' is not enabled"}, "false"},
		{"extra-experimental-features", "nix-command no-url-literals foo bar", []string{
			"unknown experimental feature 'bar'", "unknown experimental feature 'foo'",
			"experimental feature 'no-url-literals' has been stabilized and renamed; use 'lint-url-literals = fatal' setting instead",
		}, "nix-command"},
		{"plugin-files", "/x.so", []string{"setting 'plugin-files' is not supported by kiln and has no effect"}, "/x.so"},
		{"builders", "", nil, ""},
		{"builders", "@/nonexistent/machines", nil, "@/nonexistent/machines"}, // the default
		{"repeat", "0", nil, "0"},
		{"repeat", "2", []string{"setting 'repeat' is not supported by kiln and has no effect"}, "2"},
		{"eval-cache", "false", nil, "false"},
	} {
		s := New(goldenMachine())
		warnings, err := s.Set(tt.name, tt.text, byHand)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		var got []string
		for _, w := range warnings {
			got = append(got, w.Text)
			if w.Source != byHand {
				t.Errorf("%s: warning about %v, want %v", tt.name, w.Source, byHand)
			}
		}
		slices.Sort(got)
		slices.Sort(tt.want)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s = %s: warnings (-want +got)\n%s", tt.name, tt.text, diff)
		}
		if v, _ := s.Value(strings.TrimPrefix(tt.name, "extra-")); v != tt.value {
			t.Errorf("%s = %s: value %q, want %q", tt.name, tt.text, v, tt.value)
		}
	}
}

func TestCloneIsIndependent(t *testing.T) {
	list := func(s *Settings) []Entry { return slices.Collect(s.All()) }
	s := enabled()
	for d := range Definitions() { // something in every map and slice
		if d.Type.Extensible() && d.Type != TypeFeatures {
			text := map[Type]string{TypeMap: "a=1", TypeSandboxPaths: "/a"}[d.Type]
			if text == "" {
				text = "x y"
			}
			if _, err := s.Set(d.Name, text, byHand); err != nil {
				t.Fatal(err)
			}
		}
	}
	before := list(s)
	c := s.Clone()
	if diff := cmp.Diff(before, list(c), cmp.AllowUnexported(Definition{}), cmp.Comparer(func(a, b *Definition) bool { return a == b })); diff != "" {
		t.Fatalf("the clone differs (-original +clone)\n%s", diff)
	}
	for d := range Definitions() {
		if d.Type.Extensible() && d.Type != TypeFeatures {
			_, _ = c.Set("extra-"+d.Name, map[Type]string{TypeMap: "b=1", TypeSandboxPaths: "/b"}[d.Type]+" z", byHand)
		}
	}
	c.TrustedUsers[0], c.SystemFeatures[0], c.SandboxPaths[0].Source, c.ImpureEnv["q"] = "m", "m", "/m", "m"
	c.ExperimentalFeatures[0] = "m"
	c.MaxJobs, c.Sandbox = 99, SandboxOff
	if diff := cmp.Diff(before, list(s), cmp.Comparer(func(a, b *Definition) bool { return a == b })); diff != "" {
		t.Errorf("changing the clone changed the original (-before +after)\n%s", diff)
	}
	if v, _ := c.Value("max-jobs"); v != "99" {
		t.Errorf("the clone's max-jobs is %s, want 99", v)
	}
}

func TestSource(t *testing.T) {
	s := New(goldenMachine())
	if s.Overridden("sandbox-fallback") || s.Source("sandbox-fallback").String() != "default" {
		t.Error("a setting that nobody gave counts as overridden")
	}
	if _, err := s.Set("sandbox-fallback", "false", byHand); err != nil {
		t.Fatal(err)
	}
	if !s.Overridden("sandbox-fallback") {
		t.Error("a setting given with its default doesn't count as overridden")
	}
	if s.Overridden("no-such-setting") {
		t.Error("a setting that doesn't exist is overridden")
	}
	for want, source := range map[string]Source{
		"/etc/nix/nix.conf:12":   {FromSystem, "/etc/nix/nix.conf", 12},
		"NIX_CONFIG:1":           {FromNixConfig, "NIX_CONFIG", 1},
		"environment NIX_REMOTE": {FromEnvironment, "NIX_REMOTE", 0},
		"--option":               {FromCommandLine, "--option", 0},
		"client":                 {FromClient, "client", 0},
	} {
		if got := source.String(); got != want {
			t.Errorf("source %+v prints as %q, want %q", source, got, want)
		}
	}
}

func TestSandboxPathRoundTrip(t *testing.T) {
	for _, text := range []string{"/a", "/a?", "/a=/b", "/a=/b?", "/a=/b=c"} {
		p, err := ParseSandboxPath(text)
		if err != nil || p.String() != text {
			t.Errorf("%q reads as %+v (%v), prints as %q", text, p, err, p.String())
		}
	}
	for _, text := range []string{"", "?", "a", "/a=", "=/a", "/a\x00"} {
		if p, err := ParseSandboxPath(text); err == nil {
			t.Errorf("%q reads as %+v, want an error", text, p)
		}
	}
}

func BenchmarkClone(b *testing.B) {
	s := New(goldenMachine())
	b.ReportAllocs()
	for b.Loop() {
		s.Clone()
	}
}
