package main

import (
	"context"
	"errors"
	"os"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/binarycache"
	"github.com/kilnbuild/kiln/store/local"
)

// fetched makes a binary cache that has a path of n MB, compressed by a method, and a
// store without it. The level is a fast one: unpacking is what is measured.
func fetched(method string) func(b *bench, n int) (*chore, error) {
	return func(b *bench, n int) (*chore, error) {
		dir, seed := b.path("cache-"+method), b.path("seed-fetched-"+method)
		st, err := local.Open(context.Background(), local.ChrootOptions(seed))
		if err != nil {
			return nil, err
		}
		if err := st.Close(); err != nil {
			return nil, err
		}
		p, err := fillCache(dir, method, n)
		if err != nil {
			return nil, err
		}
		full := nix.DefaultStoreDir.Join(p)
		options := []string{"--option", "substituters", "file://" + dir, "--option", "require-sigs", "false"}
		return &chore{
			store:  seed,
			nix:    append([]string{"--store", "@store@", "--realise", full}, options...),
			kiln:   append([]string{"--store", "@store@", "build", full}, options...),
			result: func(store string, _ []byte) (map[string]string, error) { return b.hashes(store) },
			close:  func() { removeTree(dir) },
		}, nil
	}
}

func fillCache(dir, method string, n int) (nix.StorePath, error) {
	level := 1
	c, err := binarycache.OpenDirectory(context.Background(), dir, binarycache.Options{Create: true, Compression: method, Level: &level, Parallel: true})
	if err != nil {
		return "", err
	}
	info := nix.PathInfo{}
	if info.Path, err = nix.MakeStorePath(nix.DefaultStoreDir, "output:out", nix.HashBytes(nix.SHA256, nil), "fetched"); err != nil {
		return "", err
	}
	sum := nix.SHA256.New()
	if err := mixedTree(sum, n); err != nil {
		return "", err
	}
	info.NARHash = nix.SumHash(nix.SHA256, sum)
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	written := make(chan error, 1)
	go func() { written <- errors.Join(mixedTree(w, n), w.Close()) }()
	err = c.Add(context.Background(), &info, r, store.AddOptions{})
	r.Close()
	return info.Path, errors.Join(err, <-written)
}
