package conf

import (
	"bufio"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// goldenMachine is the one that the lists in testdata come from.
func goldenMachine() Environment {
	return Environment{
		Lookup: variables(map[string]string{"NIX_CONF_DIR": "/nonexistent"}),
		Files: fstest.MapFS{
			"etc/ssl/certs/ca-certificates.crt": {},
			"proc/cpuinfo":                      {Data: []byte(cpuinfo(cpuLevels...))},
		},
		ReadWrite: func(name string) bool { return name == "/dev/kvm" },
		OS:        "linux", Arch: "amd64", CPUs: 2,
	}
}

func variables(m map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := m[name]
		return v, ok
	}
}

type golden struct {
	aliases []string
	value   string
}

func readGolden(t *testing.T, file string) map[string]golden {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string]golden{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		names, value, ok := strings.Cut(lines.Text(), " =")
		if !ok {
			t.Fatalf("%s: bad line %q", file, lines.Text())
		}
		w := strings.Fields(names)
		all[w[0]] = golden{w[1:], strings.TrimSpace(value)}
	}
	return all
}

func TestEverySettingOfNixIsKnown(t *testing.T) {
	for _, version := range []string{"2.8.0", "2.34.8", "2.36"} {
		all := readGolden(t, "testdata/nix-"+version+".txt")
		if len(all) < 8 {
			t.Errorf("Nix %s: only %d settings listed", version, len(all))
		}
		for name, g := range all {
			d, ok := Lookup(name)
			if !ok {
				t.Errorf("Nix %s has the setting %q, which is unknown here", version, name)
				continue
			}
			for _, alias := range g.aliases {
				if a, ok := Lookup(alias); !ok || a != d {
					t.Errorf("Nix %s: %q is not an alias of %q here", version, alias, name)
				}
			}
		}
	}
}

// deliberate lists the defaults that differ from those of Nix 2.34, and why.
var deliberate = map[string]struct{ value, reason string }{
	"sandbox-fallback": {"false", "kiln builds without a sandbox only if somebody says so by hand"},
	"sandbox-paths":    {"", "Nix has the shell in it that its distributor chose; kiln comes without one"},
	"build-hook":       {"nix __build-remote", "kiln is not installed with a Nix, and takes the one in PATH"},
}

func TestDefaultsAreThoseOfNix(t *testing.T) {
	s := New(goldenMachine())
	want := readGolden(t, "testdata/nix-2.34.8.txt")
	maps.Copy(want, readGolden(t, "testdata/nix-2.36.txt"))
	for name, g := range want {
		got, _ := s.Value(name)
		if d, ok := deliberate[name]; ok {
			if d.value == g.value {
				t.Errorf("%s: no difference left, yet it is listed with the reason %q", name, d.reason)
			}
			g.value = d.value
		}
		if got != g.value {
			t.Errorf("default of %s is %q, want %q", name, got, g.value)
		}
		if s.Overridden(name) {
			t.Errorf("%s counts as overridden", name)
		}
	}
	for name := range deliberate {
		if _, ok := want[name]; !ok {
			t.Errorf("%s is listed as a difference, but Nix doesn't have it", name)
		}
	}
}

func TestOnlyOwnSettingsAreUnknownToNix(t *testing.T) {
	known := map[string]golden{}
	for _, version := range []string{"2.8.0", "2.34.8", "2.36"} {
		maps.Copy(known, readGolden(t, "testdata/nix-"+version+".txt"))
	}
	older := []string{"gc-check-reachability"} // of Nix 2.0 to 2.3
	for d := range Definitions() {
		inNix := slices.Contains(older, d.Name)
		for _, name := range append([]string{d.Name}, d.Aliases...) {
			_, ok := known[name]
			inNix = inNix || ok
		}
		if inNix == d.Own {
			t.Errorf("%s: Own is %v, and in the lists of Nix's settings: %v", d.Name, d.Own, inNix)
		}
	}
}

