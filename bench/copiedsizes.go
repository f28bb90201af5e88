package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/local"
)

// copiedSizesItem is the name under which copiedSizesNote is asked for.
const copiedSizesItem = "copied-sizes"

// copiedSizesNote measures the peak memory of kiln copy for objects of several sizes, to
// every kind of store and back, as the largest of its processes had it. It tells whether memory
// stays the same, within what any program's memory differs by from one run to the next.
func (b *bench) copiedSizesNote(kiln string, sizes []int) (string, bool, error) {
	const spread = 12 << 20 // bytes
	var text strings.Builder
	fmt.Fprintf(&text, "\n%-12s", "copies, MiB")
	least, most := map[string]int64{}, map[string]int64{}
	for i, n := range sizes {
		p, source, err := b.largeSource(n)
		if err != nil {
			return "", false, err
		}
		kinds, end, err := b.copiedKinds(kiln, n)
		if err != nil {
			return "", false, err
		}
		if i == 0 {
			for _, k := range kinds {
				fmt.Fprintf(&text, "  %13s", k.name)
			}
			text.WriteString("   daemon; MiB RSS, to and from\n")
		}
		fmt.Fprintf(&text, "%-12d", n)
		for _, k := range kinds {
			var rss [2]int64
			back := b.path("back")
			for i, words := range [][]string{{"--from", source, "--to", k.uri}, {"--from", k.uri, "--to", back}} {
				c, err := b.cost("", nil, nil, append([]string{kiln, "copy", "--quiet", "--no-check-sigs"}, append(words, nix.DefaultStoreDir.Join(p))...)...)
				if err != nil {
					end()
					return "", false, fmt.Errorf("%s: %w", k.name, err)
				}
				rss[i] = c.RSS
				name := fmt.Sprintf("%s %d", k.name, i)
				if least[name] == 0 || c.RSS < least[name] {
					least[name] = c.RSS
				}
				most[name] = max(most[name], c.RSS)
			}
			fmt.Fprintf(&text, "  %5.1f / %5.1f", mebibytes(rss[0]), mebibytes(rss[1]))
			removeTree(back)
			removeTree(k.dir)
		}
		daemon, err := end()
		if err != nil {
			return "", false, err
		}
		fmt.Fprintf(&text, "  %5.1f\n", mebibytes(daemon.RSS))
		removeTree(source)
	}
	ok := true
	for name := range most {
		if most[name]-least[name] > spread {
			fmt.Fprintf(&text, "%s: from %.1f to %.1f MiB\n", name, mebibytes(least[name]), mebibytes(most[name]))
			ok = false
		}
	}
	fmt.Fprintf(&text, "%s: memory is the same whatever the size: %s\n", copiedSizesItem, met(ok))
	return text.String(), ok, nil
}

// A copiedKind is a store to copy to and from, whose files are below dir.
type copiedKind struct{ name, uri, dir string }

// copiedKinds gives a store of every kind; end ends what serves them, and tells what the
// daemon took. For the host localhost no ssh is started.
func (b *bench) copiedKinds(kiln string, n int) (kinds []copiedKind, end func() (cost, error), err error) {
	dir := func(name string) string { return b.path(fmt.Sprintf("sizes-%d-%s", n, name)) }
	web := httptest.NewServer(fileServer{dir("web")})
	s3 := httptest.NewServer(fileServer{dir("s3")})
	legacy := b.path("nix-store")
	os.Symlink(kiln, legacy) // by that name it takes --serve
	socket := b.path(fmt.Sprintf("socket-%d", n))
	daemon, err := b.launch("", nil, nil, kiln, "daemon", "--quiet", "--store", dir("unix"), "--socket", socket)
	if err == nil {
		_, err = awaitDaemon(socket, daemon.ended)
	}
	return []copiedKind{
		{"file none", "file://" + dir("none") + "?compression=none", dir("none")},
		{"file zstd", "file://" + dir("zstd") + "?compression=zstd", dir("zstd")},
		{"file xz", "file://" + dir("xz") + "?compression=xz&compression-level=0", dir("xz")},
		{"http zstd", web.URL + "?compression=zstd", dir("web")},
		{"s3 zstd", "s3://bucket?compression=zstd&scheme=http&region=x&multipart-threshold=10t&endpoint=" + strings.TrimPrefix(s3.URL, "http://"), dir("s3")},
		{"ssh-ng", "ssh-ng://localhost?remote-program=" + kiln + "%20daemon&remote-store=" + dir("ssh-ng"), dir("ssh-ng")},
		{"ssh", "ssh://localhost?remote-program=" + legacy + "&remote-store=" + dir("ssh"), dir("ssh")},
		{"unix", "unix://" + socket, dir("unix")},
	}, func() (cost, error) { web.Close(); s3.Close(); return daemon.stop() }, err
}

// largeSource makes a store with an object of n MiB, which compresses well but not to
// nothing.
func (b *bench) largeSource(n int) (p nix.StorePath, dir string, err error) {
	dir = b.path(fmt.Sprintf("sizes-%d-source", n))
	block := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte([]byte("the same bytes in every bench run")[:32])).Read(block)
	write := func(w io.Writer) error {
		out := nar.NewWriter(w, nar.Limits{})
		err := out.WriteHeader(nar.Header{Type: nar.Regular, Size: int64(n) << 20})
		for i := 0; i < n && err == nil; i++ {
			_, err = out.Write(block)
		}
		if err == nil {
			err = out.Close()
		}
		return err
	}
	sum, counted := nix.SHA256.New(), &counter{}
	if err := write(io.MultiWriter(sum, counted)); err != nil {
		return "", "", err
	}
	if p, err = nix.MakeStorePath(nix.DefaultStoreDir, "output:out", nix.HashBytes(nix.SHA256, fmt.Append(nil, n)), "large"); err != nil {
		return "", "", err
	}
	st, err := local.Open(context.Background(), local.ChrootOptions(dir))
	if err != nil {
		return "", "", err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(write(w)) }()
	err = st.Add(context.Background(), &nix.PathInfo{Path: p, NARHash: nix.SumHash(nix.SHA256, sum), NARSize: counted.n}, r, store.AddOptions{})
	r.Close()
	if cerr := st.Close(); err == nil {
		err = cerr
	}
	return p, dir, err
}

// A fileServer serves the files of a directory, and takes further ones.
type fileServer struct{ dir string }

func (s fileServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := filepath.Join(s.dir, filepath.FromSlash(filepath.Clean("/"+r.URL.Path)))
	if r.Method != http.MethodPut {
		http.ServeFile(w, r, name)
		return
	}
	err := os.MkdirAll(filepath.Dir(name), 0o755)
	if err == nil {
		var f *os.File
		if f, err = os.Create(name); err == nil {
			if _, err = io.Copy(f, r.Body); err == nil {
				err = f.Close()
			}
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}
