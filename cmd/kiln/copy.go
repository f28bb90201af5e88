package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/nix/sign"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/binarycache"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/spf13/cobra"
)

// copyFlags are the flags of `kiln copy`.
type copyFlags struct {
	from, to                string
	noCheckSigs, substitute bool
	noRecursive, repair     bool
	logFormat               logFormatFlag
}

func copyCommand(g *globals) *cobra.Command {
	var flags copyFlags
	c := &cobra.Command{
		Use:   "copy --from URI|--to URI PATH|DRV^OUTPUTS…",
		Short: "Copy store objects from one store to another",
		Long: "Copies store objects, with everything that they refer to, from one store to another. One of the stores may be\n" +
			"left out: it is then the one that --store and the settings mean. What the target has is not copied again, so\n" +
			"a copy that was broken off goes on where it was. DRV^OUTPUTS means outputs of a derivation, as in x.drv^out or\n" +
			"x.drv^*; of one that is content-addressed, the target is told which objects they are.\n\n" +
			"A store is a directory that is the root of one, daemon, unix://SOCKET, ssh://HOST, ssh-ng://HOST, or a binary\n" +
			"cache: file://DIRECTORY, http://HOST or https://HOST.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return runCopy(c.Context(), g, &flags, args)
		},
	}
	f := c.Flags()
	f.StringVar(&flags.from, "from", "", "the store `URI` to copy from")
	f.StringVar(&flags.to, "to", "", "the store `URI` to copy to")
	f.BoolVar(&flags.noCheckSigs, "no-check-sigs", false, "do not require signatures by trusted keys")
	f.BoolVarP(&flags.substitute, "substitute-on-destination", "s", false, "have the target fetch by itself what it can")
	f.BoolVar(&flags.noRecursive, "no-recursive", false, "copy the objects alone, without what they refer to")
	f.BoolVar(&flags.repair, "repair", false, "replace what the target has already")
	flags.logFormat.register(f)
	c.MarkFlagsOneRequired("from", "to")
	return c
}