func TestTableIsWellFormed(t *testing.T) {
	names := map[string]string{}
	s := New(goldenMachine())
	last := ""
	for d := range Definitions() {
		if d.Name <= last {
			t.Errorf("%q comes after %q", d.Name, last)
		}
		last = d.Name
		for _, name := range append([]string{d.Name}, d.Aliases...) {
			if other, twice := names[name]; twice {
				t.Errorf("%q is a name of %s and %s", name, other, d.Name)
			}
			names[name] = d.Name
		}
		if d.Doc == "" || strings.ContainsAny(d.Doc, "\n\t") || strings.Contains(d.Doc, "  ") ||
			!strings.HasSuffix(d.Doc, ".") || strings.Count(d.Doc, "`")%2 != 0 {
			t.Errorf("%s: documentation is no clean paragraph: %q", d.Name, d.Doc)
		}
		if (d.DefaultText == "") != (d.defaultFor == nil) || d.Default != "" && d.defaultFor != nil {
			t.Errorf("%s: a default is either a text or depends on the machine and is described", d.Name)
		}
		if (d.Status == Honoured) != (d.field != nil) {
			t.Errorf("%s: %v, but it has a field: %v", d.Name, d.Status, d.field != nil)
		}
		if (d.Type == TypeChoice) != (len(d.Choices) > 0) {
			t.Errorf("%s: type %v with choices %q", d.Name, d.Type, d.Choices)
		}
		if d.Untrusted != Refused && d.Wire == WireNever {
			t.Errorf("%s: clients that may set it can't", d.Name)
		}
		if d.field != nil {
			generic := func(v value) string { name, _, _ := strings.Cut(reflect.TypeOf(v).Name(), "["); return name }
			got, want := generic(d.field(s)), generic(newValue(d.Type))
			if d.Type == TypeJobs {
				want = "jobs"
			}
			if got != want {
				t.Errorf("%s: type %v wants a field read as %s, has %s", d.Name, d.Type, want, got)
			}
			if u, ok := d.field(s).(duration); ok && u.unit != newValue(d.Type).(duration).unit {
				t.Errorf("%s: wrong unit", d.Name)
			}
		}
		// The default can be read, and what is printed can be read back.
		text, _ := s.Value(d.Name)
		if _, err := enabled().Set(d.Name, text, Source{Kind: FromUser}); err != nil {
			t.Errorf("%s: default %q cannot be read: %v", d.Name, text, err)
		}
	}
}

// enabled has every experimental feature on.
func enabled() *Settings {
	s := New(goldenMachine())
	s.ExperimentalFeatures = slices.Clone(knownFeatures)
	return s
}

func TestEveryFieldIsOneSetting(t *testing.T) {
	var s Settings
	v := reflect.ValueOf(&s).Elem()
	owner := map[uintptr]string{}
	for d := range Definitions() {
		if d.field == nil {
			continue
		}
		at := reflect.ValueOf(d.field(&s)).Field(0).Pointer()
		if owner[at] != "" {
			t.Errorf("%s and %s share a field", d.Name, owner[at])
		}
		owner[at] = d.Name
	}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if !f.IsExported() {
			continue
		}
		name, ok := owner[v.Field(i).Addr().Pointer()]
		if !ok {
			t.Errorf("field %s belongs to no setting", f.Name)
		}
		plain := strings.ToLower(strings.ReplaceAll(name, "-", ""))
		exceptions := map[string]string{
			"PollInterval": "build-poll-interval", "RetryDelay": "filetransfer-retry-delay",
			"RetryDelayRateLimited": "filetransfer-retry-delay-rate-limited",
			"RetryMaxDelay":         "filetransfer-retry-max-delay", "RetryJitter": "filetransfer-retry-jitter",
		}
		if strings.ToLower(f.Name) != plain && exceptions[f.Name] != name {
			t.Errorf("field %s holds the setting %s", f.Name, name)
		}
	}
}

