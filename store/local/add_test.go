package local

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/storetest"
)

// bigArchive writes the archive of a directory with one large file and many small
// ones.
func bigArchive(w io.Writer, size int64) error {
	out := nar.NewWriter(w, nar.Limits{})
	block := make([]byte, 64<<10)
	for i := range block {
		block[i] = byte(i * i >> 3)
	}
	err := errors.Join(
		out.WriteHeader(nar.Header{Type: nar.Directory}),
		out.WriteHeader(nar.Header{Name: "big", Depth: 1, Type: nar.Regular, Size: size}))
	for ; err == nil && size > 0; size -= int64(len(block)) {
		_, err = out.Write(block[:min(size, int64(len(block)))])
	}
	for i := range 100 {
		err = errors.Join(err, out.WriteHeader(nar.Header{Name: fmt.Sprintf("small-%02d", i), Depth: 1, Type: nar.Regular, Size: 10}))
		if err == nil {
			_, err = out.Write(block[:10])
		}
	}
	return errors.Join(err, out.Close())
}

// Memory does not grow with what is added or read.
func TestBigObjectInConstantMemory(t *testing.T) {
	const size, limit = 200 << 20, 12 << 20
	sum := sha256.New()
	counter := newDigest(sum)
	if err := bigArchive(counter, size); err != nil {
		t.Fatal(err)
	}
	counter.wait()
	info := nix.PathInfo{Path: pathA, NARHash: nix.SumHash(nix.SHA256, sum), NARSize: counter.size}
	s := newStore(t)
	storetest.Add(t, s, storetest.Built(t, s.Dir(), "warm", false))

	measure := func(what string, call func() error) {
		t.Helper()
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if err := call(); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		// What was taken from the system for the heap, and is never given back.
		if grown := int64(after.HeapSys - before.HeapSys); grown > limit {
			t.Errorf("%s %d MiB took %d KiB of memory", what, size>>20, grown>>10)
		}
	}
	measure("adding", func() error {
		r, w := io.Pipe()
		go func() { w.CloseWithError(bigArchive(w, size)) }()
		defer r.Close()
		return s.Add(t.Context(), &info, r, store.AddOptions{})
	})
	sum.Reset()
	measure("reading", func() error { return s.NAR(t.Context(), pathA, sum) })
	if nix.SumHash(nix.SHA256, sum) != info.NARHash {
		t.Error("what was read has another hash")
	}
	measure("copying", func() error {
		_, err := s.AddTree(t.Context(), "big", s.RealPath(pathA), nix.Recursive, nix.SHA256)
		return err
	})
}

func TestContentAddressesOfTrees(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	archive := storetest.Archive(t, storetest.Node{Entries: []storetest.Node{{Name: "x", Content: "text"}}})
	add := func(ca nix.ContentAddress, refs nix.References, archive []byte) error {
		t.Helper()
		p, err := nix.MakeContentAddressedPath(s.Dir(), "x", ca, refs)
		if err != nil {
			t.Fatal(err)
		}
		info := &nix.PathInfo{Path: p, CA: ca, NARHash: nix.HashBytes(nix.SHA256, archive), NARSize: int64(len(archive))}
		if refs.Self {
			info.References = []nix.StorePath{p}
		}
		return s.Add(ctx, info, bytes.NewReader(archive), store.AddOptions{CheckSignatures: true})
	}
	for _, algo := range []nix.HashAlgorithm{nix.MD5, nix.SHA1, nix.SHA256, nix.SHA512, nix.BLAKE3} {
		ca := nix.ContentAddress{Method: nix.Recursive, Hash: nix.HashBytes(algo, archive)}
		if err := add(ca, nix.References{}, archive); err != nil {
			t.Errorf("%v: %v", algo, err)
		}
		ca.Hash = nix.HashBytes(algo, []byte("something else"))
		if err := add(ca, nix.References{}, archive); err == nil {
			t.Errorf("%v: a wrong content address was accepted", algo)
		}
		// The right hash, but of the file in it and not of the tree.
		ca = nix.ContentAddress{Method: nix.Flat, Hash: nix.HashBytes(algo, []byte("text"))}
		if err := add(ca, nix.References{}, archive); err == nil {
			t.Errorf("%v: a tree was accepted as a file", algo)
		}
	}
	ca := nix.ContentAddress{Method: nix.Git, Hash: nix.HashBytes(nix.SHA1, archive)}
	if err := add(ca, nix.References{}, archive); err == nil {
		t.Error("a content address that cannot be checked was accepted")
	}

	// An object that refers to itself: with its own hash part blanked, and with or
	// without its places behind that.
	blank := storetest.Archive(t, storetest.Node{Content: "I am " + strings.Repeat("\x00", 32)})
	at := bytes.Index(blank, make([]byte, 32))
	for _, hashed := range [][]byte{blank, fmt.Appendf(bytes.Clone(blank), "|%d", at)} {
		ca := nix.ContentAddress{Method: nix.Recursive, Hash: nix.HashBytes(nix.SHA256, hashed)}
		p, err := nix.MakeContentAddressedPath(s.Dir(), "x", ca, nix.References{Self: true})
		if err != nil {
			t.Fatal(err)
		}
		real := bytes.Replace(blank, make([]byte, 32), []byte(p.HashPart()), 1)
		if err := add(ca, nix.References{Self: true}, real); err != nil {
			t.Error(err)
		}
		ca.Hash = nix.HashBytes(nix.SHA256, []byte("something else"))
		if err := add(ca, nix.References{Self: true}, real); err == nil {
			t.Error("a wrong content address of an object that refers to itself was accepted")
		}
	}
}