func runCopy(ctx context.Context, g *globals, flags *copyFlags, args []string) (err error) {
	c, err := g.configure()
	if err != nil {
		return err
	}
	from, err := c.openAny(ctx, flags.from, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	to, err := c.openAny(ctx, flags.to, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	wanted, err := from.want(ctx, args)
	if err != nil {
		return err
	}
	screen := newScreen(from.Dir(), g, &buildFlags{logFormat: flags.logFormat}, c.settings.LogLines)
	defer screen.Close()
	opts := store.CopyOptions{
		Repair: flags.repair, CheckSignatures: c.settings.RequireSigs && !flags.noCheckSigs && !to.believes, Substitute: flags.substitute,
		From: from.name, To: to.name, Log: screen,
	}
	copies := store.CopyClosure
	if flags.noRecursive {
		copies = store.Copy
	}
	if err := copies(ctx, from.Store, to.Store, wanted.paths, opts); err != nil {
		return err
	}
	var keys sign.Keys
	if _, local := to.Store.(*local.Store); local && opts.CheckSignatures {
		if keys, err = c.trustedKeys(); err != nil {
			return err
		}
	}
	return wanted.realise(ctx, to, keys)
}

// An openedStore is a store of any kind.
type openedStore struct {
	store.Store
	io.Closer
	name string
	// believes is set for stores that do not check signatures: who reads from a cache
	// decides whom to trust, and who may log in to a machine is trusted there.
	believes bool
}

// paths reads the words of a command line for objects of the store.
func (s openedStore) paths(args []string) ([]nix.StorePath, error) {
	files, ok := s.Store.(place)
	if !ok {
		files = nowhere{s.Dir()}
	}
	var paths []nix.StorePath
	for _, arg := range args {
		p, err := storePathArg(files, arg)
		if err != nil {
			return nil, err
		}
		paths = append(paths, p)
	}
	return paths, nil
}

// nowhere is a store whose objects are no files of this machine.
type nowhere struct{ dir nix.StoreDir }

func (n nowhere) Dir() nix.StoreDir { return n.dir }
func (n nowhere) RealDir() string   { return string(n.dir) }

// openAny opens a store of any kind, by its URI; "" stands for the configured one.
func (c *configuration) openAny(ctx context.Context, text string, write bool) (openedStore, error) {
	at, err := c.at(text)
	if err != nil {
		return openedStore{}, err
	}
	u := at.store
	s := openedStore{name: u.Redacted()}
	switch {
	case u.Scheme == conf.SchemeLocal:
		st, err := at.open(ctx, !write)
		if err != nil {
			return openedStore{}, err
		}
		s.Store, s.Closer = st, st
	case isBehindDaemon(u):
		st, err := at.openRemote(u)
		if err != nil {
			return openedStore{}, err
		}
		s.Store, s.Closer, s.name = st, st, st.Name()
	case u.Scheme == conf.SchemeSSH:
		st, err := at.openLegacy(u)
		if err != nil {
			return openedStore{}, err
		}
		s.Store, s.Closer, s.name, s.believes = st, st, st.Name(), true
	case u.Scheme == conf.SchemeFile || u.Scheme == conf.SchemeHTTP || u.Scheme == conf.SchemeHTTPS || u.Scheme == conf.SchemeS3:
		st, err := at.openCache(ctx, write)
		if err != nil {
			return openedStore{}, err
		}
		s.Store, s.Closer, s.name, s.believes = st, st, st.Name(), true
	default:
		return openedStore{}, fmt.Errorf("kiln cannot open stores of scheme '%s' yet", u.Scheme)
	}
	return s, nil
}

// at is the configuration with another store.
func (c *configuration) at(text string) (*configuration, error) {
	if text == "" {
		return c, nil
	}
	env := conf.Host()
	u, err := conf.ParseStoreURI(text, env.Dir)
	if err != nil {
		return nil, err
	}
	if u.Scheme == conf.SchemeAuto {
		u = conf.DefaultStore(u, env.StoreFacts(c.dirs, u))
	}
	at := *c
	at.store = u
	if u.Scheme == conf.SchemeLocal {
		at.local = c.dirs.Local(u)
	}
	return &at, nil
}

// openCache opens the configured store, which is a binary cache.
func (c *configuration) openCache(ctx context.Context, write bool) (*binarycache.Cache, error) {
	s := c.settings
	dir, err := nix.ParseStoreDir(c.dirs.Local(c.store).Store)
	if err != nil {
		return nil, err
	}
	trusted, err := c.trustedKeys()
	if err != nil {
		return nil, err
	}
	http := binarycache.HTTPOptions{
		Attempts: s.DownloadAttempts, Delay: s.RetryDelay, MaxDelay: s.RetryMaxDelay, RateLimited: s.RetryDelayRateLimited,
		Stalled: s.StalledDownloadTimeout, ConnectTimeout: s.ConnectTimeout, HTTP1: !s.HTTP2,
		UserAgent: strings.TrimSpace("kiln/" + version + " " + s.UserAgentSuffix),
	}
	if c.store.Scheme != conf.SchemeFile {
		// Only who has a file of his own is to be told that it cannot be read.
		text, err := os.ReadFile(s.NetrcFile)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && (s.Overridden("netrc-file") || !errors.Is(err, fs.ErrPermission)) {
			return nil, fmt.Errorf("setting 'netrc-file': %w", err)
		}
		http.Netrc = string(text)
		if s.SSLCertFile != "" {
			if http.Authorities, err = os.ReadFile(s.SSLCertFile); err != nil {
				return nil, fmt.Errorf("setting 'ssl-cert-file': %w", err)
			}
		}
	}
	return binarycache.OpenURI(ctx, c.store, binarycache.Options{Dir: dir, Create: write, Trusted: trusted, Lookups: c.lookups}, http)
}
