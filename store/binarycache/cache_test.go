package binarycache

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	dsnet "github.com/dsnet/compress/bzip2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"go.uber.org/goleak"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/narinfo"
	"github.com/kilnbuild/kiln/nix/sign"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const dir = nix.DefaultStoreDir

// create makes a cache in a directory that must have no temporary files at the end.
func create(t testing.TB, opts Options) (*Cache, string) {
	t.Helper()
	opts.Create = true
	path := t.TempDir()
	c, err := OpenDirectory(context.Background(), path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left, _ := filepath.Glob(path + "/.kiln-*"); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	return c, path
}

func TestDirectory(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		c, _ := create(t, Options{Compression: "zstd"})
		return c
	})
}

// TestWrites has archives compressed in all ways that can be written.
func TestWrites(t *testing.T) {
	methods := []string{"none", "zstd", "gzip", "br"}
	if _, err := exec.LookPath("xz"); err == nil {
		methods = append(methods, "xz")
	}
	o := storetest.Built(t, dir, "o", true)
	one := 1
	for _, method := range methods {
		for _, opts := range []Options{{}, {Level: &one, Parallel: true}} {
			opts.Compression = method
			c, _ := create(t, opts)
			storetest.Add(t, c, o)
			clear(c.known)
			storetest.Check(t, c, o)
			// What fails leaves no process.
			if err := c.Add(t.Context(), &o.Info, bytes.NewReader(o.NAR[:100]), store.AddOptions{Repair: true}); err == nil {
				t.Errorf("%s: half an archive was added", method)
			}
		}
	}
	c, _ := create(t, Options{Compression: "rar"})
	if err := c.Add(t.Context(), &o.Info, bytes.NewReader(o.NAR), store.AddOptions{}); err == nil || !strings.Contains(err.Error(), "use none, xz") {
		t.Errorf("error %v", err)
	}
}

// A server has files, and takes some.
type server struct {
	mu    sync.Mutex
	files map[string][]byte
	// before, if set, may answer a request itself.
	before func(w http.ResponseWriter, r *http.Request) bool
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.before != nil && s.before(w, r) {
		return
	}
	s.mu.Lock()
	content, ok := s.files[r.URL.Path]
	s.mu.Unlock()
	switch {
	case r.Method == http.MethodPut:
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.files[r.URL.Path] = b
	case !ok:
		http.NotFound(w, r)
	default:
		w.Header().Set("ETag", fmt.Sprintf(`"%d"`, len(content)))
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}
}

