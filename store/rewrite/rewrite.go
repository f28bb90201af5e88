package rewrite

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/kilnbuild/kiln/internal/bufpipe"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/refscan"
	"github.com/kilnbuild/kiln/store"
)

// ContentAddressed adds to a store what objects of another, or the same, become when they
// and all that they refer to are made content-addressed. It gives the new path of each of
// them. Archives are read two or three times, and never kept.
func ContentAddressed(ctx context.Context, from store.Store, to store.Store, roots []nix.StorePath) (map[nix.StorePath]nix.StorePath, error) {
	closure, err := store.ClosureInfos(ctx, from, roots...)
	if err != nil {
		return nil, err
	}
	infos := make([]*nix.PathInfo, 0, len(closure))
	for _, info := range closure {
		infos = append(infos, info)
	}
	sorted, err := store.SortByReferences(infos)
	if err != nil {
		return nil, err
	}
	fresh := make(map[nix.StorePath]nix.StorePath, len(sorted))
	for _, info := range sorted {
		o := &object{from: from, old: info, hashes: make(map[string]string)}
		if fresh[info.Path], err = o.rewrite(ctx, to, fresh); err != nil {
			return nil, fmt.Errorf("make '%s' content-addressed: %w", from.Dir().Join(info.Path), err)
		}
	}
	return fresh, nil
}

// An object is one that is rewritten.
type object struct {
	from   store.Store
	old    *nix.PathInfo
	hashes map[string]string // hash parts, and what takes their place
}

func (o *object) rewrite(ctx context.Context, to store.Store, fresh map[nix.StorePath]nix.StorePath) (nix.StorePath, error) {
	refs := o.old.SelfReferences()
	for i, r := range refs.Others {
		refs.Others[i] = fresh[r]
		if fresh[r] != r {
			o.hashes[r.HashPart()] = fresh[r].HashPart()
		}
	}
	self := o.old.Path.HashPart()
	if refs.Self {
		// What it is called follows from everything but what it is called.
		o.hashes[self] = strings.Repeat("\x00", len(self))
	}
	hash, size, err := o.sum(ctx)
	if err != nil {
		return "", err
	}
	info := &nix.PathInfo{
		NARHash: hash, NARSize: size, References: refs.Others,
		CA: nix.ContentAddress{Method: nix.Recursive, Hash: hash},
	}
	if info.Path, err = nix.MakeContentAddressedPath(to.Dir(), o.old.Path.Name(), info.CA, refs); err != nil {
		return "", err
	}
	if refs.Self {
		info.References = append(info.References, info.Path)
		o.hashes[self] = info.Path.HashPart()
		if info.NARHash, _, err = o.sum(ctx); err != nil {
			return "", err
		}
	}
	return info.Path, o.add(ctx, to, info)
}

// write writes the archive as it becomes.
func (o *object) write(ctx context.Context, w io.Writer) error {
	rewriter, err := refscan.NewRewriter(w, o.hashes, refscan.RewriterOptions{})
	if err != nil {
		return err
	}
	if err := o.from.NAR(ctx, o.old.Path, rewriter); err != nil {
		return err
	}
	return rewriter.Close()
}

// sum gives the hash and the size of the archive as it becomes.
func (o *object) sum(ctx context.Context) (nix.Hash, int64, error) {
	sum := nix.SHA256.New()
	n := new(counter)
	if err := o.write(ctx, io.MultiWriter(sum, n)); err != nil {
		return nix.Hash{}, 0, err
	}
	return nix.SumHash(nix.SHA256, sum), int64(*n), nil
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// add adds the object as it becomes.
func (o *object) add(ctx context.Context, to store.Store, info *nix.PathInfo) error {
	r, w := bufpipe.New()
	written := make(chan error, 1)
	go func() {
		buffered := bufio.NewWriterSize(w, 64<<10)
		err := o.write(ctx, buffered)
		if err == nil {
			err = buffered.Flush()
		}
		w.CloseWithError(err)
		written <- err
	}()
	err := to.Add(ctx, info, bufio.NewReaderSize(r, 64<<10), store.AddOptions{})
	r.CloseWithError(io.ErrClosedPipe)
	if failed := <-written; err == nil && failed != nil && failed != io.ErrClosedPipe {
		err = failed
	}
	return err
}
