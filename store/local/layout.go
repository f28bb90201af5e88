package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// schemaVersion is the version of the database and directories that all versions
// of Nix since 2.0 share.
const schemaVersion = 10

// layout is the names of a store's directories and files.
type layout struct {
	store, state, log string
}

func (l layout) dbDir() string     { return filepath.Join(l.state, "db") }
func (l layout) database() string  { return filepath.Join(l.state, "db", "db.sqlite") }
func (l layout) schema() string    { return filepath.Join(l.state, "db", "schema") }
func (l layout) caSchema() string  { return filepath.Join(l.state, "db", "ca-schema") }
func (l layout) bigLock() string   { return filepath.Join(l.state, "db", "big-lock") }
func (l layout) reserved() string  { return filepath.Join(l.state, "db", "reserved") }
func (l layout) tempRoots() string { return filepath.Join(l.state, "temproots") }
func (l layout) gcLock() string    { return filepath.Join(l.state, "gc.lock") }
func (l layout) gcSocket() string  { return filepath.Join(l.state, "gc-socket", "socket") }
func (l layout) sessions() string  { return filepath.Join(l.state, "kiln", "sessions") }
func (l layout) roots() string     { return filepath.Join(l.state, "gcroots") }
func (l layout) autoRoots() string { return filepath.Join(l.state, "gcroots", "auto") }
func (l layout) links() string     { return filepath.Join(l.store, ".links") }
func (l layout) directories() []string {
	return []string{
		l.store, l.links(), l.dbDir(),
		filepath.Join(l.state, "gcroots", "per-user"), filepath.Join(l.state, "profiles", "per-user"), l.tempRoots(),
	}
}

// create makes the directories that are missing.
func (l layout) create(buildGroup int) error {
	for _, dir := range l.directories() {
		if err := makeDirs(dir, 0o755); err != nil {
			return explain(err)
		}
	}
	if buildGroup > 0 && os.Geteuid() == 0 {
		if err := l.openToGroup(buildGroup); err != nil {
			return err
		}
	}
	for _, dir := range []string{l.store, l.dbDir(), l.tempRoots()} {
		if err := writable(dir); err != nil {
			return explain(err)
		}
	}
	return nil
}

// OpenToGroup lets the members of a group make objects in the store directory, as
// builders without a sandbox do, but not touch those of others.
func (s *Store) OpenToGroup(gid int) error { return s.layout.openToGroup(gid) }

// openToGroup makes of the directory what Nix demands of it.
func (l layout) openToGroup(gid int) error {
	const mode = fs.ModeSticky | 0o775
	info, err := os.Lstat(l.store)
	if err == nil && owner(l.store) == 0 && group(info) == gid && info.Mode()&(fs.ModePerm|fs.ModeSticky|fs.ModeSetuid|fs.ModeSetgid) == mode {
		return nil
	}
	if err == nil {
		err = os.Lchown(l.store, 0, gid)
	}
	if err == nil {
		err = os.Chmod(l.store, mode)
	}
	if err != nil {
		return fmt.Errorf("give store directory to the build users' group: %w", err)
	}
	return nil
}

// makeDirs makes a directory and those above it, with permissions that the
// process's umask has no part in.
func makeDirs(dir string, perm fs.FileMode) error {
	err := os.Mkdir(dir, perm)
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir {
		if err := makeDirs(filepath.Dir(dir), 0o755); err != nil {
			return err
		}
		err = os.Mkdir(dir, perm)
	}
	if err == nil {
		return os.Chmod(dir, perm)
	}
	if info, serr := os.Stat(dir); serr == nil && info.IsDir() {
		return nil
	}
	return err
}

// checkSymlinks refuses a store directory whose files are or would be somewhere
// else than its path says.
func (l layout) checkSymlinks() error {
	for dir := l.store; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		info, err := os.Lstat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return explain(err)
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			return fmt.Errorf("the path '%s' is a symlink; this is not allowed for the Nix store and its parent directories", dir)
		}
	}
	return nil
}

