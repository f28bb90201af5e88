package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/kilnbuild/kiln/mountns"
	"golang.org/x/sys/unix"
)

// Stage makes a Spec's root directory: its entries, and a place for each mount.
// It gives the mounts that are left to be made, in order: an optional one whose
// source is missing is dropped, a symlink is made here instead of mounted. The
// caller removes the root directory, also after an error.
//
// Nobody else may be able to write to the directory that Root lies in.
func (s *Spec) Stage() ([]mountns.Mount, error) {
	if err := os.Mkdir(s.Root, 0o755); err != nil {
		return nil, fmt.Errorf("stage root directory: %w", err)
	}
	st := &stage{root: s.Root, chown: os.Geteuid() == 0, dirs: make(map[string]bool)}
	// A umask of ours must not show.
	if info, err := os.Lstat(s.Root); err != nil || info.Mode().Perm() != 0o755 {
		st.masked = true
		if err := os.Chmod(s.Root, 0o755); err != nil {
			return nil, fmt.Errorf("stage root directory: %w", err)
		}
	}
	for _, e := range s.Tree {
		if err := st.entry(e); err != nil {
			return nil, fmt.Errorf("stage '%s' in '%s': %w", e.Path, s.Root, err)
		}
	}
	mounts := make([]mountns.Mount, 0, len(s.Mounts))
	for _, m := range s.Mounts {
		keep, err := st.place(&m)
		if err != nil {
			return nil, err
		}
		if keep {
			mounts = append(mounts, m)
		}
	}
	return mounts, st.finish(s.Tree)
}

// stage is a root directory in the making. Until it is finished all directories
// are ours to write in.
type stage struct {
	root   string
	chown  bool
	masked bool            // files do not get the mode they are made with
	dirs   map[string]bool // made, inside names
}

func (st *stage) host(inside string) string { return st.root + inside }

// directory makes a directory and its parents.
func (st *stage) directory(inside string) error {
	if inside == "/" || st.dirs[inside] {
		return nil
	}
	if err := st.directory(path.Dir(inside)); err != nil {
		return err
	}
	err := unix.Mkdir(st.host(inside), 0o755)
	if err == nil && st.masked {
		err = unix.Chmod(st.host(inside), 0o755)
	}
	if errors.Is(err, unix.EEXIST) {
		if info, lerr := os.Lstat(st.host(inside)); lerr != nil || !info.IsDir() {
			return fmt.Errorf("'%s' is in the way", inside)
		}
		err = nil
	}
	if err == nil {
		st.dirs[inside] = true
	}
	return err
}

func (st *stage) entry(e Entry) error {
	if e.Kind == EntryDirectory {
		return st.directory(e.Path)
	}
	if err := st.directory(path.Dir(e.Path)); err != nil {
		return err
	}
	switch e.Kind {
	case EntrySymlink:
		return os.Symlink(e.Text, st.host(e.Path))
	case EntryFile:
		f, err := os.OpenFile(st.host(e.Path), os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return err
		}
		_, err = f.WriteString(e.Text)
		err = errors.Join(err, f.Chmod(e.Mode))
		if e.Owned && st.chown {
			err = errors.Join(err, f.Chown(e.UID, e.GID))
		}
		return errors.Join(err, f.Close())
	}
	return fmt.Errorf("unknown kind '%s'", e.Kind)
}

// place makes what a mount needs to be mounted on.
func (st *stage) place(m *mountns.Mount) (keep bool, err error) {
	if m.Kind != mountns.Bind {
		return true, st.wrap(m.Target, st.directory(m.Target))
	}
	var info unix.Stat_t
	if m.Follow {
		err = unix.Stat(m.Source, &info)
	} else {
		err = unix.Lstat(m.Source, &info)
	}
	switch {
	case m.Optional && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("getting attributes of path '%s': %s", m.Source, describeErrno(err))
	}
	switch info.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return true, st.wrap(m.Target, st.directory(m.Target))
	case unix.S_IFLNK:
		target, err := os.Readlink(m.Source)
		if err == nil {
			err = st.directory(path.Dir(m.Target))
		}
		if err == nil {
			err = os.Symlink(target, st.host(m.Target))
		}
		return false, st.wrap(m.Target, err)
	}
	if err := st.directory(path.Dir(m.Target)); err != nil {
		return false, st.wrap(m.Target, err)
	}
	err = unix.Mknod(st.host(m.Target), unix.S_IFREG|0o444, 0)
	if err == nil && st.masked {
		err = unix.Chmod(st.host(m.Target), 0o444)
	}
	if errors.Is(err, fs.ErrExist) {
		err = nil // a second mount on the same file hides the first
		if info, lerr := os.Lstat(st.host(m.Target)); lerr != nil || !info.Mode().IsRegular() {
			err = fmt.Errorf("'%s' is in the way", m.Target)
		}
	}
	return true, st.wrap(m.Target, err)
}

func (st *stage) wrap(target string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("make mount point '%s': %w", target, err)
}

// finish gives the directories their owners and modes, the deepest first.
func (st *stage) finish(tree []Entry) error {
	for i := len(tree) - 1; i >= 0; i-- {
		e := tree[i]
		if e.Kind != EntryDirectory {
			continue
		}
		host := strings.TrimSuffix(st.host(e.Path), "/")
		if e.Owned && st.chown {
			if err := os.Lchown(host, e.UID, e.GID); err != nil {
				return fmt.Errorf("stage '%s': %w", e.Path, err)
			}
		}
		if err := os.Chmod(host, e.Mode); err != nil {
			return fmt.Errorf("stage '%s': %w", e.Path, err)
		}
	}
	return nil
}

// describeErrno is the text of an error as the C library has it.
func describeErrno(err error) string {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return capitalised(errno)
	}
	return err.Error()
}
