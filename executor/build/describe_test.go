package build

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/drvopts"
	"github.com/kilnbuild/kiln/sandbox"
)

var update = flag.Bool("update", false, "write the golden files anew")

const (
	testDrv   = nix.StorePath("00000000000000000000000000000000-test.drv")
	testOut   = nix.StorePath("11111111111111111111111111111111-test")
	testInput = nix.StorePath("33333333333333333333333333333333-input")
)

func testAttempt() *Attempt {
	return &Attempt{
		DrvPath: testDrv,
		Drv: &nix.BasicDerivation{
			Name: "test", System: "x86_64-linux", Builder: "/bin/sh", Args: []string{"-c", "echo " + nix.Placeholder("out")},
			Outputs: map[nix.OutputName]nix.DerivationOutput{"out": {Kind: nix.InputAddressed, Path: testOut}},
			Env: map[string]string{
				"out": "/nix/store/" + string(testOut), "PATH": "/mine", "TMPDIR": "/mine", "text": "long", "passAsFile": "text",
				"prefix": nix.Placeholder("out") + "/lib",
			},
		},
		Options: &drvopts.Options{PassAsFile: []string{"text"}},
		Closure: map[nix.StorePath]*nix.PathInfo{testInput: {Path: testInput}},
	}
}

func testSite() *site {
	return &site{
		dir: nix.DefaultStoreDir, realPath: func(p nix.StorePath) string { return "/real/store/" + string(p) },
		isolation: sandbox.Full, root: "/real/store/test.drv.chroot/root", buildDir: "/builds/nix-1/build",
		user: &User{UID: 30001, GID: 30000}, userNamespace: true, shm: true,
	}
}

func testSettings() *Settings {
	return &Settings{
		System: "x86_64-linux", Cores: 4, FilterSyscalls: true,
		SandboxPaths: []SandboxPath{{Target: "/bin/sh", Source: "/usr/bin/busybox"}},
	}
}

// TestDescribe holds the sandboxes that derivations get to golden files.
func TestDescribe(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(a *Attempt, s *Settings, p *site)
	}{
		{"root", func(*Attempt, *Settings, *site) {}},
		{"ordinary-user", func(_ *Attempt, _ *Settings, p *site) { p.user = &User{UID: 1234, GID: 1234, Own: true} }},
		{"fixed-output", func(a *Attempt, _ *Settings, _ *site) {
			a.Drv.Outputs["out"] = nix.DerivationOutput{Kind: nix.Fixed, Path: testOut, Hash: nix.HashBytes(nix.SHA256, nil)}
		}},
		{"no-user-namespace", func(_ *Attempt, _ *Settings, p *site) { p.userNamespace = false }},
		{"unsandboxed", func(_ *Attempt, _ *Settings, p *site) { p.isolation = sandbox.None }},
		{"build-directory-elsewhere", func(_ *Attempt, s *Settings, _ *site) { s.SandboxBuildDir = "/else/where" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, s, p := testAttempt(), testSettings(), testSite()
			c.change(a, s, p)
			scratch := map[nix.OutputName]nix.StorePath{"out": testOut}
			sur, err := surround(a, s, p.dir, p.insideBuildDir(s), scratch, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			spec, err := describe(a, s, p, sur, scratch)
			if err != nil {
				t.Fatal(err)
			}
			if err := spec.Validate(); err != nil {
				t.Error(err)
			}
			got, err := json.MarshalIndent(spec, "", "\t")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, c.name+".json", append(got, '\n'))
		})
	}
}

// golden compares with a file in testdata; go test -update writes it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (-want +got); go test -update accepts it:\n%s", file, diff)
	}
}

func TestDescribeRefusesBuildDirAroundStore(t *testing.T) {
	for _, dir := range []string{"/nix", "/nix/store"} {
		a, s, p := testAttempt(), testSettings(), testSite()
		s.SandboxBuildDir = dir
		if _, err := describe(a, s, p, &surroundings{args: []string{"sh"}}, nil); err == nil {
			t.Errorf("sandbox-build-dir = %s was accepted", dir)
		}
	}
}

