//go:build linux

package interop

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// TestT10DescriptorsPassedOut lets builders that have a network hand descriptors of
// everything in their sandbox to somebody on the machine. When the build is over
// nothing can be changed by them.
func TestT10DescriptorsPassedOut(t *testing.T) {
	for _, network := range []string{"auto", "off"} {
		for name, tree := range map[string]bool{"file": false, "tree": true} {
			t.Run(network+" "+name, func(t *testing.T) {
				t.Parallel()
				newTheft(t).works(tree, map[string]string{"user-network": network})
			})
		}
	}
}

// TestT10ProcessesLeft lets a builder without a sandbox leave a process behind, of
// which only its user tells whose it is.
func TestT10ProcessesLeft(t *testing.T) {
	testenv.NeedRoot(t)
	newTheft(t).unmoved().works(true, map[string]string{"sandbox": "false"})
}

// works builds a fixed output, and then uses what the accomplice has got.
func (x *theft) works(tree bool, options map[string]string) {
	t := x.t
	t.Helper()
	attributes := x.fixed(tree)
	attributes["leave"] = "1"
	drv := x.drv("thief", attributes)
	if o := x.build(drv, options); o.exit != 0 {
		t.Fatalf("exit %d:\n%s", o.exit, o.stderr)
	}
	thief := x.thief()
	thief.gone(t)
	x.unharmed("before anything is tried")
	thief.use(filepath.Base(x.out(drv)))
	x.unharmed("after the build")
}

// TestT15AbstractSockets lets builders that have a network look for a socket of the
// machine that has no place in any directory. That they reach none needs a network
// of their own or Landlock; where there is neither the test says why.
func TestT15AbstractSockets(t *testing.T) {
	for _, network := range []string{"auto", "off"} {
		t.Run(network, func(t *testing.T) {
			x := newTheft(t)
			attributes := x.fixed(false)
			attributes["abstract"] = x.abstract
			drv := x.drv("thief", attributes)
			o := x.build(drv, map[string]string{"user-network": network})
			if o.exit != 0 {
				t.Fatalf("exit %d:\n%s", o.exit, o.stderr)
			}
			x.separated(network, drv, o)
		})
	}
}

// separated compares what a builder could reach with what is said of it.
func (x *theft) separated(network, drv string, o outcome) {
	t := x.t
	t.Helper()
	type layer struct{ Name, Asked, InForce, Why string }
	var results []struct{ Isolation struct{ Layers []layer } }
	if err := json.Unmarshal([]byte(strings.Join(o.stdout, "\n")), &results); err != nil {
		t.Fatal(err)
	}
	layers := map[string]layer{}
	for _, l := range results[0].Isolation.Layers {
		layers[l.Name] = l
	}
	ours, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	log := strings.Join(must(t, kilnCommand(t, x.scene, x.store, "log", drv)), "\n")
	said, own := layers["network"], !strings.Contains(log, "network: "+ours)
	switch {
	case own != strings.HasPrefix(said.InForce, "user-mode"), own && network == "off":
		t.Errorf("ours is %s, the report says %+v, and the builder:\n%s", ours, said, log)
	case !own && network == "auto" && said.Asked != "user-mode":
		t.Errorf("no network of the builder's own was asked for: %+v", said)
	case !own:
		t.Logf("the builder has the network of the machine: %s", said.Why)
	}
	const tried = "abstract socket: "
	switch {
	case !own && layers["landlock"].InForce == "none" && layers["landlock"].Why != "":
		t.Logf("nothing keeps the builder from abstract sockets: %s", layers["landlock"].Why)
	case !strings.Contains(log, tried), strings.Contains(log, tried+"<nil>"):
		t.Errorf("the builder reached an abstract socket of the machine:\n%s", log)
	}
}

// TestT15DescriptorsOfFailedBuilds takes descriptors out of builds that fail, or make
// something else than was stated, and then lets them succeed: what the accomplice
// has from the first build leads to nothing of the second.
func TestT15DescriptorsOfFailedBuilds(t *testing.T) {
	for ending, exit := range map[string]int{"fail": 1, "other": 102} {
		t.Run(ending, func(t *testing.T) {
			t.Parallel()
			x := newTheft(t)
			attributes := x.fixed(true)
			attributes["leave"], attributes["ending"] = "1", ending
			x.failsThenWorks(x.drv("thief", attributes), exit)
		})
	}
}

// failsThenWorks builds what fails as long as it is not honest.
func (x *theft) failsThenWorks(drv string, exit int) {
	t := x.t
	t.Helper()
	var options map[string]string
	if x.plain {
		options = map[string]string{"sandbox": "false"}
	}
	x.honest(false)
	if o := x.build(drv, options); o.exit != exit {
		t.Fatalf("exit %d, want %d:\n%s", o.exit, exit, o.stderr)
	}
	thief := x.thief()
	if !x.plain || testenv.Root() {
		thief.gone(t)
	}
	place := x.out(drv)
	if exists(place) {
		t.Errorf("the output of a failed build is in the store: %s", place)
	}
	thief.use(filepath.Base(place))
	x.unharmed("after a build that failed")

	x.honest(true)
	if o := x.build(drv, options); o.exit != 0 {
		t.Fatalf("exit %d:\n%s", o.exit, o.stderr)
	}
	thief.use(filepath.Base(place))
	x.unharmed("after the build that worked")
	if !exists(place) {
		t.Errorf("there is no %s", place)
	}
}

// TestT12FailedBuildsLeaveNothing does it with outputs that are not fixed, in a
// sandbox and without one, where builders write to the store themselves.
func TestT12FailedBuildsLeaveNothing(t *testing.T) {
	attributes := map[string]string{"tree": "1", "leave": "1", "ending": "fail"}
	t.Run("sandbox", func(t *testing.T) {
		x := newTheft(t)
		x.failsThenWorks(x.drv("thief", attributes), 100)
	})
	t.Run("no sandbox", func(t *testing.T) {
		x := newTheft(t).unmoved()
		x.failsThenWorks(x.drv("thief", attributes), 100)
	})
}
