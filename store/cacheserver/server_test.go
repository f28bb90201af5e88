package cacheserver

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/sign"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/binarycache"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/kilnbuild/kiln/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const dir = nix.DefaultStoreDir

type served struct {
	t     *testing.T
	store *local.Store
	url   string
	key   sign.SecretKey
}

// serve serves a store with objects.
func serve(t *testing.T, opts Options, objects ...storetest.Object) *served {
	t.Helper()
	k, err := sign.GenerateKey("test-1")
	if err != nil {
		t.Fatal(err)
	}
	options := local.ChrootOptions(storetest.Root(t))
	options.CADerivations = true
	st, err := local.Open(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	storetest.Add(t, st, objects...)
	opts.Keys = []sign.SecretKey{k}
	handler, err := New(st, opts)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(handler)
	t.Cleanup(func() { s.Close(); st.Close() })
	return &served{t, st, s.URL, k}
}

// ask makes a request, with pairs of headers.
func (s *served) ask(method, path string, headers ...string) (*http.Response, string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Error(err)
	}
	return resp, string(body)
}

// TestFetch has a client of binary caches copy everything, with signatures required.
func TestFetch(t *testing.T) {
	dep := storetest.Text(t, dir, "dep", strings.Repeat("text", 100_000))
	top := storetest.Built(t, dir, "top", true, dep.Info.Path)
	for _, compression := range []string{"", "none"} {
		s := serve(t, Options{Compression: compression, Priority: 17}, dep, top)
		c, err := binarycache.OpenHTTP(t.Context(), s.url, binarycache.Options{}, binarycache.HTTPOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if about := c.About(); about.Priority != 17 || !about.WantMassQuery {
			t.Errorf("%+v", about)
		}
		target, err := binarycache.OpenDirectory(t.Context(), t.TempDir(), binarycache.Options{Create: true, Compression: "none", Trusted: sign.NewKeys(s.key.Public())})
		if err != nil {
			t.Fatal(err)
		}
		if err := store.CopyClosure(t.Context(), c, target, []nix.StorePath{top.Info.Path}, store.CopyOptions{CheckSignatures: true}); err != nil {
			t.Error(err)
		}
		storetest.CheckMissing(t, c, "00000000000000000000000000000000-none")
		c.Close()
	}
}

func TestParts(t *testing.T) {
	o := storetest.Text(t, dir, "o", strings.Repeat("0123456789", 20_000))
	s := serve(t, Options{}, o)
	path := "/nar/" + archiveName(&o.Info)
	size := len(o.NAR)
	for _, tt := range []struct {
		asked    string
		from, to int
		status   int
	}{
		{"", 0, size, 200},
		{"bytes=100000-", 100_000, size, 206},
		{"bytes=5-9", 5, 10, 206},
		{"bytes=-7", size - 7, size, 206},
		{"bytes=0-0,5-6", 0, size, 200},
		{fmt.Sprintf("bytes=%d-", size), 0, 0, 416},
	} {
		resp, body := s.ask("GET", path, "Range", tt.asked)
		if resp.StatusCode != tt.status || tt.status < 300 && body != string(o.NAR[tt.from:tt.to]) {
			t.Errorf("%q: %s, %d bytes", tt.asked, resp.Status, len(body))
		}
	}
	if resp, body := s.ask("GET", path, "Range", "bytes=5-", "If-Range", `"other"`); resp.StatusCode != 200 || len(body) != size {
		t.Errorf("of another archive: %s, %d bytes", resp.Status, len(body))
	}
	if resp, body := s.ask("HEAD", path); resp.ContentLength != int64(size) || body != "" {
		t.Errorf("HEAD: %s, %d", resp.Status, resp.ContentLength)
	}
}

func TestOther(t *testing.T) {
	o := storetest.Built(t, dir, "o", false)
	s := serve(t, Options{}, o)
	drv := &nix.Derivation{BasicDerivation: nix.BasicDerivation{
		Name: "x", System: "s", Builder: "b", Env: map[string]string{"out": nix.Placeholder("out")},
		Outputs: map[nix.OutputName]nix.DerivationOutput{"out": {Kind: nix.Floating, Method: nix.Recursive, Algorithm: nix.SHA256}},
	}}
	p, err := s.store.AddDerivation(t.Context(), drv)
	if err != nil {
		t.Fatal(err)
	}
	id := nix.DrvOutput{Drv: p, Output: "out"}
	if err := s.store.RegisterRealisation(t.Context(), &nix.Realisation{ID: id, OutPath: o.Info.Path}); err != nil {
		t.Fatal(err)
	}
	legacy, err := s.store.LegacyRealisationID(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.store.AddBuildLog(t.Context(), p, strings.NewReader("what it said\n")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/log/" + string(p):                         "what it said\n",
		"/" + o.Info.Path.HashPart() + ".ls":        `{"version":1,"root":{"type":"directory","entries":{"bin":`,
		"/" + o.Info.Path.HashPart() + ".narinfo":   "StorePath: " + dir.Join(o.Info.Path) + "\n",
		"/realisations/" + legacy + ".doi":          `{"dependentRealisations":{},"id":"` + legacy + `","outPath":"` + string(o.Info.Path) + `","signatures":["test-1:`,
		"/build-trace-v2/" + string(p) + "/out.doi": `{"outPath":"` + string(o.Info.Path) + `","signatures":["test-1:`,
		"/nix-cache-info":                           "StoreDir: /nix/store\n",
	} {
		if resp, body := s.ask("GET", path); resp.StatusCode != 200 || !strings.HasPrefix(body, want) {
			t.Errorf("%s: %s, %q", path, resp.Status, body)
		}
		if resp, body := s.ask("HEAD", path); resp.StatusCode != 200 || body != "" {
			t.Errorf("HEAD %s: %s, %q", path, resp.Status, body)
		}
	}
	c, err := binarycache.OpenHTTP(t.Context(), s.url, binarycache.Options{}, binarycache.HTTPOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if r, err := c.Realisation(t.Context(), id, legacy); err != nil || !sign.NewKeys(s.key.Public()).Trusted(r.Fingerprint, r.Signatures) {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestNotThere(t *testing.T) {
	o := storetest.Built(t, dir, "o", false)
	s := serve(t, Options{}, o)
	hash := o.Info.Path.HashPart()
	for _, path := range []string{
		"/", "/x", "/nar/", "/nar/" + hash, "/nar/" + hash + "-" + strings.Repeat("0", 52) + ".nar", "/nar/" + archiveName(&o.Info) + ".xz", "/nar/../nix-cache-info",
		"/" + hash, "/" + hash + ".narinfo.x", "/" + hash[:31] + ".narinfo", "/" + hash + "x.narinfo", "/a/" + hash + ".narinfo", "/%2e%2e/" + hash + ".narinfo",
		"/log/" + string(o.Info.Path), "/log/../../etc/passwd", "/log/00000000000000000000000000000000-x.drv",
		"/realisations/x", "/realisations/sha256:00!out.doi", "/realisations/sha256:00!../x.doi", "/build-trace-v2/x/out.doi", "/build-trace-v2/00000000000000000000000000000000-x.drv/out.doi",
	} {
		if resp, _ := s.ask("GET", path); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	for _, method := range []string{"PUT", "POST", "DELETE"} {
		if resp, _ := s.ask(method, "/"+hash+".narinfo"); resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s: %s", method, resp.Status)
		}
	}
	if _, err := New(s.store, Options{Compression: "rar"}); err == nil {
		t.Error("it compresses by rar")
	}
}

// TestStalledClient reads nothing of a large answer, and is not waited for.
func TestStalledClient(t *testing.T) {
	o := storetest.Text(t, dir, "o", strings.Repeat("0123456789abcdef", 1<<20))
	warned := make(chan error, 1)
	s := serve(t, Options{Compression: "none", Stalled: 100 * time.Millisecond, Streams: 1, Warn: func(err error) { warned <- err }}, o)
	resp, err := http.Get(s.url + "/nar/" + archiveName(&o.Info))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	// The one stream there is can be had again.
	resp2, body := s.ask("GET", "/nar/"+archiveName(&o.Info), "Range", "bytes=0-7")
	if resp2.StatusCode != 206 || !bytes.Equal([]byte(body), o.NAR[:8]) {
		t.Errorf("%s, %q", resp2.Status, body)
	}
}
