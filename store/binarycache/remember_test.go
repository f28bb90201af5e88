package binarycache

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/sign"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/lookups"
	"github.com/kilnbuild/kiln/store/storetest"
)

// TestRemembers opens a cache twice with one memory, and counts what is asked for.
func TestRemembers(t *testing.T) {
	var asked atomic.Int32
	s := &server{files: make(map[string][]byte)}
	s.before = func(http.ResponseWriter, *http.Request) bool { asked.Add(1); return false }
	hs := httptest.NewServer(s)
	defer hs.Close()
	o, later := storetest.Built(t, dir, "o", false), storetest.Built(t, dir, "later", false)
	writer, err := OpenHTTP(t.Context(), hs.URL, Options{Create: true, Compression: "none"}, HTTPOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	storetest.Add(t, writer, o)
	const legacy = "sha256:00!out"
	id := nix.DrvOutput{Drv: "00000000000000000000000000000000-x.drv", Output: "out"}
	s.files["/realisations/"+legacy+".doi"] = fmt.Appendf(nil, `{"dependentRealisations":{"sha256:11!out":"x"},"id":%q,"outPath":%q,"signatures":["k:c2ln"]}`, legacy, o.Info.Path)

	known, err := lookups.Open(filepath.Join(t.TempDir(), lookups.FileName), lookups.TTL{Positive: time.Hour, Negative: time.Hour, Meta: time.Hour}, true)
	if err != nil {
		t.Fatal(err)
	}
	defer known.Close()
	open := func() *Cache {
		t.Helper()
		c, err := OpenHTTP(t.Context(), hs.URL+"/", Options{Lookups: known}, HTTPOptions{Attempts: 1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	look := func(c *Cache) {
		t.Helper()
		storetest.CheckMissing(t, c, later.Info.Path)
		if i, err := c.PathInfo(t.Context(), o.Info.Path); err != nil || i.NARHash != o.Info.NARHash {
			t.Errorf("%+v, %v", i, err)
		}
		r, err := c.Realisation(t.Context(), id, legacy)
		if err != nil || r.OutPath != o.Info.Path || len(r.Signatures) != 1 ||
			r.Fingerprint != sign.LegacyRealisationWith(legacy, o.Info.Path, map[string]string{"sha256:11!out": "x"}) {
			t.Errorf("%+v, %v", r, err)
		}
	}
	look(open())
	asked.Store(0)
	c := open()
	look(c)
	// CheckMissing reads the archive, too, for which it asks nothing.
	if n := asked.Load(); n != 0 {
		t.Errorf("asked %d times for what is known", n)
	}
	// What is written by this process is known at once.
	storetest.Add(t, c, later)
	storetest.Check(t, open(), later)

	// What turns out to be wrong is forgotten.
	delete(s.files, "/nar/"+o.Info.NARHash.Nix32()+".nar")
	delete(s.files, "/"+o.Info.Path.HashPart()+".narinfo")
	if err := c.NAR(t.Context(), o.Info.Path, &strings.Builder{}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("error %v", err)
	}
	storetest.CheckMissing(t, open(), o.Info.Path)
}

// TestForgetsWhatDidNotFit copies an archive that is not the one that the cache has told of:
// it is asked again.
func TestForgetsWhatDidNotFit(t *testing.T) {
	c, path := create(t, Options{Compression: "none"})
	o, other := storetest.Built(t, dir, "o", false), storetest.Built(t, dir, "other", false)
	storetest.Add(t, c, o)
	if err := os.WriteFile(filepath.Join(path, "nar", o.Info.NARHash.Nix32()+".nar"), other.NAR, 0o644); err != nil {
		t.Fatal(err)
	}
	to := storetest.NewMemory(dir)
	o.Info.NARSize = int64(len(other.NAR))
	c.known[o.Info.Path].NARSize = o.Info.NARSize
	err := store.Copy(t.Context(), c, to, []nix.StorePath{o.Info.Path}, store.CopyOptions{})
	if err == nil || !strings.Contains(err.Error(), "has the hash") || c.known[o.Info.Path] != nil {
		t.Errorf("error %v, known is %v", err, c.known[o.Info.Path])
	}
}

func TestRealisations(t *testing.T) {
	c, path := create(t, Options{})
	id := nix.DrvOutput{Drv: "00000000000000000000000000000000-x.drv", Output: "out"}
	const p = nix.StorePath("11111111111111111111111111111111-x")
	for _, tt := range []struct{ file, text, want string }{
		{"realisations/sha256:00!out.doi", `{"id":"sha256:00!out","outPath":"` + string(p) + `"}`, ""},
		{"realisations/sha256:00!out.doi", `{"id":"sha256:00!out","outPath":"` + dir.Join(p) + `"}`, ""},
		{"realisations/sha256:00!out.doi", `{"id":"sha256:01!out","outPath":"` + string(p) + `"}`, "it is about"},
		{"realisations/sha256:00!out.doi", `{"id":"sha256:00!out","outPath":"../x"}`, "hash"},
		{"realisations/sha256:00!out.doi", `{`, "JSON"},
		{"build-trace-v2/" + string(id.Drv) + "/out.doi", `{"outPath":"` + string(p) + `","signatures":[]}`, ""},
		{"nothing", "", "not valid"},
	} {
		if err := c.write(t.Context(), tt.file, "", []byte(tt.text)); err != nil {
			t.Fatal(err)
		}
		r, err := c.Realisation(t.Context(), id, "sha256:00!out")
		if tt.want == "" && (err != nil || r.OutPath != p) || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %+v, %v, want %q", tt.text, r, err, tt.want)
		}
		if err := os.Remove(filepath.Join(path, tt.file)); err != nil {
			t.Error(err)
		}
	}
}
