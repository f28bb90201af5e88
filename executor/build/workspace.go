package build

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/kilnbuild/kiln/internal/rmtree"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/local"
)

// workspace is what an attempt has on disk while it runs: a build directory, and
// in a sandbox the directory that becomes its root. The store's session knows of
// both before they exist, so that a killed process leaves nothing for good.
type workspace struct {
	store *local.Store
	// root becomes the sandbox's root directory. It lies in the store directory,
	// so that outputs reach their place by a rename. "" without a sandbox.
	root string
	// top is 0700 and ours, and keeps everybody out of inner, which is the
	// builder's and may have anything in it, setuid programs included.
	top, inner string
	// direct are the places of outputs that a builder without a sandbox writes to:
	// the store itself.
	direct []nix.StorePath
	user   *User
	keep   bool
}

// newWorkspace makes the directories. base has the build directories.
func newWorkspace(st *local.Store, drv nix.StorePath, base string, user *User, isolated bool) (_ *workspace, err error) {
	w := &workspace{store: st, user: user}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Remove())
		}
	}()
	if isolated {
		chroot := st.RealPath(drv) + ".chroot"
		if err := rmtree.RemoveTree(chroot); err != nil {
			return nil, fmt.Errorf("remove what an earlier build left: %w", err)
		}
		if err := st.Note(local.TransientTree, chroot); err != nil {
			return nil, err
		}
		w.root = filepath.Join(chroot, "root")
		if err := os.Mkdir(chroot, 0o700); err != nil {
			return nil, fmt.Errorf("create sandbox directory: %w", err)
		}
	}
	if err := privateDirectory(base); err != nil {
		return nil, err
	}
	w.top = filepath.Join(base, fmt.Sprintf("nix-%d-%s", os.Getpid(), rand.Text()[:12]))
	if err := st.Note(local.TransientTree, w.top); err != nil {
		return nil, err
	}
	if err := os.Mkdir(w.top, 0o700); err != nil {
		return nil, fmt.Errorf("create build directory: %w", err)
	}
	if !isolated && !user.Own {
		// Without a sandbox the builder has to get here by the machine's paths. What
		// it leaves is out of reach of all others but root.
		w.inner = w.top
		if err := os.Lchown(w.top, user.UID, user.GID); err != nil {
			return nil, fmt.Errorf("give build directory to its user: %w", err)
		}
		return w, nil
	}
	w.inner = filepath.Join(w.top, "build")
	if err := os.Mkdir(w.inner, 0o700); err != nil {
		return nil, fmt.Errorf("create build directory: %w", err)
	}
	if user.Own {
		return w, nil
	}
	// Nobody but us can have touched it so far.
	if err := os.Lchown(w.inner, user.UID, user.GID); err != nil {
		return nil, fmt.Errorf("give build directory to its user: %w", err)
	}
	return w, nil
}

// Direct lets the builder write outputs into the store itself, where nothing may be
// yet. What does not become valid is removed again.
func (w *workspace) Direct(outputs []nix.StorePath) error {
	for _, p := range outputs {
		if err := w.store.Note(local.TransientTree, w.store.RealPath(p)); err != nil {
			return err
		}
		w.direct = append(w.direct, p)
		if err := rmtree.RemoveTree(w.store.RealPath(p)); err != nil {
			return fmt.Errorf("remove what an earlier build left: %w", err)
		}
	}
	return nil
}

// removeInvalid removes the outputs that were written into the store and did not
// become valid.
func (w *workspace) removeInvalid() error {
	if len(w.direct) == 0 {
		return nil
	}
	valid, err := w.store.ValidPaths(context.Background(), w.direct)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range w.direct {
		if slices.Contains(valid, p) {
			errs = append(errs, w.store.Done(local.TransientTree, w.store.RealPath(p)))
		} else {
			errs = append(errs, w.discard(w.store.RealPath(p)))
		}
	}
	return errors.Join(errs...)
}

// privateDirectory makes the directory of all build directories, or checks that
// nobody else can put something in its place or into it.
func privateDirectory(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("create directory of build directories: %w", err)
	}
	st, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("check directory of build directories: %w", err)
	}
	sys := st.Sys().(*syscall.Stat_t)
	switch {
	case !st.IsDir():
		return fmt.Errorf("build-dir '%s' is not a directory but a %s: name the directory itself", dir, st.Mode().Type())
	case st.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("build-dir '%s' can be written to by others than its owner: choose a directory with mode 0755 or less", dir)
	case int(sys.Uid) != os.Geteuid():
		return fmt.Errorf("build-dir '%s' belongs to the user %d and not to us: choose a directory of your own", dir, sys.Uid)
	}
	for parent := filepath.Dir(dir); ; parent = filepath.Dir(parent) {
		st, err := os.Lstat(parent)
		if err != nil {
			return fmt.Errorf("check directory of build directories: %w", err)
		}
		if st.Mode().Perm()&0o002 != 0 && st.Mode()&fs.ModeSticky == 0 {
			return fmt.Errorf("'%s', in which build-dir '%s' lies, is world-writable: choose another build-dir", parent, dir)
		}
		if parent == filepath.Dir(parent) {
			return nil
		}
	}
}

// WriteFiles puts files into the build directory and gives them to the builder.
func (w *workspace) WriteFiles(files map[string]string) error {
	if len(files) == 0 {
		return nil
	}
	dir, err := os.OpenRoot(w.inner)
	if err != nil {
		return fmt.Errorf("open build directory: %w", err)
	}
	defer dir.Close()
	for name, text := range files {
		if err := w.writeFile(dir, name, text); err != nil {
			return fmt.Errorf("write '%s' into the build directory: %w", name, err)
		}
	}
	return nil
}

func (w *workspace) writeFile(dir *os.Root, name, text string) error {
	f, err := dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if _, err = f.WriteString(text); err == nil && !w.user.Own {
		err = f.Chown(w.user.UID, w.user.GID)
	}
	return errors.Join(err, f.Close())
}

// Keep leaves the build directory for a person to look at, and gives its path.
func (w *workspace) Keep() (string, error) {
	if err := errors.Join(os.Chmod(w.top, 0o755), os.Chmod(w.inner, 0o755)); err != nil {
		return "", fmt.Errorf("keep build directory: %w", err)
	}
	w.keep = true
	return w.inner, nil
}

// Remove deletes what is not kept. The builder must be gone.
func (w *workspace) Remove() error {
	errs := []error{w.removeInvalid()}
	if w.root != "" {
		errs = append(errs, w.discard(filepath.Dir(w.root)))
	}
	if w.top != "" {
		if w.keep {
			errs = append(errs, w.store.Done(local.TransientTree, w.top))
		} else {
			errs = append(errs, w.discard(w.top))
		}
	}
	return errors.Join(errs...)
}

func (w *workspace) discard(tree string) error {
	if err := rmtree.RemoveTree(tree); err != nil {
		return fmt.Errorf("clean up after build: %w", err)
	}
	return w.store.Done(local.TransientTree, tree)
}
