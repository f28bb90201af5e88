package daemon

import (
	"context"

	"github.com/kilnbuild/kiln/store/export"
	"github.com/kilnbuild/kiln/wire/worker"
)

// exportPath sends an object in pieces while the request is carried out. (Nix up to
// 2.31: Store::exportPath.)
func (s *session) exportPath(ctx context.Context, r *worker.ExportPath) (reply, error) {
	info, err := s.store.PathInfo(ctx, r.Path)
	if err != nil {
		return nil, err
	}
	if err := export.Object(ctx, s.store, info, &exported{s.out}); err != nil {
		return nil, err
	}
	return done, nil
}

// exported sends what is written to it to the client, as data.
type exported struct{ out *tunnel }

func (x *exported) Write(p []byte) (int, error) {
	if err := x.out.data(p); err != nil {
		return 0, fatalError{err}
	}
	return len(p), nil
}

// importPaths adds what nix-store --export has printed, which follows the request
// without a frame: after an error nobody knows where it ends. (Nix up to 2.31:
// Store::importPaths.)
func (s *session) importPaths(ctx context.Context) (reply, error) {
	added, err := export.Read(ctx, s.d, s.store, export.Options{
		CheckSignatures: !s.trusted(), TempDir: s.cfg.TempDir, Limit: s.cfg.Limits.Dump,
	})
	if err != nil {
		return nil, fatalError{err}
	}
	return paths(added, nil)
}
