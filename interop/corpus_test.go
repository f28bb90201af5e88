//go:build linux

package interop

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// TestCorpus builds every case of the corpus with real Nix and with kiln, each
// in a store of its own, and compares what is there afterwards.
func TestCorpus(t *testing.T) {
	needs(t)
	testenv.Kiln(t)
	cases := corpus(t, newScene(t))
	if len(cases) < 40 {
		t.Errorf("the corpus has only %d cases", len(cases))
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.Root != "" && !testenv.Root() {
				t.Skipf("needs root: %s", c.Root)
			}
			lane := takeLane(t)
			scene := newScene(t)
			note := filepath.Join(scene.Mkdir("shared"), "note")
			if err := os.WriteFile(note, []byte("note\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			newComparison(t, c, scene, lane).run()
		})
	}
}

// A comparison is one case on both sides.
type comparison struct {
	t         *testing.T
	c         testCase
	drvs      []string
	nix, kiln *side
	exits     [2]string
	differ    map[string]bool
}

func newComparison(t *testing.T, c testCase, scene *testenv.Scene, lane int) *comparison {
	t.Helper()
	x := &comparison{t: t, c: c, differ: map[string]bool{}}
	x.nix = newSide(t, "nix", "nix-store", scene, lane)
	x.kiln = newSide(t, "kiln", "kiln-store", scene, lane)
	x.drvs = c.instantiate(t, scene, x.nix.store)
	copyStore(t, x.nix.store, x.kiln.store)
	return x
}

// unlike notes that a fact differs and fails the test.
func (x *comparison) unlike(fact, format string, args ...any) {
	x.t.Helper()
	x.differ[fact] = true
	x.t.Errorf(format, args...)
}

// same compares a fact of both sides.
func (x *comparison) same(fact, what string, nix, kiln any) {
	x.t.Helper()
	if x.c.Ignore[fact] != "" {
		return
	}
	if d := cmp.Diff(nix, kiln, cmpopts.EquateEmpty()); d != "" {
		x.unlike(fact, "%s differ (-nix +kiln):\n%s", what, d)
	}
}

func (x *comparison) run() {
	x.t.Helper()
	before := take(x.t, x.kiln)
	for i, s := range x.c.Runs {
		x.step(fmt.Sprintf("run %d", i+1), s)
	}
	x.compareStores(before)
	x.report()
}

// step does one run of the case on both sides.
func (x *comparison) step(name string, s step) {
	x.t.Helper()
	options := maps.Clone(x.c.Options)
	if options == nil {
		options = map[string]string{}
	}
	maps.Copy(options, s.Options)
	flags := append(slices.Clone(x.c.Flags), s.Flags...)
	wants, exit, says := x.c.Wants, x.c.Exit, x.c.Says
	if s.Wants != nil {
		wants = s.Wants
	}
	if s.Exit != nil {
		exit, says = s.Exit, s.Says
	}
	var targets []target
	for _, drv := range x.drvs {
		targets = append(targets, target{drv, wants})
	}
	var outcomes [2]outcome
	for i, side := range []*side{x.nix, x.kiln} {
		if s.Delete {
			for _, drv := range x.drvs {
				outputs := derivationOutputs(x.t, side.store+drv)
				must(x.t, side.command(append([]string{"nix-store", "--store", side.store, "--delete", "--ignore-liveness"}, outputs...)...))
			}
		}
		o := run(x.t, side.build(x.t, options, flags, targets...))
		slices.Sort(o.stdout)
		outcomes[i] = o
		x.exits[i] = fmt.Sprint(o.exit)
		for _, pattern := range says {
			if !regexp.MustCompile(pattern).MatchString(o.stderr) {
				x.unlike("exit", "%s: %s does not say %q:\n%s", name, side.name, pattern, o.stderr)
			}
		}
	}
	nix, kiln := outcomes[0], outcomes[1]
	if !exit.allow(nix.exit) {
		x.unlike("exit", "%s: real Nix exits with %d, but the case says %v:\n%s", name, nix.exit, exit, nix.stderr)
	}
	want := nix.exit
	if x.c.Differs != nil {
		want = x.c.Differs.Exit
	}
	if kiln.exit != want {
		x.unlike("exit", "%s: kiln exits with %d, want %d (Nix: %d):\n%s", name, kiln.exit, want, nix.exit, kiln.stderr)
	}
	x.same("printed", name+": the printed paths", nix.stdout, kiln.stdout)
}

// compareStores compares the stores and checks what kiln left.
func (x *comparison) compareStores(before *snapshot) {
	x.t.Helper()
	nix, kiln := take(x.t, x.nix), take(x.t, x.kiln)
	x.same("paths", "the valid paths", slices.Sorted(maps.Keys(nix.objects)), slices.Sorted(maps.Keys(kiln.objects)))
	x.same("paths", "the output paths", nix.outputs, kiln.outputs)
	for path, n := range nix.objects {
		k, ok := kiln.objects[path]
		if !ok {
			continue
		}
		x.same("NAR", path+": hash and size", []any{n.NarHash, n.NarSize}, []any{k.NarHash, k.NarSize})
		x.same("refs", path+": references", n.References, k.References)
		x.same("deriver", path+": deriver, ultimate, content address, signatures",
			[]any{n.Deriver, n.Ultimate, n.CA, n.Signatures}, []any{k.Deriver, k.Ultimate, k.CA, k.Signatures})
		x.same("files", path+": files", nix.files[path], kiln.files[path])
	}
	x.same("log", "the logs", nix.logs, kiln.logs)
	x.same("store", "names in kiln's store directory that are no valid paths, before and after", before.strays, kiln.strays)
	x.same("store", "files in kiln's state directory that are of no use any more, before and after", before.state, kiln.state)
	if !x.t.Run("verify", func(t *testing.T) { verify(t, x.kiln.scene, x.kiln.store) }) {
		x.differ["store"] = true
	}
}

// report adds the case to the table.
func (x *comparison) report() {
	objects := len(pathInfos(x.t, x.kiln.scene, x.kiln.store))
	for i, drv := range x.drvs {
		_, name, _ := strings.Cut(filepath.Base(drv), "-")
		r := row{
			derivation: x.c.name + " " + strings.TrimSuffix(name, ".drv"),
			exits:      x.exits[0] + " / " + x.exits[1],
			differ:     x.differ,
			failed:     x.t.Failed(),
		}
		if i == 0 {
			r.objects = objects
		}
		table.add(r)
	}
}