func TestDescribeRefusesStoreInWhatSandboxesHide(t *testing.T) {
	for _, dir := range []nix.StoreDir{"/dev/shm/store", "/proc/store"} {
		a, s, p := testAttempt(), testSettings(), testSite()
		p.dir = dir
		if _, err := describe(a, s, p, &surroundings{args: []string{"sh"}}, nil); err == nil || !strings.Contains(err.Error(), string(dir)) {
			t.Errorf("the store directory %s: %v", dir, err)
		}
	}
}

func TestSurroundings(t *testing.T) {
	a, s := testAttempt(), testSettings()
	scratch := map[nix.OutputName]nix.StorePath{"out": testOut}
	sur, err := surround(a, s, nix.DefaultStoreDir, "/build", scratch, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	file := drvopts.AttrFileName("text")
	want := map[string]string{
		"PATH": "/mine", "HOME": "/homeless-shelter", "NIX_STORE": "/nix/store", "NIX_BUILD_CORES": "4",
		"NIX_BUILD_TOP": "/build", "TMPDIR": "/build", "TEMPDIR": "/build", "TMP": "/build", "TEMP": "/build", "PWD": "/build",
		"NIX_LOG_FD": "2", "TERM": "xterm-256color",
		"out": "/nix/store/" + string(testOut), "prefix": "/nix/store/" + string(testOut) + "/lib",
		"passAsFile": "text", "textPath": "/build/" + file,
	}
	if diff := cmp.Diff(want, sur.env); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{file: "long"}, sur.files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"sh", "-c", "echo /nix/store/" + string(testOut)}, sur.args); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
}

// TestImpureVariables: only builders that are not pure see the machine's
// environment, and settings come before it.
func TestImpureVariables(t *testing.T) {
	a, s := testAttempt(), testSettings()
	a.Options.ImpureEnvVars = []string{"proxy", "token", "unset"}
	s.ImpureEnv = map[string]string{"token": "from settings"}
	s.Environ = func(name string) (string, bool) {
		v, ok := map[string]string{"proxy": "from environment", "token": "from environment"}[name]
		return v, ok
	}
	for kind, want := range map[nix.OutputKind][3]string{
		nix.InputAddressed: {},
		nix.Fixed:          {"from environment", "from settings", ""},
	} {
		a.Drv.Outputs["out"] = nix.DerivationOutput{Kind: kind, Path: testOut, Hash: nix.HashBytes(nix.SHA256, nil)}
		sur, err := surround(a, s, nix.DefaultStoreDir, "/build", nil, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := [3]string{sur.env["proxy"], sur.env["token"], sur.env["unset"]}
		if got != want {
			t.Errorf("%s: %q, want %q", kind, got, want)
		}
		if checked := sur.env["NIX_OUTPUT_CHECKED"] == "1"; checked != (kind == nix.Fixed) {
			t.Errorf("%s: NIX_OUTPUT_CHECKED is %q", kind, sur.env["NIX_OUTPUT_CHECKED"])
		}
	}
}

func TestReferencesGraphs(t *testing.T) {
	a := nix.StorePath("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-a")
	b := nix.StorePath("bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-b")
	inputs := map[nix.StorePath]*nix.PathInfo{
		a: {Path: a, NARSize: 10, References: []nix.StorePath{a, b}},
		b: {Path: b, NARSize: 5},
	}
	none := func(nix.StorePath) ([]*nix.PathInfo, error) { return nil, nil }
	options := &drvopts.Options{ExportReferencesGraph: map[string][]drvopts.Reference{"g": {{Path: a}}}}
	graphs, err := referencesGraphs(nix.DefaultStoreDir, options, inputs, none)
	if err != nil {
		t.Fatal(err)
	}
	want := "/nix/store/" + string(a) + "\n\n2\n/nix/store/" + string(a) + "\n/nix/store/" + string(b) + "\n/nix/store/" + string(b) + "\n\n0\n"
	if diff := cmp.Diff(map[string]string{"g": want}, graphs.files(nix.DefaultStoreDir)); diff != "" {
		t.Error(diff)
	}
	objects := graphs.objects()["g"]
	if len(objects) != 2 || objects[0].ClosureSize != 15 || objects[1].ClosureSize != 5 {
		t.Errorf("objects %+v", objects)
	}
	delete(inputs, a)
	if _, err := referencesGraphs(nix.DefaultStoreDir, options, inputs, none); err == nil {
		t.Error("the graph of something that is no input was given")
	}
}
