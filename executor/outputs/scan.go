package outputs

import (
	"context"
	"crypto/sha256"
	"hash"
	"io"
	"sync"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/nix/refscan"
)

// scanned is what one walk over an output gives.
type scanned struct {
	narHash nix.Hash
	narSize int64
	refs    []string // hash parts, sorted
}

// scan walks the tree at path once and gives the hash and size of its archive
// and which of the candidates' hash parts occur in it. onInode sees every inode
// before its content is read.
func scan(ctx context.Context, path string, candidates []string, onInode func(*nar.Inode) error) (scanned, error) {
	digest := sha256.New()
	finder, err := refscan.NewScanner(candidates)
	if err != nil {
		return scanned{}, err
	}
	tee := newTee(ctx, digest, finder)
	size, err := nar.Dump(tee, path, nar.DumpOptions{Inode: onInode, MakeReadable: true})
	tee.Close()
	if err != nil {
		return scanned{}, err
	}
	return scanned{
		narHash: nix.SumHash(nix.SHA256, digest),
		narSize: size,
		refs:    finder.Found(),
	}, nil
}

// tee gives everything that is written to it to a hash and to a second writer.
// Small amounts are handled where they are; from the first large write on, the
// hash has a goroutine of its own, so that a large file is read and scanned on one
// core while it is hashed on another. Memory is bounded by teeBuffers blocks.
type tee struct {
	ctx    context.Context
	hash   hash.Hash
	second io.Writer
	n      int64
	blocks chan *[]byte // to the goroutine; nil while there is none
	spare  sync.Pool
	done   chan struct{}
}

const (
	teeThreshold = 1 << 20 // bytes before a second goroutine pays
	teeBuffers   = 8
)

func newTee(ctx context.Context, hash hash.Hash, second io.Writer) *tee {
	return &tee{ctx: ctx, hash: hash, second: second}
}

func (t *tee) Write(p []byte) (int, error) {
	t.n += int64(len(p))
	if t.blocks == nil && t.n < teeThreshold {
		t.hash.Write(p)
		return t.second.Write(p)
	}
	if err := context.Cause(t.ctx); err != nil {
		return 0, err
	}
	if t.blocks == nil {
		t.start()
	}
	block, _ := t.spare.Get().(*[]byte)
	if block == nil {
		block = new([]byte)
	}
	*block = append((*block)[:0], p...)
	t.blocks <- block
	return t.second.Write(p)
}

func (t *tee) start() {
	t.blocks = make(chan *[]byte, teeBuffers)
	t.done = make(chan struct{})
	go func() {
		defer close(t.done)
		for block := range t.blocks {
			t.hash.Write(*block)
			t.spare.Put(block)
		}
	}()
}

// Close waits until everything has been hashed.
func (t *tee) Close() {
	if t.blocks != nil {
		close(t.blocks)
		<-t.done
	}
}
