package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/wire"
	"github.com/kilnbuild/kiln/wire/worker"
)

// exportMagic stands between an object's archive and what is known of the object, in
// what nix-store --export prints.
const exportMagic = 0x4558494e

// exportPath sends an object in pieces while the request is carried out. (Nix up to
// 2.31: Store::exportPath.)
func (s *session) exportPath(ctx context.Context, r *worker.ExportPath) (reply, error) {
	info, err := s.store.PathInfo(ctx, r.Path)
	if err != nil {
		return nil, err
	}
	pieces := bufio.NewWriterSize(&exported{s.out}, exportPiece)
	sum := nix.SHA256.New()
	if err := s.store.NAR(ctx, r.Path, io.MultiWriter(pieces, sum)); err != nil {
		return nil, err
	}
	if got := nix.SumHash(nix.SHA256, sum); got != info.NARHash {
		return nil, fmt.Errorf("hash of path '%s' has changed from '%s' to '%s'", s.dir.Join(r.Path), info.NARHash, got)
	}
	e := &worker.Encoder{Writer: wire.NewWriter(pieces), Protocol: s.d.Protocol}
	e.Uint64(exportMagic)
	e.StorePath(info.Path)
	e.PathSet(info.References)
	e.OptionalPath(info.Deriver)
	e.Uint64(0) // no signature of an old kind
	if err := errors.Join(e.Flush(), pieces.Flush()); err != nil {
		return nil, err
	}
	return done, nil
}

// exportPiece is how much of an object is sent at once, in bytes.
const exportPiece = 64 << 10

// exported sends what is written to it to the client, as data.
type exported struct{ out *tunnel }

func (x *exported) Write(p []byte) (int, error) {
	if err := x.out.data(p); err != nil {
		return 0, fatalError{err}
	}
	return len(p), nil
}

// importPaths adds what nix-store --export has printed, which follows the request
// without a frame: after an error nobody knows where it ends. What is known of an
// object comes behind its archive, so that is kept until then. (Nix up to 2.31:
// Store::importPaths.)
func (s *session) importPaths(ctx context.Context) (reply, error) {
	var added []nix.StorePath
	for {
		s.d.Begin()
		more := s.d.Uint64()
		if err := s.d.Err(); err != nil {
			return nil, fatalError{err}
		}
		switch more {
		case 0:
			return paths(added, nil)
		case 1:
		default:
			return nil, fatalError{errors.New("input doesn't look like something created by 'nix-store --export'")}
		}
		p, err := s.importPath(ctx)
		if err != nil {
			return nil, fatalError{fmt.Errorf("import: %w", err)}
		}
		added = append(added, p)
	}
}

func (s *session) importPath(ctx context.Context) (nix.StorePath, error) {
	keep := &spool{dir: s.cfg.TempDir, limit: s.cfg.Limits.Dump}
	defer keep.close()
	sum := nix.SHA256.New()
	size, err := nar.CopyArchive(io.MultiWriter(keep, sum), s.d, nar.Limits{})
	if err != nil {
		return "", err
	}
	s.d.Begin()
	if magic := s.d.Uint64(); s.d.Err() == nil && magic != exportMagic {
		return "", errors.New("Nix archive cannot be imported; wrong format")
	}
	info := &nix.PathInfo{Path: s.d.StorePath(), References: s.d.PathSet(), Deriver: s.d.OptionalPath()}
	if s.d.Uint64() == 1 {
		s.d.Bytes() // a signature of a kind that nobody makes any more
	}
	if err := s.d.Err(); err != nil {
		return "", err
	}
	info.NARHash, info.NARSize = nix.SumHash(nix.SHA256, sum), size
	err = s.store.Add(ctx, info, bufio.NewReader(keep.reader()), store.AddOptions{CheckSignatures: !s.trusted()})
	return info.Path, err
}
