//go:build linux

package interop

import (
	"os"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// copiedOutputs is a derivation that is content-addressed, and one that is not.
const copiedOutputs = `rec {
  floating = derivation { name = "floating"; system = "@system@"; builder = "/bin/sh"; args = [ "-c" "echo floating > $out" ];
    __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
  plain = derivation { name = "plain"; system = "@system@"; builder = "/bin/sh"; args = [ "-c" "echo plain > $out" ]; };
}`

// TestCopiedOutputs copies an output of a content-addressed derivation to binary caches, by
// kiln and by real Nix, and has each substitute it from the cache of the other: it is then
// known what the output is, and nothing is built. Without a signature of that, it is built.
func TestCopiedOutputs(t *testing.T) {
	t.Parallel()
	needs(t)
	scene, lane := newScene(t), takeLane(t)
	empty := scene.Path("empty")
	var drvs map[string]string
	evaluate(t, scene, empty, "builtins.mapAttrs (_: d: d.drvPath) ("+strings.ReplaceAll(copiedOutputs, "@system@", testenv.System())+")", &drvs)
	drv := drvs["floating"]
	text := must(t, sceneCommand(scene, testenv.Kiln(t), "key", "generate", "test-1"))
	secret := write(t, scene.Path("secret"), text[0])
	public := sceneCommand(scene, testenv.Kiln(t), "key", "public")
	public.Stdin = strings.NewReader(text[0])
	key := must(t, public)[0]
	features := map[string]string{"extra-experimental-features": "ca-derivations"}

	full := newSide(t, "kiln", "full", scene, lane)
	copyStore(t, empty, full.store)
	out := must(t, full.build(t, features, nil, target{drv: drv}))[0]
	feature := []string{"--option", "extra-experimental-features", "ca-derivations"}
	byKiln, byNix := "file://"+scene.Path("by-kiln"), "file://"+scene.Path("by-nix")
	must(t, kilnCommand(t, scene, full.store, append(feature, "copy", "--to", byKiln+"?compression=zstd&secret-key="+secret, drv+"^out")...))
	must(t, sceneCommand(scene, "nix", "--extra-experimental-features", "nix-command ca-derivations", "--store", full.store, "copy",
		"--to", byNix+"?secret-key="+secret, drv))

	for _, tt := range []struct {
		name, who, cache, key string
		fetched               bool
	}{
		{"kiln reads its own", "kiln", byKiln, key, true},
		// Nix signs objects when it copies, and nothing else.
		{"kiln reads Nix's", "kiln", byNix + "?trusted=true", key, true},
		{"Nix reads kiln's", "old", byKiln, key, true},
		{"not signed", "kiln", byKiln, "none-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSide(t, tt.who, strings.ReplaceAll(tt.name, " ", "-"), scene, lane)
			copyStore(t, empty, s.store)
			options := map[string]string{"substituters": tt.cache, "trusted-public-keys": tt.key, "extra-experimental-features": "ca-derivations"}
			cmd := s.build(t, options, nil, target{drv: drv})
			cmd.Env = append(cmd.Env, "XDG_CACHE_HOME="+scene.Path("lookups"+tt.name))
			o := run(t, cmd)
			if o.exit != 0 || len(o.stdout) != 1 || o.stdout[0] != out {
				t.Fatalf("exit %d, %q, want %q\n%s", o.exit, o.stdout, out, o.stderr)
			}
			if built := strings.Contains(o.stderr, "building '"+drv); built == tt.fetched {
				t.Errorf("built: %t\n%s", built, o.stderr)
			}
		})
	}

	// A copy into another store tells it what the output is, if somebody has signed that or
	// nobody asks.
	other := scene.Path("other")
	copyStore(t, empty, other)
	if o := run(t, kilnCommand(t, scene, other, append(feature, "copy", "--from", full.store, drv+"^*")...)); o.exit != 1 || !strings.Contains(o.stderr, "has no signature") {
		t.Errorf("exit %d\n%s", o.exit, o.stderr)
	}
	must(t, kilnCommand(t, scene, other, append(feature, "copy", "--no-check-sigs", "--from", full.store, drv+"^*")...))
	if o := run(t, kilnCommand(t, scene, other, append(feature, "build", drv+"^out")...)); o.exit != 0 || strings.Contains(o.stderr, "building") || o.stdout[0] != out {
		t.Errorf("exit %d, %q\n%s", o.exit, o.stdout, o.stderr)
	}
}

// TestBuildBySSH has the store of nix-store --serve build.
func TestBuildBySSH(t *testing.T) {
	t.Parallel()
	needs(t)
	scene, lane := newScene(t), takeLane(t)
	s := newSide(t, "kiln", "far", scene, lane)
	var drvs map[string]string
	evaluate(t, scene, s.store, "builtins.mapAttrs (_: d: d.drvPath) ("+strings.ReplaceAll(copiedOutputs, "@system@", testenv.System())+")", &drvs)
	program := scene.Path("nix-store")
	if err := os.Symlink(testenv.Kiln(t), program); err != nil {
		t.Fatal(err)
	}
	// The host localhost stands for no ssh at all.
	uri := "ssh://localhost?remote-program=" + program + "&remote-store=" + s.store
	config := "NIX_CONFIG=sandbox-paths = /bin/sh=" + testenv.Busybox(t) + "\nsubstituters =\nbuild-users-group ="
	build := func(words ...string) outcome {
		cmd := kilnCommand(t, scene, uri, append([]string{"build"}, words...)...)
		cmd.Env = append(cmd.Env, config)
		return run(t, cmd)
	}
	o := build(drvs["plain"])
	if o.exit != 0 || len(o.stdout) != 1 || !strings.HasSuffix(o.stdout[0], "-plain") || !exists(s.store+o.stdout[0]) {
		t.Fatalf("exit %d, %q\n%s", o.exit, o.stdout, o.stderr)
	}
	if o := build("--dry-run", drvs["plain"]); o.exit == 0 || !strings.Contains(o.stderr, "use ssh-ng") {
		t.Errorf("exit %d\n%s", o.exit, o.stderr)
	}
	if o := build("--out-link", scene.Path("result"), drvs["plain"]); o.exit == 0 || !strings.Contains(o.stderr, "another machine") {
		t.Errorf("exit %d\n%s", o.exit, o.stderr)
	}
}
