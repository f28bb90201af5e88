package lookups

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/narinfo"
)

const (
	dir      = nix.DefaultStoreDir
	cacheURL = "http://cache.example.org"
)

func info(t testing.TB) *narinfo.Info {
	t.Helper()
	i, err := narinfo.Parse(dir, []byte(`StorePath: /nix/store/ivlnvab4q9c7wbsvbfsvgaa15j9p6206-hello
URL: nar/1xmr8jicvzszfzpz46g37mlpvbzjl2wpwvl2b05psipssyp1sm8h.nar.xz
Compression: xz
FileHash: sha256:1xmr8jicvzszfzpz46g37mlpvbzjl2wpwvl2b05psipssyp1sm8h
FileSize: 100
NarHash: sha256:1xmr8jicvzszfzpz46g37mlpvbzjl2wpwvl2b05psipssyp1sm8h
NarSize: 128
References: 00000000000000000000000000000000-a ivlnvab4q9c7wbsvbfsvgaa15j9p6206-hello
Deriver: 11111111111111111111111111111111-hello.drv
Sig: a-1:c2ln
Sig: b-1:c2ln
CA: fixed:r:sha256:1xmr8jicvzszfzpz46g37mlpvbzjl2wpwvl2b05psipssyp1sm8h
`))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

var usual = TTL{Positive: time.Hour, Negative: time.Minute, Meta: 2 * time.Hour}

func open(t testing.TB, path string) *Cache {
	t.Helper()
	c, err := Open(path, usual, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestAnswers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep/er", FileName)
	c := open(t, path)
	now := time.Now()
	c.file.now = func() time.Time { return now }
	want, hash := info(t), info(t).Path.HashPart()
	const other, output = "00000000000000000000000000000000", "sha256:00!out"

	// Of a cache that nobody has described nothing is remembered.
	c.SetAbsent(cacheURL, hash)
	if a, _ := c.Narinfo(cacheURL, dir, hash); a != Unknown {
		t.Errorf("answer %d", a)
	}
	if _, ok := c.Describe(cacheURL); ok {
		t.Error("it is described")
	}
	about := Description{dir, true, 40}
	c.SetDescription(cacheURL, about)
	c.SetNarinfo(cacheURL, want)
	c.SetAbsent(cacheURL, other)
	c.SetRealisation(cacheURL, output, []byte("{}"))
	c.SetRealisation(cacheURL, output+"x", nil)

	// Another process.
	c = open(t, path)
	c.file.now = func() time.Time { return now }
	if d, ok := c.Describe(cacheURL); !ok || d != about {
		t.Errorf("%+v, %v", d, ok)
	}
	a, got := c.Narinfo(cacheURL, dir, hash)
	if d := cmp.Diff(want, got, cmp.AllowUnexported(nix.Hash{})); a != Present || d != "" {
		t.Errorf("answer %d (-want +got):\n%s", a, d)
	}
	if a, _ := c.Narinfo(cacheURL, dir, other); a != Absent {
		t.Errorf("answer %d", a)
	}
	if a, text := c.Realisation(cacheURL, output); a != Present || string(text) != "{}" {
		t.Errorf("answer %d, %q", a, text)
	}
	if a, _ := c.Realisation(cacheURL, output+"x"); a != Absent {
		t.Errorf("answer %d", a)
	}
	if a, _ := c.Narinfo(cacheURL+"/other", dir, hash); a != Unknown {
		t.Errorf("answer %d of another cache", a)
	}

	// Time passes.
	now = now.Add(2 * time.Minute)
	if a, _ := c.Narinfo(cacheURL, dir, other); a != Unknown {
		t.Errorf("answer %d after the negative TTL", a)
	}
	if a, _ := c.With(TTL{Negative: time.Hour}).Narinfo(cacheURL, dir, other); a != Absent {
		t.Errorf("answer %d with a longer TTL", a)
	}
	if a, _ := c.Narinfo(cacheURL, dir, hash); a != Present {
		t.Errorf("answer %d", a)
	}
	now = now.Add(time.Hour)
	if a, _ := c.Narinfo(cacheURL, dir, hash); a != Unknown {
		t.Errorf("answer %d after the positive TTL", a)
	}
	if _, ok := c.Describe(cacheURL); !ok {
		t.Error("it is not described any more")
	}
	c.SetNarinfo(cacheURL, want)
	c.Forget(cacheURL, hash)
	if a, _ := c.Narinfo(cacheURL, dir, hash); a != Unknown {
		t.Errorf("answer %d of what was forgotten", a)
	}
	now = now.Add(time.Hour)
	if _, ok := c.Describe(cacheURL); ok {
		t.Error("it is described after the TTL")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	c.SetAbsent(cacheURL, hash)
	if _, ok := c.Describe(cacheURL); ok || c.Close() != nil {
		t.Error("a closed one answers")
	}
}

// TestNonsense has rows that nobody could have written, and a file that is none.
func TestNonsense(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	c := open(t, path)
	c.SetDescription(cacheURL, Description{StoreDir: dir})
	i := info(t)
	for name, change := range map[string]func(i *narinfo.Info){
		"name":       func(i *narinfo.Info) { i.Path = i.Path[:33] + "\n" },
		"references": func(i *narinfo.Info) { i.References = []nix.StorePath{"nonsense"} },
		"no archive": func(i *narinfo.Info) { i.URL = "" },
		"size":       func(i *narinfo.Info) { i.NARSize = -1 },
	} {
		bad := *i
		change(&bad)
		c.SetNarinfo(cacheURL, &bad)
		if a, got := c.Narinfo(cacheURL, dir, i.Path.HashPart()); a != Unknown {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if err := os.WriteFile(path+"x", []byte("this is no database, but a text that is longer than a header"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := Open(path+"x", usual, true); err == nil {
		c.Close()
		t.Error("it was opened")
	}
}

func TestPurge(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	c := open(t, path)
	now := time.Now()
	c.file.now = func() time.Time { return now }
	c.SetDescription(cacheURL, Description{StoreDir: dir})
	c.SetAbsent(cacheURL, info(t).Path.HashPart())
	c.SetNarinfo(cacheURL, info(t))
	c.SetAbsent(cacheURL, "00000000000000000000000000000000")
	now = now.Add(25 * time.Hour)
	if err := c.purge(); err != nil {
		t.Fatal(err)
	}
	long := c.With(TTL{Positive: 100 * time.Hour, Negative: 100 * time.Hour})
	if a, _ := long.Narinfo(cacheURL, dir, info(t).Path.HashPart()); a != Present {
		t.Errorf("answer %d", a)
	}
	if a, _ := long.Narinfo(cacheURL, dir, "00000000000000000000000000000000"); a != Unknown {
		t.Errorf("answer %d", a)
	}
}
