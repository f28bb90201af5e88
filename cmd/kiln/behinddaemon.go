package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/nix/logline"
	"github.com/kilnbuild/kiln/store/remote"
	"github.com/kilnbuild/kiln/wire/worker"
)

// behindDaemon tells whether the store is one that a daemon has.
func (c *configuration) behindDaemon() bool { return isBehindDaemon(c.store) }

func isBehindDaemon(u conf.StoreURI) bool {
	return u.Scheme == conf.SchemeDaemon || u.Scheme == conf.SchemeSSHNG
}

// openRemote opens a store behind a daemon. The caller closes it.
func (c *configuration) openRemote(u conf.StoreURI) (*remote.Store, error) {
	dirs := c.dirs.Local(u)
	opts, err := remote.FromURI(u, c.dirs.SocketIn(dirs.State), sshOptions(), os.Stderr)
	if err != nil {
		return nil, err
	}
	if opts.Dir, err = nix.ParseStoreDir(dirs.Store); err != nil {
		return nil, err
	}
	opts.Settings = c.daemonSettings()
	opts.Log = complaints{}
	return remote.Open(opts)
}

// openLegacy opens a store behind nix-store --serve on another machine. The caller closes
// it.
func (c *configuration) openLegacy(u conf.StoreURI) (*remote.Legacy, error) {
	opts, err := remote.LegacyFromURI(u, sshOptions(), os.Stderr)
	if err != nil {
		return nil, err
	}
	if opts.Dir, err = nix.ParseStoreDir(c.dirs.Local(u).Store); err != nil {
		return nil, err
	}
	return remote.OpenLegacy(opts)
}

// sshOptions are words for ssh from the environment.
func sshOptions() []string { return strings.Fields(os.Getenv("NIX_SSHOPTS")) }

// withRemote runs f with the configured store behind a daemon open.
func (c *configuration) withRemote(f func(*remote.Store) error) error {
	st, err := c.openRemote(c.store)
	if err != nil {
		return err
	}
	return errors.Join(f(st), st.Close())
}

// daemonSettings are what a daemon is told of the settings.
func (c *configuration) daemonSettings() *worker.SetOptions {
	s := c.settings
	o := &worker.SetOptions{
		KeepFailed: s.KeepFailed, KeepGoing: s.KeepGoing, TryFallback: s.Fallback,
		Verbosity: uint64(logline.Info), MaxBuildJobs: uint64(s.MaxJobs), MaxSilentTime: uint64(s.MaxSilentTime / time.Second),
		BuildCores: uint64(s.Cores), UseSubstitute: s.Substitute,
	}
	for name, value := range s.Forwarded() {
		o.Overrides = append(o.Overrides, worker.Override{Name: name, Value: value})
	}
	return o
}

// complaints shows a person the warnings of a daemon, and nothing else.
type complaints struct{}

func (complaints) BuildLog(nix.StorePath, []byte) {}

func (complaints) Event(e nix.Event) {
	if e.Kind == nix.EventWarning {
		fmt.Fprintf(os.Stderr, "warning: %s\n", e.Message)
	}
}

// withLegacy runs f with the configured store behind nix-store --serve open.
func (c *configuration) withLegacy(f func(*remote.Legacy) error) error {
	st, err := c.openLegacy(c.store)
	if err != nil {
		return err
	}
	return errors.Join(f(st), st.Close())
}

// legacyStore is a store behind nix-store --serve as `kiln build` wants one.
type legacyStore struct{ *remote.Legacy }

// RealDir is where the objects are, on the other machine.
func (s legacyStore) RealDir() string { return string(s.Dir()) }

func (s legacyStore) plan(context.Context, []nix.DerivedPath) (*nix.Plan, error) {
	return nil, fmt.Errorf("%s cannot be asked what it would do: the serve protocol has no such question; use ssh-ng", s.Name())
}

// remoteStore is a store behind a daemon as `kiln build` wants one.
type remoteStore struct{ *remote.Store }

// RealDir is where the objects are, if the daemon is on this machine.
func (s remoteStore) RealDir() string { return string(s.Dir()) }

func (s remoteStore) plan(ctx context.Context, paths []nix.DerivedPath) (*nix.Plan, error) {
	m, err := s.Missing(ctx, paths)
	if err != nil {
		return nil, err
	}
	return &nix.Plan{Build: m.WillBuild, Fetch: m.WillSubstitute, Unknown: m.Unknown, DownloadSize: m.DownloadSize, NARSize: m.NARSize}, nil
}
