package binarycache

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/storetest"
)

func TestListings(t *testing.T) {
	c, path := create(t, Options{Compression: "none", Listings: true, DebugInfo: true})
	const id = "0123456789abcdef0123456789abcdef01234567"
	o := storetest.Built(t, dir, "o", false)
	o.NAR = storetest.Archive(t, storetest.Node{Entries: []storetest.Node{{Name: "lib", Entries: []storetest.Node{{Name: "debug", Entries: []storetest.Node{
		{Name: ".build-id", Entries: []storetest.Node{{Name: id[:2], Entries: []storetest.Node{{Name: id[2:] + ".debug", Content: "x"}, {Name: "other", Content: "x"}}}}}}}}}}})
	o.Info.NARHash, o.Info.NARSize = nix.HashBytes(nix.SHA256, o.NAR), int64(len(o.NAR))
	storetest.Add(t, c, o)
	read := func(name string) string {
		t.Helper()
		text, err := os.ReadFile(path + "/" + name)
		if err != nil {
			t.Error(err)
		}
		return string(text)
	}
	if text := read(o.Info.Path.HashPart() + ".ls"); !strings.HasPrefix(text, `{"version":1,"root":{"type":"directory","entries":{"lib":`) || !strings.HasSuffix(text, "}}") {
		t.Errorf("%s", text)
	}
	if got, want := read("debuginfo/"+id), `{"archive":"../nar/`+o.Info.NARHash.Nix32()+`.nar","member":"lib/debug/.build-id/01/`+id[2:]+`.debug"}`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	// Of what is refused nothing is left; create sees to temporary files.
	bad := storetest.Built(t, dir, "bad", false)
	for _, archive := range [][]byte{bad.NAR[:50], o.NAR} {
		if err := c.Add(t.Context(), &bad.Info, bytes.NewReader(archive), store.AddOptions{}); err == nil {
			t.Error("it was added")
		}
	}
	if _, err := os.Stat(path + "/" + bad.Info.Path.HashPart() + ".ls"); err == nil {
		t.Error("what was refused has a listing")
	}
}
