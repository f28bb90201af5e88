package export

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/kilnbuild/kiln/store/storetest"
	"github.com/kilnbuild/kiln/wire"
	"github.com/kilnbuild/kiln/wire/worker"
)

func decoder(data []byte) *worker.Decoder {
	return &worker.Decoder{
		Reader:   wire.NewReader(bytes.NewReader(data), wire.Limits{}),
		Protocol: worker.Protocol{Dir: nix.DefaultStoreDir, Version: worker.Newest},
	}
}

// exported is an object that another one needs, both, and how they are exported.
func exported(t testing.TB) (dep, top storetest.Object, stream []byte) {
	t.Helper()
	dep = storetest.Text(t, nix.DefaultStoreDir, "dep", strings.Repeat("dependency", 1<<18))
	dep.Info.CA = nix.ContentAddress{} // it is not told of
	top = storetest.Built(t, nix.DefaultStoreDir, "top", true, dep.Info.Path)
	top.Info.Deriver = storetest.Text(t, nix.DefaultStoreDir, "top.drv", "").Info.Path
	from := storetest.NewMemory(nix.DefaultStoreDir)
	storetest.Add(t, from, dep, top)
	var b bytes.Buffer
	if err := Write(t.Context(), from, []nix.StorePath{top.Info.Path, dep.Info.Path, top.Info.Path}, &b); err != nil {
		t.Fatal(err)
	}
	return dep, top, b.Bytes()
}

// TestReadWrite reads into a store that is told late what an archive is of, and into one
// for which archives are kept.
func TestReadWrite(t *testing.T) {
	dep, top, stream := exported(t)
	opts := local.ChrootOptions(storetest.Root(t))
	opts.FsyncMetadata = false
	late, err := local.Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := late.Close(); err != nil {
			t.Error(err)
		}
	}()
	for name, to := range map[string]store.Store{"late": late, "kept": storetest.NewMemory(nix.DefaultStoreDir)} {
		t.Run(name, func(t *testing.T) {
			d := decoder(append(bytes.Clone(stream), "rest"...))
			got, err := Read(t.Context(), d, to, Options{TempDir: t.TempDir()})
			if want := []nix.StorePath{dep.Info.Path, top.Info.Path}; err != nil || !slices.Equal(got, want) {
				t.Fatalf("read %v, %v, want %v", got, err, want)
			}
			storetest.Check(t, to, dep)
			storetest.Check(t, to, top)
			if rest := make([]byte, 4); true {
				if _, err := d.Read(rest); err != nil || string(rest) != "rest" {
					t.Errorf("%q is left, %v", rest, err)
				}
			}
			// The same once more changes nothing.
			if _, err := Read(t.Context(), decoder(stream), to, Options{TempDir: t.TempDir()}); err != nil {
				t.Error(err)
			}
			signed := storetest.NewMemory(nix.DefaultStoreDir)
			if _, err := Read(t.Context(), decoder(stream), signed, Options{CheckSignatures: true, TempDir: t.TempDir()}); err == nil {
				t.Error("what nobody has signed was added")
			}
		})
	}
}

func TestDamaged(t *testing.T) {
	dep, _, stream := exported(t)
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"no export": {[]byte("nix-archive-1..."), ErrFormat},
		"cut":       {stream[:len(stream)/2], nil},
		"no end":    {stream[:len(stream)-8], nil},
	} {
		t.Run(name, func(t *testing.T) {
			to := storetest.NewMemory(nix.DefaultStoreDir)
			_, err := Read(t.Context(), decoder(c.data), to, Options{TempDir: t.TempDir()})
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if name == "cut" {
				storetest.CheckMissing(t, to, dep.Info.Path)
			}
		})
	}
	if _, err := Read(t.Context(), decoder(stream), storetest.NewMemory(nix.DefaultStoreDir), Options{TempDir: t.TempDir(), Limit: 1000}); err == nil || !strings.Contains(err.Error(), "more than 1000 bytes") {
		t.Errorf("beyond the limit: %v", err)
	}
}

// FuzzRead wants no more of what is no export than an error, and nothing in the store that
// does not have the hash that it is registered with.
func FuzzRead(f *testing.F) {
	small := storetest.NewMemory(nix.DefaultStoreDir)
	o := storetest.Built(f, small.Dir(), "o", true)
	storetest.Add(f, small, o)
	var b bytes.Buffer
	if err := Write(f.Context(), small, []nix.StorePath{o.Info.Path}, &b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		to := storetest.NewMemory(nix.DefaultStoreDir)
		paths, _ := Read(t.Context(), decoder(data), to, Options{TempDir: t.TempDir()})
		for _, p := range paths {
			if _, err := to.PathInfo(t.Context(), p); err != nil {
				t.Error(err)
			}
		}
	})
}
