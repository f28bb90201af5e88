package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/kilnbuild/kiln/internal/keylock"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"github.com/kilnbuild/kiln/store"
	"zombiezen.com/go/sqlite"
)

// Store is an open store. It is safe for concurrent use, by goroutines and,
// through locks on files, by processes. Goroutines that are bound to a thread
// (runtime.LockOSThread) must not use it.
type Store struct {
	*shared
	roots  *tempRoots
	verify func(*nix.PathInfo) error // as Options.VerifySignatures
	close  func() error
	lease  *lease // nil for the store that Open gave
}

// shared is what a store and its leases have in common.
type shared struct {
	opts         Options
	layout       layout
	identity     identity
	bigLock      *os.File // nil for a reader who may not open it
	db           *database
	realisations realisationLayout
	hasher       *aterm.Hasher

	journal journal
	locks   keylock.Set[string] // by the name of the lock file
	room    tempRoom
	objects openDirectory
	logs    compressor
	onAdd   atomic.Pointer[func()]
}

var (
	_ store.Store            = (*Store)(nil)
	_ store.BatchSource      = (*Store)(nil)
	_ store.ReferrerSource   = (*Store)(nil)
	_ store.TempRooter       = (*Store)(nil)
	_ store.RealisationStore = (*Store)(nil)
	_ store.LogStore         = (*Store)(nil)
	_ store.LateSink         = (*Store)(nil)
	_ store.BatchSink        = (*Store)(nil)
	_ store.KnownSource      = (*Store)(nil)
)

var errReadOnly = errors.New("store was opened for reading only")

// Open opens a store and, unless it is opened for reading only, makes what is
// missing of it and removes what dead processes left in it (Recover). The caller
// closes it.
//
// Open waits while Nix upgrades the database. A store that this package cannot
// use is an error that says why, and what to do.
func Open(ctx context.Context, opts Options) (_ *Store, err error) {
	s := &Store{shared: &shared{opts: opts.withDefaults()}, roots: &tempRoots{}}
	s.verify = s.opts.VerifySignatures
	s.layout = layout{store: s.opts.RealStoreDir, state: s.opts.StateDir, log: s.opts.LogDir}
	s.hasher = aterm.NewHasher(s.opts.StoreDir, s.loadDerivation, aterm.HasherOptions{})
	s.journal.init(s)
	s.roots.init(s)
	s.room.init(s)
	s.logs.init(s)
	s.close = sync.OnceValue(s.shutdown)
	defer func() {
		if err != nil {
			err = fmt.Errorf("open store '%s': %w", s.layout.store, err)
		}
	}()
	for _, dir := range []string{s.layout.store, s.layout.state, s.layout.log} {
		if !filepath.IsAbs(dir) {
			return nil, fmt.Errorf("'%s' is not an absolute path", dir)
		}
	}
	if s.opts.ReadOnly {
		err = s.openForReading(ctx)
	} else {
		err = s.openForWriting(ctx)
	}
	if err != nil {
		s.logs.close()
		return nil, errors.Join(err, s.journal.close(), s.release())
	}
	s.identity = s.layout.identity()
	if !s.opts.ReadOnly {
		if err := s.Recover(ctx); err != nil {
			s.opts.Warn(err)
		}
	}
	return s, nil
}

func (s *Store) openForReading(ctx context.Context) error {
	v, err := s.layout.version()
	if err != nil {
		return err
	}
	if v == 0 {
		return fmt.Errorf("there is no store: '%s' does not exist", s.layout.schema())
	}
	if err := s.layout.checkVersion(v); err != nil {
		return err
	}
	// Who may only read cannot take part in locking, and Nix's own readers do
	// without it as well.
	if f, err := openExisting(s.layout.bigLock()); err == nil {
		s.bigLock = f
		if err := pollFlock(ctx, f, lockShared); err != nil {
			return err
		}
	}
	if s.db, err = openDatabase(ctx, s.layout.database(), databaseOptions{readOnly: true, warn: s.opts.Warn}); err != nil {
		return err
	}
	return s.db.read(ctx, func(c *sqlite.Conn) (err error) {
		s.realisations, err = findRealisations(c)
		return err
	})
}

