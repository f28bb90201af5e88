package daemon

import (
	"bytes"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/storetest"
	"github.com/kilnbuild/kiln/wire"
	"github.com/kilnbuild/kiln/wire/worker"
)

// exportOf is what a client of that version gets when it exports an object.
func exportOf(p *peer, path nix.StorePath) []byte {
	p.t.Helper()
	var got bytes.Buffer
	p.Write = func(b []byte) error { got.Write(b); return nil }
	p.must(&worker.ExportPath{Path: path})
	if n := p.d.Uint64(); n != 1 {
		p.t.Errorf("reply %d", n)
	}
	return got.Bytes()
}

func word(w io.Writer, n uint64) {
	e := wire.NewWriter(w)
	e.Uint64(n)
	e.Flush()
}

func TestExportImport(t *testing.T) {
	dep := storetest.Text(t, nix.DefaultStoreDir, "dep", "dependency")
	big := storetest.Built(t, nix.DefaultStoreDir, "big", true, dep.Info.Path)
	from, to := newStore(t, dep, big), newStore(t)
	p := connect(t, t.Context(), Config{Store: from}, worker.Newest)
	first, second := exportOf(p, dep.Info.Path), exportOf(p, big.Info.Path)
	p.refused("is not valid", &worker.ExportPath{Path: none})
	p.usable()
	p.bye()
	for name, cut := range map[string]int{"whole": 0, "without its end": 8, "cut in an archive": len(second), "cut behind one": 60} {
		t.Run(name, func(t *testing.T) {
			var stream bytes.Buffer
			for _, object := range [][]byte{first, second} {
				word(&stream, 1)
				stream.Write(object)
			}
			word(&stream, 0)
			p := connect(t, t.Context(), Config{Store: to, Trust: worker.Trusted}, worker.Newest)
			worker.WriteRequest(p.e, &worker.EmptyRequest{Operation: worker.OpImportPaths})
			p.e.Write(stream.Bytes()[:stream.Len()-cut])
			p.e.Flush()
			if cut > 0 {
				p.conn.Close()
				if err := <-p.ended; err == nil {
					t.Error("served to the end")
				}
				return
			}
			if err := p.messages(); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(sorted([]nix.StorePath{dep.Info.Path, big.Info.Path}), p.d.PathSet()); d != "" {
				t.Errorf("imported (-want +got):\n%s", d)
			}
			p.usable()
			p.bye()
			got, err := to.PathInfo(t.Context(), big.Info.Path)
			if err != nil {
				t.Fatal(err)
			}
			want := big.Info
			want.Signatures, want.Ultimate, want.CA, want.RegistrationTime = nil, false, nix.ContentAddress{}, got.RegistrationTime
			if d := cmp.Diff(&want, got, cmpopts.EquateEmpty(), cmp.AllowUnexported(nix.Hash{})); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// TestImportUntrusted wants nobody who is not trusted to import what nobody has signed.
func TestImportUntrusted(t *testing.T) {
	one := storetest.Built(t, nix.DefaultStoreDir, "one", false)
	p := connect(t, t.Context(), Config{Store: newStore(t, one)}, worker.Newest)
	object := exportOf(p, one.Info.Path)
	p.bye()
	to := newStore(t)
	p = connect(t, t.Context(), Config{Store: to, Trust: worker.NotTrusted}, worker.Newest)
	p.refused("signature", &worker.EmptyRequest{Operation: worker.OpImportPaths}, func(w io.Writer) {
		word(w, 1)
		w.Write(object)
		word(w, 0)
	})
	if err := <-p.ended; err == nil {
		t.Error("goes on after a body without an end")
	}
	if _, err := to.PathInfo(t.Context(), one.Info.Path); err == nil {
		t.Error("it was imported")
	}
}
