package main

import (
	"context"
	"errors"
	"math/rand/v2"
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
	if err := mixedTree(sum, n, newProse()); err != nil {
		return "", err
	}
	info.NARHash = nix.SumHash(nix.SHA256, sum)
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	written := make(chan error, 1)
	go func() { written <- errors.Join(mixedTree(w, n, newProse()), w.Close()) }()
	err = c.Add(context.Background(), &info, r, store.AddOptions{})
	r.Close()
	return info.Path, errors.Join(err, <-written)
}

// prose is text without an end, the same each time: words that are as unequally frequent
// as those of a language. What compresses does so about as well as it does with the files
// of programs, and unpacking is as much work. (Random bytes are stored, and just copied.)
type prose struct {
	random *rand.ChaCha8
	words  [1 << 12][]byte // as often as they are to come
	rest   []byte
}

func newProse() *prose {
	p := &prose{random: random()}
	r := rand.New(p.random)
	vocabulary := make([][]byte, 5000)
	for i := range vocabulary {
		word := make([]byte, 2+r.IntN(12))
		for j := range word {
			word[j] = 'a' + byte(r.IntN(26))
		}
		word[len(word)-1] = ' '
		vocabulary[i] = word
	}
	frequency := rand.NewZipf(r, 1.1, 4, uint64(len(vocabulary)-1))
	for i := range p.words {
		p.words[i] = vocabulary[frequency.Uint64()]
	}
	return p
}

// Read implements io.Reader.
func (p *prose) Read(b []byte) (int, error) {
	n := 0
	for n < len(b) {
		if len(p.rest) == 0 {
			p.rest = p.words[p.random.Uint64()%uint64(len(p.words))]
		}
		took := copy(b[n:], p.rest)
		n, p.rest = n+took, p.rest[took:]
	}
	return n, nil
}
