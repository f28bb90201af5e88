package storetest

import (
	"testing"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
)

func TestMemory(t *testing.T) {
	Run(t, func(*testing.T) store.Store { return NewMemory(nix.DefaultStoreDir) })
}

// The suite is worth no more than what it puts into stores.
func TestObjects(t *testing.T) {
	if n := len(EvilArchives(t)); n < 20 {
		t.Errorf("%d evil archives, want more than 20", n)
	}
	a, b := Built(t, nix.DefaultStoreDir, "a", true), Built(t, nix.DefaultStoreDir, "b", true)
	if a.Info.Path == b.Info.Path || a.Info.NARHash == b.Info.NARHash {
		t.Errorf("objects of different names are the same: %v, %v", a.Info, b.Info)
	}
}
