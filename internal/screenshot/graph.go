package main

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
)

// step is a derivation of the graph: a shell script, and what it needs.
type step struct {
	name, script string
	needs        []string
}

// prelude is what every script begins with; %g is how long a pause is, in
// seconds. Phases are told as stdenv tells them.
const prelude = `set -e
pause() { sleep %g; }
phase() { echo "@nix {\"action\":\"setPhase\",\"phase\":\"$1\"}"; echo "Running phase: $1"; }
compile() { for f in "$@"; do echo "CC src/$f.c"; pause; done; }
`

// steps is the graph, each after what it needs.
var steps = []step{
	{"ovens-0.9", `phase unpackPhase; pause; phase buildPhase; compile coal gas; echo ok > $out`, nil},
	{"thermometer-3.0", `phase buildPhase; compile scale mercury; phase checkPhase; echo "ok 1 - test_freezing"; pause; echo "ok 2 - test_cone_10"; echo ok > $out`, nil},
	{"manual-2.0", `phase buildPhase; for c in clay throwing drying firing glazing; do echo "chapter $c"; pause; pause; done; echo ok > $out`, nil},
	{"libclay-2.1", `phase configurePhase; echo "checking for water... yes"; pause; phase buildPhase; compile clay slip wedge knead pug; echo ok > $out`, []string{"ovens-0.9"}},
	{"libglaze-1.4", `phase buildPhase; compile ash cobalt celadon; phase checkPhase; for i in 1 2 3 4 5; do echo "ok $i - glaze does not run"; pause; done; echo ok > $out`, []string{"ovens-0.9"}},
	{"wheel-1.12", `phase buildPhase; compile bat axle treadle flywheel; echo ok > $out`, []string{"ovens-0.9"}},
	{"pots-5.2", `phase buildPhase; compile pot; echo ok > $out`, []string{"libclay-2.1", "libglaze-1.4", "wheel-1.12"}},
	{"firing-log-1.0", `phase buildPhase; compile log; echo ok > $out`, []string{"thermometer-3.0", "pots-5.2"}},
	{"workshop", `phase installPhase; echo ok > $out`, []string{"pots-5.2", "firing-log-1.0", "manual-2.0"}},
}

// failing is what thermometer-3.0 does where a build is to fail.
const failing = `phase buildPhase; compile scale mercury; phase checkPhase; echo "ok 1 - test_freezing"; pause
echo "FAIL: test_cone_10"; echo "  expected 1285 degrees, got 1240"; exit 1`

// file is a derivation as a .drv file.
type file struct {
	name string
	text []byte
}

// graph writes the derivations, each after those that it needs.
func graph(ctx context.Context, pause time.Duration, fails bool) ([]file, error) {
	systems := map[string]string{"amd64": "x86_64-linux", "arm64": "aarch64-linux"}
	const dir = nix.DefaultStoreDir
	made := make(map[nix.StorePath]*nix.Derivation)
	hasher := aterm.NewHasher(dir, func(_ context.Context, p nix.StorePath) (*nix.Derivation, error) {
		if d := made[p]; d != nil {
			return d, nil
		}
		return nil, fmt.Errorf("there is no derivation '%s'", dir.Join(p))
	}, aterm.HasherOptions{})
	byName := make(map[string]nix.StorePath)
	var files []file
	for _, s := range steps {
		if fails && s.name == "thermometer-3.0" {
			s.script = failing
		}
		script := fmt.Sprintf(prelude, pause.Seconds()) + s.script
		drv := &nix.Derivation{
			BasicDerivation: nix.BasicDerivation{
				Name: s.name, System: systems[runtime.GOARCH], Builder: "/bin/sh", Args: []string{"-c", script},
				Env:     map[string]string{"name": s.name, "out": ""},
				Outputs: map[nix.OutputName]nix.DerivationOutput{"out": {Kind: nix.Deferred}},
			},
			InputDrvs: make(map[nix.StorePath]nix.InputOutputs),
		}
		var needs []string
		for _, n := range s.needs {
			p := byName[n]
			drv.InputDrvs[p] = nix.InputOutputs{Outputs: []nix.OutputName{"out"}}
			needs = append(needs, dir.Join(made[p].Outputs["out"].Path))
		}
		drv.Env["buildInputs"] = strings.Join(needs, " ")
		if err := hasher.FillOutputPaths(ctx, drv); err != nil {
			return nil, fmt.Errorf("make derivation %s: %w", s.name, err)
		}
		p, _, text, err := aterm.DerivationPath(dir, drv)
		if err != nil {
			return nil, fmt.Errorf("make derivation %s: %w", s.name, err)
		}
		made[p], byName[s.name] = drv, p
		files = append(files, file{string(p), text})
	}
	return files, nil
}