func TestFeaturesAreSorted(t *testing.T) {
	if !slices.IsSorted(knownFeatures) {
		t.Error("knownFeatures is not sorted")
	}
}

func TestDefaultsOfOtherMachines(t *testing.T) {
	rosetta := fstest.MapFS{"Library/Apple/usr/libexec/oah/libRosettaRuntime": {}}
	for _, tt := range []struct {
		name string
		env  Environment
		want map[string]string
	}{
		{"arm64 linux, ordinary user, nothing installed",
			Environment{OS: "linux", Arch: "arm64", UID: 1000},
			map[string]string{
				"system": "aarch64-linux", "extra-platforms": "", "system-features": "benchmark big-parallel nixos-test uid-range",
				"sandbox": "true", "build-users-group": "", "require-drop-supplementary-groups": "false",
				"netrc-file": "/etc/nix/netrc", "builders": "@/etc/nix/machines", "ssl-cert-file": "", "start-id": "872415232",
			}},
		{"amd64 linux without /proc",
			Environment{OS: "linux", Arch: "amd64"},
			map[string]string{"system": "x86_64-linux", "extra-platforms": "i686-linux x86_64-v1-linux"}},
		{"WSL 1",
			Environment{OS: "linux", Arch: "amd64", Files: fstest.MapFS{
				"proc/sys/kernel/osrelease": {Data: []byte("4.4.0-19041-Microsoft\n")},
				"proc/cpuinfo":              {Data: []byte(cpuinfo(cpuLevels[0]))},
			}},
			map[string]string{"extra-platforms": "x86_64-v1-linux x86_64-v2-linux", "use-sqlite-wal": "false"}},
		{"certificates of a profile",
			Environment{OS: "linux", Arch: "riscv64", Files: fstest.MapFS{
				"nix/var/nix/profiles/default/etc/ssl/certs/ca-bundle.crt": {},
			}},
			map[string]string{"system": "riscv64-linux", "ssl-cert-file": "/nix/var/nix/profiles/default/etc/ssl/certs/ca-bundle.crt"}},
		{"macOS",
			Environment{OS: "darwin", Arch: "arm64", Files: rosetta, AppleVirt: true},
			map[string]string{
				"system": "aarch64-darwin", "extra-platforms": "x86_64-darwin", "sandbox": "false",
				"system-features": "apple-virt benchmark big-parallel nixos-test",
				"sandbox-paths":   "/System/Library/Frameworks /System/Library/PrivateFrameworks /bin/bash /bin/sh /private/tmp /private/var/tmp /usr/lib",
				"start-id":        "56930", "id-count": "128", "allowed-impure-host-deps": "/System/Library /bin/sh /dev /usr/lib",
			}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := New(tt.env)
			got := map[string]string{}
			for name := range tt.want {
				got[name], _ = s.Value(name)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// cpuinfo is /proc/cpuinfo of a processor with these flags, and some more.
func cpuinfo(levels ...[]string) string {
	flags := "fpu sse sse2 syscall nx " + strings.Join(slices.Concat(levels...), " ")
	return "processor\t: 0\nvendor_id\t: Any\nflags\t\t: " + flags + "\nbugs\t\t:\n\nprocessor\t: 1\nflags\t\t: fpu\n"
}

func TestCPULevel(t *testing.T) {
	for want := 1; want <= 4; want++ {
		env := Environment{Files: fstest.MapFS{"proc/cpuinfo": {Data: []byte(cpuinfo(cpuLevels[:want-1]...))}}}
		if got := env.cpuLevel(); got != want {
			t.Errorf("level %d, want %d", got, want)
		}
	}
	// A hole in a lower level counts, whatever is above it.
	env := Environment{Files: fstest.MapFS{"proc/cpuinfo": {Data: []byte(cpuinfo(cpuLevels[1], cpuLevels[2]))}}}
	if got := env.cpuLevel(); got != 1 {
		t.Errorf("level %d without the flags of level 2, want 1", got)
	}
}