func TestTrustedSignatures(t *testing.T) {
	o := options(t, tempDir(t))
	o.VerifySignatures = func(info *nix.PathInfo) error {
		if len(info.Signatures) == 0 || info.Signatures[0] != "good:c2ln" {
			return errors.New("not one of ours")
		}
		return nil
	}
	s := open(t, o)
	x := storetest.Built(t, s.Dir(), "x", false)
	checked := store.AddOptions{CheckSignatures: true}
	err := s.Add(t.Context(), &x.Info, bytes.NewReader(x.NAR), checked)
	if err == nil || !strings.Contains(err.Error(), "lacks a signature by a trusted key") || !strings.Contains(err.Error(), "not one of ours") {
		t.Errorf("error %v, want that a trusted signature is missing", err)
	}
	x.Info.Signatures = []string{"good:c2ln"}
	if err := s.Add(t.Context(), &x.Info, bytes.NewReader(x.NAR), checked); err != nil {
		t.Error(err)
	}
	storetest.Check(t, s, x)
}

// What lies in the place of an object without being valid is nobody's.
func TestT17LeftoversInTheWay(t *testing.T) {
	outside := t.TempDir()
	writeFiles(t, outside, map[string]string{"precious": "x"})
	for name, leave := range map[string]func(path string) error{
		"file":    func(path string) error { return os.WriteFile(path, []byte("left"), 0o444) },
		"symlink": func(path string) error { return os.Symlink(outside, path) },
		"fifo":    func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"directory": func(path string) error {
			return errors.Join(os.MkdirAll(path+"/a/b", 0o755), os.Chmod(path+"/a", 0), os.Chmod(path, 0))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			for _, o := range []storetest.Object{storetest.Built(t, s.Dir(), "x", true), storetest.Text(t, s.Dir(), "y", "text")} {
				for _, at := range []string{s.RealPath(o.Info.Path), s.RealPath(o.Info.Path) + ".tmp", s.RealPath(o.Info.Path) + ".chroot"} {
					if err := leave(at); err != nil {
						t.Fatal(err)
					}
				}
				storetest.Add(t, s, o)
				storetest.Check(t, s, o)
				for _, at := range []string{".tmp", ".chroot"} { // not ours to remove
					at = s.RealPath(o.Info.Path) + at
					os.Chmod(at, 0o700)
					os.Chmod(at+"/a", 0o700)
					if err := os.RemoveAll(at); err != nil {
						t.Error(err)
					}
				}
			}
			if left := names(t, outside); len(left) != 1 {
				t.Errorf("outside of the store there is %v", left)
			}
		})
	}
	// Nor is a link followed in the place of a lock.
	s := newStore(t)
	o := storetest.Text(t, s.Dir(), "z", "text")
	lock := s.RealPath(o.Info.Path) + ".lock"
	if err := os.Symlink(outside+"/precious", lock); err != nil {
		t.Fatal(err)
	}
	if err := s.Add(t.Context(), &o.Info, bytes.NewReader(o.NAR), store.AddOptions{}); err == nil {
		t.Error("a lock file that is a symbolic link was used")
	}
	if data, err := os.ReadFile(outside + "/precious"); string(data) != "x" || err != nil {
		t.Errorf("behind the link there is %q, %v", data, err)
	}
	if err := os.Remove(lock); err != nil {
		t.Error(err)
	}
}

func TestAddTreeRefuses(t *testing.T) {
	s := newStore(t)
	src := t.TempDir()
	writeFiles(t, src, map[string]string{"dir/x": "", "file": ""})
	if err := syscall.Mkfifo(src+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, path string
		method     nix.ContentAddressMethod
		algo       nix.HashAlgorithm
	}{
		{"x", "missing", nix.Recursive, nix.SHA256}, {"x", "missing", nix.Flat, nix.SHA256},
		{"x", "dir", nix.Flat, nix.SHA256}, {"x", "dir", nix.Text, nix.SHA256}, {"x", "fifo", nix.Recursive, nix.SHA256},
		{"x", "file", nix.Text, nix.SHA1}, {"x", "file", nix.Git, nix.SHA1}, {"a/b", "file", nix.Flat, nix.SHA256}, {"", "file", nix.Flat, nix.SHA256},
	} {
		_, err := s.AddTree(t.Context(), test.name, filepath.Join(src, test.path), test.method, test.algo)
		if err == nil || !strings.Contains(err.Error(), test.path) {
			t.Errorf("%v: error %v, want one that names %s", test, err, test.path)
		}
	}
}
