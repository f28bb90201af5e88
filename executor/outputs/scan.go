package outputs

import (
	"bufio"
	"context"
	"crypto/sha256"
	"hash"
	"io"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/nix/refscan"
)

// scanned is what one walk over an output gives.
type scanned struct {
	narHash nix.Hash
	narSize int64
	also    nix.Hash // of the archive, by another algorithm
	refs    []string // hash parts, sorted
}

// scanOptions say what one walk over an output is to do.
type scanOptions struct {
	search   []string               // hash parts that are looked for
	onInode  func(*nar.Inode) error // sees every inode before its content is read
	alsoHash nix.HashAlgorithm      // a second hash of the archive, if not zero
	copyTo   string                 // a path that gets a copy in fresh inodes, if not empty
}

// scan walks the tree at path once.
func scan(ctx context.Context, path string, opts scanOptions) (result scanned, err error) {
	digest := sha256.New()
	finder, err := refscan.NewScanner(opts.search)
	if err != nil {
		return scanned{}, err
	}
	hashes := io.Writer(digest)
	also := hash.Hash(nil)
	if opts.alsoHash != 0 {
		also = opts.alsoHash.New()
		hashes = io.MultiWriter(digest, also)
	}
	tee := newTee(ctx, hashes, finder)
	dump := func(w io.Writer) (err error) {
		result.narSize, err = nar.Dump(w, path, nar.DumpOptions{Inode: opts.onInode, MakeReadable: true})
		return err
	}
	if opts.copyTo == "" {
		err = dump(tee)
	} else {
		err = through(
			func(w io.Writer) error { return dump(io.MultiWriter(tee, w)) },
			func(r io.Reader) error {
				_, err := nar.Restore(opts.copyTo, bufio.NewReader(r), nar.RestoreOptions{})
				return err
			})
	}
	tee.Close()
	if err != nil {
		return scanned{}, err
	}
	result.narHash, result.refs = nix.SumHash(nix.SHA256, digest), finder.Found()
	if also != nil {
		result.also = nix.SumHash(opts.alsoHash, also)
	}
	return result, nil
}

// tee gives everything that is written to it to a hash and to a second writer.
// Small amounts are handled where they are; from teeThreshold on, the hash has a
// goroutine of its own, so that a large file is read and scanned on one core while
// it is hashed on another. Memory is bounded by teeBlocks blocks. It is a
// nar.Exchanger, so that a large file is not copied on its way.
type tee struct {
	ctx    context.Context
	hash   io.Writer
	second io.Writer
	n      int64
	blocks chan []byte // to the goroutine; nil while there is none
	spare  chan []byte // back from it
	made   int         // blocks that there are
	done   chan struct{}
}

const (
	teeThreshold = 1 << 20 // bytes before a second goroutine pays
	teeBlocks    = 3
)

var _ nar.Exchanger = (*tee)(nil)

func newTee(ctx context.Context, hash, second io.Writer) *tee {
	return &tee{ctx: ctx, hash: hash, second: second}
}

func (t *tee) Write(p []byte) (int, error) {
	if alone, err := t.begin(len(p)); alone || err != nil {
		if err != nil {
			return 0, err
		}
		t.hash.Write(p)
		return t.second.Write(p)
	}
	t.blocks <- append(t.block(len(p))[:0], p...)
	return t.second.Write(p)
}

// Exchange implements nar.Exchanger.
func (t *tee) Exchange(p []byte) ([]byte, error) {
	if alone, err := t.begin(len(p)); alone || err != nil {
		if err != nil {
			return p, err
		}
		t.hash.Write(p)
		_, err := t.second.Write(p)
		return p, err
	}
	// Its memory comes back from the goroutine, but nobody takes it before second has
	// done with it.
	t.blocks <- p
	if _, err := t.second.Write(p); err != nil {
		return make([]byte, len(p)), err
	}
	return t.block(len(p)), nil
}

// begin counts what is written. alone says that it is not worth a second goroutine.
func (t *tee) begin(n int) (alone bool, err error) {
	t.n += int64(n)
	if t.blocks == nil && t.n < teeThreshold {
		return true, nil
	}
	if err := context.Cause(t.ctx); err != nil {
		return false, err
	}
	if t.blocks == nil {
		t.start()
	}
	return false, nil
}

// block gives memory that nobody uses, at least n bytes.
func (t *tee) block(n int) []byte {
	var b []byte
	if t.made < teeBlocks {
		select {
		case b = <-t.spare:
		default:
			t.made++
		}
	} else {
		b = <-t.spare
	}
	if cap(b) < n {
		b = make([]byte, n)
	}
	return b[:n]
}

func (t *tee) start() {
	t.blocks = make(chan []byte, teeBlocks)
	t.spare = make(chan []byte, teeBlocks+1) // with the one that the writer brought
	t.done = make(chan struct{})
	go func() {
		defer close(t.done)
		for block := range t.blocks {
			t.hash.Write(block)
			t.spare <- block
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
