package export

import (
	"bufio"
	"context"
	"fmt"
	"io"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/wire"
	"github.com/kilnbuild/kiln/wire/worker"
)

// What stands before an object, after the last one, and between an object's archive and
// what is known of it.
const (
	another = 1
	end     = 0
	magic   = 0x4558494e
)

// pieceSize is how much is written at once, in bytes: archives are made in pieces of some
// dozen.
const pieceSize = 64 << 10

// Write writes objects, in an order in which they can be added: those that others refer
// to first. They are not closed under references; whoever reads them needs to have the
// rest.
func Write(ctx context.Context, from store.Store, paths []nix.StorePath, w io.Writer) error {
	var infos []*nix.PathInfo
	seen := make(map[nix.StorePath]bool)
	for _, p := range paths {
		if seen[p] {
			continue
		}
		seen[p] = true
		info, err := from.PathInfo(ctx, p)
		if err != nil {
			return fmt.Errorf("export: %w", err)
		}
		infos = append(infos, info)
	}
	sorted, err := store.SortByReferences(infos)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	word := wire.NewWriter(w)
	for _, info := range sorted {
		word.Uint64(another)
		if err := word.Flush(); err != nil {
			return fmt.Errorf("export: %w", err)
		}
		if err := Object(ctx, from, info, w); err != nil {
			return err
		}
	}
	word.Uint64(end)
	if err := word.Flush(); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

// Object writes one object, as it stands between others. That its content is not what
// its store has written down is an error.
func Object(ctx context.Context, from store.Store, info *nix.PathInfo, w io.Writer) error {
	if err := object(ctx, from, info, w); err != nil {
		return fmt.Errorf("export '%s': %w", from.Dir().Join(info.Path), err)
	}
	return nil
}

func object(ctx context.Context, from store.Store, info *nix.PathInfo, w io.Writer) error {
	pieces := bufio.NewWriterSize(w, pieceSize)
	sum := nix.SHA256.New()
	if err := from.NAR(ctx, info.Path, io.MultiWriter(pieces, sum)); err != nil {
		return err
	}
	if got := nix.SumHash(nix.SHA256, sum); got != info.NARHash {
		return fmt.Errorf("hash of path '%s' has changed from '%s' to '%s'", from.Dir().Join(info.Path), info.NARHash, got)
	}
	e := &worker.Encoder{Writer: wire.NewWriter(pieces), Protocol: worker.Protocol{Dir: from.Dir(), Version: worker.Newest}}
	e.Uint64(magic)
	e.StorePath(info.Path)
	e.PathSet(info.References)
	e.OptionalPath(info.Deriver)
	e.Uint64(0) // no signature of an old kind
	if err := e.Flush(); err != nil {
		return err
	}
	return pieces.Flush()
}