// serve opens a cache behind HTTP.
func serve(t testing.TB, s *server, opts Options) *Cache {
	t.Helper()
	if s.files == nil {
		s.files = make(map[string][]byte)
	}
	hs := httptest.NewServer(s)
	t.Cleanup(hs.Close)
	opts.Create = true
	c, err := OpenHTTP(t.Context(), hs.URL+"/", opts, HTTPOptions{Delay: time.Millisecond, Stalled: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestHTTP(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return serve(t, &server{}, Options{Compression: "zstd"}) })
}

// TestReads has archives compressed in all ways that can be read.
func TestReads(t *testing.T) {
	o := storetest.Built(t, dir, "o", true)
	for method, pack := range map[string]func(w io.Writer) io.WriteCloser{
		"none":  func(w io.Writer) io.WriteCloser { return nopCloser{w} },
		"gzip":  func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
		"br":    func(w io.Writer) io.WriteCloser { return brotli.NewWriter(w) },
		"lz4":   func(w io.Writer) io.WriteCloser { return lz4.NewWriter(w) },
		"zstd":  func(w io.Writer) io.WriteCloser { z, _ := zstd.NewWriter(w); return z },
		"bzip2": func(w io.Writer) io.WriteCloser { z, _ := dsnet.NewWriter(w, nil); return z },
	} {
		c, path := create(t, Options{})
		var b bytes.Buffer
		z := pack(&b)
		z.Write(o.NAR)
		z.Close()
		put(t, path, o, narinfo.Info{URL: "nar/x", Compression: method}, b.Bytes())
		storetest.Check(t, c, o)
	}
}

// put writes an object into the directory of a cache by hand.
func put(t testing.TB, path string, o storetest.Object, i narinfo.Info, file []byte) {
	t.Helper()
	if i.Path == "" {
		i.PathInfo = o.Info
	}
	os.MkdirAll(filepath.Join(path, "nar"), 0o755)
	if err := os.WriteFile(filepath.Join(path, "nar/x"), file, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, narinfoName(o.Info.Path)), i.Append(nil, dir), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestBadCaches(t *testing.T) {
	o := storetest.Built(t, dir, "o", false)
	var bomb bytes.Buffer
	z, _ := zstd.NewWriter(&bomb)
	zeros := make([]byte, 1<<20)
	for range 1 << 10 {
		z.Write(zeros)
	}
	z.Close()
	for name, c := range map[string]struct {
		change func(i *narinfo.Info)
		file   []byte
		want   string
	}{
		"hash":       {func(i *narinfo.Info) { i.NARHash = nix.HashBytes(nix.SHA256, nil) }, o.NAR, "has the hash"},
		"longer":     {func(i *narinfo.Info) { i.NARSize-- }, o.NAR, "has more than"},
		"shorter":    {func(i *narinfo.Info) { i.NARSize++ }, o.NAR, "bytes, not"},
		"cut off":    {nil, o.NAR[:100], "has 100 bytes, not"},
		"other path": {func(i *narinfo.Info) { i.Path = storetest.Built(t, dir, "other", false).Info.Path }, o.NAR, "it is about"},
		"up":         {func(i *narinfo.Info) { i.URL = "../x" }, o.NAR, "leads out of the cache"},
		"absolute":   {func(i *narinfo.Info) { i.URL = "/etc/passwd" }, o.NAR, "leads out of the cache"},
		"elsewhere":  {func(i *narinfo.Info) { i.URL = "http://elsewhere/x" }, o.NAR, "leads out of the cache"},
		"missing":    {func(i *narinfo.Info) { i.URL = "nar/none" }, o.NAR, "no such file"},
		"unknown":    {func(i *narinfo.Info) { i.Compression = "rar" }, o.NAR, "not supported"},
		"not packed": {func(i *narinfo.Info) { i.Compression = "xz" }, o.NAR, "unpack"},
		"bomb":       {func(i *narinfo.Info) { i.Compression = "zstd" }, bomb.Bytes(), "has more than"},
	} {
		t.Run(name, func(t *testing.T) {
			cache, path := create(t, Options{})
			i := narinfo.Info{PathInfo: o.Info, URL: "nar/x", Compression: "none"}
			if c.change != nil {
				c.change(&i)
			}
			put(t, path, o, i, c.file)
			to := storetest.NewMemory(dir)
			err := store.Copy(t.Context(), cache, to, []nix.StorePath{o.Info.Path}, store.CopyOptions{})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), string(o.Info.Path)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			storetest.CheckMissing(t, to, o.Info.Path)
		})
	}
	elsewhere := t.TempDir()
	if _, err := OpenDirectory(t.Context(), elsewhere, Options{}); err == nil || !strings.Contains(err.Error(), "no binary cache") {
		t.Errorf("what is no cache: %v", err)
	}
	os.WriteFile(elsewhere+"/nix-cache-info", []byte("StoreDir: /gnu/store\n"), 0o644)
	if _, err := OpenDirectory(t.Context(), elsewhere, Options{}); err == nil || !strings.Contains(err.Error(), "/gnu/store") {
		t.Errorf("a cache for another store directory: %v", err)
	}
}

// TestServerFaults has a server that fails now and then.
func TestServerFaults(t *testing.T) {
	o := storetest.Text(t, dir, "big", strings.Repeat("some text ", 300_000))
	var faults atomic.Int32
	s := &server{}
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet {
			return false
		}
		switch faults.Add(1) {
		case 1, 4:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 2, 5, 6:
			s.mu.Lock()
			content := s.files[r.URL.Path]
			s.mu.Unlock()
			if r.Header.Get("Range") != "" {
				return false
			}
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
			w.Header().Set("ETag", fmt.Sprintf(`"%d"`, len(content)))
			w.Write(content[:len(content)/3])
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		default:
			return false
		}
		return true
	}
	c := serve(t, s, Options{Compression: "none"})
	storetest.Add(t, c, o)
	clear(c.known)
	faults.Store(0)
	storetest.Check(t, c, o)
	if n := faults.Load(); n < 4 {
		t.Errorf("only %d requests", n)
	}
}