func (s *Store) openForWriting(ctx context.Context) (err error) {
	if !s.opts.AllowSymlinks {
		if err := s.layout.checkSymlinks(); err != nil {
			return err
		}
	}
	if err := s.layout.create(s.opts.BuildUsersGroup); err != nil {
		return err
	}
	if s.bigLock, err = openLock(s.layout.bigLock()); err != nil {
		return explain(err)
	}
	if err := pollFlock(ctx, s.bigLock, lockShared); err != nil {
		return err
	}
	v, err := s.layout.version()
	if err != nil {
		return err
	}
	if v == 0 {
		err = s.layout.createDatabase()
	} else {
		err = s.layout.checkVersion(v)
	}
	if err != nil {
		return err
	}
	if s.opts.FreeReserve {
		s.layout.unreserve()
	} else {
		s.layout.reserve(s.opts.ReservedSpace)
	}
	s.db, err = openDatabase(ctx, s.layout.database(), databaseOptions{sync: s.opts.FsyncMetadata, wal: s.opts.UseSQLiteWAL, warn: s.opts.Warn})
	if err != nil {
		return err
	}
	if v == 0 {
		if err := s.db.write(ctx, func(c *sqlite.Conn) error { return execAll(c, schema) }); err != nil {
			return err
		}
		if err := s.writeVersion(s.layout.schema(), schemaVersion); err != nil {
			return err
		}
	}
	return s.prepareRealisations(ctx)
}

// prepareRealisations finds the tables for realisations, and makes them if they
// are wanted.
func (s *Store) prepareRealisations(ctx context.Context) error {
	find := func(c *sqlite.Conn) (err error) {
		s.realisations, err = findRealisations(c)
		return err
	}
	if err := s.db.read(ctx, find); err != nil || s.realisations != noRealisations || !s.opts.CADerivations {
		return err
	}
	err := s.db.write(ctx, func(c *sqlite.Conn) error {
		if err := execAll(c, caSchema); err != nil {
			return err
		}
		return find(c)
	})
	if err != nil || exists(s.layout.caSchema()) {
		return err
	}
	return s.writeVersion(s.layout.caSchema(), caSchemaVersion)
}

// Close waits a second for logs to be compressed, removes what the store has for
// its own use only (temporary roots, directories, session file), and closes it.
// Locks must have been released and temporary directories closed. Further calls
// return what the first one did.
func (s *Store) Close() error { return s.close() }

func (s *Store) shutdown() error {
	s.logs.close()
	err := errors.Join(s.room.close(), s.roots.close(), s.journal.close(), s.release())
	if err != nil {
		return fmt.Errorf("close store '%s': %w", s.layout.store, err)
	}
	return nil
}

// release gives back what a store has while it is open, as far as it has it.
func (s *Store) release() (err error) {
	if s.db != nil {
		err = s.db.close()
	}
	if s.bigLock != nil {
		err = errors.Join(err, s.bigLock.Close())
	}
	s.objects.close()
	return err
}

// Dir is the logical store directory.
func (s *Store) Dir() nix.StoreDir { return s.opts.StoreDir }

// RealDir is the store directory on this machine.
func (s *Store) RealDir() string { return s.layout.store }

// RealPath is where an object is on this machine, whether there is one or not.
func (s *Store) RealPath(p nix.StorePath) string { return s.layout.store + "/" + string(p) }

// Hasher computes the output paths of derivations, those of the store being the
// ones that inputs name.
func (s *Store) Hasher() *aterm.Hasher { return s.hasher }

// OnAdd has f called before each object that is added, in the goroutine that adds it:
// perhaps room has to be made for it.
func (s *Store) OnAdd(f func()) { s.onAdd.Store(&f) }

// changes is called at the beginning of everything that changes the store.
func (s *Store) changes() error {
	if s.opts.ReadOnly {
		return errReadOnly
	}
	return nil
}
