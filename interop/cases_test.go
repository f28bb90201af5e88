//go:build linux

package interop

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// A testCase is one entry of a corpus file; see the README there.
type testCase struct {
	name string // "group/case"
	file string

	Why     string
	Root    string            // why only root can compare it, "" if everybody can
	Host    string            // why only the machine's own Nix can build it, "" if any can
	Since   string            // the first release of Nix that can build it, "" if all can
	Files   map[string]string // programs and other files in the shared directory, by name
	Options map[string]string
	Flags   []string
	Wants   []string
	Exit    exitCodes
	Says    []string
	Differs *difference
	Ignore  map[string]string // fact to the reason why it is not compared
	Runs    []step
}

// A step is one run of a case with what is special in it.
type step struct {
	Options map[string]string
	Flags   []string
	Wants   []string
	Delete  bool     // the outputs, before the run
	Damage  []string // names of outputs, or files below them, before the run
	Exit    exitCodes
	Says    []string
}

// A difference is where kiln follows a newer Nix than the oldest that the tests
// run against.
type difference struct {
	Exit    int
	Because string
}

// exitCodes are those that releases of Nix have for a case. JSON has a number
// for a single one.
type exitCodes []int

func (e *exitCodes) UnmarshalJSON(data []byte) error {
	var one int
	if err := json.Unmarshal(data, &one); err == nil {
		*e = exitCodes{one}
		return nil
	}
	return json.Unmarshal(data, (*[]int)(e))
}

func (e exitCodes) allow(code int) bool {
	if len(e) == 0 {
		return code == 0
	}
	return slices.Contains(e, code)
}

// corpus reads all cases, in the order of their names.
func corpus(t *testing.T, nix *release, scene *testenv.Scene) []testCase {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(visible(t, "testdata/corpus"), "*.nix"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []testCase
	for _, file := range files {
		group := strings.TrimSuffix(filepath.Base(file), ".nix")
		if group == "lib" {
			continue
		}
		expr := fmt.Sprintf(`builtins.mapAttrs (_: c: removeAttrs c [ "build" ]) (import %s)`, file)
		byName := map[string]testCase{}
		nix.evaluate(t, scene, scene.Path("eval"), expr, &byName)
		for name, c := range byName {
			c.name, c.file = group+"/"+name, file
			if c.Runs == nil {
				c.Runs = []step{{}}
			}
			cases = append(cases, c)
		}
	}
	slices.SortFunc(cases, func(a, b testCase) int { return strings.Compare(a.name, b.name) })
	return cases
}

// instantiate puts the derivations of a case into a store and gives their paths.
func (c testCase) instantiate(t *testing.T, nix *release, scene *testenv.Scene, store string) []string {
	t.Helper()
	_, name, _ := strings.Cut(c.name, "/")
	var drvs []string
	nix.evaluate(t, scene, store, fmt.Sprintf(`map (d: d.drvPath) (import %s).%q.build`, c.file, name), &drvs)
	return drvs
}

// evaluate gives the value of a Nix expression; what it instantiates goes into
// the store.
func evaluate(t *testing.T, scene *testenv.Scene, store, expr string, into any) {
	t.Helper()
	hostNix(t).evaluate(t, scene, store, expr, into)
}

// languageFeatures are what the corpus uses of Nix's language that is experimental.
const languageFeatures = "ca-derivations impure-derivations dynamic-derivations git-hashing"

func (r *release) evaluate(t *testing.T, scene *testenv.Scene, store, expr string, into any) {
	t.Helper()
	out := must(t, r.command(scene, "nix-instantiate", "--store", store, "--eval", "--strict", "--json",
		"--read-write-mode", "--option", "extra-experimental-features", languageFeatures, "-E", expr))
	if err := json.Unmarshal([]byte(strings.Join(out, "\n")), into); err != nil {
		t.Fatalf("evaluate %s: %v", expr, err)
	}
}
