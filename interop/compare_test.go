//go:build linux

package interop

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// compareStores compares the stores and checks what kiln left.
func (x *comparison) compareStores(before []string) {
	x.t.Helper()
	nix := take(x.t, x.nix)
	x.compareStore(x.kiln, nix, before)
	if x.old != nil {
		x.compareStore(x.old, nix, nil)
	}
	if x.c.Ignore["store"] == "" && !x.t.Run("verify", func(t *testing.T) { x.nix.release.verify(t, x.kiln.scene, x.kiln.store) }) {
		x.differ["store"] = true
	}
}

func (x *comparison) compareStore(side *side, nix *snapshot, before []string) {
	x.t.Helper()
	kiln := take(x.t, side)
	x.same(side, "paths", "the valid paths", slices.Sorted(maps.Keys(nix.objects)), slices.Sorted(maps.Keys(kiln.objects)))
	x.same(side, "paths", "the output paths", nix.outputs, kiln.outputs)
	for path, n := range nix.objects {
		k, ok := kiln.objects[path]
		if !ok {
			continue
		}
		x.same(side, "NAR", path+": hash and size", []any{n.NarHash, n.NarSize}, []any{k.NarHash, k.NarSize})
		x.same(side, "refs", path+": references", n.References, k.References)
		x.same(side, "deriver", path+": deriver, ultimate, content address, signatures",
			[]any{n.Deriver, n.Ultimate, n.CA, n.Signatures}, []any{k.Deriver, k.Ultimate, k.CA, k.Signatures})
		x.same(side, "files", path+": files", nix.files[path], kiln.files[path])
	}
	x.same(side, "log", "the logs", nix.logs, kiln.logs)
	x.same(side, "store", "what is kept of failed builds", nix.kept, kiln.kept)
	if side == x.old {
		return
	}
	x.objects = len(kiln.objects)
	x.same(side, "real", "the realisations", nix.realisations, kiln.realisations)
	expected := func(name string) bool { return isKept(name) || slices.Contains(before, name) }
	x.same(side, "store", "what is left in the store directory that is no valid path", []string(nil), slices.DeleteFunc(kiln.strays, expected))
	x.same(side, "store", "what is left in the state directory that is of no use any more", []string(nil), slices.DeleteFunc(kiln.state, expected))
}

// filesOf names what is in a side's store directory, and what is in its state
// directory that no program needs when it has ended.
func filesOf(t *testing.T, s *side) []string {
	t.Helper()
	return append(names(t, filepath.Join(s.store, "nix/store")), stateFiles(t, s.store)...)
}

// report adds the case to the table.
func (x *comparison) report() {
	for i, drv := range x.drvs {
		_, name, _ := strings.Cut(filepath.Base(drv), "-")
		r := row{
			derivation: x.c.name + " " + strings.TrimSuffix(name, ".drv"),
			exits:      strings.Join(x.exits, "/"),
			differ:     x.differ,
			changed:    strings.Join(x.changed, ", "),
			failed:     x.t.Failed(),
		}
		if i == 0 {
			r.objects = x.objects
		}
		table.add(r)
	}
}
