package gc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/kilnbuild/kiln/nix"
)

// maxRootDepth bounds how deep below the directory of roots links are looked for.
const maxRootDepth = 64

// links adds the links below the directories of roots and of profiles.
func (f *finder) links(ctx context.Context) error {
	for _, name := range []string{"gcroots", "profiles"} {
		dir := filepath.Join(f.store.StateDir(), name)
		if err := f.directory(ctx, dir, 0); err != nil {
			return err
		}
	}
	return nil
}

// directory looks at the entries of a directory. It does not follow links to
// directories, so it cannot go in circles. An error is the end of ctx.
func (f *finder) directory(ctx context.Context, dir string, depth int) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if depth > maxRootDepth {
		f.report(Problem{Name: dir, Err: fmt.Errorf("skipping what is more than %d directories deep", maxRootDepth)})
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !(errors.Is(err, fs.ErrNotExist) && depth == 0) {
		f.report(Problem{Name: dir, Err: fmt.Errorf("cannot read potential roots: %w", err)})
	}
	for _, e := range entries { // those that were read before an error
		name := filepath.Join(dir, e.Name())
		switch {
		case e.IsDir():
			if err := f.directory(ctx, name, depth+1); err != nil {
				return err
			}
		case e.Type()&fs.ModeSymlink != 0:
			f.link(name)
		case e.Type().IsRegular():
			if p, err := nix.ParseStorePath(e.Name()); err == nil {
				f.add(p, Root{name, Marker})
			}
		}
	}
	return nil
}

// link looks at a link in one of the directories.
func (f *finder) link(name string) {
	target, err := os.Readlink(name)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			f.report(Problem{Name: name, Err: fmt.Errorf("cannot read potential root: %w", err)})
		}
		return
	}
	if f.intoStore(name, target) {
		return
	}
	// An indirect root: a link somewhere else that leads into the store.
	if !filepath.IsAbs(target) {
		target = filepath.Join(filepath.Dir(name), target)
	}
	info, err := os.Lstat(target)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		f.stale(name, target)
		return
	case err != nil:
		f.report(Problem{Name: name, Err: fmt.Errorf("cannot look at potential root: %w", err)})
		return
	case info.IsDir():
		return // as that of the directory of profiles
	case info.Mode()&fs.ModeSymlink == 0:
		f.report(Problem{Name: name, Err: fmt.Errorf("skipping link to '%s', which does not lead into the store", target)})
		return
	}
	further, err := os.Readlink(target)
	if err != nil {
		f.report(Problem{Name: name, Err: fmt.Errorf("cannot read potential root: %w", err)})
		return
	}
	if !f.intoStore(target, further) {
		f.report(Problem{Name: name, Err: fmt.Errorf("skipping link to '%s', which does not lead into the store but to '%s'", target, further)})
	}
}

// intoStore adds a link if its target is in the store.
func (f *finder) intoStore(name, target string) bool {
	if !f.store.Dir().Contains(target) {
		return false
	}
	p, _, err := f.store.Dir().Split(target)
	if err != nil {
		f.report(Problem{Name: name, Err: fmt.Errorf("skipping invalid root: %w", err)})
	} else {
		f.add(p, Root{name, Link})
	}
	return true
}

// stale is a link to nothing. Those that indirect roots have made are removed.
func (f *finder) stale(name, target string) {
	if filepath.Dir(name) != filepath.Join(f.store.StateDir(), "gcroots", "auto") {
		f.report(Problem{Name: name, Err: fmt.Errorf("skipping link to '%s', which does not exist", target)})
		return
	}
	if !f.removeStale {
		f.report(Problem{Name: name, Err: fmt.Errorf("stale link to '%s'", target), Usual: true})
		return
	}
	err := os.Remove(name)
	if err == nil {
		err = fmt.Errorf("removed stale link to '%s'", target)
	}
	f.report(Problem{Name: name, Err: err, Usual: true})
}
