package service

import (
	"path/filepath"
	"strconv"
	"testing"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/kilnbuild/kiln/wire/worker"
)

// BenchmarkQuery asks for what is known of objects, as clients do thousands of times, in a
// store that has many.
func BenchmarkQuery(b *testing.B) {
	h := newHost(b, "", nil)
	st, err := local.Open(b.Context(), local.Options{
		RealStoreDir: filepath.Join(h.root, "store"), StateDir: filepath.Join(h.root, "state"), LogDir: filepath.Join(h.root, "log"), UseSQLiteWAL: true,
	})
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	var objects []local.Registration
	for i := range 20_000 {
		p, err := nix.MakeStorePath(st.Dir(), "output:out", nix.HashBytes(nix.SHA256, []byte(strconv.Itoa(i))), "object")
		if err != nil {
			b.Fatal(err)
		}
		info := nix.PathInfo{Path: p, NARHash: nix.HashBytes(nix.SHA256, nil), NARSize: 1}
		for k := 1; k <= 3 && i > 0; k++ {
			info.References = append(info.References, objects[(i-1)*k/3].Info.Path)
		}
		objects = append(objects, local.Registration{Info: info})
	}
	if err := st.Register(b.Context(), objects); err != nil {
		b.Fatal(err)
	}
	g := h.connect()
	i := 0
	for b.Loop() {
		p := objects[i%len(objects)].Info.Path
		i++
		g.must(&worker.PathRequest{Operation: worker.OpQueryPathInfo, Path: p})
		if !g.d.Bool() {
			b.Fatal("it is not valid")
		}
		g.d.UnkeyedPathInfo(p)
	}
}
