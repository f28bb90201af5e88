//go:build linux

package interop

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/local"
)

// gcRaceTime is how long builders and collectors race; KILN_GC_RACE says otherwise,
// as 2m.
const gcRaceTime = 5 * time.Second

// raceDerivations are in the store that is raced in.
const raceDerivations = 120

// TestCollectWhileBuilding lets builders of kiln and of real Nix, processes that hold
// temporary roots, and collectors of both kinds work in one store at once. Nobody may
// lose what it needs, no build may fail, and at the end everything that a link leads
// to must be there.
func TestCollectWhileBuilding(t *testing.T) {
	needs(t)
	limit := gcRaceTime
	if text := os.Getenv("KILN_GC_RACE"); text != "" {
		var err error
		if limit, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	r := newRace(t)
	r.end = time.Now().Add(limit)
	var work sync.WaitGroup
	for _, f := range []func(){
		func() { r.build(r.nix, "--add-root", 0) },
		func() { r.build(r.kiln, "--out-link", 1) },
		func() { r.hold() },
		func() { r.hold() },
		func() { r.collect(r.nix, "nix-store", "--store", r.nix.store, "--gc") },
		func() { r.collect(r.kiln, r.kiln.program[0], "--store", r.kiln.store, "--quiet", "gc") },
	} {
		work.Go(f)
	}
	work.Wait()
	t.Logf("%d builds, %d collections, %d objects were held", r.builds.Load(), r.collections.Load(), r.held.Load())
	if r.builds.Load() == 0 || r.collections.Load() < 2 {
		t.Error("nothing raced")
	}
	r.linksLead()
	verify(t, r.scene, r.nix.store)
	// What is left when all that raced has gone.
	must(t, r.kiln.command(r.kiln.program[0], "--store", r.kiln.store, "gc"))
	r.linksLead()
	if snap := take(t, r.kiln); len(snap.strays) > 0 {
		t.Errorf("left in the store: %s", strings.Join(snap.strays, " "))
	}
}

type race struct {
	*testing.T
	nix, kiln *side
	scene     *testenv.Scene
	drvs      []string
	end       time.Time

	builds, collections, held atomic.Int64
}

func newRace(t *testing.T) *race {
	lane := takeLane(t)
	scene := newScene(t)
	r := &race{T: t, scene: scene, nix: newSide(t, "nix", "store", scene, lane), kiln: newSide(t, "kiln", "store", scene, lane)}
	file, err := filepath.Abs("testdata/gcrace.nix")
	if err != nil {
		t.Fatal(err)
	}
	evaluate(t, scene, r.nix.store, fmt.Sprintf("import %s { n = %d; }", file, raceDerivations), &r.drvs)
	scene.Mkdir("links")
	roots := filepath.Join(r.nix.store, "nix/var/nix/gcroots/drvs")
	if err := os.MkdirAll(roots, 0o755); err != nil {
		t.Fatal(err)
	}
	for i, drv := range r.drvs {
		if err := os.Symlink(drv, filepath.Join(roots, strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func (r *race) over() bool { return r.Failed() || time.Now().After(r.end) }

// build builds one derivation after the other, each with a link, and removes some of
// its links, so that there is garbage.
func (r *race) build(s *side, link string, offset int) {
	for i := offset; !r.over(); i += 2 {
		name := r.scene.Path("links", s.name+"-"+strconv.Itoa(i%20))
		os.Remove(name)
		cmd := s.build(r.T, nil, []string{link, name}, target{drv: r.drvs[rand.IntN(len(r.drvs))]})
		if o := run(r.T, cmd); o.exit != 0 {
			r.Errorf("%s: exit %d\n%s", cmd, o.exit, o.stderr)
			return
		}
		// Collectors of real Nix may take what a builder of real Nix has made a root
		// while they looked for roots.
		if s == r.kiln && !r.leads(name) {
			r.Errorf("%s has just been built, and is not there", name)
		}
		r.builds.Add(1)
	}
}

// hold makes objects temporary roots, and looks whether those that were valid then
// stay so.
func (r *race) hold() {
	ctx := context.Background()
	for !r.over() {
		opts := local.ChrootOptions(r.kiln.store)
		opts.Warn = func(err error) { r.Logf("warning: %v", err) }
		st, err := local.Open(ctx, opts)
		if err != nil {
			r.Error(err)
			return
		}
		var some []nix.StorePath
		for p, err := range st.AllValidPaths(ctx) {
			if err != nil {
				r.Error(err)
				break
			}
			if !p.IsDerivation() && rand.IntN(3) == 0 {
				some = append(some, p)
			}
		}
		err = st.AddTempRoot(ctx, some...)
		var there []nix.StorePath
		if err == nil {
			there, err = st.ValidPaths(ctx, some)
		}
		time.Sleep(200 * time.Millisecond)
		var left []nix.StorePath
		if err == nil {
			left, err = st.ValidPaths(ctx, there)
		}
		if err != nil {
			r.Error(err)
		}
		if len(left) != len(there) {
			r.Errorf("of %q only %q are left", there, left)
		}
		for _, p := range there {
			if !exists(st.RealPath(p)) {
				r.Errorf("%s is valid and not there", p)
			}
		}
		r.held.Add(int64(len(there)))
		if err := st.Close(); err != nil {
			r.Error(err)
		}
	}
}

func (r *race) collect(s *side, words ...string) {
	for !r.over() {
		cmd := s.command(words...)
		if o := run(r.T, cmd); o.exit != 0 {
			r.Errorf("%s: exit %d\n%s", cmd, o.exit, o.stderr)
			return
		}
		r.collections.Add(1)
		time.Sleep(50 * time.Millisecond)
	}
}

// leads tells whether a link leads to an object that is there.
func (r *race) leads(link string) bool {
	target, err := os.Readlink(link)
	return err == nil && exists(r.nix.store+target)
}

// linksLead checks that what links lead to is valid and there.
func (r *race) linksLead() {
	objects := pathInfos(r.T, r.scene, r.nix.store)
	for _, name := range names(r.T, r.scene.Path("links")) {
		if !strings.HasPrefix(name, "kiln") {
			continue
		}
		link := r.scene.Path("links", name)
		target, err := os.Readlink(link)
		if err != nil {
			r.Error(err)
			continue
		}
		if _, valid := objects[target]; !valid || !exists(r.nix.store+target) {
			r.Errorf("%s leads to %s, which has gone", name, target)
		}
	}
}
