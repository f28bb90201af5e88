package local

import (
	"errors"
	"fmt"
	"math"
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
	budget := syncEach
	for _, info := range infos {
		if err = syncTree(int(dir.Fd()), string(info.Path), &budget); err != nil {
			break
		}
	}
	if errors.Is(err, errTooMany) {
		if err = syncFileSystem(dir); !errors.Is(err, errors.ErrUnsupported) {
			return wrapSync(err)
		}
		budget, err = math.MaxInt, nil
		for _, info := range infos {
			err = errors.Join(err, syncTree(int(dir.Fd()), string(info.Path), &budget))
		}
	}
	if err == nil {
		err = dir.Sync() // for the renames
	}
	return wrapSync(err)
}

func wrapSync(err error) error {
	if err != nil {
		return fmt.Errorf("sync store objects: %w", err)
	}
	return nil
}

var errTooMany = errors.New("too many files to sync one by one")

// syncTree syncs a tree file by file, as long as there is budget.
func syncTree(dir int, name string, budget *int) error {
	if *budget--; *budget < 0 {
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
	defer f.Close()
	if st.Type() == dirfd.Directory {
		err := dirfd.List(fd, make([]byte, 4<<10), func(entry []byte, _ dirfd.Type) error {
			return syncTree(fd, string(entry), budget)
		})
		if err != nil {
			return err
		}
	}
	return f.Sync()
}
