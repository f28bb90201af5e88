//go:build linux

package interop

import (
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// TestCorpus builds every case of the corpus with real Nix and with kiln, each
// in a store of its own, and compares what is there afterwards. Root can have two
// releases of Nix: the newest one says what is right, and where the older one
// gives something else, the table says so.
func TestCorpus(t *testing.T) {
	needs(t)
	testenv.Kiln(t)
	host := hostNix(t)
	nix, old := host, (*release)(nil)
	if testenv.Root() {
		nix = newestNix(t)
		if wantsTable() {
			old = host
		}
	}
	cases := corpus(t, nix, newScene(t))
	if len(cases) < 100 {
		t.Errorf("the corpus has only %d cases", len(cases))
	}
	// The suite has to end in time: in it root compares a sixth, and an ordinary user another
	// one; of what others could not do, root compares a third. `make interop` leaves nothing out.
	share := func(c testCase) uint32 { return crc32.ChecksumIEEE([]byte(c.name)) % 6 }
	switch {
	case os.Getenv("KILN_ROOT_RAN") == "1":
		cases = slices.DeleteFunc(cases, func(c testCase) bool { return share(c) != 0 })
	case os.Getenv("KILN_ORDINARY_FOLLOWS") == "1":
		cases = slices.DeleteFunc(cases, func(c testCase) bool {
			onlyRoot := c.Root != "" || c.Host != "" || c.Since != "" && !host.atLeast(c.Since)
			return share(c) != 1 && !(onlyRoot && share(c) == 2)
		})
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			x := &comparison{t: t, c: c, differ: map[string]bool{}}
			reference, other := nix, old
			switch {
			case c.Root != "" && !testenv.Root():
				t.Skipf("needs root: %s", c.Root)
			case c.Host != "":
				reference, other = host, nil
			case c.Since != "" && !nix.atLeast(c.Since):
				t.Skipf("needs Nix %s, which only root can have beside the machine's %s", c.Since, nix.version)
			case c.Since != "" && old != nil && !old.atLeast(c.Since):
				other = nil
			}
			x.prepare(reference, other)
			x.run()
		})
	}
}

// A comparison is one case on all sides.
type comparison struct {
	t         *testing.T
	c         testCase
	drvs      []string
	nix, kiln *side
	old       *side // nil if there is none
	exits     []string
	objects   int             // valid paths compared
	differ    map[string]bool // facts in which kiln is not as Nix
	changed   []string        // facts in which the releases of Nix differ
}

