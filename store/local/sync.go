package local

import (
	"errors"
	"fmt"
	"os"

	"github.com/kilnbuild/kiln/internal/dirfd"
	"github.com/kilnbuild/kiln/nix"
)

// syncEach is up to how many files are synced one by one. From there on it is
// cheaper to sync the whole file system, whatever else waits in memory.
const syncEach = 16

// sync sees that objects in their places survive a power failure.
func (s *Store) sync(infos []*nix.PathInfo) error {
	dir, err := os.Open(s.layout.store)
	if err != nil {
		return fmt.Errorf("sync store objects: %w", err)
	}
	defer dir.Close()
	if err := syncObjects(dir, infos); err != nil {
		return fmt.Errorf("sync store objects: %w", err)
	}
	return nil
}

func syncObjects(dir *os.File, infos []*nix.PathInfo) error {
	var w syncer
	defer w.close()
	for _, info := range infos {
		err := w.tree(int(dir.Fd()), string(info.Path))
		if errors.Is(err, errTooMany) {
			return syncFileSystem(dir)
		}
		if err != nil {
			return err
		}
	}
	// The directory of all of them last: it has the renames.
	return errors.Join(w.sync(), dir.Sync())
}

// syncer holds files open that are to be synced.
type syncer struct{ files []*os.File }

var errTooMany = errors.New("too many files to sync one by one")

// tree collects the files of a tree, and lets the kernel begin to write.
func (w *syncer) tree(dir int, name string) error {
	if len(w.files) == syncEach {
		return errTooMany
	}
	var st dirfd.Stat
	if err := dirfd.StatAt(dir, name, &st); err != nil {
		return err
	}
	open := dirfd.OpenFile
	switch st.Type() {
	case dirfd.Directory:
		open = dirfd.OpenDir
	case dirfd.Symlink:
		return nil // it is a part of its directory
	}
	fd, err := open(dir, name)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	w.files = append(w.files, f)
	if st.Type() == dirfd.Directory {
		return dirfd.List(fd, make([]byte, 4<<10), func(entry []byte, _ dirfd.Type) error {
			return w.tree(fd, string(entry))
		})
	}
	// When the first one is waited for, the others are on their way: one commit of
	// the file system's journal has them all.
	startWriting(f)
	return nil
}

// sync waits until all files are on the disk.
func (w *syncer) sync() error {
	for _, f := range w.files {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return nil
}

func (w *syncer) close() {
	for _, f := range w.files {
		f.Close()
	}
}
