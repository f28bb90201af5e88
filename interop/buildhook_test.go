//go:build linux

package interop

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// TestBuildHook lets kiln pass builds on to another store by real Nix's own program
// for that, and compares where they were built and what arrived.
func TestBuildHook(t *testing.T) {
	needs(t)
	if testenv.System() != "x86_64-linux" {
		t.Skip("needs a processor that runs the programs of two systems")
	}
	nix, err := exec.LookPath("nix")
	if err != nil {
		t.Fatal(err)
	}
	scene := newScene(t)
	kiln := newSide(t, "kiln", "store", scene, takeLane(t))
	// Before 2.19 the program had a name of its own.
	hook := nix + " __build-remote"
	if !kiln.release.atLeast("2.19") {
		hook = scene.Path("build-remote")
		if err := os.Symlink(nix, hook); err != nil {
			t.Fatal(err)
		}
	}
	other := scene.Path("other")
	options := map[string]string{
		"build-hook": hook, "builders": "local?root=" + other + " i686-linux,m68k-linux - 4 1",
	}
	for _, test := range []struct {
		name, attrs, text string
		exit              int
		says              []string
		there             bool // it was built by the other one
	}{
		{"another-system", `system = "i686-linux";`, "echo it is built; echo x > $out", 0, nil, true},
		{"fails-there", `system = "i686-linux";`, "echo it is tried; exit 3", 1, []string{"failed with exit code"}, true},
		{"declined", "", "echo it is built; echo x > $out", 0, nil, false},
		{"nobody", `system = "vax-bsd";`, "true", 100, []string{"Reason: platform mismatch", "Required system: 'vax-bsd'", "Failed to find a machine"}, false},
		{"local-first", `system = "i686-linux"; preferLocalBuild = true;`, "echo it is built; echo x > $out", 0, nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			drv := instantiateText(t, scene, kiln.store, `script "`+test.name+`" { `+test.attrs+` } "`+strings.ReplaceAll(test.text, "$", "\\$")+`"`)
			o := run(t, kiln.build(t, options, []string{"-L"}, target{drv: drv}))
			if o.exit != test.exit {
				t.Errorf("exit %d, want %d", o.exit, test.exit)
			}
			for _, words := range test.says {
				if !strings.Contains(o.stderr, words) {
					t.Errorf("it does not say %q", words)
				}
			}
			if got := strings.Contains(o.stderr, "on 'local?root="); got != test.there {
				t.Errorf("it says that it builds elsewhere: %v, want %v", got, test.there)
			}
			if strings.Contains(test.text, "it is") && !strings.Contains(o.stderr, "> it is") {
				t.Error("the builder's output is not shown")
			}
			if test.exit == 0 {
				log := must(t, kilnCommand(t, scene, kiln.store, "log", drv))
				if len(log) != 1 || log[0] != "it is built" {
					t.Errorf("the log is %q", log)
				}
				if _, ok := pathInfos(t, scene, kiln.store)[o.stdout[0]]; !ok {
					t.Errorf("the output %q is not valid", o.stdout)
				}
				if got := exists(filepath.Join(other, o.stdout[0])); got != test.there {
					t.Errorf("the output is in the other store: %v, want %v", got, test.there)
				}
			}
			if t.Failed() {
				t.Log(o.stderr)
			}
		})
	}
	verify(t, scene, kiln.store)
	if snap := take(t, kiln); len(snap.strays)+len(snap.state) > 0 {
		t.Errorf("left in the store: %s", strings.Join(append(snap.strays, snap.state...), " "))
	}
}