// reserve makes the file that a collector removes first, with a size in bytes. It does
// without where there is no room for it.
func (l layout) reserve(size int64) {
	if size <= 0 {
		l.unreserve()
		return
	}
	if info, err := os.Lstat(l.reserved()); err == nil && info.Size() == size {
		return
	}
	f, err := os.OpenFile(l.reserved(), os.O_WRONLY|os.O_CREATE|openNoFollow, 0o600)
	if err != nil {
		return
	}
	if err = allocate(f, size); err == nil {
		err = f.Truncate(size) // it may have been larger
	}
	if cerr := f.Close(); err != nil || cerr != nil {
		_ = os.Remove(l.reserved())
	}
}

// unreserve gives the space back that reserve took.
func (l layout) unreserve() { _ = os.Remove(l.reserved()) }

// createDatabase makes an empty database with permissions that the process's
// umask has no part in. Nobody may have it open: closing it here would take the
// locks from those in this process who have.
func (l layout) createDatabase() error {
	f, err := os.OpenFile(l.database(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		err = errors.Join(f.Chmod(0o644), f.Close())
	}
	return explain(err)
}

// version reads the version of the store's schema, 0 for a store that is yet to
// be made.
func (l layout) version() (int, error) {
	text, err := os.ReadFile(l.schema())
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, explain(err)
	}
	v, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || v <= 0 {
		return 0, fmt.Errorf("'%s' is corrupt: it should have the number %d in it", l.schema(), schemaVersion)
	}
	return v, nil
}

// checkVersion refuses every schema but the one that this package knows.
func (l layout) checkVersion(v int) error {
	switch {
	case v > schemaVersion:
		return fmt.Errorf("current Nix store schema is version %d, but only version %d is supported: the store in '%s' was made by a newer version of Nix",
			v, schemaVersion, l.state)
	case v < schemaVersion:
		return fmt.Errorf("current Nix store schema is version %d, but only version %d is supported: upgrade the store in '%s' with Nix, for example by nix-store --init",
			v, schemaVersion, l.state)
	}
	return nil
}

// writeVersion says in a file which version of a schema the store has. The file
// appears with its content.
func (s *Store) writeVersion(name string, v int) error {
	temp := name + ".tmp-" + strconv.Itoa(os.Getpid())
	if err := s.journal.note(TransientFile, temp); err != nil {
		return err
	}
	err := writeSynced(temp, strconv.Itoa(v))
	if err == nil {
		err = os.Rename(temp, name)
	}
	if err != nil {
		_ = os.Remove(temp)
	}
	return errors.Join(explain(err), s.journal.done(TransientFile, temp))
}

// writeSynced writes a file that is on the disk when it returns.
func writeSynced(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
}

// advised is an error with what a person can do about it.
type advised struct {
	err    error
	advice string
}

func (e *advised) Error() string { return e.err.Error() + ": " + e.advice }
func (e *advised) Unwrap() error { return e.err }

// explain adds to an error of a file what a person can do about it, unless that
// was said.
func explain(err error) error {
	if known := (*advised)(nil); err == nil || errors.As(err, &known) {
		return err
	}
	switch {
	case isFull(err):
		return &advised{err, "free some space there, for example by collecting garbage"}
	case isReadOnly(err):
		return &advised{err, "mount the file system writable, or choose a store elsewhere"}
	case errors.Is(err, fs.ErrPermission):
		return &advised{err, whose(err) + "run as its owner, connect to the daemon that runs as its owner, or choose a store of your own"}
	}
	return err
}

// whose says to whom the file or directory belongs that was not accessible.
func whose(err error) string {
	var path string
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		path = p.Path
	} else if l := (*os.LinkError)(nil); errors.As(err, &l) {
		path = l.New
	}
	for ; filepath.IsAbs(path); path = filepath.Dir(path) {
		if uid := owner(path); uid >= 0 {
			return fmt.Sprintf("'%s' belongs to user %d, and this is user %d: ", path, uid, os.Geteuid())
		}
		if path == filepath.Dir(path) {
			break
		}
	}
	return ""
}
