//go:build linux

package interop

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// TestDemoIsCurrent holds the derivations that `make demo` builds to their
// source in Nix.
func TestDemoIsCurrent(t *testing.T) {
	testenv.NixVersion(t)
	scene := newScene(t)
	source, err := filepath.Abs("../demo/hello.nix")
	if err != nil {
		t.Fatal(err)
	}
	for _, system := range []string{"x86_64-linux", "aarch64-linux"} {
		var shipped struct {
			Args    []string
			Env     map[string]string
			Outputs struct{ Out struct{ Path string } }
		}
		text, err := os.ReadFile(filepath.Join("../demo", system+".json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &shipped); err != nil {
			t.Fatal(err)
		}
		var args []string
		evaluate(t, scene, scene.Path("store"), `(import `+source+` { system = "`+system+`"; }).args`, &args)
		if d := cmp.Diff(args, shipped.Args); d != "" {
			t.Errorf("%s: arguments (-hello.nix +json):\n%s", system, d)
		}
		var out string
		evaluate(t, scene, scene.Path("store"), `"${import `+source+` { system = "`+system+`"; }}"`, &out)
		if shipped.Env["out"] != out || "/nix/store/"+shipped.Outputs.Out.Path != out {
			t.Errorf("%s: the output is %s and %s, want %s", system, shipped.Outputs.Out.Path, shipped.Env["out"], out)
		}
	}
}
