package aterm_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/nix"
)

func TestCheckInvariants(t *testing.T) {
	setOutput := func(o nix.DerivationOutput) func(*nix.Derivation) {
		return func(d *nix.Derivation) { d.Outputs["out"] = o }
	}
	setEnv := func(key, value string) func(*nix.Derivation) {
		return func(d *nix.Derivation) { d.Env[key] = value }
	}
	const victim nix.StorePath = "9yn82bdbv0zzm126b7gjlbwrx0cf0gal-a"
	for _, test := range []struct {
		name   string
		change func(*nix.Derivation)
		want   string // "" for none; %s is the right path
	}{
		{"simple", func(*nix.Derivation) {}, ""},
		{"simple", setOutput(nix.DerivationOutput{Kind: nix.InputAddressed, Path: victim}),
			"derivation has incorrect output '/nix/store/" + string(victim) + "', should be '%s'"},
		{"simple", func(d *nix.Derivation) { d.Builder = "/bin/evil" },
			"derivation has incorrect output '%s', should be '/nix/store/"},
		{"simple", setEnv("out", "/nix/store/"+string(victim)),
			"derivation has incorrect environment variable 'out', should be '%s' but is actually '/nix/store/" + string(victim) + "'"},
		{"simple", func(d *nix.Derivation) { delete(d.Env, "out") },
			"derivation has incorrect output '%s', should be '/nix/store/"},
		{"multiple", setEnv("dev", ""), "derivation has incorrect environment variable 'dev', should be '/nix/store/"},
		{"simple", func(d *nix.Derivation) { d.Name = "other" }, "which does not match its path"},
		{"simple", func(d *nix.Derivation) { clear(d.Outputs) }, "must have at least one output"},
		// What could have a path may be without one.
		{"simple", setOutput(nix.DerivationOutput{Kind: nix.Deferred}), ""},
		{"fixed-md5-flat", func(*nix.Derivation) {}, ""},
		{"fixed-md5-flat", func(d *nix.Derivation) { delete(d.Env, "out") },
			"derivation has missing environment variable 'out', should be '%s' but is not present"},
		{"fixed-md5-flat", setEnv("out", "x"),
			"derivation has incorrect environment variable 'out', should be '%s' but is actually 'x'"},
		// The environment of a derivation with floating outputs is not looked at.
		{"floating", setEnv("out", "x"), ""},
		{"deferred", func(*nix.Derivation) {}, ""},
		{"deferred", setOutput(nix.DerivationOutput{Kind: nix.InputAddressed, Path: victim}),
			"derivation has incorrect output '/nix/store/" + string(victim) + "', should be deferred"},
		{"dynamic", setOutput(nix.DerivationOutput{Kind: nix.InputAddressed, Path: victim}),
			"derivation has incorrect output '/nix/store/" + string(victim) + "', should be deferred"},
	} {
		path, d := goldenNamed(t, test.name)
		right := dir.Join(d.Outputs["out"].Path)
		test.change(d)
		err := newHasher().CheckInvariants(t.Context(), path, d)
		want := strings.ReplaceAll(test.want, "%s", right)
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", test.name, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), "check derivation '"+dir.Join(path)+"': ") ||
			!strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %s", test.name, err, want)
		}
	}
}

// Filling in gives back what was taken out of a derivation that Nix wrote.
func TestFillOutputPaths(t *testing.T) {
	for _, path := range drvFiles(t, golden) {
		want := goldenDrv(t, path)
		d := goldenDrv(t, path)
		d.Env = maps.Clone(d.Env)
		for name, o := range d.Outputs {
			switch o.Kind {
			case nix.InputAddressed:
				d.Outputs[name] = nix.DerivationOutput{Kind: nix.Deferred}
				d.Env[string(name)] = "anything"
			case nix.Fixed:
				o.Path = ""
				d.Outputs[name] = o
				delete(d.Env, string(name))
			}
		}
		if err := newHasher().FillOutputPaths(t.Context(), d); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if diff := cmp.Diff(want, d, cmp.AllowUnexported(nix.Hash{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

// A variable that was set on purpose is not overwritten, so that it is found to
// be wrong.
func TestFillOutputPathsKeepsVariables(t *testing.T) {
	path, d := goldenNamed(t, "simple")
	d.Env["out"] = "/nix/store/elsewhere"
	if err := newHasher().FillOutputPaths(t.Context(), d); err != nil || d.Env["out"] != "/nix/store/elsewhere" {
		t.Errorf("out is %s, %v", d.Env["out"], err)
	}
	if err := newHasher().CheckInvariants(t.Context(), path, d); err == nil {
		t.Error("a wrong variable was not found")
	}
}
