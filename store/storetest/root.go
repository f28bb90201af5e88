package storetest

import (
	"path/filepath"
	"testing"

	"github.com/kilnbuild/kiln/internal/rmtree"
)

// Root is a temporary directory that a chroot store can be made in. What is in a store is
// read-only, so that whoever has no privilege cannot simply remove it at the end.
func Root(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	t.Cleanup(func() {
		if err := rmtree.RemoveTree(filepath.Join(root, "nix")); err != nil {
			t.Error(err)
		}
	})
	return root
}
