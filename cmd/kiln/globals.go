package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/kilnbuild/kiln/executor/build"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/sandbox"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/kilnbuild/kiln/store/lookups"
	"github.com/spf13/cobra"
)

// globals are the flags that every command has.
type globals struct {
	store   string
	options []string // NAME=VALUE
	verbose int
	quiet   bool
	// overrides are settings that have flags of their own, in the order given.
	overrides []conf.Override
}

func (g *globals) register(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&g.store, "store", "", "the store: a directory that is or becomes the root of one, or a store `URI`")
	f.StringArrayVar(&g.options, "option", nil, "give a setting of nix.conf another value; takes two words, `NAME VALUE`")
	f.CountVarP(&g.verbose, "verbose", "v", "say more; -vv for what only a developer wants to know")
	f.BoolVarP(&g.quiet, "quiet", "q", false, "say nothing but errors")
}

// override adds a flag to c that stands for a setting.
func (g *globals) override(c *cobra.Command, flag, short, setting, usage string) {
	c.Flags().VarP(&settingFlag{g: g, flag: flag, setting: setting}, flag, short, usage)
}

// overrideSwitch adds a flag without a value that sets a setting to true.
func (g *globals) overrideSwitch(c *cobra.Command, flag, short, setting, usage string) {
	c.Flags().VarPF(&settingFlag{g: g, flag: flag, setting: setting, kind: "bool"}, flag, short, usage).NoOptDefVal = "true"
}

// settingFlag is a flag that gives a setting its value.
type settingFlag struct {
	g             *globals
	flag, setting string
	text, kind    string
}

func (s *settingFlag) String() string { return s.text }

func (s *settingFlag) Type() string {
	if s.kind == "" {
		return "value"
	}
	return s.kind
}

func (s *settingFlag) Set(text string) error {
	s.text = text
	s.g.overrides = append(s.g.overrides, conf.Override{Name: s.setting, Value: text, Flag: "--" + s.flag})
	return nil
}

// configuration is everything that was configured: settings and the store that
// they mean.
type configuration struct {
	settings *conf.Settings
	dirs     conf.Dirs
	store    conf.StoreURI
	local    conf.LocalDirs // where store is a local one
	// lookups are what is remembered of binary caches; nil for nothing.
	lookups *lookups.Cache
}

// configure reads the configuration. Warnings go to standard error.
func (g *globals) configure() (_ *configuration, err error) {
	defer func() {
		if err != nil {
			err = &settingsError{err}
		}
	}()
	env := conf.Host()
	opts := conf.Options{Overrides: g.overrides}
	for _, o := range g.options {
		name, value, ok := strings.Cut(o, "=")
		if !ok {
			return nil, fmt.Errorf("the flag --option takes a name and a value, as in: --option cores 4")
		}
		opts.Overrides = append(opts.Overrides, conf.Override{Name: name, Value: value})
	}
	settings, warnings, err := conf.Load(env, opts)
	if err == nil {
		warnings = append(warnings, warnNotYet(settings)...)
	}
	if !g.quiet {
		for _, w := range warnings {
			fmt.Fprintf(os.Stderr, "warning: %v\n", w)
		}
	}
	if err != nil {
		return nil, err
	}
	c := &configuration{settings: settings}
	if c.dirs, err = env.Dirs(); err != nil {
		return nil, err
	}
	text := g.store
	if text == "" {
		text = settings.Store
	}
	uri, err := conf.ParseStoreURI(text, env.Dir)
	if err != nil {
		return nil, err
	}
	if uri.Scheme == conf.SchemeAuto {
		uri = conf.DefaultStore(uri, env.StoreFacts(c.dirs, uri))
	}
	c.store = uri
	if features, ok := uri.Params["system-features"]; ok && uri.Scheme == conf.SchemeLocal {
		source := conf.Source{Kind: conf.FromCommandLine, Name: "--store"}
		if _, err := settings.Set("system-features", features[0], source); err != nil {
			return nil, err
		}
	}
	if uri.Scheme == conf.SchemeLocal {
		c.local = c.dirs.Local(uri)
	}
	return c, nil
}

