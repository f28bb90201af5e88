package service

import (
	"context"
	"errors"
	"io"

	"github.com/kilnbuild/kiln/daemon"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/wire/serve"
)

// ServeLegacy serves one client of the serve protocol at the other end of a stream, which
// it closes. Whoever could start this process is who it belongs to: with write the client
// may do what it likes, and without it may read. log takes what builders print, and what
// else the client's user should see. An error is for that user, too, and says why the
// client was left.
func (s *Server) ServeLegacy(ctx context.Context, conn io.ReadWriteCloser, write bool, log io.Writer) (err error) {
	c, err := s.attach(ctx, s.starter(), false)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	defer func() { err = c.leave(err) }()
	return daemon.ServeLegacy(ctx, conn, daemon.LegacyConfig{
		Store: c.view(), Builder: c.builder, Write: write, BuildOptions: c.buildOptions, Log: log,
		TempDir: s.cfg.TempDir, Limits: s.cfg.Limits,
	})
}

// buildOptions is daemon.LegacyConfig.BuildOptions of a connection. Nothing is fetched
// for a client that brings what it needs, and its own machine keeps the log. (Nix:
// opServe, getBuildSettings.)
func (c *connection) buildOptions(_ context.Context, o *serve.BuildOptions) (nix.Builder, error) {
	s := c.generation.settings.Clone()
	s.MaxSilentTime, s.Timeout, s.KeepFailed = o.MaxSilentTime, o.Timeout, o.KeepFailed
	s.MaxBuildLogSize = conf.Size(o.MaxLogSize)
	s.KeepBuildLog, s.Substitute, s.RunDiffHook = false, false, true
	if err := c.use(s, true); err != nil {
		return nil, err
	}
	return c.current(), nil
}