func TestServerNeverAnswersWell(t *testing.T) {
	o := storetest.Text(t, dir, "text", "text")
	s := &server{}
	c := serve(t, s, Options{Compression: "none"})
	storetest.Add(t, c, o)
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/nar/") {
			http.Error(w, "no", http.StatusInternalServerError)
			return true
		}
		return false
	}
	if err := c.NAR(t.Context(), o.Info.Path, io.Discard); err == nil || !strings.Contains(err.Error(), "500") {
		t.Errorf("error %v", err)
	}
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", "1000000")
		w.Write([]byte("x"))
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return true
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, errors.New("enough"))
	defer cancel()
	if err := c.NAR(ctx, o.Info.Path, io.Discard); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("error %v", err)
	}
}

func TestSigns(t *testing.T) {
	k, err := sign.GenerateKey("test-1")
	if err != nil {
		t.Fatal(err)
	}
	c, _ := create(t, Options{Keys: []sign.SecretKey{k}, Compression: "none"})
	o := storetest.Built(t, dir, "o", false)
	storetest.Add(t, c, o)
	info, err := c.PathInfo(t.Context(), o.Info.Path)
	if err != nil || !sign.NewKeys(k.Public()).TrustedObject(dir, info) {
		t.Errorf("%+v, %v", info, err)
	}
	trusting, _ := create(t, Options{Trusted: sign.NewKeys(k.Public())})
	checked := store.CopyOptions{CheckSignatures: true}
	if err := store.Copy(t.Context(), c, trusting, []nix.StorePath{o.Info.Path}, checked); err != nil {
		t.Error(err)
	}
	other, _ := create(t, Options{})
	if err := store.Copy(t.Context(), c, other, []nix.StorePath{o.Info.Path}, checked); err == nil || !strings.Contains(err.Error(), "lacks a signature") {
		t.Errorf("error %v", err)
	}
}

func TestNoPermission(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may everything")
	}
	c, path := create(t, Options{})
	o := storetest.Text(t, dir, "text", "text")
	os.Chmod(path, 0o555)
	defer os.Chmod(path, 0o755)
	if err := c.Add(t.Context(), &o.Info, bytes.NewReader(o.NAR), store.AddOptions{}); !errors.Is(err, os.ErrPermission) {
		t.Errorf("error %v", err)
	}
}

func FuzzDecompress(f *testing.F) {
	for _, method := range []string{"none", "zstd", "gzip", "br"} {
		var b bytes.Buffer
		z, err := compressor{method: method, level: -1}.writer(context.Background(), &b)
		if err != nil {
			f.Fatal(err)
		}
		z.Write([]byte("some text"))
		z.Close()
		f.Add(method, b.Bytes())
	}
	f.Add("xz", []byte("\xfd7zXZ\x00\x00"))
	f.Add("bzip2", []byte("BZh9"))
	f.Add("lz4", []byte("\x04\x22\x4d\x18"))
	f.Fuzz(func(t *testing.T, method string, data []byte) {
		r, err := decompress(method, bytes.NewReader(data))
		if err != nil {
			return
		}
		defer r.Close()
		const most = 1 << 20
		io.Copy(io.Discard, io.LimitReader(r, most))
	})
}