// buildDir has the build directories.
func (c *configuration) buildDir() string { return cmp.Or(c.settings.BuildDir, c.local.Build) }

// storeOptions are those of the configured store, which has to be a local one.
func (c *configuration) storeOptions() (opts local.Options, err error) {
	if c.store.Scheme != conf.SchemeLocal {
		return opts, fmt.Errorf("store '%s' is not a local store, and this command works on local stores only; give the root of one with --store", c.store.Redacted())
	}
	dir, err := nix.ParseStoreDir(c.local.Store)
	if err != nil {
		return opts, err
	}
	group, err := build.GroupID(c.settings.BuildUsersGroup)
	if err != nil {
		return opts, err
	}
	return local.Options{
		BuildUsersGroup:  group,
		VerifySignatures: c.verifySignatures(dir),
		StoreDir:         dir,
		RealStoreDir:     c.local.Real,
		StateDir:         c.local.State,
		LogDir:           c.local.Log,
		ScratchDirs:      []string{c.buildDir()},
		AllowSymlinks:    c.settings.AllowSymlinkedStore,
		CADerivations:    c.settings.ExperimentalFeatures.Has("ca-derivations"),
		Warn:             func(err error) { fmt.Fprintf(os.Stderr, "warning: %v\n", err) },
		FsyncMetadata:    c.settings.FsyncMetadata,
		FsyncStorePaths:  c.settings.FsyncStorePaths,
		UseSQLiteWAL:     c.settings.UseSQLiteWAL,
		CompressLogs:     c.settings.CompressBuildLog,
		AutoOptimise:     c.settings.AutoOptimiseStore,
		ReservedSpace:    int64(min(c.settings.GCReservedSpace, math.MaxInt64)),
	}, nil
}

// open opens the configured store. The caller closes it.
func (c *configuration) open(ctx context.Context, readOnly bool) (*local.Store, error) {
	opts, err := c.storeOptions()
	if err != nil {
		return nil, err
	}
	opts.ReadOnly = readOnly
	st, err := local.Open(ctx, opts)
	if lacks := sandbox.Capable(); err != nil && lacks != nil && errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w: %w", err, lacks)
	}
	return st, err
}

// openToCollect is open for what frees space: perhaps there is none left.
func (c *configuration) openToCollect(ctx context.Context) (*local.Store, error) {
	opts, err := c.storeOptions()
	if err != nil {
		return nil, err
	}
	opts.FreeReserve = true
	return local.Open(ctx, opts)
}

// withStore runs f with the configured store open.
func (g *globals) withStore(ctx context.Context, readOnly bool, f func(*configuration, *local.Store) error) error {
	return g.with(func(c *configuration) (*local.Store, error) { return c.open(ctx, readOnly) }, f)
}

// withStoreToCollect is withStore for what frees space.
func (g *globals) withStoreToCollect(ctx context.Context, f func(*configuration, *local.Store) error) error {
	return g.with(func(c *configuration) (*local.Store, error) { return c.openToCollect(ctx) }, f)
}

func (g *globals) with(open func(*configuration) (*local.Store, error), f func(*configuration, *local.Store) error) (err error) {
	c, err := g.configure()
	if err != nil {
		return err
	}
	st, err := open(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	return f(c, st)
}

// A place is a store whose objects are files of this machine, or would be.
type place interface {
	Dir() nix.StoreDir
	RealDir() string
}

// storePathArg reads a command line's word for a store object: its logical path,
// its path on this machine, or a symlink to one of them.
func storePathArg(st place, arg string) (nix.StorePath, error) {
	if p, _, err := st.Dir().Split(arg); err == nil {
		return p, nil
	}
	full, err := filepath.Abs(arg)
	if err != nil {
		return "", err
	}
	if resolved, err := filepath.EvalSymlinks(full); err == nil {
		full = resolved
	}
	if p, _, err := st.Dir().Split(full); err == nil {
		return p, nil
	}
	if rest, ok := strings.CutPrefix(full, st.RealDir()+"/"); ok {
		p, _, err := st.Dir().Split(string(st.Dir()) + "/" + rest)
		return p, err
	}
	return "", fmt.Errorf("'%s' is not in the store '%s'", arg, st.Dir())
}
