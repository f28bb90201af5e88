package rewrite

import (
	"bytes"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/storetest"
)

func TestContentAddressed(t *testing.T) {
	m := storetest.NewMemory(nix.DefaultStoreDir)
	dep := storetest.Built(t, m.Dir(), "dep", true)
	top := storetest.Built(t, m.Dir(), "top", true, dep.Info.Path)
	storetest.Add(t, m, dep, top)
	fresh, err := ContentAddressed(t.Context(), m, m, []nix.StorePath{top.Info.Path})
	if err != nil {
		t.Fatal(err)
	}
	if len(fresh) != 2 {
		t.Fatalf("rewritten: %v", fresh)
	}
	for old, p := range fresh {
		info, err := m.PathInfo(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		var archive bytes.Buffer
		if err := m.NAR(t.Context(), p, &archive); err != nil {
			t.Fatal(err)
		}
		text := archive.String()
		switch {
		case p == old || info.CA.IsZero():
			t.Errorf("'%s' became '%s' with the content address %q", old, p, info.CA)
		case strings.Contains(text, dep.Info.Path.HashPart()) || strings.Contains(text, top.Info.Path.HashPart()):
			t.Errorf("an old path is in '%s'", p)
		case !strings.Contains(text, p.HashPart()):
			t.Errorf("'%s' does not refer to itself any more", p)
		case nix.HashBytes(nix.SHA256, archive.Bytes()) != info.NARHash || info.NARSize != int64(archive.Len()):
			t.Errorf("'%s' has another archive than is said of it", p)
		}
	}
	// What is made of the result is the result.
	again, err := ContentAddressed(t.Context(), m, m, []nix.StorePath{fresh[top.Info.Path]})
	if err != nil || again[fresh[top.Info.Path]] != fresh[top.Info.Path] {
		t.Errorf("once more: %v, %v", again, err)
	}
}