func (x *comparison) prepare(nix, old *release) {
	t := x.t
	t.Helper()
	lane := takeLane(t)
	scene := newScene(t)
	shared := scene.Mkdir("shared")
	if err := os.WriteFile(filepath.Join(shared, "note"), []byte("note\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, text := range x.c.Files {
		text = strings.ReplaceAll(text, "@shared@", shared)
		if err := os.WriteFile(filepath.Join(shared, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	x.nix = newSide(t, "nix", "nix-store", scene, lane)
	x.kiln = newSide(t, "kiln", "kiln-store", scene, lane)
	x.nix.release, x.kiln.release = nix, nix
	x.drvs = x.c.instantiate(t, nix, scene, x.nix.store)
	forgetRoots(t, x.nix.store)
	copyStore(t, x.nix.store, x.kiln.store)
	if old != nil {
		x.old = newSide(t, "old", "old-store", scene, lane)
		copyStore(t, x.nix.store, x.old.store)
	}
}

// sides are all, the one that says what is right first.
func (x *comparison) sides() []*side {
	if x.old == nil {
		return []*side{x.nix, x.kiln}
	}
	return []*side{x.nix, x.kiln, x.old}
}

// unlike notes that a fact differs and fails the test.
func (x *comparison) unlike(fact, format string, args ...any) {
	x.t.Helper()
	x.differ[fact] = true
	x.t.Errorf(format, args...)
}

// same compares a fact of Nix with that of another side. That an older Nix has
// another one is only noted.
func (x *comparison) same(side *side, fact, what string, nix, kiln any) {
	x.t.Helper()
	if x.c.Ignore[fact] != "" {
		return
	}
	if side == x.old {
		if !cmp.Equal(nix, kiln, cmpopts.EquateEmpty()) && !slices.Contains(x.changed, fact) {
			x.changed = append(x.changed, fact)
		}
		return
	}
	if d := cmp.Diff(nix, kiln, cmpopts.EquateEmpty()); d != "" {
		x.unlike(fact, "%s differ (-nix +kiln):\n%s", what, d)
	}
}

func (x *comparison) run() {
	x.t.Helper()
	before := filesOf(x.t, x.kiln)
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
	var outcomes []outcome
	x.exits = nil
	for _, side := range x.sides() {
		if s.Delete {
			for _, drv := range x.drvs {
				outputs := derivationOutputs(x.t, side.store+drv)
				must(x.t, side.nix(append([]string{"nix-store", "--store", side.store, "--delete", "--ignore-liveness"}, outputs...)...))
			}
			forgetRoots(x.t, side.store)
		}
		x.damage(side, s.Damage)
		o := run(x.t, side.build(x.t, options, flags, targets...))
		slices.Sort(o.stdout)
		x.t.Logf("%s: %s exits with %d:\n%s", name, side.name, o.exit, ending(o.stderr))
		outcomes = append(outcomes, o)
		x.exits = append(x.exits, fmt.Sprint(o.exit))
		for _, pattern := range says {
			if side != x.old && !regexp.MustCompile(pattern).MatchString(o.stderr) {
				x.unlike("exit", "%s: %s does not say %q:\n%s", name, side.name, pattern, o.stderr)
			}
		}
	}
	nix := outcomes[0]
	if !exit.allow(nix.exit) {
		x.unlike("exit", "%s: real Nix exits with %d, but the case says %v:\n%s", name, nix.exit, exit, nix.stderr)
	}
	want := nix.exit
	if x.c.Differs != nil && !x.nix.release.atLeast(newestSeries) {
		want = x.c.Differs.Exit
	}
	if kiln := outcomes[1]; kiln.exit != want {
		x.unlike("exit", "%s: kiln exits with %d, want %d (Nix: %d):\n%s", name, kiln.exit, want, nix.exit, kiln.stderr)
	}
	for i, side := range x.sides()[1:] {
		if side == x.old {
			x.same(side, "exit", "", nix.exit, outcomes[i+1].exit)
		}
		x.same(side, "printed", name+": the printed paths", nix.stdout, outcomes[i+1].stdout)
	}
}

// ending is the end of a text, as much as a person reads of it.
func ending(text string) string {
	const most = 4000
	if len(text) > most {
		text = "…" + text[len(text)-most:]
	}
	return text
}

// forgetRoots removes the empty files that processes of real Nix leave, so that
// those of kiln are seen.
func forgetRoots(t *testing.T, store string) {
	t.Helper()
	files, err := filepath.Glob(store + "/nix/var/nix/temproots/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
}

// damage spoils a file in an output, as a bad disk does: "NAME" for the output, or
// a path below one.
func (x *comparison) damage(side *side, names []string) {
	x.t.Helper()
	for _, name := range names {
		output, below, _ := strings.Cut(name, "/")
		matches, err := filepath.Glob(side.store + "/nix/store/*-" + output)
		if err != nil || len(matches) != 1 {
			x.t.Fatalf("damage %q: %v, %v", name, matches, err)
		}
		file := filepath.Join(matches[0], below)
		if err := os.Chmod(file, 0o644); err != nil {
			x.t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("damaged"), 0o644); err != nil {
			x.t.Fatal(err)
		}
		// What is not repaired is the same on all sides then.
		if err := errors.Join(os.Chmod(file, 0o444), os.Chtimes(file, time.Unix(1, 0), time.Unix(1, 0))); err != nil {
			x.t.Fatal(err)
		}
	}
}
