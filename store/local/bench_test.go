package local

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/kilnbuild/kiln/internal/rmtree"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/storetest"
)

func BenchmarkAddSmall(b *testing.B) {
	for name, change := range map[string]func(*Options){
		"plain":    func(*Options) {},
		"optimise": func(o *Options) { o.AutoOptimise = true },
		"fsync":    func(o *Options) { o.FsyncStorePaths = true },
	} {
		b.Run(name, func(b *testing.B) {
			o := options(b, benchDir(b))
			change(&o)
			s := open(b, o)
			var i int
			for b.Loop() {
				i++
				x := storetest.Text(b, s.Dir(), "x", fmt.Sprint(i))
				if err := s.Add(b.Context(), &x.Info, bytes.NewReader(x.NAR), store.AddOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAddBig(b *testing.B) {
	s := open(b, options(b, benchDir(b)))
	var archive bytes.Buffer
	if err := bigArchive(&archive, 64<<20); err != nil {
		b.Fatal(err)
	}
	sum := nix.HashBytes(nix.SHA256, archive.Bytes())
	b.SetBytes(int64(archive.Len()))
	for b.Loop() {
		info := &nix.PathInfo{Path: pathA, NARHash: sum}
		if err := s.Add(b.Context(), info, bytes.NewReader(archive.Bytes()), store.AddOptions{Repair: true}); err != nil {
			b.Fatal(err)
		}
	}
}

// benchDir is a directory in memory, if there is one: what is measured is not the
// disk. KILN_BENCH_DIR chooses another.
func benchDir(b *testing.B) string {
	b.Helper()
	parent := os.Getenv("KILN_BENCH_DIR")
	if info, err := os.Stat("/dev/shm"); parent == "" && err == nil && info.IsDir() {
		parent = "/dev/shm"
	}
	dir, err := os.MkdirTemp(parent, "kiln-bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := rmtree.RemoveTree(dir); err != nil {
			b.Error(err)
		}
	})
	return dir
}

func BenchmarkRegister(b *testing.B) {
	s := open(b, options(b, benchDir(b)))
	var refs []nix.StorePath
	for i := range 5 {
		o := storetest.Text(b, s.Dir(), "dep", fmt.Sprint(i))
		storetest.Add(b, s, o)
		refs = append(refs, o.Info.Path)
	}
	for _, together := range []int{1, 100} {
		b.Run(fmt.Sprintf("%d at a time", together), func(b *testing.B) {
			var i int
			for b.Loop() {
				objects := make([]Registration, together)
				for k := range objects {
					i++
					p, err := nix.MakeStorePath(s.Dir(), "output:out", nix.HashBytes(nix.SHA256, fmt.Append(nil, together, i)), "x")
					if err != nil {
						b.Fatal(err)
					}
					objects[k].Info = nix.PathInfo{Path: p, NARHash: nix.HashBytes(nix.SHA256, nil), NARSize: 1, References: refs}
				}
				if err := s.Register(b.Context(), objects); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*together), "ns/object")
		})
	}
	forgetAll(b, s)
}

// forgetAll makes the objects invalid that were registered without files.
func forgetAll(b *testing.B, s *Store) {
	b.Helper()
	var all []nix.StorePath
	for p, err := range s.AllValidPaths(b.Context()) {
		if err != nil {
			b.Fatal(err)
		}
		if !exists(s.RealPath(p)) {
			all = append(all, p)
		}
	}
	if err := s.Invalidate(b.Context(), all...); err != nil {
		b.Error(err)
	}
}

func BenchmarkPathInfo(b *testing.B) {
	s := open(b, options(b, benchDir(b)))
	var refs []nix.StorePath
	for i := range 5 {
		o := storetest.Text(b, s.Dir(), "dep", fmt.Sprint(i))
		storetest.Add(b, s, o)
		refs = append(refs, o.Info.Path)
	}
	x := storetest.Built(b, s.Dir(), "x", false, refs...)
	storetest.Add(b, s, x)
	b.Run("info", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.PathInfo(b.Context(), x.Info.Path); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("valid", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.ValidPaths(b.Context(), refs); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkOpenClose(b *testing.B) {
	o := options(b, benchDir(b))
	open(b, o).Close()
	for b.Loop() {
		s, err := Open(b.Context(), o)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLock(b *testing.B) {
	s := open(b, options(b, benchDir(b)))
	for b.Loop() {
		l, err := s.LockPaths(b.Context(), []nix.StorePath{pathA}, nil)
		if err != nil {
			b.Fatal(err)
		}
		l.Release()
	}
}

func BenchmarkTempRoot(b *testing.B) {
	s := open(b, options(b, benchDir(b)))
	var i int
	for b.Loop() {
		i++
		p, err := nix.MakeStorePath(s.Dir(), "output:out", nix.HashBytes(nix.SHA256, fmt.Append(nil, i)), "x")
		if err != nil {
			b.Fatal(err)
		}
		if err := s.AddTempRoot(b.Context(), p); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSync is what registering an object costs that is synced, by its number
// of files.
func BenchmarkSync(b *testing.B) {
	for _, fsync := range []bool{false, true} {
		for _, files := range []int{1, 8, 15, 16, 100} {
			b.Run(fmt.Sprintf("fsync=%t/%d files", fsync, files), func(b *testing.B) {
				o := options(b, benchDir(b))
				o.FsyncStorePaths = fsync
				s := open(b, o)
				var i int
				for b.Loop() {
					i++
					node := storetest.Node{Entries: []storetest.Node{}}
					for k := range files {
						node.Entries = append(node.Entries, storetest.Node{Name: fmt.Sprintf("%03d", k), Content: fmt.Sprint(i)})
					}
					archive := storetest.Archive(b, node)
					p, err := nix.MakeStorePath(s.Dir(), "output:out", nix.HashBytes(nix.SHA256, archive), "x")
					if err != nil {
						b.Fatal(err)
					}
					info := &nix.PathInfo{Path: p, NARHash: nix.HashBytes(nix.SHA256, archive)}
					if err := s.Add(b.Context(), info, bytes.NewReader(archive), store.AddOptions{}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkRecoverNothing is what opening a store pays for recovery.
func BenchmarkRecoverNothing(b *testing.B) {
	s := newStore(b)
	if err := s.Note(TransientTree, s.RealDir()+"/x"); err != nil { // so that there is a directory
		b.Fatal(err)
	}
	if err := s.Done(TransientTree, s.RealDir()+"/x"); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := s.Recover(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}
